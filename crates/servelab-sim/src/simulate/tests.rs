use proptest::prelude::*;

use super::*;
use crate::engine::{Content, EngineConfig, Policy, Speculation};
use crate::step_time::{StepShape, StepTime};

/// A step takes 1 ms, 10 µs per token and 1 ns per context token.
struct Linear;

impl StepTime for Linear {
    fn step_nanos(&self, shape: &StepShape) -> u64 {
        1_000_000 + 10_000 * u64::from(shape.n_tokens) + shape.decode_context_tokens
    }
}

fn engine() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        block_size: 4,
        num_blocks: 101,
        ..EngineConfig::default()
    }
}

fn server(engine: EngineConfig) -> Server<'static> {
    Server { engine, ranks: 1, lock_step: false, step_time: &Linear }
}

fn run(deployment: &Deployment<'_>, arrivals: impl Arrivals, window: Window) -> (RunSummary, Vec<Served>) {
    let mut all = Vec::new();
    let summary = simulate(deployment, arrivals, window, &mut |served| all.push(*served)).unwrap();
    all.sort_by_key(|served| served.index);
    (summary, all)
}

#[test]
fn stamps_of_one_request() {
    let deployment = Deployment::single(server(engine()));
    let load = OpenLoop::new([(500, SimRequest::new(10, 3))].into_iter());
    let (summary, all) = run(&deployment, load, Window::default());
    let first = 500 + 1_000_000 + 100_000;
    // Steps of one token each read 11 and 12 tokens of context.
    let done = first + 2 * 1_010_000 + 11 + 12;
    assert_eq!((all[0].scheduled_ns, all[0].first_token_ns, all[0].done_ns), (500, first, done));
    assert_eq!((all[0].ttft_ns(), all[0].tpot_ns()), (1_100_000, Some((done - first) as f64 / 2.0)));
    assert_eq!((summary.completed, summary.output_tokens, summary.pool.steps, summary.gaps.count()), (1, 3, 3, 2));
    assert_eq!((summary.window_from_ns, summary.window_to_ns), (500, done));
}

#[test]
fn clients_of_a_closed_loop_wait_for_their_answers() {
    let deployment = Deployment::single(server(engine()));
    let mut left = 10;
    let load = ClosedLoop::new(3, 1000, |_| {
        left -= 1;
        (left >= 0).then(|| SimRequest::new(20, 5))
    });
    let (summary, all) = run(&deployment, load, Window::default());
    assert_eq!((all.len(), summary.completed), (10, 10));
    assert!(summary.pool.max_batch <= 3);
    for served in &all[3..] {
        let before = all.iter().rfind(|other| other.slot == served.slot && other.index < served.index).unwrap();
        assert_eq!(served.arrival_ns, before.done_ns + 1000);
    }
}

#[test]
fn only_the_window_is_measured() {
    let deployment = Deployment::single(server(engine()));
    let load = || OpenLoop::new((0..100u64).map(|at| (at * 10_000_000, SimRequest::new(20, 5))));
    let window = Window { warmup_requests: 10, requests: Some(20), ..Window::default() };
    let (summary, all) = run(&deployment, load(), window);
    assert_eq!((summary.arrived, summary.completed), (20, 20));
    assert_eq!(all.iter().filter(|served| served.phase == Phase::Measured).count(), 20);
    assert_eq!((summary.window_from_ns, all.len()), (100_000_000, 30));
    let window = Window { warmup_ns: 95_000_000, duration_ns: Some(200_000_000), ..Window::default() };
    let (summary, _) = run(&deployment, load(), window);
    assert_eq!((summary.arrived, summary.window_from_ns, summary.window_to_ns), (21, 100_000_000, 300_000_000));
}

#[test]
fn too_much_load_is_called_saturated() {
    let deployment = Deployment::single(server(engine()));
    let load = |gap_ns: u64| OpenLoop::new((0..400u64).map(move |at| (at * gap_ns, SimRequest::new(40, 16))));
    let (light, _) = run(&deployment, load(10_000_000), Window::default());
    assert!(!light.saturated && light.overload_share < 0.01, "{light:?}");
    let (heavy, _) = run(&deployment, load(1_000_000), Window::default());
    assert!(heavy.saturated && heavy.overload_share > 0.3, "{}", heavy.overload_share);
    assert!(heavy.pool.seqs_limit_hit && heavy.pool.busy_share > 0.99);
}

