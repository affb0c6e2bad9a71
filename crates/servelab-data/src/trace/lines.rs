//! Lines of a text file with their numbers, one at a time. A file without line ends is refused before it fills the
//! memory.

use std::io::{BufRead, Read};
use std::path::Path;

use crate::error::DataError;

/// Longest line of a trace.
const MAX_LINE_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, number: 0 }
    }

    /// The next line that is not blank, without its end.
    pub(super) fn next_line(&mut self, path: &Path) -> Result<Option<(usize, String)>, DataError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let read = self.input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
            let n = read.map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
            if n == 0 {
                return Ok(None);
            }
            self.number += 1;
            let fail = |reason: &str| DataError::Entry {
                path: path.to_path_buf(),
                line: self.number,
                reason: reason.to_owned(),
            };
            if n as u64 == MAX_LINE_BYTES {
                return Err(fail("is longer than 16 MiB; is this a trace?"));
            }
            let text = std::str::from_utf8(&bytes).map_err(|_| fail("is not UTF-8 text"))?;
            let text = if self.number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some((self.number, text.to_owned())));
            }
        }
    }
}
