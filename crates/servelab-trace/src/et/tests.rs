use std::io::Write as _;

use super::node::element_bytes;
use super::*;
use crate::nsys::fixture::sample;

#[test]
fn a_real_trace_of_two_gloo_processes_gives_operators_collectives_and_groups() {
    for rank in [0, 1] {
        let Some(path) = sample(&format!("et/gloo2_et_rank{rank}.json.gz")) else { return };
        let trace = read(&path).unwrap();
        assert_eq!(
            (trace.schema.as_str(), trace.broke_off.as_deref(), trace.n_bad_nodes),
            ("1.1.1-chakra.0.0.4", None, 0)
        );
        assert_eq!(trace.world_size, Some(2));
        assert!(!trace.is_hollow());
        assert_eq!(trace.operators["aten::addmm"], 4);
        let all_reduces: Vec<&EtCollective> =
            trace.collectives.iter().filter(|collective| collective.operator == "c10d::allreduce_").collect();
        assert_eq!(all_reduces.len(), 8);
        assert_eq!(all_reduces[0].in_elements, Some(128 * 64));
        assert_eq!(all_reduces[0].dtype.as_deref(), Some("float"));
        assert!(all_reduces[0].rf_id.is_some());
        assert!(trace.collectives.iter().all(|collective| collective.level == 1), "gloo's own calls are the same ones");
    }
}

#[test]
fn the_older_schema_is_read_too() {
    let Some(path) = sample("et/linear_et.json.gz") else { return };
    let trace = read(&path).unwrap();
    assert_eq!((trace.schema.as_str(), trace.n_nodes), ("1.0.1", 931));
    assert_eq!(trace.operators["aten::mm"], 41);
    assert_eq!(trace.shapes["aten::relu"][0].1, 21);
    assert!(trace.collectives.is_empty() && trace.notes().is_empty());
}

const NODE: &str = r#"{"id": 9, "name": "record_param_comms", "inputs": {"values": [], "shapes": [], "types": []}, "attrs": [
  {"name": "rf_id", "value": 77}, {"name": "collective_name", "value": "_allgather_base"}, {"name": "dtype", "value": "BFloat16"},
  {"name": "in_msg_nelems", "value": 1024}, {"name": "out_msg_nelems", "value": 8192}, {"name": "pg_name", "value": "3"},
  {"name": "pg_size", "value": 8}]}"#;

#[test]
fn collectives_with_attributes_win_over_operators() {
    let text = format!(
        r#"{{"schema": "1.1.1-chakra.0.0.4", "pid": 5, "nodes": [
        {{"id": 3, "name": "c10d::_allgather_base_", "inputs": {{"values": [], "shapes": [[4]], "types": ["Tensor(float)"]}}, "attrs": []}},
        {NODE}], "finish_ts": 3}}"#
    );
    let trace = from_reader(text.as_bytes()).unwrap();
    assert_eq!(
        trace.collectives,
        [EtCollective {
            rf_id: Some(77),
            operator: "record_param_comms".to_owned(),
            kind: "_allgather_base".to_owned(),
            group: Some("3".to_owned()),
            group_size: Some(8),
            in_elements: Some(1024),
            out_elements: Some(8192),
            dtype: Some("bfloat16".to_owned()),
            level: 0,
        }]
    );
}

#[test]
fn a_hollow_trace_is_called_hollow() {
    let text = r###"{"schema": "1.1.1-chakra.0.0.4", "pid": 1, "nodes": [
        {"id": 2, "name": "[pytorch|profiler|execution_trace|thread]", "attrs": [{"name": "scope", "value": 7}]},
        {"id": 3, "name": "## process_group:init ##", "inputs": {"values": ["[{\"pg_name\": \"0\", \"pg_desc\": \"default_pg\", \"group_size\": 4}]"]}}
        ]}"###;
    let trace = from_reader(text.as_bytes()).unwrap();
    assert!(trace.is_hollow());
    assert_eq!(trace.world_size, Some(4));
    assert!(trace.notes()[0].1.contains("hollow: 2 nodes"));
}

#[test]
fn a_trace_that_ends_early_gives_what_came_before() {
    let whole = format!(r#"{{"schema": "1.1.1", "nodes": [{NODE}, {NODE}, {NODE}]}}"#);
    let trace = from_reader(&whole.as_bytes()[..whole.len() - NODE.len()]).unwrap();
    assert_eq!((trace.n_nodes, trace.collectives.len()), (2, 2));
    assert!(trace.notes()[0].1.contains("breaks off after 2 nodes"));
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(whole.as_bytes()).unwrap();
    let zipped = zipped.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch_et_0.json.gz");
    std::fs::write(&path, &zipped).unwrap();
    assert_eq!(read(&path).unwrap().n_nodes, 3);
    std::fs::write(&path, &zipped[..zipped.len() / 2]).unwrap();
    match read(&path) {
        Ok(trace) => assert!(trace.broke_off.is_some()),
        Err(error) => assert!(error.to_string().contains("torch_et_0"), "{error}"),
    }
}

#[test]
fn other_json_is_refused() {
    for text in ["", "[]", "{}", "{\"traceEvents\": []}", "\u{0}", "{\"schema\": 3, \"nodes\": 4}"] {
        assert!(from_reader(text.as_bytes()).is_err(), "{text}");
    }
    let odd = r#"{"schema": "9", "nodes": [1, null, {"name": 4}, {"name": "aten::add", "inputs": 3, "attrs": {}}]}"#;
    let trace = from_reader(odd.as_bytes()).unwrap();
    assert_eq!((trace.n_bad_nodes, trace.n_operators()), (3, 1));
}

#[test]
fn element_types_have_a_size() {
    for (name, bytes) in [("float", 4), ("c10::BFloat16", 2), ("Float8_e4m3fn", 1), ("long int", 8)] {
        assert_eq!(element_bytes(name), Some(bytes), "{name}");
    }
    assert_eq!(element_bytes("whatever"), None);
}
