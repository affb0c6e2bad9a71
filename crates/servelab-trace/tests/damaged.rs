//! Files that are cut, damaged, odd or untrue: each gives an error that says why, or a partial result that says so. Nothing panics,
//! nothing is silently zero.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use servelab_core::trace::TraceReport;
use servelab_trace::{RankTrace, Taxonomy, input, kineto, load};

fn taxonomy() -> Taxonomy {
    Taxonomy::builtin().unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/classes").join(name)).unwrap()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The report of a file with this content, or why there is none.
fn report(name: &str, content: &[u8]) -> Result<TraceReport, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let inputs = input::discover(&[path]).map_err(|error| error.to_string())?;
    load::measure(&inputs, &taxonomy(), 1).map_err(|error| error.to_string())
}

fn read(text: &str) -> RankTrace {
    kineto::read_text(text.as_bytes(), &taxonomy()).unwrap_or_else(|reason| panic!("{reason}: {text}"))
}

/// A document around these events.
fn document(events: &str) -> String {
    format!("{{\"schemaVersion\": 1, \"traceEvents\": [{events}]}}")
}

fn kernel(ts: &str, dur: &str) -> String {
    format!(
        "{{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"gemm\", \"pid\": 0, \"tid\": 7, \"ts\": {ts}, \"dur\": {dur}, \"args\": {{\"stream\": 7}}}}"
    )
}

#[test]
fn a_text_cut_anywhere_gives_the_events_before_it_and_a_warning() {
    let whole = fixture("sglang.json");
    let taxonomy = taxonomy();
    let all = kineto::read_text(whole.as_slice(), &taxonomy).unwrap().totals.events;
    let mut before = 0;
    for cut in 0..whole.len() - 2 {
        match kineto::read_text(&whole[..cut], &taxonomy) {
            Err(reason) => assert!(before == 0 && !reason.is_empty(), "cut at {cut}: {reason}"),
            Ok(trace) => {
                assert!(trace.totals.events >= before && trace.totals.events <= all, "cut at {cut}");
                before = trace.totals.events;
                assert!(trace.meta.is_truncated, "cut at {cut}");
                assert_eq!(trace.warnings[0].code, "truncated", "cut at {cut}");
            }
        }
    }
    assert_eq!(before, all);
}

#[test]
fn a_gzip_cut_anywhere_gives_the_events_before_it_and_a_warning() {
    let packed = fixture("rccl_generic/rank0.json.gz");
    let all = report("rank0.json.gz", &packed).unwrap();
    assert!(all.warnings.iter().all(|warning| warning.code != "truncated"));
    let mut n_partial = 0;
    for cut in (0..packed.len()).step_by(7).chain(packed.len() - 9..packed.len()) {
        match report("rank0.json.gz", &packed[..cut]) {
            Err(reason) => assert!(!reason.is_empty(), "cut at {cut}"),
            Ok(partial) => {
                n_partial += 1;
                assert!(partial.inputs[0].events <= all.inputs[0].events && partial.inputs[0].is_truncated);
                assert!(partial.warnings.iter().any(|warning| warning.code == "truncated"), "cut at {cut}");
            }
        }
    }
    assert!(n_partial > 10, "{n_partial}");
}

#[test]
fn members_of_a_gzip_are_one_text_wherever_they_are_split() {
    let whole = fixture("sglang.json");
    let expected = report("a.json", &whole).unwrap();
    for at in [1, 100, whole.len() / 3, whole.len() - 1] {
        let mut packed = gzip(&whole[..at]);
        packed.extend(gzip(b""));
        packed.extend(gzip(&whole[at..]));
        let found = report("a.json.gz", &packed).unwrap();
        assert_eq!((&found.metrics, &found.comm), (&expected.metrics, &expected.comm));
        if at > whole.len() / 2 {
            continue;
        }
        // The second member is damaged: what the first held is used.
        let middle = packed.len() - 40;
        packed[middle] ^= 0xff;
        if let Ok(damaged) = report("a.json.gz", &packed) {
            assert!(damaged.inputs[0].is_truncated);
        }
    }
}

