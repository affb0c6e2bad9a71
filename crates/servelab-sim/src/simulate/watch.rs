//! Observing a run while it goes on: integrals over time for each role, gaps between tokens, and the growth of queues.

use super::observe::{GapHistogram, Phase, PoolSummary};
use crate::engine::{Scheduler, Seq, Slot, Watch};
use crate::step_time::{Regime, StepShape};

/// What a run remembers of a live request, beside the scheduler's own entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Card {
    pub(super) index: u64,
    pub(super) client: Option<u32>,
    pub(super) phase: Phase,
    pub(super) arrival_ns: u64,
    pub(super) output_tokens: u32,
    pub(super) session: u64,
    /// Where its prompt was computed: rank and slot there, start, cached tokens, preemptions.
    pub(super) prefill: Option<Prefilled>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Prefilled {
    pub(super) rank: usize,
    pub(super) slot: Slot,
    pub(super) started_ns: u64,
    pub(super) cached_tokens: u32,
    pub(super) preemptions: u32,
}

/// A request that a step has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) slot: Slot,
    pub(super) started_ns: u64,
    pub(super) first_token_ns: u64,
    pub(super) generated: u32,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) preemptions: u32,
}

/// Gaps of one step are mostly equal: counted together.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    pub(super) histogram: GapHistogram,
    last_ns: u64,
    n: u64,
}

impl Gaps {
    pub(super) fn add(&mut self, ns: u64, n: u64) {
        if ns != self.last_ns {
            self.flush();
            self.last_ns = ns;
        }
        self.n += n;
    }

    pub(super) fn flush(&mut self) {
        if self.n > 0 {
            self.histogram.add(self.last_ns, self.n);
            self.n = 0;
        }
    }
}

/// Takes what one rank's step produced.
pub(super) struct Collector<'a> {
    pub(super) cards: &'a [Card],
    pub(super) gaps: &'a mut Gaps,
    pub(super) ended: &'a mut Vec<Ended>,
    pub(super) n_tokens: u64,
    pub(super) now_ns: u64,
    /// Only generating ranks' tokens are seen by clients.
    pub(super) visible: bool,
}

impl Watch for Collector<'_> {
    fn tokens(&mut self, slot: Slot, _seq: &Seq, n_new: u32, gap_ns: Option<u64>) {
        if !self.visible {
            return;
        }
        self.n_tokens += u64::from(n_new);
        if let Some(gap_ns) = gap_ns
            && self.cards.get(slot as usize).is_some_and(|card| card.phase == Phase::Measured)
        {
            self.gaps.add(gap_ns, 1);
        }
    }

    fn done(&mut self, slot: Slot, seq: &Seq) {
        self.ended.push(Ended {
            slot,
            started_ns: seq.started_ns.unwrap_or(self.now_ns),
            first_token_ns: seq.first_token_ns,
            generated: seq.generated,
            prompt_tokens: seq.job.prompt_tokens,
            cached_tokens: seq.cached_tokens,
            preemptions: seq.n_preemptions,
        });
    }
}

/// The measured window while the run goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Open {
    pub(super) const CLOSED: Self = Self { from_ns: u64::MAX, to_ns: u64::MAX };

    pub(super) fn covers(&self, ns: u64) -> bool {
        self.from_ns <= ns && ns <= self.to_ns
    }

    fn overlap_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        to_ns.min(self.to_ns).saturating_sub(from_ns.max(self.from_ns))
    }
}

/// Integrals and counters of all ranks of one role.
#[derive(Debug, Default)]
pub(super) struct PoolWatch {
    summary: PoolSummary,
    /// Sums of whole numbers: the same however a span is cut into pieces.
    held_block_ns: u128,
    running_ns: u128,
    waiting_ns: u128,
    before: [u64; 5],
}

impl PoolWatch {
    /// Adds what held on these ranks between two instants.
    pub(super) fn integrate(&mut self, open: &Open, from_ns: u64, to_ns: u64, ranks: &[Scheduler]) {
        let overlap = open.overlap_ns(from_ns, to_ns);
        if overlap == 0 {
            return;
        }
        let span = u128::from(overlap);
        for rank in ranks {
            self.held_block_ns += rank.n_held_blocks() as u128 * span;
            self.summary.kv_max = self.summary.kv_max.max(rank.kv_usage());
            self.running_ns += rank.n_running() as u128 * span;
            self.waiting_ns += rank.n_waiting() as u128 * span;
            self.summary.waiting_max = self.summary.waiting_max.max(rank.n_waiting() as u32);
        }
    }

