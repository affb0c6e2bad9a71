//! `servelab plan`: the five example studies with the counts of the requirement documents, the form of the JSON, and that
//! planning is deterministic and leaves no trace.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use servelab_testkit::{Output, at, keys, number, strings, text};

use super::{example, place};

const EXAMPLES: [&str; 7] = [
    "glm46-phases",
    "glm46-quick-test",
    "glm46-focused",
    "glm46-ablation",
    "pd-gptoss",
    "profiling-llama8b",
    "quickstart",
];

fn plan(name: &str) -> Value {
    let place = place();
    place.servelab("plan --json").args([example(name)]).run().expect(0).json()
}

fn list<'a>(value: &'a Value, path: &str) -> &'a Vec<Value> {
    at(value, path).as_array().unwrap()
}

fn count(value: &Value, name: &str) -> u64 {
    at(value, &format!("counts.{name}")).as_u64().unwrap()
}

/// The point with this label.
#[track_caller]
fn labelled<'a>(plan: &'a Value, label: &str) -> &'a Value {
    let mut points = list(plan, "points").iter().filter(|point| strings(point, "labels").contains(&label));
    let point = points.next().unwrap_or_else(|| panic!("no point is called {label}"));
    assert!(points.next().is_none(), "{label} names two points");
    point
}

fn n_labels(plan: &Value) -> usize {
    list(plan, "points").iter().map(|point| strings(point, "labels").len()).sum()
}

#[test]
fn document_001_the_five_phases() {
    let plan = plan("glm46-phases");
    assert_eq!(count(&plan, "raw_points"), 217);
    assert_eq!(count(&plan, "labelled_points"), 164);
    assert_eq!(count(&plan, "points"), 160);
    assert_eq!((list(&plan, "points").len(), n_labels(&plan)), (160, 164));
    let phases: BTreeMap<&str, (u64, u64)> = list(&plan, "designs")
        .iter()
        .map(|design| {
            let n = |key: &str| at(design, key).as_u64().unwrap();
            (text(design, "name"), (n("raw_points"), n("labelled_points")))
        })
        .collect();
    let expected = [
        ("memory_batch", (96, 96)),
        ("quantization_caching", (4, 4)),
        ("expert_parallel", (108, 57)),
        ("chunked_prefill", (6, 4)),
        ("scheduler", (3, 3)),
    ];
    assert_eq!(phases, BTreeMap::from(expected));
    // 160 experts over 64 ranks: 32 redundant ones fit, 16 do not, and only under EPLB does it matter.
    let infeasible: Vec<&Value> =
        list(&plan, "points").iter().filter(|point| text(point, "status") == "infeasible").collect();
    let eplb = infeasible.iter().filter(|point| text(point, "reasons.0").contains("EPLB"));
    assert_eq!((infeasible.len(), eplb.count()), (28, 27));
    let settings = infeasible.iter().filter_map(|point| at(point, "config.serve").get("eplb"));
    assert!(settings.into_iter().all(|eplb| number(eplb, "num_redundant_experts") == 16.0));
    assert!(strings(&plan, "warnings").iter().any(|warning| warning.contains("num_scheduler_steps")));
}

