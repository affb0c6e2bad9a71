//! Record files: bytes that are no Parquet file of ours are an error. The store catches panics of the Parquet library on
//! damaged files, so only what escapes it counts here.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use servelab_store::{read_events, read_prom, read_requests};

fuzz_target!(|bytes: &[u8]| {
    static QUIET: Once = Once::new();
    // libFuzzer's hook aborts before any guard; a panic that escapes still reaches its own catch.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let Ok(file) = tempfile::NamedTempFile::new_in(servelab_fuzz::memory_folder()) else { return };
    if std::fs::write(file.path(), bytes).is_ok() {
        let _ = read_requests(file.path());
        let _ = read_events(file.path());
        let _ = read_prom(file.path());
    }
});
