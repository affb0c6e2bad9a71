//! Which targets a measurement meets. Numbers come from `truth` and `run`, limits from `scenario`.

use super::peers::PeerRun;
use super::run::{Floor, OwnRun};
use super::scenario::{CEILING, CEILING_TARGET, Load, MANY, MANY_KIB_PER_STREAM, MANY_STREAMS, Scenario, Target};
use super::stats::Sample;
use super::truth::steady_events_per_s;

/// A scenario with everything that was measured in it.
pub(super) struct Judged {
    pub(super) scenario: Scenario,
    pub(super) own: OwnRun,
    pub(super) floor: Option<Floor>,
    pub(super) peers: Vec<PeerRun>,
    pub(super) checks: Vec<Check>,
}

/// One target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Check {
    pub(super) scenario: &'static str,
    pub(super) what: String,
    pub(super) measured: String,
    pub(super) is_met: bool,
}

impl Check {
    fn at_most(scenario: &'static str, what: &str, value: f64, limit: f64, unit: &str) -> Self {
        Self {
            scenario,
            what: format!("{what} ≤ {limit} {unit}"),
            measured: format!("{value:.3} {unit}"),
            is_met: value <= limit,
        }
    }
}

impl Judged {
    pub(super) fn new(scenario: &Scenario, own: OwnRun, floor: Option<Floor>, peers: Vec<PeerRun>) -> Self {
        let mut checks: Vec<Check> =
            scenario.targets.iter().flat_map(|target| check(scenario, &own, floor.as_ref(), *target)).collect();
        let seen = &own.seen;
        let stray = seen.failed + seen.unmatched + seen.event_mismatches;
        checks.push(Check {
            scenario: scenario.name,
            what: "every request and event is accounted for".to_owned(),
            measured: format!(
                "{} failed, {} unmatched, {} with another number of events",
                seen.failed, seen.unmatched, seen.event_mismatches
            ),
            is_met: stray == 0,
        });
        // The summary that people read must be the one of the records that were held against the truth.
        let reported = own.result.latency_ms.ttft.mean.unwrap_or(f64::NAN);
        let apart = (reported - seen.client_ttft.mean()).abs();
        let apart_itl = (own.result.latency_ms.itl.p99.unwrap_or(f64::NAN) - seen.client_itl.quantile(0.99)).abs();
        checks.push(Check::at_most(
            scenario.name,
            "reported mean TTFT and ITL p99 against the records",
            apart.max(apart_itl),
            0.001,
            "ms",
        ));
        Self { scenario: *scenario, own, floor, peers, checks }
    }
}

fn check(scenario: &Scenario, own: &OwnRun, floor: Option<&Floor>, target: Target) -> Vec<Check> {
    let seen = &own.seen;
    let latency = &own.result.latency_ms;
    let at_most =
        |what: &str, value: f64, limit: f64, unit: &str| Check::at_most(scenario.name, what, value, limit, unit);
    match target {
        Target::TtftMean(limit) => {
            let error = latency.ttft.mean.unwrap_or(f64::NAN) - seen.server.ttft.mean();
            vec![at_most("error of the mean TTFT", error.abs(), limit, "ms")]
        }
        Target::TtftP99(limit) => {
            let error = latency.ttft.p99.unwrap_or(f64::NAN) - seen.server.ttft.quantile(0.99);
            vec![at_most("error of the p99 of TTFT", error.abs(), limit, "ms")]
        }
        Target::ItlP99(limit) => {
            let error = latency.itl.p99.unwrap_or(f64::NAN) - seen.server.itl.quantile(0.99);
            vec![at_most("error of the p99 of ITL", error.abs(), limit, "ms")]
        }
        Target::Receive { mean, p99 } => vec![
            at_most("mean of t_k − write", seen.receive_error.mean(), mean, "ms"),
            at_most("p99 of t_k − write", seen.receive_error.quantile(0.99), p99, "ms"),
        ],
        Target::Poisson(limit) => {
            let Load::Open { rate } = scenario.load else { return Vec::new() };
            let (distance, p) = seen.server.gaps_s.against_exponential(rate);
            let variation = seen.server.gaps_s.variation();
            vec![
                at_most("variation of arrival gaps, distance from 1", (variation - 1.0).abs(), limit, ""),
                Check {
                    scenario: scenario.name,
                    what: "arrival gaps are exponential (Kolmogorov–Smirnov at 1 %)".to_owned(),
                    measured: format!("D = {distance:.4}, p = {p:.2}"),
                    is_met: p >= 0.01,
                },
            ]
        }
        Target::Lateness(limit) => {
            vec![at_most("p99 of t_send − t_sched", seen.behind_schedule.quantile(0.99), limit, "ms")]
        }
        Target::Rate(limit) => {
            let stretch = (seen.sent_span_s / seen.scheduled_span_s - 1.0).abs();
            vec![
                at_most("sent span against scheduled span", stretch, limit, ""),
                Check {
                    scenario: scenario.name,
                    what: "every arrival was sent".to_owned(),
                    measured: format!("{} of {}", seen.sent, seen.scheduled),
                    is_met: seen.sent == seen.scheduled,
                },
            ]
        }
        Target::Cpu { times_floor, micros } => {
            let Some(floor) = floor else { return Vec::new() };
            let value = own.micros_per_event();
            // Below, the second limit asks for what no reader on this machine can do.
            let limit = micros.max(floor.micros_per_event * times_floor);
            vec![
                at_most("CPU time per event, times the bare reader's", value / floor.micros_per_event, times_floor, ""),
                at_most("CPU time per event", value, (limit * 1e3).round() / 1e3, "µs"),
            ]
        }
    }
}

