//! Execution traces: any bytes are refused with a reason or give counts, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_trace::et::from_reader;

fuzz_target!(|bytes: &[u8]| {
    match from_reader(bytes) {
        Ok(trace) => {
            assert!(trace.n_operators() + trace.n_bad_nodes <= trace.n_nodes);
            assert!(trace.collectives.len() <= trace.described.len());
            trace.notes();
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
});
