//! The codes of a block and the loop that decodes with them. A table entry holds all that a symbol needs: what it stands for, how
//! long its code is, and how many bits follow; codes longer than a table's index go through a second table behind the first.

use std::io::{self, Read};
use std::ops::Range;

use super::bits::Bits;
use super::damaged;

const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 9;
/// Longest code.
const MOST_BITS: usize = 15;

/// An entry: bits 0–5 bits to skip in all, 8–11 length of the code, 12–15 flags, 16–31 value.
type Entry = u32;
const LITERAL: Entry = 1 << 12;
const END: Entry = 1 << 13;
/// The value is the place of a second table, bits 8–11 its index bits.
const SECOND: Entry = 1 << 14;
const INVALID: Entry = 1 << 15;

const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
/// In which order the lengths of the code for code lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Why decoding paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The window is full, or the buffer of input is low.
    More,
    /// The block ended.
    EndOfBlock,
    /// The stream ends inside the block.
    Cut,
    /// The block is wrong.
    Bad(&'static str),
}

/// Tables of a block.
#[derive(Debug, Default)]
pub(super) struct Codes {
    literals: Vec<Entry>,
    distances: Vec<Entry>,
}

fn literal_entry(symbol: usize) -> (Entry, u32) {
    match symbol {
        0..=255 => (LITERAL | (symbol as Entry) << 16, 0),
        256 => (END, 0),
        257..=285 => LENGTHS
            .get(symbol - 257)
            .map_or((INVALID, 0), |(base, extra)| (Entry::from(*base) << 16, u32::from(*extra))),
        _ => (INVALID, 0),
    }
}

fn distance_entry(symbol: usize) -> (Entry, u32) {
    // 1, 2, 3, 4, then two of each power of two: 5, 7, 9, 13, …
    let number = symbol as u32;
    match number {
        0..=3 => ((number + 1) << 16, 0),
        4..=29 => {
            let extra = number / 2 - 1;
            ((((2 + number % 2) << extra) + 1) << 16, extra)
        }
        _ => (INVALID, 0),
    }
}

fn length_entry(symbol: usize) -> (Entry, u32) {
    ((symbol as Entry) << 16, 0)
}

/// Fills `table` for codes of these lengths. An incomplete code is allowed only with at most one symbol, as zlib does.
fn build(
    table: &mut Vec<Entry>,
    lengths: &[u8],
    index_bits: u32,
    entry_of: impl Fn(usize) -> (Entry, u32),
) -> io::Result<()> {
    let mut counts = [0_u32; MOST_BITS + 1];
    for length in lengths {
        if let Some(count) = counts.get_mut(usize::from(*length)) {
            *count += 1;
        }
    }
    counts[0] = 0;
    let used: u32 = counts.iter().sum();
    let mut space: i64 = 1 << MOST_BITS;
    for (length, count) in counts.iter().enumerate() {
        space -= i64::from(*count) << (MOST_BITS - length);
    }
    if space < 0 || (space > 0 && used > 1) {
        return Err(damaged("a set of codes that cannot be"));
    }
    let mut next = [0_u32; MOST_BITS + 2];
    let mut code = 0;
    for length in 1..=MOST_BITS {
        code = (code + counts.get(length - 1).copied().unwrap_or(0)) << 1;
        if let Some(slot) = next.get_mut(length) {
            *slot = code;
        }
    }
    table.clear();
    table.resize(1 << index_bits, INVALID);
    // How many index bits the second table behind each entry of the first needs.
    let mut second_bits = vec![0_u32; 1 << index_bits];
    let mut coded: Vec<(u32, u32, usize)> = Vec::with_capacity(lengths.len());
    for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
        let length = u32::from(*length);
        let Some(slot) = next.get_mut(length as usize) else { continue };
        let reversed = slot.reverse_bits() >> (32 - length);
        *slot += 1;
        coded.push((reversed, length, symbol));
        if length > index_bits
            && let Some(bits) = second_bits.get_mut((reversed & ((1 << index_bits) - 1)) as usize)
        {
            *bits = (*bits).max(length - index_bits);
        }
    }
    for (reversed, length, symbol) in coded {
        let (value, extra) = entry_of(symbol);
        if length <= index_bits {
            let entry = value | length << 8 | (length + extra);
            for place in table.iter_mut().take(1 << index_bits).skip(reversed as usize).step_by(1 << length) {
                *place = entry;
            }
            continue;
        }
        let first = (reversed & ((1 << index_bits) - 1)) as usize;
        let bits = second_bits.get(first).copied().unwrap_or(0);
        let place = match table.get(first) {
            Some(entry) if entry & SECOND != 0 => (*entry >> 16) as usize,
            _ => {
                let place = table.len();
                table.resize(place + (1 << bits), INVALID);
                if let Some(entry) = table.get_mut(first) {
                    *entry = SECOND | (place as Entry) << 16 | bits << 8 | index_bits;
                }
                place
            }
        };
        let rest = length - index_bits;
        let entry = value | rest << 8 | (rest + extra);
        let second = table.get_mut(place..place + (1 << bits)).unwrap_or_default();
        for slot in second.iter_mut().skip((reversed >> index_bits) as usize).step_by(1 << rest) {
            *slot = entry;
        }
    }
    Ok(())
}

