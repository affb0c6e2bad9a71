//! How many repeats would settle a comparison. The power of the two-sided t test at 5 % from the normal approximation of
//! the noncentral t (Johnson and Welch), which is within three points of the exact value from three repeats on (tested
//! against exact values).

use super::distribution::{normal_cdf, t_quantile};

/// Repeats beyond which nobody should go on: the difference is too small to matter.
const MOST: u64 = 1_000;

/// Chance (0–1) that `n` repeats of both sides tell them apart, when their means differ by `relative_difference` and
/// repeats scatter with `coefficient_of_variation` (standard deviation / mean). For pairs, the scatter is that of the
/// differences.
pub fn power_of_repeats(n: u64, relative_difference: f64, coefficient_of_variation: f64, is_paired: bool) -> f64 {
    if n < 2 {
        return 0.0;
    }
    if coefficient_of_variation <= 0.0 {
        return if relative_difference == 0.0 { 0.05 } else { 1.0 };
    }
    let count = n as f64;
    let (freedom, shift) = if is_paired {
        (count - 1.0, relative_difference.abs() / coefficient_of_variation * count.sqrt())
    } else {
        (2.0 * (count - 1.0), relative_difference.abs() / coefficient_of_variation * (count / 2.0).sqrt())
    };
    let critical = t_quantile(0.975, freedom);
    // P(T' > c) of the noncentral t with shift d: Φ((c(1 − 1/4f) − d)/√(1 + c²/2f)).
    let below = |c: f64| normal_cdf((c * (1.0 - 0.25 / freedom) - shift) / (1.0 + c * c / (2.0 * freedom)).sqrt());
    1.0 - below(critical) + below(-critical)
}

/// Repeats of both sides with which a difference is found with 80 % chance; `None` when more than a thousand.
pub fn repeats_needed(relative_difference: f64, coefficient_of_variation: f64, is_paired: bool) -> Option<u64> {
    if relative_difference == 0.0 {
        return None;
    }
    let enough = |n: u64| power_of_repeats(n, relative_difference, coefficient_of_variation, is_paired) >= 0.8;
    if !enough(MOST) {
        return None;
    }
    let (mut low, mut high) = (1, MOST);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
