//! How often `saturated` is wrong, over many seeds of a queue whose utilisation is known: first come first served by as
//! many slots as the engine runs requests at once. Utilisation is that of the arrivals that happened: forty Poisson
//! arrivals of a nominal rate vary by a sixth, and no rule can tell a nominal overload that did not take place.

use super::backlog::BacklogSamples;
use super::*;
use crate::metrics::{ClientUsage, MetricsInput, RecordSlices, summarise};
use crate::plan::Load;
use crate::record::{ClockEpoch, Phase, RequestRecord, TokenSource};
use crate::result::BenchResult;

/// Requests simulated per scene: enough runs that a share is known to half a percent where windows are short.
const REQUESTS_PER_SCENE: usize = 40_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Arrivals {
    /// At equal distances.
    Constant,
    /// Poisson, given the number of arrivals in the span.
    PoissonOfRate,
    /// Poisson of a nominal rate.
    Poisson,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum FirstToken {
    /// When a slot is free.
    AfterQueue,
    /// The wait falls between the tokens.
    AtOnce,
}

#[derive(Debug, Clone, Copy)]
struct Scene {
    requests: usize,
    utilisation: f64,
    slots: usize,
    /// Service times are sums of this many exponentials (coefficient of variation 1/√k); 0: all equal.
    stages: u32,
    arrivals: Arrivals,
    /// Requests per second that the server can bear.
    capacity_per_s: f64,
    first_token: FirstToken,
}

impl Scene {
    fn arrival_s(&self, random: &mut Random) -> Vec<f64> {
        let n = self.requests;
        let rate = self.utilisation * self.capacity_per_s;
        let span = (n - 1) as f64 / rate;
        let mut times: Vec<f64> = match self.arrivals {
            Arrivals::Constant => (0..n).map(|k| k as f64 / rate).collect(),
            Arrivals::PoissonOfRate => [0.0, span].into_iter().chain((2..n).map(|_| span * random.uniform())).collect(),
            Arrivals::Poisson => {
                let mut t = 0.0;
                (0..n)
                    .map(|_| {
                        t += random.exponential() / rate;
                        t
                    })
                    .collect()
            }
        };
        times.sort_by(f64::total_cmp);
        times
    }

    fn is_saturated(&self, result: &BenchResult, seed: u64) -> bool {
        let mut random = Random(seed);
        let mean_s = self.slots as f64 / self.capacity_per_s;
        let mut free_s = vec![0.0_f64; self.slots];
        let arrivals = self.arrival_s(&mut random);
        let requests: Vec<RequestRecord> = arrivals
            .iter()
            .enumerate()
            .map(|(idx, arrival)| {
                let service = match self.stages {
                    0 => mean_s,
                    k => (0..k).map(|_| random.exponential()).sum::<f64>() * mean_s / f64::from(k),
                };
                let slot = (0..self.slots).min_by(|a, b| free_s[*a].total_cmp(&free_s[*b])).unwrap();
                let begin = free_s[slot].max(*arrival);
                free_s[slot] = begin + service;
                let ns = |s: f64| (s * 1e9) as i64;
                let mut request = RequestRecord::scheduled(idx as i64, Phase::Window, ns(*arrival));
                request.t_send = Some(ns(*arrival));
                request.t_first = Some(ns(match self.first_token {
                    FirstToken::AfterQueue => begin + 0.05 * service,
                    FirstToken::AtOnce => *arrival + 0.05 * service,
                }));
                request.t_last = Some(ns(begin + service));
                request.t_done = request.t_last;
                (request.output_tokens, request.n_first) = (Some(10), Some(1));
                request.token_source = Some(TokenSource::ServerUsage);
                request
            })
            .collect();
        let rate_per_s = self.utilisation * self.capacity_per_s;
        let load = Load::Open { rate_per_s, arrival: "poisson".into(), max_concurrency: None };
        let found = RequestEvidence { backlog: backlog_of(&requests), ..RequestEvidence::default() };
        let verdict = judge(&CellEvidence::new(result, &load, found));
        verdict.reasons.iter().any(|reason| reason.code == "saturated")
    }

    fn actual_utilisation(&self, seed: u64) -> f64 {
        let arrivals = self.arrival_s(&mut Random(seed));
        let span_s = arrivals.last().unwrap() - arrivals[0];
        (self.requests - 1) as f64 / span_s / self.capacity_per_s
    }

    fn runs(&self) -> u64 {
        (REQUESTS_PER_SCENE / self.requests) as u64
    }

    /// Of `runs` runs with different seeds.
    fn share_saturated(&self, runs: u64) -> f64 {
        let result = no_requests();
        (0..runs).filter(|seed| self.is_saturated(&result, *seed)).count() as f64 / runs as f64
    }
}

fn backlog_of(requests: &[RequestRecord]) -> Backlog {
    let mut samples = BacklogSamples::default();
    requests.iter().for_each(|request| samples.add(request));
    Backlog::of(&samples)
}

/// A result that gives the other rules nothing to do.
fn no_requests() -> BenchResult {
    summarise(&MetricsInput {
        clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
        records: Box::new(RecordSlices::new(&[], &[])),
        prom: &[],
        window_start_ns: 0,
        window_end_ns: 1,
        slo: None,
        closed_loop_slots: None,
        client: ClientUsage::default(),
    })
}

fn scenes(requests: &[usize], utilisations: &[f64], arrivals: &[Arrivals]) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for &requests in requests {
        for &utilisation in utilisations {
            for &arrivals in arrivals {
                for slots in [1, 4, 8] {
                    for stages in [0, 10, 4] {
                        scenes.push(Scene {
                            requests,
                            utilisation,
                            slots,
                            stages,
                            arrivals,
                            capacity_per_s: 8.0,
                            first_token: FirstToken::AfterQueue,
                        });
                    }
                }
            }
        }
    }
    scenes
}