#[test]
fn what_can_never_run_is_refused() {
    let deployment = Deployment::single(server(engine()));
    let load = OpenLoop::new([(0, SimRequest::new(1000, 1)), (1, SimRequest::new(10, 1))].into_iter());
    let (summary, all) = run(&deployment, load, Window::default());
    assert_eq!((summary.refused, summary.completed), (1, 1));
    assert!(all[0].refused() && !all[1].refused());
    let broken = Deployment { servers: Vec::new(), ..deployment };
    let load = OpenLoop::new(std::iter::empty());
    assert!(simulate(&broken, load, Window::default(), &mut |_| {}).is_err());
}

#[test]
fn prompts_move_from_prefill_to_decode_servers() {
    let transfer = Transfer { alpha_ns: 50_000, bytes_per_s: 1e9, kv_bytes_per_token: 1000.0 };
    let deployment = Deployment {
        prefill: vec![server(engine())],
        transfer: Some(transfer),
        ..Deployment::single(server(engine()))
    };
    let load = OpenLoop::new((0..50u64).map(|at| (at * 3_000_000, SimRequest::new(40, 8))));
    let (summary, all) = run(&deployment, load, Window::default());
    assert_eq!((summary.completed, summary.output_tokens), (50, 400));
    // Prefill 1.4 ms; transfer 40 µs + 50 µs; the last prompt token again: 1.01 ms and its context.
    assert_eq!(all[0].first_token_ns, 1_400_000 + 90_000 + 1_010_000 + 40);
    assert!((summary.transferred_bytes - 50.0 * 40.0 * 1000.0).abs() < 1.0);
    assert!(summary.transfer_mean_ns >= 90_000.0);
    let prefill = summary.prefill_pool.unwrap();
    assert_eq!((prefill.prefill_tokens, summary.pool.prefill_tokens), (2000, 0));
}

#[test]
fn routers_spread_or_gather() {
    let served_by = |router| {
        let deployment = Deployment::replicas(server(engine()), 4, router);
        let load = OpenLoop::new((0..64u64).map(|at| {
            let content = Content::SharedPrefix { family: at % 4, tokens: 32 };
            let request = SimRequest { content, session: at % 4, ..SimRequest::new(40, 4) };
            (at * 5_000_000, request)
        }));
        let (summary, all) = run(&deployment, load, Window::default());
        let homes = |family: u64| {
            let mut servers: Vec<u32> = all.iter().filter(|s| s.index % 4 == family).map(|s| s.server).collect();
            servers.sort_unstable();
            servers.dedup();
            servers.len()
        };
        ((0..4).map(homes).max().unwrap(), summary.pool.prefix_hits)
    };
    let (_, spread_hits) = served_by(Router::LeastLoaded);
    assert_eq!(served_by(Router::SessionAffinity).0, 1);
    let (homes, hits) = served_by(Router::PrefixAware);
    assert_eq!(homes, 1);
    assert!(hits >= spread_hits);
}

#[test]
fn asynchronous_scheduling_finds_surprising_ends_one_step_late() {
    let steps = |asynchronous: bool, max_tokens: u32| {
        let deployment = Deployment::single(server(engine().with_async_scheduling(asynchronous)));
        let request = SimRequest { max_tokens, ..SimRequest::new(10, 6) };
        let (summary, _) = run(&deployment, OpenLoop::new([(0, request)].into_iter()), Window::default());
        summary.pool.steps
    };
    assert_eq!((steps(false, 6), steps(false, 100)), (6, 6));
    assert_eq!((steps(true, 6), steps(true, 100)), (6, 7), "a limit is foreseen, an end of text is not");
}

