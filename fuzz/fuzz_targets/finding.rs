//! A finding as anybody may have written it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::finding::read_finding;

fuzz_target!(|text: &str| {
    for number in read_finding(text).numbers {
        number.agrees_with(number.value);
    }
});
