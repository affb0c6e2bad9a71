//! Whole runs against engine processes (this test binary, started again as a server).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use servelab_core::event::{Event, EventKind};
use servelab_core::plan::PlannedPoint;
use servelab_core::study::Order;
use servelab_load::{Endpoint, Pacing, Prepared, PreparedRequest, Stop};
use servelab_store::read_json_lines;

use super::*;
use crate::fixtures::{FakeEngine, FakeServer, cell, fake_engine_role, plan, point, role};
use crate::process::SERVER_TOKEN_ENV;
use crate::source::PrepareError;

/// Prompts that are numbered through, so that a reuse within a server start would show.
#[derive(Default)]
struct Prompts {
    calls: u64,
    served_models: BTreeSet<String>,
}

impl RequestSource for Prompts {
    fn prepare(
        &mut self,
        _: &PlannedPoint,
        cells: &[&PlannedCell],
        served_model: &str,
    ) -> Result<Vec<PreparedCell>, PrepareError> {
        self.calls += 1;
        self.served_models.insert(served_model.to_owned());
        let request = |request_idx: i64, cell: &PlannedCell| PreparedRequest {
            request_idx,
            body: json!({
                "model": served_model, "prompt": format!("{} {request_idx}", cell.id), "max_tokens": 4,
                "stream": true, "stream_options": {"include_usage": true},
            })
            .to_string()
            .into_bytes(),
            input_tokens: Some(3),
            requested_output_tokens: Some(4),
            ignore_eos: true,
        };
        let prepared = cells.iter().map(|cell| PreparedCell {
            requests: Box::new(Prepared::new(
                (0..2).map(|n| request(n, cell)).collect(),
                (2..14).map(|n| request(n, cell)).collect(),
            )),
            warmup: 2,
            planned: 14,
            slots_pause: false,
            pacing: Pacing::closed(cell.load.value() as u32),
            stop: Stop::AllRequests,
            endpoint: Endpoint::Completions,
            expected_prefix_hit_rate: None,
        });
        Ok(prepared.collect())
    }
}

/// Keeps every event, and may act on one.
struct Watch<'a> {
    events: Mutex<Vec<RunEvent>>,
    act: Box<dyn Fn(&RunEvent) + Send + Sync + 'a>,
}

impl<'a> Watch<'a> {
    fn new(act: impl Fn(&RunEvent) + Send + Sync + 'a) -> Self {
        Self { events: Mutex::default(), act: Box::new(act) }
    }

    fn count(&self, is_it: impl Fn(&RunEvent) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| is_it(event)).count()
    }
}

impl Observer for Watch<'_> {
    fn event(&self, event: &RunEvent) {
        (self.act)(event);
        self.events.lock().unwrap().push(event.clone());
    }
}

struct Lab {
    _folder: Option<tempfile::TempDir>,
    root: Root,
    plan: Plan,
    engine: Engine,
    options: RunOptions,
}

impl Lab {
    fn new(points: Vec<PlannedPoint>, levels: &[u32], repeats: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        Self { _folder: Some(folder), ..Self::at(&path, points, levels, repeats) }
    }

    fn at(path: &Path, points: Vec<PlannedPoint>, levels: &[u32], repeats: u32) -> Self {
        let mut cells = Vec::new();
        for point in &points {
            for level in levels {
                cells.extend((0..repeats).map(|repeat| cell(point, *level, repeat)));
            }
        }
        let mut options = RunOptions { scrape_interval: Duration::from_millis(10), ..RunOptions::default() };
        options.launch.ready_timeout = Duration::from_secs(20);
        options.launch.stop_grace = Duration::from_secs(5);
        // Tests run side by side; blocks that do not overlap spare them retries.
        options.launch.port_base = 21_000 + (std::process::id() % 300) as u16 * 100;
        Self {
            _folder: None,
            root: Root::open_or_create(path).unwrap(),
            plan: plan(points, cells),
            engine: Engine::Process { program: None },
            options,
        }
    }

