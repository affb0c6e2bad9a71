//! `timing_stats_<rank>.json`: how long each iteration of one rank took, as a file of its own. Times of iterations are in
//! seconds, those of tokens in milliseconds.

use serde::{Deserialize, Serialize};

use super::Metric;

/// The file. Keys that a writer leaves out are null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimingStats {
    /// Seconds of each iteration, in order; older writers call them `iteration_times`.
    #[serde(alias = "iteration_times")]
    pub iteration_times_s: Vec<f64>,
    /// Their mean.
    pub avg_iteration_time: Option<f64>,
    /// The shortest.
    #[serde(alias = "min_")]
    pub min_iteration_time: Option<f64>,
    /// The longest.
    #[serde(alias = "max_")]
    pub max_iteration_time: Option<f64>,
    /// Milliseconds to the first token, on average.
    pub ttft_avg: Option<f64>,
    /// Milliseconds per further token, on average.
    pub tpot_avg: Option<f64>,
    /// 99th percentile of the time to the first token.
    pub ttft_p99: Option<f64>,
    /// 99th percentile of the time per token.
    pub tpot_p99: Option<f64>,
    /// What the numbers were made from.
    pub source: String,
}

impl TimingStats {
    /// From the step times of a trace, in nanoseconds. A trace has no requests, so the tokens' times are those of its prefill
    /// and decode steps, and their percentiles those of the steps.
    pub fn from_steps(all_ns: &[i64], prefill_ns: &[i64], decode_ns: &[i64], source: &str) -> Self {
        let seconds: Vec<f64> = all_ns.iter().map(|nanos| scaled(*nanos, 1e9)).collect();
        let times = |list: &[i64]| {
            let mut list: Vec<f64> = list.iter().map(|nanos| scaled(*nanos, 1e6)).collect();
            list.sort_by(f64::total_cmp);
            (mean(&list), quantile_99(&list))
        };
        let ((ttft_avg, ttft_p99), (tpot_avg, tpot_p99)) = (times(prefill_ns), times(decode_ns));
        Self {
            avg_iteration_time: mean(&seconds),
            min_iteration_time: seconds.iter().copied().min_by(f64::total_cmp),
            max_iteration_time: seconds.iter().copied().max_by(f64::total_cmp),
            iteration_times_s: seconds,
            ttft_avg,
            tpot_avg,
            ttft_p99,
            tpot_p99,
            source: source.to_owned(),
        }
    }

    /// What is wrong with the file: times that cannot be, a mean that its own list contradicts.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let n_bad = self.iteration_times_s.iter().filter(|time| !time.is_finite() || **time < 0.0).count();
        if n_bad > 0 {
            problems.push(format!("{n_bad} of its {} iteration times are no times", self.iteration_times_s.len()));
        }
        if let (Some(said), Some(real)) = (self.avg_iteration_time, mean(&self.iteration_times_s))
            && (said - real).abs() > 0.01 * real.abs()
        {
            problems.push(format!("it says a mean of {said} s, and its iteration times have a mean of {real} s"));
        }
        problems
    }

    /// The metrics that it gives where no trace does.
    pub fn metrics(&self) -> Vec<(&'static str, Metric)> {
        let average = self.avg_iteration_time.or_else(|| mean(&self.iteration_times_s));
        let mut metrics = Vec::new();
        let mut add = |name, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite() && *value >= 0.0) {
                let note =
                    format!("from timing_stats ({})", if self.source.is_empty() { "no source" } else { &self.source });
                metrics.push((name, Metric { note: Some(note), ..Metric::of(value, "ms") }));
            }
        };
        add("iteration_wall_clock", average.map(|seconds| seconds * 1e3));
        add("ttft", self.ttft_avg);
        add("tpot", self.tpot_avg);
        metrics
    }
}

#[expect(clippy::cast_precision_loss, reason = "step times stay far below 2^53 ns")]
fn scaled(nanos: i64, by: f64) -> f64 {
    nanos as f64 / by
}

#[expect(clippy::cast_precision_loss, reason = "a count of steps")]
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Nearest rank, of sorted values.
fn quantile_99(sorted: &[f64]) -> Option<f64> {
    let rank = (sorted.len() * 99).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_make_the_file_and_it_reads_back() {
        let stats = TimingStats::from_steps(
            &[10_000_000, 20_000_000, 30_000_000],
            &[30_000_000],
            &[10_000_000, 20_000_000],
            "kineto step markers",
        );
        assert_eq!(stats.avg_iteration_time, Some(0.02));
        assert_eq!((stats.min_iteration_time, stats.max_iteration_time), (Some(0.01), Some(0.03)));
        assert_eq!((stats.ttft_avg, stats.tpot_avg, stats.tpot_p99), (Some(30.0), Some(15.0), Some(20.0)));
        let text = serde_json::to_string(&stats).unwrap();
        assert!(text.contains(r#""iteration_times_s":[0.01,0.02,0.03],"avg_iteration_time":0.02"#), "{text}");
        assert_eq!(serde_json::from_str::<TimingStats>(&text).unwrap(), stats);
        assert_eq!(stats.metrics()[0].1.value, Some(20.0));
    }

    #[test]
    fn nothing_measured_is_null() {
        let stats = TimingStats::from_steps(&[], &[], &[], "x");
        assert_eq!((stats.avg_iteration_time, stats.ttft_p99), (None, None));
        assert!(stats.metrics().is_empty() && stats.problems().is_empty());
    }

    #[test]
    fn files_of_others_are_read_and_doubted() {
        let stats: TimingStats =
            serde_json::from_str(r#"{"iteration_times": [1.0, -2.0], "avg_iteration_time": 5}"#).unwrap();
        assert_eq!(stats.problems().len(), 2);
    }
}
