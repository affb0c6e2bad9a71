//! Python literals as engines log them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_run::pyliteral::{parse_dict, parse_kwargs};

fuzz_target!(|text: &str| {
    parse_dict(text);
    parse_kwargs(text);
});
