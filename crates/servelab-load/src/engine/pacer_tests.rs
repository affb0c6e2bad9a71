use std::ops::Deref;

use servelab_core::pacing::Think;

use super::agreement::Agreement;
use super::feed::Supply;
use super::limits::Limits;
use super::pacer::{Dispatch, Pacer, open_window_start_ns};
use crate::clock;
use crate::source::{Prepared, PreparedRequest};
use crate::spec::{LoadSpec, Pacing, Pauses, Spread, Stop};
use crate::target::{Endpoint, Target, TlsTrust};

fn requests(first: i64, n: i64) -> Vec<PreparedRequest> {
    let make = |request_idx| PreparedRequest {
        request_idx,
        body: b"{}".to_vec(),
        input_tokens: None,
        requested_output_tokens: None,
        ignore_eos: false,
    };
    (first..first + n).map(make).collect()
}

fn spec(pacing: Pacing, stop: Stop) -> LoadSpec {
    let base_url = "http://127.0.0.1:1".to_owned();
    let target = Target { base_url, endpoint: Endpoint::Chat, api_key: None, trust: TlsTrust::default() };
    LoadSpec::new(target, clock::new_epoch(), Prepared::default(), pacing, stop)
}

/// A run without sockets: `n_warmup` and `n_window` requests, all of them made already.
struct Stage {
    limits: Limits,
    supply: Supply,
    agreement: Agreement,
}

impl Stage {
    fn new(pacing: Pacing, stop: Stop, n_warmup: i64, n_window: i64, arrivals_ns: &[i64], threads: usize) -> Self {
        let (warmup, window) = (requests(0, n_warmup), requests(n_warmup, n_window));
        let mut spec = spec(pacing, stop);
        spec.warmup = n_warmup as u64;
        let limits = Limits::of(&spec);
        let source =
            if limits.is_open() { Prepared::open(warmup, window, arrivals_ns) } else { Prepared::new(warmup, window) };
        let (supply, feeder) = Supply::new(Box::new(source), spec.warmup, threads);
        feeder.run(&supply, || ());
        Self { limits, supply, agreement: Agreement::new(stop) }
    }

    fn pacer(&self, start_ns: i64, thread: u32, threads: u32) -> Pacer {
        Pacer::new(&self.limits, &self.supply, start_ns, thread, threads)
    }

    fn take_all(&self, pacer: &mut Pacer, now_ns: i64) -> Vec<(i64, i64, Option<i64>)> {
        std::iter::from_fn(|| pacer.take(now_ns, &self.agreement, &self.supply))
            .map(|Dispatch { request, t_sched, t_slot, .. }| (request.request_idx, t_sched, t_slot))
            .collect()
    }
}

impl Deref for Stage {
    type Target = Agreement;

    fn deref(&self) -> &Agreement {
        &self.agreement
    }
}

fn closed(concurrency: u32, ns: i64) -> Pacing {
    Pacing::Closed { concurrency, start: Spread::Over { ns }, think: None }
}

#[test]
fn closed_loop_staggers_and_hands_slots_over() {
    let stage = Stage::new(closed(2, 100), Stop::AllRequests, 1, 3, &[], 1);
    let mut pacer = stage.pacer(1_000, 0, 1);
    assert_eq!(pacer.next_due_ns(&stage.supply), Some(1_000));
    assert_eq!(stage.take_all(&mut pacer, 1_000), [(0, 1_000, Some(1_000))]);
    assert_eq!(stage.window_start_ns(), None, "warm-up is not the window");
    assert_eq!(stage.take_all(&mut pacer, 1_060), [(1, 1_050, Some(1_050))]);
    assert_eq!(stage.window_start_ns(), Some(1_050));
    assert_eq!(pacer.next_due_ns(&stage.supply), None);
    pacer.finished(1_200, &stage.agreement);
    assert_eq!(stage.take_all(&mut pacer, 1_230), [(2, 1_200, Some(1_200))], "the slot counts from its freeing");
    pacer.finished(1_300, &stage.agreement);
    pacer.finished(1_300, &stage.agreement);
    assert_eq!(stage.take_all(&mut pacer, 1_300), [(3, 1_300, Some(1_300))]);
    assert!(pacer.take(1_300, &stage.agreement, &stage.supply).is_none() && pacer.is_exhausted(&stage.supply));
    assert_eq!(stage.ran_out_ns(), Some(1_300));
}

#[test]
fn closed_loop_slots_of_all_threads_add_up() {
    let stage = Stage::new(closed(7, 70), Stop::AllRequests, 0, 100, &[], 1);
    let mut all = Vec::new();
    for thread in 0..3 {
        all.extend(stage.take_all(&mut stage.pacer(0, thread, 3), 1_000));
    }
    let mut slots: Vec<i64> = all.iter().map(|(_, t, _)| *t).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 10, 20, 30, 40, 50, 60]);
    let seqs: Vec<i64> = all.iter().map(|(idx, ..)| *idx).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn closed_loop_stops_at_the_end_of_its_time() {
    let stage = Stage::new(closed(1, 0), Stop::Duration { ns: 500 }, 0, 100, &[], 1);
    let mut pacer = stage.pacer(1_000, 0, 1);
    assert_eq!(stage.take_all(&mut pacer, 1_000).len(), 1);
    assert_eq!(stage.stop_ns(), Some(1_500));
    pacer.finished(1_499, &stage.agreement);
    assert_eq!(stage.take_all(&mut pacer, 1_600).len(), 1, "the slot was free inside the window");
    pacer.finished(1_500, &stage.agreement);
    assert!(pacer.take(1_600, &stage.agreement, &stage.supply).is_none() && pacer.is_exhausted(&stage.supply));
    assert_eq!(stage.ran_out_ns(), None);
}

