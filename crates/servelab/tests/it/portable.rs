//! The binary for clusters: `scripts/portable.sh` builds it. Left out, and said so, where it was not built.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use servelab_run::glibc::{Glibc, needed};

use super::repository;

/// What the page about clusters promises.
const PROMISED: Glibc = Glibc { major: 2, minor: 28 };

#[test]
fn no_newer_symbol_than_promised() {
    let named = std::env::var_os("SERVELAB_PORTABLE").map(PathBuf::from);
    let is_asked_for = named.is_some();
    let path = named.unwrap_or_else(|| repository().join("target/portable/servelab"));
    if !is_asked_for && !path.exists() {
        let text = format!("left out: portable, there is no {}; build it with scripts/portable.sh\n", path.display());
        let _ = std::io::stderr().write_all(text.as_bytes());
        return;
    }
    assert!(needed(&path).is_some_and(|glibc| glibc <= PROMISED), "{:?}", needed(&path));
    // The same by another reader.
    let out = Command::new("readelf").args(["--version-info", "--wide"]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let symbols: Vec<Glibc> =
        text.split_whitespace().filter_map(|word| Glibc::parse(word.strip_prefix("GLIBC_")?)).collect();
    assert!(!symbols.is_empty() && symbols.iter().all(|glibc| *glibc <= PROMISED), "{symbols:?}");
    let libraries = Command::new("readelf").args(["--dynamic", "--wide"]).arg(&path).output().unwrap();
    let text = String::from_utf8_lossy(&libraries.stdout).into_owned();
    let libraries: Vec<&str> = text.lines().filter(|line| line.contains("(NEEDED)")).collect();
    // glibc's own and the unwinder that every system has; nothing of the machine that built it.
    let usual = ["libc.", "libm.", "libpthread.", "libdl.", "librt.", "libutil.", "libgcc_s.", "ld-linux"];
    assert!(libraries.iter().all(|line| usual.iter().any(|name| line.contains(name))), "{libraries:?}");
    let version = Command::new(&path).arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"servelab "), "{version:?}");
}
