//! A real vLLM under studies that ask for more than a load. `in_ci` is part of the test in `real_vllm`: n-gram speculation
//! with shared prefixes, and a KV cache that is too small. The rest takes a dozen server starts and is run by
//! `cargo xtask verify engine`: two tensor-parallel ranks with profiler and execution traces, two data-parallel engines,
//! FP8 KV beside BF16 with the accuracy guard, prefix caching on and off, flags asked about beforehand, an unknown flag, a
//! worker that is killed while it streams, a full queue.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use servelab_testkit::{Deadline, Place, Spawned, at, number, poll, text};

use super::place;

/// A start takes two minutes on two busy cores.
const START_LIMIT_S: u64 = 900;

/// A folder with a site for the models, and a vLLM to run.
struct Lab {
    place: Place,
    vllm: PathBuf,
}

const MODEL: &str = "engine: {kind: vllm, version: \"0.32.*\", start_timeout_s: 900}\n\
                     model: {id: servelab/tiny-qwen3, path: \"${site.models}/tiny-qwen3\", served_name: tiny}\n";

impl Lab {
    fn new(vllm: &Path, models: &Path) -> Self {
        let place = place();
        std::fs::create_dir(place.path().join("tmp")).unwrap();
        let site = format!(
            "schema: 1\nsite: cpu\nscheduler: local\nenv: {{HF_HUB_OFFLINE: \"1\"}}\n\
             paths: {{models: {models:?}}}\n"
        );
        place.write("sites/cpu.yaml", &site);
        Self { place, vllm: vllm.to_owned() }
    }

    fn study(&self, name: &str, rest: &str) {
        let text = format!("schema: 1\nstudy: {name}\nsite: cpu\n{MODEL}{rest}");
        self.place.write(&format!("{name}.yaml"), &text);
    }

    fn command(&self, line: &str) -> servelab_testkit::Servelab<'_> {
        let tmp = self.place.path().join("tmp");
        self.place.servelab(&format!("{line} --engine-bin")).args([&self.vllm]).env("TMPDIR", &tmp.to_string_lossy())
    }

    /// Runs a study to its end; its exit code may be 1 where a cell is meant to fail.
    fn run(&self, name: &str) -> servelab_testkit::Output {
        let mut run = self.command(&format!("run {name}.yaml --root out")).spawn();
        self.wait(&mut run);
        run.wait()
    }

    fn wait(&self, run: &mut Spawned) {
        poll("the end of the run", Deadline::in_s(12 * START_LIMIT_S), || run.has_ended().then_some(()));
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let report = self.place.servelab(&format!("report {name}.yaml --root out --json")).run().expect(0).json();
        at(&report, "rows").as_array().unwrap().clone()
    }

    fn row(&self, name: &str, label: &str) -> Value {
        let rows = self.rows(name);
        rows.into_iter().find(|row| text(row, "labels") == label).unwrap_or_else(|| panic!("no row of {label}"))
    }

    fn point(&self, name: &str, label: &str) -> String {
        format!("out/points/{}", text(&self.row(name, label), "point_id"))
    }
}

