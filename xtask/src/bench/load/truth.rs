//! A client's records held against the server's stamps: both are CLOCK_MONOTONIC of one machine, and the response id tells
//! which request of the one is which of the other.
//!
//! The server's instant of a token is the one just before its `write()`: nothing can be received earlier, so an error of
//! reception is never negative and includes what the kernel needs. The server's instant of a request is when the `read()`
//! that completed it returned.

use std::collections::HashMap;

use servelab_core::record::{ClockEpoch, EventRecord, Phase, RequestRecord};
use servelab_load::reference::{ReferenceLog, RequestEnd, RequestStamp, TokenEvent, request_number};

use super::stats::Sample;

/// What the server itself saw of some requests. Times in milliseconds.
#[derive(Debug, Default)]
pub(super) struct ServerSide {
    pub(super) ttft: Sample,
    pub(super) itl: Sample,
    /// Read to the last token.
    pub(super) e2e: Sample,
    /// Between reads of requests, seconds.
    pub(super) gaps_s: Sample,
    /// From the first read to the last, seconds.
    pub(super) span_s: f64,
    /// How late the server's own writes were.
    pub(super) late: Sample,
    pub(super) partial_writes: usize,
    pub(super) max_in_flight: usize,
}

impl ServerSide {
    /// Of the requests that `is_wanted` by number.
    pub(super) fn of(log: &ReferenceLog, is_wanted: impl Fn(u32) -> bool) -> Self {
        let events = log.events_by_request();
        let wanted: Vec<&RequestStamp> = log.requests.iter().filter(|request| is_wanted(request.number)).collect();
        let of = |request: &RequestStamp| events.get(request.number as usize).map_or(&[][..], Vec::as_slice);
        let mut reads: Vec<i64> = wanted.iter().map(|request| request.read_ns).collect();
        reads.sort_unstable();
        let writes = || log.writes.iter().filter(|write| is_wanted(write.request));
        Self {
            ttft: wanted.iter().filter_map(|r| Some(ms(of(r).first()?.before_ns - r.read_ns))).collect(),
            itl: wanted.iter().flat_map(|r| of(r).windows(2).map(gap_ms)).collect(),
            e2e: wanted.iter().filter_map(|r| Some(ms(of(r).last()?.before_ns - r.read_ns))).collect(),
            gaps_s: reads
                .windows(2)
                .map(|pair| match pair {
                    [a, b] => (b - a) as f64 / 1e9,
                    _ => f64::NAN,
                })
                .collect(),
            span_s: reads.last().zip(reads.first()).map_or(0.0, |(last, first)| (last - first) as f64 / 1e9),
            late: writes().map(|write| f64::from(write.late_ns) / 1e6).collect(),
            partial_writes: writes().filter(|write| write.is_partial).count(),
            max_in_flight: max_in_flight(&wanted),
        }
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn gap_ms(pair: &[TokenEvent]) -> f64 {
    match pair {
        [a, b] => ms(b.before_ns - a.before_ns),
        _ => f64::NAN,
    }
}

fn max_in_flight(requests: &[&RequestStamp]) -> usize {
    let mut steps: Vec<(i64, i32)> =
        requests.iter().flat_map(|request| [(request.read_ns, 1), (request.end_ns, -1)]).collect();
    steps.sort_unstable();
    let mut now = 0_i64;
    let mut most = 0;
    for (_, step) in steps {
        now += i64::from(step);
        most = most.max(now);
    }
    usize::try_from(most).unwrap_or(0)
}

/// Receive errors of the bare reader, in milliseconds: of each write, from the instant before it to the first read of its
/// stream afterwards. The reader opens its streams one after the other, so that the server's connections have their order.
pub(super) fn bare_receive_errors(log: &ReferenceLog, reads: &[(u64, i64)], begin_ns: i64, end_ns: i64) -> Sample {
    let connections: HashMap<u32, u64> =
        log.requests.iter().map(|request| (request.number, u64::from(request.connection))).collect();
    let mut reads_of: HashMap<u64, Vec<i64>> = HashMap::new();
    for (stream, at_ns) in reads {
        reads_of.entry(*stream).or_default().push(*at_ns);
    }
    log.writes
        .iter()
        .filter(|write| (begin_ns..end_ns).contains(&write.before_ns))
        .filter_map(|write| {
            let reads = reads_of.get(connections.get(&write.request)?)?;
            let next = reads.get(reads.partition_point(|at_ns| *at_ns < write.before_ns))?;
            Some(ms(next - write.before_ns))
        })
        .collect()
}

/// A client's records beside the server's. Times in milliseconds; errors are the client's value minus the server's.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) server: ServerSide,
    /// As recomputed from the client's records.
    pub(super) client_ttft: Sample,
    pub(super) client_itl: Sample,
    pub(super) ttft_error: Sample,
    /// t_first − write of the first token.
    pub(super) first_error: Sample,
    /// t_k − write of event k.
    pub(super) receive_error: Sample,
    /// Read by the server − t_send: what the kernel and the server needed to pick the request up.
    pub(super) pick_up: Sample,
    /// t_send − t_sched.
    pub(super) behind_schedule: Sample,
    /// From the first to the last instant, seconds.
    pub(super) scheduled_span_s: f64,
    pub(super) sent_span_s: f64,
    pub(super) scheduled: usize,
    pub(super) sent: usize,
    pub(super) failed: usize,
    /// Successes whose response id the server does not know.
    pub(super) unmatched: usize,
    /// Requests whose number of events differs.
    pub(super) event_mismatches: usize,
}

impl Comparison {
    /// Over the window's successes.
    pub(super) fn new(
        log: &ReferenceLog,
        requests: &[RequestRecord],
        events: &[EventRecord],
        clock: ClockEpoch,
    ) -> Self {
        let absolute = |ns: i64| ns + clock.epoch_monotonic_ns;
        let stamps: HashMap<u32, &RequestStamp> = log
            .requests
            .iter()
            .filter(|request| request.end == RequestEnd::Complete)
            .map(|request| (request.number, request))
            .collect();
        let writes = log.events_by_request();
        let mut received: HashMap<i64, Vec<i64>> = HashMap::new();
        for event in events {
            received.entry(event.request_idx).or_default().push(event.t_ns);
        }
        let mut errors = Errors::default();
        let mut wanted = std::collections::HashSet::new();
        let mut unmatched = 0;
        let mut event_mismatches = 0;
        let window = || requests.iter().filter(|request| request.phase == Phase::Window);
        for request in window().filter(|request| request.is_success()) {
            let number = request.response_id.as_deref().and_then(request_number);
            let Some((number, stamp)) = number.and_then(|number| Some((number, stamps.get(&number)?))) else {
                unmatched += 1;
                continue;
            };
            let (Some(t_send), Some(t_first)) = (request.t_send, request.t_first) else { continue };
            let written = writes.get(number as usize).map_or(&[][..], Vec::as_slice);
            let Some(first) = written.first() else { continue };
            wanted.insert(number);
            errors.client_ttft.push(ms(t_first - t_send));
            errors.ttft.push(ms((t_first - t_send) - (first.before_ns - stamp.read_ns)));
            errors.first.push(ms(absolute(t_first) - first.before_ns));
            errors.pick_up.push(ms(stamp.read_ns - absolute(t_send)));
            let seen = received.get_mut(&request.request_idx).map_or(&mut [][..], Vec::as_mut_slice);
            seen.sort_unstable();
            errors.client_itl.extend(seen.windows(2).filter_map(|pair| Some(ms(pair.last()? - pair.first()?))));
            if seen.len() == written.len() {
                errors.receive.extend(seen.iter().zip(written).map(|(t, write)| ms(absolute(*t) - write.before_ns)));
            } else {
                event_mismatches += 1;
            }
        }
        let sent: Vec<&RequestRecord> = window().filter(|request| request.t_send.is_some()).collect();
        Self {
            server: ServerSide::of(log, |number| wanted.contains(&number)),
            client_ttft: errors.client_ttft.into_iter().collect(),
            client_itl: errors.client_itl.into_iter().collect(),
            ttft_error: errors.ttft.into_iter().collect(),
            first_error: errors.first.into_iter().collect(),
            receive_error: errors.receive.into_iter().collect(),
            pick_up: errors.pick_up.into_iter().collect(),
            behind_schedule: sent.iter().filter_map(|r| Some(ms(r.t_send? - r.t_sched))).collect(),
            scheduled_span_s: span_s(sent.iter().map(|request| request.t_sched)),
            sent_span_s: span_s(sent.iter().filter_map(|request| request.t_send)),
            scheduled: window().count(),
            sent: sent.len(),
            failed: window().filter(|request| !request.is_success()).count(),
            unmatched,
            event_mismatches,
        }
    }
}

fn span_s(instants: impl Iterator<Item = i64> + Clone) -> f64 {
    instants.clone().max().zip(instants.min()).map_or(0.0, |(last, first)| (last - first) as f64 / 1e9)
}

#[derive(Default)]
struct Errors {
    client_ttft: Vec<f64>,
    client_itl: Vec<f64>,
    ttft: Vec<f64>,
    first: Vec<f64>,
    receive: Vec<f64>,
    pick_up: Vec<f64>,
}

/// Token events per second between the quarters of a log's time: ramps are left out.
pub(super) fn steady_events_per_s(log: &ReferenceLog) -> f64 {
    let (Some(first), Some(last)) = (log.writes.first(), log.writes.last()) else { return 0.0 };
    let length = last.before_ns - first.before_ns;
    let (from, to) = (first.before_ns + length / 4, last.before_ns - length / 4);
    events_between(log, from, to) as f64 / ((to - from) as f64 / 1e9)
}

/// Token events written in an interval.
pub(super) fn events_between(log: &ReferenceLog, from_ns: i64, to_ns: i64) -> u64 {
    let inside = log.writes.iter().filter(|write| (from_ns..to_ns).contains(&write.before_ns));
    inside.map(|write| u64::from(write.n_events)).sum()
}

#[cfg(test)]
mod tests {
    use servelab_core::record::TokenSource;
    use servelab_load::reference::WriteStamp;

