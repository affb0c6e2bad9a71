//! The example study `vllm-cpu` against a real vLLM: two points × two loads, with a `kill -9` in the middle; before it,
//! `bench` beside vLLM's own (`real_vllm_bench`). Four server starts of one to two minutes each, so the offline test
//! command leaves it out and says so. Latencies mean nothing on a small machine; counts, tokens, order and agreement with
//! the server's own numbers do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use servelab_core::plan::{Load, Plan, PlannedCell};
use servelab_core::record::{Phase, PromSample, RequestRecord, TokenSource};
use servelab_core::state::CellState;
use servelab_data::{Tokenizer, TokenizerSource};
use servelab_load::http::post_json;
use servelab_store::{AttemptDir, Root};
use servelab_testkit::{Deadline, Output, Place, Spawned, at, marked_processes, poll, text};

use super::{place, repository};

/// As `examples/vllm-cpu.yaml` says.
const MODEL: &str = "tiny-qwen3";
const SERVED: &str = "tiny";
const INPUT_TOKENS: i64 = 64;
const OUTPUT_TOKENS: i64 = 64;
const WARMUP: usize = 4;
const WINDOW: usize = 48;
const SCRAPE_INTERVAL_S: f64 = 0.5;

/// A start takes two minutes on two busy cores.
const START_LIMIT_S: u64 = 600;
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// Where the real parts lie.
struct Real {
    vllm: PathBuf,
    models: PathBuf,
}

impl Real {
    /// `None` when this test was not asked for; asked for and not there is a failure.
    fn wanted() -> Option<Self> {
        let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
        if !wanted.split(',').any(|part| part.trim() == "vllm") {
            // Past libtest's capture: that something was left out must be seen when everything passes.
            let _ = std::io::stderr().write_all(
                b"left out: real_vllm, which needs a real vLLM. Run it with\n  \
                  scripts/vllm-cpu/prepare.sh DIR\n  \
                  SERVELAB_REAL=vllm SERVELAB_VLLM_DIR=DIR/venv SERVELAB_MODELS_DIR=DIR/models \
                  cargo test -p servelab --test it real_vllm -- --nocapture\n",
            );
            return None;
        }
        let path = |name: &str, below: &str| {
            let folder = std::env::var(name).unwrap_or_else(|_| panic!("SERVELAB_REAL=vllm needs {name}"));
            let path = Path::new(&folder).join(below).canonicalize();
            path.unwrap_or_else(|error| panic!("{name}={folder} has no `{below}`: {error}"))
        };
        let model = path("SERVELAB_MODELS_DIR", MODEL);
        // Not the canonical path: inside a virtual environment the way to the program is part of what it is.
        let bin = path("SERVELAB_VLLM_DIR", "bin");
        path("SERVELAB_VLLM_DIR", "bin/vllm");
        Some(Self { vllm: bin.join("vllm"), models: model.parent().unwrap().to_owned() })
    }
}

/// The example in a folder of its own.
struct Lab {
    real: Real,
    place: Place,
}

impl Lab {
    fn new(real: Real) -> Self {
        let place = place();
        let example = |name: &str| std::fs::read_to_string(repository().join("examples").join(name)).unwrap();
        let site = example("sites/vllm-cpu.yaml");
        let (env, _) = site.split_once("paths:").unwrap();
        place.write("vllm-cpu.yaml", &example("vllm-cpu.yaml"));
        std::fs::create_dir(place.path().join("tmp")).unwrap();
        place.write("sites/vllm-cpu.yaml", &format!("{env}paths: {{models: {:?}}}\n", real.models));
        Self { real, place }
    }

    fn run(&self) -> Spawned {
        let command = self.place.servelab("run vllm-cpu.yaml --root out --engine-bin");
        // vLLM leaves sockets and caches behind, the more so when it is killed.
        command.args([&self.real.vllm]).env("TMPDIR", &self.place.path().join("tmp").to_string_lossy()).spawn()
    }

    fn root(&self) -> Root {
        Root::open(&self.place.path().join("out")).unwrap()
    }

