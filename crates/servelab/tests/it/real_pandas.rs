//! results.csv, results.parquet and viz_data.json in the hands of the real pandas and DuckDB: the same columns, types and
//! numbers from both files. Left out where they were not asked for.

use std::io::Write as _;
use std::process::Command;

use servelab_testkit::{TINY, number};

use super::place;

const READER: &str = include_str!("clients/read_results.py");

fn python() -> Option<String> {
    let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
    if !wanted.split(',').any(|part| part.trim() == "pandas") {
        // Past libtest's capture: that something was left out must be seen when everything passes.
        let _ = std::io::stderr().write_all(
            b"left out: real_pandas, which needs a Python with pandas, pyarrow and duckdb. Run it with\n  \
              SERVELAB_REAL=pandas SERVELAB_PANDAS_PYTHON=VENV/bin/python cargo test -p servelab --test it real_pandas -- --nocapture\n",
        );
        return None;
    }
    Some(std::env::var("SERVELAB_PANDAS_PYTHON").unwrap_or_else(|_| "python3".to_owned()))
}

#[test]
fn results_open_in_pandas_and_duckdb() {
    let Some(python) = python() else { return };
    let place = place();
    // One cell is never measured: absent values stand beside numbers.
    let awkward = "repeats: {n: 2}\nslo: {cell: {success: 0.5}, request: {ttft_ms: 500}}\n";
    place.write("study.yaml", &format!("{TINY}{awkward}"));
    place.servelab("run study.yaml --root out --max-cells 3").run().expect(0);
    place.servelab("report study.yaml --root out --out report --enrich-configs").run().expect(0);
    let script = place.write("read_results.py", READER);
    let output = Command::new(&python).arg(&script).arg(place.path().join("report")).output();
    let output = output.unwrap_or_else(|error| panic!("SERVELAB_REAL=pandas, and `{python}` does not start: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((number(&found, "rows"), number(&found, "labels")), (4.0, 2.0), "{found}");
    let _ = writeln!(
        std::io::stderr(),
        "read by pandas {} and DuckDB {}",
        found["pandas_version"],
        found["duckdb_version"]
    );
}
