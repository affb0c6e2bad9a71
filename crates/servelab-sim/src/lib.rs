//! Placeholder line, replaced with the crate's contents.
