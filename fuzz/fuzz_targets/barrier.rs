//! What a stranger may write to the port at which shards meet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_load::barrier::read_message;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while read_message(&mut rest).is_ok() {}
});
