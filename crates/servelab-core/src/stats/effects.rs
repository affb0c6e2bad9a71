//! Effects of parameters in a grid: a linear model with main effects and, where the runs allow, two-way interactions,
//! fitted by least squares with effect coding (the coefficients of one parameter add up to zero). In a design that is not
//! balanced, plain means over a parameter's values differ for other reasons too; these do not, as far as the model goes.

use super::distribution::{f_tail, t_quantile};

/// One run: the level index of every factor, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Level of each factor, from 0.
    pub levels: Vec<usize>,
    /// The measurement.
    pub value: f64,
}

/// The effect of one factor.
#[derive(Debug, Clone, PartialEq)]
pub struct MainEffect {
    /// Index of the factor.
    pub factor: usize,
    /// Deviation from the grand mean per level, with the half-width of its 95 % interval (`None` without residuals).
    pub levels: Vec<(f64, Option<f64>)>,
    /// F test that all of them are zero; `None` without residuals.
    pub p: Option<f64>,
    /// Share of the explained and unexplained variation that this factor alone accounts for (partial η²).
    pub share: f64,
}

/// The interaction of two factors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interaction {
    /// The factors.
    pub factors: (usize, usize),
    /// F test that their joint effect is the sum of the two; `None` without residuals.
    pub p: Option<f64>,
    /// Partial η².
    pub share: f64,
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// Mean over the levels, each counted alike.
    pub grand_mean: f64,
    /// Effects of the factors that take at least two levels and can be told from each other.
    pub main: Vec<MainEffect>,
    /// Interactions that the runs can tell from everything else.
    pub interactions: Vec<Interaction>,
    /// Every combination of levels was run equally often.
    pub is_balanced: bool,
    /// Residual degrees of freedom.
    pub freedom: u64,
    /// Residual standard deviation; `None` without residuals.
    pub residual_sd: Option<f64>,
    /// Factors whose effect cannot be told from the others' (they always varied together).
    pub confounded: Vec<usize>,
}

/// Fits the model; `None` without two runs, with ragged levels, or with values that are not finite.
pub fn effects(observations: &[Observation]) -> Option<Effects> {
    let n_factors = observations.first()?.levels.len();
    let is_regular = observations.iter().all(|o| o.levels.len() == n_factors && o.value.is_finite());
    if observations.len() < 2 || !is_regular {
        return None;
    }
    let counts: Vec<usize> = (0..n_factors)
        .map(|f| observations.iter().filter_map(|o| o.levels.get(f)).max().map_or(0, |max| max + 1))
        .collect();
    let values: Vec<f64> = observations.iter().map(|o| o.value).collect();
    let mut terms: Vec<Term> = Vec::new();
    let mut confounded = Vec::new();
    let mut basis = Basis::new(&[vec![1.0; observations.len()]]);
    for (factor, count) in counts.iter().enumerate().filter(|(_, count)| **count > 1) {
        let columns = main_columns(observations, factor, *count);
        match basis.extended(&columns) {
            Some(larger) => {
                basis = larger;
                terms.push(Term { factors: (factor, None), columns });
            }
            None => confounded.push(factor),
        }
    }
    let mains: Vec<usize> = terms.iter().map(|term| term.factors.0).collect();
    for (i, a) in mains.iter().enumerate() {
        for b in mains.iter().skip(i + 1) {
            let columns = products(observations, (*a, *b), &counts);
            // A model without residuals explains everything and proves nothing: an interaction must leave some.
            let leaves_residuals = basis.rank() + columns.len() < observations.len();
            if let Some(larger) = basis.extended(&columns).filter(|_| leaves_residuals) {
                basis = larger;
                terms.push(Term { factors: (*a, Some(*b)), columns });
            }
        }
    }
    let all = design(observations.len(), &terms, None);
    let fit = Basis::new(&all);
    let residual = fit.residual_sum(&values);
    let total = {
        let middle = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|v| (v - middle).powi(2)).sum::<f64>()
    };
    let freedom = observations.len().saturating_sub(fit.rank()) as u64;
    // Rounding leaves a residual of about 1e-28 of the total where there is none.
    let residual = if residual < 1e-20 * total { 0.0 } else { residual };
    let variance = (freedom > 0).then(|| residual / freedom as f64);
    let coefficients = solve(&all, &values)?;
    let grand_mean = coefficients.first().map(|(value, _)| *value)?;
    let (mut main, mut interactions) = (Vec::new(), Vec::new());
    let mut offset = 1;
    for (idx, term) in terms.iter().enumerate() {
        let width = term.columns.len();
        let without = Basis::new(&design(observations.len(), &terms, Some(idx))).residual_sum(&values);
        let explained = (without - residual).max(0.0);
        let p = variance.map(|variance| {
            if variance == 0.0 {
                if explained > 1e-12 * total { 0.0 } else { 1.0 }
            } else {
                f_tail(explained / width as f64 / variance, width as f64, freedom as f64)
            }
        });
        let share = if explained + residual > 0.0 { explained / (explained + residual) } else { 0.0 };
        match term.factors {
            (factor, None) => {
                let own = coefficients.get(offset..offset + width).unwrap_or_default();
                let levels = level_effects(own, &all, offset, variance, freedom);
                main.push(MainEffect { factor, levels, p, share });
            }
            (a, Some(b)) => interactions.push(Interaction { factors: (a, b), p, share }),
        }
        offset += width;
    }
    Some(Effects {
        grand_mean,
        main,
        interactions,
        is_balanced: is_balanced(observations, &counts),
        freedom,
        residual_sd: variance.map(f64::sqrt),
        confounded,
    })
}

