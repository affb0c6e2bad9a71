//! A simulated run allocates nothing once it has seen its largest batch: counted by an allocator of its own, which is why
//! this test has a binary to itself.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use servelab_sim::engine::{Content, EngineConfig, Graphs};
use servelab_sim::simulate::{Deployment, OpenLoop, Server, SimRequest, Window, simulate};
use servelab_sim::step_time::{StepShape, StepTime};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "a global allocator cannot be written without it; all work is the system's")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

struct Linear;

impl StepTime for Linear {
    fn step_nanos(&self, shape: &StepShape) -> u64 {
        8_000_000 + 70_000 * u64::from(shape.n_tokens) + 10 * shape.decode_context_tokens
    }
}

/// Allocations between the arrivals of two requests deep in a run.
fn between(engine: EngineConfig, content: impl Fn(u64) -> Content) -> u64 {
    let deployment = Deployment::single(Server { engine, ranks: 1, lock_step: false, step_time: &Linear });
    let marks = Cell::new([0; 2]);
    let requests = (0..6000u64).map(|at| {
        match at {
            3000 => marks.set([allocations(), 0]),
            5999 => marks.set([marks.get()[0], allocations()]),
            _ => {}
        }
        (at * 200_000_000, SimRequest { content: content(at), ..SimRequest::new(1024, 128) })
    });
    let summary = simulate(&deployment, OpenLoop::new(requests), Window::default(), &mut |_| {}).unwrap();
    assert_eq!(summary.completed, 6000);
    let [from, to] = marks.get();
    to - from
}

fn engine() -> EngineConfig {
    EngineConfig {
        num_blocks: 3000,
        graphs: Graphs { max_tokens: 512, full_decode: true, coarse_above_256: true },
        ..EngineConfig::default()
    }
}

#[test]
fn steps_allocate_nothing() {
    assert_eq!(between(engine(), |_| Content::Unique), 0);
    assert_eq!(between(EngineConfig { prefix_caching: false, ..engine() }, |_| Content::Unique), 0);
    assert_eq!(between(engine().with_async_scheduling(true), |_| Content::Unique), 0);
    let shared = |at: u64| Content::SharedPrefix { family: at % 7, tokens: 512 };
    assert_eq!(between(engine(), shared), 0);
    let turns = |at: u64| Content::Turn { conversation: at % 50, family: 1, family_tokens: 200 };
    assert_eq!(between(engine(), turns), 0);
}
