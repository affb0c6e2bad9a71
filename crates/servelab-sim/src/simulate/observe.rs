//! What a simulated run tells: one stamp card per request, and observations of the whole run whose memory does not grow
//! with its length (time-weighted means, counters, a histogram of gaps between tokens with 1 % resolution).

/// The part of a run in which a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the measured window.
    Warmup,
    /// In it.
    Measured,
}

/// One request, when it is over. Instants are simulated nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Position among all arrivals, from 0.
    pub index: u64,
    /// The closed-loop client that sent it.
    pub slot: Option<u32>,
    /// Where it arrived.
    pub phase: Phase,
    /// Replica that generated its tokens.
    pub server: u32,
    /// Data-parallel rank there.
    pub rank: u32,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Tokens generated; 0 when it was refused because it could never run.
    pub output_tokens: u32,
    /// Prompt tokens found in the prefix cache at its first admission.
    pub cached_tokens: u32,
    /// Times that it lost its blocks.
    pub preemptions: u32,
    /// Arrival at the router.
    pub arrival_ns: u64,
    /// Start of the first step that computed any of it.
    pub scheduled_ns: u64,
    /// Its first token.
    pub first_token_ns: u64,
    /// Its last token.
    pub done_ns: u64,
}

impl Served {
    /// True when the server refused it.
    pub fn refused(&self) -> bool {
        self.output_tokens == 0
    }

    /// Arrival to first token, nanoseconds.
    pub fn ttft_ns(&self) -> u64 {
        self.first_token_ns.saturating_sub(self.arrival_ns)
    }

    /// Arrival to last token, nanoseconds.
    pub fn e2e_ns(&self) -> u64 {
        self.done_ns.saturating_sub(self.arrival_ns)
    }

    /// (last − first token) / (tokens − 1), nanoseconds; `None` for a single token.
    pub fn tpot_ns(&self) -> Option<f64> {
        (self.output_tokens > 1)
            .then(|| self.done_ns.saturating_sub(self.first_token_ns) as f64 / f64::from(self.output_tokens - 1))
    }
}

/// Sub-buckets per doubling: neighbouring bounds differ by at most 1/64, so that the middle is within 0.8 %.
const SUB_BITS: u32 = 6;

/// A histogram of durations with fixed memory and better than 1 % resolution.
#[derive(Clone, PartialEq)]
pub struct GapHistogram {
    counts: Vec<u64>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl std::fmt::Debug for GapHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        f.debug_map().entries(filled.map(|(bucket, count)| (middle_of(bucket), count))).finish()
    }
}

impl Default for GapHistogram {
    fn default() -> Self {
        let buckets = ((64 - SUB_BITS) as usize + 1) << SUB_BITS;
        Self { counts: vec![0; buckets], count: 0, sum_ns: 0, max_ns: 0 }
    }
}

fn bucket_of(ns: u64) -> usize {
    let top = 63 - (ns | 1).leading_zeros();
    if top < SUB_BITS {
        return ns as usize;
    }
    let shift = top - SUB_BITS;
    (((shift + 1) as usize) << SUB_BITS) + ((ns >> shift) as usize & ((1 << SUB_BITS) - 1))
}

fn middle_of(bucket: usize) -> f64 {
    let (block, within) = (bucket >> SUB_BITS, bucket & ((1 << SUB_BITS) - 1));
    if block == 0 {
        return within as f64;
    }
    let width = (1u128 << (block - 1)) as f64;
    ((1 << SUB_BITS) + within) as f64 * width + (width - 1.0) / 2.0
}

