//! Gzip as a stream of text, all members one after the other, inflated while it is scanned. The decoder is our own because
//! inflating is two thirds of reading a compressed trace: it writes whole words, decodes literals in runs and keeps 32 KiB of
//! history beside a window that fits into a second-level cache. Checksums and lengths of members are checked.

mod bits;
mod codes;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Read};

use bits::Bits;
use codes::{Codes, Step};

/// How far back a match may reach.
const HISTORY: usize = 32 * 1024;
/// Bytes inflated before they are handed on.
const CHUNK: usize = 128 * 1024;
/// A match is written in words, so it may be rounded up.
const SLACK: usize = 320;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a member.
    Member,
    /// Before a block.
    Block,
    /// Inside a block without codes; so many bytes are left.
    Stored(usize),
    /// Inside a block with codes.
    Coded,
    /// After the last block of a member.
    Trailer,
    /// After the last member.
    End,
}

/// Inflates gzip while it is read. Where the file is cut or damaged, everything before that is given first, then an error.
#[derive(Debug)]
pub struct GzipReader<R> {
    bits: Bits<R>,
    codes: Codes,
    window: Vec<u8>,
    /// Up to where the window is filled, and up to where it was handed on.
    filled: usize,
    taken: usize,
    /// From where the checksum is still to be made.
    summed: usize,
    /// Where the member begins, or the window does: no match may reach further back.
    begin: usize,
    crc: flate2::Crc,
    state: State,
    is_last_block: bool,
    has_member: bool,
    error: Option<io::Error>,
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl<R: Read> GzipReader<R> {
    /// Reads gzip from `input`.
    pub fn new(input: R) -> Self {
        Self {
            bits: Bits::new(input),
            codes: Codes::default(),
            window: vec![0; HISTORY + CHUNK + SLACK],
            filled: 0,
            taken: 0,
            summed: 0,
            begin: 0,
            crc: flate2::Crc::new(),
            state: State::Member,
            is_last_block: false,
            has_member: false,
            error: None,
        }
    }

    /// Inflates until a chunk is there or nothing more comes.
    fn fill(&mut self) -> io::Result<()> {
        if self.filled > HISTORY {
            self.sum();
            self.window.copy_within(self.filled - HISTORY..self.filled, 0);
            self.begin = self.begin.saturating_sub(self.filled - HISTORY);
            (self.filled, self.taken, self.summed) = (HISTORY, HISTORY, HISTORY);
        }
        while self.filled < HISTORY + CHUNK && self.state != State::End {
            self.step()?;
        }
        self.sum();
        Ok(())
    }

    fn sum(&mut self) {
        if let Some(fresh) = self.window.get(self.summed..self.filled) {
            self.crc.update(fresh);
        }
        self.summed = self.filled;
    }

    fn step(&mut self) -> io::Result<()> {
        self.bits.top_up()?;
        match self.state {
            State::Member => self.member()?,
            State::Block => {
                self.is_last_block = self.bits.take(1)? == 1;
                self.state = match self.bits.take(2)? {
                    0 => {
                        self.bits.align();
                        let (length, inverse) = (self.bits.take(16)?, self.bits.take(16)?);
                        if length ^ inverse != 0xFFFF {
                            return Err(damaged("a stored block contradicts its own length"));
                        }
                        State::Stored(length as usize)
                    }
                    1 => {
                        self.codes.fixed()?;
                        State::Coded
                    }
                    2 => {
                        self.codes.read(&mut self.bits)?;
                        State::Coded
                    }
                    _ => return Err(damaged("a block of an unknown type")),
                };
            }
            State::Stored(0) => self.after_block(),
            State::Stored(left) => {
                let room = (HISTORY + CHUNK).saturating_sub(self.filled);
                let space = self.window.get_mut(self.filled..self.filled + left.min(room)).unwrap_or_default();
                let n = self.bits.copy(space)?;
                self.filled += n;
                self.state = State::Stored(left - n);
            }
            State::Coded => {
                let (step, filled) =
                    self.codes.run(&mut self.bits, &mut self.window, self.begin..HISTORY + CHUNK, self.filled);
                self.filled = filled;
                match step {
                    Step::More => {}
                    Step::EndOfBlock => self.after_block(),
                    Step::Cut => return Err(ErrorKind::UnexpectedEof.into()),
                    Step::Bad(what) => return Err(damaged(what)),
                }
            }
            State::Trailer => {
                self.bits.align();
                self.sum();
                let (crc, length) = (self.bits.take(32)?, self.bits.take(32)?);
                if crc != self.crc.sum() || length != self.crc.amount() {
                    return Err(damaged("the checksum of a gzip member is wrong"));
                }
                self.crc.reset();
                self.state = State::Member;
            }
            State::End => {}
        }
        Ok(())
    }

    fn after_block(&mut self) {
        self.state = if self.is_last_block { State::Trailer } else { State::Block };
    }

    /// The header of a member. What follows the last member and is none ends the stream, as gzip does.
    fn member(&mut self) -> io::Result<()> {
        self.bits.align();
        let is_member = self.bits.peek_bytes(2)?.is_some_and(|magic| magic == 0x8b1f);
        if !is_member {
            if !self.has_member {
                return Err(damaged("it is no gzip"));
            }
            self.state = State::End;
            return Ok(());
        }
        self.has_member = true;
        self.bits.take(16)?;
        if self.bits.take(8)? != 8 {
            return Err(damaged("a gzip member with an unknown method"));
        }
        let flags = self.bits.take(8)?;
        self.bits.take(32)?;
        self.bits.take(16)?;
        if flags & 4 != 0 {
            for _ in 0..self.bits.take(16)? {
                self.byte()?;
            }
        }
        // A name and a comment, each ended by a zero.
        for flag in [8, 16] {
            if flags & flag != 0 {
                while self.byte()? != 0 {}
            }
        }
        if flags & 2 != 0 {
            self.bits.take(16)?;
        }
        self.begin = self.filled;
        self.state = State::Block;
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u32> {
        self.bits.top_up()?;
        self.bits.take(8)
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.filled {
            if let Some(error) = self.error.take() {
                self.state = State::End;
                return Err(error);
            }
            if self.state == State::End {
                return Ok(0);
            }
            // What was inflated before an error comes first.
            self.error = self.fill().err();
        }
        let ready = self.window.get(self.taken..self.filled).unwrap_or_default();
        let n = ready.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), ready.get(..n)) {
            to.copy_from_slice(from);
        }
        self.taken += n;
        Ok(n)
    }
}
