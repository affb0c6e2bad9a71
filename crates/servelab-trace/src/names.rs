//! Interned names. A trace repeats a few thousand names millions of times, so events carry a number and the text is kept
//! once, in one arena.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A name of one [`Names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u32);

/// Names by number.
#[derive(Debug, Clone, Default)]
pub struct Names {
    arena: String,
    ends: Vec<usize>,
    index: HashMap<u64, Vec<u32>, BuildHasherDefault<Identity>>,
}

impl Names {
    /// The number of a name, new or known.
    pub fn intern(&mut self, name: &str) -> NameId {
        let hash = hash(name.as_bytes());
        if let Some(known) = self.index.get(&hash) {
            for &id in known {
                if self.get(NameId(id)) == name {
                    return NameId(id);
                }
            }
        }
        let id = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        self.arena.push_str(name);
        self.ends.push(self.arena.len());
        self.index.entry(hash).or_default().push(id);
        NameId(id)
    }

    /// The same for bytes; what is no UTF-8 is replaced.
    pub fn intern_bytes(&mut self, name: &[u8]) -> NameId {
        if let Some(known) = self.index.get(&hash(name)) {
            for &id in known {
                if self.get(NameId(id)).as_bytes() == name {
                    return NameId(id);
                }
            }
        }
        self.intern(&String::from_utf8_lossy(name))
    }

    /// The text of a name; empty for a number of another table.
    pub fn get(&self, id: NameId) -> &str {
        let idx = id.0 as usize;
        let start = if idx == 0 { 0 } else { self.ends.get(idx - 1).copied().unwrap_or_default() };
        self.ends.get(idx).and_then(|&end| self.arena.get(start..end)).unwrap_or_default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All names in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (NameId, &str)> {
        (0..u32::try_from(self.ends.len()).unwrap_or(u32::MAX)).map(|id| (NameId(id), self.get(NameId(id))))
    }
}

/// Eight bytes a multiplication: names are long, and the table is compared afterwards anyway.
fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = K ^ bytes.len() as u64;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        state = (state.rotate_left(23) ^ u64::from_le_bytes(*chunk)).wrapping_mul(K);
    }
    let mut last = [0_u8; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    state = (state.rotate_left(23) ^ u64::from_le_bytes(last)).wrapping_mul(K);
    state ^ (state >> 29)
}

/// The key is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash(bytes);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_equal_numbers() {
        let mut names = Names::default();
        assert!(names.is_empty());
        let texts = ["", "a", "aten::add", "a\u{fffd}", "12345678", "123456789"];
        let ids: Vec<NameId> = texts.iter().map(|text| names.intern(text)).collect();
        assert_eq!(names.len(), texts.len());
        for (text, id) in texts.iter().zip(&ids) {
            assert_eq!(names.get(*id), *text);
            assert_eq!(names.intern_bytes(text.as_bytes()), *id);
        }
        assert_eq!(names.intern_bytes(b"a\xff"), ids[3]);
        assert_eq!(names.get(NameId(99)), "");
        assert_eq!(names.iter().count(), texts.len());
    }
}
