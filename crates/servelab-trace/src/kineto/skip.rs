//! Finding the end of a JSON object without reading what is inside: 64 bytes at a time become bit masks of quotes and
//! braces, strings are masked out by a running parity. Most of a trace is skipped this way.

/// Where quotes, backslashes and braces are in 64 bytes; bit i is byte i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Masks {
    quote: u64,
    backslash: u64,
    open: u64,
    close: u64,
}

#[cfg(target_arch = "x86_64")]
fn masks(block: &[u8; 64]) -> Masks {
    #[expect(unsafe_code, reason = "SSE2 is part of x86-64: there is no such processor without it")]
    // SAFETY: the callee needs SSE2 and nothing else.
    unsafe {
        vector_masks(block)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn vector_masks(block: &[u8; 64]) -> Masks {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let (parts, _) = block.as_chunks::<16>();
    let mut lanes = [_mm_set1_epi8(0); 4];
    for (lane, part) in lanes.iter_mut().zip(parts) {
        let bits = u128::from_le_bytes(*part);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
        let halves = ((bits >> 64) as i64, bits as i64);
        *lane = _mm_set_epi64x(halves.0, halves.1);
    }
    let find = |byte: u8| {
        let wanted: __m128i = _mm_set1_epi8(byte.cast_signed());
        let mut mask = 0_u64;
        for (idx, lane) in lanes.iter().enumerate() {
            let bits = _mm_movemask_epi8(_mm_cmpeq_epi8(*lane, wanted)).cast_unsigned();
            mask |= u64::from(bits) << (16 * idx);
        }
        mask
    };
    Masks { quote: find(b'"'), backslash: find(b'\\'), open: find(b'{'), close: find(b'}') }
}

#[cfg(not(target_arch = "x86_64"))]
fn masks(block: &[u8; 64]) -> Masks {
    portable_masks(block)
}

/// The same without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable_masks(block: &[u8; 64]) -> Masks {
    let find = |byte: u8| {
        let mut mask = 0_u64;
        for (idx, found) in block.iter().enumerate() {
            mask |= u64::from(*found == byte) << idx;
        }
        mask
    };
    Masks { quote: find(b'"'), backslash: find(b'\\'), open: find(b'{'), close: find(b'}') }
}

/// Distance to the next quote or backslash. Most texts are keys and short names, which end within a word or two: a call of a
/// vector routine would take longer than that.
#[inline]
pub fn quote_or_backslash(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const WORDS: usize = 3;
    // The lowest bit that this sets is exact; false ones stand only above a true one.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let (words, _) = text.as_chunks::<8>();
    for (idx, word) in words.iter().take(WORDS).enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (ONES * 0x22)) | zeros(word ^ (ONES * 0x5c));
        if found != 0 {
            return Some(8 * idx + found.trailing_zeros() as usize / 8);
        }
    }
    let seen = 8 * words.len().min(WORDS);
    memchr::memchr2(b'"', b'\\', text.get(seen..)?).map(|place| seen + place)
}

/// Bit i is the parity of bits 0..=i.
fn prefix_parity(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// Position after the `}` that closes an object, given the position after its `{`. `None` when it does not close.
pub fn object_end(text: &[u8], from: usize) -> Option<usize> {
    let body = text.get(from..)?;
    let (blocks, rest) = body.as_chunks::<64>();
    let mut state = State { depth: 1, is_in_string: false, is_escaped: false };
    let mut at = from;
    for block in blocks {
        let found = masks(block);
        if found.backslash != 0 || state.is_escaped {
            if let Some(end) = state.walk(block) {
                return Some(at + end);
            }
        } else {
            let inside = prefix_parity(found.quote) ^ if state.is_in_string { u64::MAX } else { 0 };
            state.is_in_string = inside >> 63 == 1;
            let (open, close) = (found.open & !inside, found.close & !inside);
            if close == 0 {
                state.depth += open.count_ones();
            } else {
                let mut braces = open | close;
                while braces != 0 {
                    let bit = braces & braces.wrapping_neg();
                    if open & bit != 0 {
                        state.depth += 1;
                    } else {
                        state.depth -= 1;
                        if state.depth == 0 {
                            return Some(at + bit.trailing_zeros() as usize + 1);
                        }
                    }
                    braces ^= bit;
                }
            }
        }
        at += 64;
    }
    state.walk(rest).map(|end| at + end)
}

struct State {
    depth: u32,
    is_in_string: bool,
    is_escaped: bool,
}

impl State {
    /// Byte by byte; the position after the closing brace when it is here.
    fn walk(&mut self, bytes: &[u8]) -> Option<usize> {
        for (idx, byte) in bytes.iter().enumerate() {
            if self.is_in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.is_in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.is_in_string = true,
                    b'{' => self.depth += 1,
                    b'}' => {
                        self.depth -= 1;
                        if self.depth == 0 {
                            return Some(idx + 1);
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: one byte after the other.
    fn slow(text: &[u8], from: usize) -> Option<usize> {
        let mut state = State { depth: 1, is_in_string: false, is_escaped: false };
        state.walk(text.get(from..)?).map(|end| from + end)
    }

    proptest! {
        #[test]
        fn blocks_give_what_bytes_give(text in r#"[a{}"\\]{0,300}"#, from in 0_usize..4) {
            prop_assert_eq!(object_end(text.as_bytes(), from), slow(text.as_bytes(), from));
        }

        #[test]
        fn the_next_quote_is_found_wherever_it_is(text in prop::collection::vec(prop::sample::select(b"\"\\ab!#[]".to_vec()), 0..60), before in 0_usize..60) {
            let mut text = text;
            text.splice(0..0, std::iter::repeat_n(b'x', before));
            let expected = text.iter().position(|b| matches!(b, b'"' | b'\\'));
            prop_assert_eq!(quote_or_backslash(&text), expected);
        }

        #[test]
        fn vectors_give_what_bytes_give(block in prop::array::uniform32(any::<u8>()), more in prop::array::uniform32(prop::sample::select(b"\"\\{}a".to_vec()))) {
            let mut all = [0_u8; 64];
            all[..32].copy_from_slice(&block);
            all[32..].copy_from_slice(&more);
            prop_assert_eq!(masks(&all), portable_masks(&all));
        }
    }

    #[test]
    fn a_backslash_outside_a_string_escapes_nothing() {
        let text = format!("{}\\}}", " ".repeat(63));
        assert_eq!(object_end(text.as_bytes(), 0), Some(65));
    }
}
