//! One worker's steps as a Kineto trace: step markers as vLLM writes them, kernels by family, collectives with their
//! arguments, the launches on the host. The names are those of real kernels; how a step's time is divided over them is a
//! fixed, documented guess, and eight layers stand for all of them.

use std::fmt::Write as _;

use crate::cluster::StepRecord;
use crate::config::ServerConfig;
use crate::step_time::StepShape;

/// Layers that are written; each stands for its share of all.
const MOST_LAYERS: u32 = 8;
/// Share of a step that its kernels fill; the rest is host work between steps.
const BUSY: f64 = 0.92;

pub(super) struct Trace<'a> {
    pub(super) config: &'a ServerConfig,
    /// Global rank of the worker.
    pub(super) worker: u32,
    pub(super) world: u32,
    /// Simulated nanoseconds at which the session began.
    pub(super) began_ns: u64,
}

/// A kernel of a layer and its share of the step's kernel time.
struct Kernel {
    name: &'static str,
    share: f64,
    collective: Option<Collective>,
}

#[derive(Clone, Copy)]
struct Collective {
    kind: &'static str,
    group: &'static str,
    group_size: u32,
    /// Elements for each token of the step.
    elements_per_token: u64,
}

impl Trace<'_> {
    /// The trace as JSON text.
    pub(super) fn render<'s>(&self, steps: impl Iterator<Item = &'s StepRecord>) -> Vec<u8> {
        let mut writer = Writer { out: String::with_capacity(1 << 20), is_first: true, correlation: 0 };
        self.begin(&mut writer.out);
        self.threads(&mut writer);
        let mut end_us = 0.0_f64;
        for (index, step) in steps.enumerate() {
            let start_us = step.start_ns.saturating_sub(self.began_ns) as f64 / 1e3;
            let length_us = step.duration_ns as f64 / 1e3;
            end_us = end_us.max(start_us + length_us);
            self.step(&mut writer, index, &step.shape, start_us, length_us);
        }
        writer.event(&format!(
            "\"ph\":\"i\",\"s\":\"g\",\"name\":\"Record Window End\",\"pid\":\"\",\"tid\":\"\",\"ts\":{end_us:.3}"
        ));
        let mut out = writer.out;
        let _ = write!(out, "\n],\"traceName\":\"rank{}.pt.trace.json\",\"displayTimeUnit\":\"ms\"}}\n", self.worker);
        out.into_bytes()
    }

    fn begin(&self, out: &mut String) {
        let config = self.config;
        let groups: Vec<String> = self
            .groups()
            .iter()
            .map(|(name, description, ranks)| {
                format!(
                    "{{\"pg_name\":\"{name}\",\"pg_desc\":\"{description}\",\"backend_config\":\"cuda:nccl\",\"pg_size\":{},\
                     \"ranks\":{ranks:?}}}",
                    ranks.len()
                )
            })
            .collect();
        let _ = write!(
            out,
            "{{\"schemaVersion\":1,\"deviceProperties\":[{{\"id\":{},\"name\":{},\"totalGlobalMem\":{}}}],\
             \"servelab_sim\":\"synthetic trace of simulated steps\",\"with_stack\":0,\"record_shapes\":0,\
             \"distributedInfo\":{{\"backend\":\"nccl\",\"rank\":{},\"world_size\":{},\"pg_count\":{},\"pg_config\":[{}]}},\
             \"baseTimeNanoseconds\":0,\"traceEvents\":[",
            self.device(),
            serde_json::Value::from(config.gpu.name.as_str()),
            (config.gpu.memory_gb * 1e9) as u64,
            self.worker,
            self.world,
            groups.len(),
            groups.join(",")
        );
    }

    /// Name, description and ranks of the process groups.
    fn groups(&self) -> Vec<(&'static str, &'static str, Vec<u32>)> {
        let tp = self.config.tp;
        let first = self.worker / tp * tp;
        vec![
            ("0", "default_pg", (0..self.world).collect()),
            ("1", "tp", (first..first + tp).collect()),
            ("2", "ep", (0..self.world).collect()),
        ]
    }

    fn device(&self) -> u32 {
        self.worker % (self.config.tp * self.config.pp).max(1) % 8
    }

    fn threads(&self, writer: &mut Writer) {
        let device = self.device();
        for (pid, tid, what, name) in [
            (1000 + self.worker, 0, "process_name", "python3".to_owned()),
            (device, 0, "process_name", "python3".to_owned()),
            (device, 0, "process_labels", format!("GPU {device}")),
            (device, 7, "thread_name", "stream 7 ".to_owned()),
            (1000 + self.worker, 1000 + self.worker, "thread_name", "thread 1000 (VLLM::Worker)".to_owned()),
        ] {
            let key = if what == "process_labels" { "labels" } else { "name" };
            writer.event(&format!(
                "\"name\":\"{what}\",\"ph\":\"M\",\"ts\":0,\"pid\":{pid},\"tid\":{tid},\"args\":{{\"{key}\":\"{name}\"}}"
            ));
        }
    }

    fn step(&self, writer: &mut Writer, index: usize, shape: &StepShape, start_us: f64, length_us: f64) {
        let prefills = shape.n_prefills;
        let decodes = shape.n_requests.saturating_sub(prefills);
        let name = format!(
            "execute_context_{prefills}({})_generation_{decodes}({})",
            shape.prefill_tokens,
            shape.n_tokens.saturating_sub(shape.prefill_tokens)
        );
        let (host, device) = (1000 + self.worker, self.device());
        let busy_us = length_us * BUSY;
        // The host prepares the step, then waits for the device.
        writer.event(&format!(
            "\"ph\":\"X\",\"cat\":\"user_annotation\",\"name\":\"{name}\",\"pid\":{host},\"tid\":{host},\
             \"ts\":{start_us:.3},\"dur\":{length_us:.3},\"args\":{{\"External id\":{}}}",
            index + 1
        ));
        writer.event(&format!(
            "\"ph\":\"X\",\"cat\":\"gpu_user_annotation\",\"name\":\"{name}\",\"pid\":{device},\"tid\":7,\
             \"ts\":{:.3},\"dur\":{busy_us:.3},\"args\":{{\"External id\":{}}}",
            start_us + length_us - busy_us,
            index + 1
        ));
        let layers = self.config.model.layers.clamp(1, MOST_LAYERS);
        let kernels = self.kernels(shape);
        let total: f64 = kernels.iter().map(|kernel| kernel.share).sum();
        let mut at_us = start_us + length_us - busy_us;
        let last = [("void gemm_lm_head_nvjet_tst_128x256_64x4_TNT", 0.04), ("_topk_topp_sampling_kernel", 0.01)];
        let per_layer_us = busy_us * (1.0 - last.iter().map(|(_, share)| share).sum::<f64>()) / f64::from(layers);
        let mut launch_us = start_us;
        let launch_step = (length_us - busy_us).max(1.0) / f64::from(layers * kernels.len() as u32 + 2);
        for _ in 0..layers {
            for kernel in &kernels {
                let dur_us = per_layer_us * kernel.share / total;
                self.kernel(writer, kernel.name, kernel.collective, shape, (launch_us, launch_step), (at_us, dur_us));
                at_us += dur_us;
                launch_us += launch_step;
            }
        }
        for (name, share) in last {
            self.kernel(writer, name, None, shape, (launch_us, launch_step), (at_us, busy_us * share));
            at_us += busy_us * share;
            launch_us += launch_step;
        }
    }

    fn kernel(
        &self,
        writer: &mut Writer,
        name: &str,
        collective: Option<Collective>,
        shape: &StepShape,
        launch: (f64, f64),
        run: (f64, f64),
    ) {
        writer.correlation += 1;
        let (correlation, host, device) = (writer.correlation, 1000 + self.worker, self.device());
        writer.event(&format!(
            "\"ph\":\"X\",\"cat\":\"cuda_runtime\",\"name\":\"cudaLaunchKernel\",\"pid\":{host},\"tid\":{host},\
             \"ts\":{:.3},\"dur\":{:.3},\"args\":{{\"cbid\":211,\"correlation\":{correlation}}}",
            launch.0,
            launch.1 * 0.9
        ));
        let mut arguments = format!(
            "\"device\":{device},\"context\":1,\"stream\":7,\"correlation\":{correlation},\"grid\":[132,1,1],\
             \"block\":[256,1,1],\"est. achieved occupancy %\":0"
        );
        if let Some(Collective { kind, group, group_size, elements_per_token }) = collective {
            let elements = u64::from(shape.n_tokens.max(1)) * elements_per_token;
            let (name, ranks) = self
                .groups()
                .into_iter()
                .find(|(_, description, _)| *description == group)
                .map_or(("0", Vec::new()), |(name, _, ranks)| (name, ranks));
            let _ = write!(
                arguments,
                ",\"Collective name\":\"{kind}\",\"In msg nelems\":{elements},\"Out msg nelems\":{elements},\
                 \"Group size\":{group_size},\"dtype\":\"BFloat16\",\"In split size\":\"[]\",\"Out split size\":\"[]\",\
                 \"Process Group Name\":\"{name}\",\"Process Group Description\":\"{group}\",\
                 \"Process Group Ranks\":\"{ranks:?}\",\"Rank\":{}",
                self.worker
            );
        }
        writer.event(&format!(
            "\"ph\":\"X\",\"cat\":\"kernel\",\"name\":{},\"pid\":{device},\"tid\":7,\"ts\":{:.3},\"dur\":{:.3},\
             \"args\":{{{arguments}}}",
            serde_json::Value::from(name),
            run.0,
            run.1
        ));
    }

    /// The kernels of one layer, in order.
    fn kernels(&self, shape: &StepShape) -> Vec<Kernel> {
        let config = self.config;
        let hidden = u64::from(config.model.hidden);
        let is_prefill = shape.prefill_tokens > 0;
        let plain = |name, share| Kernel { name, share, collective: None };
        let all_reduce = || Kernel {
            name: "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            share: 0.06,
            collective: Some(Collective {
                kind: "allreduce",
                group: "tp",
                group_size: config.tp,
                elements_per_token: hidden,
            }),
        };
        let exchange = |name, kind| Kernel {
            name,
            share: 0.08,
            collective: Some(Collective { kind, group: "ep", group_size: self.world, elements_per_token: hidden }),
        };
        let mut kernels = vec![
            plain("void vllm::rms_norm_kernel<c10::BFloat16>(c10::BFloat16*, c10::BFloat16 const*)", 0.02),
            plain("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT_gemm_qkv", 0.14),
            plain("void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)", 0.01),
            plain("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>(__nv_bfloat16 const*)", 0.01),
            plain(
                "void cutlass::device_kernel<flash::FlashAttnFwdSm90<CollectiveMainloopFwdSm90>>(Params)",
                if is_prefill { 0.2 } else { 0.16 },
            ),
            plain("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT_gemm_out", 0.1),
        ];
        if config.tp > 1 {
            kernels.push(all_reduce());
        }
        kernels.push(plain("void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(c10::BFloat16*)", 0.02));
        if config.model.experts > 0 {
            kernels.push(plain("void vllm::moe::topkGatingSoftmax<8, 256, 4, 16>(float const*)", 0.02));
            let spreads = config.lock_step();
            if spreads {
                let name = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)";
                kernels.push(exchange(name, "_allgather_base"));
            }
            kernels.push(plain("fused_moe_kernel", 0.4));
            if spreads {
                let name = "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)";
                kernels.push(exchange(name, "_reduce_scatter_base"));
            }
        } else {
            kernels.push(plain("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT_gemm_gate_up", 0.24));
            kernels.push(plain("void vllm::act_and_mul_kernel<c10::BFloat16, &(vllm::silu_kernel)>()", 0.03));
            kernels.push(plain("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT_gemm_down", 0.14));
        }
        if config.tp > 1 {
            kernels.push(all_reduce());
        }
        kernels
    }
}

struct Writer {
    out: String,
    is_first: bool,
    correlation: u64,
}

impl Writer {
    fn event(&mut self, fields: &str) {
        self.out.push_str(if self.is_first { "\n{" } else { ",\n{" });
        self.is_first = false;
        self.out.push_str(fields);
        self.out.push('}');
    }
}