    fn plan(&self) -> Plan {
        self.root().load_plan("vllm-cpu").unwrap()
    }

    /// Everything recorded so far; a line that is just being written is not there yet.
    fn events(&self) -> Vec<Value> {
        let path = self.place.path().join("out/studies/vllm-cpu/events.jsonl");
        let lines = std::fs::read_to_string(path).unwrap_or_default();
        lines.split_inclusive('\n').filter_map(|line| serde_json::from_str(line.strip_suffix('\n')?).ok()).collect()
    }

    /// Waits for an event of this run, which began after `skip` events.
    #[track_caller]
    fn wait_for(&self, run: &mut Spawned, skip: usize, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        poll(what, Deadline::in_s(START_LIMIT_S), || {
            let found = self.events().into_iter().skip(skip).find(|event| is_it(event));
            assert!(found.is_some() || !run.has_ended(), "the run ended before {what}:\n{}", run.stderr());
            found
        })
    }

    fn finish(&self, mut run: Spawned) -> Output {
        poll("the end of the run", Deadline::in_s(START_LIMIT_S), || run.has_ended().then_some(()));
        run.wait().expect(0)
    }

    fn latest(&self, cell: &PlannedCell) -> AttemptDir {
        self.root().latest_attempt(&cell.id).unwrap().unwrap()
    }

    fn is_done(&self, cell: &PlannedCell) -> bool {
        let attempt = self.root().latest_attempt(&cell.id).unwrap();
        let state = attempt.and_then(|attempt| attempt.state().unwrap());
        state.is_some_and(|state| state.state == CellState::Done)
    }

    /// The files of a cell, to see whether anybody touched them.
    fn files_of(&self, cell: &PlannedCell) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.place.files();
        files.retain(|name, _| name.starts_with(&format!("out/cells/{}/", cell.id)));
        files
    }
}

fn is_state(event: &Value, kind: &str, state: &str) -> bool {
    event["kind"] == kind && event["state"] == state
}

/// The address in the latest start of a point.
fn server_url(events: &[Value], point: &str) -> String {
    let start = events.iter().rev().find(|event| is_state(event, "point", "starting") && event["point"] == point);
    text(start.unwrap(), "detail").split(',').next().unwrap().to_owned()
}

/// Greedy tokens for a fixed prompt, with the server's own count of everything.
fn greedy(url: &str, prompt: &str) -> (Vec<i64>, Vec<i64>) {
    let body = json!({"model": SERVED, "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": true,
                      "return_token_ids": true});
    let reply = post_json(&format!("{url}/v1/completions"), &body, CALL_LIMIT, None).unwrap();
    assert!(reply.is_success(), "{}", reply.body);
    let reply: Value = serde_json::from_str(&reply.body).unwrap();
    let ids = |path: &str| -> Vec<i64> {
        at(&reply, path).as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
    };
    let (prompt_ids, output_ids) = (ids("choices.0.prompt_token_ids"), ids("choices.0.token_ids"));
    assert_eq!(at(&reply, "usage.prompt_tokens"), prompt_ids.len());
    assert_eq!(at(&reply, "usage.completion_tokens"), output_ids.len());
    assert_eq!(output_ids.len(), 16);
    (prompt_ids, output_ids)
}

