//! `import`, `compare` and `best` as a user types them.

use servelab_testkit::{Place, TINY, at, number, samples, text};

use super::{place, repository};

fn fixtures(below: &str) -> String {
    let path = repository().join("crates/servelab-store/tests/fixtures/import").join(below);
    path.to_string_lossy().into_owned()
}

/// TINY with three repeats, run once.
fn ran() -> Place {
    let place = place();
    place.write("study.yaml", &format!("{TINY}repeats: {{n: 3}}\n"));
    place.servelab("run study.yaml --root out").run().expect(0);
    place
}

#[test]
fn import_prints_stores_and_reports() {
    let place = place();
    let all = place.servelab("import --json").args([fixtures("")]).run().expect(0).json();
    let formats: std::collections::BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|one| text(one, "format")).collect();
    for format in ["vllm-bench", "guidellm", "guidellm-yaml", "guidellm-csv", "inference-perf", "genai-bench"] {
        assert!(formats.contains(format), "{formats:?}");
    }
    for one in all.as_array().unwrap() {
        assert!(at(one, "result.client").is_null() && at(one, "result.import.unknown.client").is_string());
        assert_eq!(at(one, "result.verdict"), at(one, "verdict"));
    }
    let out = place.servelab("import --root lab").args([fixtures("")]).run().expect(0);
    assert!(out.stdout.contains("duplicate_data"), "the YAML holds the run of the JSON: {}", out.stdout);
    out.says("stored");
    place.servelab("import --root lab").args([fixtures("")]).run().expect(0).says("stored 0 cells");
    let report = place.servelab("report lab/studies/imported/study.yaml --root lab").run().expect(0).stdout;
    assert!(report.contains("gptoss_itl48_otl12_sim") && report.contains("duplicate_data"), "{report}");
    place.servelab("import nowhere").run().expect(2).says("nowhere");
    place.write("empty/notes.txt", "nothing");
    place.servelab("import empty").run().expect(2).says("there is no result");
    place.servelab("import --strict").args([fixtures("guidellm"), fixtures("guidellm-yaml")]).run().expect(1);
}

#[test]
fn published_results_of_document_001() {
    let Some(results) = samples("samples/results") else { return };
    let place = place();
    let out = place.servelab("import --root lab").args([results]).run().expect(0).stdout;
    for words in ["NOTHING HERE CAN BE RANKED", "saturated", "zero_token_successes", "metrics_missing", "success_low"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let report = place.servelab("report lab/studies/imported/study.yaml --root lab").run().expect(0).stdout;
    assert!(report.contains("NOTHING CAN BE RANKED"), "{report}");
    place.servelab("best lab/studies/imported/study.yaml --root lab").run().expect(1);
}

#[test]
fn compare_points_and_files() {
    let place = ran();
    let out = place.servelab("compare seqs_4 seqs_64 --root out --json").run().expect(0).json();
    let found = at(&out, "comparisons").as_array().unwrap();
    assert!(found.len() >= 8 && found.iter().all(|one| at(one, "is_paired") == true), "{out}");
    assert_eq!((number(&found[0], "a.n"), at(&out, "verdict.ok")), (3.0, &serde_json::Value::Bool(true)));
    let one = place.servelab("compare seqs_4 seqs_64 --root out --metric ttft_p95_ms").run().expect(0).stdout;
    assert!(one.contains("TTFT P95 (ms)") && one.contains("3 pairs") && !one.contains("Throughput"), "{one}");

    // The same file twice is no comparison.
    let file = fixtures("vllm/gptoss_itl48_otl12_sim/conc4.json");
    place.servelab("compare --strict").args([&file, &file]).run().expect(1);
    let out = place.servelab("compare --json").args([&file, &fixtures("vllm-rs")]).run().expect(0).json();
    let codes: Vec<&str> =
        at(&out, "verdict.reasons").as_array().unwrap().iter().map(|reason| text(reason, "code")).collect();
    assert!(codes.contains(&"one_repeat"), "{codes:?}");
    assert!(at(&out, "comparisons").as_array().unwrap().iter().all(|one| text(one, "call") == "unknown"));

    place.servelab("compare seqs_4 seqs_65 --root out").run().expect(2).says("did you mean `seqs_64`?");
    place.servelab("compare seqs_4 seqs_64 --root out --metric ttft_p42_ms").run().expect(2).says("ttft_p");
    place.servelab("compare seqs_4 seqs_64 --root nowhere").run().expect(2).says("nowhere");
    place.servelab("compare seqs_4 seqs_64 --root out --margin 0").run().expect(2).says("--margin");
}

#[test]
fn best_answers_and_emits_what_is_used_next() {
    let place = ran();
    let out = place.servelab("best study.yaml --root out --objective -ttft_p95_ms --json").run().expect(0).json();
    let answer = at(&out, "workloads.0");
    let ranking = at(answer, "ranking").as_array().unwrap();
    assert_eq!((ranking.len(), number(&ranking[0], "rank"), number(&ranking[0], "n")), (2, 1.0, 3.0));
    assert!(number(&ranking[0], "mean") <= number(&ranking[1], "mean"));
    let words = place.servelab("best study.yaml --root out").run().expect(0).stdout;
    assert!(words.contains("(simulated)") && words.contains("scatter of repeats"), "{words}");

    let study = place.servelab("best study.yaml --root out --emit study").run().expect(0).stdout;
    place.write("validate.yaml", &study);
    let plan = place.servelab("plan validate.yaml --json").run().expect(0).json();
    assert_eq!((at(&plan, "points").as_array().unwrap().len(), at(&plan, "cells").as_array().unwrap().len()), (1, 3));
    // The point that is validated is the point that won.
    let winner = text(at(answer, "best"), "point").to_owned();
    let by_throughput = place.servelab("best study.yaml --root out --json").run().expect(0).json();
    let points = [winner.as_str(), text(at(&by_throughput, "workloads.0.best"), "point")];
    assert!(points.contains(&text(at(&plan, "points.0"), "id")), "{points:?}");
    assert!(study.contains("\"requests\": 1000"), "{study}");
    let command = place.servelab("best study.yaml --root out --emit vllm-command").run().expect(0).stdout;
    assert!(command.contains("--max-num-seqs"), "{command}");
    place.servelab("best study.yaml --root out --workload talk").run().expect(2).says("workloads: chat");
    place.servelab("best study.yaml --root empty").run().expect(1).says("servelab run study.yaml");
}
