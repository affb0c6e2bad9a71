use std::collections::BTreeMap;

use super::fixture::{COPIES, Fixture, GPU_METRICS, GPUS, GRAPHS, KERNELS, NVTX, RUNTIME, STRINGS, global, sample};
use super::*;

fn kernels(file: &NsysFile) -> (Vec<(Kernel, String)>, Vec<String>) {
    let mut rows = Rows::new(file);
    let mut found = Vec::new();
    rows.kernels(|kernel, names| found.push((kernel, names.get(kernel.name).to_owned())));
    (found, rows.notes())
}

#[test]
fn a_real_export_gives_the_integers_that_sql_gives() {
    let Some(path) = sample("nsys/h100_2gpu_nccl_sendrecv.sqlite") else { return };
    let file = NsysFile::open(&path).unwrap();
    let (info, scans) = file.info();
    assert_eq!(scans.iter().filter_map(Scan::note).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(info.schema_version.as_deref(), Some("3.25.0"));
    assert_eq!(info.driver_version.as_deref(), Some("580.95.05"));
    assert_eq!(info.nccl_version.as_deref(), Some("2.25.1-1"));
    assert_eq!(info.cuda_version.as_deref(), Some("12.8.0"));
    assert_eq!(info.graph_trace_mode.as_deref(), Some("Graph"));
    assert_eq!(info.start_unix_nanos, Some(1_779_782_330_176_752_435));
    assert_eq!(info.processes.get(&144).map(String::as_str), Some("python3"));
    assert!(info.gpus.is_empty(), "this export has no TARGET_INFO_GPU");

    let (found, notes) = kernels(&file);
    assert_eq!(notes, Vec::<String>::new());
    let mut per_device: BTreeMap<i64, (u64, i64, i64)> = BTreeMap::new();
    let mut nccl: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
    for (kernel, name) in &found {
        let sum = per_device.entry(kernel.device).or_default();
        let nanos = kernel.end_nanos - kernel.start_nanos;
        *sum = (sum.0 + 1, sum.1 + nanos, sum.2 + kernel.n_blocks.unwrap());
        if name.starts_with("ncclDevKernel_SendRecv") {
            let sum = nccl.entry(kernel.pid.unwrap()).or_default();
            *sum = (sum.0 + 1, sum.1 + nanos);
        }
    }
    assert_eq!(
        per_device,
        BTreeMap::from([(0, (1993, 270_875_926, 53_759_560)), (1, (2017, 264_324_724, 54_593_642))])
    );
    assert_eq!(nccl, BTreeMap::from([(144, (33, 17_172_652)), (145, (33, 8_229_100))]));

    let mut rows = Rows::new(&file);
    let (mut copies, mut sets, mut calls) = ((0, 0, 0), (0, 0, 0), (0, 0));
    rows.copies(|copy| copies = (copies.0 + 1, copies.1 + copy.end_nanos - copy.start_nanos, copies.2 + copy.n_bytes));
    rows.sets(|set| sets = (sets.0 + 1, sets.1 + set.end_nanos - set.start_nanos, sets.2 + set.n_bytes));
    rows.launches(|call, _| calls = (calls.0 + 1, calls.1 + call.end_nanos - call.start_nanos));
    let mut ranges: BTreeMap<i64, (u64, i64)> = BTreeMap::new();
    let mut sends = 0;
    rows.ranges(|range| {
        let sum = ranges.entry(range.domain).or_default();
        *sum = (sum.0 + 1, sum.1 + range.end_nanos - range.start_nanos);
        sends += u32::from(range.text == "ncclSend");
    });
    assert_eq!(copies, (1020, 5_692_087, 8_046_134_544));
    assert_eq!(sets, (269, 213_408, 1076));
    assert_eq!(calls, (7466, 370_168_989));
    assert_eq!(ranges, BTreeMap::from([(0, (18_656, 1_400_784_613)), (1, (462, 2_994_653))]));
    assert_eq!(sends, 132);
    rows.graph_runs(|_| panic!("nothing ran as a graph"));
    assert_eq!(rows.notes(), Vec::<String>::new());
}

#[test]
fn every_table_may_be_absent_and_optional_columns_too() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(
        &folder.path().join("old.sqlite"),
        &[
            STRINGS,
            // As versions 2.x wrote it: no graph node, no grid, one name.
            "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER, \
             correlationId INTEGER, shortName INTEGER)",
        ],
    );
    fixture.string(1, "gemm");
    fixture.run("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (10, 30, 0, 7, 1, 1)");
    let file = NsysFile::open(&fixture.done()).unwrap();
    let (found, notes) = kernels(&file);
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.pid, found[0].0.n_blocks, found[0].1.as_str()), (None, None, "gemm"));
    let mut rows = Rows::new(&file);
    rows.copies(|_| panic!("no such table"));
    rows.ranges(|_| panic!("no such table"));
    assert!(rows.scans().is_empty(), "an absent table is no fault");
}

#[test]
fn a_missing_column_that_is_needed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(
        &folder.path().join("x.sqlite"),
        &["CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER)"],
    );
    let file = NsysFile::open(&fixture.done()).unwrap();
    let (found, notes) = kernels(&file);
    assert!(found.is_empty());
    assert_eq!(notes, ["table CUPTI_ACTIVITY_KIND_KERNEL has no column streamId, demangledName: not read"]);
}