    /// Counts planned steps of lock-step ranks.
    pub(super) fn step(&mut self, shapes: &[Option<StepShape>]) {
        for shape in shapes {
            self.summary.steps += 1;
            let Some(shape) = shape else {
                self.summary.dummy_steps += 1;
                continue;
            };
            self.summary.scheduled_tokens += u64::from(shape.n_tokens);
            self.summary.prefill_tokens += u64::from(shape.prefill_tokens);
            self.summary.padding_tokens += u64::from(shape.padded_tokens.saturating_sub(shape.n_tokens));
            self.summary.max_batch = self.summary.max_batch.max(shape.n_requests);
            self.summary.max_step_tokens = self.summary.max_step_tokens.max(shape.n_tokens);
            let regime = match shape.regime {
                Regime::FullGraph => 0,
                Regime::Piecewise => 1,
                Regime::Eager => 2,
            };
            if let Some(count) = self.summary.steps_by_regime.get_mut(regime) {
                *count += 1;
            }
        }
    }

    /// Remembers the counters at the start of the window.
    pub(super) fn start(&mut self, ranks: &[Scheduler]) {
        self.before = totals(ranks);
    }

    pub(super) fn finish(mut self, ranks: &[Scheduler], window_ns: u64, busy_ns: u64, total_ns: u64) -> PoolSummary {
        let span = u128::from(window_ns) * ranks.len() as u128;
        let mean = |sum: u128, span: u128| if span > 0 { sum as f64 / span as f64 } else { 0.0 };
        let usable: u128 = ranks.iter().map(|rank| rank.n_usable_blocks() as u128).sum();
        self.summary.ranks = ranks.len() as u32;
        self.summary.kv_mean = mean(self.held_block_ns, u128::from(window_ns) * usable);
        self.summary.running_mean = mean(self.running_ns, span);
        self.summary.waiting_mean = mean(self.waiting_ns, span);
        self.summary.busy_share = if total_ns == 0 { 0.0 } else { busy_ns as f64 / total_ns as f64 };
        let now = totals(ranks);
        let mut since = [0; 5];
        for ((since, now), before) in since.iter_mut().zip(now).zip(self.before) {
            *since = now - before;
        }
        let [preemptions, queries, hits, drafts, accepted] = since;
        self.summary.preemptions = preemptions;
        self.summary.prefix_queries = queries;
        self.summary.prefix_hits = hits;
        self.summary.draft_tokens = drafts;
        self.summary.accepted_tokens = accepted;
        for counters in ranks.iter().map(Scheduler::counters) {
            self.summary.seqs_limit_hit |= counters.seqs_limit_hit;
            self.summary.token_limit_hit |= counters.token_limit_hit;
            self.summary.kv_limit_hit |= counters.kv_limit_hit;
        }
        self.summary
    }
}

fn totals(ranks: &[Scheduler]) -> [u64; 5] {
    ranks.iter().map(Scheduler::counters).fold([0; 5], |[a, b, c, d, e], counters| {
        [
            a + counters.preemptions,
            b + counters.prefix_queries,
            c + counters.prefix_hits,
            d + counters.draft_tokens,
            e + counters.accepted_tokens,
        ]
    })
}

/// Least squares of the number of waiting requests over the number of arrivals, in constant memory.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Growth {
    n: f64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
    sum_yy: f64,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Growth {
    pub(super) fn add(&mut self, waiting: u64) {
        if self.n == 0.0 {
            self.first = waiting;
        }
        self.last = waiting;
        let (x, y) = (self.n, waiting as f64);
        self.n += 1.0;
        self.sum_x += x;
        self.sum_y += y;
        self.sum_xx += x * x;
        self.sum_xy += x * y;
        self.sum_yy += y * y;
    }

    /// Slope (waiting requests per arrival), and whether the growth stands out of the scatter: over the window more than
    /// four requests and twice the residual deviation, at a slope of at least 2 %.
    pub(super) fn judge(&self) -> (f64, bool) {
        let spread = self.n * self.sum_xx - self.sum_x * self.sum_x;
        if self.n < 20.0 || spread <= 0.0 {
            return (0.0, false);
        }
        let slope = (self.n * self.sum_xy - self.sum_x * self.sum_y) / spread;
        let total = self.sum_yy - self.sum_y * self.sum_y / self.n;
        let explained = slope * (self.sum_xy - self.sum_x * self.sum_y / self.n);
        let deviation = ((total - explained).max(0.0) / self.n).sqrt();
        let grown = slope * self.n;
        (slope.max(0.0), slope > 0.02 && grown > 4.0 && grown > 2.0 * deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_scatter() {
        let judge = |waiting: &dyn Fn(u64) -> u64| {
            let mut growth = Growth::default();
            (0..500).for_each(|at| growth.add(waiting(at)));
            growth.judge()
        };
        assert_eq!(judge(&|_| 3), (0.0, false));
        assert!(!judge(&|at| at * 7919 % 13).1);
        let (slope, grows) = judge(&|at| at / 10 + at * 7919 % 13);
        assert!(grows && (slope - 0.1).abs() < 0.01, "{slope}");
    }
}
