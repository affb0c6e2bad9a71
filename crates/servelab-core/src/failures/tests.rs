use proptest::prelude::*;
use regex::Regex;

use super::catalogue::{Taxonomy, taxonomy};
use super::*;

#[test]
fn taxonomy_parses_and_every_pattern_compiles() {
    let parsed: Taxonomy = serde_json::from_str(include_str!("../../data/failures.json")).expect("taxonomy");
    assert!(parsed.failures.len() > 20);
    let patterns = parsed.failures.iter().flat_map(|f| f.signatures.iter().chain(&f.numbers));
    let marks = parsed.phases.iter().map(|mark| &mark.signature);
    for pattern in patterns.chain(&parsed.teardown).chain(&parsed.benign).chain(marks) {
        assert!(Regex::new(pattern).is_ok(), "{pattern}");
    }
    assert!(failure("cuda_oom_graph").is_some() && failure("cuda_oom_serving").is_some());
}

fn scan(log: &str) -> Option<Diagnosis> {
    scan_log_lines(log.lines().map(|line| ("head", line)))
}

fn check(line: &str, code: &str) {
    let found = scan(line).unwrap_or_else(|| panic!("nothing found in {line}"));
    assert_eq!(found.code, code, "{line}");
    assert_eq!((found.line_number, found.occurrences), (1, 1));
}

#[test]
fn known_lines() {
    for (line, code) in [
        (
            "ValueError: To serve at least one request with the models's max seq len (262144), (24.0 GiB KV cache is needed",
            "kv_too_small",
        ),
        (
            "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored in KV cache (3664).",
            "kv_too_small",
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "kv_none"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB. GPU 1 has a total capacity of 79.1 GiB",
            "cuda_oom_load",
        ),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering",
            "cuda_oom_sampler",
        ),
        (
            "ValueError: Free memory on device cuda:1 (19.77/22.05 GiB) on startup is less than desired GPU memory utilization (0.9, 19.84 GiB).",
            "gpu_dirty",
        ),
        ("vllm: error: unrecognized arguments: --all2all-backend deepep_low_latency", "bad_flag"),
        (
            "vllm serve: error: ambiguous option: --device could match --device-ids, --device-memory-utilization",
            "bad_flag",
        ),
        ("  Value error, max_num_batched_tokens (8192) is smaller than max_model_len (40960).", "bad_combo"),
        (
            "ValueError: Total number of attention heads (52) must be divisible by tensor parallel size (8).",
            "bad_combo",
        ),
        (
            "AssertionError: tensor parallel size 8 must be greater than total num kv heads 8 when enable decode context parallel",
            "bad_combo",
        ),
        ("AssertionError: n_physical_experts=256 must be divisible by ep_size=3", "bad_combo"),
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for ParallelConfig", "bad_combo"),
        ("The repository x contains custom code which must be executed to correctly load the model.", "remote_code"),
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
            "model_missing",
        ),
        ("OSError: You are trying to access a gated repo. huggingface_hub.errors.GatedRepoError: 401", "model_gated"),
        (
            "ERROR: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8080): address already in use",
            "port_in_use",
        ),
        ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5570')", "port_in_use"),
        (
            "INFO 11-22 20:12:27 [ray_utils.py:231] Waiting for creating a placement group of specs for 310 seconds. specs=[{'GPU': 1.0}]",
            "ray_pg",
        ),
        ("RuntimeError: Every node should have a unique IP address. Got 2 nodes with 3 unique IP addresses", "ray_ip"),
        (
            "node1:1:2 [0] misc/ibvwrap.cc:206 NCCL WARN Call to ibv_modify_qp failed with error No such device errno 19",
            "nccl_ib",
        ),
        (
            "[rank3]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=2, OpType=ALLREDUCE, Timeout(ms)=600000)",
            "nccl_hang",
        ),
        ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable.", "jit_toolchain"),
        ("/tmp/x.c:5:10: fatal error: Python.h: No such file or directory", "jit_toolchain"),
        ("nvcc fatal   : Unknown option '-static-global-template-stub=false'", "jit_toolchain"),
        ("RuntimeError: Remote NIXL agent engine ID mismatch. Expected a, received b", "pd_handshake"),
        ("WARNING 11-22 20:12:27 [nixl.py:1] NIXL transfer failure: handshake_failed", "pd_handshake"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0", "host_oom"),
        ("ModuleNotFoundError: No module named 'vllm'", "engine_missing"),
        ("bash: vllm: command not found", "engine_missing"),
        ("RuntimeError: No CUDA GPUs are available", "no_gpu"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "gpu_fault"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", "engine_error"),
    ] {
        check(line, code);
    }
}

#[test]
fn harmless_lines_are_no_failures() {
    for line in [
        "",
        "INFO 11-22 20:41:19 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 seconds.",
        "[rank0]:[W] Warning: WARNING: destroy_process_group() was not called before program exit",
        "srun: error: node3: task 0: Terminated",
        "INFO 11-22 20:41:19 [api_utils.py:286] non-default args: {'x': 'CUDA out of memory'}",
        "WARNING 11-22 20:41:19 [importing.py:17] ModuleNotFoundError: No module named 'triton'",
        "INFO:     127.0.0.1:49950 - \"POST /v1/completions HTTP/1.1\" 200 OK",
    ] {
        assert_eq!(scan(line), None, "{line}");
    }
}