struct Term {
    factors: (usize, Option<usize>),
    columns: Vec<Vec<f64>>,
}

/// +1 for the column's own level, −1 for the last, 0 otherwise.
fn code(level: usize, column: usize, count: usize) -> f64 {
    if level == column {
        1.0
    } else if level + 1 == count {
        -1.0
    } else {
        0.0
    }
}

fn main_columns(observations: &[Observation], factor: usize, count: usize) -> Vec<Vec<f64>> {
    let level = |o: &Observation| o.levels.get(factor).copied().unwrap_or(0);
    (0..count - 1).map(|column| observations.iter().map(|o| code(level(o), column, count)).collect()).collect()
}

fn products(observations: &[Observation], (a, b): (usize, usize), counts: &[usize]) -> Vec<Vec<f64>> {
    let count = |factor: usize| counts.get(factor).copied().unwrap_or(1);
    let (of_a, of_b) = (main_columns(observations, a, count(a)), main_columns(observations, b, count(b)));
    of_a.iter().flat_map(|x| of_b.iter().map(move |y| x.iter().zip(y).map(|(x, y)| x * y).collect())).collect()
}

fn design(n: usize, terms: &[Term], left_out: Option<usize>) -> Vec<Vec<f64>> {
    let mut columns = vec![vec![1.0; n]];
    let kept = terms.iter().enumerate().filter(|(idx, _)| Some(*idx) != left_out);
    columns.extend(kept.flat_map(|(_, term)| term.columns.iter().cloned()));
    columns
}

/// Effects of all levels from those of all but the last, which is minus their sum.
fn level_effects(
    own: &[(f64, usize)],
    design: &[Vec<f64>],
    offset: usize,
    variance: Option<f64>,
    freedom: u64,
) -> Vec<(f64, Option<f64>)> {
    let inverse = variance.and_then(|variance| Some((variance, inverse_normal(design)?)));
    let critical = t_quantile(0.975, freedom.max(1) as f64);
    let half = |weights: &[f64]| {
        let (variance, inverse) = inverse.as_ref()?;
        let mut sum = 0.0;
        for (i, x) in weights.iter().enumerate() {
            for (j, y) in weights.iter().enumerate() {
                sum += x * y * inverse.get(offset + i)?.get(offset + j)?;
            }
        }
        Some(critical * (variance * sum.max(0.0)).sqrt())
    };
    let mut levels: Vec<(f64, Option<f64>)> = own
        .iter()
        .enumerate()
        .map(|(idx, (value, _))| {
            let weights: Vec<f64> = (0..own.len()).map(|other| if other == idx { 1.0 } else { 0.0 }).collect();
            (*value, half(&weights))
        })
        .collect();
    let last = -own.iter().map(|(value, _)| value).sum::<f64>();
    levels.push((last, half(&vec![-1.0; own.len()])));
    levels
}

