//! HTTP requests as the simulated server reads them: a request is whole with its last byte and not before, and what
//! follows it changes nothing. The flags of its command line ride along: no text makes their parser panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_sim::http_wire::{Parsed, parse};
use servelab_sim::{FailSpec, parse_serving_flags};

fuzz_target!(|input: &[u8]| {
    if let Parsed::Whole(request, taken) = parse(input) {
        let exact = input.get(..taken).unwrap_or_default();
        assert_eq!(parse(exact), Parsed::Whole(request, taken));
        if let Some((_, short)) = exact.split_last() {
            assert!(!matches!(parse(short), Parsed::Whole(..)));
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let args: Vec<String> = text.split('\0').map(str::to_owned).collect();
    for version in ["0.11.0", "0.32.0"] {
        let _ = parse_serving_flags(&args, version);
    }
    let _ = text.parse::<FailSpec>();
});
