use std::collections::BTreeMap;

use super::*;
use crate::flags::Dialect;
use crate::model;
use crate::plan::{Plan, PlanStatus};
use crate::source::SourceMap;
use crate::study::{self, Study};
use crate::yaml;

mod loads;

/// A study from text, expanded; problems come back rendered.
struct Harness {
    files: BTreeMap<String, String>,
    site: Site,
    winners: Option<Vec<PointId>>,
}

impl Harness {
    fn new(study: &str) -> Self {
        let mut site = Site::local();
        site.gpus.per_node = Some(8);
        site.hardware.gpu = Some("H200-SXM-141GB".into());
        site.hardware.nodes = Some(8);
        Self { files: BTreeMap::from([("s.yaml".to_owned(), study.to_owned())]), site, winners: None }
    }

    fn example(name: &str) -> Self {
        let dir = format!("{}/../../examples", env!("CARGO_MANIFEST_DIR"));
        let mut harness = Self::new(&std::fs::read_to_string(format!("{dir}/{name}")).unwrap());
        for file in std::fs::read_dir(&dir).unwrap().flatten() {
            if file.path().is_file() {
                let name = file.file_name().to_string_lossy().into_owned();
                harness.files.insert(name, std::fs::read_to_string(file.path()).unwrap());
            }
        }
        let mut sources = SourceMap::default();
        let text = harness.files["s.yaml"].clone();
        let id = sources.add("s.yaml", text.clone());
        let doc = yaml::parse(id, &text).unwrap();
        let inherited = || {
            let parent = doc.get("extends").and_then(|node| node.as_text()).unwrap();
            let id = SourceMap::default().add(parent, "");
            yaml::parse(id, &harness.files[parent]).unwrap().get("site").unwrap().as_text().unwrap().to_owned()
        };
        let site = doc.get("site").and_then(|node| node.as_text()).map_or_else(inherited, str::to_owned);
        let text = std::fs::read_to_string(format!("{dir}/sites/{site}.yaml")).unwrap();
        let id = sources.add("site.yaml", text.clone());
        harness.site = yaml::from_node(&yaml::parse(id, &text).unwrap()).unwrap();
        harness
    }