fn is_balanced(observations: &[Observation], counts: &[usize]) -> bool {
    let mut seen: std::collections::BTreeMap<&[usize], usize> = std::collections::BTreeMap::new();
    observations.iter().for_each(|o| *seen.entry(&o.levels).or_default() += 1);
    let combinations = counts.iter().try_fold(1_usize, |product, count| product.checked_mul((*count).max(1)));
    let times = seen.values().next();
    combinations == Some(seen.len()) && seen.values().all(|n| Some(n) == times)
}

/// An orthonormal basis of columns (modified Gram and Schmidt, each column orthogonalised twice).
struct Basis(Vec<Vec<f64>>);

impl Basis {
    fn new(columns: &[Vec<f64>]) -> Self {
        let mut basis = Self(Vec::new());
        for column in columns {
            if let Some(unit) = basis.rest(column) {
                basis.0.push(unit);
            }
        }
        basis
    }

    /// With more columns; `None` when one of them depends on what is there.
    fn extended(&self, columns: &[Vec<f64>]) -> Option<Self> {
        let mut larger = Self(self.0.clone());
        for column in columns {
            let unit = larger.rest(column)?;
            larger.0.push(unit);
        }
        Some(larger)
    }

    fn rank(&self) -> usize {
        self.0.len()
    }

    /// The unit vector of what the basis leaves of a column; `None` when that is only rounding.
    fn rest(&self, column: &[f64]) -> Option<Vec<f64>> {
        let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut left = column.to_vec();
        for _ in 0..2 {
            for unit in &self.0 {
                let dot: f64 = unit.iter().zip(&left).map(|(u, x)| u * x).sum();
                left.iter_mut().zip(unit).for_each(|(x, u)| *x -= dot * u);
            }
        }
        let length = norm(&left);
        (length > 1e-9 * norm(column).max(1e-300)).then(|| left.iter().map(|x| x / length).collect())
    }

    fn residual_sum(&self, values: &[f64]) -> f64 {
        let mut left = values.to_vec();
        for _ in 0..2 {
            for unit in &self.0 {
                let dot: f64 = unit.iter().zip(&left).map(|(u, x)| u * x).sum();
                left.iter_mut().zip(unit).for_each(|(x, u)| *x -= dot * u);
            }
        }
        left.iter().map(|x| x * x).sum()
    }
}

/// Least-squares coefficients with their column, by the normal equations: effect-coded columns are well conditioned.
fn solve(columns: &[Vec<f64>], values: &[f64]) -> Option<Vec<(f64, usize)>> {
    let inverse = inverse_normal(columns)?;
    let moments: Vec<f64> = columns.iter().map(|column| column.iter().zip(values).map(|(x, y)| x * y).sum()).collect();
    let coefficient = |row: &Vec<f64>| row.iter().zip(&moments).map(|(x, y)| x * y).sum::<f64>();
    Some(inverse.iter().map(coefficient).zip(0..).collect())
}

/// (XᵀX)⁻¹ by Gauss and Jordan with pivots; `None` when it does not exist.
fn inverse_normal(columns: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let k = columns.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let mut rows: Vec<Vec<f64>> = columns
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let unit = (0..k).map(|j| if i == j { 1.0 } else { 0.0 });
            columns.iter().map(|b| dot(a, b)).chain(unit).collect()
        })
        .collect();
    for column in 0..k {
        let size = |row: &Vec<f64>| row.get(column).map_or(0.0, |x| x.abs());
        let pivot = (column..k).max_by(|a, b| {
            let of = |idx: usize| rows.get(idx).map_or(0.0, size);
            of(*a).total_cmp(&of(*b))
        })?;
        rows.swap(column, pivot);
        let pivot_row = rows.get(column)?.clone();
        let head = *pivot_row.get(column)?;
        if head.abs() < 1e-12 {
            return None;
        }
        for (idx, row) in rows.iter_mut().enumerate() {
            let factor = if idx == column { 1.0 - 1.0 / head } else { row.get(column)? / head };
            row.iter_mut().zip(&pivot_row).for_each(|(x, p)| *x -= factor * p);
        }
    }
    Some(rows.into_iter().map(|row| row.into_iter().skip(k).collect()).collect())
}
