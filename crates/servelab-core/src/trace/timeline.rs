//! An overview of what ran when, small enough to draw: each stream's time in bins, what filled most of each bin, and the
//! steps above it.

use serde::{Deserialize, Serialize};

/// One rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RankTimeline {
    /// The rank.
    pub rank: u32,
    /// First nanosecond, on the trace's clock.
    pub start_ns: i64,
    /// Nanoseconds that the overview covers.
    pub span_ns: i64,
    /// Bins across the span.
    pub n_bins: u32,
    /// Steps.
    pub steps: Vec<StepSpan>,
    /// Streams, those with most time first.
    pub lanes: Vec<LaneTimeline>,
    /// Streams that were left out because they hold least.
    pub n_lanes_left_out: usize,
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSpan {
    /// Its marker.
    pub name: String,
    /// prefill, decode, mixed, idle, unknown.
    pub kind: String,
    /// Start, from the start of the overview.
    pub start_ns: i64,
    /// Length.
    pub dur_ns: i64,
}

/// A stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneTimeline {
    /// `GPU 0 stream 7`, `host communication`.
    pub name: String,
    /// Events on it.
    pub events: u64,
    /// Σ of their durations.
    pub sum_ns: i64,
    /// What ran, in order; empty bins are left out.
    pub runs: Vec<Run>,
}

/// Adjacent bins with the same content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// First bin.
    pub first: u32,
    /// Bins.
    pub len: u32,
    /// Family that filled most of them.
    pub family: String,
    /// Share of the bins that is filled by anything, in eighths, 1–8.
    pub filled: u8,
}

/// Fills bins of one stream. Families are numbers of the caller.
#[derive(Debug)]
pub struct Bins {
    start_ns: i64,
    width_ns: i64,
    /// Nanoseconds per bin and family.
    fill: Vec<Vec<(u16, i64)>>,
}

impl Bins {
    /// `n` bins over `[start, start + span)`; widths are whole nanoseconds.
    pub fn new(start_ns: i64, span_ns: i64, n: u32) -> Self {
        let n = n.max(1);
        let width_ns = (span_ns.max(1) + i64::from(n) - 1) / i64::from(n);
        Self { start_ns, width_ns: width_ns.max(1), fill: vec![Vec::new(); n as usize] }
    }

    /// Nanoseconds per bin.
    pub fn width_ns(&self) -> i64 {
        self.width_ns
    }

    /// Adds an event.
    pub fn add(&mut self, start_ns: i64, dur_ns: i64, family: u16) {
        let from = start_ns.saturating_sub(self.start_ns);
        let until = from.saturating_add(dur_ns);
        let mut at = from.max(0);
        while at < until {
            let Ok(idx) = usize::try_from(at / self.width_ns) else { return };
            let Some(bin) = self.fill.get_mut(idx) else { return };
            let end = until.min((at / self.width_ns + 1) * self.width_ns);
            match bin.iter_mut().find(|(known, _)| *known == family) {
                Some((_, nanos)) => *nanos += end - at,
                None => bin.push((family, end - at)),
            }
            at = end;
        }
    }

    /// What ran, with names for the families.
    pub fn runs(&self, names: &[String]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (idx, bin) in self.fill.iter().enumerate() {
            let Some((family, _)) = bin.iter().max_by_key(|(family, nanos)| (*nanos, std::cmp::Reverse(*family)))
            else {
                continue;
            };
            let total: i64 = bin.iter().map(|(_, nanos)| nanos).sum();
            let eighths = (total.min(self.width_ns) * 8 + self.width_ns - 1) / self.width_ns;
            let filled = u8::try_from(eighths.clamp(1, 8)).unwrap_or(8);
            let family = names.get(usize::from(*family)).map_or("other", String::as_str);
            let first = u32::try_from(idx).unwrap_or(u32::MAX);
            match runs.last_mut() {
                Some(last) if last.first + last.len == first && last.family == family && last.filled == filled => {
                    last.len += 1
                }
                _ => runs.push(Run { first, len: 1, family: family.to_owned(), filled }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_show_what_filled_them_most() {
        let mut bins = Bins::new(100, 100, 10);
        bins.add(100, 20, 0);
        bins.add(125, 3, 1);
        bins.add(128, 1, 0);
        bins.add(190, 1000, 1);
        bins.add(0, 50, 1);
        let runs = bins.runs(&["gemm".to_owned(), "nccl".to_owned()]);
        let short: Vec<(u32, u32, &str, u8)> =
            runs.iter().map(|r| (r.first, r.len, r.family.as_str(), r.filled)).collect();
        assert_eq!(short, [(0, 2, "gemm", 8), (2, 1, "nccl", 4), (9, 1, "nccl", 8)]);
    }

    proptest! {
        #[test]
        fn no_event_breaks_them(start in any::<i64>(), span in any::<i64>(), n in 0u32..50, events in prop::collection::vec((any::<i64>(), 0i64..1 << 40), 0..8)) {
            // A span of the whole range of numbers is no time line; readers give real ones.
            let span = span.clamp(1, 1 << 50);
            let mut bins = Bins::new(start / 4, span, n);
            for (at, dur) in events {
                bins.add(at / 4, dur.min(span), 0);
            }
            for run in bins.runs(&[]) {
                prop_assert!(run.first + run.len <= n.max(1) && (1..=8).contains(&run.filled));
            }
        }
    }
}
