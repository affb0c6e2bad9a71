//! Support for tests of the whole program: a place of its own for each test, running `servelab` in it, watching and
//! ending processes by id, looking into JSON, and making output comparable. Only tests use this crate; it knows no other
//! crate of the product, so that it can be used by all of them.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of a test fails like the test itself")]

mod command;
mod json;
mod pbs;
mod place;
mod process;
mod snapshot;
mod studies;
mod wait;

pub use command::{Output, Servelab, Spawned};
pub use json::{at, keys, number, numbers, parse, strings, text};
pub use pbs::FakePbs;
pub use place::Place;
pub use process::{marked_processes, send};
pub use rustix::process::Signal;
pub use studies::{TINY, brisk, one_cell, samples};
pub use wait::{Deadline, poll};
