//! Every metric's definition, computed from raw records after the run. Stamps in, numbers out: no clock, no file. The
//! formulas are documented in [`METRIC_DOCS`], from which the documentation page is generated. Whether the numbers deserve
//! belief is decided in `verdict`.

mod compared;
mod docs;
mod quantile;
mod records;
mod repeats;
mod server;
mod smoothness;
mod stationarity;
mod summary;
#[cfg(test)]
mod tests;
mod timing;
mod transfer;
mod window;

pub use docs::{METRIC_DOCS, MetricDoc, metrics_markdown};
pub use quantile::{
    BIN_RESOLUTION, Samples, quantile_ci95, quantile_ci95_ranks, quantile_linear, quantile_nearest_with_failures,
};
pub use records::{RecordSlices, Records, gaps};
pub use repeats::{RepeatStats, Told};
pub use server::{CounterInterval, ServerTimeline, counter_interval, counter_resets, server_summary, server_timeline};
pub use smoothness::{Deadlines, fluidity};
pub use summary::{
    Attainment, ClientUsage, MetricsInput, RequestSlo, Smoothness, attainment, meets_limits, smoothness, summarise,
};
pub use timing::{
    CODE_CENSORED, CODE_EARLY_STOP, CODE_UNKNOWN, CODE_ZERO_TOKENS, ClientQueue, Outcome, RequestTimes,
    event_counts_are_guesses, in_flight_interval, is_zero_token_success, outcome, request_in_window,
};
pub use transfer::{KvTransfer, TRANSFER_PROOFS, kv_transfer};
pub use window::InFlight;