#[test]
fn graphs_gpu_metrics_and_gpus_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, GRAPHS, GPU_METRICS, GPUS]);
    fixture.run(&format!(
        "INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (5, 25, 1, 1, 7, 3, {}, 42, 43); \
         INSERT INTO TARGET_INFO_GPU_METRICS VALUES (300, 0, 'GPU 1', 12, 'SMs Active [Throughput %]'); \
         INSERT INTO GPU_METRICS VALUES (100, 300, 12, 55), (200, 300, 13, 99), (300, 300, 12, 45); \
         INSERT INTO TARGET_INFO_GPU VALUES (0, 0, 'NVIDIA H100', 132, 3352320000000, 'GPU-0');",
        global(9, 0)
    ));
    let file = NsysFile::open(&fixture.done()).unwrap();
    let (info, _) = file.info();
    assert_eq!(info.gpus[0].n_sms, Some(132));
    assert_eq!(info.gpu_metrics[&(300, 12)], "SMs Active [Throughput %]");
    let mut rows = Rows::new(&file);
    let mut runs = Vec::new();
    rows.graph_runs(|run| runs.push(run));
    assert_eq!((runs.len(), runs[0].pid, runs[0].graph, runs[0].device), (1, Some(9), Some(42), 1));
    let mut samples = Vec::new();
    rows.gpu_samples(&[(300, 12)], |sample| samples.push((sample.gpu, sample.value)));
    assert_eq!(samples, [(300 & 0xFF, 55.0), (300 & 0xFF, 45.0)]);
}

#[test]
fn rows_that_make_no_sense_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, KERNELS, COPIES, NVTX, RUNTIME]);
    fixture.string(1, "gemm");
    fixture.kernel(10, 20, 1, 1);
    fixture.kernel(20, 10, 1, 2);
    fixture.kernel(i64::MIN, i64::MAX, 1, 3);
    fixture.kernel(30, 40, i64::MAX, i64::MAX);
    fixture.run("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ('a', x'00ff', 0, 1, 7, 1, 1, 1, 1, 1, 1, 1, NULL)");
    fixture.run("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (1, 2, 0, 1, 7, 1, 1, 1.5, 1)");
    fixture.run("INSERT INTO NVTX_EVENTS VALUES (1, NULL, 59, 'open', 1, NULL, 0)");
    fixture.run("INSERT INTO NVTX_EVENTS VALUES (1, 5, 59, NULL, NULL, 1, NULL)");
    let file = NsysFile::open(&fixture.done()).unwrap();
    let (found, notes) = kernels(&file);
    assert_eq!(found.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["gemm", "?"]);
    assert_eq!(
        notes,
        [
            "table CUPTI_ACTIVITY_KIND_KERNEL: 3 of 5 rows make no sense and were left out",
            "1 names are missing in table StringIds"
        ]
    );
    let mut rows = Rows::new(&file);
    rows.copies(|_| panic!("bytes are no fraction"));
    let mut texts = Vec::new();
    rows.ranges(|range| texts.push((range.text.to_owned(), range.domain)));
    assert_eq!(texts, [("gemm".to_owned(), 0)], "a range without an end is no range");
}

#[test]
fn a_truncated_file_gives_what_is_there_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&folder.path().join("whole.sqlite"), &[STRINGS, KERNELS]);
    fixture.string(1, "gemm");
    fixture.run("BEGIN");
    for i in 0..20_000 {
        fixture.kernel(i * 10, i * 10 + 5, 1, i);
    }
    fixture.run("COMMIT");
    let bytes = std::fs::read(fixture.done()).unwrap();
    let cut = folder.path().join("cut.sqlite");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    match NsysFile::open(&cut) {
        Ok(file) => {
            let (found, notes) = kernels(&file);
            assert!(found.len() < 20_000);
            assert!(notes.iter().any(|note| note.contains("breaks off after")), "{notes:?}");
        }
        Err(error) => assert!(error.to_string().contains("cut.sqlite"), "{error}"),
    }
}

#[test]
fn other_files_are_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("nsys_0.nsys-rep");
    std::fs::write(&report, b"NVIDIA").unwrap();
    let error = NsysFile::open(&report).unwrap_err();
    assert!(error.hint().unwrap().contains("nsys export --type sqlite"), "{error}");
    let text = folder.path().join("x.sqlite");
    std::fs::write(&text, b"{\"traceEvents\": []}, and more than sixteen bytes of it").unwrap();
    assert!(NsysFile::open(&text).is_err());
    let other = Fixture::new(&folder.path().join("other.sqlite"), &["CREATE TABLE notes (id INTEGER)"]).done();
    let error = NsysFile::open(&other).unwrap_err();
    assert!(matches!(error, NsysError::NotAnExport { .. }), "{error}");
    assert!(NsysFile::open(&folder.path().join("absent.sqlite")).is_err());
}

#[test]
fn a_view_with_the_name_of_a_table_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(
        &folder.path().join("x # 1?.sqlite"),
        &[
            STRINGS,
            "CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS WITH RECURSIVE c(start) AS (SELECT 1 UNION ALL SELECT start FROM c) \
             SELECT start, start AS end, 0 AS deviceId, 0 AS streamId, 0 AS shortName FROM c",
        ],
    );
    let file = NsysFile::open(&fixture.done()).unwrap();
    assert_eq!(kernels(&file), (Vec::new(), Vec::new()));
}

#[test]
fn rows_beside_the_file_are_missed_loudly() {
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(&folder.path().join("x.sqlite"), &[STRINGS, KERNELS]).done();
    std::fs::write(folder.path().join("x.sqlite-wal"), b"something").unwrap();
    let (_, notes) = kernels(&NsysFile::open(&path).unwrap());
    assert!(notes[0].contains("x.sqlite-wal"), "{notes:?}");
}