/// A scheduling call may end with nothing but a preemption; the run goes on with the next one.
#[test]
fn a_step_that_only_preempts_is_no_end() {
    let config = EngineConfig {
        max_num_seqs: 5,
        max_num_batched_tokens: 43,
        prefix_caching: false,
        reserve_full_prompt: false,
        block_size: 1,
        num_blocks: 114,
        policy: Policy::Priority,
        ..EngineConfig::default()
    };
    let load = [
        (33, 1, 0),
        (1, 1, 0),
        (37, 29, 2_390_621),
        (1, 1, 10_281_086),
        (60, 13, 11_301_177),
        (1, 8, 31_073_634),
        (22, 16, 38_542_891),
        (35, 13, 42_384_033),
        (41, 22, 46_674_733),
    ];
    let requests: Vec<_> = load
        .iter()
        .enumerate()
        .map(|(index, (prompt, output, at))| {
            (*at, SimRequest { priority: i32::from(index == 6), ..SimRequest::new(*prompt, *output) })
        })
        .collect();
    let (summary, all) =
        run(&Deployment::single(server(config)), OpenLoop::new(requests.into_iter()), Window::default());
    assert_eq!((all.len(), summary.completed), (9, 9));
}

#[test]
fn accepted_drafts_shorten_the_run() {
    let spec = |acceptance: Vec<f64>| Speculation { draft_tokens: 2, acceptance, ..Speculation::default() };
    let steps = |acceptance: Vec<f64>| {
        let config = EngineConfig { speculation: Some(spec(acceptance)), ..engine() };
        let deployment = Deployment::single(server(config));
        let load = OpenLoop::new([(0, SimRequest::new(10, 31))].into_iter());
        let (summary, all) = run(&deployment, load, Window::default());
        assert_eq!(all[0].output_tokens, 31);
        summary.pool.steps
    };
    assert_eq!((steps(vec![1.0, 1.0]), steps(vec![0.0, 0.0]), steps(vec![1.0, 0.0])), (11, 31, 16));
}

#[test]
fn stages_of_a_pipeline_overlap() {
    let span = |stages: u32| {
        let config = EngineConfig {
            pipeline_stages: stages,
            concurrent_batches: stages,
            max_num_batched_tokens: 40,
            ..engine()
        };
        let deployment = Deployment::single(server(config));
        let load = OpenLoop::new((0..40u64).map(|at| (at, SimRequest::new(40, 1))));
        run(&deployment, load, Window::default()).0.end_ns
    };
    let (one, two) = (span(1) as f64, span(2) as f64);
    assert!(two < 0.55 * one && two > 0.5 * one, "{one} {two}");
}

fn load_strategy() -> impl Strategy<Value = Vec<(u32, u32, u64, u64, i32)>> {
    prop::collection::vec((1u32..80, 1u32..50, 0u64..80_000_000, 0u64..6, 0i32..3), 1..40)
}

