//! What happened inside a cell, thinned for pictures: distributions, requests, throughput and the server's state over
//! time, all from the raw records of one attempt. Definitions are `servelab_core::metrics`'.

use servelab_core::ids::CellId;
use servelab_core::metrics::{
    Outcome, Records, RequestTimes, ServerTimeline, gaps, outcome, quantile_linear, server_timeline,
};
use servelab_core::record::Phase;

use crate::error::StoreError;
use crate::records::RecordFiles;
use crate::results::ResultRow;
use crate::root::Root;

/// Points of a drawn distribution.
const STEPS: u32 = 200;
/// Stretches into which a window is cut.
const BINS: usize = 60;
/// Gaps kept for a distribution; beyond, every second, fourth, … one.
const MOST_GAPS: usize = 1 << 20;

/// A larger file of token events is not gone through for a picture: ITL and throughput over time are then missing.
const MOST_EVENT_BYTES: u64 = 64 << 20;

/// One drawn request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestDot {
    /// When it was sent, seconds after the window's start.
    pub sent_s: f64,
    /// Prompt tokens.
    pub input_tokens: Option<i64>,
    /// Output tokens.
    pub output_tokens: Option<i64>,
    /// TTFT, milliseconds.
    pub ttft_ms: Option<f64>,
    /// End to end, milliseconds.
    pub e2e_ms: Option<f64>,
    /// It failed.
    pub is_failed: bool,
}

/// One cell from inside.
#[derive(Debug, Clone, PartialEq)]
pub struct CellDetail {
    /// The cell.
    pub cell: CellId,
    /// Length of the window, seconds.
    pub window_s: f64,
    /// Name of a latency (`ttft`, `tpot`, `itl`, `e2e`) and its quantiles in milliseconds at equal steps from 0 to 1.
    pub distributions: Vec<(&'static str, Vec<f64>)>,
    /// Requests of the window, evenly thinned to a number that was asked for.
    pub dots: Vec<RequestDot>,
    /// Requests of the window before thinning.
    pub n_requests: usize,
    /// Output tokens per second over time: (middle of the stretch in seconds, value); empty without token events.
    pub throughput: Vec<(f64, f64)>,
    /// The server's state: instants in nanoseconds after the window's start.
    pub server: ServerTimeline,
}

/// Reads the details of one row; `None` where it has no raw records (imported, or never measured).
pub fn cell_detail(root: &Root, row: &ResultRow, most_dots: usize) -> Result<Option<CellDetail>, StoreError> {
    let Some(number) = row.attempt else { return Ok(None) };
    let Some(attempt) = root.attempts(&row.cell.id)?.into_iter().find(|attempt| attempt.attempt() == number) else {
        return Ok(None);
    };
    if !attempt.requests_path().is_file() || row.window.window_end_ns <= row.window.window_start_ns {
        return Ok(None);
    }
    let events = attempt.events_path();
    let is_readable = std::fs::metadata(&events).is_ok_and(|found| found.is_file() && found.len() <= MOST_EVENT_BYTES);
    let files = RecordFiles::new(attempt.requests_path(), is_readable.then_some(events));
    let mut collected = Collected::new(row.window.window_start_ns, row.window.window_end_ns);
    files.visit(&mut |request, events| collected.add(request, events));
    files.check()?;
    let start = row.window.window_start_ns;
    let mut server = server_timeline(&attempt.prom()?, start, row.window.window_end_ns);
    for series in [&mut server.running, &mut server.waiting, &mut server.kv_usage, &mut server.preemptions] {
        series.iter_mut().for_each(|(t_ns, _)| *t_ns -= start);
        *series = thinned(series, BINS * 4);
    }
    Ok(Some(collected.finish(row.cell.id.clone(), server, most_dots)))
}

fn thinned<T: Copy>(items: &[T], most: usize) -> Vec<T> {
    let stride = items.len().div_ceil(most.max(1)).max(1);
    items.iter().step_by(stride).copied().collect()
}

struct Collected {
    start_ns: i64,
    end_ns: i64,
    dots: Vec<RequestDot>,
    ttft: Vec<f64>,
    tpot: Vec<f64>,
    e2e: Vec<f64>,
    gaps: Vec<f64>,
    gap_stride: usize,
    gaps_seen: usize,
    bins: Vec<f64>,
    has_events: bool,
}

impl Collected {
    fn new(start_ns: i64, end_ns: i64) -> Self {
        Self {
            start_ns,
            end_ns,
            dots: Vec::new(),
            ttft: Vec::new(),
            tpot: Vec::new(),
            e2e: Vec::new(),
            gaps: Vec::new(),
            gap_stride: 1,
            gaps_seen: 0,
            bins: vec![0.0; BINS],
            has_events: false,
        }
    }

