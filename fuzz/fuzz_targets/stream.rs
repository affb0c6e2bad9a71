//! Whole answers as the load generator reads them: any chunking gives the same counts, text and failure. The first byte
//! chooses the split, the second how the connection ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::record::{Phase, RequestRecord};
use servelab_fuzz::pieces;
use servelab_load::stream::{Conclusion, End, Expectation, Progress, ResponseReader};

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>, end: End, keep_text: bool) -> (RequestRecord, Conclusion, i64) {
    let mut reader = ResponseReader::new(keep_text);
    let mut tokens = 0;
    let mut how = end;
    for part in parts {
        // One instant for all reads: stamps then cannot depend on the chunking.
        match reader.feed(7, part, |n| tokens += i64::from(n)) {
            Progress::Complete { .. } | Progress::Broken => {
                how = End::Complete;
                break;
            }
            Progress::Open | Progress::Done => {}
        }
    }
    if how == end {
        reader.close(7, |n| tokens += i64::from(n));
    }
    let mut record = RequestRecord::scheduled(0, Phase::Window, 1);
    let expect = Expectation { requested_output_tokens: Some(4), ignore_eos: true };
    let mut conclusion = reader.conclude(how, expect, &mut record);
    // Excerpts of a broken body may be cut elsewhere.
    conclusion.detail = None;
    record.bytes_received = 0;
    (record, conclusion, tokens)
}

fuzz_target!(|input: &[u8]| {
    let [seed, ending, bytes @ ..] = input else { return };
    let end = [End::Closed, End::Reset, End::TimedOut, End::Cancelled, End::Censored][usize::from(ending >> 1) % 5];
    let keep_text = ending & 1 == 1;
    let whole = read(std::iter::once(bytes), end, keep_text);
    let split = read(pieces(*seed, bytes), end, keep_text);
    // What is noticed first in an answer that is broken twice, and how much is read until then, depends on the chunking;
    // that it is broken does not.
    let is_broken = |(record, ..): &(RequestRecord, Conclusion, i64)| {
        matches!(record.failure_code.as_deref(), Some("malformed_http" | "malformed_sse"))
    };
    if is_broken(&whole) {
        assert!(is_broken(&split), "{:?} in one piece, {:?} in many", whole.0.failure_code, split.0.failure_code);
    } else {
        assert_eq!(whole, split);
    }
});
