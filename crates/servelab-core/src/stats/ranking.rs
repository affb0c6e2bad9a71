//! A ranking that says which places mean something. The best is chosen by looking at all of them, so a test of "best
//! against that one" alone finds differences where there are none; Tukey and Kramer's range test allows for the choice.
//! The scatter of all candidates is pooled, on logarithms where every value is positive: a spread in percent. Where every
//! candidate has the same repeats, they are blocks, and what a block has in common is taken out first.

use super::distribution::studentized_range_tail;
use super::mean;

/// p values are given for so many places; below, only whether they tie with the best.
const MOST_P: usize = 20;

/// Somebody to be ranked: values by repeat number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Candidate {
    /// (repeat, value).
    pub values: Vec<(u32, f64)>,
}

/// A place in the ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Index of the candidate in the input.
    pub candidate: usize,
    /// From 1, by mean.
    pub rank: u64,
    /// Mean over repeats.
    pub mean: f64,
    /// p of "no different from the best", all comparisons allowed for; `None` for the best, below the twentieth place, and
    /// where no scatter is known.
    pub p: Option<f64>,
    /// True when it cannot be told apart from the best (or when nobody knows).
    pub ties_with_best: bool,
}

/// A ranking and what it rests on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TiedRanking {
    /// Best first.
    pub places: Vec<Place>,
    /// Residual standard deviation: relative (of logarithms) or absolute; `None` with one repeat each.
    pub scatter: Option<f64>,
    /// True when `scatter` is relative.
    pub is_relative: bool,
    /// Degrees of freedom behind it.
    pub freedom: u64,
    /// Repeats were taken as blocks.
    pub in_blocks: bool,
}

impl TiedRanking {
    /// Candidates that cannot be told apart from the best, the best included.
    pub fn tied(&self) -> usize {
        self.places.iter().filter(|place| place.ties_with_best).count()
    }
}

/// Ranks by mean. `share_inputs` says that equal repeat numbers saw the same prompts and arrivals, or at least the same
/// hours: then they are blocks if they are complete.
pub fn rank_with_ties(candidates: &[Candidate], is_higher_better: bool, share_inputs: bool) -> TiedRanking {
    let finite = |c: &Candidate| c.values.iter().filter(|(_, x)| x.is_finite()).copied().collect::<Vec<_>>();
    let kept: Vec<(usize, Vec<(u32, f64)>)> =
        candidates.iter().map(finite).enumerate().filter(|(_, values)| !values.is_empty()).collect();
    let is_relative = kept.iter().flat_map(|(_, values)| values).all(|(_, x)| *x > 0.0);
    let scale = |x: f64| if is_relative { x.ln() } else { x };
    let scaled: Vec<Vec<(u32, f64)>> =
        kept.iter().map(|(_, values)| values.iter().map(|(repeat, x)| (*repeat, scale(*x))).collect()).collect();
    let (scatter, in_blocks) = pooled(&scaled, share_inputs);
    let middle = |values: &[(u32, f64)]| mean(&values.iter().map(|(_, x)| *x).collect::<Vec<_>>());
    // Order by what is compared; the mean that is shown is the plain one.
    let mut order: Vec<usize> = (0..kept.len()).collect();
    let centre = |idx: usize| scaled.get(idx).map_or(f64::NAN, |values| middle(values));
    order.sort_by(|a, b| {
        let order = centre(*a).total_cmp(&centre(*b));
        if is_higher_better { order.reverse() } else { order }
    });
    let Some(best) = order.first().copied() else { return TiedRanking::default() };
    let count = |idx: usize| scaled.get(idx).map_or(1.0, |values| values.len() as f64);
    let (k, freedom) = (kept.len() as f64, scatter.map_or(0.0, |(_, freedom)| freedom));
    let range = |idx: usize| {
        let (variance, _) = scatter?;
        let error = (variance * 0.5 * (1.0 / count(best) + 1.0 / count(idx))).sqrt();
        let away = (centre(best) - centre(idx)).abs();
        Some(if error > 0.0 {
            away / error
        } else if away > 0.0 {
            f64::INFINITY
        } else {
            0.0
        })
    };
    // Beyond the listed places one critical range serves all.
    let critical = scatter.filter(|_| kept.len() > MOST_P).map(|_| critical_range(k, freedom));
    let place = |(rank, idx): (usize, usize)| {
        let range = range(idx);
        let is_best = rank == 0;
        let p = range.filter(|_| !is_best && rank < MOST_P).map(|range| studentized_range_tail(range, k, freedom));
        let is_beyond = || range.zip(critical).is_some_and(|(range, critical)| range > critical);
        Place {
            candidate: kept.get(idx).map_or(0, |(candidate, _)| *candidate),
            rank: rank as u64 + 1,
            mean: kept.get(idx).map_or(f64::NAN, |(_, values)| middle(values)),
            p,
            ties_with_best: is_best || p.map_or_else(|| !is_beyond(), |p| p > 0.05),
        }
    };
    TiedRanking {
        places: order.iter().copied().enumerate().map(place).collect(),
        scatter: scatter.map(|(variance, _)| variance.sqrt()),
        is_relative,
        freedom: freedom as u64,
        in_blocks,
    }
}

