//! Roots written by past versions must stay readable. `tests/fixtures/vN/root` was written once by format version N and is
//! never written again; a new format version adds a folder. To make one, delete nothing and run
//! `SERVELAB_WRITE_FIXTURE=1 cargo nextest run -p servelab-store fixture`: it fills a folder that does not exist yet.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use servelab_core::event::{Event, EventKind};
use servelab_core::ids::CellId;
use servelab_core::state::CellState;
use servelab_store::{
    Durability, FailureReport, ROOT_FORMAT, Root, RowContext, append_line, collect_rows, read_json_lines, write_json,
};

use crate::scene;

fn folder(version: u64) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}/root"))
}

fn event() -> Event {
    let kind = EventKind::Cell { cell: CellId::new("c1a0"), attempt: 1, state: CellState::Done, code: None };
    Event { t_unix_ns: scene::NOW, kind }
}

fn failure() -> FailureReport {
    FailureReport {
        code: "kv_cache_too_small".into(),
        detail: "the engine found no room for one sequence".into(),
        line: Some("ValueError: …".into()),
        source: Some("server/serve-0.log".into()),
        advice: None,
    }
}

fn plan() -> servelab_core::plan::Plan {
    let points = vec![scene::point("ba5e", json!({"max_num_seqs": 64}))];
    scene::plan(points, vec![scene::cell("c1a0", "ba5e", 1, 0), scene::cell("fa11", "ba5e", 2, 0)])
}

fn write(version: u64) {
    let root = Root::open_or_create(&folder(version)).unwrap();
    // The study's folder exists because of its log; plan.json has a version of its own.
    std::fs::create_dir_all(root.study_dir("demo").unwrap()).unwrap();
    append_line(&root.events_path("demo").unwrap(), &event(), Durability::Synced).unwrap();
    scene::finish(&root, "c1a0", &scene::result());
    let failed = scene::attempt(&root, "fa11");
    failed.write_failure(&failure()).unwrap();
    failed.enter(CellState::Failed, scene::NOW, Some("kv_cache_too_small"), None).unwrap();
    for attempt in [root.latest_attempt(&CellId::new("c1a0")), Ok(Some(failed))] {
        // A fixture must not carry the name of the machine that wrote it.
        let path = attempt.unwrap().unwrap().path().join("claim.json");
        let mut claim: serde_json::Value = servelab_store::read_json(&path).unwrap();
        (claim["host"], claim["boot_id"], claim["pid_namespace"]) = (json!("node-1"), json!("boot"), json!("pid:[1]"));
        write_json(&path, &claim).unwrap();
    }
}

#[test]
fn fixture_of_every_format_version_is_readable() {
    for version in 1..=ROOT_FORMAT {
        if std::env::var_os("SERVELAB_WRITE_FIXTURE").is_some() && !folder(version).exists() {
            write(version);
        }
        let root = Root::open(&folder(version)).unwrap();
        assert_eq!(root.studies().unwrap(), ["demo"]);
        let events = read_json_lines::<Event>(&root.events_path("demo").unwrap()).unwrap();
        assert_eq!((events.values, events.skipped_lines), (vec![event()], vec![]));

        let attempt = root.latest_attempt(&CellId::new("c1a0")).unwrap().unwrap();
        assert_eq!(attempt.requests().unwrap(), scene::requests());
        assert_eq!(attempt.events().unwrap(), scene::events());
        assert_eq!(attempt.prom().unwrap(), scene::prom());
        assert_eq!(attempt.claim().unwrap().unwrap().host, "node-1");
        assert_eq!(attempt.window().unwrap().unwrap().gpu_model.as_deref(), Some("H100"));
        let result = attempt.result().unwrap().unwrap();
        assert_eq!((result.schema, result.requests.completed, result.requests.failed), (1, 3, 1));
        assert_eq!(result.latency_ms.ttft.p50, Some(49.0));

        let rows = collect_rows(&root, &plan(), &RowContext::default()).unwrap();
        let states: Vec<CellState> = rows.iter().map(|row| row.state).collect();
        assert_eq!(states, [CellState::Done, CellState::Failed]);
        assert_eq!(rows[1].failure, Some(failure()));
        assert!(rows.iter().all(|row| row.problem.is_none()));
    }
}

#[test]
fn a_root_of_the_future_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("servelab-root.json"), format!("{{\"format\": {}}}", ROOT_FORMAT + 1)).unwrap();
    let error = Root::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("newer") && error.contains("servelab-root.json"), "{error}");
}