    fn run(&self, observer: &dyn Observer, control: &RunControl) -> Result<RunSummary, RunError> {
        self.run_with(&mut Prompts::default(), observer, control)
    }

    fn run_with(
        &self,
        source: &mut dyn RequestSource,
        observer: &dyn Observer,
        control: &RunControl,
    ) -> Result<RunSummary, RunError> {
        let cells: Vec<CellId> = self.plan.cells.iter().map(|cell| cell.id.clone()).collect();
        let input = RunInput {
            root: &self.root,
            plan: &self.plan,
            cells: &cells,
            engine: &self.engine,
            site: "local",
            job: None,
            options: &self.options,
        };
        run(&input, source, observer, control)
    }

    fn quiet(&self) -> RunSummary {
        self.run(&(), &RunControl::new()).unwrap()
    }

    fn latest(&self, cell: &str) -> AttemptDir {
        self.root.latest_attempt(&CellId::new(cell)).unwrap().unwrap()
    }

    /// Latest state and code of every cell.
    fn states(&self) -> BTreeMap<String, (CellState, Option<String>)> {
        let of = |cell: &PlannedCell| {
            let state = self.root.latest_attempt(&cell.id).ok()??.state().ok()??;
            Some((cell.id.to_string(), (state.state, state.code)))
        };
        self.plan.cells.iter().filter_map(of).collect()
    }

    #[track_caller]
    fn assert_all_done(&self) {
        let states = self.states();
        assert_eq!(states.len(), self.plan.cells.len());
        for (cell, (state, code)) in states {
            let verdict = self.latest(&cell).result().unwrap().map(|result| result.verdict);
            assert_eq!(state, CellState::Done, "{cell}: {code:?} {:?} {verdict:?}", self.latest(&cell).failure());
        }
    }

