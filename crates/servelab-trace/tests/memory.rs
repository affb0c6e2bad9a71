//! Heap while a trace is read and measured, by an allocator that counts: at most 50 MB for a gigabyte of text.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use servelab_trace::{Taxonomy, kineto, metrics};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is made of unsafe calls; this one only counts")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks grow where they are: the system moves pages, not bytes.
        let now = NOW.fetch_add(size, Relaxed) + size;
        NOW.fetch_sub(layout.size(), Relaxed);
        PEAK.fetch_max(now - layout.size(), Relaxed);
        // SAFETY: as it came.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as it came.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A text that is made while it is read: a head, then the same events at later times until there is enough.
struct Repeated {
    events: Vec<String>,
    ready: Vec<u8>,
    taken: usize,
    at: usize,
    round: u64,
    left: usize,
}

impl Read for Repeated {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.taken == self.ready.len() {
            if self.left == 0 {
                return Ok(0);
            }
            self.ready.clear();
            self.taken = 0;
            while self.ready.len() < 64 * 1024 {
                // Times and links of a round stand as `@`: they grow with each round.
                let number = self.round * 1000;
                let event = self.events[self.at].replace("@", &number.to_string());
                self.ready.extend_from_slice(event.as_bytes());
                self.at += 1;
                if self.at == self.events.len() {
                    (self.at, self.round) = (0, self.round + 1);
                }
            }
            self.left = self.left.saturating_sub(self.ready.len());
            if self.left == 0 {
                self.ready.extend_from_slice(b"{\"ph\": \"i\"}]}");
            }
        }
        let n = buffer.len().min(self.ready.len() - self.taken);
        buffer[..n].copy_from_slice(&self.ready[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

/// Peak of the heap above what was there, in bytes for each byte of text.
fn heap_per_byte(events: Vec<String>, taxonomy: &Taxonomy) -> f64 {
    const BYTES: usize = 200_000_000;
    let text = Repeated { events, ready: b"{\"traceEvents\": [".to_vec(), taken: 0, at: 0, round: 0, left: BYTES };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let trace = kineto::read_text(text, taxonomy).unwrap();
    assert!(trace.device.len() > 10_000, "{}", trace.device.len());
    let analysis = metrics::analyse(&trace, taxonomy);
    assert!(analysis.device.is_some());
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = (PEAK.load(Relaxed) - before) as f64 / BYTES as f64;
    ratio
}

#[test]
fn a_gigabyte_needs_fifty_megabytes() {
    let taxonomy = Taxonomy::builtin().unwrap();
    // A trace as profilers write it: operators, launches, flows, kernels, collectives with their arguments.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpu_training_step.json.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let events: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("{\"ph\"") || line.starts_with("{\"name\""))
        .map(|line| line.trim_end_matches(','))
        // 5000000000170.000 and 1002 → the same behind a number that grows.
        .map(|line| {
            format!(
                "{},\n",
                line.replace("\"ts\": 50000", "\"ts\": @0").replace("\"correlation\": ", "\"correlation\": @0")
            )
        })
        .collect();
    let usual = heap_per_byte(events, &taxonomy);
    // Nothing but kernels of a graph, as densely as they can be written: seldom, and the worst case.
    let kernel = "{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"gemm\", \"pid\": 0, \"tid\": 7, \"ts\": @5.000, \"dur\": 3.000, \"args\": {\"External id\": 7, \"queued\": 0, \"device\": 0, \"context\": 1, \"stream\": 7, \"correlation\": 9, \"registers per thread\": 32, \"shared memory\": 0, \"blocks per SM\": 3.0, \"warps per SM\": 12.1, \"grid\": [132, 1, 1], \"block\": [128, 1, 1], \"est. achieved occupancy %\": 19}},\n";
    let worst = heap_per_byte(vec![kernel.to_owned()], &taxonomy);
    println!("heap in MB per GB of text: usual {:.1}, only kernels {:.1}", usual * 1e3, worst * 1e3);
    assert!(usual <= 0.050, "{usual}");
    assert!(worst <= 0.200, "{worst}");
}
