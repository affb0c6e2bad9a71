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
        busy_s: f64::from(index),
        threads: 1,
        interrupted: index == 2,
        load: Load::Open { rate_per_s: 1.0, arrival: "poisson".to_owned(), max_concurrency: None },
        ignore_eos: false,
        model: "m".to_owned(),
        slo: None,
    }
}

#[test]
fn records_are_laid_on_the_clock_of_shard_0() {
    // Shard 2's clock began 5 s earlier in its own count and is 7 s behind shard 0's.
    let shards = vec![manifest(2, 3, 45_000_000_000, 7_000_000_000), manifest(0, 3, 50_000_000_000, 0)];
    let layout = lay_out(shards).unwrap();
    let shifts: Vec<(u32, i64)> = layout.members.iter().map(|(m, shift)| (m.shard.index, *shift)).collect();
    assert_eq!(shifts, [(0, 0), (2, 2_000_000_000)]);
    assert_eq!((layout.window_start_ns, layout.window_end_ns), (100, 2_000_010_000));
    assert_eq!((layout.cpu_s, layout.busy_s, layout.threads), (1.0, 2.0, 2));
    let summary = &layout.summary;
    assert_eq!((summary.count, summary.missing.as_slice()), (3, [1].as_slice()));
    assert_eq!(summary.interrupted, [2]);
    assert!((summary.start_skew_ms - 2_000.0).abs() < 1e-9);
    assert!((summary.members[1].clock_offset_ms + 7_000.0).abs() < 1e-9);

    let shard = Shard { index: 2, count: 3 };
    let mut request = RequestRecord::scheduled(5, Phase::Window, 1_000);
    request.t_last = Some(2_000);
    let placed = place_request(&request, shard, 500).unwrap();
    assert_eq!((placed.t_sched, placed.t_last, placed.t_send), (1_500, Some(2_500), None));
    let event = EventRecord { request_idx: 5, t_ns: 2_000, n_tokens: 3 };
    assert_eq!(place_event(&event, 500), EventRecord { t_ns: 2_500, ..event });
    request.request_idx = 4;
    let error = place_request(&request, shard, 0).unwrap_err().to_string();
    assert!(error.contains("request 4 is in shard 2, whose it is not"), "{error}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let check = |shards: Vec<ShardManifest>, words: &str| {
        let error = lay_out(shards).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(Vec::new(), "no shard");
    check(vec![manifest(0, 2, 0, 0), manifest(0, 2, 0, 0)], "shard 0 is there twice");
    check(vec![manifest(0, 2, 0, 0), manifest(1, 3, 0, 0)], "belongs to load r of 3 shards");
    let mut other = manifest(1, 2, 0, 0);
    other.run_id = "s".to_owned();
    check(vec![manifest(0, 2, 0, 0), other], "belongs to load s");
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
