//! Logs of the reference server: damaged bytes are an error, and what is read can be summed up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_load::reference::ReferenceLog;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = ReferenceLog::read_from(bytes) {
        let _ = log.n_events();
    }
});