#[test]
fn real_vllm() {
    let Some(real) = Real::wanted() else { return };
    let tokenizer = Tokenizer::load(&TokenizerSource::Path(real.models.join(MODEL))).unwrap();
    let prompt = "def greet(name):\n    return 'hello ' + name\n";
    let expected_ids: Vec<i64> = tokenizer.encode(prompt).unwrap().into_iter().map(i64::from).collect();
    super::real_vllm_bench::compare(&real.vllm, &real.models.join(MODEL));
    super::real_engine::in_ci(&real.vllm, &real.models);
    let lab = Lab::new(real);

    // The first run is killed while the second point's open load is being measured.
    let mut run = lab.run();
    let first = lab.wait_for(&mut run, 0, "the first server", |event| is_state(event, "point", "ready"));
    let plan = lab.plan();
    let (on_first, on_second): (Vec<&PlannedCell>, Vec<&PlannedCell>) =
        plan.cells.iter().partition(|cell| cell.point.as_str() == text(&first, "point"));
    assert_eq!((on_first.len(), on_second.len()), (2, 2));
    let open = on_second.iter().find(|cell| matches!(cell.load, Load::Open { .. })).unwrap();
    lab.wait_for(&mut run, 0, "the second point's open load", |event| {
        is_state(event, "cell", "measuring") && event["cell"] == open.id.as_str()
    });
    let url = server_url(&lab.events(), open.point.as_str());
    let (prompt_ids, tokens) = greedy(&url, prompt);
    assert_eq!(prompt_ids, expected_ids, "the server and this program count with the same tokenizer");
    assert_eq!(greedy(&url, prompt).1, tokens, "greedy tokens repeat");
    let n_events = lab.events().len();
    assert!(!lab.is_done(open), "too late for the middle of the cell");
    run.kill_9();
    poll("the end of everything the killed run had started", Deadline::in_s(30), || {
        marked_processes(lab.place.mark()).is_empty().then_some(())
    });

    // What was finished stays as it is; the rest is measured by a server of its own, which generates the same tokens.
    let (finished, rest): (Vec<&PlannedCell>, Vec<&PlannedCell>) =
        plan.cells.iter().partition(|cell| lab.is_done(cell));
    assert!(on_first.iter().all(|cell| finished.contains(cell)), "the first point's cells are done");
    assert!(rest.contains(open));
    let before: Vec<_> = finished.iter().map(|cell| lab.files_of(cell)).collect();
    let mut run = lab.run();
    lab.wait_for(&mut run, n_events, "the server of the second run", |event| is_state(event, "point", "ready"));
    // Mostly before the warm-up; if not, the server has counted these tokens among the cell's.
    let (_, again) = greedy(&server_url(&lab.events(), open.point.as_str()), prompt);
    assert_eq!(again, tokens, "the same configuration, started again, gives the same tokens");
    let output = lab.finish(run);
    output.says(&format!("{} finished earlier", finished.len()));
    assert!(plan.cells.iter().all(|cell| lab.is_done(cell)), "{}", output.stderr);
    for (cell, before) in finished.iter().zip(before) {
        assert!(lab.files_of(cell) == before, "finished cell {} was touched", cell.id);
    }
    assert_eq!(lab.latest(open).attempt(), 2, "the killed attempt is kept");
    let starts = lab.events().iter().filter(|event| is_state(event, "point", "starting")).count();
    assert_eq!(starts, 3);

    let n_events = lab.events().len();
    lab.finish(lab.run()).says("nothing left to do; 4 finished earlier");
    assert_eq!(lab.events().len(), n_events, "nothing to do leaves no trace");
    lab.place.wait_until_quiet();

    for cell in &plan.cells {
        // Our own call may have fallen into the first cell of the second run.
        let strangers = if rest.contains(&cell) { 1 } else { 0 };
        check_cell(&lab, cell, strangers);
    }
    for point in &plan.points {
        check_point(&lab, point.id.as_str(), at(&point.config, "serve"));
    }
    check_report(&lab, &plan);
}

