//! Runs cells on this machine: starts engines as process groups, waits until they really serve, drives the load, writes
//! records, and walks the states of DESIGN. Prompts come from the caller through [`RequestSource`]; nothing is printed
//! here, everything worth showing is an event for the [`Observer`].

mod control;
pub mod effective;
#[cfg(test)]
mod fixtures;
pub mod launch;
pub mod port;
pub mod process;
pub mod pyliteral;
pub mod ready;
pub mod serverlog;

pub use control::{RunControl, SignalGuard};
pub use launch::Engine;