    fn add(&mut self, request: &servelab_core::record::RequestRecord, events: &[servelab_core::record::EventRecord]) {
        for event in events {
            self.has_events = true;
            let span = (self.end_ns - self.start_ns).max(1) as f64;
            let place = (event.t_ns - self.start_ns) as f64 / span * BINS as f64;
            if place >= 0.0
                && let Some(bin) = self.bins.get_mut(place as usize)
            {
                *bin += f64::from(event.n_tokens);
            }
        }
        if request.phase != Phase::Window {
            return;
        }
        let times = RequestTimes::of(request);
        let ms = |nanos: Option<i64>| nanos.map(|nanos| nanos as f64 / 1e6);
        let is_failed = matches!(outcome(request), Outcome::Failed(_));
        let is_success = matches!(outcome(request), Outcome::Completed);
        if is_success {
            self.ttft.extend(ms(times.ttft_ns));
            self.tpot.extend(times.tpot_ns.map(|nanos| nanos / 1e6));
            self.e2e.extend(ms(times.e2e_ns));
            for (gap_ns, tokens) in gaps(events) {
                for _ in 0..tokens {
                    self.keep_gap(gap_ns as f64 / 1e6 / tokens as f64);
                }
            }
        }
        self.dots.push(RequestDot {
            sent_s: (request.t_send.unwrap_or(request.t_sched) - self.start_ns) as f64 / 1e9,
            input_tokens: request.input_tokens,
            output_tokens: request.output_tokens,
            ttft_ms: ms(times.ttft_ns),
            e2e_ms: ms(times.e2e_ns),
            is_failed,
        });
    }

    fn keep_gap(&mut self, gap_ms: f64) {
        self.gaps_seen += 1;
        if !self.gaps_seen.is_multiple_of(self.gap_stride) {
            return;
        }
        if self.gaps.len() >= MOST_GAPS {
            self.gaps = self.gaps.iter().step_by(2).copied().collect();
            self.gap_stride *= 2;
        }
        self.gaps.push(gap_ms);
    }

    fn finish(mut self, cell: CellId, server: ServerTimeline, most_dots: usize) -> CellDetail {
        let width_s = (self.end_ns - self.start_ns) as f64 / 1e9 / BINS as f64;
        let named = [("ttft", self.ttft), ("tpot", self.tpot), ("itl", self.gaps), ("e2e", self.e2e)];
        let drawn = |(name, mut values): (&'static str, Vec<f64>)| {
            values.sort_by(f64::total_cmp);
            let steps = (0..=STEPS).filter_map(|i| quantile_linear(&values, f64::from(i) / f64::from(STEPS)));
            (name, steps.collect::<Vec<_>>())
        };
        let n_requests = self.dots.len();
        self.dots.sort_by(|a, b| a.sent_s.total_cmp(&b.sent_s));
        // A failure is never thinned away.
        let (failed, fine): (Vec<RequestDot>, Vec<RequestDot>) = self.dots.into_iter().partition(|dot| dot.is_failed);
        let mut dots = thinned(&fine, most_dots);
        dots.extend(thinned(&failed, most_dots));
        CellDetail {
            cell,
            window_s: (self.end_ns - self.start_ns) as f64 / 1e9,
            distributions: named.into_iter().map(drawn).filter(|(_, values)| !values.is_empty()).collect(),
            dots,
            n_requests,
            throughput: if self.has_events {
                self.bins.iter().enumerate().map(|(i, n)| ((i as f64 + 0.5) * width_s, n / width_s)).collect()
            } else {
                Vec::new()
            },
            server,
        }
    }
}

#[cfg(test)]
mod tests {
    use servelab_core::record::{EventRecord, RequestRecord};

    use super::*;

    #[test]
    fn a_cell_is_thinned_but_its_failures_stay() {
        let mut all = Collected::new(0, 10_000_000_000);
        for i in 0..1000_i64 {
            let mut request = RequestRecord::scheduled(i, Phase::Window, i * 10_000_000);
            request.t_send = Some(request.t_sched);
            request.http_status = Some(200);
            if i == 500 {
                request.failure_code = Some("timeout".into());
            } else {
                request.t_first = Some(request.t_sched + 5_000_000);
                request.t_last = Some(request.t_sched + 25_000_000);
                request.t_done = request.t_last;
                (request.output_tokens, request.n_first) = (Some(3), Some(1));
            }
            let at = |k: i64| EventRecord {
                request_idx: i,
                t_ns: request.t_sched + 5_000_000 + k * 10_000_000,
                n_tokens: 1,
            };
            all.add(&request, &[at(0), at(1), at(2)]);
        }
        let detail = all.finish(CellId::new("c"), ServerTimeline::default(), 50);
        assert_eq!((detail.n_requests, detail.window_s), (1000, 10.0));
        assert!(detail.dots.len() <= 52 && detail.dots.iter().any(|dot| dot.is_failed));
        let of = |name: &str| &detail.distributions.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!((of("ttft").len(), of("ttft")[100], of("itl")[7], of("tpot")[0]), (201, 5.0, 10.0, 10.0));
        let tokens: f64 = detail.throughput.iter().map(|(_, rate)| rate * 10.0 / 60.0).sum();
        assert!((tokens - 3000.0).abs() < 4.0, "{tokens}");
        assert_eq!(thinned(&[1, 2, 3, 4, 5], 2), [1, 4]);
    }
}