/// `strangers`: most requests of others that the server may have seen meanwhile.
fn check_cell(lab: &Lab, cell: &PlannedCell, strangers: usize) {
    let what = format!("{} {}", cell.point.short(), cell.load.describe());
    let attempt = lab.latest(cell);
    let requests = attempt.requests().unwrap();
    let in_phase = |phase: Phase| requests.iter().filter(|request| request.phase == phase).count();
    assert_eq!((in_phase(Phase::Warmup), in_phase(Phase::Window), requests.len()), (WARMUP, WINDOW, WARMUP + WINDOW));
    for request in &requests {
        check_request(request, &what);
    }
    let ids: BTreeSet<_> = requests.iter().map(|request| &request.response_id).collect();
    assert_eq!(ids.len(), requests.len(), "{what}: each answer is its own");

    let result = attempt.result().unwrap().unwrap();
    assert!(result.verdict.ok, "{what}: {:?}", result.verdict);
    assert_eq!((result.requests.completed, result.requests.failed), (WINDOW as u64, 0), "{what}");
    assert_eq!(result.output_tokens, WINDOW as u64 * OUTPUT_TOKENS as u64, "{what}");
    assert_eq!(result.input_tokens, WINDOW as u64 * INPUT_TOKENS as u64, "{what}");
    assert_eq!(result.token_source, BTreeMap::from([("server_usage".to_owned(), WINDOW as u64)]), "{what}");

    let window = attempt.window().unwrap().unwrap();
    assert!(window.engine_version.is_some_and(|version| version.starts_with("0.32.0")), "{what}");
    assert_eq!(window.simulated, Some(false), "{what}");

    let prom = attempt.prom().unwrap();
    let inside = |sample: &&PromSample| (window.window_start_ns..=window.window_end_ns).contains(&sample.t_ns);
    let scrapes: BTreeSet<i64> = prom.iter().filter(inside).map(|sample| sample.t_ns).collect();
    let due = result.duration_s / SCRAPE_INTERVAL_S;
    assert!(
        2.0 * scrapes.len() as f64 >= due.floor(),
        "{what}: {} scrapes in the window, {due} were due",
        scrapes.len()
    );
    let running = prom.iter().filter(|sample| sample.metric == "vllm:num_requests_running");
    let seen: BTreeSet<i64> = running.map(|sample| sample.t_ns).collect();
    assert!(seen.first().is_some_and(|t_ns| *t_ns <= window.window_start_ns), "{what}: scraped before the window");
    assert!(seen.last().is_some_and(|t_ns| *t_ns >= window.window_end_ns), "{what}: scraped after the window");
    assert!(scrapes.is_subset(&seen), "{what}: every scrape shows the running requests");

    // From before the warm-up to after the last answer the server must have counted exactly what we did.
    let increase = |metric: &str| {
        let series = series(&prom, metric);
        series.last().unwrap().1 - series.first().unwrap().1
    };
    let n = requests.len() as f64;
    for (metric, per_request, per_stranger) in [
        ("vllm:request_success_total", 1, 1),
        ("vllm:generation_tokens_total", OUTPUT_TOKENS, 16),
        ("vllm:prompt_tokens_total", INPUT_TOKENS, INPUT_TOKENS),
    ] {
        let (grown, ours) = (increase(metric), n * per_request as f64);
        let most = ours + (strangers as i64 * per_stranger) as f64;
        assert!((ours..=most).contains(&grown), "{what}: {metric} grew by {grown}, {ours} are ours");
    }
    let client_s: f64 = requests.iter().map(|r| (r.t_done.unwrap() - r.t_send.unwrap()) as f64 / 1e9).sum();
    let server_s = increase("vllm:e2e_request_latency_seconds_sum");
    assert!(strangers > 0 || client_s >= server_s, "{what}: client {client_s} s, server {server_s} s");

    let server = result.server.unwrap();
    assert_eq!(server.preemptions, Some(0.0), "{what}");
    assert!(server.kv_usage_max.is_some() && server.waiting_mean.is_some(), "{what}: {server:?}");
    assert_eq!(server.scrapes, scrapes.len() as u64, "{what}");
    // Counted between the scrapes around the window, which may take some of the warm-up in.
    let (counted, ours) = (server.generation_tokens.unwrap() as i64, WINDOW as i64 * OUTPUT_TOKENS);
    let more = (WARMUP + strangers) as i64 * OUTPUT_TOKENS;
    assert!((ours..=ours + more).contains(&counted), "{what}: the server counted {counted} tokens, {ours} are ours");
    check_limit(lab, cell, &server, &what);
}

/// The varied setting does what it says.
fn check_limit(lab: &Lab, cell: &PlannedCell, server: &servelab_core::result::ServerSummary, what: &str) {
    let plan = lab.plan();
    let point = plan.points.iter().find(|point| point.id == cell.point).unwrap();
    let limit = at(&point.config, "serve.max_num_seqs").as_f64().unwrap();
    let running = server.running_max.unwrap();
    assert!(running <= limit, "{what}: {running} running, {limit} allowed");
    if matches!(cell.load, Load::Closed { concurrency: 8, .. }) && limit < 8.0 {
        assert!(server.waiting_mean.unwrap() > 0.0, "{what}: half of the requests wait in the server");
    }
}