    /// No process of any start of this root is left.
    #[track_caller]
    fn assert_nobody_left(&self) {
        let jobs: Vec<String> = names(&self.root.path().join("jobs"));
        for pid in names(Path::new("/proc")).iter().filter(|name| name.parse::<u32>().is_ok()) {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environ = String::from_utf8_lossy(&environ).into_owned();
            let left = jobs.iter().find(|job| environ.contains(&format!("{SERVER_TOKEN_ENV}={job}/")));
            assert_eq!(left, None, "process {pid} is left");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn count(summary: &RunSummary, state: CellState) -> u64 {
    summary.states.get(&state).copied().unwrap_or(0)
}

#[test]
fn a_whole_study_is_measured_once() {
    let lab = Lab::new(vec![point("a", &[("max_num_seqs", json!(8))]), point("b", &[])], &[1, 4], 2);
    let watch = Watch::new(|_| {});
    let mut prompts = Prompts::default();
    let summary = lab.run_with(&mut prompts, &watch, &RunControl::new()).unwrap();
    assert!(!summary.interrupted && summary.failures.is_empty() && summary.skipped.is_empty(), "{summary:?}");
    lab.assert_all_done();
    lab.assert_nobody_left();
    assert_eq!(count(&summary, CellState::Done), 8);
    assert_eq!(prompts.calls, 4, "one server start per point and repeat");
    assert_eq!(prompts.served_models, BTreeSet::from(["tiny".to_owned()]));
    let ready = |event: &RunEvent| matches!(event, RunEvent::Server { phase: ServerPhase::Ready, .. });
    assert_eq!(watch.count(ready), 4);
    let last = watch
        .count(|event| matches!(event, RunEvent::Progress { done: 8, total: 8, remaining_s: Some(s) } if *s == 0.0));
    assert_eq!(last, 1);

    let attempt = lab.latest("a-c4-r1");
    let history: Vec<CellState> = attempt.state().unwrap().unwrap().history.iter().map(|h| h.state).collect();
    use CellState::{Collecting, Done, Measuring, Ready, ServerStarting, Warming};
    let expected = [ServerStarting, Ready, Warming, Measuring, Collecting, Done];
    assert_eq!(history, expected);
    assert_eq!(attempt.requests().unwrap().len(), 14);
    assert!(!attempt.events().unwrap().is_empty() && !attempt.prom().unwrap().is_empty());
    let result = attempt.result().unwrap().unwrap();
    assert_eq!((result.requests.completed, result.output_tokens), (12, 48));
    assert!(result.verdict.ok && result.server.is_some_and(|server| server.scrapes > 0));
    let window = attempt.window().unwrap().unwrap();
    assert_eq!((window.engine_version.as_deref(), window.simulated), (Some("0.32.0"), Some(false)));
    let log = fs::read_to_string(attempt.server_log("serve", 0)).unwrap();
    assert!(log.contains("GPU KV cache size"), "{log}");
    let point_dir = lab.root.point_dir(&lab.plan.points[0].id).unwrap();
    let mut files = names(&point_dir);
    files.sort();
    assert_eq!(files, ["command.txt", "config.json", "effective.json", "env.lock.json"]);
    assert!(attempt.path().join("effective.json").exists());

    let events = read_json_lines::<Event>(&lab.root.events_path("s").unwrap()).unwrap();
    assert!(events.skipped_lines.is_empty());
    let of_cell: Vec<CellState> = (events.values.iter())
        .filter_map(|event| match &event.kind {
            EventKind::Cell { cell, state, .. } if cell.as_str() == "a-c4-r1" => Some(*state),
            _ => None,
        })
        .collect();
    assert_eq!(of_cell, expected);

    // The same command again: nothing is left to do, so nothing is started, and nothing changes on disk.
    let watch = Watch::new(|_| {});
    let summary = lab.run(&watch, &RunControl::new()).unwrap();
    assert_eq!((summary.finished_before, summary.states.len()), (8, 0));
    assert_eq!(watch.count(|event| matches!(event, RunEvent::Server { .. } | RunEvent::Cell { .. })), 0);
    assert_eq!(lab.latest("a-c4-r1"), attempt);
    assert_eq!(names(&lab.root.path().join("jobs")).len(), 1);
}

#[test]
fn order_is_random_within_blocks_and_recorded() {
    let mut lab = Lab::new(["a", "b", "c"].map(|name| point(name, &[])).into(), &[1], 2);
    lab.options.ordering.order = Order::RandomBlocks;
    lab.options.ordering.seed = 7;
    lab.quiet();
    let job = names(&lab.root.path().join("jobs")).pop().unwrap();
    let folder = lab.root.path().join("jobs").join(job);
    let intent: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("intent.json")).unwrap()).unwrap();
    assert_eq!(intent["order_seed"], 7);
    let blocks: Vec<i64> = intent["starts"].as_array().unwrap().iter().map(|s| s["block"].as_i64().unwrap()).collect();
    assert_eq!(blocks, [0, 0, 0, 1, 1, 1]);
    let exit: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("exit.json")).unwrap()).unwrap();
    assert_eq!((exit["state"].as_str(), &exit["detail"]["cells"]["done"]), (Some("finished"), &json!(6)));
    assert!(names(&folder.join("servers")).is_empty(), "records of ended servers are removed");
}

#[test]
fn a_server_that_dies_costs_one_cell() {
    let mut dying = point("a", &[]);
    // Two requests make it ready at most; each cell sends 14. It dies in its second cell, whichever that is.
    dying.roles = vec![fake_engine_role(&[("FAKE_ENGINE_DIES_AT", "20")])];
    let lab = Lab::new(vec![dying], &[1, 2, 3], 1);
    let summary = lab.quiet();
    // On a busy machine the client may be late, and say so: such a cell was measured all the same.
    let measured = count(&summary, CellState::Done) + count(&summary, CellState::Invalid);
    assert_eq!((measured, count(&summary, CellState::Failed)), (2, 1), "{summary:?}");
    lab.assert_nobody_left();
    let [failed] = summary.failures.as_slice() else { panic!("{:?}", summary.failures) };
    assert!(failed.detail.contains("exited with status 42"), "{failed:?}");
    assert_eq!(failed.line.as_deref(), Some("ValueError: fake engine dies here"), "{failed:?}");
    let report = lab.latest(failed.cell.as_str()).failure().unwrap().unwrap();
    assert_eq!(report.code, failed.code);
    // What it answered before it died is kept.
    assert!(!lab.latest(failed.cell.as_str()).requests().unwrap().is_empty());
}

