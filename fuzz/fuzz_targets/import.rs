//! Result files of other tools, whatever they hold and whatever they are called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_store::import::import_str;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for name in ["r.json", "r.yaml", "r.csv", "mlperf_log_summary.txt"] {
        for imported in import_str(name, text).unwrap_or_default() {
            let _ = imported.result.to_json();
        }
    }
});
