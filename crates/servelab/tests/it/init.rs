//! `servelab init`: a study to start from that plans and runs at once, and studies made of older configuration files whose
//! older hashes stay what they were.

use md5::{Digest as _, Md5};
use serde_json::Value;
use servelab_testkit::{at, samples, text};

use super::place;

#[test]
fn what_init_writes_plans_and_runs() {
    let place = place();
    place.servelab("init first").run().expect(0).says("servelab plan first/study.yaml");
    assert_eq!(place.list("first"), ["sites", "study.yaml"]);
    assert_eq!(place.list("first/sites"), ["here.yaml"]);
    assert!(
        place.read("first/study.yaml").lines().filter(|line| line.contains('#')).count() > 15,
        "it explains itself"
    );
    let plan = place.servelab("plan first/study.yaml --json").run().expect(0).json();
    assert_eq!(text(&plan, "study"), "first");
    let points = at(&plan, "points").as_array().unwrap();
    assert!(points.len() >= 2 && points.iter().all(|point| text(point, "status") == "planned"));
    place.servelab("run first/study.yaml --root out --max-requests 4 --max-cells 1").run().expect(0);
    assert_eq!(place.states("out").len(), 1);
}

#[test]
fn nothing_is_overwritten() {
    let place = place();
    place.write("study.yaml", "mine");
    let before = place.files();
    place.servelab("init").run().expect(2).says("`./study.yaml` exists already").says("servelab init DIR");
    place.servelab("init .").run().expect(2);
    assert_eq!(place.files(), before);
    let place = super::place();
    place.write("x/sites/here.yaml", "mine");
    place.servelab("init x").run().expect(2).says("exists already");
    assert_eq!(place.list("x"), ["sites"], "all files or none");
}

/// Python's `json.dumps(config, sort_keys=True)`: what the older framework hashed.
fn python_dumps(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.into_iter().map(|(key, value)| format!("\"{key}\": {}", python_dumps(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

fn older_hash(config: &Value) -> String {
    let digest = Md5::digest(python_dumps(config).as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

const OLDER: &str = r#"{"model_path": "org/model", "num_nodes": 1, "gpus_per_node": 8, "tensor_parallel_size": 8,
  "dtype": "bfloat16", "trust_remote_code": true, "swap_space_gb": 4, "max_model_len": 32768, "name": "NAME",
  "gpu_memory_utilization": 0.9, "max_num_batched_tokens": 8192, "max_num_seqs": SEQS, "kv_cache_dtype": "auto",
  "enable_prefix_caching": false, "enable_chunked_prefill": true}"#;

#[test]
fn older_json_keeps_its_hashes() {
    let place = place();
    let mut expected = Vec::new();
    for (name, seqs) in [("small", "64"), ("large", "512")] {
        let config = OLDER.replace("NAME", name).replace("SEQS", seqs);
        place.write(&format!("old/{name}.json"), &config);
        expected.push((name, older_hash(&servelab_testkit::parse(&config))));
    }
    place.servelab("init new --from old/small.json old/large.json").run().expect(0).says("2 points");
    let plan = place.servelab("plan new/study.yaml --json").run().expect(0).json();
    let points = at(&plan, "points").as_array().unwrap();
    for (name, hash) in expected {
        let point = points.iter().find(|point| at(point, "legacy_hashes").get(name).is_some()).unwrap();
        assert_eq!(text(point, &format!("legacy_hashes.{name}")), hash, "{name}");
    }
}

#[test]
fn published_configurations_keep_their_hashes() {
    let Some(folder) = samples("samples/results/legacy-configs") else { return };
    let mut n = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        n += 1;
        let expected = older_hash(&servelab_testkit::parse(&std::fs::read_to_string(&path).unwrap()));
        let place = place();
        place.servelab("init new --from").args([&path]).run().expect(0);
        let plan = place.servelab("plan new/study.yaml --json").run().expect(0).json();
        let hashes = at(&plan, "points.0.legacy_hashes").as_object().unwrap();
        assert_eq!(hashes.values().collect::<Vec<_>>(), [&Value::from(expected)], "{}", path.display());
    }
    assert!(n >= 4, "{n} configurations");
}

#[test]
fn profiling_experiments_become_a_study() {
    let place = place();
    for (id, tp) in [("E1.1_llama8b_baseline", 1), ("E1.2_llama8b_tp2", 2)] {
        place.write(
            &format!("old/{id}.yaml"),
            &format!(
                "experiment_id: {id}\ndescription: scaling\nmodel: {{name: meta-llama/Llama-3.1-8B, precision: bfloat16}}\n\
                 parallelism: {{tp: {tp}, pp: 1, dp_replicate: 1, dp_shard: 1, ep: 1}}\n\
                 data: {{batch_size: 4, seq_len: 2048, max_tokens: 512}}\n\
                 warmup_iterations: 2\nprofile_iterations: 5\noutput_dir: traces\n"
            ),
        );
    }
    place.servelab("init new --from old/E1.1_llama8b_baseline.yaml old/E1.2_llama8b_tp2.yaml").run().expect(0);
    let plan = place.servelab("plan new/study.yaml --json").run().expect(0).json();
    let points = at(&plan, "points").as_array().unwrap();
    let gpus: Vec<(&str, u64)> =
        points.iter().map(|point| (text(point, "labels.0"), at(point, "gpus").as_u64().unwrap())).collect();
    assert_eq!(gpus, [("E1.1_llama8b_baseline", 1), ("E1.2_llama8b_tp2", 2)]);
    assert_eq!(
        at(&plan, "cells.0.load").to_string(),
        r#"{"batch_size":4,"kind":"offline","max_tokens":512,"seq_len":2048}"#
    );
}

#[test]
fn what_cannot_be_converted_is_named() {
    let place = place();
    place.write("list.json", "[1]");
    place.write("a.json", &OLDER.replace("NAME", "a").replace("SEQS", "1"));
    place.write("b.json", &OLDER.replace("NAME", "a").replace("SEQS", "2"));
    place.write("c.json", &OLDER.replace("NAME", "c").replace("SEQS", "2").replace("org/model", "org/other"));
    place.write("d.yaml", "experiment_id: d\nmodel: {name: m}\n");
    for (files, says) in [
        (vec!["list.json"], "no configuration"),
        (vec!["a.json", "b.json"], "both called `a`"),
        (vec!["a.json", "c.json"], "different models"),
        (vec!["a.json", "d.yaml"], "two kinds"),
        (vec!["none.json"], "there is no such file"),
    ] {
        let out = place.servelab("init new --from").args(files.clone()).run().expect(2);
        assert!(out.stderr.contains(says), "{files:?}: {}", out.stderr);
    }
    assert!(place.list("new").is_empty());
}
