//! The builtin tokenizer: text is split into words, numbers, symbols and white space, and each part is cut greedily into
//! the longest pieces of a small English vocabulary, single bytes being pieces too. So it is lossless for any text,
//! needs no file, and has about four characters per token on English. It is nobody's model: counts from it only
//! compare with themselves.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::tokenizer::hex_sha256;

/// Part of the fingerprint: changes whenever the same text would be cut differently.
const VERSION: &str = "servelab-builtin-1";

const WORDS: &str = include_str!("../../data/words.txt");
const PIECES: &str = include_str!("../../data/pieces.txt");
const SYMBOLS: &str = include_str!("../../data/symbols.txt");

/// Most digits in one token, so that numbers cost what they cost in current models.
const MAX_DIGITS: usize = 3;

/// Longest run of spaces that is one token.
const MAX_SPACES: usize = 16;

pub(super) struct Builtin {
    /// Bytes of each id; the first 256 are the single bytes.
    pieces: Vec<Box<[u8]>>,
    ids: HashMap<Box<[u8]>, u32>,
    longest: usize,
}

impl Builtin {
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Builtin> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let mut builtin = Self { pieces: Vec::new(), ids: HashMap::new(), longest: 1 };
        for byte in 0..=u8::MAX {
            builtin.add(&[byte]);
        }
        for n in 0..100 {
            builtin.add(format!("{n:02}").as_bytes());
        }
        for n in 0..1000 {
            builtin.add(format!("{n:03}").as_bytes());
        }
        for n in 2..=MAX_SPACES {
            builtin.add(" ".repeat(n).as_bytes());
        }
        for run in ["\n\n", "\n\n\n", "\t\t", "\r\n", "\r\n\r\n", "\n  ", "\n    ", "\n        "] {
            builtin.add(run.as_bytes());
        }
        for symbol in (b'!'..=b'~').filter(|byte| !byte.is_ascii_digit()) {
            builtin.add(&[b' ', symbol]);
        }
        for text in WORDS.split_whitespace().chain(PIECES.split_whitespace()) {
            for form in [text.to_owned(), capitalised(text)] {
                builtin.add(form.as_bytes());
                builtin.add(format!(" {form}").as_bytes());
            }
        }
        for text in SYMBOLS.split_whitespace() {
            builtin.add(text.as_bytes());
            builtin.add(format!(" {text}").as_bytes());
        }
        builtin
    }

    fn add(&mut self, piece: &[u8]) {
        let Ok(id) = u32::try_from(self.pieces.len()) else { return };
        if self.ids.contains_key(piece) {
            return;
        }
        self.longest = self.longest.max(piece.len());
        self.ids.insert(piece.into(), id);
        self.pieces.push(piece.into());
    }

    pub(super) fn fingerprint(&self) -> String {
        let mut all = VERSION.as_bytes().to_vec();
        for piece in &self.pieces {
            // The length in front keeps "a"+"bc" apart from "ab"+"c".
            all.extend((piece.len() as u64).to_le_bytes());
            all.extend(piece);
        }
        hex_sha256(&all)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn count(&self, text: &str) -> u32 {
        let mut n = 0u32;
        self.each_token(text, |_| n = n.saturating_add(1));
        n
    }

    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.each_token(text, |id| ids.push(id));
        ids
    }

    pub(super) fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> =
            ids.iter().filter_map(|id| self.pieces.get(*id as usize)).flat_map(|piece| piece.iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn each_token(&self, text: &str, mut found: impl FnMut(u32)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_len(rest));
            rest = after;
            let mut bytes = part.as_bytes();
            while let Some(first) = bytes.first() {
                let longest = bytes.len().min(self.longest);
                let hit = (2..=longest).rev().find_map(|len| Some((len, *self.ids.get(bytes.get(..len)?)?)));
                let (len, id) = hit.unwrap_or((1, u32::from(*first)));
                found(id);
                bytes = bytes.get(len..).unwrap_or(&[]);
            }
        }
    }
}

/// Length in bytes of the next part: a word or symbol run with the space before it, up to three digits, or white space.
/// At least one character for any text that is not empty.
fn part_len(text: &str) -> usize {
    let body = text.strip_prefix(' ').unwrap_or(text);
    let lead = text.len() - body.len();
    let Some(first) = body.chars().next() else { return lead };
    if first.is_alphabetic() {
        return lead + word_len(body);
    }
    if !first.is_whitespace() && !first.is_ascii_digit() {
        return lead + run_len(body, |c| !c.is_alphanumeric() && !c.is_whitespace()).max(first.len_utf8());
    }
    if lead == 0 && first.is_ascii_digit() {
        return run_len(body, |c| c.is_ascii_digit()).min(MAX_DIGITS);
    }
    let run = run_len(text, char::is_whitespace);
    let takes_space = text.get(run..).and_then(|after| after.chars().next()).is_some_and(|next| !next.is_ascii_digit());
    // A last space belongs to the word behind it.
    if run > 1 && takes_space && text.as_bytes().get(run - 1) == Some(&b' ') { run - 1 } else { run }
}

fn run_len(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

/// Letters, and apostrophes between letters.
fn word_len(text: &str) -> usize {
    let mut len = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let joins = c == '\'' && chars.peek().is_some_and(|next| next.is_alphabetic());
        if !c.is_alphabetic() && !joins {
            break;
        }
        len += c.len_utf8();
    }
    len
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