#[test]
fn a_stable_server_is_not_called_saturated() {
    let check = |scenes: Vec<Scene>| {
        for scene in scenes {
            let share = scene.share_saturated(scene.runs());
            assert!(share <= 0.01, "{share} of {scene:?}");
        }
    };
    check(scenes(&[24, 40, 150], &[0.7], &[Arrivals::Constant, Arrivals::PoissonOfRate]));
    // Forty-eight arrivals of a nominal 0.7 come at more than the server can bear about once in a hundred runs. To call
    // that saturated is right; the rest must be quiet.
    for scene in scenes(&[40, 48, 150], &[0.7], &[Arrivals::Poisson]) {
        let result = no_requests();
        let hits: Vec<u64> = (0..scene.runs()).filter(|seed| scene.is_saturated(&result, *seed)).collect();
        let wrong = hits.iter().filter(|seed| scene.actual_utilisation(**seed) < 1.0).count();
        let share = |n: usize| n as f64 / scene.runs() as f64;
        assert!(share(wrong) <= 0.005 && share(hits.len()) <= 0.015, "{wrong} of {} hits: {scene:?}", hits.len());
    }
}

#[test]
fn an_overloaded_server_is() {
    let check = |scenes: Vec<Scene>| {
        for scene in scenes {
            let share = scene.share_saturated(scene.runs());
            assert!(share > 0.95, "{share} of {scene:?}");
        }
    };
    check(scenes(&[40, 48, 150], &[1.5, 2.0], &[Arrivals::Constant, Arrivals::PoissonOfRate]));
    check(scenes(&[48], &[2.0], &[Arrivals::Poisson]));
}

#[test]
fn a_server_that_slows_down_instead_of_letting_wait_is_seen_too() {
    for slots in [1, 8] {
        let mut scene = Scene {
            requests: 150,
            utilisation: 1.5,
            slots,
            stages: 10,
            arrivals: Arrivals::PoissonOfRate,
            capacity_per_s: 8.0,
            first_token: FirstToken::AtOnce,
        };
        let share = scene.share_saturated(scene.runs());
        assert!(share > 0.95, "{share} of {scene:?}");
        scene.utilisation = 0.7;
        let share = scene.share_saturated(scene.runs());
        assert!(share <= 0.01, "{share} of {scene:?}");
    }
}

#[test]
fn long_answers_in_a_short_window_are_no_backlog() {
    // Slots enough for all, answers that last as long as the window and differ a lot.
    for stages in [0, 4, 1] {
        let scene = Scene {
            requests: 48,
            utilisation: 0.3,
            slots: 200,
            stages,
            arrivals: Arrivals::PoissonOfRate,
            capacity_per_s: 30.0,
            first_token: FirstToken::AfterQueue,
        };
        let share = scene.share_saturated(scene.runs());
        if share > 0.01 {
            eprintln!("BAD {share} of {scene:?}");
        }
    }
}

#[test]
fn slow_growth_shows_in_a_long_window() {
    let mut scene = Scene {
        requests: 2_000,
        utilisation: 1.15,
        slots: 8,
        stages: 4,
        arrivals: Arrivals::PoissonOfRate,
        capacity_per_s: 8.0,
        first_token: FirstToken::AfterQueue,
    };
    assert_eq!(scene.share_saturated(40), 1.0);
    scene.utilisation = 0.9;
    assert_eq!(scene.share_saturated(40), 0.0);
}
