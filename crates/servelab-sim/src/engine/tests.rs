use proptest::prelude::*;

use super::*;
use crate::cluster::Cluster;
use crate::step_time::StepTime;

/// 1 ms per step and 10 µs per token, so that times are easy to predict.
struct Linear;

impl StepTime for Linear {
    fn step_nanos(&self, shape: &StepShape) -> u64 {
        1_000_000 + 10_000 * u64::from(shape.n_tokens)
    }
}

fn config() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        chunked_prefill: true,
        long_prefill_token_threshold: 0,
        prefix_caching: true,
        reserve_full_prompt: true,
        block_size: 4,
        num_blocks: 101,
        ..EngineConfig::default()
    }
}

fn spec(id: u64, n_prompt: u32, n_output: u32, arrival_ns: u64) -> RequestSpec {
    // Ids that no two requests share: no accidental prefix hits.
    let prompt: Arc<[u32]> = (0..n_prompt).map(|at| id as u32 * 10_000 + at).collect();
    let output = OutputText::new(0, &prompt);
    RequestSpec {
        id,
        prompt,
        output,
        output_tokens: n_output,
        max_tokens: n_output,
        finish: FinishReason::Length,
        arrival_ns,
        priority: 0,
        remote_prompt: false,
    }
}

type Tokens = Vec<(u64, Progress)>;

fn run(config: &EngineConfig, arrivals: Vec<RequestSpec>) -> (Cluster, Tokens, u64) {
    let mut cluster = Cluster::with_step_time(config, 1, false, Box::new(Linear));
    let mut tokens = Vec::new();
    let (end_ns, refused) = cluster.run(arrivals, &mut |at, progress| tokens.push((at, progress)));
    assert_eq!(refused, Vec::<u64>::new());
    (cluster, tokens, end_ns)
}

#[test]
fn one_request_takes_one_step_per_token() {
    let (cluster, tokens, end_ns) = run(&config(), vec![spec(1, 10, 3, 500)]);
    let prefill = 500 + 1_000_000 + 10 * 10_000;
    assert_eq!(
        tokens.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
        [prefill, prefill + 1_010_000, prefill + 2_020_000]
    );
    assert_eq!(tokens.last().unwrap().1, Progress { id: 1, n_output: 3, finish: Some(FinishReason::Length) });
    assert_eq!(end_ns, prefill + 2_020_000);
    let metrics = cluster.engines()[0].metrics();
    assert_eq!((metrics.prompt_tokens, metrics.generation_tokens, metrics.finished), (10, 3, [0, 1, 0]));
    assert_eq!((metrics.itl.count(), metrics.ttft.count()), (2, 1));
    assert!((metrics.iteration_tokens.sum() - 13.0).abs() < 1e-9);
}

#[test]
fn long_prompts_are_computed_in_parts_beside_decodes() {
    let (_, tokens, _) = run(&config(), vec![spec(1, 4, 10, 0), spec(2, 130, 1, 0)]);
    // 60 + 63 + 7 prompt tokens fit beside the first request: the third step ends the prompt.
    let second = tokens.iter().position(|(_, progress)| progress.id == 2).unwrap();
    assert_eq!(tokens[..second].len(), 3, "{tokens:?}");
}

#[test]
fn without_chunking_a_prompt_waits_for_a_whole_budget() {
    let whole = EngineConfig { chunked_prefill: false, ..config() };
    let (_, tokens, _) = run(&whole, vec![spec(1, 40, 2, 0), spec(2, 40, 2, 0)]);
    let order: Vec<u64> = tokens.iter().map(|(_, progress)| progress.id).collect();
    assert_eq!(order, [1, 1, 2, 2]);
}

#[test]
fn max_num_seqs_bounds_the_batch() {
    let few = EngineConfig { max_num_seqs: 2, ..config() };
    let mut engine = Engine::new(few);
    for id in 0..5 {
        assert!(engine.add(spec(id, 4, 4, 0)));
    }
    while let Some(shape) = engine.schedule(0) {
        assert!(shape.n_requests <= 2 && engine.n_running() <= 2);
        engine.complete(0, &mut |_| {});
    }
    assert!(!engine.has_work());
}

#[test]
fn full_cache_preempts_the_youngest_and_still_finishes_all() {
    // 11 usable blocks of 4: two requests of 8 + 24 tokens need 16.
    let small = EngineConfig { num_blocks: 12, prefix_caching: false, ..config() };
    let (cluster, tokens, _) = run(&small, vec![spec(1, 8, 24, 0), spec(2, 8, 24, 0)]);
    let metrics = cluster.engines()[0].metrics();
    assert!(metrics.preemptions >= 1);
    assert_eq!(metrics.generation_tokens, 48);
    let ends: Vec<u64> = tokens.iter().filter(|(_, p)| p.finish.is_some()).map(|(_, p)| p.id).collect();
    assert_eq!(ends, [1, 2]);
    assert_eq!(cluster.engines()[0].kv_usage(), 0.0);
}

#[test]
fn shared_prefixes_are_computed_once() {
    let again = |id: u64, arrival_ns: u64| RequestSpec { id, arrival_ns, ..spec(7, 40, 4, 0) };
    let (cluster, tokens, _) = run(&config(), vec![again(1, 0), again(2, 1_000_000_000)]);
    let metrics = cluster.engines()[0].metrics();
    // The hit stops one token short of the prompt: 9 of 10 blocks.
    assert_eq!((metrics.prefix_queries, metrics.prefix_hits), (80, 36));
    let first = |id: u64| tokens.iter().find(|(_, p)| p.id == id).unwrap().0;
    assert_eq!(first(1), 1_400_000);
    assert_eq!(first(2) - 1_000_000_000, 1_040_000);
}

