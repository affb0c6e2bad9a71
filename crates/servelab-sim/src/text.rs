//! Prompts to token ids and back to words: the approximate tokenizer, the hook for the caller's own, and the seeded
//! pseudo-words that the simulated model writes. One word is one token everywhere in the simulator.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::random::{hash_bytes, mix, unit};

/// A tokenizer given from outside.
pub type EncodeFn = Arc<dyn Fn(&str) -> Vec<u32> + Send + Sync>;

/// The way back; `None` when an id is not of the vocabulary.
pub type DecodeFn = Arc<dyn Fn(&[u32]) -> Option<String> + Send + Sync>;

/// How prompt text becomes tokens.
#[derive(Clone, Default)]
pub enum PromptTokenizer {
    /// A run of letters or digits (with the space before it) is one token per started 8 bytes; any other character is
    /// one token.
    #[default]
    Approximate,
    /// The caller's count; ids are approximate, cut or extended to that count.
    Count(Arc<dyn Fn(&str) -> usize + Send + Sync>),
    /// The caller's ids.
    Encode(EncodeFn),
}

impl fmt::Debug for PromptTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approximate => "Approximate",
            Self::Count(_) => "Count(..)",
            Self::Encode(_) => "Encode(..)",
        })
    }
}

impl PromptTokenizer {
    /// Token ids of a text; equal prefixes (up to a token boundary) give equal ids.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        match self {
            Self::Approximate => approximate_ids(text),
            Self::Encode(encode) => encode(text),
            Self::Count(count) => {
                let n_tokens = count(text);
                let mut ids = approximate_ids(text);
                let tail = hash_bytes(text.as_bytes());
                let mut position = ids.len() as u64;
                ids.resize_with(n_tokens, || {
                    position += 1;
                    fold_id(mix(tail, position))
                });
                ids
            }
        }
    }
}

/// A chat rendered in the ChatML manner that most open models use; its markers cost tokens like real ones.
pub(crate) fn render_chat<'a>(messages: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (role, content) in messages {
        text.push_str("<|im_start|>");
        text.push_str(role);
        text.push('\n');
        text.push_str(content);
        text.push_str("<|im_end|>\n");
    }
    text.push_str("<|im_start|>assistant\n");
    text
}

const PIECE_BYTES: usize = 8;

fn approximate_ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::with_capacity(text.len() / 5 + 1);
    let mut rest = text;
    while !rest.is_empty() {
        let end = piece_end(rest);
        let (piece, tail) = rest.split_at(end);
        ids.push(fold_id(hash_bytes(piece.as_bytes())));
        rest = tail;
    }
    ids
}

fn piece_end(text: &str) -> usize {
    for marker in ["<|im_start|>", "<|im_end|>"] {
        if text.starts_with(marker) {
            return marker.len();
        }
    }
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let leading_space = at == 0 && character == ' ';
        let full = end >= PIECE_BYTES + usize::from(text.starts_with(' '));
        if !leading_space && (!character.is_alphanumeric() || full) {
            break;
        }
        end = at + character.len_utf8();
    }
    if end == 0 { text.chars().next().map_or(text.len(), char::len_utf8) } else { end }
}

fn fold_id(hash: u64) -> u32 {
    (hash % 150_000) as u32
}

const ONSETS: [&str; 16] = ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"];
const VOWELS: [&str; 4] = ["a", "e", "i", "o"];

/// Bytes of every output token's text.
pub const TOKEN_BYTES: usize = 5;

/// The seeded output of one request: an endless sequence of pseudo-words, one per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputText {
    seed: u64,
}

impl OutputText {
    /// Everything that the text depends on, as one number.
    pub(crate) fn seed(self) -> u64 {
        self.seed
    }

    /// The text that follows `prompt` under `seed`; the same on every server with the same seed.
    pub fn new(seed: u64, prompt: &[u32]) -> Self {
        Self { seed: prompt.iter().fold(mix(seed, prompt.len() as u64), |hash, id| mix(hash, u64::from(*id))) }
    }

    /// A different text for the same prompt: other choices of `n`, or a request's own sampling seed.
    pub fn variant(self, variant: u64) -> Self {
        if variant == 0 { self } else { Self { seed: mix(self.seed, variant) } }
    }

    /// Appends the text of token `index` (from 0): a space and four letters.
    pub fn push_token(self, index: u32, out: &mut String) {
        let mut hash = mix(self.seed, u64::from(index));
        out.push(' ');
        for _ in 0..2 {
            out.push_str(ONSETS.get((hash % 16) as usize).unwrap_or(&"b"));
            out.push_str(VOWELS.get((hash / 16 % 4) as usize).unwrap_or(&"a"));
            hash /= 64;
        }
    }

    /// The text of tokens `from..to`.
    pub fn slice(self, from: u32, to: u32) -> String {
        let mut out = String::with_capacity(TOKEN_BYTES * to.saturating_sub(from) as usize);
        for index in from..to {
            self.push_token(index, &mut out);
        }
        out
    }

    /// Id of token `index`, equal to what the approximate tokenizer gives for its text.
    pub fn token_id(self, index: u32) -> u32 {
        let mut piece = String::with_capacity(8);
        self.push_token(index, &mut piece);
        fold_id(hash_bytes(piece.as_bytes()))
    }

