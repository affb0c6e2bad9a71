//! Gzip as a stream of text, all members one after the other, inflated while it is scanned.

use std::fs::File;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

/// Gives the inflated text of a file, all members, to a consumer.
pub fn with_inflated<T>(file: File, consume: impl FnOnce(&mut dyn Read) -> T) -> io::Result<T> {
    let mut text = MultiGzDecoder::new(io::BufReader::with_capacity(256 * 1024, file));
    Ok(consume(&mut text))
}
