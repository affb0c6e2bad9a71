//! Round trips, the contract's columns, damage of every kind, and a full disk.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

/// A record in which every field has its own value, so that swapped columns show.
fn full(idx: i64) -> RequestRecord {
    let t = |n: i64| Some(idx * 1_000 + n);
    RequestRecord {
        request_idx: idx,
        phase: Phase::Drain,
        response_id: Some(format!("cmpl-{idx}")),
        t_sched: idx * 1_000 + 1,
        t_slot: t(2),
        t_conn0: t(3),
        t_conn1: t(4),
        t_send: t(5),
        t_hdr: t(6),
        t_first: t(7),
        t_out: t(8),
        t_last: t(9),
        t_usage: t(10),
        t_done: t(11),
        input_tokens: t(12),
        output_tokens: t(13),
        requested_output_tokens: t(14),
        n_first: t(15),
        token_source: Some(TokenSource::ContinuousUsage),
        event_token_source: Some(TokenSource::EventCount),
        finish_reason: Some("länge".into()),
        failure_code: Some("http_5xx".into()),
        http_status: Some(503),
        server_queue_ms: Some(0.25),
        server_ttft_ms: Some(f64::MIN_POSITIVE),
        server_itl_ms: Some(0.1),
        server_e2e_ms: Some(f64::MAX),
        bytes_received: i64::MAX,
    }
}

fn sample(idx: i64) -> PromSample {
    PromSample {
        t_ns: idx,
        node: "n0".into(),
        engine: "1".into(),
        metric: "vllm:kv_cache_usage_perc".into(),
        labels: "model_name=\"a\\\"b\"".into(),
        value: if idx == 1 { f64::INFINITY } else { 0.5 },
    }
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    (dir, path)
}

#[test]
fn records_come_back_as_they_were() {
    let (_dir, path) = temporary();
    let requests: Vec<RequestRecord> = (0..9_000)
        .map(|idx| if idx % 3 == 0 { full(idx) } else { RequestRecord::scheduled(idx, Phase::Window, -idx) })
        .collect();
    write_requests(&path, &requests).unwrap();
    assert_eq!(read_requests(&path).unwrap(), requests);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");

    // More than one row group.
    let events: Vec<EventRecord> =
        (0..300_000).map(|n| EventRecord { request_idx: n % 7, t_ns: n * 1_003, n_tokens: 1 }).collect();
    write_events(&path, &events).unwrap();
    assert_eq!(read_events(&path).unwrap(), events);

    let samples: Vec<PromSample> = (0..4).map(sample).collect();
    write_prom(&path, &samples).unwrap();
    assert_eq!(read_prom(&path).unwrap(), samples);

    write_events(&path, &[]).unwrap();
    assert_eq!(read_events(&path).unwrap(), []);
}

#[test]
fn files_have_the_columns_of_the_contract() {
    let (_dir, path) = temporary();
    let names = |path: &Path| {
        let columns = file::column_names(path).unwrap();
        columns.into_iter().map(|(name, kind)| format!("{name}:{kind}")).collect::<Vec<_>>().join(" ")
    };
    write_requests(&path, &[full(1)]).unwrap();
    let requests = names(&path);
    let required = "request_idx phase response_id t_sched t_slot t_conn0 t_conn1 t_send t_hdr t_first t_out t_last t_usage t_done \
                    input_tokens output_tokens n_first token_source finish_reason failure_code server_queue_ms server_ttft_ms";
    for name in required.split_whitespace() {
        let kind = if name.starts_with("t_") { ":INT64" } else { ":" };
        assert!(requests.contains(&format!("{name}{kind}")), "{name} in {requests}");
    }
    write_events(&path, &[]).unwrap();
    assert_eq!(names(&path), "request_idx:INT64 t_ns:INT64 n_tokens:INT32");
    write_prom(&path, &[]).unwrap();
    assert_eq!(
        names(&path),
        "t_ns:INT64 node:BYTE_ARRAY engine:BYTE_ARRAY metric:BYTE_ARRAY labels:BYTE_ARRAY value:DOUBLE"
    );
}

#[test]
fn another_table_a_newer_schema_and_a_missing_column_are_errors() {
    let (_dir, path) = temporary();
    write_events(&path, &[]).unwrap();
    let error = read_prom(&path).unwrap_err().to_string();
    assert!(error.contains("not a servelab `prom` table") && error.contains("x.parquet"), "{error}");

    let specs = EventRecord::columns();
    ColumnFile::create(&path, "events", 2, &specs).unwrap().finish().unwrap();
    assert!(matches!(read_events(&path), Err(StoreError::TooNew { found: 2, known: 1, .. })));
    ColumnFile::create(&path, "events", 1, &specs[..2]).unwrap().finish().unwrap();
    assert!(read_events(&path).unwrap_err().to_string().contains("`n_tokens` is missing"));

    let mut text = specs.clone();
    text[1].physical = Physical::Text;
    let mut file = ColumnFile::create(&path, "events", 1, &text).unwrap();
    let columns =
        [ColumnData::Int64(vec![Some(1)]), ColumnData::Text(vec![Some("x".into())]), ColumnData::Int32(vec![Some(1)])];
    file.write_group(&columns).unwrap();
    file.finish().unwrap();
    assert!(read_events(&path).unwrap_err().to_string().contains("another type"));
}