#[test]
fn a_server_that_cannot_start_costs_its_point() {
    let script = |text: &str| role(&["/bin/sh", "-c", &format!("echo \"{text}\"; exit 1")], BTreeMap::new());
    let mut bad = point("a", &[]);
    bad.roles = vec![script("vllm: error: unrecognized arguments: --swap-space-gb")];
    let mut full = point("b", &[]);
    full.roles = vec![script("ValueError: No available memory for the cache blocks. Try increasing")];
    let lab = Lab::new(vec![bad, full, point("c", &[])], &[1, 2], 1);
    let summary = lab.quiet();
    let state = |cell: &str| lab.states().remove(cell).unwrap();
    for level in ["c1", "c2"] {
        assert_eq!(state(&format!("a-{level}-r0")), (CellState::Failed, Some("bad_flag".to_owned())));
        assert_eq!(state(&format!("b-{level}-r0")), (CellState::Infeasible, Some("kv_none".to_owned())));
        assert_eq!(state(&format!("c-{level}-r0")).0, CellState::Done);
    }
    assert_eq!(summary.failures.len(), 2, "infeasible is a result");
    // Neither is tried again unasked: no retry cures a wrong flag.
    let again = lab.quiet();
    assert_eq!((again.finished_before, again.skipped.len(), again.states.len()), (4, 2, 0), "{again:?}");
    assert!(again.skipped.iter().all(|skipped| skipped.code.as_deref() == Some("bad_flag")));
}

#[test]
fn stopping_ends_in_order_and_the_next_run_goes_on() {
    for presses in [1, 2] {
        let lab = Lab::new(vec![point("a", &[]), point("b", &[])], &[1, 2], 1);
        let control = RunControl::new();
        let seen = AtomicU64::new(0);
        let watch = Watch::new(|event| {
            let is_second_window =
                matches!(event, RunEvent::Cell { state: CellState::Measuring, .. }) && seen.fetch_add(1, SeqCst) == 1;
            if is_second_window {
                (0..presses).for_each(|_| control.stop());
            }
        });
        let summary = lab.run(&watch, &control).unwrap();
        lab.assert_nobody_left();
        assert!(summary.interrupted);
        // The second cell may still have made it; at least the other point was not begun.
        assert!(count(&summary, CellState::Done) >= 1 && lab.states().len() == 2, "{summary:?}");
        let resumed = lab.quiet();
        assert_eq!(resumed.finished_before, count(&summary, CellState::Done));
        lab.assert_all_done();
    }
}

#[test]
fn cells_held_by_others_are_left_to_them() {
    let lab = Lab::new(vec![point("a", &[])], &[1, 2], 1);
    let info = ClaimInfo::of_this_process(None, unix_ns());
    let id = CellId::new("a-c1-r0");
    let request = ClaimRequest { cell: &id, info: &info, liveness: &Liveness::local(unix_ns()), rerun_after: None };
    assert!(matches!(lab.root.claim_cell(&request).unwrap(), Claim::Acquired(_)));
    let summary = lab.quiet();
    assert_eq!(count(&summary, CellState::Done), 1);
    let [skipped] = summary.skipped.as_slice() else { panic!("{summary:?}") };
    let pid = std::process::id().to_string();
    assert!(skipped.cell == id && skipped.reason.contains(&pid), "{skipped:?}");
}

