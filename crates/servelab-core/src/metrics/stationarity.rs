//! The steady part of a load without fixed slots: where the number of requests in flight has left its start behind and
//! goes nowhere any more. The start is cut by MSER-5 (White 1997), the rest must pass a test for a trend.

use super::window::InFlight;

/// Observations over the window: means of the in-flight count over equal parts of it.
const N_PARTS: usize = 200;
/// Parts per batch in MSER-5.
const BATCH: usize = 5;
/// Batches of the rest that the trend is looked for in.
const N_TREND: usize = 10;
/// Two-sided 99 % point of Student's t with [`N_TREND`] − 2 = 8 degrees of freedom.
const T_99: f64 = 3.355;
/// A batch shorter than this many mean request times says little about the next one: they are the same requests.
const MIN_REQUEST_TIMES: f64 = 10.0;

/// First and last instant of the steady part. `None` when more than half of the window would have to be cut, when what
/// is left has a trend, or when it is too short to tell (below ten mean request times).
pub(super) fn steady_span(
    in_flight: &InFlight,
    start_ns: i64,
    end_ns: i64,
    mean_request_ns: f64,
) -> Option<(i64, i64)> {
    if end_ns <= start_ns || mean_request_ns <= 0.0 {
        return None;
    }
    let parts = in_flight.means(start_ns, end_ns, N_PARTS);
    let batches: Vec<f64> = parts.chunks(BATCH).map(mean).collect();
    let cut = mser(&batches)?;
    let first_ns = start_ns + ((end_ns - start_ns) as f64 * cut as f64 / batches.len() as f64) as i64;
    let is_long = (end_ns - first_ns) as f64 >= MIN_REQUEST_TIMES * mean_request_ns;
    let has_load = in_flight.over(first_ns, end_ns).max > 0;
    (is_long && has_load && !has_trend(&in_flight.means(first_ns, end_ns, N_TREND))).then_some((first_ns, end_ns))
}

/// How many leading batches to drop so that the mean of the others has the smallest standard error; `None` when that
/// is not within the first half: then there is no steady part, or the series is too short to show it.
fn mser(batches: &[f64]) -> Option<usize> {
    let n = batches.len();
    let score = |cut: usize| {
        let rest = batches.get(cut..).unwrap_or_default();
        let centre = mean(rest);
        rest.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / (rest.len() as f64).powi(2)
    };
    let last = n.checked_sub(BATCH)?;
    let best = (0..=last).min_by(|a, b| score(*a).total_cmp(&score(*b)))?;
    (best <= n / 2).then_some(best)
}

/// A straight line through the values whose slope is not zero at the 99 % level and matters: over the whole span it
/// moves the count by more than a tenth of its mean, and by more than half a request.
fn has_trend(values: &[f64]) -> bool {
    let n = values.len() as f64;
    let (centre_x, centre_y) = ((n - 1.0) / 2.0, mean(values));
    let spread: f64 = (0..values.len()).map(|x| (x as f64 - centre_x).powi(2)).sum();
    let slope = values.iter().enumerate().map(|(x, y)| (x as f64 - centre_x) * (y - centre_y)).sum::<f64>() / spread;
    let left: f64 =
        values.iter().enumerate().map(|(x, y)| (y - centre_y - slope * (x as f64 - centre_x)).powi(2)).sum();
    let error = (left / (n - 2.0) / spread).sqrt();
    let moved = (slope * (n - 1.0)).abs();
    moved > 0.1 * centre_y && moved > 0.5 && slope.abs() > T_99 * error
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Phase, RequestRecord};

    const MS: i64 = 1_000_000;

    /// Requests of `service_ms`, one every `gap_ms` of them by a fixed pattern, over ten seconds.
    fn load(service_ms: impl Fn(i64) -> i64, gap_ms: i64) -> InFlight {
        let mut requests = Vec::new();
        for k in 0..10_000 / gap_ms {
            let send = k * gap_ms + k * 7 % gap_ms;
            let mut request = RequestRecord::scheduled(k, Phase::Window, send * MS);
            request.t_send = Some(send * MS);
            request.t_done = Some((send + service_ms(send)) * MS);
            request.failure_code = Some("request_timeout".to_owned());
            requests.push(request);
        }
        InFlight::of(&requests)
    }

    fn span(in_flight: &InFlight, mean_ms: f64) -> Option<(i64, i64)> {
        steady_span(in_flight, 0, 10_000 * MS, mean_ms * 1e6)
    }

    #[test]
    fn the_filling_is_cut_off() {
        let (start, end) = span(&load(|_| 900, 20), 900.0).unwrap();
        assert!((600 * MS..1_500 * MS).contains(&start), "{start}");
        assert_eq!(end, 10_000 * MS);
        let (start, _) = span(&load(|_| 30, 20), 30.0).unwrap();
        assert!(start <= 250 * MS, "nothing to cut: {start}");
    }

    #[test]
    fn a_queue_that_grows_is_not_steady() {
        assert_eq!(span(&load(|send| 200 + send / 4, 20), 800.0), None);
        assert_eq!(span(&load(|send| 3_000 - send / 4, 20), 800.0), None, "nor is one that shrinks");
    }

    #[test]
    fn too_short_or_empty_is_not_steady() {
        assert_eq!(span(&load(|_| 900, 20), 1_100.0), None);
        assert_eq!(span(&InFlight::default(), 1.0), None);
        assert_eq!(steady_span(&load(|_| 900, 20), 5, 5, 1.0), None);
    }
}
