//! Many comparisons at once: p values adjusted so that a sweep does not find winners by trying often enough.

/// Holm's step-down adjustment: with p ≤ 0.05 afterwards, the chance of even one false finding is at most 5 %.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| value(p, *a).total_cmp(&value(p, *b)));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut largest = 0.0_f64;
    for (rank, idx) in order.into_iter().enumerate() {
        largest = largest.max((value(p, idx) * (p.len() - rank) as f64).min(1.0));
        if let Some(place) = adjusted.get_mut(idx) {
            *place = largest;
        }
    }
    adjusted
}

/// Benjamini and Hochberg's adjustment: of what has p ≤ 0.05 afterwards, at most 5 % are expected to be false findings.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| value(p, *b).total_cmp(&value(p, *a)));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut smallest = 1.0_f64;
    for (from_top, idx) in order.into_iter().enumerate() {
        let rank = (p.len() - from_top) as f64;
        smallest = smallest.min(value(p, idx) * p.len() as f64 / rank);
        if let Some(place) = adjusted.get_mut(idx) {
            *place = smallest;
        }
    }
    adjusted
}

fn value(p: &[f64], idx: usize) -> f64 {
    p.get(idx).copied().unwrap_or(1.0)
}