/// The event log is where a full disk is met first; every write to /dev/full fails like one.
#[test]
fn a_full_disk_is_a_clean_end() {
    let lab = Lab::new(vec![point("a", &[])], &[1, 2], 1);
    let events = lab.root.events_path("s").unwrap();
    let saved = events.with_extension("saved");
    let watch = Watch::new(|event| {
        if matches!(event, RunEvent::Cell { state: CellState::Done, .. }) && !saved.exists() {
            fs::rename(&events, &saved).unwrap();
            std::os::unix::fs::symlink("/dev/full", &events).unwrap();
        }
    });
    let error = lab.run(&watch, &RunControl::new()).unwrap_err();
    lab.assert_nobody_left();
    assert_eq!(error.code(), "disk_full");
    assert!(error.to_string().contains("no space left"), "{error}");
    let states: Vec<CellState> = lab.states().into_values().map(|(state, _)| state).collect();
    assert!(states.contains(&CellState::Done) && states.contains(&CellState::Failed), "{states:?}");
    fs::rename(&saved, &events).unwrap();
    assert_eq!(lab.quiet().finished_before, 1);
    lab.assert_all_done();
}

#[test]
fn external_servers_are_used_and_left_running() {
    let engine = FakeEngine::new(Duration::from_millis(20), None);
    let server = FakeServer::start(move |request| engine.answer(request));
    let mut lab = Lab::new(vec![point("a", &[])], &[1, 2], 1);
    lab.engine = Engine::External { url: format!("{}/v1/", server.url()) };
    lab.quiet();
    lab.assert_all_done();
    assert!(servelab_load::http::get_text(&server.url(), Duration::from_secs(5), None).is_ok());

    lab = Lab::new(vec![point("a", &[])], &[1], 1);
    lab.engine = Engine::External { url: "http://127.0.0.1:9".to_owned() };
    lab.options.launch.ready_timeout = Duration::from_millis(200);
    assert_eq!(lab.quiet().failures[0].code, "endpoint_unreachable");
}

#[test]
fn a_missing_engine_is_one_error() {
    let mut lab = Lab::new(vec![point("a", &[])], &[1], 1);
    lab.engine = Engine::Process { program: Some(PathBuf::from("/no/such/vllm")) };
    let error = lab.run(&(), &RunControl::new()).unwrap_err();
    assert!(error.to_string().contains("/no/such/vllm") && error.to_string().contains("--engine sim"), "{error}");
    assert!(lab.states().is_empty(), "nothing was claimed");
}

#[test]
fn points_that_do_not_fit_here_are_named() {
    let mut pd = point("a", &[]);
    let mut second = fake_engine_role(&[]);
    second.placement[0].node_gpus = BTreeMap::from([(1, vec![0])]);
    pd.roles.push(second);
    let lab = Lab::new(vec![pd, point("b", &[])], &[1], 1);
    let summary = lab.quiet();
    assert_eq!(count(&summary, CellState::Done), 1);
    assert!(summary.skipped[0].reason.contains("spread over nodes"), "{summary:?}");
    assert_eq!(summary.not_startable, 1);
}

#[test]
fn requests_that_cannot_be_prepared() {
    struct Empty;
    impl RequestSource for Empty {
        fn prepare(
            &mut self,
            _: &PlannedPoint,
            _: &[&PlannedCell],
            _: &str,
        ) -> Result<Vec<PreparedCell>, PrepareError> {
            Err(PrepareError { code: "dataset_too_small".to_owned(), detail: "14 needed, 3 there".to_owned() })
        }
    }
    let lab = Lab::new(vec![point("a", &[])], &[1], 1);
    let summary = lab.run_with(&mut Empty, &(), &RunControl::new()).unwrap();
    assert_eq!(summary.failures[0].code, "dataset_too_small");
    assert_eq!(lab.states()["a-c1-r0"].0, CellState::Failed);
}

#[test]
fn few_cells_and_one_server_for_all_repeats() {
    let mut lab = Lab::new(vec![point("a", &[])], &[1, 2], 2);
    lab.options.max_cells = Some(1);
    let mut prompts = Prompts::default();
    for expected in 1..=2 {
        lab.run_with(&mut prompts, &(), &RunControl::new()).unwrap();
        let done = lab.states().values().filter(|(state, _)| *state == CellState::Done).count();
        assert_eq!(done, expected, "finished cells do not count against the limit");
    }
    lab.options.max_cells = None;
    lab.options.ordering.same_server = true;
    prompts.calls = 0;
    lab.run_with(&mut prompts, &(), &RunControl::new()).unwrap();
    assert_eq!(prompts.calls, 1);
    lab.assert_all_done();
}

