//! Scrapes metric endpoints through a whole run: one thread per endpoint, so that a slow node does not delay the others;
//! the first scrape before `start` returns, the last inside `stop`. Histogram buckets are kept of the first and the last
//! scrape only: they matter as differences over the window and would otherwise be nine tenths of the data.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use servelab_core::record::{ClockEpoch, PromSample};

use super::parse;
use crate::clock;
use crate::http;
use crate::target::ApiKey;

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeTarget {
    /// Name of the node in records.
    pub node: String,
    /// For example `http://127.0.0.1:8000/metrics`.
    pub url: String,
}

/// How to scrape.
#[derive(Debug, Clone)]
pub struct ScrapeOptions {
    /// Between the starts of two scrapes of one endpoint, nanoseconds. Late scrapes are skipped, not queued.
    pub interval_ns: i64,
    /// For one scrape, nanoseconds.
    pub timeout_ns: i64,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
}

impl Default for ScrapeOptions {
    /// Every second, 5 s timeout, no key.
    fn default() -> Self {
        Self { interval_ns: 1_000_000_000, timeout_ns: 5_000_000_000, api_key: None }
    }
}

/// How scraping one endpoint went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetStats {
    /// Name of the node.
    pub node: String,
    /// The endpoint.
    pub url: String,
    /// Scrapes that succeeded.
    pub n_ok: u64,
    /// Scrapes without a usable answer.
    pub n_failed: u64,
    /// Lines that did not parse, over all scrapes.
    pub bad_lines: u64,
    /// Why the latest failed scrape failed.
    pub last_error: Option<String>,
}

/// Everything that was scraped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScrapeOutcome {
    /// Samples ordered by time.
    pub samples: Vec<PromSample>,
    /// One entry per endpoint.
    pub targets: Vec<TargetStats>,
}

/// A running scraper. Dropping it stops it without a last scrape.
#[derive(Debug)]
pub struct Scraper {
    signal: Arc<Signal>,
    threads: Vec<JoinHandle<Scraped>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    /// One last scrape, then end.
    Finish,
    Abort,
}

#[derive(Debug)]
struct State {
    order: Order,
    first_scrapes: usize,
}

#[derive(Debug)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Scraped {
    samples: Vec<PromSample>,
    stats: TargetStats,
}

impl Signal {
    fn order(&self, order: Order) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).order = order;
        self.changed.notify_all();
    }

    /// Waits until `due` or an order to end.
    fn wait_until(&self, due: Instant) -> Order {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            if state.order != Order::Run || now >= due {
                return state.order;
            }
            state = self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn count_first_scrape(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).first_scrapes += 1;
        self.changed.notify_all();
    }

    fn wait_for_first_scrapes(&self, n: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.first_scrapes < n {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Scraper {
    /// Starts scraping and returns after the first scrape of every endpoint has succeeded or failed.
    pub fn start(targets: Vec<ScrapeTarget>, options: &ScrapeOptions, clock: ClockEpoch) -> std::io::Result<Self> {
        let state = State { order: Order::Run, first_scrapes: 0 };
        let signal = Arc::new(Signal { state: Mutex::new(state), changed: Condvar::new() });
        let n = targets.len();
        let mut scraper = Self { signal: Arc::clone(&signal), threads: Vec::new() };
        for (index, target) in targets.into_iter().enumerate() {
            let (signal, options) = (Arc::clone(&signal), options.clone());
            let body = move || scrape_loop(target, &options, clock, &signal);
            scraper.threads.push(thread::Builder::new().name(format!("scrape-{index}")).spawn(body)?);
        }
        signal.wait_for_first_scrapes(n);
        Ok(scraper)
    }

    /// Scrapes every endpoint once more and returns everything.
    pub fn stop(mut self) -> ScrapeOutcome {
        self.signal.order(Order::Finish);
        let mut outcome = ScrapeOutcome::default();
        for thread in self.threads.drain(..) {
            if let Ok(scraped) = thread.join() {
                outcome.samples.extend(scraped.samples);
                outcome.targets.push(scraped.stats);
            }
        }
        outcome.samples.sort_by_key(|sample| sample.t_ns);
        outcome
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.signal.order(Order::Abort);
    }
}

fn scrape_loop(target: ScrapeTarget, options: &ScrapeOptions, clock: ClockEpoch, signal: &Signal) -> Scraped {
    let stats = TargetStats { node: target.node, url: target.url, ..TargetStats::default() };
    let mut scraped = Scraped { samples: Vec::new(), stats };
    let interval = Duration::from_nanos(options.interval_ns.max(1_000_000).unsigned_abs());
    let mut due = Instant::now();
    scrape_once(&mut scraped, options, clock, Buckets::Kept);
    signal.count_first_scrape();
    loop {
        // Late scrapes are skipped so that the grid of instants stays where it was.
        while due <= Instant::now() {
            due += interval;
        }
        match signal.wait_until(due) {
            Order::Run => scrape_once(&mut scraped, options, clock, Buckets::Dropped),
            Order::Finish => {
                scrape_once(&mut scraped, options, clock, Buckets::Kept);
                return scraped;
            }
            Order::Abort => return scraped,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buckets {
    Kept,
    Dropped,
}

/// The stamp is the middle between question and answer: the server reads its counters somewhere in between.
fn scrape_once(scraped: &mut Scraped, options: &ScrapeOptions, clock: ClockEpoch, buckets: Buckets) {
    let stats = &mut scraped.stats;
    let timeout = Duration::from_nanos(options.timeout_ns.max(1_000_000).unsigned_abs());
    let before = clock::now_ns(clock);
    let reply = http::get_text(&stats.url, timeout, options.api_key.as_ref());
    let t_ns = before + (clock::now_ns(clock) - before) / 2;
    let body = match reply {
        Ok(reply) if reply.is_success() => reply.body,
        Ok(reply) => {
            stats.n_failed += 1;
            stats.last_error = Some(format!("HTTP status {}", reply.status));
            return;
        }
        Err(error) => {
            stats.n_failed += 1;
            stats.last_error = Some(error.to_string());
            return;
        }
    };
    let exposition = parse(&body);
    stats.n_ok += 1;
    stats.bad_lines += exposition.bad_lines;
    let is_kept = |name: &str| !name.ends_with("_created") && (buckets == Buckets::Kept || !name.ends_with("_bucket"));
    let kept = exposition.samples.into_iter().filter(|sample| is_kept(&sample.name));
    scraped.samples.extend(kept.map(|sample| sample.into_record(t_ns, &stats.node)));
}
