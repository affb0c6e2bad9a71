//! What a ranking is by: an expression over the columns of the results table and the points' settings. Parsing and
//! evaluation are `servelab_core::expr`'s; the means over repeats are the store's.

use servelab_core::expr::{Expr, ExprError, Value};
use servelab_core::result::{BenchResult, Quantiles};
use servelab_core::study::Study;
use servelab_store::ResultRow;
use servelab_store::rank::Direction;

use crate::names::metric_title;

/// The objective of a study that names none.
pub const DEFAULT_OBJECTIVE: &str = "throughput_tokens_per_sec";

/// What a ranking is by.
#[derive(Debug, Clone)]
pub struct Objective {
    source: String,
    expr: Expr,
    direction: Direction,
}

impl Objective {
    /// An objective is made large; `-ttft_p95_ms` makes the TTFT small.
    ///
    /// # Errors
    /// The text is not an expression.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        let text = text.trim();
        // A bare metric with a minus is shown as itself, smallest first, instead of as a negative number.
        if let Some(metric) = text.strip_prefix('-').map(str::trim)
            && metric.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
        {
            let expr = Expr::parse(metric)?;
            return Ok(Self { source: metric.to_owned(), expr, direction: Direction::Minimise });
        }
        Ok(Self { source: text.to_owned(), expr: Expr::parse(text)?, direction: Direction::Maximise })
    }

    /// The objective that the study's `report:` names, else the output token throughput.
    ///
    /// # Errors
    /// The study's text is not an expression.
    pub fn of_study(study: &Study) -> Result<Self, ExprError> {
        Self::parse(study.report.objective.as_deref().unwrap_or(DEFAULT_OBJECTIVE))
    }

    /// Its value for a row; `None` where a name in it has no value.
    pub fn value(&self, row: &ResultRow) -> Option<f64> {
        let lookup = |name: &str| metric(row, name).map_or(Value::Null, Value::Number);
        match self.expr.eval(&lookup) {
            Ok(Value::Number(value)) if value.is_finite() => Some(value),
            _ => None,
        }
    }

    /// Whether more or less is better.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The expression as text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// For headers: `Throughput (tok/s)`.
    pub fn title(&self) -> String {
        metric_title(&self.source)
    }
}

/// A number of a row by any of its names: a column of the results table, the name that SLOs use, or a setting.
pub fn metric(row: &ResultRow, name: &str) -> Option<f64> {
    let column = match name {
        "success" => "success_rate",
        "throughput_tok_s" => "throughput_tokens_per_sec",
        "throughput_req_s" => "throughput_requests_per_sec",
        "goodput" => "goodput_requests_per_s",
        other => other,
    };
    row.metric(column).or_else(|| latency(row.result.as_ref()?, column))
}

/// Latencies and statistics that the results table has no column for.
fn latency(result: &BenchResult, name: &str) -> Option<f64> {
    let (latency, statistic) = name.strip_suffix("_ms")?.rsplit_once('_')?;
    let all = &result.latency_ms;
    let quantiles: &Quantiles = match latency {
        "ttft" => &all.ttft,
        "ttft_sched" => &all.ttft_sched,
        "ttfo" => &all.ttfo,
        "icl" => &all.icl,
        "itl" => &all.itl,
        "tpot" => &all.tpot,
        "e2e" | "e2e_latency" => &all.e2e,
        "e2e_sched" => &all.e2e_sched,
        _ => return None,
    };
    match statistic {
        "mean" => quantiles.mean,
        "p50" => quantiles.p50,
        "p90" => quantiles.p90,
        "p95" => quantiles.p95,
        "p99" => quantiles.p99,
        _ => None,
    }
}
