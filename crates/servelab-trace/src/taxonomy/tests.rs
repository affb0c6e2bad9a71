use super::*;

fn taxonomy() -> Taxonomy {
    Taxonomy::builtin().unwrap()
}

#[test]
fn kernels_belong_to_families() {
    let taxonomy = taxonomy();
    let check = |name: &str, family: &str, class: Class, kind: &str| {
        let found = taxonomy.kernel(name);
        assert_eq!((found.family.as_str(), found.class, found.kind.as_str()), (family, class, kind), "{name}");
    };
    for (name, kind) in [
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)", "all_reduce"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_gather"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "reduce_scatter"),
        ("ncclSymkDevKernel_AllReduce_AGxLLMC_R_sum_bf16(ncclSymkDevWorkArgs4K)", "all_reduce"),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)", "send_recv"),
        ("ncclKernel_Broadcast_RING_LL_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)", "broadcast"),
        ("ncclDevKernel_Generic(ncclDevComm*, channelMasks, ncclWork*)", ""),
        ("void ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)", ""),
    ] {
        check(name, "nccl", Class::Comm, kind);
    }
    check(
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*, vllm::RankSignals, vllm::Signal*, __nv_bfloat16*, int, int)",
        "custom_all_reduce",
        Class::Comm,
        "all_reduce",
    );
    check(
        "void sglang::cross_device_reduce_2stage<half, 4>(sglang::RankData*)",
        "custom_all_reduce",
        Class::Comm,
        "all_reduce",
    );
    check("void aiter::cross_device_reduce_2stage_naive<opus::bf16>()", "custom_all_reduce", Class::Comm, "all_reduce");
    for name in [
        "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*, unsigned long, unsigned int**, unsigned long, unsigned long)",
        "void (anonymous namespace)::two_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(c10::BFloat16**, unsigned long)",
        "void c10d::symmetric_memory::one_shot_all_reduce_kernel<float, 4>(float**)",
    ] {
        check(name, "symmetric_memory", Class::Comm, "all_reduce");
    }
    check(
        "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<(flashinfer::trtllm_allreduce_fusion::AllReduceFusionPattern)1, __nv_bfloat16, 8, false>(x)",
        "fused_allreduce",
        Class::FusedComm,
        "all_reduce",
    );
    for (name, kind, library) in [
        ("void deep_ep::internode_ll::dispatch<true, false, 7168>(void*, void*, int*)", "dispatch", "nvshmem"),
        ("void deep_ep::internode_ll::combine<false, 7168, 9>(void*)", "combine", "nvshmem"),
        ("void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*)", "dispatch", "nvlink"),
        ("void deep_ep::intranode::notify_dispatch<8>(int const*)", "notify", "nvlink"),
        ("void deep_ep::internode::cached_notify<false>(int)", "dispatch", "nvshmem"),
        ("void dpsk::ep::combine<4>(int)", "combine", "nvlink"),
    ] {
        check(name, "deepep", Class::Comm, kind);
        assert_eq!(taxonomy.kernel(name).library, library, "{name}");
    }
    check("void pplx::dispatchKernel<32, true>(unsigned long)", "pplx", Class::Comm, "dispatch");
    check("nvshmemi_proxy_quiet_kernel()", "nvshmem", Class::Comm, "");
    for (name, family) in [
        (
            "void cutlass::device_kernel<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<2, cute::tuple<>>>>(x)",
            "attention",
        ),
        (
            "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<>, cutlass::gemm::collective::CollectiveMma<x>>>(y)",
            "gemm",
        ),
        ("nvjet_tst_192x192_64x3_2x1_v_bz_coopA_TNN", "gemm"),
        ("Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT32x32x256", "gemm"),
        ("fused_moe_kernel", "moe"),
        ("_matmul_ogs_NNT_bf16xbf16xmxfp4_16x128x256x1_swiglu", "moe"),
        ("_combined_routing_memset", "moe"),
        ("kernel_unified_attention_3d", "attention"),
        ("void vllm::rms_norm_kernel<c10::BFloat16>(c10::BFloat16*)", "norm"),
        ("void vllm::reshape_and_cache_flash_kernel<x>(y)", "kv_cache"),
        ("void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)", "position"),
        ("void vllm::act_and_mul_kernel<x>(y)", "activation"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>()", "memory"),
        ("triton_poi_fused_add_0", "elementwise"),
        ("unheard_of", OTHER),
    ] {
        check(name, family, Class::Compute, "");
        assert!(!taxonomy.kernel(name).is_suspect, "{name}");
    }
}

