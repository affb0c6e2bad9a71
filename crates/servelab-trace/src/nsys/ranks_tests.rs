use servelab_core::trace::interval::{Interval, IntervalSet};

use super::fixture::{COPIES, Fixture, GPU_METRICS, GPUS, GRAPHS, KERNELS, NVTX, RUNTIME, STRINGS, global, sample};
use super::*;
use crate::model::{DeviceKind, RankTrace};

fn union_of(rank: &RankTrace, wanted: impl Fn(&str, DeviceKind) -> bool) -> IntervalSet {
    rank.device
        .iter()
        .filter(|event| wanted(rank.names.get(event.name), event.kind))
        .map(|event| Interval::new(event.start_ns, event.end_ns()))
        .collect()
}

#[test]
fn a_real_export_of_two_processes_gives_two_ranks_with_exact_times() {
    let Some(path) = sample("nsys/h100_2gpu_nccl_sendrecv.sqlite") else { return };
    let ranks = read(&path).unwrap();
    // Recomputed with Python's sqlite3 and a sweep over sorted intervals.
    let expected = [
        (1993, 253_690_832, 17_172_652, 2_954_303, 273_817_787, 60_111_541_307, 60_411_390_119, 128),
        (2017, 256_095_624, 8_229_100, 2_951_192, 267_275_916, 60_111_513_113, 60_410_174_664, 136),
    ];
    assert_eq!(ranks.len(), 2);
    for (rank, (n, compute, comm, copies, busy, first, last, n_calls)) in ranks.iter().zip(expected) {
        let is_comm = |name: &str| name.starts_with("nccl");
        assert_eq!(rank.device.iter().filter(|event| event.kind == DeviceKind::Kernel).count(), n);
        let compute_set = union_of(rank, |name, kind| kind == DeviceKind::Kernel && !is_comm(name));
        let comm_set = union_of(rank, |name, _| is_comm(name));
        let copy_set = union_of(rank, |_, kind| kind != DeviceKind::Kernel);
        let all = union_of(rank, |_, _| true);
        assert_eq!((compute_set.length(), comm_set.length(), copy_set.length()), (compute, comm, copies));
        assert_eq!(comm_set.subtract(&compute_set).length(), comm, "nothing hides it here");
        assert_eq!(all.length(), busy);
        assert_eq!(all.hull(), Some(Interval::new(first, last)));
        // ncclSend and ncclRecv together.
        assert_eq!(rank.totals.comm_operators, n_calls);
        assert_eq!(rank.meta.facts["nccl_version"], "2.25.1-1");
        assert_eq!((rank.meta.rank, rank.meta.format), (None, "nsys"));
        assert!(rank.warnings.is_empty(), "{:?}", rank.warnings);
    }
    let linked = ranks.iter().map(|rank| rank.device.iter().filter(|e| rank.launch_of(e).is_some()).count());
    assert!(linked.sum::<usize>() > 3900, "most kernels find the call that launched them");
}

#[test]
fn whole_graphs_are_opaque_and_steps_keep_their_counts() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, KERNELS, GRAPHS, NVTX, RUNTIME]);
    fixture.string(1, "gemm");
    fixture.string(2, "cudaGraphLaunch_v10000");
    fixture.string(3, "cudaDeviceSynchronize");
    fixture.kernel(100, 150, 1, 0);
    fixture.run(&format!(
        "INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (200, 400, 0, 1, 7, 9, {}, 1, 2)",
        global(7, 0)
    ));
    fixture.launch(90, 95, 2, 9);
    fixture.launch(95, 500, 3, 10);
    fixture.range(80, 500, "execute_context_0(0)_generation_4(4), op_id = 77");
    fixture.range(500, 900, "Iteration 2");
    fixture.range(500, 900, "aten::add, seq = 3, op_id = 9");
    let ranks = read(&fixture.done()).unwrap();
    let rank = &ranks[0];
    assert!(rank.meta.are_graphs_opaque);
    assert_eq!(rank.warnings.iter().map(|w| w.code.as_str()).collect::<Vec<_>>(), ["graph_mode"]);
    assert_eq!(rank.graph_correlations, [9]);
    assert_eq!(
        rank.markers.iter().map(|m| rank.names.get(m.name)).collect::<Vec<_>>(),
        ["execute_context_0(0)_generation_4(4)", "Iteration 2"]
    );
    assert_eq!(rank.markers[0].step.generation_tokens, Some(4));
    assert_eq!((rank.launches.len(), rank.totals.sync_calls, rank.totals.sync_ns), (1, 1, 405));
    let graph = rank.device.iter().find(|event| event.kind == DeviceKind::Graph).unwrap();
    assert_eq!(rank.launch_of(graph).map(|launch| launch.start_ns), Some(90));
    assert!(rank.device.iter().all(|event| event.correlation != 0 || rank.launch_of(event).is_none()));
}