    fn with_input<T>(
        &self,
        run: impl FnOnce(&ExpandInput<'_>) -> Result<T, crate::source::Diagnostic>,
    ) -> Result<T, String> {
        let mut sources = SourceMap::default();
        let mut read = |path: &str| self.files.get(path).cloned().ok_or_else(|| "there is no such file".to_owned());
        let mut inner = || {
            let doc = study::compose::load("s.yaml", &mut read, &mut sources)?;
            let study: Study = yaml::from_node(&doc)?;
            study::check::check(&study, &doc)?;
            let version = study.engine.version.as_deref().map(|text| VersionSpec::parse(text).unwrap());
            let flags = Dialect::of_engine(study.engine.kind.name())
                .map(|dialect| FlagTable::builtin(dialect, version.as_ref()));
            let model = model::builtin_model(&study.model.id);
            let gpu = self.site.hardware.gpu.as_deref().and_then(model::builtin_gpu);
            let datasets = study
                .workloads
                .iter()
                .map(|(name, workload)| {
                    let bounds = workload.dataset.length_bounds();
                    let hash = |file: &crate::workload::FileSpec| Ok::<_, ()>(format!("hash of {}", file.path));
                    let facts = DatasetFacts {
                        content: workload.dataset.content_key(hash).unwrap(),
                        max_input_tokens: bounds.map(|bounds| bounds.input.max),
                        max_output_tokens: bounds.map(|bounds| bounds.output.max),
                    };
                    (name.to_owned(), facts)
                })
                .collect();
            let path = study.model.path.clone().unwrap_or_else(|| study.model.id.clone());
            Ok::<_, crate::source::Diagnostic>((doc, study, version, flags, model, gpu, datasets, path))
        };
        let outcome = inner().and_then(|(doc, study, version, flags, model, gpu, datasets, path)| {
            run(&ExpandInput {
                study: &study,
                doc: &doc,
                site: &self.site,
                version: version.as_ref(),
                flags: flags.as_ref(),
                model: model.as_deref(),
                gpu,
                model_path: &path,
                tokenizer: "builtin",
                tokenizer_path: None,
                datasets: &datasets,
                winners: &|_| self.winners.clone(),
            })
        });
        outcome.map_err(|diagnostic| diagnostic.render(&sources))
    }

    fn plan(&self) -> Result<Plan, String> {
        self.with_input(expand)
    }
}

fn counts(plan: &Plan) -> [u64; 6] {
    let counts = plan.counts;
    [
        counts.raw_points,
        counts.labelled_points,
        counts.points,
        counts.feasible_points,
        counts.point_workloads,
        counts.infeasible_point_workloads,
    ]
}

#[test]
fn document_001_phases() {
    let plan = Harness::example("glm46-phases.yaml").plan().unwrap();
    assert_eq!(counts(&plan)[..3], [217, 164, 160]);
    let raw: Vec<u64> = plan.designs.iter().map(|design| design.raw_points).collect();
    assert_eq!(raw, [96, 4, 108, 6, 3]);
    // EP 64: 160 + 16 experts do not divide, 160 + 32 do.
    let eplb = plan
        .points
        .iter()
        .filter(|point| point.status == PlanStatus::Infeasible && point.reasons[0].contains("176"))
        .count();
    assert_eq!(eplb, 27, "{:?}", plan.points.iter().map(|p| &p.reasons).collect::<Vec<_>>());
}

#[test]
fn document_000_labels_points_and_hashes() {
    let plan = Harness::example("glm46-focused.yaml").plan().unwrap();
    assert_eq!(counts(&plan)[..3], [16, 16, 15]);
    let hashes: BTreeMap<&str, &str> = plan
        .points
        .iter()
        .flat_map(|point| point.legacy_hashes.iter())
        .map(|(label, hash)| (label.as_str(), hash.as_str()))
        .collect();
    let expected = BTreeMap::from([
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
    ]);
    assert_eq!(hashes, expected);
    let shared = plan.points.iter().find(|point| point.labels.len() == 2).unwrap();
    assert_eq!(shared.labels, ["batch_16384_seqs_256", "ep_pplx"]);
}

#[test]
fn document_002_ablation() {
    let plan = Harness::example("glm46-ablation.yaml").plan().unwrap();
    assert_eq!(counts(&plan), [20, 20, 13, 11, 15, 4]);
    let infeasible: Vec<(String, &str, String)> = plan
        .cells
        .iter()
        .filter(|cell| cell.status == PlanStatus::Infeasible)
        .map(|cell| {
            let point = plan.points.iter().find(|point| point.id == cell.point).unwrap();
            (point.labels.join("="), cell.workload.as_str(), cell.reasons.join("; "))
        })
        .collect();
    let named: Vec<(&str, &str)> = infeasible.iter().map(|(label, workload, _)| (label.as_str(), *workload)).collect();
    assert_eq!(named, [("1A=2A=3A=4B=5A=6A=7A=8A", "64k"), ("3B", "64k"), ("3C", "64k"), ("4C", "64k")]);
    assert!(infeasible.iter().all(|(.., reason)| !reason.is_empty()));
}

#[test]
fn document_003_topologies() {
    let plan = Harness::example("pd-gptoss.yaml").plan().unwrap();
    let find = |label: &str| {
        plan.points.iter().find(|point| point.labels.iter().any(|l| l == label)).unwrap_or_else(|| panic!("{label}"))
    };
    let check = |label: &str, expected: &[(&str, u32, u32)], nodes: u32| {
        let point = find(label);
        let roles: Vec<(&str, u32, u32)> = point
            .roles
            .iter()
            .filter(|role| role.role != "router")
            .map(|role| (role.role.as_str(), role.count, role.gpus))
            .collect();
        assert_eq!((roles.as_slice(), point.nodes), (expected, nodes), "{label}");
        assert_eq!(point.status, PlanStatus::Planned, "{label}: {:?}", point.reasons);
    };
    check("8xTP1", &[("serve", 8, 8)], 1);
    check("1P-TP2+1D-TP4", &[("prefill", 1, 2), ("decode", 1, 4)], 1);
    check("8P-TP1+4D-TP2", &[("prefill", 8, 8), ("decode", 4, 8)], 2);
    check("2P-TP4+2D-TP4", &[("prefill", 2, 8), ("decode", 2, 8)], 2);
    check("1P-TP4+1D-TP4-spread", &[("prefill", 1, 4), ("decode", 1, 4)], 2);
    check("3P-TP2+1D-TP2", &[("prefill", 3, 6), ("decode", 1, 2)], 1);
    let spread = find("1P-TP4+1D-TP4-spread");
    let nodes: Vec<Vec<u32>> =
        spread.roles[..2].iter().map(|role| role.placement[0].node_gpus.keys().copied().collect()).collect();
    assert_eq!(nodes, [vec![0], vec![1]]);
    // The packed pair of the network comparison is one of the single-node shapes.
    assert_eq!(find("1P-TP4+1D-TP4").labels, ["1P-TP4+1D-TP4-pack", "1P-TP4+1D-TP4"]);
}

#[test]
fn document_004_experiments() {
    let plan = Harness::example("profiling-llama8b.yaml").plan().unwrap();
    let gpus: Vec<(&str, u32)> = plan.points.iter().map(|point| (point.labels[0].as_str(), point.gpus)).collect();
    assert_eq!(gpus, [("E1.1_llama8b_baseline", 1), ("E1.2_llama8b_tp2", 2), ("E1.3_llama8b_tp4", 4)]);
    assert!(plan.cells.iter().all(|cell| cell.workload == OFFLINE_WORKLOAD && cell.status == PlanStatus::Planned));
}

#[test]
fn the_quick_test_extends_the_phases() {
    let plan = Harness::example("glm46-quick-test.yaml").plan().unwrap();
    assert_eq!(counts(&plan)[..3], [1, 1, 1]);
    assert_eq!(plan.cells[0].settings.stop, crate::plan::StopAt::Requests(100));
}

const SMALL: &str = r#"schema: 1
study: small
engine: {kind: sim, version: "0.32.*"}
model: {id: meta-llama/Llama-3.1-8B}
serve: {max_model_len: 8192}
workloads:
  chat: {dataset: {synth: {input_tokens: 100, output_tokens: 10}}}
load: {closed: {concurrency: [1, 2]}, stop: {requests: 4}}
designs:
  g: {grid: {max_num_seqs: [1, 2], enforce_eager: [true, false]}}
"#;

#[test]
fn ids_depend_on_content_only() {
    let ids = |text: &str| -> Vec<String> {
        let plan = Harness::new(text).plan().unwrap();
        plan.points
            .iter()
            .map(|point| point.id.to_string())
            .chain(plan.cells.iter().map(|c| c.id.to_string()))
            .collect()
    };
    let base = ids(SMALL);
    let same = [
        SMALL.replace("study: small", "study: other # comment"),
        SMALL.replace("max_model_len: 8192", "max_model_len: 8192.0"),
        SMALL.replace("  chat:", "  talk:"),
        SMALL.replace("g: {grid", "renamed: {purpose: words, label: \"x_{max_num_seqs}_{enforce_eager}\", grid"),
        SMALL.replace("load:", "slo: {cell: {ttft_p95_ms: 5}}\nbudget: {max_jobs: 3}\nload:"),
        SMALL.replace("model: {id: meta-llama/Llama-3.1-8B}", "model: {path: /elsewhere, id: meta-llama/Llama-3.1-8B}"),
        SMALL
            .replace("serve: {max_model_len: 8192}", "deploy: {tp: 1, mode: collocated}\nserve: {max-model-len: 8192}"),
    ];
    for text in same {
        assert_eq!(ids(&text), base, "{text}");
    }
    let other = [
        SMALL.replace("8192", "4096"),
        SMALL.replace("0.32.*", "0.31.*"),
        SMALL.replace("serve:", "env: {VLLM_USE_V1: \"1\"}\nserve:"),
        SMALL.replace("serve:", "deploy: {tp: 2}\nserve:"),
    ];
    for text in other {
        assert!(ids(&text).iter().all(|id| !base.contains(id)), "{text}");
    }
    // Other loads make other cells of the same points.
    let loaded = ids(&SMALL.replace("requests: 4", "requests: 5"));
    assert_eq!(loaded[..4], base[..4]);
    assert!(loaded[4..].iter().all(|id| !base.contains(id)));
}

#[test]
fn equal_points_run_once() {
    let text = SMALL.replace("designs:\n", "designs:\n  l: {list: {a: {max_num_seqs: 1, enforce_eager: true}, b: {enforce_eager: true, max_num_seqs: 1}}}\n");
    let plan = Harness::new(&text).plan().unwrap();
    assert_eq!(plan.points.len(), 4);
    assert_eq!(plan.points[0].labels, ["a", "b", "g/max_num_seqs=1,enforce_eager=true"]);
    assert_eq!(plan.cells.len(), 8);
}

#[test]
fn structured_settings_are_one_however_written() {
    let a = SMALL.replace("{max_model_len: 8192}", "{speculative_config: {method: ngram, num_speculative_tokens: 2}}");
    let b = SMALL.replace(
        "{max_model_len: 8192}",
        "{speculative_config.num_speculative_tokens: 2, speculative_config.method: ngram}",
    );
    let first = |text: &str| Harness::new(text).plan().unwrap().points[0].id.clone();
    assert_eq!(first(&a), first(&b));
    // Null takes a setting of the base away.
    let gone = a.replace("g: {grid: {max_num_seqs", "g: {set: {speculative_config: ~}, grid: {max_num_seqs");
    let bare = SMALL.replace("serve: {max_model_len: 8192}\n", "");
    assert_eq!(first(&gone), first(&bare));
}

#[test]
fn a_blocked_design_says_what_it_waits_for() {
    let text = format!(
        "{SMALL}  next: {{from: {{design: g, pick: {{maximise: goodput}}}}, grid: {{kv_cache_dtype: [auto, fp8]}}}}\n"
    );
    let plan = Harness::new(&text).plan().unwrap();
    assert_eq!(plan.points.len(), 4);
    assert!(plan.designs[1].blocked.as_deref().unwrap().contains("design `g`"));
}

#[test]
fn winners_become_the_base_of_the_next_design() {
    let text = format!(
        "{SMALL}  next: {{from: {{design: g, pick: {{maximise: goodput}}}}, grid: {{kv_cache_dtype: [auto, fp8]}}}}\n"
    );
    let mut harness = Harness::new(&text);
    let first = harness.plan().unwrap();
    let winner = first.points.iter().find(|point| point.labels[0] == "g/max_num_seqs=2,enforce_eager=false").unwrap();
    harness.winners = Some(vec![winner.id.clone()]);
    let plan = harness.plan().unwrap();
    assert_eq!(plan.points[..4], first.points[..4], "earlier points do not change");
    let labels: Vec<&str> = plan.points[4..].iter().map(|point| point.labels[0].as_str()).collect();
    let base = "next/g/max_num_seqs=2,enforce_eager=false";
    assert_eq!(labels, [format!("{base}/kv_cache_dtype=auto"), format!("{base}/kv_cache_dtype=fp8")]);
    assert_eq!(plan.points[5].config["serve"]["max_num_seqs"], 2);
    assert!(plan.designs[1].blocked.is_none());
}

#[test]
fn summary_agrees_with_the_plan() {
    for name in [
        "glm46-phases.yaml",
        "glm46-focused.yaml",
        "glm46-ablation.yaml",
        "pd-gptoss.yaml",
        "profiling-llama8b.yaml",
        "quickstart.yaml",
    ] {
        let harness = Harness::example(name);
        let plan = harness.plan().unwrap();
        let summary = harness.with_input(summarise).unwrap();
        assert_eq!(summary.counts, plan.counts, "{name}");
    }
}

#[test]
fn mistakes_are_found_at_their_line() {
    let check = |from: &str, to: &str, expected: &[&str]| {
        assert!(SMALL.contains(from), "{from}");
        let error = Harness::new(&SMALL.replace(from, to)).plan().unwrap_err();
        for part in expected {
            assert!(error.contains(part), "`{part}` is not in:\n{error}");
        }
    };
    check(
        "max_model_len: 8192",
        "max_model_ln: 8192",
        &["unknown setting `max_model_ln`", "s.yaml:5:9", "did you mean `max_model_len`?"],
    );
    check("workloads:", "worklods:", &["unknown key `worklods`", "s.yaml:6:1", "did you mean `workloads`?"]);
    check("concurrency: [1, 2]", "concurrency: [0]", &["`concurrency` must be at least 1", "s.yaml:8"]);
    check("stop: {requests: 4}", "stop: {requests: 4, duration_s: 3}", &["exactly one of", "s.yaml:8"]);
    check("max_num_seqs: [1, 2]", "max_num_seqs: [1, 1.0]", &["has the value `1` twice", "s.yaml:10"]);
    check("max_num_seqs: [1, 2]", "max_num_seqs: []", &["has no values"]);
    check(
        "enforce_eager: [true, false]",
        "enforce_eager: {when: max_num_seq > 1, in: [true]}",
        &["unknown name `max_num_seq`", "did you mean `max_num_seqs`?"],
    );
    check("enforce_eager: [true, false]", "enforce_eager: {when: \"max_num_seqs >\", in: [true]}", &["s.yaml:10"]);
    check("g: {grid", "g: {with: [chatt], grid", &["unknown workload `chatt`", "did you mean `chat`?"]);
    check("designs:\n", "baseline: g\ndesigns:\n", &["the baseline `g` is no point", "s.yaml:9:11"]);
    check("input_tokens: 100,", "input_tokens: 0,", &["s.yaml:7"]);
    check("schema: 1", "schema: 2", &["study format 2", "s.yaml:1:9", "newer servelab"]);
    check("study: small", "study: ../up", &["cannot name a folder"]);
}

#[test]
fn unused_and_circular_definitions_are_errors() {
    let text = SMALL
        .replace("  chat:", "  spare: {dataset: {suite: quick_test}}\n  chat:")
        .replace("g: {grid", "g: {with: chat, grid");
    let error = Harness::new(&text).plan().unwrap_err();
    assert!(error.contains("workload `spare` is not used"), "{error}");
    let mut harness = Harness::new(&format!("{SMALL}extends: a.yaml\n"));
    harness.files.insert("a.yaml".into(), "extends: s.yaml\n".into());
    let error = harness.plan().unwrap_err();
    assert!(error.contains("circle: s.yaml → a.yaml → s.yaml") && error.contains("a.yaml:1:10"), "{error}");
}

#[test]
fn shapes_and_ratios_parse_or_explain() {
    assert!(parse_shape("1P-TP2+1D-TP4").is_ok());
    assert!(parse_shape("4xTP2").is_ok());
    for bad in ["", "1P+1D", "0xTP2", "P-TP2+D-TP2", "1P-TP2+1D-TP0", "x", "+"] {
        assert!(parse_shape(bad).is_err(), "{bad}");
    }
    assert_eq!(parse_ratio("3:1"), Ok((3, 1)));
    assert!(parse_ratio("3").is_err() && parse_ratio("0:1").is_err());
}

#[test]
fn summaries_group_reasons_by_their_words() {
    let summary = Harness::example("glm46-ablation.yaml").with_input(summarise).unwrap();
    let reasons: Vec<(&String, &u64)> = summary.infeasible_reasons.iter().collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert_eq!(*reasons[0].1, 2);
    assert!(reasons[0].0.contains("GLM-4.6") && reasons[0].0.contains("parallel size N requires"), "{reasons:?}");
}