    /// Tokens after which this text would end by itself: at least 8, on average about 250 (a shifted exponential).
    pub fn natural_length(self) -> u32 {
        let u = unit(mix(self.seed, 0xE05));
        8 + (-(1.0 - u).ln() * 240.0).min(100_000.0) as u32
    }

    /// The first token (as a count) after which one of `stops` has appeared within `limit` tokens, the stop string, and
    /// the byte length of the text before it. What the first `skip` tokens say is not looked at.
    pub fn find_stop(self, stops: &[String], skip: u32, limit: u32) -> Option<(u32, String, usize)> {
        let text = self.slice(skip, limit);
        let skipped = skip as usize * TOKEN_BYTES;
        let found = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| text.find(stop.as_str()).map(|at| (skipped + at + stop.len(), skipped + at, stop)))
            .min()?;
        let (end, start, stop) = found;
        Some((end.div_ceil(TOKEN_BYTES) as u32, stop.clone(), start))
    }

    /// The first token (as a count) after `skip` tokens that is one of `ids`, within `limit` tokens, and that id.
    pub fn find_stop_id(self, ids: &[u32], skip: u32, limit: u32) -> Option<(u32, u32)> {
        if ids.is_empty() {
            return None;
        }
        (skip..limit).map(|index| (index + 1, self.token_id(index))).find(|(_, id)| ids.contains(id))
    }
}

/// Text of token ids that a simulated model wrote under the approximate tokenizer; other ids have none.
pub(crate) fn approximate_text(ids: &[u32]) -> Option<String> {
    static WORDS: LazyLock<HashMap<u32, String>> = LazyLock::new(|| {
        let syllables = ONSETS.iter().flat_map(|onset| VOWELS.iter().map(move |vowel| format!("{onset}{vowel}")));
        let syllables: Vec<String> = syllables.collect();
        let words = syllables.iter().flat_map(|first| syllables.iter().map(move |second| format!(" {first}{second}")));
        words.map(|word| (fold_id(hash_bytes(word.as_bytes())), word)).collect()
    });
    ids.iter().map(|id| WORDS.get(id).map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approximate_counts() {
        let check = |text: &str, n: usize| assert_eq!(PromptTokenizer::Approximate.encode(text).len(), n, "{text:?}");
        check("", 0);
        check("hello", 1);
        check("hello world", 2);
        check("hello, world!", 4);
        check("internationalization", 3);
        check("  a", 2);
        check("é", 1);
        check("<|im_start|>user\n", 3);
    }

    #[test]
    fn every_output_word_is_one_token_and_ids_agree() {
        let output = OutputText::new(1, &[1, 2, 3]);
        let text = output.slice(0, 50);
        let ids: Vec<u32> = (0..50).map(|index| output.token_id(index)).collect();
        assert_eq!(PromptTokenizer::Approximate.encode(&text), ids);
    }

    #[test]
    fn output_is_a_function_of_seed_and_prompt() {
        let a = OutputText::new(1, &[1, 2]).slice(0, 20);
        assert_eq!(a, OutputText::new(1, &[1, 2]).slice(0, 20));
        assert_ne!(a, OutputText::new(2, &[1, 2]).slice(0, 20));
        assert_ne!(a, OutputText::new(1, &[2, 1]).slice(0, 20));
        assert_ne!(a, OutputText::new(1, &[1, 2]).variant(1).slice(0, 20));
    }

    #[test]
    fn natural_lengths_have_the_documented_mean() {
        let mean = (0..4_000).map(|i| f64::from(OutputText::new(i, &[]).natural_length())).sum::<f64>() / 4_000.0;
        assert!((230.0..270.0).contains(&mean), "{mean}");
    }

    #[test]
    fn counting_hook_wins_and_keeps_prefixes() {
        let tokenizer = PromptTokenizer::Count(Arc::new(|text: &str| text.len() / 2));
        assert_eq!(tokenizer.encode("abcdefgh ijklmnop").len(), 8);
        let long = PromptTokenizer::Approximate.encode("one two three four");
        assert_eq!(PromptTokenizer::Count(Arc::new(|_| 2)).encode("one two three four"), long[..2]);
    }

    #[test]
    fn stop_strings_end_at_their_token() {
        let output = OutputText::new(3, &[9]);
        let text = output.slice(0, 10);
        let word = text[15..20].trim().to_owned();
        let first = text.find(&word).expect("word is there");
        let (n_tokens, stop, start) = output.find_stop(std::slice::from_ref(&word), 0, 10).expect("found");
        assert_eq!((n_tokens as usize, stop, start), ((first + 4).div_ceil(5), word.clone(), first));
        assert_eq!(output.find_stop(&["#".to_owned()], 0, 10), None);
        assert!(output.find_stop(std::slice::from_ref(&word), n_tokens, 10).is_none_or(|(later, ..)| later > n_tokens));
        let third = output.token_id(2);
        assert_eq!(output.find_stop_id(&[third], 0, 10).map(|(count, _)| count), Some(3));
        assert_eq!(output.find_stop_id(&[], 0, 10), None);
    }

    #[test]
    fn written_tokens_can_be_read_back() {
        let output = OutputText::new(5, &[1]);
        let ids: Vec<u32> = (0..20).map(|index| output.token_id(index)).collect();
        let text = approximate_text(&ids).expect("all known");
        // A few of the 4,096 words share an id; the text is one that encodes to the same ids.
        assert_eq!(PromptTokenizer::Approximate.encode(&text), ids);
        assert_eq!(approximate_text(&[u32::MAX]), None);
    }
}
