//! Nsight Systems exports: any bytes are refused or give ranks whose events make sense, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_trace::nsys::{open_bytes, read_file};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = open_bytes(bytes) else { return };
    for rank in read_file(&file, bytes.len() as u64) {
        for event in &rank.device {
            assert!(event.dur_ns >= 0 && usize::from(event.lane) < rank.lanes.len());
        }
        assert!(rank.device.is_sorted_by_key(|event| event.start_ns));
    }
});