#[test]
fn control_characters_and_escapes_stay_in_their_names() {
    let trace = read(&document(
        "{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"a\u{1}\n\t{\\\"b\\\\\", \"ts\": 1, \"dur\": 2, \"args\": {}},\
         {\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"\\u0041\\ud83d\\ude00\", \"ts\": 4, \"dur\": 2, \"args\": {}}",
    ));
    let names: Vec<&str> = trace.device.iter().map(|event| trace.names.get(event.name)).collect();
    assert_eq!(names, ["a\u{1}\n\t{\"b\\", "A😀"]);
}

#[test]
fn old_schemas_are_read() {
    let text = "[{\"ph\": \"X\", \"cat\": \"Runtime\", \"name\": \"cudaLaunchKernel\", \"pid\": 1, \"tid\": \"2\", \"ts\": 1623143089861000, \"dur\": 5, \"args\": {\"correlation\": 7}},\
        {\"ph\": \"X\", \"cat\": \"Kernel\", \"name\": \"ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)\", \"pid\": 0, \"tid\": \"stream 7\", \"ts\": 1623143089861042, \"dur\": 15, \"args\": {\"device\": 0, \"stream\": 7, \"correlation\": 7}},\
        {\"ph\": \"X\", \"cat\": \"Memcpy\", \"name\": \"Memcpy HtoD (Pageable -> Device)\", \"pid\": 0, \"tid\": 7, \"ts\": 1623143089861060, \"dur\": 3, \"args\": {\"device\": 0, \"stream\": 7, \"bytes\": 4096}}]";
    let trace = read(text);
    assert_eq!((trace.device.len(), trace.launches.len()), (2, 1));
    assert_eq!((trace.device[0].start_ns, trace.device[0].dur_ns), (1_623_143_089_861_042_000, 15_000));
    let found = report("old.json", text.as_bytes()).unwrap();
    assert_eq!((found.comm["nccl"].calls, found.comm["nccl"].sum_ns), (1, 15_000));
    assert_eq!(found.metrics["memcpy_bytes"].value, Some(4096.0));
}

#[test]
fn tokens_that_are_no_json_do_not_end_the_trace() {
    let odd = format!(
        "{{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"x\", \"ts\": NaN, \"dur\": Infinity, \"args\": {{\"est. achieved occupancy %\": nan, \"blocks per SM\": -inf}}}}, null, {}",
        kernel("10.5", "2.25")
    );
    let trace = read(&document(&odd));
    assert_eq!(trace.totals.events, 2);
    assert_eq!(trace.device.iter().map(|event| (event.start_ns, event.dur_ns)).collect::<Vec<_>>(), [(10_500, 2_250)]);
}

#[test]
fn untrue_times_are_left_out_or_harmless() {
    let events = [
        kernel("10", "5"),
        kernel("20", "-3"),
        kernel("30", "1e300"),
        kernel("1e300", "3"),
        kernel("40", "9000000000000000"),
        kernel("\"50\"", "\"5\""),
        kernel("99999999999999999999999999", "1"),
        kernel("[1]", "{}"),
    ];
    let found = report("lies.json", document(&events.join(",")).as_bytes()).unwrap();
    let rank = &found.per_rank[0];
    // 10–15 and 50–55, and an instant at 20.
    assert_eq!((rank.kernels, rank.busy_ns, rank.span_ns), (3, 10_000, 45_000));
    assert!(found.warnings.iter().any(|warning| warning.code == "implausible_times"), "{:?}", found.warnings);
}

#[test]
fn repeated_ids_and_keys_are_harmless() {
    let launch = "{\"ph\": \"X\", \"cat\": \"cuda_runtime\", \"name\": \"cudaLaunchKernel\", \"ts\": 1, \"dur\": 1, \"args\": {\"correlation\": 5}}";
    let twice = kernel("10", "5").replace("\"stream\": 7", "\"correlation\": 5, \"stream\": 7, \"stream\": 8");
    let trace = read(&document(&[launch, launch, &twice, &twice].join(",")));
    assert_eq!((trace.device.len(), trace.launches.len()), (2, 2));
    assert_eq!(trace.lanes.iter().map(|lane| lane.stream).collect::<Vec<_>>(), [8]);
    // Two lists of events: both count.
    let text = format!("{{\"traceEvents\": [{}], \"traceEvents\": [{}]}}", kernel("1", "1"), kernel("5", "1"));
    assert_eq!(read(&text).device.len(), 2);
}

#[test]
fn nesting_costs_nothing() {
    let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    let deeper = format!("{}{}", "{\"a\":".repeat(200_000), format_args!("1{}", "}".repeat(200_000)));
    let event =
        kernel("10", "5").replace("\"stream\": 7", &format!("\"deep\": {deep}, \"deeper\": {deeper}, \"stream\": 9"));
    let text = format!("{{\"before\": {deep}, \"traceEvents\": [{event}], \"after\": {deeper}}}");
    let trace = read(&text);
    assert_eq!(trace.lanes[0].stream, 9);
}

#[test]
fn events_may_stand_anywhere_and_behind_a_byte_order_mark() {
    let plain = report("a.json", document(&kernel("10", "5")).as_bytes()).unwrap();
    let long = "x".repeat(700_000);
    for text in [
        format!("\u{feff}{}", document(&kernel("10", "5"))),
        format!(
            "{{\"schemaVersion\": 1, \"traceName\": \"{long}\", \"traceEvents\": [{}], \"distributedInfo\": {{\"rank\": 0}}}}",
            kernel("10", "5")
        ),
        format!("  [{}]", kernel("10", "5")),
        format!("[{},", kernel("10", "5")),
    ] {
        let found = report("a.json", text.as_bytes()).unwrap();
        assert_eq!(found.per_rank[0].busy_ns, plain.per_rank[0].busy_ns, "{}", &text[..40.min(text.len())]);
    }
}

#[test]
fn what_is_no_trace_says_why() {
    let check = |name: &str, content: &[u8], expected: &str| {
        let reason = report(name, content).unwrap_err();
        assert!(reason.contains(expected), "{name}: {reason}");
    };
    check("a.json", b"", "it is empty");
    check("a.json.gz", &gzip(b""), "it is empty");
    check("a.json", b"{\"traceEvents\": []}", "its list of events is empty");
    check("a.json", b"\xff\xfe{\0\"\0", "expected Kineto JSON");
    check("a.json", b"hello", "expected Kineto JSON");
    check("a.json", b"{\"traceEvents\": [1, 2]}", "no event could be read");
    check("a.json.gz", &gzip(b"{\"traceEvents\": ")[..12], "as a trace");
}