#[test]
fn columns_added_by_others_are_ignored() {
    let (_dir, path) = temporary();
    let mut specs = vec![ColumnSpec::optional("added", Physical::Bool)];
    specs.extend(EventRecord::columns());
    let mut file = ColumnFile::create(&path, "events", 1, &specs).unwrap();
    let columns = [
        ColumnData::Bool(vec![Some(true)]),
        ColumnData::Int64(vec![Some(1)]),
        ColumnData::Int64(vec![Some(2)]),
        ColumnData::Int32(vec![Some(3)]),
    ];
    file.write_group(&columns).unwrap();
    file.finish().unwrap();
    assert_eq!(read_events(&path).unwrap(), [EventRecord { request_idx: 1, t_ns: 2, n_tokens: 3 }]);
}

#[test]
fn files_from_before_a_column_was_added_are_read() {
    let (_dir, path) = temporary();
    let specs: Vec<ColumnSpec> =
        RequestRecord::columns().into_iter().take_while(|spec| spec.name != "event_token_source").collect();
    let mut file = ColumnFile::create(&path, "requests", 1, &specs).unwrap();
    let mut columns: Vec<ColumnData> = RequestRecord::columns().iter().map(ColumnData::empty).collect();
    full(0).put(&mut RowWriter::new(&mut columns));
    file.write_group(&columns[..specs.len()]).unwrap();
    file.finish().unwrap();
    let later = RequestRecord { event_token_source: None, server_itl_ms: None, server_e2e_ms: None, ..full(0) };
    assert_eq!(read_requests(&path).unwrap(), [later]);
}

#[test]
fn an_unknown_phase_is_an_error_not_a_guess() {
    let (_dir, path) = temporary();
    let mut file = ColumnFile::create(&path, "requests", 1, &RequestRecord::columns()).unwrap();
    let mut columns: Vec<ColumnData> = RequestRecord::columns().iter().map(ColumnData::empty).collect();
    full(0).put(&mut RowWriter::new(&mut columns));
    columns[1] = ColumnData::Text(vec![Some("cooldown".into())]);
    file.write_group(&columns).unwrap();
    file.finish().unwrap();
    assert!(read_requests(&path).unwrap_err().to_string().contains("row 0"));
}

#[test]
fn an_unfinished_file_never_appears() {
    let (dir, path) = temporary();
    let mut writer = RecordWriter::<EventRecord>::create(&path).unwrap();
    writer.push(&EventRecord { request_idx: 0, t_ns: 0, n_tokens: 1 }).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = write_events(Path::new("/proc/none/events.parquet"), &[]).unwrap_err();
    assert!(error.to_string().contains("/proc/none"), "{error}");
}

fn bytes_of_a_file() -> Vec<u8> {
    let (_dir, path) = temporary();
    let requests: Vec<RequestRecord> = (0..50).map(full).collect();
    write_requests(&path, &requests).unwrap();
    fs::read(&path).unwrap()
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = bytes_of_a_file();
    let (_dir, path) = temporary();
    for length in (0..bytes.len()).step_by(13).chain(bytes.len().saturating_sub(20)..bytes.len()) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(read_requests(&path), Err(StoreError::Malformed { .. })), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_are_an_error(body in prop::collection::vec(any::<u8>(), 0..400), is_framed in any::<bool>()) {
        let (_dir, path) = temporary();
        let mut bytes = body;
        if is_framed {
            let footer = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            bytes.splice(0..0, *b"PAR1");
            bytes.extend(footer);
            bytes.extend(b"PAR1");
        }
        fs::write(&path, &bytes).unwrap();
        let is_malformed = matches!(read_requests(&path), Err(StoreError::Malformed { .. }));
        prop_assert!(is_malformed);
    }

    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6)) {
        let mut bytes = bytes_of_a_file();
        for (place, mask) in flips {
            let at = place.index(bytes.len());
            bytes[at] ^= mask;
        }
        let (_dir, path) = temporary();
        fs::write(&path, &bytes).unwrap();
        let _ = read_requests(&path);
    }

    #[test]
    fn any_event_comes_back(events in prop::collection::vec((any::<i64>(), any::<i64>(), any::<i32>()), 0..50)) {
        let (_dir, path) = temporary();
        let events: Vec<EventRecord> = events.into_iter().map(|(request_idx, t_ns, n_tokens)| EventRecord { request_idx, t_ns, n_tokens }).collect();
        write_events(&path, &events).unwrap();
        prop_assert_eq!(read_events(&path).unwrap(), events);
    }
}
