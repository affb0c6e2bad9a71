//! One event of a stream: the pull reader accepts the same JSON as `serde_json` and finds the same meaning in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_load::stream::event;

#[path = "../../crates/servelab-load/src/stream/oracle.rs"]
mod oracle;

fuzz_target!(|data: &[u8]| {
    // Two native dialects in one object are nobody's: which of their counts is meant is not defined.
    let has = |key: &[u8]| data.windows(key.len()).any(|part| part == key);
    if !(has(b"meta_info") && (has(b"tokens_") || has(b"stop") || has(b"\\u"))) {
        oracle::compare(data);
    }
});
