//! Bits of a stream, the lowest of each byte first. Up to 56 are ready after [`Bits::refill`], which needs no branch as long as
//! eight bytes are buffered; at the end of the stream zeros stand in, and whoever uses them is told.

use std::io::{self, ErrorKind, Read};

const BUFFER: usize = 64 * 1024;
/// Zeros after the last byte, so that words can be read there.
const PADDING: usize = 64;

#[derive(Debug)]
pub(super) struct Bits<R> {
    input: R,
    buffer: Vec<u8>,
    /// Next byte to load.
    at: usize,
    /// First byte after those that came.
    end: usize,
    is_at_end: bool,
    word: u64,
    count: u32,
}

impl<R: Read> Bits<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: vec![0; BUFFER + PADDING], at: 0, end: 0, is_at_end: false, word: 0, count: 0 }
    }

    /// Reads more where less than a few words are buffered.
    pub(super) fn top_up(&mut self) -> io::Result<()> {
        while !self.is_at_end && self.end - self.at.min(self.end) < PADDING {
            self.buffer.copy_within(self.at..self.end, 0);
            self.end -= self.at;
            self.at = 0;
            let Some(space) = self.buffer.get_mut(self.end..BUFFER) else { break };
            match self.input.read(space) {
                Ok(0) => {
                    self.is_at_end = true;
                    if let Some(padding) = self.buffer.get_mut(self.end..self.end + PADDING) {
                        padding.fill(0);
                    }
                }
                Ok(n) => self.end += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// True when the end of the stream is near: every code must then be checked with [`Bits::is_past_end`].
    pub(super) fn is_in_tail(&self) -> bool {
        self.is_at_end && self.at + 16 > self.end
    }

    /// True while at least 16 bytes are buffered, so that two refills are safe.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.at + 16 <= self.end
    }

    /// True when more was used than there is.
    pub(super) fn is_past_end(&self) -> bool {
        self.at > self.end + (self.count / 8) as usize
    }

    /// Makes at least 56 bits ready.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let Some(bytes) = self.buffer.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) else { return };
        self.word |= u64::from_le_bytes(*bytes) << self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    #[inline(always)]
    pub(super) fn peek(&self) -> u64 {
        self.word
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, n: u32) {
        self.word >>= n & 63;
        self.count = self.count.wrapping_sub(n);
    }

    /// Up to 32 bits.
    pub(super) fn take(&mut self, n: u32) -> io::Result<u32> {
        if self.count < n {
            self.top_up()?;
            self.refill();
        }
        #[expect(clippy::cast_possible_truncation, reason = "masked to 32 bits")]
        let bits = (self.word & ((1 << n) - 1)) as u32;
        self.skip(n);
        if self.is_past_end() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(bits)
    }

    /// Goes on at the next whole byte.
    pub(super) fn align(&mut self) {
        self.skip(self.count % 8);
    }

    /// The next bytes as a number, without using them; `None` when the stream ends before. Only after [`Bits::align`].
    pub(super) fn peek_bytes(&mut self, n: u32) -> io::Result<Option<u64>> {
        self.top_up()?;
        self.refill();
        let left = self.end + (self.count / 8) as usize;
        if left < self.at + n as usize {
            return Ok(None);
        }
        Ok(Some(self.word & ((1 << (8 * n)) - 1)))
    }

    /// Whole bytes, as many as are buffered and fit. Only after [`Bits::align`].
    pub(super) fn copy(&mut self, to: &mut [u8]) -> io::Result<usize> {
        // First what was loaded and not used.
        let mut n_loaded = 0;
        for slot in to.iter_mut() {
            if self.count < 8 {
                break;
            }
            *slot = (self.word & 0xFF) as u8;
            self.skip(8);
            if self.is_past_end() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            n_loaded += 1;
        }
        if n_loaded > 0 || to.is_empty() {
            return Ok(n_loaded);
        }
        // Bits beyond the count are of bytes that were not passed: they come again.
        (self.word, self.count) = (0, 0);
        self.top_up()?;
        let ready = self.buffer.get(self.at..self.end).unwrap_or_default();
        let n = ready.len().min(to.len());
        if n == 0 && !to.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let (Some(to), Some(from)) = (to.get_mut(..n), ready.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}
