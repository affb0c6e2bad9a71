use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::Load;
use crate::record::{EventRecord, Phase, RequestRecord};

fn env(pairs: &[(&str, &str)]) -> Result<Shard, ShardError> {
    let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    detect(|name| map.get(name).cloned())
}

#[test]
fn launchers_are_recognised() {
    let check = |pairs: &[(&str, &str)], expected: (u32, u32)| {
        let got = env(pairs).unwrap();
        assert_eq!((got.index, got.count), expected, "{pairs:?}");
    };
    check(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8")], (3, 8));
    // A step of 4 tasks inside an allocation for 8.
    check(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "4")], (3, 4));
    check(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], (1, 2));
    check(&[("PMIX_RANK", "1"), ("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1")], (1, 2));
    // mpiexec inside a SLURM batch step: every process has SLURM_PROCID=0.
    let inside =
        [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "6")];
    check(&inside, (5, 6));
    let wrong = |pairs: &[(&str, &str)], words: &str| {
        let error = env(pairs).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    wrong(&[], "start it with srun");
    wrong(&[("PMI_RANK", "1")], "without the number of processes");
    wrong(&[("PMI_RANK", "x"), ("PMI_SIZE", "2")], "PMI_RANK=x, which is no number");
    wrong(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")], "no rank below the size");
}

#[test]
fn shards_are_written_as_index_of_count() {
    assert_eq!("2/8".parse(), Ok(Shard { index: 2, count: 8 }));
    for wrong in ["", "8", "8/8", "-1/2", "1/0", "1/2/3", "a/b", "0/5000"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
}

#[test]
fn a_token_is_shown_not_sent() {
    let shard = Shard { index: 1, count: 2 };
    let shown = proof("secret", "nonce", shard);
    assert_eq!(shown.len(), 64);
    assert!(same_proof(&shown, &proof("secret", "nonce", shard)));
    for other in
        [proof("secret2", "nonce", shard), proof("secret", "other", shard), proof("secret", "nonce", Shard::ONLY)]
    {
        assert!(!same_proof(&shown, &other));
    }
}

fn manifest(index: u32, count: u32, epoch_ns: i64, offset_ns: i64) -> ShardManifest {
    ShardManifest {
        schema: SHARD_SCHEMA_VERSION,
        run_id: "r".to_owned(),
        shard: Shard { index, count },
        host: format!("node{index}"),
        clock: ClockEpoch { epoch_monotonic_ns: epoch_ns, epoch_unix_ns: 0 },
        offset: ClockOffset { offset_ns, uncertainty_ns: Some(2_000), method: OffsetMethod::PingPong },
        start_monotonic_ns: epoch_ns,
        window_start_ns: 100,
        window_end_ns: 10_000,
        closed_loop_slots: None,
        cpu_s: 0.5,
        threads: 1,
        interrupted: index == 2,
        has_events: true,
        load: Load::closed(1),
        ignore_eos: false,
        slo: None,
    }
}

fn records(manifest: ShardManifest, indices: &[i64]) -> ShardRecords {
    let request = |idx: &i64| {
        let mut request = RequestRecord::scheduled(*idx, Phase::Window, 1_000 + idx);
        request.t_last = Some(2_000 + idx);
        request
    };
    let event = |idx: &i64| EventRecord { request_idx: *idx, t_ns: 2_000 + idx, n_tokens: 1 };
    ShardRecords {
        requests: indices.iter().map(request).collect(),
        events: indices.iter().map(event).collect(),
        manifest,
    }
}

#[test]
fn records_are_laid_on_the_clock_of_shard_0() {
    // Shard 2's clock began 5 s earlier in its own count and is 7 s behind shard 0's.
    let merged = merge(vec![
        records(manifest(2, 3, 45_000_000_000, 7_000_000_000), &[2, 5]),
        records(manifest(0, 3, 50_000_000_000, 0), &[0, 3]),
    ])
    .unwrap();
    let indices: Vec<i64> = merged.requests.iter().map(|request| request.request_idx).collect();
    assert_eq!(indices, [0, 2, 3, 5]);
    assert_eq!((merged.requests[0].t_sched, merged.requests[1].t_sched), (1_000, 2_000_001_002));
    assert_eq!(merged.requests[1].t_last, Some(2_000_002_002));
    assert_eq!(merged.events[1].t_ns, 2_000_002_002);
    assert_eq!((merged.window_start_ns, merged.window_end_ns), (100, 2_000_010_000));
    let summary = &merged.summary;
    assert_eq!(
        (summary.count, summary.missing.as_slice(), summary.interrupted.as_slice()),
        (3, [1].as_slice(), [2].as_slice())
    );
    assert!((summary.start_skew_ms - 2_000.0).abs() < 1e-9);
    assert_eq!((merged.cpu_s, merged.threads), (1.0, 2));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let check = |shards: Vec<ShardRecords>, words: &str| {
        let error = merge(shards).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(Vec::new(), "no shard");
    check(vec![records(manifest(0, 2, 0, 0), &[0]), records(manifest(0, 2, 0, 0), &[2])], "shard 0 is there twice");
    check(vec![records(manifest(0, 2, 0, 0), &[1])], "request 1 is in shard 0, whose it is not");
    check(vec![records(manifest(0, 2, 0, 0), &[0, 0])], "request 0 is in shard 0 and in shard 0");
    let mut other = manifest(1, 2, 0, 0);
    other.run_id = "s".to_owned();
    check(vec![records(manifest(0, 2, 0, 0), &[0]), records(other, &[1])], "belongs to load s");
}

proptest! {
    #[test]
    fn parts_make_the_whole(total in 0..5_000_u64, slots in 0..5_000_u32, count in 1..40_u32) {
        let shards: Vec<Shard> = (0..count).map(|index| Shard { index, count }).collect();
        let mut seen: Vec<u64> = shards
            .iter()
            .flat_map(|shard| (0..shard.part_of(total)).map(|own| shard.global_index(own)))
            .collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..total).collect::<Vec<_>>());
        prop_assert_eq!(shards.iter().map(|shard| shard.slots_of(slots)).sum::<u32>(), slots);
        for shard in &shards {
            prop_assert_eq!((0..total).filter(|idx| shard.owns(*idx)).count() as u64, shard.part_of(total));
        }
    }

    #[test]
    fn any_text_is_a_shard_or_refused(text in "[0-9/ a-]{0,12}") {
        let _ = text.parse::<Shard>();
    }
}