/// Two starts: speculation over shared prefixes, and a KV cache in which one request does not fit.
pub(super) fn in_ci(vllm: &Path, models: &Path) {
    let lab = Lab::new(vllm, models);
    lab.study(
        "spec",
        "serve: {load_format: dummy, dtype: float32, enforce_eager: true, max_model_len: 2048, max_num_batched_tokens: 2048, max_num_seqs: 4}\n\
         workloads: {prefix: {dataset: {synth: {input_tokens: 384, output_tokens: 32, seed: 7, shared_prefix: {hit_rate: 0.5, groups: 1}}}}}\n\
         load: {closed: {concurrency: [4]}, warmup: {requests: 4}, stop: {requests: 16}}\n\
         designs:\n  d:\n    list:\n\
         \x20     small: {kv_cache_memory_bytes: 512K}\n\
         \x20     ngram: {kv_cache_memory_bytes: 64M, speculative_config: {method: ngram, num_speculative_tokens: 3, prompt_lookup_max: 3}}\n",
    );
    let output = lab.run("spec").expect(0);

    let small = lab.row("spec", "small");
    assert_eq!(text(&small, "state"), "infeasible", "{small}\n{}", output.stderr);
    let failure = lab.place.json(&format!("out/cells/{}/attempt-1/failure.json", text(&small, "cell_id")));
    assert_eq!(text(&failure, "code"), "kv_too_small", "{failure}");
    // 512 KiB hold four blocks of 128 tokens (2 layers × K and V × 2 heads × 32 × 4 bytes each); vLLM keeps one of them.
    assert!(text(&failure, "line").contains("estimated maximum model length is 384"), "{failure}");

    let ngram = lab.row("spec", "ngram");
    assert_eq!(text(&ngram, "state"), "done", "{ngram}\n{}", output.stderr);
    let point = lab.point("spec", "ngram");
    let effective = lab.place.json(&format!("{point}/effective.json"));
    assert_eq!(at(&effective, "differences").as_array().map(Vec::len), Some(0), "{effective}");
    assert_eq!(at(&effective, "effective")["speculative_config.method"], "ngram", "{effective}");
    assert_eq!(number(&ngram, "kv_cache_tokens"), 65_536.0, "64 MiB of 1 KiB per token");
    let blocks = number(&effective, "kv_cache_blocks");
    assert_eq!(blocks * number(&effective, "kv_block_size"), 65_536.0, "{effective}");
    let lock = lab.place.json(&format!("{point}/env.lock.json"));
    for package in ["vllm", "torch"] {
        assert!(!text(at(&lock, "packages"), package).is_empty(), "{lock}");
    }
    assert!(at(&lock, "cuda").is_string() && at(&lock, "python").is_string(), "{lock}");

    let result = lab.place.json(&format!("out/cells/{}/attempt-1/result.json", text(&ngram, "cell_id")));
    let speculation = at(&result, "server.speculation");
    let (drafts, proposed, accepted) =
        (number(speculation, "drafts"), number(speculation, "draft_tokens"), number(speculation, "accepted_tokens"));
    assert!(drafts > 0.0 && proposed <= 3.0 * drafts && accepted <= proposed, "{speculation}");
    let shares: Vec<f64> = at(speculation, "acceptance_by_position")
        .as_array()
        .unwrap()
        .iter()
        .map(|share| share.as_f64().unwrap())
        .collect();
    assert_eq!(shares.len(), 3);
    assert!(shares.is_sorted_by(|a, b| a >= b), "a later position is accepted only behind an earlier one: {shares:?}");
    let by_position: f64 = shares.iter().sum::<f64>() * drafts;
    assert!((by_position - accepted).abs() < 0.5, "{by_position} by position, {accepted} in all");
    // Half of each prompt is shared; blocks hold 128 tokens, so a third to a half of it can be found.
    let hits = number(&ngram, "prom_prefix_hit_rate");
    assert!((0.2..=0.6).contains(&hits), "hit rate {hits}");
    for column in ["prom_queue_time_mean_ms", "prom_prefill_time_mean_ms", "prom_decode_time_mean_ms", "server_ready_s"]
    {
        assert!(number(&ngram, column) >= 0.0, "{column}");
    }
    let (server, client) = (number(&ngram, "prom_ttft_mean_ms"), number(&ngram, "ttft_mean_ms"));
    assert!(server > 0.0 && client > 0.0, "TTFT: server {server} ms, client {client} ms");
}

/// Where the real parts lie; `None` when these tests were not asked for.
fn wanted() -> Option<(Lab, PathBuf)> {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "engine") {
        let _ = std::io::stderr().write_all(b"left out: real_engine; run it with `cargo xtask verify engine`\n");
        return None;
    }
    let folder =
        |name: &str| PathBuf::from(std::env::var(name).unwrap_or_else(|_| panic!("SERVELAB_REAL=engine needs {name}")));
    let models = folder("SERVELAB_MODELS_DIR");
    Some((Lab::new(&folder("SERVELAB_VLLM_DIR").join("bin/vllm"), &models), models))
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn real_engine() {
    let Some((lab, models)) = wanted() else { return };
    in_ci(&lab.vllm, &models);
    flags_are_asked_about(&lab);
    two_ranks_are_profiled(&lab);
    two_engines_have_a_label_each(&lab);
    kv_types_and_prefixes(&lab);
    an_unknown_flag_and_a_killed_worker(&lab);
    a_full_queue(&lab);
}

const SERVE: &str = "load_format: dummy, dtype: bfloat16, enforce_eager: true, max_model_len: 1024, max_num_batched_tokens: 1024, kv_cache_memory_bytes: 64M";

fn flags_are_asked_about(lab: &Lab) {
    lab.study(
        "flags",
        &format!(
            "serve: {{{SERVE}}}\nworkloads: {{w: {{dataset: {{synth: {{input_tokens: 32, output_tokens: 8}}}}}}}}\n\
             load: {{closed: {{concurrency: [1]}}, stop: {{requests: 2}}}}\n\
             designs:\n  d:\n    list:\n      good: {{max_num_seqs: 4}}\n      unknown: {{max_num_seqs: 4, extra_args: [--swap-space, \"4\"]}}\n\
             \x20     silent: {{max_num_seqs: 4, all2all_backend: pplx}}\n"
        ),
    );
    let mut asked = lab.command("plan flags.yaml --check-engine --json").spawn();
    lab.wait(&mut asked);
    let answer = asked.wait().expect(1).json();
    let sets = at(&answer, "engine_check.sets").as_array().unwrap();
    let found: Vec<(&str, &str)> = sets.iter().map(|set| (text(set, "labels.0"), text(set, "status"))).collect();
    assert_eq!(found, [("good", "ok"), ("unknown", "refused"), ("silent", "changed")], "{answer}");
    assert_eq!(text(&sets[2], "differences.0.effective"), "allgather_reducescatter");
    say(&format!("check-engine: {found:?} in {:.1} s", number(at(&answer, "engine_check"), "seconds")));
}

