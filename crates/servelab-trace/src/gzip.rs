//! Gzip as a stream of text: inflating runs on a thread of its own, ahead of the scanner by a few buffers.

use std::fs::File;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

/// Gives the inflated text of a file, all members, to a consumer.
pub fn with_inflated<T>(file: File, consume: impl FnOnce(&mut dyn Read) -> T) -> io::Result<T> {
    let mut text = MultiGzDecoder::new(io::BufReader::with_capacity(256 * 1024, file));
    Ok(consume(&mut text))
}