#[test]
fn busy_multiprocessors_come_from_the_counters_inside_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, KERNELS, GPU_METRICS, GPUS, COPIES]);
    fixture.string(1, "gemm");
    fixture.kernel(100, 300, 1, 1);
    fixture.run(&format!(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (300, 310, 3, 1, 8, 2, {}, 4096, 2)",
        global(7, 0)
    ));
    fixture.run(
        "INSERT INTO TARGET_INFO_GPU_METRICS VALUES (256, 0, 'GPU 0', 12, 'SMs Active [Throughput %]'); \
         INSERT INTO GPU_METRICS VALUES (50, 256, 12, 0), (150, 256, 12, 50), (250, 256, 12, 70), (900, 256, 12, 0), (200, 257, 12, 9); \
         INSERT INTO TARGET_INFO_GPU VALUES (0, 0, 'NVIDIA H100', 132, NULL, NULL);",
    );
    let ranks = read(&fixture.done()).unwrap();
    assert_eq!(ranks.len(), 1, "a copy on another GPU makes no rank");
    assert_eq!(ranks[0].totals.sm_active, Some(0.6));
    assert_eq!(ranks[0].meta.devices[&0].multiprocessors, Some(132));
    assert_eq!(ranks[0].traffic.values().map(|t| t.bytes).sum::<u64>(), 4096);
    assert_eq!(ranks[0].device.iter().map(|event| event.blocks).collect::<Vec<_>>(), [24, 0]);
}

#[test]
fn processes_that_each_call_their_gpu_zero_are_ordered_by_number_and_a_lone_one_knows_its_rank() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("two.sqlite"), &[STRINGS, KERNELS]);
    fixture.string(1, "gemm");
    for (pid, start) in [(30, 1), (12, 2)] {
        fixture.run(&format!(
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({start}, 9, 0, 1, 7, 1, {}, 1, 1, 1, 1, 1, NULL)",
            global(pid, 0)
        ));
    }
    let ranks = read(&fixture.done()).unwrap();
    assert_eq!(ranks.iter().map(|rank| rank.meta.facts["process"].as_str()).collect::<Vec<_>>(), ["12", "30"]);

    let fixture = Fixture::new(
        &folder.path().join("one.sqlite"),
        &[STRINGS, KERNELS, "CREATE TABLE META_DATA_CAPTURE (name TEXT NOT NULL, value TEXT)"],
    );
    fixture.string(1, "gemm");
    fixture.kernel(1, 2, 1, i64::MAX);
    fixture.run("INSERT INTO META_DATA_CAPTURE VALUES ('PROCESS_0:ENVIRONMENT_VARIABLE', 'RANK=\"5\"'), ('PROCESS_0:ENVIRONMENT_VARIABLE', 'WORLD_SIZE=\"8\"')");
    let ranks = read(&fixture.done()).unwrap();
    assert_eq!((ranks[0].meta.rank, ranks[0].meta.world_size), (Some(5), Some(8)));
}

#[test]
fn an_export_without_device_rows_is_one_empty_rank() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, NVTX]);
    fixture.range(1, 5, "ProfilerStep#1");
    let ranks = read(&fixture.done()).unwrap();
    assert_eq!((ranks.len(), ranks[0].device.len(), ranks[0].markers.len()), (1, 0, 1));
}

