use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

fn one(line: &str) -> Sample {
    let exposition = parse(line);
    assert_eq!((exposition.samples.len(), exposition.bad_lines), (1, 0), "{line}");
    exposition.samples.into_iter().next().unwrap()
}

fn labels(sample: &Sample) -> Vec<(&str, &str)> {
    sample.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn lines() {
    let plain = one("up 1");
    assert_eq!((plain.name.as_str(), plain.value, plain.timestamp), ("up", 1.0, None));
    let vllm = one(r#"vllm:num_requests_running{engine="0",model_name="tiny"} 3.0"#);
    assert_eq!(
        (vllm.name.as_str(), labels(&vllm)),
        ("vllm:num_requests_running", vec![("engine", "0"), ("model_name", "tiny")])
    );
    let escaped = one(r#"a{p="C:\\x",q="say \"hi\"",n="1\n2",u="\d"} 1"#);
    assert_eq!(labels(&escaped), [("p", r"C:\x"), ("q", "say \"hi\""), ("n", "1\n2"), ("u", r"\d")]);
    let tricky = one(r#"a{path="}{,=#"} 2 1700000000000"#);
    assert_eq!((labels(&tricky), tricky.timestamp), (vec![("path", "}{,=#")], Some(1_700_000_000_000.0)));
    assert_eq!(labels(&one("a{ x = \"1\" , y=\"2\", } 1")), [("x", "1"), ("y", "2")]);
    assert_eq!(one("a{} 1").labels, []);
    assert_eq!(one("a_bucket{le=\"+Inf\"} 17 # {trace_id=\"abc\"} 0.67 1.5").value, 17.0);
    assert_eq!(one("a_created 1.7e9").value, 1.7e9);
    assert_eq!(one("a +Inf").value, f64::INFINITY);
    assert_eq!(one("a -Inf").value, f64::NEG_INFINITY);
    assert!(one("a NaN").value.is_nan());
    assert_eq!(one("  a\t1  ").value, 1.0);
    assert_eq!(one(r#"{"my.metric",a="b"} 4"#).name, "my.metric");
    assert_eq!(one(r#"m{k="ünï😀"} 1"#).labels[0].1, "ünï😀");
}

#[test]
fn odd_lines_are_counted_and_cost_nothing_else() {
    let text = "# HELP a b\n# TYPE a counter\n\na 1\nnot a metric line\n9x 1\nb{ 1\nb{x} 1\nb{x=\"1} 1\nb{=\"1\"} 1\nb{x=\"1\"\nc 1 2 3\nd x\ne\nf 2\n# EOF\n";
    let exposition = parse(text);
    let names: Vec<&str> = exposition.samples.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!((names, exposition.bad_lines), (vec!["a", "f"], 10));
}

#[test]
fn records_have_the_engine_apart_and_labels_in_canonical_form() {
    let record = one(r#"m{z="1",engine="3",a="q\"\\\n"} 2"#).into_record(5, "node1");
    assert_eq!((record.t_ns, record.node.as_str(), record.engine.as_str()), (5, "node1", "3"));
    assert_eq!((record.metric.as_str(), record.labels.as_str(), record.value), ("m", r#"a="q\"\\\n",z="1""#, 2.0));
    let bare = one("m 1").into_record(0, "n");
    assert_eq!((bare.engine.as_str(), bare.labels.as_str()), ("", ""));
}

proptest! {
    #[test]
    fn samples_round_trip(name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,12}", pairs in prop::collection::vec(("[a-zA-Z_][a-zA-Z0-9_]{0,6}", ".{0,8}|[\"\\\\\n{},=# ]{0,6}"), 0..4), value in any::<f64>(), timestamp in prop::option::of(0_i64..1 << 50)) {
        // A carriage return has no escape in the format, and other line ends split lines for nobody.
        let pairs: Vec<(String, String)> = pairs.into_iter().map(|(key, text)| (key, text.replace('\r', ""))).collect();
        let mut line = format!("{name}{{");
        for (key, text) in &pairs {
            let mut escaped = String::new();
            escape(text, &mut escaped);
            line += &format!("{key}=\"{escaped}\",");
        }
        line += &format!("}} {value:?}");
        if let Some(timestamp) = timestamp {
            line += &format!(" {timestamp}");
        }
        let sample = one(&line);
        prop_assert_eq!(sample.name, name);
        prop_assert_eq!(sample.labels, pairs);
        prop_assert_eq!(sample.timestamp, timestamp.map(|t| t as f64));
        prop_assert!(sample.value == value || sample.value.is_nan() && value.is_nan());
    }

    #[test]
    fn never_panics(text in "[a-z:{}\"\\\\=,#0-9 .\n\u{e9}]{0,60}") {
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')).count();
        let exposition = parse(&text);
        prop_assert_eq!(exposition.samples.len() as u64 + exposition.bad_lines, lines as u64);
    }
}

#[test]
fn real_vllm_pages() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples/vllm/api");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: no metric pages at {}", folder.display());
        return;
    };
    let mut n_pages = 0;
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("metrics") || name.ends_with(".headers") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let n_lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        let exposition = parse(&text);
        assert_eq!((exposition.samples.len(), exposition.bad_lines), (n_lines, 0), "{name}");
        if !text.is_empty() {
            let has = |metric: &str| exposition.samples.iter().any(|sample| sample.name == metric);
            assert!(has("vllm:num_preemptions_total") && has("vllm:kv_cache_usage_perc"), "{name}");
            n_pages += 1;
        }
        if name == "metrics_dp2.txt" {
            let engines: Vec<String> = exposition
                .samples
                .into_iter()
                .filter(|sample| sample.name == "vllm:num_requests_running")
                .map(|sample| sample.into_record(0, "n").engine)
                .collect();
            assert_eq!(engines, ["0", "1"]);
        }
    }
    assert!(n_pages >= 8, "{n_pages} pages");
}