/// One step of the search for the ceiling.
pub(super) struct Step {
    pub(super) asked: f64,
    pub(super) client_events_per_s: f64,
    pub(super) is_client_limited: bool,
    pub(super) receive_p99_ms: f64,
    pub(super) client_micros: f64,
    pub(super) floor_micros: f64,
    pub(super) floor_events_per_s: f64,
    /// Lateness of the server's writes with the bare reader.
    pub(super) server_late_p99_ms: f64,
    pub(super) failed: usize,
}

impl Step {
    pub(super) fn new(asked: f64, own: &OwnRun, floor: &Floor) -> Self {
        let late: Sample = floor.log.writes.iter().map(|write| f64::from(write.late_ns) / 1e6).collect();
        Self {
            asked,
            client_events_per_s: steady_events_per_s(&own.log),
            is_client_limited: own.is_client_limited(),
            receive_p99_ms: own.seen.receive_error.quantile(0.99),
            client_micros: own.micros_per_event(),
            floor_micros: floor.micros_per_event,
            floor_events_per_s: floor.events_per_s,
            server_late_p99_ms: late.quantile(0.99),
            failed: own.seen.failed + own.seen.unmatched,
        }
    }

    /// The server kept its own times.
    pub(super) fn is_server_in_time(&self) -> bool {
        self.server_late_p99_ms <= 5.0 && self.floor_events_per_s >= 0.97 * self.asked
    }
}

pub(super) fn ceiling_checks(steps: &[Step]) -> Vec<Check> {
    let good = steps.iter().filter(|step| !step.is_client_limited && step.failed == 0);
    let reached = good.map(|step| step.client_events_per_s).fold(0.0, f64::max);
    let server =
        steps.iter().filter(|step| step.is_server_in_time()).map(|step| step.floor_events_per_s).fold(0.0, f64::max);
    vec![Check {
        scenario: CEILING,
        what: format!("≥ {CEILING_TARGET:.0} token events/s before `client_limited`"),
        measured: format!("{reached:.0} (the server by itself, read by the bare reader: {server:.0})"),
        is_met: reached >= 0.99 * CEILING_TARGET,
    }]
}

/// The run with ten thousand streams.
pub(super) struct Many {
    pub(super) own: OwnRun,
    pub(super) floor_micros: f64,
    pub(super) kib_per_stream: f64,
    pub(super) base_rss_kib: u64,
}

impl Many {
    pub(super) fn new(own: OwnRun, floor: &Floor, base: &OwnRun) -> Self {
        let more_streams = own.seen.server.max_in_flight.saturating_sub(base.seen.server.max_in_flight).max(1);
        let more_kib = own.cost.peak_rss_kib as f64 - base.cost.peak_rss_kib as f64;
        Self {
            kib_per_stream: more_kib / more_streams as f64,
            floor_micros: floor.micros_per_event,
            base_rss_kib: base.cost.peak_rss_kib,
            own,
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let seen = &self.own.seen;
        vec![
            Check::at_most(MANY, "memory per stream", self.kib_per_stream, MANY_KIB_PER_STREAM, "KiB"),
            Check {
                scenario: MANY,
                what: format!("{MANY_STREAMS} streams open at the same time, none failed"),
                measured: format!("{} in flight, {} failed", seen.server.max_in_flight, seen.failed + seen.unmatched),
                is_met: seen.server.max_in_flight >= MANY_STREAMS as usize && seen.failed + seen.unmatched == 0,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(asked: f64, reached: f64, is_client_limited: bool) -> Step {
        Step {
            asked,
            client_events_per_s: reached,
            is_client_limited,
            receive_p99_ms: 0.1,
            client_micros: 3.0,
            floor_micros: 2.0,
            floor_events_per_s: asked,
            server_late_p99_ms: 0.1,
            failed: 0,
        }
    }

    #[test]
    fn the_ceiling_is_the_highest_rate_that_the_client_did_not_shape() {
        let met = ceiling_checks(&[step(100e3, 100e3, false), step(150e3, 149.5e3, false), step(200e3, 170e3, true)]);
        assert!(met[0].is_met && met[0].measured.starts_with("149500"), "{met:?}");
        assert!(!ceiling_checks(&[step(100e3, 100e3, false), step(150e3, 150e3, true)])[0].is_met);
    }

    #[test]
    fn a_limit_is_met_on_it_and_not_by_nothing() {
        assert!(Check::at_most("x", "y", 0.5, 0.5, "ms").is_met);
        assert!(!Check::at_most("x", "y", f64::NAN, 0.5, "ms").is_met);
    }
}