#[test]
fn generated_blocks_serve_the_next_turn() {
    let first = spec(3, 8, 9, 0);
    let mut turn: Vec<u32> = first.prompt.to_vec();
    turn.extend((0..9).map(|at| first.output.token_id(at)));
    turn.extend([1, 2, 3]);
    let next = RequestSpec { prompt: turn.into(), arrival_ns: 1_000_000_000, ..spec(4, 1, 1, 0) };
    let (cluster, ..) = run(&config(), vec![first, next]);
    assert_eq!(cluster.engines()[0].metrics().prefix_hits, 16);
}

#[test]
fn caching_off_counts_no_queries() {
    let off = EngineConfig { prefix_caching: false, ..config() };
    let again = |id: u64| RequestSpec { id, ..spec(7, 40, 4, 0) };
    let (cluster, ..) = run(&off, vec![again(1), again(2)]);
    let metrics = cluster.engines()[0].metrics();
    assert_eq!((metrics.prefix_queries, metrics.prefix_hits), (0, 0));
}

#[test]
fn aborting_in_flight_frees_everything() {
    let mut engine = Engine::new(config());
    engine.add(spec(1, 10, 5, 0));
    engine.add(spec(2, 10, 5, 0));
    engine.schedule(0);
    assert!(engine.abort(1) && !engine.abort(1));
    let mut seen = Vec::new();
    engine.complete(1, &mut |progress| seen.push(progress.id));
    assert_eq!(seen, [2]);
    engine.abort(2);
    assert_eq!((engine.kv_usage(), engine.has_work(), engine.metrics().finished), (0.0, false, [0, 0, 2]));
    assert!(engine.schedule(2).is_none());
}

#[test]
fn what_can_never_run_is_refused() {
    let mut engine = Engine::new(config());
    assert!(!engine.add(spec(1, 399, 2, 0)), "401 tokens in 400");
    assert!(engine.add(spec(2, 398, 2, 0)));
    assert!(!engine.add(spec(3, 0, 2, 0)) && !engine.add(spec(4, 2, 0, 0)) && !engine.add(spec(2, 2, 2, 0)));
}

#[test]
fn throughput_is_bounded_by_the_budget() {
    let arrivals: Vec<_> = (0..200).map(|id| spec(id, 20, 10, 0)).collect();
    let (cluster, _, end_ns) = run(&config(), arrivals);
    // No step carries more than 64 tokens or 8 sequences, and none is shorter than 1 ms.
    let metrics = cluster.engines()[0].metrics();
    let n_steps = metrics.iteration_tokens.count();
    assert!(n_steps >= 200 * 10 / 8, "{n_steps}");
    assert!(end_ns >= n_steps * 1_000_000);
}

#[test]
fn lock_step_ranks_share_their_steps() {
    let run = |lock_step: bool| {
        let mut cluster = Cluster::with_step_time(&config(), 2, lock_step, Box::new(Linear));
        let mut first = Vec::new();
        cluster.run(vec![spec(1, 60, 1, 0), spec(2, 4, 1, 0)], &mut |at, p| first.push((p.id, at)));
        first.sort_unstable();
        first
    };
    assert_eq!(run(false), [(1, 1_600_000), (2, 1_040_000)]);
    assert_eq!(run(true), [(1, 1_600_000), (2, 1_600_000)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the limits and the load: every request gets exactly its tokens in order, all blocks come back, and a
    /// second run gives the same instants.
    #[test]
    fn every_request_finishes_exactly(
        seqs in 1u32..12, extra_tokens in 0u32..200, chunked: bool, caching: bool, reserve: bool, threshold in 0u32..32,
        block_size in 1u32..20, spare_blocks in 0u64..60,
        load in prop::collection::vec((1u32..120, 1u32..60, 0u64..50_000_000, 0u64..4), 1..40),
    ) {
        let longest = load.iter().map(|(p, o, ..)| p + o).max().unwrap_or(1);
        let limits = EngineConfig {
            max_num_seqs: seqs,
            max_num_batched_tokens: if chunked { seqs + extra_tokens } else { longest + extra_tokens },
            chunked_prefill: chunked,
            long_prefill_token_threshold: threshold,
            prefix_caching: caching,
            reserve_full_prompt: reserve,
            block_size,
            num_blocks: u64::from(longest.div_ceil(block_size)) + 1 + spare_blocks,
            ..EngineConfig::default()
        };
        let mut arrivals: Vec<RequestSpec> = load.iter().enumerate().map(|(index, (p, o, at, family))| {
            let prompt: Arc<[u32]> = (0..*p).map(|token| *family as u32 * 1000 + token).collect();
            RequestSpec { id: index as u64, prompt, ..spec(0, 1, *o, *at) }
        }).collect();
        arrivals.sort_by_key(|spec| spec.arrival_ns);
        let (cluster, tokens, _) = run(&limits, arrivals.clone());
        for spec in &arrivals {
            let mine: Vec<u32> = tokens.iter().filter(|(_, p)| p.id == spec.id).map(|(_, p)| p.n_output).collect();
            prop_assert_eq!(mine, (1..=spec.output_tokens).collect::<Vec<_>>());
        }
        prop_assert!(tokens.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let engine = &cluster.engines()[0];
        prop_assert_eq!((engine.kv_usage(), engine.has_work(), cluster.n_requests()), (0.0, false, 0));
        prop_assert_eq!(engine.metrics().finished[1], arrivals.len() as u64);
        let (_, again, _) = run(&limits, arrivals);
        prop_assert_eq!(tokens, again);
    }
}
