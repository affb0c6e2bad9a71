//! The load loop: one epoll loop per thread with its own connections, timers and log. This file starts the threads,
//! agrees on the start instant and merges what they measured; `worker` is the loop, `jobs` the life of a request in it,
//! `pacer` decides what is due, `conn` owns sockets. Results are computed elsewhere, from the records.

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use servelab_core::record::{ClockEpoch, RequestRecord};

use crate::clock;
use crate::control::{LivePhase, LoadControl};
use crate::error::LoadError;
use crate::limits;
use crate::spec::{LoadOutcome, LoadSpec, Pacing, Stop};
use crate::steady::SteadyDetector;
use crate::target::Route;

mod conn;
mod jobs;
mod pacer;
#[cfg(test)]
mod pacer_tests;
#[cfg(test)]
mod tests;
mod worker;

use pacer::{Agreement, Pacer, open_window_start_ns};
use worker::{Log, Setup, Worker};

/// Connections opened before an open loop without a cap starts; more are opened when arrivals need them.
const OPEN_LOOP_CONNECTIONS: u64 = 64;
/// Between the last opened connection and the first request.
const LEAD_NS: i64 = 2_000_000;

/// Runs a load to its end and returns every record. Blocks; watch or cancel it through `control`.
///
/// Errors are only what prevents the start. Whatever happens to a request is in its record.
pub fn run_load(spec: LoadSpec, control: &LoadControl) -> Result<LoadOutcome, LoadError> {
    spec.validate()?;
    let route = spec.target.route()?;
    let connections = connections_needed(&spec);
    limits::reserve_descriptors(connections)?;
    limits::check_ports(connections)?;
    let address = reach(&route, spec.connect_timeout_ns)?;
    let threads = spec.effective_threads();
    let agreement = Agreement::new(&spec);
    let start = StartGate { start_ns: AtomicI64::new(i64::MAX) };

    let setups: Vec<Setup<'_>> = (0..threads)
        .map(|thread| {
            Ok(Setup {
                spec: &spec,
                route: &route,
                address,
                control,
                agreement: &agreement,
                epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(LoadError::system("create an epoll"))?,
                timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
                    .map_err(LoadError::system("create a timer"))?,
                connections: share(connections, thread, threads),
                can_spin: thread::available_parallelism().is_ok_and(|cores| cores.get() > threads as usize),
            })
        })
        .collect::<Result<_, LoadError>>()?;

    let logs = thread::scope(|scope| -> Result<Vec<Log>, LoadError> {
        let (ready_tx, ready_rx) = mpsc::channel::<()>();
        let mut handles = Vec::new();
        for (index, setup) in setups.into_iter().enumerate() {
            let ready = ready_tx.clone();
            let gate = &start;
            let body = move || {
                let mut worker = Worker::new(setup)?;
                worker.open_connections()?;
                drop(ready);
                let start_ns = gate.wait();
                worker.run(|spec| Pacer::new(spec, start_ns, index as u32, threads))
            };
            match thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, body) {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    control.cancel();
                    start.open(0, &handles);
                    return Err(LoadError::System { action: "start a load thread", source });
                }
            }
        }
        drop(ready_tx);
        // Every thread drops its end when it is ready, or when it failed; nothing is ever sent.
        let _ = ready_rx.recv();
        let start_ns = clock::now_ns(spec.clock) + LEAD_NS;
        if let Some(window_start_ns) = open_window_start_ns(&spec, start_ns) {
            agreement.begin_window(window_start_ns);
        }
        control.advance(LivePhase::Warming);
        start.open(start_ns, &handles);
        if let Stop::Steady { min_ns, max_ns } = spec.stop {
            watch_steadiness(spec.clock, min_ns, max_ns, &agreement, control, &handles);
        }
        let mut logs = Vec::new();
        let mut first_error = None;
        for (index, handle) in handles.into_iter().enumerate() {
            match handle.join() {
                Ok(Ok(log)) => logs.push(log),
                Ok(Err(error)) => {
                    control.cancel();
                    first_error.get_or_insert(error);
                }
                Err(_) => {
                    control.cancel();
                    first_error.get_or_insert(LoadError::Thread { index: index as u32 });
                }
            }
        }
        first_error.map_or(Ok(logs), Err)
    })?;
    control.advance(LivePhase::Finished);
    Ok(merge(&spec, &agreement, logs, threads))
}

/// The start instant, known to the threads only after all of them have opened their connections.
struct StartGate {
    start_ns: AtomicI64,
}

