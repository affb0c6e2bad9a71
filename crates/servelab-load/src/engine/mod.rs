//! The load loop: one epoll loop per thread with its own connections, timers and log. This file starts the threads,
//! agrees on the start instant and merges what they measured; `worker` is the loop, `jobs` the life of a request in it,
//! `pacer` decides what is due, `conn` owns sockets. Results are computed elsewhere, from the records.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use servelab_core::record::ClockEpoch;

use crate::clock;
use crate::control::{LivePhase, LoadControl};
use crate::error::LoadError;
use crate::limits::{check_ports, reserve_descriptors};
use crate::scheduling::{give_way, wake_promptly};
use crate::simtime;
use crate::sink::RecordSink;
use crate::spec::{LoadOutcome, LoadSpec, Pacing, Stop};
use crate::steady::SteadyDetector;
use crate::target::Route;

mod agreement;
mod canary;
mod conn;
mod feed;
mod jobs;
mod limits;
mod pacer;
#[cfg(test)]
mod pacer_tests;
mod recorder;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod worker;

use agreement::Agreement;
use feed::Supply;
use limits::Limits;
use pacer::{Pacer, open_window_start_ns};
use recorder::Recorded;
use worker::{Ended, Setup, Worker};

/// Connections opened before an open loop without a cap starts; more are opened when arrivals need them.
const OPEN_LOOP_CONNECTIONS: u64 = 64;
/// Between the last opened connection and the first request.
const LEAD_NS: i64 = 2_000_000;
/// So long before a due instant, polling replaces sleeping where there are more cores than load threads.
const SPIN_NS: i64 = 50_000;
/// And where there are none to spare: about what a wake-up takes on a virtual machine, so that it costs next to nothing.
const WAKE_UP_NS: i64 = 25_000;
/// Batches of finished requests that may wait for the recorder; more stay with the load threads.
const WAITING_BATCHES: usize = 256;

/// Runs a load to its end; what it measures goes to `sink` as it comes. Blocks; watch or cancel it through `control`.
///
/// Errors are what prevents the start, and sources and sinks that give up. Whatever happens to a request is in its record.
pub fn run_load(spec: LoadSpec, sink: &mut dyn RecordSink, control: &LoadControl) -> Result<LoadOutcome, LoadError> {
    spec.validate()?;
    let speedup = spec.speedup;
    if speedup == 1.0 {
        return run_in_wall_time(spec, sink, control);
    }
    let mut slowed = simtime::Slowed { inner: sink, speedup };
    let mut outcome = run_in_wall_time(simtime::hastened(spec), &mut slowed, control)?;
    simtime::slow_outcome(&mut outcome, speedup);
    Ok(outcome)
}

fn run_in_wall_time(
    mut spec: LoadSpec,
    sink: &mut dyn RecordSink,
    control: &LoadControl,
) -> Result<LoadOutcome, LoadError> {
    let route = spec.target.route()?;
    let connections = connections_needed(&spec);
    reserve_descriptors(connections)?;
    let address = reach(&route, spec.connect_timeout_ns)?;
    if spec.source_addresses.is_empty() {
        spec.source_addresses = loopback_sources(address, connections);
    }
    check_ports(connections, spec.source_addresses.len().max(1) as u64)?;
    let threads = spec.effective_threads();
    let limits = Limits::of(&spec);
    let agreement = Agreement::new(spec.stop);
    let start = StartGate { start_ns: AtomicI64::new(i64::MAX) };
    let queues = if limits.is_open() { threads as usize } else { 1 };
    let has_canary = spec.canary;
    let start_hook = spec.start.take();
    let (supply, feeder) = Supply::new(spec.source, spec.warmup, queues);
    let (recorder, batches) = mpsc::sync_channel(WAITING_BATCHES);
    let has_spare_core = thread::available_parallelism().is_ok_and(|cores| cores.get() > threads as usize);
    let lead_ns = if has_spare_core { SPIN_NS } else { WAKE_UP_NS };
    let setup = |thread: u32| -> Result<Setup<'_>, LoadError> {
        let canary = (has_canary && thread == 0).then(|| canary::start(limits.clock)).transpose();
        Ok(Setup {
            spec: &limits,
            route: &route,
            address,
            control,
            agreement: &agreement,
            supply: &supply,
            recorder: recorder.clone(),
            canary: canary.map_err(|source| LoadError::System { action: "start the canary", source })?,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(LoadError::system("create an epoll"))?,
            timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
                .map_err(LoadError::system("create a timer"))?,
            connections: share(connections, thread, threads),
            lead_ns,
        })
    };
    let setups: Vec<Setup<'_>> = (0..threads).map(setup).collect::<Result<_, _>>()?;
    drop(recorder);

    let (ended, recorded) = thread::scope(|scope| -> Result<(Vec<Ended>, Recorded), LoadError> {
        let spawn_failed = |source| LoadError::System { action: "start a load thread", source };
        let (ready_tx, ready_rx) = mpsc::channel::<()>();
        let ahead = ready_tx.clone();
        let feeding = thread::Builder::new().name("load-feed".to_owned()).spawn_scoped(scope, || {
            give_way();
            feeder.run(&supply, move || drop(ahead));
        });
        feeding.map_err(spawn_failed)?;
        let (watched_limits, watched_agreement) = (&limits, &agreement);
        let recording = thread::Builder::new().name("load-record".to_owned()).spawn_scoped(scope, move || {
            give_way();
            recorder::record(batches, sink, watched_limits, watched_agreement, control)
        });
        let recording = match recording {
            Ok(handle) => handle,
            Err(source) => {
                supply.close();
                return Err(spawn_failed(source));
            }
        };
        let mut handles = Vec::new();
        for (index, setup) in setups.into_iter().enumerate() {
            let ready = ready_tx.clone();
            let (gate, limits, supply) = (&start, &limits, &supply);
            let body = move || {
                wake_promptly();
                let mut worker = Worker::new(setup)?;
                worker.open_connections()?;
                drop(ready);
                let start_ns = gate.wait();
                worker.run(Pacer::new(limits, supply, start_ns, index as u32, threads))
            };
            match thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, body) {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    control.cancel();
                    supply.close();
                    start.open(0, &handles);
                    return Err(spawn_failed(source));
                }
            }
        }
        drop(ready_tx);
        // Every thread drops its end when it is ready, or when it failed; nothing is ever sent.
        let _ = ready_rx.recv();
        let start_ns = match start_hook.map(|hook| hook()) {
            None => clock::now_ns(limits.clock) + LEAD_NS,
            Some(Ok(start_ns)) => start_ns,
            Some(Err(problem)) => {
                control.cancel();
                supply.close();
                start.open(0, &handles);
                return Err(LoadError::Start { problem });
            }
        };
        if limits.is_open() {
            agreement.begin_window(open_window_start_ns(&supply, start_ns));
        } else if let Some(ns) = limits.first_sends() {
            agreement.set_spread(start_ns, ns);
        }
        control.advance(LivePhase::Warming);
        start.open(start_ns, &handles);
        if let Stop::Steady { min_ns, max_ns } = limits.stop {
            watch_steadiness(limits.clock, min_ns, max_ns, &agreement, control, &handles);
        }
        let mut ended = Vec::new();
        let mut first_error = None;
        for (index, handle) in handles.into_iter().enumerate() {
            match handle.join() {
                Ok(Ok(end)) => ended.push(end),
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
        supply.close();
        let recorded = recording.join().map_err(|_| LoadError::Thread { index: threads })?;
        first_error.map_or(Ok((ended, recorded)), Err)
    })?;
    control.advance(LivePhase::Finished);
    if let Some(problem) = supply.problem() {
        return Err(LoadError::Source { problem });
    }
    if let Some(problem) = recorded.problem {
        return Err(LoadError::Sink { problem });
    }
    if recorded.count == 0 && !control.is_cancelled() {
        return Err(LoadError::Spec { problem: "there is no request to measure".to_owned() });
    }
    Ok(outcome(&limits, &agreement, ended, recorded))
}

