//! Does a finding still hold? Its numbers computed anew from the rows, comparisons tested anew.

use servelab_core::finding::BoundNumber;
use servelab_core::metrics::RepeatStats;

use crate::baseline::compared;
use crate::results::ResultRow;

/// A difference with a larger p is not supported.
const P: f64 = 0.05;

/// What became of a number.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// It is what the data say.
    Holds,
    /// The data say something else.
    Changed,
    /// A difference that the data do not support, whatever its size: why.
    Unsupported(String),
    /// No believed cell speaks about it: why.
    NoData(String),
}

/// A number checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// Its value now.
    pub now: Option<f64>,
    /// Repeats behind it.
    pub n: u64,
    /// Verdict.
    pub standing: Standing,
}

/// Checks one number.
pub fn check_number(
    number: &BoundNumber,
    rows: &[ResultRow],
    value: &dyn Fn(&ResultRow, &str) -> Option<f64>,
) -> Checked {
    let none = |reason: String| Checked { now: None, n: 0, standing: Standing::NoData(reason) };
    let binding = &number.binding;
    let own = match values(&binding.point, number, rows, value) {
        Ok(values) => values,
        Err(reason) => return none(reason),
    };
    let plain = |side: &[(u32, f64)]| side.iter().map(|(_, x)| *x).collect::<Vec<_>>();
    let Some(versus) = &binding.versus else {
        let Some(stats) = RepeatStats::of(plain(&own)) else { return none("no value".to_owned()) };
        let standing = if number.agrees_with(stats.mean) { Standing::Holds } else { Standing::Changed };
        return Checked { now: Some(stats.mean), n: stats.n, standing };
    };
    let baseline = match values(versus, number, rows, value) {
        Ok(values) => values,
        Err(reason) => return none(reason),
    };
    let Some(found) = compared(&baseline, &own) else { return none("no values to compare".to_owned()) };
    let Some(relative) = found.relative else { return none(format!("{versus} is zero: there is no percentage of it")) };
    let now = 100.0 * relative;
    let n = found.n_baseline.min(found.n_candidate);
    let standing = match found.p {
        None => Standing::Unsupported("one repeat each: nobody knows whether that is noise".to_owned()),
        Some(p) if p > P => Standing::Unsupported(format!("within noise (p = {p:.3})")),
        Some(_) if now * number.value < 0.0 => Standing::Unsupported("the difference has the other sign".to_owned()),
        Some(_) if number.agrees_with(now) => Standing::Holds,
        Some(_) => Standing::Changed,
    };
    Checked { now: Some(now), n, standing }
}

/// The believed values of a point, by repeat; exactly one workload and load may be meant.
fn values(
    point: &str,
    number: &BoundNumber,
    rows: &[ResultRow],
    value: &dyn Fn(&ResultRow, &str) -> Option<f64>,
) -> Result<Vec<(u32, f64)>, String> {
    let binding = &number.binding;
    let is_point = |row: &&ResultRow| {
        row.point.labels.iter().any(|label| label == point)
            || (point.len() >= 6 && row.point.id.as_str().starts_with(point))
            || row.point.legacy_hashes.values().any(|hash| hash == point)
    };
    let of_point: Vec<&ResultRow> = rows.iter().filter(is_point).collect();
    if of_point.is_empty() {
        return Err(format!("there is no point `{point}`"));
    }
    let chosen: Vec<&ResultRow> = of_point
        .into_iter()
        .filter(|row| binding.workload.as_ref().is_none_or(|workload| *workload == row.cell.workload))
        .filter(|row| binding.load.as_ref().is_none_or(|load| *load == row.cell.load.describe()))
        .collect();
    let Some(first) = chosen.first() else {
        return Err(format!("`{point}` has no cell with this workload and load"));
    };
    let is_same = |row: &&&ResultRow| {
        row.cell.workload == first.cell.workload && row.cell.load.describe() == first.cell.load.describe()
    };
    if !chosen.iter().all(|row| is_same(&row)) {
        return Err(format!("`{point}` has several workloads or loads: name one with `workload:` and `load:`"));
    }
    let believed: Vec<&&ResultRow> = chosen.iter().filter(|row| row.unranked_reason().is_none()).collect();
    if believed.is_empty() {
        let reason = first.unranked_reason().unwrap_or_default();
        return Err(format!("no cell of `{point}` may be believed: {reason}"));
    }
    let found: Vec<(u32, f64)> = believed
        .iter()
        .filter_map(|row| Some((row.cell.repeat, value(row, &binding.metric).filter(|x| x.is_finite())?)))
        .collect();
    if found.is_empty() { Err(format!("`{point}` has no `{}`", binding.metric)) } else { Ok(found) }
}