#[test]
fn document_001_one_phase_and_the_quick_test() {
    let place = place();
    let phase = place.servelab("plan --json --design scheduler").args([example("glm46-phases")]).run().expect(0).json();
    assert_eq!(list(&phase, "points").len(), 3);
    let quick = plan("glm46-quick-test");
    let points = list(&quick, "points");
    assert_eq!((points.len(), list(&quick, "cells").len()), (1, 1));
    assert_eq!(number(&points[0], "config.serve.max_model_len"), 16384.0);
    assert_eq!(at(&quick, "cells.0.load").to_string(), r#"{"arrival":"poisson","kind":"open","rate_per_s":5.0}"#);
}

#[test]
fn document_000_sixteen_labels_fifteen_points_and_every_older_hash() {
    let plan = plan("glm46-focused");
    assert_eq!((list(&plan, "points").len(), n_labels(&plan)), (15, 16));
    let mut hashes = BTreeMap::new();
    for point in list(&plan, "points") {
        for (label, hash) in at(point, "legacy_hashes").as_object().unwrap() {
            hashes.insert(label.clone(), hash.as_str().unwrap().to_owned());
        }
    }
    let expected = [
        ("baseline_conservative", "9b6f4b39"),
        ("batch_8192_seqs_128", "6cd2bdd3"),
        ("batch_8192_seqs_256", "e2d27c22"),
        ("batch_8192_seqs_512", "ab1ac75a"),
        ("batch_16384_seqs_128", "7ad2141c"),
        ("batch_16384_seqs_256", "5ee123b8"),
        ("batch_16384_seqs_512", "8ec7ab0f"),
        ("batch_32768_seqs_128", "6ac86abf"),
        ("batch_32768_seqs_256", "485a5396"),
        ("batch_32768_seqs_512", "27aa356a"),
        ("fp8_batch_16384", "e07256a0"),
        ("fp8_batch_32768", "2594871d"),
        ("ep_pplx", "8051b7d5"),
        ("ep_deepep_low_latency", "6244069d"),
        ("eplb_enabled", "1c91ae1c"),
        ("aggressive_max_throughput", "d8eabc0d"),
    ];
    let expected = expected.map(|(label, hash)| (label.to_owned(), hash.to_owned()));
    assert_eq!(hashes, BTreeMap::from(expected));
    assert_eq!(strings(labelled(&plan, "ep_pplx"), "labels"), ["batch_16384_seqs_256", "ep_pplx"]);
    // Sixteen hours one after the other would be the document's 128 node-hours; one of the sixteen is a duplicate.
    assert_eq!(number(&plan, "node_hours.sequential"), 120.0);
    let place = place();
    let only = place.servelab("plan --json --only 8051b7d5").args([example("glm46-focused")]).run().expect(0).json();
    assert_eq!(text(&only, "points.0.id"), text(labelled(&plan, "ep_pplx"), "id"));
}

#[test]
fn document_002_the_ablation() {
    let plan = plan("glm46-ablation");
    assert_eq!((n_labels(&plan), list(&plan, "points").len(), list(&plan, "cells").len()), (20, 13, 15));
    assert_eq!(
        strings(labelled(&plan, "1A"), "labels"),
        ["1A", "2A", "3A", "4B", "5A", "6A", "7A", "8A"],
        "the base under all its names"
    );
    let infeasible = |label: &str, workload: &str| -> String {
        let point = text(labelled(&plan, label), "id");
        let mut cells = list(&plan, "cells")
            .iter()
            .filter(|cell| text(cell, "point") == point && text(cell, "workload") == workload);
        let cell = cells.next().unwrap_or_else(|| panic!("{label} × {workload} is not planned"));
        assert_eq!(text(cell, "status"), "infeasible", "{label} × {workload}");
        strings(cell, "reasons").join("; ")
    };
    for (label, workload, words) in [
        ("3A", "64k", vec!["prompt does not fit", "48,000", "32,768"]),
        ("4C", "64k", vec!["prompt fits, the answer does not", "112,000", "65,536"]),
        ("3B", "64k", vec!["decode context parallel size 2", "KV heads"]),
        ("3C", "64k", vec!["decode context parallel size 4", "KV heads"]),
    ] {
        let reason = infeasible(label, workload);
        for word in words {
            assert!(reason.contains(word), "{label}: {reason}");
        }
    }
    let runnable = list(&plan, "cells").iter().filter(|cell| text(cell, "status") == "planned").count();
    assert_eq!(runnable, 11);
}

/// label → nodes, and per role its instances, its GPUs and the nodes that it stands on.
#[test]
fn document_003_every_shape_with_gpus_and_node_map() {
    let plan = plan("pd-gptoss");
    type Role = (&'static str, u64, u64, &'static [&'static str]);
    const ONE: &[&str] = &["0"];
    const OTHER: &[&str] = &["1"];
    let shapes: [(&str, u64, &[Role]); 18] = [
        ("8xTP1", 1, &[("serve", 8, 8, ONE)]),
        ("4xTP2", 1, &[("serve", 4, 8, ONE)]),
        ("2xTP4", 1, &[("serve", 2, 8, ONE)]),
        ("3P-TP2+1D-TP2", 1, &[("prefill", 3, 6, ONE), ("decode", 1, 2, ONE)]),
        ("2P-TP2+1D-TP2", 1, &[("prefill", 2, 4, ONE), ("decode", 1, 2, ONE)]),
        ("1P-TP2+1D-TP2", 1, &[("prefill", 1, 2, ONE), ("decode", 1, 2, ONE)]),
        ("1P-TP2+2D-TP2", 1, &[("prefill", 1, 2, ONE), ("decode", 2, 4, ONE)]),
        ("1P-TP2+3D-TP2", 1, &[("prefill", 1, 2, ONE), ("decode", 3, 6, ONE)]),
        ("1P-TP4+1D-TP4-pack", 1, &[("prefill", 1, 4, ONE), ("decode", 1, 4, ONE)]),
        ("1P-TP4+1D-TP4-spread", 2, &[("prefill", 1, 4, ONE), ("decode", 1, 4, OTHER)]),
        ("4P-TP1+2D-TP2", 1, &[("prefill", 4, 4, ONE), ("decode", 2, 4, ONE)]),
        ("2P-TP2+2D-TP2", 1, &[("prefill", 2, 4, ONE), ("decode", 2, 4, ONE)]),
        ("1P-TP2+1D-TP4", 1, &[("prefill", 1, 2, ONE), ("decode", 1, 4, ONE)]),
        ("1P-TP4+1D-TP4", 1, &[("prefill", 1, 4, ONE), ("decode", 1, 4, ONE)]),
        ("8P-TP1+4D-TP2", 2, &[("prefill", 8, 8, ONE), ("decode", 4, 8, OTHER)]),
        ("4P-TP2+4D-TP2", 2, &[("prefill", 4, 8, ONE), ("decode", 4, 8, OTHER)]),
        ("4P-TP2+2D-TP4", 2, &[("prefill", 4, 8, ONE), ("decode", 2, 8, OTHER)]),
        ("2P-TP4+2D-TP4", 2, &[("prefill", 2, 8, ONE), ("decode", 2, 8, OTHER)]),
    ];
    assert_eq!(n_labels(&plan), shapes.len(), "no shape beside those of the document");
    for (label, nodes, roles) in shapes {
        let point = labelled(&plan, label);
        assert_eq!(text(point, "status"), "planned", "{label}");
        assert_eq!(at(point, "nodes").as_u64(), Some(nodes), "{label}");
        let with_gpus: Vec<&Value> =
            list(point, "roles").iter().filter(|role| at(role, "gpus").as_u64() > Some(0)).collect();
        assert_eq!(with_gpus.len(), roles.len(), "{label}");
        let mut taken = BTreeSet::new();
        for (role, (name, count, gpus, on)) in with_gpus.iter().zip(roles) {
            let n = |key: &str| at(role, key).as_u64().unwrap();
            assert_eq!((text(role, "role"), n("count"), n("gpus")), (*name, *count, *gpus), "{label}");
            let placement = list(role, "placement");
            assert_eq!(placement.len() as u64, *count, "{label}: one place per instance");
            let mut seen = BTreeSet::new();
            for instance in placement {
                for (node, gpus) in at(instance, "node_gpus").as_object().unwrap() {
                    seen.insert(node.as_str());
                    for gpu in gpus.as_array().unwrap() {
                        assert!(gpu.as_u64() < Some(8), "{label}: a node has eight GPUs");
                        assert!(taken.insert((node.clone(), gpu.to_string())), "{label}: GPU {gpu} is used twice");
                    }
                }
            }
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), *on, "{label}: {name}");
        }
        assert_eq!(taken.len() as u64, at(point, "gpus").as_u64().unwrap(), "{label}");
    }
    let closed: BTreeSet<u64> =
        list(&plan, "cells").iter().map(|cell| at(cell, "load.concurrency").as_u64().unwrap()).collect();
    assert_eq!(closed, BTreeSet::from([4, 8, 16, 32, 64]));
    let stops: BTreeSet<u64> =
        list(&plan, "cells").iter().map(|cell| at(cell, "settings.stop.requests").as_u64().unwrap()).collect();
    assert_eq!(stops, BTreeSet::from([20, 40, 80, 160, 320]), "five requests per slot");
}

#[test]
fn document_004_tensor_parallel_scaling() {
    let plan = plan("profiling-llama8b");
    assert_eq!(list(&plan, "points").len(), 3);
    for (label, gpus) in [("E1.1_llama8b_baseline", 1), ("E1.2_llama8b_tp2", 2), ("E1.3_llama8b_tp4", 4)] {
        let point = labelled(&plan, label);
        assert_eq!(at(point, "gpus").as_u64(), Some(gpus), "{label}");
        let argv = strings(point, "roles.0.argv");
        let tp = argv.iter().position(|word| *word == "--tensor-parallel-size").map(|at| argv[at + 1]);
        assert_eq!(tp.unwrap_or("1"), gpus.to_string(), "{label}");
    }
    for cell in list(&plan, "cells") {
        assert_eq!(text(cell, "load.kind"), "offline");
        let n = |key: &str| at(cell, &format!("load.{key}")).as_u64().unwrap();
        assert_eq!((n("batch_size"), n("seq_len"), n("max_tokens")), (4, 2048, 512));
    }
}

/// Keys and types that scripts rely on (CONTRACT).
#[test]
fn the_json_has_the_form_that_scripts_rely_on() {
    let hex = |text: &str, least: usize| text.len() >= least && text.bytes().all(|b| b.is_ascii_hexdigit());
    for name in EXAMPLES {
        let plan = plan(name);
        assert_eq!(at(&plan, "schema").as_u64(), Some(1), "{name}");
        assert!(!text(&plan, "study").is_empty() && at(&plan, "jobs").is_u64(), "{name}");
        for path in ["node_hours.sequential", "wall_hours.sequential", "wall_hours.parallel"] {
            assert!(number(&plan, path) >= 0.0, "{name}: {path}");
        }
        strings(&plan, "warnings");
        let mut ids = BTreeSet::new();
        for point in list(&plan, "points") {
            let id = text(point, "id");
            assert!(hex(id, 12) && ids.insert(id), "{name}: {id}");
            assert!(!strings(point, "labels").is_empty(), "{name}");
            for hash in at(point, "legacy_hashes").as_object().unwrap().values() {
                assert!(hex(hash.as_str().unwrap(), 8), "{name}: {hash}");
            }
            keys(at(point, "config"));
            assert!(["planned", "infeasible", "blocked"].contains(&text(point, "status")), "{name}");
            strings(point, "reasons");
            for role in list(point, "roles") {
                assert!(["serve", "prefill", "decode", "router"].contains(&text(role, "role")), "{name}");
                assert!(at(role, "count").is_u64() && at(role, "gpus").is_u64(), "{name}");
                assert!(!strings(role, "argv").is_empty() || text(role, "role") == "router", "{name}");
                keys(at(role, "env"));
            }
        }
        let mut cells = BTreeSet::new();
        for cell in list(&plan, "cells") {
            assert!(hex(text(cell, "id"), 12) && cells.insert(text(cell, "id")), "{name}");
            assert!(ids.contains(text(cell, "point")), "{name}");
            assert!(!text(cell, "workload").is_empty() && at(cell, "repeat").is_u64(), "{name}");
            text(cell, "status");
            strings(cell, "reasons");
            match text(cell, "load.kind") {
                "closed" => assert!(at(cell, "load.concurrency").is_u64(), "{name}"),
                "open" => assert!(number(cell, "load.rate_per_s") > 0.0 && !text(cell, "load.arrival").is_empty()),
                kind => assert_eq!(kind, "offline", "{name}"),
            }
        }
        let infeasible = list(&plan, "cells").iter().filter(|cell| text(cell, "status") == "infeasible");
        assert!(infeasible.into_iter().all(|cell| !strings(cell, "reasons").is_empty()), "{name}");
    }
}

#[test]
fn planning_is_deterministic_and_leaves_no_trace() {
    let place = place();
    let study = place.write("s/study.yaml", servelab_testkit::TINY);
    let before = place.files();
    let run = |format: &str| -> Output { place.servelab(&format!("plan {format}")).args([&study]).run().expect(0) };
    for format in ["--json", "--summary", "", "--manifest"] {
        let first = run(format);
        assert!(!first.stdout.is_empty() && first.stdout == run(format).stdout, "plan {format}");
    }
    assert_eq!(place.files(), before, "plan writes nothing");
    let other = place.servelab("plan --json --root elsewhere").args([&study]).run().expect(0);
    assert_eq!(other.stdout, run("--json").stdout);
    assert_eq!(place.files(), before, "not even the root");
}

#[test]
fn plan_write_leaves_the_study_s_folder_and_no_point_or_cell() {
    let place = place();
    let study = place.write("study.yaml", servelab_testkit::TINY);
    let said = place.servelab("plan --write --json --root out").args([&study]).run().expect(0);
    assert_eq!(place.list("out/studies/tiny"), ["MANIFEST.md", "labels.json", "plan.json", "study.yaml"]);
    assert!(place.list("out/points").is_empty() && place.list("out/cells").is_empty());
    let plan = said.json();
    assert_eq!(place.json("out/studies/tiny/plan.json"), plan);
    let labels = place.json("out/studies/tiny/labels.json");
    assert_eq!(keys(&labels), BTreeSet::from(["seqs_4", "seqs_64"]));
    assert_eq!(text(&labels, "seqs_4"), text(labelled(&plan, "seqs_4"), "id"));
    // What was stored is a study again, and the same one.
    let again = place.servelab("plan --json out/studies/tiny/study.yaml").run().expect(0).json();
    assert_eq!(again["points"], plan["points"]);
    assert_eq!(again["cells"], plan["cells"]);
}

/// What is cosmetic never changes an id; what is measured always does.
#[test]
fn ids_follow_the_meaning_only() {
    let tiny = servelab_testkit::TINY;
    let ids = |text_of_study: &str, extra: &str| -> (Vec<String>, Vec<String>) {
        let place = place();
        let study = place.write("somewhere/else.yaml", text_of_study);
        let plan = place.servelab(&format!("plan --json {extra}")).args([&study]).run().expect(0).json();
        let of = |path: &str| list(&plan, path).iter().map(|entry| text(entry, "id").to_owned()).collect();
        (of("points"), of("cells"))
    };
    let (points, cells) = ids(tiny, "");
    for (what, changed) in [
        ("comments", format!("# a remark\n{tiny}# another\n")),
        ("the study's name", tiny.replace("study: tiny", "study: other")),
        ("labels", tiny.replace("seqs_{max_num_seqs}", "n{max_num_seqs}")),
        (
            "key order",
            tiny.replace(
                "{max_model_len: 4096, max_num_batched_tokens: 2048}",
                "{max_num_batched_tokens: 2048, max_model_len: 4096}",
            ),
        ),
        ("number spelling", tiny.replace("max_model_len: 4096", "max_model_len: 4096.0")),
        ("an SLO", format!("{tiny}slo: {{cell: {{ttft_p95_ms: 10}}}}\n")),
        ("a budget", format!("{tiny}budget: {{max_jobs: 3}}\n")),
    ] {
        assert_eq!(ids(&changed, ""), (points.clone(), cells.clone()), "{what}");
    }
    for (what, changed, extra) in [
        ("a setting", tiny.replace("4096", "8192"), ""),
        ("the model", tiny.replace("3.1-8B", "3.1-70B"), ""),
        ("another engine", tiny.to_owned(), "--engine vllm"),
    ] {
        let (other_points, other_cells) = ids(&changed, extra);
        assert!(other_points.iter().all(|id| !points.contains(id)), "{what}");
        assert!(other_cells.iter().all(|id| !cells.contains(id)), "{what}");
    }
    for (what, changed, extra) in [
        ("the prompts", tiny.replace("seed: 7", "seed: 8"), ""),
        ("the load", tiny.replace("[2]", "[3]"), ""),
        ("the number of requests", tiny.to_owned(), "--max-requests 3"),
    ] {
        let (other_points, other_cells) = ids(&changed, extra);
        assert_eq!(other_points, points, "{what}");
        assert!(other_cells.iter().all(|id| !cells.contains(id)), "{what}");
    }
}

/// Six factors with ten values each are counted, not written out.
#[test]
fn a_million_points_are_summarised() {
    let place = place();
    let grid: String = [
        ("max_num_seqs", 8.0),
        ("max_num_batched_tokens", 8192.0),
        ("block_size", 16.0),
        ("gpu_memory_utilization", 0.0625),
        ("max_model_len", 2048.0),
        ("seed", 1.0),
    ]
    .iter()
    .map(|(name, step)| {
        let values: Vec<String> = (1..=10).map(|i| (f64::from(i) * step).to_string()).collect();
        format!("      {name}: [{}]\n", values.join(", "))
    })
    .collect();
    let study = servelab_testkit::TINY.replace(
        "  batch: {grid: {max_num_seqs: [4, 64]}, label: \"seqs_{max_num_seqs}\"}\n",
        &format!("  batch:\n    grid:\n{grid}"),
    );
    let study = place.write("large.yaml", &study);
    let out = place.servelab("plan --summary").args([&study]).run().expect(0);
    assert!(out.stdout.contains("1,000,000 raw combinations") && out.stdout.contains("1,000,000 distinct"));
    // Under 5 s as released; a debug build on a busy machine gets more.
    assert!(out.elapsed.as_secs() < 60, "{:?}", out.elapsed);
}