/// The payload of a range as the profiler stores it: where its layout is, then the values.
fn payload(schema: u32, values: &[u8]) -> String {
    let mut bytes = Vec::new();
    for word in [1_u32, 0, schema, 0] {
        bytes.extend(word.to_le_bytes());
    }
    let length = values.len() as u64;
    bytes.extend(length.to_le_bytes());
    bytes.extend((length + 32).to_le_bytes());
    bytes.extend(values);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn nccl_tells_sizes_and_ranks_of_its_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let nvtx = "CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, text TEXT, \
        globalTid INTEGER, textId INTEGER, domainId INTEGER, binaryData TEXT)";
    let entries = "CREATE TABLE NVTX_PAYLOAD_SCHEMA_ENTRIES (domainId INTEGER NOT NULL, schemaId INTEGER NOT NULL, \
        idx INTEGER NOT NULL, type INTEGER, name TEXT, offset INTEGER)";
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, KERNELS, nvtx, RUNTIME, entries]);
    fixture.string(1, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)");
    fixture.string(2, "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)");
    fixture.string(3, "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)");
    fixture.string(4, "cudaLaunchKernelExC_v11060");
    for (schema, idx, name, offset) in [
        (5, 0, "NCCL communicator ID", "NULL"),
        (5, 1, "No. of ranks", "8"),
        (6, 0, "NCCL communicator ID", "NULL"),
        (6, 1, "Message size [bytes]", "8"),
    ] {
        fixture.run(&format!(
            "INSERT INTO NVTX_PAYLOAD_SCHEMA_ENTRIES VALUES (1, {schema}, {idx}, 22, '{name}', {offset})"
        ));
    }
    let range = |start: i64, end: i64, text: &str, payload: Option<String>| {
        let blob = payload.map_or("NULL".to_owned(), |hex| format!("X'{hex}'"));
        fixture.run(&format!(
            "INSERT INTO NVTX_EVENTS VALUES ({start}, {end}, 59, '{text}', {}, NULL, 1, {blob})",
            global(7, 70)
        ));
    };
    let sized = |bytes: u64| [9_u64.to_le_bytes(), bytes.to_le_bytes()].concat();
    let init = [9_u64.to_le_bytes().as_slice(), &8_u32.to_le_bytes(), &3_u32.to_le_bytes()].concat();
    range(10, 20, "ncclAllReduce", Some(payload(6, &sized(4096))));
    range(30, 40, "ncclAllGather", Some(payload(6, &sized(100))));
    range(50, 51, "ncclGroupStart", None);
    range(52, 53, "ncclSend", Some(payload(6, &sized(700))));
    range(54, 55, "ncclRecv", Some(payload(6, &sized(500))));
    range(56, 60, "ncclGroupEnd", None);
    range(70, 80, "ncclAllReduce", None);
    range(5, 9, "ncclCommInitRankConfig", Some(payload(5, &init)));
    for (start, kernel, link) in [(12, 1, 101), (32, 2, 102), (57, 3, 103), (72, 1, 104)] {
        fixture.launch(start, start + 2, 4, link);
        fixture.kernel(start + 100, start + 110, kernel, link);
    }
    let ranks = read(&fixture.done()).unwrap();
    let found: Vec<(&str, Option<u64>, Option<u32>, i64)> = ranks[0]
        .collectives
        .iter()
        .map(|call| (ranks[0].names.get(call.kind), call.in_elements, call.group_size, call.start_ns))
        .collect();
    // A part of the all-gather is 100 bytes, the whole that every rank ends with eight times that.
    assert_eq!(
        found,
        [
            ("all_reduce", Some(4096), Some(8), 112),
            ("all_gather", Some(800), Some(8), 132),
            ("send_recv", Some(700), Some(8), 157),
            ("all_reduce", None, None, 172),
        ]
    );
    assert!(ranks[0].warnings.is_empty(), "{:?}", ranks[0].warnings);
    let report = crate::metrics::report(
        &[crate::metrics::analyse(&ranks[0], &crate::Taxonomy::builtin().unwrap())],
        &crate::Taxonomy::builtin().unwrap(),
    );
    // 4096 bytes in 10 ns; the other all-reduce has no size.
    assert_eq!(report.metrics["algorithm_bandwidth_all_reduce"].value, Some(409.6));
    assert_eq!(report.metrics["bus_bandwidth_all_reduce"].value, Some(716.8));
    assert_eq!(report.metrics["collective_data_volume"].value, Some(4096.0 + 800.0 + 700.0));
}
