//! `search.json`: the answer, both ends with how sure they are, and every trial. Plain data.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::certainty::LevelView;
use super::machine::{Axis, Ending, Search};

/// Version of `search.json`.
pub const SEARCH_SCHEMA_VERSION: u32 = 1;

/// The whole search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchReport {
    /// [`SEARCH_SCHEMA_VERSION`].
    pub schema: u32,
    /// `rate` (requests per second) or `concurrency` (requests in flight).
    pub axis: String,
    /// The SLO as typed.
    pub slo: String,
    /// Wanted relative width of the answer.
    pub precision: f64,
    /// Trials per end.
    pub repeats: u32,
    /// Why it ended.
    pub ending: Ending,
    /// Highest level that passes; `None` when none does.
    pub passes: Option<ReportEnd>,
    /// Lowest level above it that fails; `None` when none was found.
    pub fails: Option<ReportEnd>,
    /// Probability that the edge lies between the two (0–1).
    pub confidence: f64,
    /// Good requests per second at `passes`, over all its trials.
    pub goodput_requests_per_s: Option<f64>,
    /// One request on the idle server, seconds: from the first measurement, at concurrency 1.
    pub idle_request_s: f64,
    /// Every level tried, ascending.
    pub levels: Vec<ReportLevel>,
    /// Every trial, in the order in which they ran.
    pub trials: Vec<ReportTrial>,
    /// Why the search ended before its time, when something went wrong.
    pub problem: Option<String>,
}

/// One end of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportEnd {
    /// Requests per second, or in flight.
    pub level: f64,
    /// Probability that it is on its side of the SLO (0–1).
    pub sure: f64,
    /// Trials behind it.
    pub trials: u32,
}

/// One level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportLevel {
    /// Requests per second, or in flight.
    pub level: f64,
    /// Probability that it meets the SLO (0–1).
    pub p_pass: f64,
    /// Its trials.
    pub trials: u32,
    /// Good requests of all its trials, by the request limits or by success.
    pub good: u64,
    /// Requests of all its trials that count.
    pub counted: u64,
    /// Good requests per second.
    pub goodput_requests_per_s: f64,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportTrial {
    /// Requests per second, or in flight.
    pub level: f64,
    /// Trials of this level before it.
    pub repeat: u32,
    /// Requests scheduled in the window.
    pub scheduled: u64,
    /// Requests that met the request limits; without such limits, successes.
    pub good: u64,
    /// Requests that count: scheduled and not cut off.
    pub counted: u64,
    /// Length of the window, seconds.
    pub window_s: f64,
    /// The queue grew.
    pub saturated: bool,
    /// Ended before all requests were sent, because the level was lost.
    pub cut_short: bool,
    /// Left out: by its verdict something else than the server's speed shaped it. It ran again.
    pub discarded: bool,
    /// Median and 95th percentile of TTFT, milliseconds.
    pub ttft_ms: [Option<f64>; 2],
    /// Median and 95th percentile of TPOT, milliseconds.
    pub tpot_ms: [Option<f64>; 2],
    /// Output tokens per second.
    pub output_tokens_per_s: f64,
    /// Codes of the verdict.
    pub verdict: Vec<String>,
    /// How long the server needed to become idle again afterwards, seconds.
    pub idle_after_s: Option<f64>,
}

impl SearchReport {
    /// What is known at this point.
    pub fn of(search: &Search, slo: String, idle_request_s: f64, trials: Vec<ReportTrial>) -> Self {
        let answer = search.answer();
        let settings = search.settings();
        let end = |view: LevelView, is_pass: bool| ReportEnd {
            level: view.level,
            sure: if is_pass { view.p_pass } else { 1.0 - view.p_pass },
            trials: view.trials,
        };
        let levels: Vec<ReportLevel> = search
            .levels()
            .iter()
            .map(|table| {
                let view = table.view(search.slo());
                let (good, counted, seconds) =
                    table.trials.iter().fold((0, 0, 0.0), |(good, counted, seconds), trial| {
                        (good + trial.good, counted + trial.counted, seconds + trial.duration_s)
                    });
                ReportLevel {
                    level: view.level,
                    p_pass: view.p_pass,
                    trials: view.trials,
                    good,
                    counted,
                    goodput_requests_per_s: if seconds > 0.0 { good as f64 / seconds } else { 0.0 },
                }
            })
            .collect();
        let at_answer = answer.passes.and_then(|view| levels.iter().find(|level| level.level == view.level));
        Self {
            schema: SEARCH_SCHEMA_VERSION,
            axis: match settings.axis {
                Axis::Rate => "rate".to_owned(),
                Axis::Concurrency => "concurrency".to_owned(),
            },
            slo,
            precision: settings.precision,
            repeats: settings.repeats,
            ending: answer.ending,
            passes: answer.passes.map(|view| end(view, true)),
            fails: answer.fails.map(|view| end(view, false)),
            confidence: answer.confidence,
            goodput_requests_per_s: at_answer.map(|level| level.goodput_requests_per_s),
            idle_request_s,
            levels,
            trials,
            problem: None,
        }
    }
}
