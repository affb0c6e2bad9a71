use super::pacer::{Agreement, Dispatch, Pacer, open_window_start_ns};
use crate::clock;
use crate::spec::{LoadSpec, Pacing, PreparedRequest, Stop};
use crate::target::{Endpoint, Target};

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

fn spec(pacing: Pacing, stop: Stop, n_warmup: i64, n_window: i64) -> LoadSpec {
    let target = Target { base_url: "http://127.0.0.1:1".to_owned(), endpoint: Endpoint::Chat, api_key: None };
    let mut spec = LoadSpec::new(target, clock::new_epoch(), requests(n_warmup, n_window), pacing, stop);
    spec.warmup = requests(0, n_warmup);
    spec
}

fn take_all(pacer: &mut Pacer, now_ns: i64, agreement: &Agreement) -> Vec<(usize, i64, Option<i64>)> {
    std::iter::from_fn(|| pacer.take(now_ns, agreement))
        .map(|Dispatch { seq, t_sched, t_slot }| (seq, t_sched, t_slot))
        .collect()
}

#[test]
fn closed_loop_staggers_and_hands_slots_over() {
    let spec = spec(Pacing::Closed { concurrency: 2, stagger_ns: 100 }, Stop::AllRequests, 1, 3);
    let agreement = Agreement::new(&spec);
    let mut pacer = Pacer::new(&spec, 1_000, 0, 1);
    assert_eq!(pacer.next_due_ns(), Some(1_000));
    assert_eq!(take_all(&mut pacer, 1_000, &agreement), [(0, 1_000, Some(1_000))]);
    assert_eq!(agreement.window_start_ns(), None, "warm-up is not the window");
    assert_eq!(take_all(&mut pacer, 1_060, &agreement), [(1, 1_050, Some(1_050))]);
    assert_eq!(agreement.window_start_ns(), Some(1_050));
    assert_eq!(pacer.next_due_ns(), None);
    pacer.finished(1_200);
    assert_eq!(take_all(&mut pacer, 1_230, &agreement), [(2, 1_200, Some(1_200))], "the slot counts from its freeing");
    pacer.finished(1_300);
    pacer.finished(1_300);
    assert_eq!(take_all(&mut pacer, 1_300, &agreement), [(3, 1_300, Some(1_300))]);
    assert!(pacer.take(1_300, &agreement).is_none() && pacer.is_exhausted());
    assert_eq!(agreement.ran_out_ns(), Some(1_300));
}

#[test]
fn closed_loop_slots_of_all_threads_add_up() {
    let spec = spec(Pacing::Closed { concurrency: 7, stagger_ns: 70 }, Stop::AllRequests, 0, 100);
    let agreement = Agreement::new(&spec);
    let mut all = Vec::new();
    for thread in 0..3 {
        all.extend(take_all(&mut Pacer::new(&spec, 0, thread, 3), 1_000, &agreement));
    }
    let mut slots: Vec<i64> = all.iter().map(|(_, t, _)| *t).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 10, 20, 30, 40, 50, 60]);
    let seqs: Vec<usize> = all.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn closed_loop_stops_at_the_end_of_its_time() {
    let spec = spec(Pacing::Closed { concurrency: 1, stagger_ns: 0 }, Stop::Duration { ns: 500 }, 0, 100);
    let agreement = Agreement::new(&spec);
    let mut pacer = Pacer::new(&spec, 1_000, 0, 1);
    assert_eq!(take_all(&mut pacer, 1_000, &agreement).len(), 1);
    assert_eq!(agreement.stop_ns(), Some(1_500));
    pacer.finished(1_499);
    assert_eq!(take_all(&mut pacer, 1_600, &agreement).len(), 1, "the slot was free inside the window");
    pacer.finished(1_500);
    assert!(pacer.take(1_600, &agreement).is_none() && pacer.is_exhausted());
    assert_eq!(agreement.ran_out_ns(), None);
}

#[test]
fn open_loop_keeps_its_schedule_and_mirrors_it_for_the_warmup() {
    let arrivals_ns = vec![10, 30, 60];
    let spec = spec(Pacing::Open { arrivals_ns, max_concurrency: None }, Stop::AllRequests, 2, 3);
    let agreement = Agreement::new(&spec);
    // Warm-up at −30 and −10, so time zero is 30 after the start.
    assert_eq!(open_window_start_ns(&spec, 1_000), Some(1_030));
    let mut pacer = Pacer::new(&spec, 1_000, 0, 1);
    let all = take_all(&mut pacer, 2_000, &agreement);
    assert_eq!(all, [(0, 1_000, None), (1, 1_020, None), (2, 1_040, None), (3, 1_060, None), (4, 1_090, None)]);
    assert!(pacer.is_exhausted());
}

