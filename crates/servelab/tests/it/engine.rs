//! What a run learns about its engine: the two-phase start, facts of the start in tables, the environment, and an installed
//! engine that is asked about flags before anything is started. On the simulator, and on a stand-in for an engine's Python.

use servelab_testkit::{TINY, at, number, text};

use super::place;

/// TINY, with the number of sequences found by a probe instead of a grid.
fn probing(pattern: &str) -> String {
    let (head, _) = TINY.split_once("designs:").unwrap();
    format!(
        "{head}designs:\n  eager: {{grid: {{enforce_eager: [true, false]}}, label: \"eager_{{enforce_eager}}\"}}\n\
         probe:\n  max_num_seqs: {{from_log: '{pattern}', floor: true, start_with: 2}}\n"
    )
}

#[test]
fn a_probe_finds_a_setting_and_every_start_uses_it() {
    let place = place();
    place.write("study.yaml", &probing(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.,]+)x"));
    let plan = place.servelab("plan study.yaml").run().expect(0);
    assert!(!plan.stdout.contains("not carried out"), "{}", plan.stdout);
    let out = place.servelab("run study.yaml --root out --only eager_true").run().expect(0);
    out.says("probed max_num_seqs");
    let points = place.list("out/points");
    let [point] = &points[..] else { panic!("{points:?}") };
    let probe = place.json(&format!("out/points/{point}/probe.json"));
    let found = at(&probe, "found.0.value").as_i64().unwrap();
    assert!(found > 1 && text(at(&probe, "found.0"), "line").contains("Maximum concurrency"), "{probe}");
    let effective = place.json(&format!("out/points/{point}/effective.json"));
    assert_eq!(at(&effective, "requested.max_num_seqs").as_i64(), Some(found));
    assert_eq!(at(&effective, "effective.max_num_seqs").as_i64(), Some(found), "the server runs with it");
    assert_eq!(at(&effective, "differences").as_array().map(Vec::len), Some(0), "{effective}");
    let command = place.read(&format!("out/points/{point}/command.txt"));
    assert!(command.contains(&format!("--max-num-seqs {found}")), "{command}");
    let [cell] = &place.list("out/cells")[..] else { panic!("one cell") };
    let state = place.json(&format!("out/cells/{cell}/attempt-1/state.json"));
    let history = at(&state, "history").as_array().unwrap();
    assert!(history.iter().any(|step| text(step, "state") == "probing"), "{state}");

    // A start of its own, with what is known: no second probe.
    let again = place.servelab("run study.yaml --root out --only eager_true --retry all").run().expect(0);
    assert!(!again.stderr.contains("probed"), "{}", again.stderr);
    let rows = place.servelab("report study.yaml --root out --json").run().expect(0).json();
    let row = at(&rows, "rows").as_array().unwrap().iter().find(|row| text(row, "state") == "done").unwrap();
    assert_eq!(number(row, "max_num_seqs") as i64, found);
    assert!(number(row, "kv_cache_tokens") > 0.0 && number(row, "server_ready_s") > 0.0, "{row}");
    assert!(number(row, "prom_queue_time_mean_ms") >= 0.0 && number(row, "prom_ttft_mean_ms") > 0.0, "{row}");
    let folder = text(&rows, "folder");
    let report = place.read(&format!("{folder}/report.txt"));
    assert!(report.contains("Servers") && report.contains("KV cache (tokens)"), "{report}");

    let lock = place.json(&format!("out/points/{point}/env.lock.json"));
    assert_eq!(at(&lock, "schema").as_i64(), Some(2));
    assert!(!text(at(&lock, "machine"), "host").is_empty());
    assert!(text(at(&lock, "absent"), "nccl").contains("Python"), "{lock}");
}

#[test]
fn a_probe_that_finds_nothing_fails_with_its_reason() {
    let place = place();
    let study = probing(r"no such line ([\d]+)").replace("kind: sim,", "kind: sim, start_timeout_s: 2,");
    place.write("study.yaml", &study);
    let out = place.servelab("run study.yaml --root out --only eager_true").run().expect(1);
    out.says("probe_failed").says("no such line");
}

#[test]
fn an_installed_engine_is_asked_about_every_flag_set_before_anything_is_started() {
    let place = place();
    let python = place.path().join("python3");
    place.write(
        "python3",
        "#!/bin/sh\ncat > /dev/null\n\
         echo '@servelab {\"version\": \"0.32.0\"}'\n\
         echo '@servelab {\"index\": 0, \"config\": {\"scheduler_config\": {\"max_num_seqs\": 4}}}'\n\
         echo '@servelab {\"index\": 1, \"refused\": \"vllm: error: unrecognized arguments: --x\"}'\n",
    );
    place.write("vllm", &format!("#!{}\n", python.display()));
    for name in ["python3", "vllm"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.path().join(name), mode).unwrap();
    }
    place.write("study.yaml", &TINY.replace("kind: sim", "kind: vllm"));
    let engine = place.path().join("vllm");
    let ask = |json: &str| {
        let command = place.servelab(&format!("plan study.yaml --check-engine {json} --engine-bin"));
        command.args([&engine]).run().expect(1)
    };
    let text_form = ask("").stdout;
    assert!(text_form.contains("of 2 distinct flag sets it takes 1"), "{text_form}");
    assert!(
        text_form.contains("REFUSED: seqs_64 (serve)") && text_form.contains("unrecognized arguments"),
        "{text_form}"
    );
    let json = ask("--json").json();
    assert_eq!(text(at(&json, "engine_check"), "engine_version"), "0.32.0");
    assert_eq!(text(at(&json, "engine_check.sets.1"), "status"), "refused");
    assert_eq!(at(&json, "points").as_array().map(Vec::len), Some(2), "the plan is there as ever");

    place.write("sim.yaml", TINY);
    place.servelab("plan sim.yaml --check-engine").run().expect(2).says("installed vLLM or SGLang");
}