#[inline(always)]
fn low_bits(word: u64, n: u32) -> u64 {
    word & ((1 << (n & 63)) - 1)
}

#[inline(always)]
fn find(table: &[Entry], index: u64) -> Entry {
    table.get(index as usize).copied().unwrap_or(INVALID)
}

impl Codes {
    /// The codes that need not be written.
    pub(super) fn fixed(&mut self) -> io::Result<()> {
        let mut lengths = [8_u8; 288];
        lengths.iter_mut().take(256).skip(144).for_each(|length| *length = 9);
        lengths.iter_mut().take(280).skip(256).for_each(|length| *length = 7);
        build(&mut self.literals, &lengths, LITERAL_BITS, literal_entry)?;
        build(&mut self.distances, &[5; 32], DISTANCE_BITS, distance_entry)
    }

    /// Reads the codes of a block.
    pub(super) fn read<R: Read>(&mut self, bits: &mut Bits<R>) -> io::Result<()> {
        let n_literals = bits.take(5)? as usize + 257;
        let n_distances = bits.take(5)? as usize + 1;
        let n_lengths = bits.take(4)? as usize + 4;
        let mut lengths = [0_u8; 19];
        for place in ORDER.iter().take(n_lengths) {
            let length = bits.take(3)?;
            if let Some(slot) = lengths.get_mut(*place) {
                *slot = length as u8;
            }
        }
        let mut table = Vec::new();
        build(&mut table, &lengths, 7, length_entry)?;
        let mut all: Vec<u8> = Vec::with_capacity(n_literals + n_distances);
        while all.len() < n_literals + n_distances {
            bits.top_up()?;
            bits.refill();
            let entry = find(&table, low_bits(bits.peek(), 7));
            if entry & INVALID != 0 {
                return Err(damaged("a code that does not exist"));
            }
            bits.skip(entry & 63);
            let (value, times) = match entry >> 16 {
                length @ 0..=15 => (length as u8, 1),
                16 => (*all.last().ok_or_else(|| damaged("nothing to repeat"))?, 3 + bits.take(2)?),
                17 => (0, 3 + bits.take(3)?),
                _ => (0, 11 + bits.take(7)?),
            };
            if bits.is_past_end() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            all.extend(std::iter::repeat_n(value, times as usize));
        }
        if all.len() != n_literals + n_distances || all.get(256) == Some(&0) {
            return Err(damaged("a set of codes that cannot be"));
        }
        let (literals, distances) = all.split_at(n_literals);
        build(&mut self.literals, literals, LITERAL_BITS, literal_entry)?;
        build(&mut self.distances, distances, DISTANCE_BITS, distance_entry)
    }

    /// Decodes into the `usable` part of `window` from `filled` on until its end is passed; says where it stopped. No match
    /// reaches before its start.
    pub(super) fn run<R: Read>(
        &self,
        bits: &mut Bits<R>,
        window: &mut [u8],
        usable: Range<usize>,
        filled: usize,
    ) -> (Step, usize) {
        if bits.is_in_tail() {
            self.decode::<R, true>(bits, window, usable, filled)
        } else {
            self.decode::<R, false>(bits, window, usable, filled)
        }
    }

