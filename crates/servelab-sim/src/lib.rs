//! A simulated vLLM: one scheduler model per data-parallel rank ([`engine`], [`cluster`]), a parametric step-time model
//! ([`step_time`]) and an OpenAI-compatible server on top ([`run_blocking`]). The engine knows no clock, no thread and no
//! network, so that the same code answers live requests and virtual-time predictions. How far
//! its numbers may be believed is their label's business ([`predict::label`]).

pub mod blocks;
pub mod catalog;
pub mod cluster;
pub mod config;
pub mod engine;
mod error;
pub mod fail;
pub mod flags;
mod handover;
mod http;
pub mod live;
pub mod metrics;
pub mod predict;
mod profile;
mod random;
pub mod rendezvous;
mod settings;
pub mod simulate;
mod startup;
pub mod step_time;
pub mod text;
mod timeline;

pub use error::SimError;
pub use fail::FailSpec;
pub use flags::{ServingFlags, parse_serving_flags};
pub use http::{run_blocking, wire as http_wire};
pub use settings::{DEFAULT_VERSION, LogSink, SimEnv, SimSettings};
pub use text::{DecodeFn, PromptTokenizer};