#[test]
fn open_loop_keeps_its_schedule_and_mirrors_it_for_the_warmup() {
    let open = Pacing::Open { max_concurrency: None };
    let stage = Stage::new(open, Stop::AllRequests, 2, 3, &[10, 30, 60], 1);
    // Warm-up at −30 and −10, so time zero is 30 after the start.
    assert_eq!(open_window_start_ns(&stage.supply, 1_000), 1_030);
    let mut pacer = stage.pacer(1_000, 0, 1);
    let all = stage.take_all(&mut pacer, 2_000);
    assert_eq!(all, [(0, 1_000, None), (1, 1_020, None), (2, 1_040, None), (3, 1_060, None), (4, 1_090, None)]);
    assert!(pacer.is_exhausted(&stage.supply));
}

#[test]
fn open_loop_threads_share_the_schedule() {
    let open = Pacing::Open { max_concurrency: None };
    let stage = Stage::new(open, Stop::AllRequests, 1, 5, &[10, 20, 30, 40, 50], 2);
    let mut all = Vec::new();
    for thread in 0..2 {
        all.push(
            stage
                .take_all(&mut stage.pacer(0, thread, 2), i64::MAX)
                .iter()
                .map(|(idx, t, _)| (*idx, *t))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(all, [vec![(0, 0), (2, 30), (4, 50)], vec![(1, 20), (3, 40), (5, 60)]]);
}

#[test]
fn open_loop_cap_makes_arrivals_wait_in_order() {
    let pacing = Pacing::Open { max_concurrency: Some(1) };
    let stage = Stage::new(pacing, Stop::Duration { ns: 1_000 }, 0, 4, &[0, 10, 20, 30], 1);
    let mut pacer = stage.pacer(0, 0, 1);
    assert_eq!(stage.take_all(&mut pacer, 25), [(0, 0, Some(0))]);
    pacer.finished(27, &stage.agreement);
    assert_eq!(pacer.next_due_ns(&stage.supply), Some(i64::MIN));
    assert_eq!(stage.take_all(&mut pacer, 28), [(1, 10, Some(27))]);
    let left = pacer.stop(1_000, &stage.supply);
    let left: Vec<_> = left.iter().map(|dispatch| (dispatch.request.request_idx, dispatch.t_slot)).collect();
    assert_eq!(left, [(2, None), (3, None)], "scheduled, never sent");
    assert!(pacer.is_exhausted(&stage.supply));
    assert!(pacer.stop(1_000, &stage.supply).is_empty());
}

#[test]
fn open_loop_leaves_out_arrivals_after_its_end() {
    let open = Pacing::Open { max_concurrency: None };
    let stage = Stage::new(open, Stop::Duration { ns: 20 }, 0, 4, &[0, 10, 20, 30], 1);
    assert_eq!(stage.take_all(&mut stage.pacer(0, 0, 1), 1_000).len(), 2);
}

#[test]
fn batches_wait_for_each_other_and_never_mix_phases() {
    let stage = Stage::new(Pacing::Batches { size: 2 }, Stop::AllRequests, 3, 3, &[], 1);
    let mut pacer = stage.pacer(100, 0, 1);
    let mut batches = Vec::new();
    let mut now = 100;
    while !pacer.is_exhausted(&stage.supply) {
        let batch: Vec<i64> = stage.take_all(&mut pacer, now).iter().map(|(idx, ..)| *idx).collect();
        if batch.is_empty() {
            break;
        }
        for n in 0..batch.len() {
            assert!(pacer.take(now, &stage.agreement, &stage.supply).is_none(), "{n} of {batch:?} finished");
            now += 10;
            pacer.finished(now, &stage.agreement);
        }
        batches.push(batch);
    }
    assert_eq!(batches, [vec![0, 1], vec![2], vec![3, 4], vec![5]]);
    assert_eq!(stage.window_start_ns(), Some(130));
    assert!(pacer.is_exhausted(&stage.supply));
}

#[test]
fn contradictions_are_named() {
    let open = |max_concurrency| Pacing::Open { max_concurrency };
    let think = |seconds| Pacing::Closed {
        concurrency: 1,
        start: Spread::Burst,
        think: Some(Pauses { think: Think::Constant(seconds), seed: 1 }),
    };
    let all = Stop::AllRequests;
    for (spec, part) in [
        (spec(closed(0, 0), all), "concurrency"),
        (spec(closed(1, -1), all), "negative"),
        (spec(think(-1.0), all), "think time"),
        (spec(Pacing::Batches { size: 0 }, all), "batch size"),
        (spec(open(Some(0)), all), "max concurrency"),
        (spec(closed(1, 0), Stop::Duration { ns: 0 }), "empty"),
        (spec(closed(1, 0), Stop::Steady { min_ns: 5, max_ns: 4 }), "empty"),
        (spec(closed(1, 0), Stop::WhenEnough { min_ns: 0, max_ns: 4 }), "empty"),
    ] {
        let message = spec.validate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    spec(closed(1, 0), all).validate().unwrap();
}
