//! What fuzz targets share: splitting input as a network would, and a folder that is not a disk.

use std::path::{Path, PathBuf};

/// Cuts bytes into pieces of 1 to 16 bytes whose lengths follow from `seed`.
pub fn pieces(seed: u8, mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed) | 1;
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (head, tail) = bytes.split_at((1 + (state >> 28) as usize).min(bytes.len()));
        bytes = tail;
        Some(head)
    })
}

/// Memory-backed where there is such a folder, else the usual temporary one.
pub fn memory_folder() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() }
}
