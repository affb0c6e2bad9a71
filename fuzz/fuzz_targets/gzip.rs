//! The gzip decoder against zlib's: any bytes give an answer, and what one takes as right the other gives, too.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use servelab_trace::gzip::GzipReader;

/// A bomb of a few bytes is a thousand times as long.
const MOST: u64 = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let our_end = GzipReader::new(bytes).take(MOST).read_to_end(&mut ours);
    let their_end = flate2::read::MultiGzDecoder::new(bytes).take(MOST).read_to_end(&mut theirs);
    if their_end.is_ok() {
        assert!(our_end.is_ok() && ours == theirs);
    }
    // Where zlib sees damage, what came before it is the same.
    let common = ours.len().min(theirs.len());
    assert!(ours[..common] == theirs[..common]);
});