impl StartGate {
    fn open<T>(&self, start_ns: i64, handles: &[thread::ScopedJoinHandle<'_, T>]) {
        self.start_ns.store(start_ns, SeqCst);
        for handle in handles {
            handle.thread().unpark();
        }
    }

    fn wait(&self) -> i64 {
        loop {
            let start_ns = self.start_ns.load(SeqCst);
            if start_ns != i64::MAX {
                return start_ns;
            }
            thread::park();
        }
    }
}

/// Connections opened before the start.
fn connections_needed(spec: &LoadSpec) -> u64 {
    let requests = (spec.warmup.len() + spec.window.len()) as u64;
    let wanted = match &spec.pacing {
        Pacing::Closed { concurrency, .. } => u64::from(*concurrency),
        Pacing::Batches { size } => u64::from(*size),
        Pacing::Open { max_concurrency: Some(cap), .. } => u64::from(*cap).min(OPEN_LOOP_CONNECTIONS.max(requests / 4)),
        Pacing::Open { max_concurrency: None, .. } => OPEN_LOOP_CONNECTIONS,
    };
    wanted.min(requests)
}

fn share(total: u64, thread: u32, threads: u32) -> u64 {
    let (thread, threads) = (u64::from(thread), u64::from(threads));
    total / threads + u64::from(thread < total % threads)
}

/// The first address of the route that accepts a connection.
fn reach(route: &Route, timeout_ns: i64) -> Result<std::net::SocketAddr, LoadError> {
    let timeout = Duration::from_nanos(u64::try_from(timeout_ns).unwrap_or(1));
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address");
    for address in &route.addresses {
        match std::net::TcpStream::connect_timeout(address, timeout) {
            Ok(_) => return Ok(*address),
            Err(error) => last = error,
        }
    }
    Err(LoadError::Connect { address: route.authority.clone(), source: last })
}

/// Samples the live counters until the load is steady or its time is up.
fn watch_steadiness<T>(
    epoch: ClockEpoch,
    min_ns: i64,
    max_ns: i64,
    agreement: &Agreement,
    control: &LoadControl,
    handles: &[thread::ScopedJoinHandle<'_, T>],
) {
    let mut detector = None;
    while handles.iter().any(|handle| !handle.is_finished()) && agreement.stop_ns().is_none() {
        let now = clock::now_ns(epoch);
        let mut pause_ns = 10_000_000;
        if let Some(window_start_ns) = agreement.window_start_ns()
            && now >= window_start_ns
        {
            let detector = detector.get_or_insert_with(|| SteadyDetector::new(window_start_ns, min_ns));
            let counts = control.counts();
            if detector.push(now, counts.tokens, counts.in_flight) {
                agreement.mark_steady();
                agreement.stop_at(now);
            } else if now >= window_start_ns + max_ns {
                agreement.stop_at(window_start_ns + max_ns);
            }
            pause_ns = (detector.next_sample_ns() - now).clamp(100_000, 10_000_000);
        }
        thread::park_timeout(Duration::from_nanos(pause_ns.unsigned_abs()));
    }
}

fn merge(spec: &LoadSpec, agreement: &Agreement, logs: Vec<Log>, threads: u32) -> LoadOutcome {
    let now = clock::now_ns(spec.clock);
    let last_end_ns = logs.iter().filter_map(|log| log.last_window_end_ns).max();
    let interrupted = logs.iter().any(|log| log.is_interrupted);
    let mut requests: Vec<RequestRecord> = Vec::new();
    let mut events = Vec::new();
    let mut outputs = Vec::new();
    let mut failure_samples = Vec::new();
    let mut cpu_ns = 0;
    for log in logs {
        requests.extend(log.requests);
        events.extend(log.events);
        outputs.extend(log.outputs);
        failure_samples.extend(log.failure_samples);
        cpu_ns += log.cpu_ns;
    }
    requests.sort_by_key(|record| (record.phase, record.request_idx));
    events.sort_by_key(|event| (event.request_idx, event.t_ns));
    outputs.sort_by_key(|output| output.request_idx);
    failure_samples.sort_by_key(|sample| sample.request_idx);
    let window_start_ns = agreement.window_start_ns().unwrap_or(now).min(now);
    let is_timed = !matches!(spec.stop, Stop::AllRequests);
    let ran_out = is_timed && agreement.ran_out_ns().is_some();
    let natural_end_ns = last_end_ns.unwrap_or(now);
    let window_end_ns = match agreement.stop_ns() {
        Some(stop_ns) if ran_out => stop_ns.min(natural_end_ns),
        Some(stop_ns) => stop_ns.min(now),
        None => natural_end_ns,
    };
    LoadOutcome {
        clock: spec.clock,
        window_start_ns,
        window_end_ns: window_end_ns.max(window_start_ns),
        requests,
        events,
        outputs,
        failure_samples,
        cpu_s: cpu_ns as f64 / 1e9,
        threads,
        interrupted,
        ran_out,
        is_steady: matches!(spec.stop, Stop::Steady { .. }).then(|| agreement.is_steady()),
    }
}
