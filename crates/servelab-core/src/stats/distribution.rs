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
/// over the smallest value, both by Simpson's rule, the outer one over the logarithm. Absolute error below 2e-5 (checked
/// against SciPy), below 1e-6 from three degrees of freedom on.
pub fn studentized_range_tail(q: f64, k: f64, freedom: f64) -> f64 {
    if q <= 0.0 || k < 2.0 {
        return 1.0;
    }
    if q.is_infinite() {
        return 0.0;
    }
    const PIECES: u32 = 96;
    const EDGE: f64 = 7.0;
    let step = 2.0 * EDGE / f64::from(PIECES);
    // Point, Simpson weight times density, Φ.
    let nodes: Vec<(f64, f64, f64)> = (0..=PIECES)
        .map(|i| {
            let z = -EDGE + step * f64::from(i);
            (z, k * step / 3.0 * simpson_weight(i, PIECES) * density(z), fast_normal_cdf(z))
        })
        .collect();
    // P(range of k standard normal values ≤ w).
    let range_cdf = |w: f64| {
        let part =
            |(z, weight, below): &(f64, f64, f64)| weight * (fast_normal_cdf(z + w) - below).max(0.0).powf(k - 1.0);
        nodes.iter().map(part).sum::<f64>()
    };
    if freedom > 2_000.0 {
        return (1.0 - range_cdf(q)).clamp(0.0, 1.0);
    }
    // The scale s = √(χ²/f) has a density proportional to s^(f−1) e^(−f s²/2); u = ln s.
    let spread = 1.0 / (2.0 * freedom).sqrt();
    let low = if freedom < 5.0 { -23.0 / freedom } else { (1.0 - 8.0 * spread).max(0.02).ln() };
    let high = (1.0 + 9.0 * spread).ln();
    let step = (high - low) / f64::from(PIECES);
    let (mut inside, mut all) = (0.0, 0.0);
    for i in 0..=PIECES {
        let u = low + step * f64::from(i);
        let weight = simpson_weight(i, PIECES) * (freedom * u - 0.5 * freedom * (2.0 * u).exp() + 0.5 * freedom).exp();
        all += weight;
        inside += weight * if weight > 1e-18 { range_cdf(q * u.exp()) } else { 0.0 };
    }
    (1.0 - inside / all).clamp(0.0, 1.0)
}

fn simpson_weight(i: u32, pieces: u32) -> f64 {
    if i == 0 || i == pieces {
        1.0
    } else if i % 2 == 1 {
        4.0
    } else {
        2.0
    }
}

/// Φ(z) to 1.2e-7 relative, by Chebyshev's fit to the complementary error function (Numerical Recipes): for integrals.
fn fast_normal_cdf(z: f64) -> f64 {
    const FIT: [f64; 10] = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let sum = FIT.iter().fold(0.0, |sum, coefficient| sum * t + coefficient);
    let tail = 0.5 * t * (-x * x + sum).exp();
    if z >= 0.0 { 1.0 - tail } else { tail }
}
