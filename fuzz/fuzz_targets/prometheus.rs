//! Metrics pages: any text gives samples and skipped lines, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_load::prometheus::parse;

fuzz_target!(|text: &str| {
    for sample in parse(text).samples {
        sample.into_record(1, "node-1");
    }
});