#[test]
fn a_healthy_start_has_no_diagnosis() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/samples/vllm/server-start-0.32-cpu.log");
    let Ok(log) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not here");
        return;
    };
    assert!(log.lines().count() > 100);
    assert_eq!(scan(&log), None);
}

#[test]
fn the_earliest_cause_wins_over_consequences_and_ranks_are_one_event() {
    let log = "\
(APIServer) INFO 11-22 20:41:19 [x.py:1] starting
[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)
(Worker rank0) ValueError: To serve at least one request with the model's max seq len (262144), (24.0 GiB KV
 cache is needed, which is larger than the available KV cache memory (3.18 GiB). Based on the available memory,
 the estimated maximum model length is 34736.
(Worker rank1) ValueError: To serve at least one request with the model's max seq len (262144), (24.0 GiB KV
RuntimeError: Engine core initialization failed. See root cause above.
OSError: [Errno 98] address already in use
";
    let found = scan(log).expect("a cause");
    assert_eq!((found.code.as_str(), found.line_number, found.occurrences), ("kv_too_small", 3, 2));
    assert!(found.infeasible);
    assert_eq!(found.retry, RetryOutlook::CannotRecover);
    let numbers: Vec<(&str, f64)> = found.numbers.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let expected =
        [("available_gib", 3.18), ("estimated_max_len", 34736.0), ("max_seq_len", 262_144.0), ("needed_gib", 24.0)];
    assert_eq!(numbers, expected);
}

#[test]
fn numbers_of_memory_failures() {
    let found = scan(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB. GPU 1 has a total capacity of 79.10 GiB of which 512.00 MiB is free.",
    )
    .expect("a cause");
    assert_eq!(found.numbers["tried_gib"], 1.74);
    assert_eq!(found.numbers["capacity_gib"], 79.1);
    assert_eq!(found.numbers["free_mib"], 512.0);
    assert_eq!(found.numbers["gpu"], 1.0);
    let found = scan("ValueError: Free memory on device cuda:1 (19.77/22.05 GiB) on startup is less than desired GPU memory utilization (0.9, 19.84 GiB).").expect("a cause");
    assert_eq!((found.numbers["free_gib"], found.numbers["wanted_gib"]), (19.77, 19.84));
    let found = scan("ValueError: The model's max seq len (4096) is larger than the maximum number of tokens that can be stored in KV cache (3664).").expect("a cause");
    assert_eq!((found.numbers["max_seq_len"], found.numbers["estimated_max_len"]), (4096.0, 3664.0));
}

#[test]
fn out_of_memory_depends_on_the_phase() {
    let oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB";
    for (before, code) in [
        ("INFO 11-22 20:41:19 [gpu_model_runner.py:1] Starting to load model x...", "cuda_oom_load"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  10%", "cuda_oom_graph"),
        ("INFO:     Application startup complete.", "cuda_oom_serving"),
    ] {
        assert_eq!(scan(&format!("{before}\n{oom}\n")).map(|d| d.code).as_deref(), Some(code));
    }
}

#[test]
fn logs_of_several_roles_count_their_own_lines() {
    let lines = [
        ("prefill", "fine"),
        ("decode", "fine"),
        ("prefill", "fine"),
        ("decode", "vllm: error: unrecognized arguments: --x"),
    ];
    let found = scan_log_lines(lines).expect("a cause");
    assert_eq!((found.source.as_str(), found.line_number), ("decode", 2));
}

#[test]
fn a_consequence_is_named_only_alone() {
    let found = scan("EngineDeadError: EngineCore encountered an issue.\nsrun: error: task 0: Exited with exit code 1")
        .expect("something");
    assert_eq!((found.code.as_str(), found.role), ("engine_error", Role::Cascade));
}

proptest! {
    #[test]
    fn never_panics(lines in prop::collection::vec("\\PC{0,60}", 0..8)) {
        let _ = scan_log_lines(lines.iter().map(|line| ("x", line.as_str())));
    }

    #[test]
    fn chatter_around_a_cause_does_not_hide_it(before in prop::collection::vec("[a-z ]{0,30}", 0..8), after in prop::collection::vec("[a-z ]{0,30}", 0..8)) {
        let cause = "vllm: error: unrecognized arguments: --x";
        let lines: Vec<&str> = before.iter().map(String::as_str).chain([cause]).chain(after.iter().map(String::as_str)).collect();
        let found = scan_log_lines(lines.iter().map(|line| ("x", *line))).expect("a cause");
        prop_assert_eq!(found.code, "bad_flag");
        prop_assert_eq!(found.line_number, before.len() as u64 + 1);
    }
}

#[test]
fn every_failure_has_words_for_people() {
    for failure in &taxonomy().failures {
        assert!(
            failure.title.len() > 10 && failure.meaning.len() > 20 && failure.advice.len() > 10,
            "{}",
            failure.code
        );
    }
}
