//! Which C library a program needs, and which one this machine has. A program that was linked on a new system does not even
//! start on an old node (`version 'GLIBC_2.34' not found`), so the need is read from the file itself before a job is made,
//! and the job's script checks it before it runs anything.

use std::ffi::CStr;
use std::fmt;
use std::path::Path;

/// A version of glibc: `2.28`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glibc {
    /// In front of the dot.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl Glibc {
    /// Reads `2.28` or `2.28.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }

    /// The one that this process runs with; `None` with another C library.
    pub fn of_this_machine() -> Option<Self> {
        Self::parse(&gnu_libc_version()?)
    }
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn gnu_libc_version() -> Option<String> {
    // `gnu_get_libc_version` would need unsafe code here and would not link with another C library.
    let out = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    Some(text.trim().strip_prefix("glibc ")?.to_owned())
}

/// The newest glibc that a program names. `None` for a file that cannot be read or is no dynamic 64-bit program.
pub fn needed(program: &Path) -> Option<Glibc> {
    needed_by(&std::fs::read(program).ok()?)
}

const ELF_MAGIC: &[u8] = b"\x7fELF\x02\x01";
const SECTION_VERSION_NEEDS: u32 = 0x6fff_fffe;

/// The newest `GLIBC_…` among the versions that an ELF file (64 bits, little endian) requires of its libraries.
pub fn needed_by(elf: &[u8]) -> Option<Glibc> {
    if !elf.starts_with(ELF_MAGIC) {
        return None;
    }
    let sections = u64_at(elf, 0x28)?;
    let (size, count) = (u16_at(elf, 0x3a)?, u16_at(elf, 0x3c)?);
    let section = |index: u64| {
        let at = sections.checked_add(index.checked_mul(u64::from(size))?)?;
        let at = usize::try_from(at).ok()?;
        elf.get(at..at.checked_add(64)?)
    };
    let needs = (0..u64::from(count)).filter_map(section).find(|s| u32_at(s, 4) == Some(SECTION_VERSION_NEEDS))?;
    let names = section(u64::from(u32_at(needs, 40)?))?;
    let (needs, names) = (contents(elf, needs)?, contents(elf, names)?);
    let mut newest = None;
    let mut library = 0_usize;
    // Each entry names the next by a distance; a file of this many libraries does not exist.
    for _ in 0..1000 {
        let (versions, first) = (u16_at(needs, library + 2)?, u32_at(needs, library + 8)?);
        let mut version = library.checked_add(usize::try_from(first).ok()?)?;
        for _ in 0..versions {
            let name = usize::try_from(u32_at(needs, version.checked_add(8)?)?).ok()?;
            newest = newest.max(text_at(names, name).and_then(|name| Glibc::parse(name.strip_prefix("GLIBC_")?)));
            match u32_at(needs, version.checked_add(12)?)? {
                0 => break,
                next => version = version.checked_add(usize::try_from(next).ok()?)?,
            }
        }
        match u32_at(needs, library.checked_add(12)?)? {
            0 => break,
            next => library = library.checked_add(usize::try_from(next).ok()?)?,
        }
    }
    newest
}

/// What a section header points at.
fn contents<'a>(elf: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let at = usize::try_from(u64_at(header, 24)?).ok()?;
    let length = usize::try_from(u64_at(header, 32)?).ok()?;
    elf.get(at..at.checked_add(length)?)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

fn text_at(names: &[u8], at: usize) -> Option<&str> {
    CStr::from_bytes_until_nul(names.get(at..)?).ok()?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions() {
        assert_eq!(Glibc::parse("2.28"), Some(Glibc { major: 2, minor: 28 }));
        assert_eq!(Glibc::parse("2.2.5").unwrap().to_string(), "2.2");
        assert!(Glibc::parse("2.9") < Glibc::parse("2.28"));
        for bad in ["", "2", "PRIVATE", "2.x", "ABI_DT_RELR"] {
            assert_eq!(Glibc::parse(bad), None, "{bad}");
        }
    }

    /// The same as `readelf` reads from this very test.
    #[test]
    fn as_readelf_says() {
        let own = std::env::current_exe().unwrap();
        let Ok(out) = Command::new("readelf").args(["--version-info", "--wide"]).arg(&own).output() else {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"left out: there is no readelf\n");
            return;
        };
        let text = String::from_utf8_lossy(&out.stdout);
        let words = text.split(|c: char| c.is_whitespace() || "()".contains(c));
        let expected = words.filter_map(|word| Glibc::parse(word.strip_prefix("GLIBC_")?)).max();
        assert_eq!(needed(&own), expected);
        // A machine runs what it could link.
        assert!(needed(&own) <= Glibc::of_this_machine());
    }

    /// A file made by hand: 2.17 and 2.28 of one library, 2.5 of another.
    #[test]
    fn several_libraries() {
        let elf = include_bytes!("../../../fuzz/corpus/elf/two-libraries");
        assert_eq!(needed_by(elf), Glibc::parse("2.28"));
        for end in 0..elf.len() {
            needed_by(&elf[..end]);
        }
    }

    #[test]
    fn what_is_no_program() {
        assert_eq!(needed(Path::new("/nonexistent")), None);
        assert_eq!(needed_by(b"#!/bin/sh\n"), None);
        assert_eq!(needed_by(ELF_MAGIC), None);
    }

    proptest! {
        /// Any file that begins like a program, with offsets that point anywhere.
        #[test]
        fn broken_files_are_no_panic(rest in proptest::collection::vec(any::<u8>(), 0..600)) {
            needed_by(&[ELF_MAGIC, &rest].concat());
        }
    }
}
