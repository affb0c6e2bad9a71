//! The failure catalogue over any log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::failures::{failure, scan_log_lines};

fuzz_target!(|text: &str| {
    let lines = text.lines().enumerate().map(|(idx, line)| (if idx % 2 == 0 { "serve-0" } else { "serve-1" }, line));
    if let Some(diagnosis) = scan_log_lines(lines) {
        assert!(failure(&diagnosis.code).is_some(), "{} is not in the catalogue", diagnosis.code);
    }
});