fn two_ranks_are_profiled(lab: &Lab) {
    lab.study(
        "tp2",
        &format!(
            "deploy: {{tp: 2}}\nenv: {{VLLM_CPU_OMP_THREADS_BIND: \"0|1\"}}\nserve: {{{SERVE}, max_num_seqs: 4}}\n\
             load: {{offline: {{batch_size: 2, seq_len: 32, max_tokens: 8}}, stop: {{requests: 2}}}}\n\
             designs: {{tp: {{list: {{tp2: {{}}}}}}}}\n\
             profile: {{warmup_iterations: 1, profile_iterations: 2, torch: {{ranks: all, execution_trace: true}}}}\n"
        ),
    );
    lab.run("tp2").expect(0);
    let folder = format!("{}/profile", lab.point("tp2", "tp2"));
    let record = lab.place.json(&format!("{folder}/profile.json"));
    say(&format!("profile of two ranks: {record}"));
    for rank in [0, 1] {
        let trace = lab.place.json(&format!("{folder}/kineto_trace_{rank}.json"));
        assert_eq!(at(&trace, "distributedInfo.rank").as_i64(), Some(rank), "{rank}");
        let has_et = lab.place.list(&folder).contains(&format!("torch_et_{rank}.json"));
        let reason = record.pointer(&format!("/absent/torch_et_{rank}"));
        assert!(has_et != reason.is_some(), "an execution trace, or the reason why there is none");
        let timing = lab.place.json(&format!("{folder}/timing_stats_{rank}.json"));
        assert!(!at(&timing, "iteration_times_s").as_array().unwrap().is_empty());
    }
    assert!(lab.place.read(&format!("{folder}/workload_card.yaml")).contains("tp: 2"));
}

fn two_engines_have_a_label_each(lab: &Lab) {
    lab.study(
        "dp2",
        &format!(
            "deploy: {{dp: 2}}\nserve: {{{SERVE}, max_num_seqs: 4}}\n\
             workloads: {{w: {{dataset: {{synth: {{input_tokens: 32, output_tokens: 16}}}}}}}}\n\
             load: {{closed: {{concurrency: [4]}}, warmup: {{requests: 4}}, stop: {{requests: 16}}}}\n\
             designs: {{dp: {{list: {{dp2: {{}}}}}}}}\n"
        ),
    );
    lab.run("dp2").expect(0);
    let row = lab.row("dp2", "dp2");
    let cell = text(&row, "cell_id").to_owned();
    let root = servelab_store::Root::open(&lab.place.path().join("out")).unwrap();
    let attempt = root.latest_attempt(&servelab_core::ids::CellId::new(cell)).unwrap().unwrap();
    let engines: std::collections::BTreeSet<String> = attempt
        .prom()
        .unwrap()
        .into_iter()
        .filter(|sample| sample.metric == "vllm:num_requests_running")
        .map(|sample| sample.engine)
        .collect();
    assert_eq!(engines.into_iter().collect::<Vec<_>>(), ["0", "1"]);
    say(&format!("DP=2: state {}, {} tokens", text(&row, "state"), number(&row, "total_tokens_generated")));
}

