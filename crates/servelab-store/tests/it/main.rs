//! Tests of the crate as others use it: a whole root on disk, tables and rankings from it, and the fixtures of past
//! format versions.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails like the test itself")]

mod decide;
mod fixtures;
mod import;
mod rank;
mod results;
mod scene;