/// Pooled variance with its degrees of freedom, and whether blocks were taken out.
fn pooled(candidates: &[Vec<(u32, f64)>], share_inputs: bool) -> (Option<(f64, f64)>, bool) {
    let repeats = |values: &Vec<(u32, f64)>| {
        let mut repeats: Vec<u32> = values.iter().map(|(repeat, _)| *repeat).collect();
        repeats.sort_unstable();
        repeats
    };
    let first = candidates.first().map(repeats).unwrap_or_default();
    let (k, b) = (candidates.len() as f64, first.len() as f64);
    let distinct = first.windows(2).all(|pair| pair.first() != pair.last());
    let is_complete = distinct && candidates.iter().all(|values| repeats(values) == first);
    if share_inputs && is_complete && k >= 2.0 && b >= 2.0 {
        let of_block = |repeat: u32| {
            let values: Vec<f64> = candidates.iter().flatten().filter(|(r, _)| *r == repeat).map(|(_, x)| *x).collect();
            mean(&values)
        };
        let blocks: Vec<(u32, f64)> = first.iter().map(|repeat| (*repeat, of_block(*repeat))).collect();
        let grand = mean(&blocks.iter().map(|(_, x)| *x).collect::<Vec<_>>());
        let mut squares = 0.0;
        for values in candidates {
            let own = mean(&values.iter().map(|(_, x)| *x).collect::<Vec<_>>());
            for (repeat, x) in values {
                let block = blocks.iter().find(|(r, _)| r == repeat).map_or(grand, |(_, mean)| *mean);
                squares += (x - own - block + grand).powi(2);
            }
        }
        let freedom = (k - 1.0) * (b - 1.0);
        return (Some((squares / freedom, freedom)), true);
    }
    let (mut squares, mut freedom) = (0.0, 0.0);
    for values in candidates {
        let own = mean(&values.iter().map(|(_, x)| *x).collect::<Vec<_>>());
        squares += values.iter().map(|(_, x)| (x - own).powi(2)).sum::<f64>();
        freedom += values.len() as f64 - 1.0;
    }
    ((freedom > 0.0).then(|| (squares / freedom, freedom)), false)
}

/// The range beyond which 5 % of the ranges of `k` equal candidates lie.
fn critical_range(k: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 4.0);
    while high < 1e4 && studentized_range_tail(high, k, freedom) > 0.05 {
        low = high;
        high *= 2.0;
    }
    for _ in 0..16 {
        let middle = 0.5 * (low + high);
        if studentized_range_tail(middle, k, freedom) > 0.05 { low = middle } else { high = middle }
    }
    high
}