#[test]
fn the_list_of_names_keeps_its_families() {
    let taxonomy = taxonomy();
    let comm = [
        "nccl",
        "custom_all_reduce",
        "symmetric_memory",
        "fused_allreduce",
        "deepep",
        "pplx",
        "mori",
        "trtllm_all_to_all",
        "mscclpp",
        "nvshmem",
        "rocshmem",
        "userbuffers",
        "flux",
        "hccl",
        "dlslime",
        "torch_all_to_all",
    ];
    let (mut wrong, mut n) = (Vec::new(), 0);
    for line in include_str!("../../tests/data/kernels.tsv").lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.splitn(3, '\t');
        let (Some(family), Some(kind), Some(name)) = (columns.next(), columns.next(), columns.next()) else {
            panic!("{line}")
        };
        n += 1;
        let found = taxonomy.kernel(name);
        let kind = if kind == "-" { "" } else { kind };
        let is_right = found.family == family
            && found.kind == kind
            && found.class.is_comm() == comm.contains(&family)
            && !found.is_suspect;
        if !is_right {
            wrong.push(format!(
                "{} {} {}: {name}",
                found.family,
                found.kind,
                if found.is_suspect { "suspect" } else { "" }
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_sounds_like_communication_and_is_not_known_is_a_suspect() {
    let taxonomy = taxonomy();
    for name in
        ["my_new_allreduce_v2", "void acme::ep_dispatch<8>(int)", "void acme::combine<8>(int)", "fast_allgather<2>()"]
    {
        assert!(taxonomy.kernel(name).is_suspect, "{name}");
        assert!(!taxonomy.kernel(name).class.is_comm(), "{name}");
    }
}

#[test]
fn cpu_backends_are_calls() {
    let taxonomy = taxonomy();
    let check = |name: &str, expected: Option<(&str, &str)>| {
        let found = taxonomy.host_call(name);
        let found = found.as_ref().map(|class| (class.family.as_str(), class.kind.as_str()));
        assert_eq!(found, expected, "{name}");
    };
    check("gloo:all_reduce", Some(("gloo", "all_reduce")));
    check("gloo:all_to_all", Some(("gloo", "all_to_all")));
    check("gloo:send", Some(("gloo", "send_recv")));
    check("gloo:recv", Some(("gloo", "send_recv")));
    check("_C::shm_allreduce", Some(("shm", "all_reduce")));
    check("_C::shm_all_gather", Some(("shm", "all_gather")));
    check("nccl:all_reduce", None);
    check("c10d::allreduce_", None);
    check("aten::all", None);
}

#[test]
fn own_rules_come_first() {
    let text = "version: 7\nrules:\n  - {family: acme, class: comm, library: acme, kind: all_reduce, any: ['my_new_allreduce']}\n  - {family: flash, class: compute, any: ['fmha']}\n";
    let taxonomy = Taxonomy::with_user_rules("acme.yaml", text).unwrap();
    let found = taxonomy.kernel("my_new_allreduce_v2");
    assert_eq!((found.family.as_str(), found.kind.as_str(), found.is_suspect), ("acme", "all_reduce", false));
    assert_eq!(taxonomy.kernel("fmha_v2").family, "flash");
    assert_eq!(taxonomy.kernel("fused_moe_kernel").family, "moe");
    assert_eq!(taxonomy.version(), "2 with acme.yaml version 7 in front");
}

#[test]
fn mistakes_in_own_rules_are_explained() {
    let check = |text: &str, expected: &str| {
        let error = Taxonomy::with_user_rules("acme.yaml", text).unwrap_err().to_string();
        assert!(error.contains("acme.yaml") && error.contains(expected), "{error}");
    };
    check("rules:\n  - {family: x, class: comm, any: ['(']}\n", "no regular expression");
    check("rules:\n  - {family: x, class: comm, any: []}\n", "no pattern");
    check("rules:\n  - {family: x, class: com, any: ['y']}\n", "com");
    check("rulez: []\n", "rulez");
}
