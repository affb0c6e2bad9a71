//! Coordinated omission: a server that stands still for two seconds. Arrivals go on; each of them must carry what its user
//! waited, whether it was sent into the stall or kept back by the cap on requests in flight.

use crate::reference::{ReferenceConfig, ReferenceServer, Script, Stall};

use super::*;

const GAP: i64 = 10 * MS;
const STALL_BEGINS: i64 = 500 * MS;
const STALL: i64 = 2 * SECOND;
const N: i64 = 350;

/// Constant arrivals, 100 per second for 3.5 s, and the stall as it happened in the clock of the records.
fn stalled(max_concurrency: Option<u32>) -> (Ran, i64, i64) {
    let script = Script {
        first_ns: 2 * MS,
        gap_ns: MS,
        stalls: vec![Stall { after_ns: STALL_BEGINS, length_ns: STALL }],
        ..Script::default()
    };
    let server = ReferenceServer::start(ReferenceConfig { script, ..ReferenceConfig::default() }).unwrap();
    let epoch = clock::new_epoch();
    let pacing = Pacing::Open { max_concurrency };
    let url = format!("http://{}", server.address());
    let mut load = LoadSpec::new(target(url), epoch, Prepared::default(), pacing, Stop::AllRequests);
    load.canary = false;
    let mut window = requests(0, N, 0);
    for request in &mut window {
        request.body = br#"{"model":"reference","prompt":"p","max_tokens":3,"stream":true}"#.to_vec();
    }
    let arrivals_ns = (0..N).map(|i| i * GAP).collect();
    let ran = run(Trial { load, warmup: Vec::new(), window, arrivals_ns });
    let log = server.stop().unwrap();
    assert_eq!(codes_of(&ran), counts(&[("ok", N as usize)]));
    let (begin, end) = log.stalls[0];
    (ran, begin - epoch.epoch_monotonic_ns, end - epoch.epoch_monotonic_ns)
}

fn check(max_concurrency: Option<u32>) -> Ran {
    let (ran, begin, end) = stalled(max_concurrency);
    let inside: Vec<&RequestRecord> =
        ran.requests.iter().filter(|record| record.t_sched > begin && record.t_sched < end).collect();
    let expected = (end - begin) / GAP;
    assert!((inside.len() as i64 - expected).abs() <= 1, "arrivals go on: {} of {expected}", inside.len());
    for record in &inside {
        let felt = record.t_first.unwrap() - record.t_sched;
        assert!(
            felt >= end - record.t_sched,
            "request {} was due {} ns before the end",
            record.request_idx,
            end - record.t_sched
        );
    }
    // Two seconds without an answer, felt by uniformly spread arrivals: one second each on average, or more.
    let mean = inside.iter().map(|record| record.t_first.unwrap() - record.t_sched).sum::<i64>() / inside.len() as i64;
    assert!(mean >= (end - begin) / 2 - GAP, "{mean}");
    ran
}

#[test]
fn a_stall_of_two_seconds_is_felt_by_everyone_who_came_meanwhile() {
    check(None);
}

#[test]
fn a_cap_moves_the_wait_from_ttft_into_the_slot_wait_and_not_out_of_sight() {
    let ran = check(Some(10));
    let held_back = ran.requests.iter().filter(|record| record.t_slot.unwrap() - record.t_sched > 100 * MS);
    let since_send = |record: &RequestRecord| record.t_first.unwrap() - record.t_send.unwrap();
    let (n, short) =
        held_back.fold((0, 0), |(n, short), record| (n + 1, short + i32::from(since_send(record) < STALL / 4)));
    assert!(n > 150 && short * 10 > n * 9, "{n} waited for a slot; {short} of them would look fast by TTFT alone");
}
