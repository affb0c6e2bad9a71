//! Facts read from server logs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_run::serverlog::ServerLogFacts;

fuzz_target!(|text: &str| {
    ServerLogFacts::parse(text);
});