#[test]
fn open_loop_warmup_longer_than_the_window_repeats_it() {
    let arrivals_ns = vec![0, 100];
    let spec = spec(Pacing::Open { arrivals_ns, max_concurrency: None }, Stop::AllRequests, 5, 2);
    let agreement = Agreement::new(&spec);
    let zero = open_window_start_ns(&spec, 0).unwrap();
    let all = take_all(&mut Pacer::new(&spec, 0, 0, 1), i64::MAX, &agreement);
    let times: Vec<i64> = all.iter().map(|(_, t, _)| t - zero).collect();
    assert_eq!(times, [-350, -300, -200, -150, -50, 0, 100]);
}

#[test]
fn open_loop_cap_makes_arrivals_wait_in_order() {
    let arrivals_ns = vec![0, 10, 20, 30];
    let pacing = Pacing::Open { arrivals_ns, max_concurrency: Some(1) };
    let spec = spec(pacing, Stop::Duration { ns: 1_000 }, 0, 4);
    let agreement = Agreement::new(&spec);
    let mut pacer = Pacer::new(&spec, 0, 0, 1);
    assert_eq!(take_all(&mut pacer, 25, &agreement), [(0, 0, Some(0))]);
    pacer.finished(27);
    assert_eq!(pacer.next_due_ns(), Some(i64::MIN));
    assert_eq!(take_all(&mut pacer, 28, &agreement), [(1, 10, Some(27))]);
    let left = pacer.stop(1_000);
    let left: Vec<_> = left.iter().map(|dispatch| (dispatch.seq, dispatch.t_slot)).collect();
    assert_eq!(left, [(2, None), (3, None)], "scheduled, never sent");
    assert!(pacer.is_exhausted());
    assert!(pacer.stop(1_000).is_empty());
}

#[test]
fn open_loop_leaves_out_arrivals_after_its_end() {
    let arrivals_ns = vec![0, 10, 20, 30];
    let spec = spec(Pacing::Open { arrivals_ns, max_concurrency: None }, Stop::Duration { ns: 20 }, 0, 4);
    let agreement = Agreement::new(&spec);
    assert_eq!(take_all(&mut Pacer::new(&spec, 0, 0, 1), 1_000, &agreement).len(), 2);
}

#[test]
fn batches_wait_for_each_other_and_never_mix_phases() {
    let spec = spec(Pacing::Batches { size: 2 }, Stop::AllRequests, 3, 3);
    let agreement = Agreement::new(&spec);
    let mut pacer = Pacer::new(&spec, 100, 0, 1);
    let mut batches = Vec::new();
    let mut now = 100;
    while !pacer.is_exhausted() {
        let batch: Vec<usize> = take_all(&mut pacer, now, &agreement).iter().map(|(seq, ..)| *seq).collect();
        if batch.is_empty() {
            break;
        }
        for n in 0..batch.len() {
            assert!(pacer.take(now, &agreement).is_none(), "{n} of {batch:?} finished");
            now += 10;
            pacer.finished(now);
        }
        batches.push(batch);
    }
    assert_eq!(batches, [vec![0, 1], vec![2], vec![3, 4], vec![5]]);
    assert_eq!(agreement.window_start_ns(), Some(130));
    assert!(pacer.is_exhausted());
}

#[test]
fn contradictions_are_named() {
    let closed = |concurrency, stagger_ns| Pacing::Closed { concurrency, stagger_ns };
    let open = |arrivals_ns| Pacing::Open { arrivals_ns, max_concurrency: None };
    let all = Stop::AllRequests;
    let mut twice = spec(closed(1, 0), all, 0, 2);
    twice.warmup = requests(1, 1);
    for (spec, part) in [
        (spec(closed(1, 0), all, 1, 0), "no request to measure"),
        (spec(closed(0, 0), all, 0, 1), "concurrency"),
        (spec(closed(1, -1), all, 0, 1), "stagger"),
        (spec(Pacing::Batches { size: 0 }, all, 0, 1), "batch size"),
        (spec(open(vec![1]), all, 0, 2), "1 arrivals for 2"),
        (spec(open(vec![5, 1]), all, 0, 2), "ascending"),
        (spec(open(vec![-5, 1]), all, 0, 2), "negative"),
        (spec(closed(1, 0), Stop::Duration { ns: 0 }, 0, 1), "empty"),
        (spec(closed(1, 0), Stop::Steady { min_ns: 5, max_ns: 4 }, 0, 1), "empty"),
        (twice, "index 1 occurs twice"),
    ] {
        let message = spec.validate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    spec(closed(1, 0), all, 1, 1).validate().unwrap();
}