/// One source address has some 28,000 ports towards one server. Loopback has many addresses.
fn loopback_sources(address: SocketAddr, connections: u64) -> Vec<IpAddr> {
    const PER_SOURCE: u64 = 20_000;
    if address.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) || connections <= PER_SOURCE {
        return Vec::new();
    }
    let n = u8::try_from(connections.div_ceil(PER_SOURCE)).unwrap_or(u8::MAX);
    (1..=n).map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))).collect()
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
    match spec.pacing {
        Pacing::Closed { concurrency, .. } => u64::from(concurrency),
        Pacing::Batches { size } => u64::from(size),
        Pacing::Open { max_concurrency: Some(cap) } => u64::from(cap).min(OPEN_LOOP_CONNECTIONS),
        Pacing::Open { max_concurrency: None } => OPEN_LOOP_CONNECTIONS,
    }
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
                agreement.satisfy();
                agreement.stop_at(now);
            } else if now >= window_start_ns + max_ns {
                agreement.stop_at(window_start_ns + max_ns);
            }
            pause_ns = (detector.next_sample_ns() - now).clamp(100_000, 10_000_000);
        }
        thread::park_timeout(Duration::from_nanos(pause_ns.unsigned_abs()));
    }
}

fn outcome(spec: &Limits, agreement: &Agreement, ended: Vec<Ended>, recorded: Recorded) -> LoadOutcome {
    let now = clock::now_ns(spec.clock);
    let window_start_ns = agreement.window_start_ns().unwrap_or(now).min(now);
    let is_timed = !matches!(spec.stop, Stop::AllRequests);
    let ran_out = is_timed && agreement.ran_out_ns().is_some();
    let natural_end_ns = recorded.last_window_end_ns.unwrap_or(now);
    let window_end_ns = match agreement.stop_ns() {
        Some(stop_ns) if ran_out => stop_ns.min(natural_end_ns),
        Some(stop_ns) => stop_ns.min(now),
        None => natural_end_ns,
    };
    let seconds = |ns: i64| ns as f64 / 1e9;
    LoadOutcome {
        clock: spec.clock,
        window_start_ns,
        window_end_ns: window_end_ns.max(window_start_ns),
        recorded: recorded.count,
        failure_samples: recorded.failure_samples,
        cpu_s: ended.iter().map(|end| seconds(end.cpu_ns)).sum(),
        busy_s: ended.iter().map(|end| seconds(end.busy_ns)).fold(0.0, f64::max),
        threads: ended.len() as u32,
        interrupted: ended.iter().any(|end| end.is_interrupted),
        ran_out,
        is_satisfied: matches!(spec.stop, Stop::Steady { .. } | Stop::WhenEnough { .. })
            .then(|| agreement.is_satisfied()),
        spread_ns: agreement.spread().map(|(_, ns)| ns),
        canary: ended.into_iter().find_map(|end| end.canary),
    }
}
