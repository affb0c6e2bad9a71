//! What reading an answer costs: nanoseconds per event, allocations per request, bytes per open stream. Run with
//! `cargo bench -p servelab-load --bench reader`. Every read holds one event, as a server that is not behind sends them.

#![expect(clippy::print_stdout, reason = "a benchmark's report")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};
use servelab_core::record::{Phase, RequestRecord};
use servelab_load::stream::{End, Expectation, Progress, ResponseReader};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

#[expect(unsafe_code, reason = "an allocator that counts and passes everything on")]
// SAFETY: every call goes unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEAD: &str = "HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 19:55:33 GMT\r\nserver: uvicorn\r\n\
                    content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENTS: usize = 100;
const REQUESTS: usize = 2_000;

fn chunk(event: &str) -> Vec<u8> {
    let body = format!("data: {event}\n\n");
    format!("{:x}\r\n{body}\r\n", body.len()).into_bytes()
}

/// The reads of one answer.
fn answer(event: impl Fn(usize) -> String, tail: &[&str]) -> Vec<Vec<u8>> {
    let mut reads = vec![HEAD.as_bytes().to_vec()];
    reads.extend((0..EVENTS).map(|k| chunk(&event(k))));
    reads.extend(tail.iter().map(|event| chunk(event)));
    reads.push(b"0\r\n\r\n".to_vec());
    reads
}

/// CPU time of this thread: other people's work on the machine counts less in it than in wall time.
fn cpu_ns() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn measure(name: &str, reads: &[Vec<u8>], keep_text: bool) {
    let bytes: usize = reads.iter().map(Vec::len).sum();
    let (mut per_event, mut allocations, mut live) = (f64::INFINITY, 0, 0);
    for _ in 0..5 {
        let started_ns = cpu_ns();
        let before = ALLOCATIONS.load(Relaxed);
        for _ in 0..REQUESTS {
            let live_before = LIVE_BYTES.load(Relaxed);
            let mut reader = ResponseReader::new(keep_text);
            let mut tokens = 0_i64;
            for (t_ns, read) in reads.iter().enumerate() {
                if t_ns == reads.len() / 2 {
                    live = LIVE_BYTES.load(Relaxed) - live_before;
                }
                let progress = reader.feed(t_ns as i64, black_box(read), |n| tokens += i64::from(n));
                assert!(progress != Progress::Broken);
            }
            let mut record = RequestRecord::scheduled(0, Phase::Window, 0);
            let conclusion = reader.conclude(End::Complete, Expectation::default(), &mut record);
            assert!(record.failure_code.is_none(), "{name}: {:?} {conclusion:?}", record.failure_code);
            black_box((tokens, conclusion, record));
        }
        per_event = per_event.min((cpu_ns() - started_ns) as f64 / (REQUESTS * reads.len()) as f64);
        allocations = (ALLOCATIONS.load(Relaxed) - before) / REQUESTS as u64;
    }
    println!(
        "{name:<44} {per_event:7.1} ns/read {:6.0} bytes/read {allocations:5} allocations/request {live:5} heap bytes mid-stream",
        bytes as f64 / reads.len() as f64
    );
}

fn main() {
    println!("ResponseReader: {} bytes", size_of::<ResponseReader>());
    let completion = |k: usize| {
        format!(
            r#"{{"id":"cmpl-bc3153e1acbaf220","object":"text_completion","created":1795377333,"model":"tiny","choices":[{{"index":0,"text":" w{k}","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]}}"#
        )
    };
    let tail = [
        r#"{"id":"cmpl-bc3153e1acbaf220","object":"text_completion","created":1795377333,"model":"tiny","choices":[],"usage":{"prompt_tokens":3,"total_tokens":103,"completion_tokens":100}}"#,
        "[DONE]",
    ];
    let plain = answer(completion, &tail);
    measure("vLLM completions", &plain, false);
    measure("vLLM completions, text kept", &plain, true);
    let chat = answer(
        |k| {
            format!(
                r#"{{"id":"chatcmpl-b3d65b11b7e9cb26","object":"chat.completion.chunk","created":1795377334,"model":"tiny","choices":[{{"index":0,"delta":{{"content":" w{k}"}},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}"#
            )
        },
        &tail,
    );
    measure("vLLM chat", &chat, false);
    let usage = answer(
        |k| {
            format!(
                r#"{},"usage":{{"prompt_tokens":3,"total_tokens":{},"completion_tokens":{}}}}}"#,
                completion(k).trim_end_matches('}'),
                k + 4,
                k + 1
            )
            .replace("null]", "null}]")
        },
        &tail,
    );
    measure("vLLM completions, continuous usage", &usage, false);
    let sglang = answer(
        |k| {
            let text = " word".repeat(k + 1);
            format!(
                r#"{{"text":"{text}","output_ids":[{k}],"meta_info":{{"id":"r","finish_reason":null,"prompt_tokens":3,"completion_tokens":{}}}}}"#,
                k + 1
            )
        },
        &["[DONE]"],
    );
    measure("SGLang /generate, text so far", &sglang, false);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples/vllm/sse");
    for name in ["comp_200", "chat_usage", "chat_logprobs_tokids", "comp_batch2"] {
        match std::fs::read(folder.join(format!("{name}.raw"))) {
            Ok(raw) => measure(&format!("capture {name}, whole"), &[raw], false),
            Err(_) => println!("capture {name}: not there, left out"),
        }
    }
}
