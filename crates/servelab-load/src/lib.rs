//! Load generation with a clock that can be trusted: arrival schedules, a non-blocking HTTP/1.1 and event-stream client
//! on one epoll loop per thread, request timelines, and the Prometheus scraper. Prompts are prepared by the caller,
//! metrics are computed from the records by others, and whether the server is real or simulated cannot be seen here.
//!
//! Newcomers start at [`run_load`], then read `engine/worker.rs`.

pub mod arrivals;
pub mod barrier;
mod body;
pub mod clock;
pub mod codes;
mod control;
mod engine;
mod error;
pub mod http;
pub mod http1;
mod limits;
pub mod prometheus;
pub mod reference;
mod scheduling;
pub mod simtime;
pub mod sink;
pub mod source;
mod spec;
pub mod sse;
mod steady;
pub mod stream;
mod talk;
mod target;
#[cfg(test)]
mod testserver;

pub use body::{BodyOptions, Prompt, request_body};
pub use control::{LiveCounts, LiveLatency, LivePhase, LoadControl};
pub use engine::run_load;
pub use error::LoadError;
pub use sink::{CapturedOutput, EventLog, FinishedRequest, MemoryRecords, RecordSink};
pub use source::{Arrival, Conversation, Prepared, PreparedRequest, RequestSource, Turn, Work};
pub use spec::{CanaryErrors, FailureSample, LoadOutcome, LoadSpec, Pacing, Pauses, Spread, StartHook, Stop};
pub use talk::{TurnText, conversation};
pub use target::{ApiKey, Endpoint, Target, TlsTrust};