fn requests(load: &[(u32, u32, u64, u64, i32)]) -> Vec<(u64, SimRequest)> {
    let mut requests: Vec<_> = load
        .iter()
        .map(|(prompt, output, at, family, priority)| {
            let content = match family {
                0 | 1 => Content::SharedPrefix { family: *family, tokens: 30 },
                2 | 3 => Content::Turn { conversation: *family, family: 1, family_tokens: 12 },
                _ => Content::Unique,
            };
            let surprise = if output % 3 == 0 { output + 10 } else { 0 };
            let request = SimRequest {
                content,
                priority: *priority,
                session: *family,
                max_tokens: surprise,
                ..SimRequest::new(*prompt, *output)
            };
            (*at, request)
        })
        .collect();
    requests.sort_by_key(|(at, _)| *at);
    requests
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Fast-forward changes nothing: not a stamp, not a counter, not the last bit of a mean.
    #[test]
    fn fast_forward_is_exact(
        load in load_strategy(), seqs in 1u32..10, extra in 0u32..60, spare_blocks in 0u64..60, block_size in 1u32..10,
        caching: bool, reserve: bool, asynchronous: bool, priority: bool, ranks in 1u32..4, lock_step: bool, replicas in 1u32..3,
    ) {
        let longest = load.iter().map(|(p, o, ..)| p + o).max().unwrap_or(1);
        let config = EngineConfig {
            max_num_seqs: seqs, max_num_batched_tokens: seqs + extra, prefix_caching: caching,
            reserve_full_prompt: reserve, block_size, num_blocks: u64::from(longest.div_ceil(block_size)) + 1 + spare_blocks,
            policy: if priority { Policy::Priority } else { Policy::Fcfs }, ..EngineConfig::default()
        }.with_async_scheduling(asynchronous);
        let one = Server { engine: config, ranks, lock_step, step_time: &Linear };
        let fast = Deployment::replicas(one, replicas, Router::LeastLoaded);
        let slow = Deployment { fast_forward: false, ..fast.clone() };
        let all = requests(&load);
        let (fast_summary, fast_served) = run(&fast, OpenLoop::new(all.clone().into_iter()), Window::default());
        let (slow_summary, slow_served) = run(&slow, OpenLoop::new(all.clone().into_iter()), Window::default());
        prop_assert_eq!(&fast_served, &slow_served);
        prop_assert_eq!(fast_served.len(), load.len());
        prop_assert!(fast_served.iter().all(|s| s.output_tokens > 0 && s.arrival_ns <= s.scheduled_ns
            && s.scheduled_ns < s.first_token_ns && s.first_token_ns <= s.done_ns));
        prop_assert_eq!(fast_summary, slow_summary);

        let closed = |deployment: &Deployment<'_>| {
            let mut rest = all.clone().into_iter();
            let load = ClosedLoop::new(4, 1000, move |_| rest.next().map(|(_, request)| request));
            run(deployment, load, Window::default())
        };
        let (fast_closed, slow_closed) = (closed(&fast), closed(&slow));
        prop_assert_eq!(&fast_closed.1, &slow_closed.1);
        prop_assert_eq!(fast_closed.0, slow_closed.0);
    }

    /// With everything on: no request is lost, budgets hold, every token is there, and a second run is the same.
    #[test]
    fn everything_on_loses_nothing(
        load in load_strategy(), seqs in 1u32..10, extra in 30u32..90, spare_blocks in 8u64..60, drafts in 0u32..4,
        asynchronous: bool, stages in 1u32..3, threshold in 0u32..20, interval in 1u32..4, watermark in 0u32..10,
        window in 0u32..40, split: bool,
    ) {
        let longest = load.iter().map(|(p, o, ..)| p + o).max().unwrap_or(1);
        let blocks = u64::from(longest.div_ceil(4)) * 2;
        let config = EngineConfig {
            max_num_seqs: seqs, max_num_batched_tokens: seqs * (1 + drafts) + extra, long_prefill_token_threshold: threshold,
            block_size: 4, num_blocks: blocks + 1 + spare_blocks, watermark: f64::from(watermark) / 100.0,
            pipeline_stages: stages, concurrent_batches: stages, prefill_schedule_interval: interval,
            speculation: (drafts > 0).then(|| Speculation {
                draft_tokens: drafts, acceptance: vec![0.8, 0.5, 0.2], lookahead_tokens: drafts, ..Speculation::default()
            }),
            sliding_window: (window > 20).then_some(crate::engine::SlidingWindow {
                tokens: window, full_groups: 1, window_groups: 1,
            }),
            seed: 7, ..EngineConfig::default()
        }.with_async_scheduling(asynchronous);
        let one = Server { engine: config.clone(), ranks: 2, lock_step: true, step_time: &Linear };
        let mut deployment = Deployment::replicas(one.clone(), 1, Router::RoundRobin);
        if split {
            deployment.prefill = vec![one];
            deployment.transfer = Some(Transfer { alpha_ns: 1000, bytes_per_s: 1e8, kv_bytes_per_token: 100.0 });
        }
        let all = requests(&load);
        let (summary, served) = run(&deployment, OpenLoop::new(all.clone().into_iter()), Window::default());
        prop_assert_eq!(served.len(), load.len());
        prop_assert_eq!((summary.completed, summary.refused), (load.len() as u64, 0));
        for (one, (_, request)) in served.iter().zip(&all) {
            prop_assert_eq!(one.output_tokens, request.output_tokens);
            prop_assert!(one.arrival_ns <= one.scheduled_ns && one.scheduled_ns < one.first_token_ns);
            prop_assert!(one.first_token_ns <= one.done_ns && one.cached_tokens < one.prompt_tokens);
        }
        prop_assert!(summary.pool.max_batch <= seqs && summary.pool.max_step_tokens <= config.max_num_batched_tokens);
        prop_assert!(summary.pool.kv_max <= 1.0 && summary.pool.kv_mean <= summary.pool.kv_max);
        let (again, served_again) = run(&deployment, OpenLoop::new(all.into_iter()), Window::default());
        prop_assert_eq!(summary, again);
        prop_assert_eq!(served, served_again);
    }
}