fn check_request(request: &RequestRecord, what: &str) {
    let what = format!("{what}, request {} ({:?})", request.request_idx, request.phase);
    assert!(request.is_success(), "{what}: {:?}", request.failure_code);
    assert_eq!(request.http_status, Some(200), "{what}");
    assert_eq!(request.input_tokens, Some(INPUT_TOKENS), "{what}: the prompt has its exact length");
    assert_eq!(request.output_tokens, Some(OUTPUT_TOKENS), "{what}");
    assert_eq!(request.requested_output_tokens, Some(OUTPUT_TOKENS), "{what}");
    assert_eq!(request.token_source, Some(TokenSource::ServerUsage), "{what}");
    assert_eq!(request.finish_reason.as_deref(), Some("length"), "{what}");
    let stamps =
        [Some(request.t_sched), request.t_send, request.t_hdr, request.t_first, request.t_last, request.t_done];
    let stamps: Vec<i64> =
        stamps.into_iter().map(|stamp| stamp.unwrap_or_else(|| panic!("{what}: a stamp is missing"))).collect();
    assert!(stamps.is_sorted(), "{what}: {stamps:?}");
}

/// The sum over labels and engines at each scrape.
fn series(prom: &[PromSample], metric: &str) -> Vec<(i64, f64)> {
    let mut sums: BTreeMap<i64, f64> = BTreeMap::new();
    for sample in prom.iter().filter(|sample| sample.metric == metric) {
        *sums.entry(sample.t_ns).or_default() += sample.value;
    }
    assert!(sums.len() >= 2, "{metric}: {} scrapes", sums.len());
    sums.into_iter().collect()
}

/// The engine runs with what was asked for, and the comparison is no empty one.
fn check_point(lab: &Lab, point: &str, serve: &Value) {
    let effective = lab.place.json(&format!("out/points/{point}/effective.json"));
    assert!(text(&effective, "engine_version").starts_with("0.32.0"));
    assert_eq!(at(&effective, "differences"), &json!([]), "{point}");
    assert_eq!(at(&effective, "not_shown"), &json!([]), "{point}");
    for key in ["max_num_seqs", "max_num_batched_tokens", "max_model_len", "enforce_eager", "dtype", "load_format"] {
        assert_eq!(at(&effective, &format!("effective.{key}")), at(serve, key), "{point}: {key}");
        assert_eq!(at(&effective, &format!("requested.{key}")), at(serve, key), "{point}: {key}");
    }
    assert!(at(&effective, "kv_cache_tokens").as_u64().is_some_and(|tokens| tokens > 2048), "{point}");
    let command = lab.place.read(&format!("out/points/{point}/command.txt"));
    assert!(command.contains("HF_HUB_OFFLINE=1") && command.contains("--load-format dummy"), "{command}");
}

fn check_report(lab: &Lab, plan: &Plan) {
    let report = lab.place.servelab("report vllm-cpu.yaml --root out --json").run().expect(0).json();
    let rows = at(&report, "rows").as_array().unwrap();
    assert_eq!(rows.len(), plan.cells.len());
    for row in rows {
        assert_eq!((text(row, "state"), text(row, "verdict"), text(row, "engine")), ("done", "ok", "vllm"));
        assert_eq!(at(row, "simulated"), &json!(false));
        assert!(text(row, "engine_version").starts_with("0.32.0"));
        assert_eq!(at(row, "total_tokens_generated"), &json!(WINDOW as i64 * OUTPUT_TOKENS));
        assert_eq!((at(row, "success_rate").as_f64(), at(row, "failed_requests").as_f64()), (Some(1.0), Some(0.0)));
    }
    let csv = Path::new(text(&report, "folder")).join("results.csv");
    let csv = std::fs::read_to_string(lab.place.path().join(csv)).unwrap();
    assert_eq!(csv.lines().count(), plan.cells.len() + 1, "{csv}");
}
