//! Small file helpers of the commands: reading with a reason people understand, and where configuration lives.

use std::path::{Path, PathBuf};

/// Reads a text file; the error is a reason without the path (the caller names it).
pub(crate) fn read_text(path: &str) -> Result<String, String> {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("there is no such file".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The user's configuration folder.
pub(crate) fn config_dir() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_CONFIG_HOME").or_else(|| from("HOME").map(|home| home.join(".config"))).map(|dir| dir.join("servelab"))
}

/// The folder of a file, `.` for a bare name.
pub(crate) fn folder_of(path: &str) -> PathBuf {
    match Path::new(path).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