    #[inline(always)]
    fn decode<R: Read, const IS_TAIL: bool>(
        &self,
        bits: &mut Bits<R>,
        window: &mut [u8],
        usable: Range<usize>,
        mut filled: usize,
    ) -> (Step, usize) {
        let Range { start: begin, end: limit } = usable;
        let (literals, distances) = (self.literals.as_slice(), self.distances.as_slice());
        while filled < limit && (IS_TAIL || bits.is_full()) {
            bits.refill();
            let mut entry = find(literals, low_bits(bits.peek(), LITERAL_BITS));
            // Up to two literals leave enough bits for the next look-up.
            if !IS_TAIL && entry & LITERAL != 0 {
                bits.skip(entry & 63);
                put(window, filled, entry);
                filled += 1;
                entry = find(literals, low_bits(bits.peek(), LITERAL_BITS));
                if entry & LITERAL != 0 {
                    bits.skip(entry & 63);
                    put(window, filled, entry);
                    filled += 1;
                    entry = find(literals, low_bits(bits.peek(), LITERAL_BITS));
                }
                bits.refill();
            }
            if entry & SECOND != 0 {
                bits.skip(entry & 63);
                entry = find(literals, u64::from(entry >> 16) + low_bits(bits.peek(), entry >> 8 & 15));
            }
            let word = bits.peek();
            bits.skip(entry & 63);
            if IS_TAIL && bits.is_past_end() {
                return (Step::Cut, filled);
            }
            if entry & LITERAL != 0 {
                put(window, filled, entry);
                filled += 1;
                continue;
            }
            if entry & (END | INVALID) != 0 {
                let step = if entry & END != 0 { Step::EndOfBlock } else { Step::Bad("a code that does not exist") };
                return (step, filled);
            }
            let length = (entry >> 16) as usize + (low_bits(word, entry & 63) >> (entry >> 8 & 15)) as usize;
            let mut entry = find(distances, low_bits(bits.peek(), DISTANCE_BITS));
            if entry & SECOND != 0 {
                bits.skip(entry & 63);
                entry = find(distances, u64::from(entry >> 16) + low_bits(bits.peek(), entry >> 8 & 15));
            }
            if entry & INVALID != 0 {
                return (Step::Bad("a distance that does not exist"), filled);
            }
            let word = bits.peek();
            bits.skip(entry & 63);
            if IS_TAIL && bits.is_past_end() {
                return (Step::Cut, filled);
            }
            let distance = (entry >> 16) as usize + (low_bits(word, entry & 63) >> (entry >> 8 & 15)) as usize;
            if distance > filled - begin {
                return (Step::Bad("a distance before the beginning"), filled);
            }
            repeat(window, filled, distance, length);
            filled += length;
        }
        (Step::More, filled)
    }
}

#[inline(always)]
fn put(window: &mut [u8], at: usize, entry: Entry) {
    if let Some(slot) = window.get_mut(at) {
        *slot = (entry >> 16) as u8;
    }
}

/// Writes `length` bytes that stand `distance` before `at`; may write up to 15 more, which the next ones overwrite.
#[inline(always)]
fn repeat(window: &mut [u8], at: usize, distance: usize, length: usize) {
    let from = at - distance;
    if distance >= 16 {
        let mut done = 0;
        while done < length {
            let Some(word) = window.get(from + done..).and_then(|rest| rest.first_chunk::<16>()).copied() else {
                return;
            };
            let Some(space) = window.get_mut(at + done..).and_then(|rest| rest.first_chunk_mut::<16>()) else { return };
            *space = word;
            done += 16;
        }
    } else if distance == 1 {
        let byte = window.get(from).copied().unwrap_or_default();
        if let Some(space) = window.get_mut(at..at + length) {
            space.fill(byte);
        }
    } else {
        for idx in 0..length {
            let byte = window.get(from + idx).copied().unwrap_or_default();
            if let Some(slot) = window.get_mut(at + idx) {
                *slot = byte;
            }
        }
    }
}