impl GapHistogram {
    /// Counts `n` gaps of equal length.
    pub fn add(&mut self, ns: u64, n: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(ns)) {
            *count += n;
        }
        self.count += n;
        self.sum_ns += u128::from(ns) * u128::from(n);
        if n > 0 {
            self.max_ns = self.max_ns.max(ns);
        }
    }

    /// Gaps counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean, nanoseconds; `None` without gaps.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_ns as f64 / self.count as f64)
    }

    /// Longest, nanoseconds.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The smallest gap that at least a share `quantile` (0–1) of all gaps do not exceed, within 0.8 %.
    pub fn quantile_ns(&self, quantile: f64) -> Option<f64> {
        let target = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= target {
                return Some(middle_of(bucket).min(self.max_ns as f64));
            }
        }
        None
    }

    /// Adds another histogram's gaps.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// What was seen of all ranks of one role in the measured window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolSummary {
    /// Ranks observed.
    pub ranks: u32,
    /// Steps of all ranks.
    pub steps: u64,
    /// Steps in which a lock-step rank had nothing of its own to compute.
    pub dummy_steps: u64,
    /// Share of rank time spent in steps (0–1).
    pub busy_share: f64,
    /// Tokens computed.
    pub scheduled_tokens: u64,
    /// Of these, prompt tokens (recomputed ones included).
    pub prefill_tokens: u64,
    /// Rows computed only because a graph was captured at a larger size.
    pub padding_tokens: u64,
    /// Steps that replayed a full graph, ran piecewise graphs, ran without graphs.
    pub steps_by_regime: [u64; 3],
    /// Most requests in one step of one rank.
    pub max_batch: u32,
    /// Most tokens in one step of one rank.
    pub max_step_tokens: u32,
    /// Time-weighted mean of held KV blocks / usable blocks, over ranks (0–1).
    pub kv_mean: f64,
    /// Largest share of held blocks seen on a rank (0–1).
    pub kv_max: f64,
    /// Time-weighted mean of running requests per rank.
    pub running_mean: f64,
    /// Time-weighted mean of waiting requests per rank.
    pub waiting_mean: f64,
    /// Most waiting requests seen on a rank.
    pub waiting_max: u32,
    /// Preemptions.
    pub preemptions: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Of these, found.
    pub prefix_hits: u64,
    /// Draft tokens proposed.
    pub draft_tokens: u64,
    /// Of these, accepted.
    pub accepted_tokens: u64,
    /// An admission had to wait because `max_num_seqs` requests were running.
    pub seqs_limit_hit: bool,
    /// An admission or a prompt had to wait because the token budget of a step was used up.
    pub token_limit_hit: bool,
    /// An admission had to wait because too few KV blocks were free.
    pub kv_limit_hit: bool,
}

/// What was seen of a whole run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSummary {
    /// First instant of the measured window, nanoseconds.
    pub window_from_ns: u64,
    /// Last instant of the window: `duration_ns` after the first, or the end of the run.
    pub window_to_ns: u64,
    /// End of the last step.
    pub end_ns: u64,
    /// Requests that arrived in the window.
    pub arrived: u64,
    /// Of these, served to their end.
    pub completed: u64,
    /// Of these, refused because they could never run.
    pub refused: u64,
    /// Tokens generated in the window, whoever they belong to.
    pub window_output_tokens: u64,
    /// Prompt tokens of measured, completed requests.
    pub prompt_tokens: u64,
    /// Generated tokens of measured, completed requests.
    pub output_tokens: u64,
    /// Gaps between tokens of measured requests.
    pub gaps: GapHistogram,
    /// Waiting requests at the first and at the last measured arrival.
    pub waiting_first: u64,
    /// See `waiting_first`.
    pub waiting_last: u64,
    /// Slope of the number of waiting requests over measured arrivals: the share of the offered load that the servers
    /// cannot take (0: they keep up). Only for open loops.
    pub overload_share: f64,
    /// The queue grew through the window: the load is more than the server sustains, and latencies depend on how long
    /// one looks.
    pub saturated: bool,
    /// The run was cut off by [`crate::simulate::Window`].
    pub cut_off: bool,
    /// Ranks that generate (all ranks when the deployment is collocated).
    pub pool: PoolSummary,
    /// Ranks that only prefill, when the deployment is disaggregated.
    pub prefill_pool: Option<PoolSummary>,
    /// Bytes moved from prefill to decode ranks.
    pub transferred_bytes: f64,
    /// Mean time of a transfer, queueing for links included, nanoseconds.
    pub transfer_mean_ns: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_numbers_are_exact() {
        let mut gaps = GapHistogram::default();
        assert_eq!((gaps.quantile_ns(0.5), gaps.mean_ns()), (None, None));
        for ns in 0..64 {
            gaps.add(ns, 1);
        }
        assert_eq!(gaps.quantile_ns(0.5), Some(31.0));
        assert_eq!(gaps.quantile_ns(1.0), Some(63.0));
        assert_eq!(gaps.mean_ns(), Some(31.5));
    }

    proptest! {
        #[test]
        fn every_value_is_found_within_a_hundredth(ns in 0u64..u64::MAX / 2) {
            let mut gaps = GapHistogram::default();
            gaps.add(ns, 3);
            gaps.add(u64::MAX, 1);
            let found = gaps.quantile_ns(0.5).unwrap();
            prop_assert!((found - ns as f64).abs() <= 0.008 * ns as f64 + 0.5, "{} for {}", found, ns);
        }

        #[test]
        fn merging_is_adding(values in prop::collection::vec((0u64..1 << 40, 0u64..5), 0..40)) {
            let (mut all, mut left, mut right) = <(GapHistogram, GapHistogram, GapHistogram)>::default();
            for (index, (ns, n)) in values.iter().enumerate() {
                all.add(*ns, *n);
                if index % 2 == 0 { &mut left } else { &mut right }.add(*ns, *n);
            }
            left.merge(&right);
            prop_assert_eq!(all, left);
        }
    }
}
