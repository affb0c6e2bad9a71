//! What a study may ask of a run beside its cells: greedy answers for the accuracy guard, and profiles. Neither touches a
//! measured cell, and both are taken up by a later run where they are missing.

use servelab_testkit::{Place, TINY, at, number, text};

use super::place;

fn ids(place: &Place) -> Vec<(String, String)> {
    let plan = place.json("out/studies/tiny/plan.json");
    let points = at(&plan, "points").as_array().unwrap();
    points.iter().map(|point| (text(point, "labels.0").to_owned(), text(point, "id").to_owned())).collect()
}

fn folder_of(place: &Place, label: &str) -> String {
    let (_, id) = ids(place).into_iter().find(|(known, _)| known == label).unwrap();
    format!("out/points/{id}")
}

#[test]
fn answers_are_compared_with_the_baselines() {
    let place = place();
    let guard = "baseline: seqs_4\naccuracy: {prompts: 5, max_tokens: 8, max_mismatch: 0.3}\n";
    place.write("study.yaml", &format!("{TINY}{guard}"));
    let plan = place.servelab("plan study.yaml").run().expect(0);
    assert!(!plan.stdout.contains("not carried out"), "{}", plan.stdout);
    place.servelab("run study.yaml --root out").run().expect(0).says("5 of 5 greedy answers kept");
    let report = |place: &Place| place.servelab("report study.yaml --root out --json").run().expect(0).json();
    let first = report(&place);
    for row in at(&first, "rows").as_array().unwrap() {
        assert_eq!((number(row, "accuracy_exact_match"), text(row, "verdict")), (1.0, "ok"), "{row}");
    }

    // As if another configuration had answered otherwise: two of five, and the report says so without a new run.
    let path = format!("{}/answers.json", folder_of(&place, "seqs_64"));
    let mut answers = place.json(&path);
    assert_eq!(at(&answers, "answers").as_array().map(Vec::len), Some(5));
    for answer in answers["answers"].as_array_mut().unwrap().iter_mut().take(2) {
        answer["text"] = "something else".into();
        answer["tokens"] = serde_json::json!([]);
    }
    place.write(&path, &answers.to_string());
    let second = report(&place);
    let rows = at(&second, "rows").as_array().unwrap();
    let row = rows.iter().find(|row| text(row, "labels") == "seqs_64").unwrap();
    assert_eq!((number(row, "accuracy_exact_match"), text(row, "verdict")), (0.6, "accuracy_drop"), "{row}");
    let page = place.read(&format!("{}/report.txt", text(&second, "folder")));
    assert!(page.contains("40.0 % of 5 greedy answers differ") && page.contains("Accuracy"), "{page}");

    // Answers that are missing are asked for by the next run, on a server of their own; the cells stay as they are.
    std::fs::remove_file(place.path().join(&path)).unwrap();
    let again = place.servelab("run study.yaml --root out").run().expect(0);
    again.says("2 finished earlier").says("5 of 5 greedy answers kept");
    let third = report(&place);
    for row in at(&third, "rows").as_array().unwrap() {
        assert_eq!((number(row, "accuracy_exact_match"), number(row, "attempt")), (1.0, 1.0), "{row}");
    }
    place.servelab("run study.yaml --root out").run().expect(0).says("nothing left to do");
    place.wait_until_quiet();
}

#[test]
fn a_profile_is_a_run_of_its_own_whose_traces_join_the_point() {
    let place = place();
    let (head, _) = TINY.split_once("load:").unwrap();
    let study = format!(
        "{head}load: {{offline: {{batch_size: 2, seq_len: 32, max_tokens: 6}}, stop: {{requests: 2}}}}\n\
         deploy: {{tp: 2}}\n\
         designs:\n  batch: {{grid: {{max_num_seqs: [4]}}, label: \"seqs_{{max_num_seqs}}\"}}\n\
         profile: {{warmup_iterations: 1, profile_iterations: 3, torch: {{ranks: all, execution_trace: true}}, nsys: {{trace: [cuda]}}}}\n"
    );
    place.write("study.yaml", &study);
    let plan = place.servelab("plan study.yaml").run().expect(0);
    assert!(!plan.stdout.contains("not carried out"), "{}", plan.stdout);
    // No nsys here: its absence has a reason, and costs nothing else.
    let command = || place.servelab("run study.yaml --root out").env("PATH", "/nonexistent");
    command().run().expect(0).says("profiling seqs_4: 1 + 3 iterations of 2 requests");
    let folder = format!("{}/profile", folder_of(&place, "seqs_4"));
    let record = place.json(&format!("{folder}/profile.json"));
    assert_eq!(at(&record, "files"), &serde_json::json!(["kineto_trace_0.json", "kineto_trace_1.json"]));
    assert_eq!((number(&record, "completed"), number(&record, "output_tokens")), (6.0, 36.0), "{record}");
    for absent in ["nsys", "torch_et_0", "torch_et_1"] {
        assert!(!text(at(&record, "absent"), absent).is_empty(), "{record}");
    }
    let files = place.list(&folder);
    for file in ["timing_stats_0.json", "timing_stats_1.json", "trace_report.json", "workload_card.yaml"] {
        assert!(files.iter().any(|name| name == file), "{file} is not among {files:?}");
    }
    let card = place.read(&format!("{folder}/workload_card.yaml"));
    assert!(card.contains("batch_size: 2") && card.contains("tp: 2"), "{card}");
    // The steps are those of the trace: three batches of six tokens, whose requests may enter in steps of their own.
    let timing = place.json(&format!("{folder}/timing_stats_0.json"));
    let steps = at(&timing, "iteration_times_s").as_array().unwrap().len();
    assert!((10..=36).contains(&steps), "{steps} steps");
    let point = folder.trim_end_matches("/profile");
    let command_line = place.read(&format!("{point}/command.txt"));
    assert!(!command_line.contains("profiler"), "the measured server had none: {command_line}");
    assert!(place.read(&format!("{folder}/command.txt")).contains("--profiler-config"));
    let rows = place.servelab("report study.yaml --root out --json").run().expect(0).json();
    let csv = place.read(&format!("{}/results.csv", text(&rows, "folder")));
    assert!(csv.lines().next().unwrap().contains("trace_"), "{csv}");
    command().run().expect(0).says("nothing left to do");
    place.wait_until_quiet();
}