#[test]
fn success_below_a_threshold_ends_a_cell_early() {
    let engine = FakeEngine::new(Duration::from_millis(20), None);
    let ready = AtomicU64::new(0);
    let server = FakeServer::start(move |request| {
        if request.path == "/v1/completions" && ready.fetch_add(1, SeqCst) > 0 {
            return crate::fixtures::Reply {
                delay: Duration::from_millis(30),
                ..crate::fixtures::Reply::json(500, "{}")
            };
        }
        engine.answer(request)
    });
    let mut lab = Lab::new(vec![point("a", &[])], &[1], 1);
    lab.engine = Engine::External { url: server.url() };
    lab.options.stop_early = vec![StopRule::SuccessBelow { below: 0.5, after: 4 }];
    lab.quiet();
    let attempt = lab.latest("a-c1-r0");
    assert_eq!(lab.states()["a-c1-r0"].0, CellState::Invalid);
    let requests = attempt.requests().unwrap();
    let answered = requests.iter().filter(|request| request.http_status == Some(500)).count();
    assert!((4..14).contains(&answered), "{answered} answers");
}

/// The rule that ends a cell spares the higher loads of its ladder; what that saved is told.
#[test]
fn a_broken_rule_skips_the_rest_of_the_ladder() {
    let engine = FakeEngine::new(Duration::from_millis(20), None);
    let ready = AtomicU64::new(0);
    let server = FakeServer::start(move |request| {
        if request.path == "/v1/completions" && ready.fetch_add(1, SeqCst) > 0 {
            return crate::fixtures::Reply {
                delay: Duration::from_millis(10),
                ..crate::fixtures::Reply::json(500, "{}")
            };
        }
        engine.answer(request)
    });
    let mut lab = Lab::new(vec![point("a", &[])], &[1, 2, 4], 1);
    lab.engine = Engine::External { url: server.url() };
    lab.options.ordering.order = Order::AsWritten;
    lab.options.stop_early = vec![StopRule::ServerErrorsAbove { above: 0.2, after: 4 }];
    let summary = lab.quiet();
    let states = lab.states();
    assert_eq!(states["a-c1-r0"].0, CellState::Invalid);
    assert!(lab.latest("a-c1-r0").state().unwrap().unwrap().detail.unwrap().contains("server_errors_above: 0.2"));
    for cell in ["a-c2-r0", "a-c4-r0"] {
        assert_eq!(states[cell], (CellState::Skipped, Some("stopped_at_lower_load".to_owned())), "{states:?}");
    }
    assert!(summary.saved_s > 0.0 && !summary.interrupted, "{summary:?}");
}

fn kill_lab(root: &Path) -> Lab {
    Lab::at(root, vec![point("a", &[]), point("b", &[])], &[1, 2], 1)
}

/// One run in a process of its own, when started so by the test below.
#[test]
fn run_in_a_process() {
    let Some(root) = std::env::var_os("SERVELAB_TEST_RUN_ROOT") else { return };
    kill_lab(Path::new(&root)).quiet();
}

#[test]
fn killed_runs_resume_to_the_same_cells() {
    for lines in [1, 4, 8, 13, 20] {
        let folder = tempfile::tempdir().unwrap();
        let lab = kill_lab(&folder.path().join("root"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::tests::run_in_a_process", "--nocapture"])
            .env("SERVELAB_TEST_RUN_ROOT", lab.root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let events = lab.root.events_path("s").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::read_to_string(&events).unwrap_or_default().lines().count() < lines {
            assert!(Instant::now() < deadline, "{lines} events never came");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let done_before = lab.states().values().filter(|(state, _)| *state == CellState::Done).count() as u64;
        let summary = lab.quiet();
        assert_eq!(summary.finished_before, done_before, "after {lines} events");
        lab.assert_all_done();
        lab.assert_nobody_left();
    }
}