fn kv_types_and_prefixes(lab: &Lab) {
    lab.study(
        "kv",
        &format!(
            "serve: {{{SERVE}, max_num_seqs: 4}}\n\
             workloads: {{p: {{dataset: {{synth: {{input_tokens: 384, output_tokens: 16, seed: 3, shared_prefix: {{hit_rate: 0.5, groups: 1}}}}}}}}}}\n\
             load: {{closed: {{concurrency: [4]}}, warmup: {{requests: 4}}, stop: {{requests: 16}}}}\n\
             designs:\n  d:\n    list:\n      auto: {{}}\n      fp8: {{kv_cache_dtype: fp8}}\n      cold: {{enable_prefix_caching: false}}\n\
             baseline: auto\naccuracy: {{prompts: 6, max_tokens: 16, max_mismatch: 0}}\n"
        ),
    );
    lab.run("kv").expect(0);
    let rows: Vec<Value> = ["auto", "fp8", "cold"].iter().map(|label| lab.row("kv", label)).collect();
    for row in &rows {
        say(&format!(
            "{}: state {}, verdict {}, KV {} tokens, hit rate {:?}, exact match {:?}, token KL {:?}",
            text(row, "labels"),
            text(row, "state"),
            at(row, "verdict"),
            number(row, "kv_cache_tokens"),
            at(row, "prom_prefix_hit_rate").as_f64(),
            at(row, "accuracy_exact_match").as_f64(),
            at(row, "accuracy_token_kl").as_f64(),
        ));
    }
    assert_eq!(number(&rows[1], "kv_cache_tokens"), 2.0 * number(&rows[0], "kv_cache_tokens"), "half the bytes");
    assert!(number(&rows[0], "prom_prefix_hit_rate") > 0.2, "prefixes are found");
    assert_eq!(at(&rows[2], "prom_prefix_hit_rate").as_f64().unwrap_or(0.0), 0.0, "nothing is looked up");
    assert_eq!((number(&rows[0], "accuracy_exact_match"), number(&rows[2], "accuracy_exact_match")), (1.0, 1.0));
    // Made-up weights give nearly uniform distributions: what FP8 changes is below what is printed.
    assert!(number(&rows[0], "accuracy_token_kl") < 1e-9);
}

fn an_unknown_flag_and_a_killed_worker(lab: &Lab) {
    lab.study(
        "ill",
        &format!(
            "serve: {{{SERVE}, max_num_seqs: 4}}\n\
             workloads: {{w: {{dataset: {{synth: {{input_tokens: 32, output_tokens: 400}}}}}}}}\n\
             load: {{closed: {{concurrency: [2, 4]}}, stop: {{requests: 12}}}}\n\
             designs:\n  d:\n    list:\n      unknown: {{extra_args: [--swap-space, \"4\"]}}\n      killed: {{}}\nrepeats: {{order: as-written}}\n"
        ),
    );
    let mut run = lab.command("run ill.yaml --root out").spawn();
    let events = || lab.place.read("out/studies/ill/events.jsonl");
    poll("the load", Deadline::in_s(2 * START_LIMIT_S), || {
        assert!(!run.has_ended(), "the run ended early:\n{}", run.stderr());
        let is_there = lab.place.path().join("out/studies/ill/events.jsonl").exists();
        (is_there && events().contains("\"measuring\"")).then_some(())
    });
    // The worker that runs the model, not the front end that streams its tokens; vLLM's log names its process.
    let worker: i32 = poll("the worker", Deadline::in_s(60), || {
        let logs = lab.place.files().into_iter().filter(|(name, _)| name.contains("/server/2-"));
        let text: String = logs.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()).collect();
        let (_, after) = text.split_once("(Worker pid=").or_else(|| text.split_once("(EngineCore pid="))?;
        after.split(')').next()?.parse().ok()
    });
    servelab_testkit::send(worker, servelab_testkit::Signal::KILL);
    lab.wait(&mut run);
    let output = run.wait();
    say(&format!("unknown flag and killed worker:\n{}", output.stderr));
    let unknown = lab.rows("ill").into_iter().filter(|row| text(row, "labels") == "unknown").collect::<Vec<_>>();
    for row in &unknown {
        let failure = lab.place.json(&format!("out/cells/{}/attempt-1/failure.json", text(row, "cell_id")));
        assert_eq!(text(&failure, "code"), "bad_flag", "{failure}");
    }
    let killed = lab.rows("ill").into_iter().filter(|row| text(row, "labels") == "killed").collect::<Vec<_>>();
    let states: Vec<&str> = killed.iter().map(|row| text(row, "state")).collect();
    assert!(
        states.contains(&"failed") && states.contains(&"done"),
        "one lost its server, the next got a new one: {states:?}"
    );
}

fn a_full_queue(lab: &Lab) {
    lab.study(
        "full",
        &format!(
            "serve: {{{SERVE}, max_num_seqs: 1, max_num_queued_reqs: 1}}\n\
             workloads: {{w: {{dataset: {{synth: {{input_tokens: 32, output_tokens: 64}}}}}}}}\n\
             load: {{closed: {{concurrency: [8]}}, stop: {{requests: 24}}}}\n\
             designs: {{d: {{list: {{full: {{}}}}}}}}\n"
        ),
    );
    lab.run("full").expect(0);
    let row = lab.row("full", "full");
    let result = lab.place.json(&format!("out/cells/{}/attempt-1/result.json", text(&row, "cell_id")));
    let failures = at(&result, "failures").as_object().unwrap();
    say(&format!("full queue: state {}, failures {failures:?}", text(&row, "state")));
    let refused: u64 =
        ["http_503", "http_429", "in_band_error"].iter().filter_map(|code| failures.get(*code)?.as_u64()).sum();
    assert!(refused > 0 && text(&row, "verdict").contains("success_low"), "{result}");
}
