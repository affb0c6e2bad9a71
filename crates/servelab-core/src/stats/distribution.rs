//! The distributions that tests and intervals need: normal, Student's t, F; their quantiles by bisection on the exact
//! function. Checked against SciPy in `tests`.

/// ln Γ(x) for x > 0: Stirling's series after shifting the argument above 12; relative error below 1e-13.
pub fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 12.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz).
pub fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * continued_fraction(x, a, b) / a
    } else {
        1.0 - front * continued_fraction(1.0 - x, b, a) / b
    }
}

fn continued_fraction(x: f64, a: f64, b: f64) -> f64 {
    let guard = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut h = d;
    for i in 1..2_000 {
        let m = f64::from(i);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        let change = d * c;
        h *= change;
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    h
}

/// P(T ≤ t) for Student's t with `freedom` degrees.
pub fn t_cdf(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() {
        return if t > 0.0 { 1.0 } else { 0.0 };
    }
    let tail = 0.5 * incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5);
    if t >= 0.0 { 1.0 - tail } else { tail }
}

/// P(|T| ≥ |t|): the small number itself, not one minus a number near one.
pub fn t_two_sided(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() { 0.0 } else { incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5) }
}

/// The `p`-quantile of Student's t, 0 < p < 1.
pub fn t_quantile(p: f64, freedom: f64) -> f64 {
    bisect(p, |t| t_cdf(t, freedom))
}

/// P(F ≥ f) with `upper` and `lower` degrees of freedom.
pub fn f_tail(f: f64, upper: f64, lower: f64) -> f64 {
    if f <= 0.0 { 1.0 } else { incomplete_beta(lower / (lower + upper * f), 0.5 * lower, 0.5 * upper) }
}

/// Φ(z): Student's t with very many degrees of freedom would lose digits, so by the series and the continued fraction of
/// the error function.
pub fn normal_cdf(z: f64) -> f64 {
    let x = z.abs();
    let upper = if x < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term > 1e-17 * sum {
            term *= x * x / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        0.5 - sum * density(x)
    } else {
        let fraction = (1..=120).rev().fold(0.0, |below, n| f64::from(n) / (x + below));
        density(x) / (x + fraction)
    };
    if z >= 0.0 { 1.0 - upper } else { upper }
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The `p`-quantile of the standard normal distribution.
pub fn normal_quantile(p: f64) -> f64 {
    bisect(p, normal_cdf)
}

/// Where an increasing function reaches `p`: brackets by doubling, then halves until nothing changes.
fn bisect(p: f64, cdf: impl Fn(f64) -> f64) -> f64 {
    if !(p > 0.0 && p < 1.0) {
        return if p <= 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let mut bound = 1.0;
    while bound < 1e12 && (cdf(bound) < p || cdf(-bound) > p) {
        bound *= 2.0;
    }
    let (mut low, mut high) = (-bound, bound);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if cdf(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// P(Q ≥ q) of the studentized range of `k` groups with `freedom` degrees: the integral over the scale of the integral
/// over the smallest value, both by Simpson's rule. Absolute error below 1e-5 (checked against SciPy).
pub fn studentized_range_tail(q: f64, k: f64, freedom: f64) -> f64 {
    if q <= 0.0 || k < 2.0 {
        return 1.0;
    }
    if q.is_infinite() {
        return 0.0;
    }
    // P(range of k standard normal values ≤ w).
    let range_cdf = |w: f64| {
        let inner = |z: f64| k * density(z) * (normal_cdf(z + w) - normal_cdf(z)).max(0.0).powf(k - 1.0);
        simpson(-8.0, 8.0, 160, inner)
    };
    if freedom > 2_000.0 {
        return (1.0 - range_cdf(q)).clamp(0.0, 1.0);
    }
    // The scale s = √(χ²/f); its density is f^(f/2) s^(f−1) e^(−f s²/2) / (Γ(f/2) 2^(f/2−1)).
    let constant =
        0.5 * freedom * freedom.ln() - ln_gamma(0.5 * freedom) - (0.5 * freedom - 1.0) * std::f64::consts::LN_2;
    let spread = 1.0 / (2.0 * freedom).sqrt();
    let (low, high) = ((1.0 - 8.0 * spread).max(1e-9), 1.0 + 9.0 * spread);
    let outer = |s: f64| (constant + (freedom - 1.0) * s.ln() - 0.5 * freedom * s * s).exp() * range_cdf(q * s);
    let weight = |s: f64| (constant + (freedom - 1.0) * s.ln() - 0.5 * freedom * s * s).exp();
    // Dividing by the integral of the density itself takes the edges' and the rule's error out of both.
    let below = simpson(low, high, 80, outer) / simpson(low, high, 80, weight);
    (1.0 - below).clamp(0.0, 1.0)
}

fn simpson(low: f64, high: f64, pieces: u32, f: impl Fn(f64) -> f64) -> f64 {
    let step = (high - low) / f64::from(pieces);
    let inside = (1..pieces).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * f(low + step * f64::from(i)));
    step / 3.0 * (f(low) + f(high) + inside.sum::<f64>())
}