    use super::*;

    /// Two requests of three tokens each, read at 100 ms and 300 ms; tokens 50, 70, 90 ms later.
    fn log() -> ReferenceLog {
        let mut log = ReferenceLog::default();
        for number in 0..2_u32 {
            let read_ns = 100_000_000 + i64::from(number) * 200_000_000;
            log.requests.push(RequestStamp {
                number,
                connection: number,
                read_ns,
                head_ns: read_ns,
                end_ns: read_ns + 95_000_000,
                tokens: 3,
                tokens_written: 3,
                end: RequestEnd::Complete,
            });
            for event in 0..3 {
                log.writes.push(WriteStamp {
                    request: number,
                    first_event: event,
                    n_events: 1,
                    tokens_per_event: 1,
                    is_partial: false,
                    before_ns: read_ns + 50_000_000 + i64::from(event) * 20_000_000,
                    took_ns: 5_000,
                    late_ns: 1_000,
                });
            }
        }
        log
    }

    /// A client whose epoch is 40 ms, that sends 1 ms before each read and receives each token 2 ms after its write.
    fn records(log: &ReferenceLog) -> (Vec<RequestRecord>, Vec<EventRecord>, ClockEpoch) {
        let clock = ClockEpoch { epoch_monotonic_ns: 40_000_000, epoch_unix_ns: 0 };
        let mut requests = Vec::new();
        let mut events = Vec::new();
        for (stamp, written) in log.requests.iter().zip(log.events_by_request()) {
            let idx = i64::from(stamp.number);
            let relative = |ns: i64| ns - clock.epoch_monotonic_ns;
            let seen: Vec<i64> = written.iter().map(|event| relative(event.before_ns) + 2_000_000).collect();
            requests.push(RequestRecord {
                response_id: Some(format!("cmpl-ref-{idx:010}")),
                t_send: Some(relative(stamp.read_ns) - 1_000_000),
                t_first: seen.first().copied(),
                t_last: seen.last().copied(),
                output_tokens: Some(3),
                token_source: Some(TokenSource::ServerUsage),
                ..RequestRecord::scheduled(idx, Phase::Window, relative(stamp.read_ns) - 1_500_000)
            });
            events.extend(seen.into_iter().map(|t_ns| EventRecord { request_idx: idx, t_ns, n_tokens: 1 }));
        }
        (requests, events, clock)
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn errors_are_what_was_put_in() {
        let log = log();
        let (requests, events, clock) = records(&log);
        let seen = Comparison::new(&log, &requests, &events, clock);
        assert_eq!((seen.unmatched, seen.event_mismatches, seen.failed, seen.sent), (0, 0, 0, 2));
        assert!(near(seen.server.ttft.mean(), 50.0) && near(seen.client_ttft.mean(), 53.0));
        assert!(
            near(seen.ttft_error.max(), 3.0) && near(seen.first_error.max(), 2.0) && near(seen.pick_up.mean(), 1.0)
        );
        assert!(near(seen.receive_error.quantile(0.0), 2.0) && near(seen.receive_error.max(), 2.0));
        assert_eq!(seen.receive_error.n(), 6);
        assert!(near(seen.client_itl.mean(), 20.0) && near(seen.server.itl.mean(), 20.0));
        assert!(near(seen.behind_schedule.mean(), 0.5) && near(seen.server.e2e.mean(), 90.0));
        assert!(near(seen.sent_span_s, 0.2) && near(seen.scheduled_span_s, 0.2) && near(seen.server.span_s, 0.2));
        assert_eq!(seen.server.max_in_flight, 1);
        assert!(near(seen.server.late.mean(), 0.001));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let log = log();
        let (mut requests, mut events, clock) = records(&log);
        events.pop();
        requests[0].response_id = Some("cmpl-other".to_owned());
        requests.push(RequestRecord {
            failure_code: Some("connection_reset".to_owned()),
            ..RequestRecord::scheduled(2, Phase::Window, 0)
        });
        let seen = Comparison::new(&log, &requests, &events, clock);
        assert_eq!((seen.unmatched, seen.event_mismatches, seen.failed), (1, 1, 1));
        assert_eq!((seen.scheduled, seen.sent, seen.receive_error.n()), (3, 2, 0));
    }

    #[test]
    fn rates() {
        let log = log();
        assert_eq!(events_between(&log, 150_000_000, 191_000_000), 3);
        // Writes from 150 ms to 390 ms; between 210 ms and 330 ms there is none.
        assert!(near(steady_events_per_s(&log), 0.0));
    }
}
