//! The loop of one load thread. Each turn sends what is due, waits for sockets or the next due instant, reads all ready
//! sockets first and stamps each the moment its read returned, and only then parses. Pacing: a timerfd wakes 50 µs
//! before the instant, the rest is spent polling where the machine has a core to spare.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, TrySendError};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

use super::agreement::Agreement;
use super::canary::Canary;
use super::conn::{ConnState, Slab, Token};
use super::feed::Supply;
use super::jobs::record_of;
use super::limits::Limits;
use super::pacer::Pacer;
use crate::clock;
use crate::codes;
use crate::control::{LivePhase, LoadControl};
use crate::error::LoadError;
use crate::sink::FinishedRequest;
use crate::spec::{CanaryErrors, Stop};
use crate::stream::End;
use crate::target::Route;

/// Longest sleep: the cancel flag is looked at this often.
const TICK_NS: i64 = 20_000_000;
/// Sends per turn, so that a herd does not delay reads for long.
const SENDS_PER_TURN: usize = 32;
const EVENTS_PER_TURN: usize = 128;
pub(super) const READ_BYTES: usize = 64 << 10;
const ARENA_BYTES: usize = 2 << 20;
/// Connects in progress at once while connections are opened ahead.
const CONNECTS_AT_ONCE: usize = 64;
const TIMER_TOKEN: u64 = u64::MAX;
const CANARY_TOKEN: u64 = u64::MAX - 1;
/// While the source is slower than the load, it is asked again this often.
const STARVING_NS: i64 = 200_000;
/// Finished requests leave for the recorder in batches of this size, or after this time.
const BATCH: usize = 64;
const BATCH_NS: i64 = 50_000_000;

/// What a thread is given.
pub(crate) struct Setup<'a> {
    pub(crate) spec: &'a Limits,
    pub(crate) route: &'a Route,
    pub(crate) address: SocketAddr,
    pub(crate) control: &'a LoadControl,
    pub(crate) agreement: &'a Agreement,
    pub(crate) supply: &'a Supply,
    pub(crate) recorder: SyncSender<Vec<FinishedRequest>>,
    pub(crate) canary: Option<Canary>,
    pub(crate) epoll: OwnedFd,
    pub(crate) timer: OwnedFd,
    pub(crate) connections: u64,
    /// So long before a due instant, polling replaces sleeping.
    pub(crate) lead_ns: i64,
}

/// What a thread says at its end.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) cpu_ns: i64,
    pub(crate) busy_ns: i64,
    pub(crate) is_interrupted: bool,
    pub(crate) canary: Option<CanaryErrors>,
}

/// A timer entry that is void once its job has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at_ns: i64,
    pub(super) token: Token,
    pub(super) ticket: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    Request,
    Connect,
    DoneGrace,
}

/// One read that returned in this turn.
struct Read {
    token: Token,
    t_ns: i64,
    outcome: Result<Range<usize>, Errno>,
}

pub(crate) struct Worker<'a> {
    pub(super) setup: Setup<'a>,
    pub(super) conns: Slab,
    pub(super) idle: Vec<Token>,
    pub(super) connecting_ahead: usize,
    /// Why a connection that was opened ahead failed.
    pub(super) connect_problem: Option<String>,
    pub(super) next_ticket: u64,
    pub(super) in_flight: usize,
    /// Timeouts are constants, so each queue is in order by itself.
    pub(super) request_deadlines: VecDeque<Deadline>,
    pub(super) connect_deadlines: VecDeque<Deadline>,
    pub(super) grace_deadlines: VecDeque<Deadline>,
    armed_ns: i64,
    ready: Vec<epoll::Event>,
    arena: Vec<u8>,
    reads: Vec<Read>,
    pub(super) plain: Vec<u8>,
    pub(super) next_source: usize,
    /// Finished requests on their way to the recorder.
    pub(super) finished: Vec<FinishedRequest>,
    flushed_ns: i64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(setup: Setup<'a>) -> Result<Self, LoadError> {
        epoll::add(&setup.epoll, &setup.timer, EventData::new_u64(TIMER_TOKEN), EventFlags::IN)
            .map_err(LoadError::system("watch a timer"))?;
        if let Some(canary) = &setup.canary {
            epoll::add(&setup.epoll, &canary.fd, EventData::new_u64(CANARY_TOKEN), EventFlags::IN)
                .map_err(LoadError::system("watch the canary"))?;
        }
        Ok(Self {
            setup,
            conns: Slab::default(),
            idle: Vec::new(),
            connecting_ahead: 0,
            connect_problem: None,
            next_ticket: 0,
            in_flight: 0,
            request_deadlines: VecDeque::new(),
            connect_deadlines: VecDeque::new(),
            grace_deadlines: VecDeque::new(),
            armed_ns: i64::MAX,
            ready: Vec::with_capacity(EVENTS_PER_TURN),
            arena: vec![0; ARENA_BYTES],
            reads: Vec::with_capacity(EVENTS_PER_TURN),
            plain: Vec::new(),
            next_source: 0,
            finished: Vec::new(),
            flushed_ns: i64::MIN,
        })
    }

    pub(super) fn now(&self) -> i64 {
        clock::now_ns(self.setup.spec.clock)
    }

    /// Opens this thread's share of connections, a few at a time. A connection that fails here is not missed: its
    /// request opens another and records that.
    pub(crate) fn open_connections(&mut self) -> Result<(), LoadError> {
        let deadline = self.now() + self.setup.spec.connect_timeout_ns;
        let mut left = self.setup.connections;
        while (left > 0 || self.connecting_ahead > 0) && self.now() < deadline && !self.setup.control.is_cancelled() {
            while left > 0 && self.connecting_ahead < CONNECTS_AT_ONCE {
                left -= 1;
                let Ok((token, is_connected)) = self.connect(None) else { continue };
                if is_connected {
                    self.idle.push(token);
                } else {
                    self.connecting_ahead += 1;
                }
            }
            if self.connecting_ahead > 0 {
                self.wait(self.now() + TICK_NS)?;
                self.read_and_handle()?;
            }
        }
        Ok(())
    }

    /// Runs to the end of the load.
    pub(crate) fn run(mut self, mut pacer: Pacer) -> Result<Ended, LoadError> {
        let (cpu_before, began_ns) = (clock::thread_cpu_ns(), self.now());
        let mut ended = Ended::default();
        let mut drain_until: Option<i64> = None;
        loop {
            let now = self.now();
            if self.setup.control.is_cancelled() {
                self.cut_off(&mut pacer, now, End::Cancelled);
                ended.is_interrupted = true;
                break;
            }
            let (agreement, supply) = (self.setup.agreement, self.setup.supply);
            if drain_until.is_none()
                && let Some(stop_ns) = agreement.stop_ns().filter(|stop_ns| *stop_ns <= now)
            {
                self.leave_unsent(&mut pacer, stop_ns, now, codes::CENSORED);
                drain_until = Some(stop_ns.saturating_add(self.setup.spec.drain_timeout_ns));
                self.setup.control.advance(LivePhase::Draining);
            }
            self.send_due(&mut pacer, now)?;
            let is_exhausted = pacer.is_exhausted(supply);
            if is_exhausted && self.in_flight == 0 && !self.must_wait_for_end(&pacer, drain_until, now) {
                break;
            }
            if drain_until.is_some_and(|until| until <= now) {
                self.cut_off(&mut pacer, now, End::Censored);
                break;
            }
            self.expire(&mut pacer, now);
            self.flush(now, BATCH);
            let clock = self.setup.spec.clock;
            let canary_due_ns = self.setup.canary.as_mut().map(|canary| {
                canary.act(now, clock);
                canary.due_ns()
            });
            let timers = [&self.request_deadlines, &self.connect_deadlines, &self.grace_deadlines];
            let timers = timers.into_iter().filter_map(|queue| queue.front().map(|deadline| deadline.at_ns));
            let ends = drain_until.or(agreement.stop_ns());
            let until = timers.chain(ends).chain(canary_due_ns).fold(now + TICK_NS, i64::min);
            let due = pacer.next_due_ns(supply);
            match due.map(|due| due.saturating_sub(self.setup.lead_ns)) {
                _ if pacer.is_starving() => self.wait(until.min(now + STARVING_NS))?,
                Some(wake) if wake <= now => self.wait(i64::MIN)?,
                Some(wake) => self.wait(until.min(wake))?,
                None => self.wait(until)?,
            }
            // What is due already waits for a slot or a connection; it must not keep sockets from being read.
            self.read_ready(due.filter(|due| *due > now).unwrap_or(i64::MAX));
            self.handle_reads(&mut Some(&mut pacer))?;
        }
        ended.cpu_ns = clock::thread_cpu_ns() - cpu_before;
        ended.busy_ns = self.now() - began_ns;
        ended.canary = self.setup.canary.take().map(Canary::into_errors);
        // The last batch may wait: nothing is measured any more.
        let _ = self.setup.recorder.send(std::mem::take(&mut self.finished));
        Ok(ended)
    }

    /// Sends finished requests to the recorder when there are at least `least`, or when they have waited. One that falls
    /// behind gets them later: a load thread does not wait.
    pub(super) fn flush(&mut self, now: i64, least: usize) {
        if self.finished.is_empty() || self.finished.len() < least && now < self.flushed_ns + BATCH_NS {
            return;
        }
        self.flushed_ns = now;
        let batch = std::mem::replace(&mut self.finished, Vec::with_capacity(BATCH));
        match self.setup.recorder.try_send(batch) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(back)) => self.finished = back,
        }
    }

    /// An open loop with a fixed duration lasts until its end, also when the last answer comes before. Everything else is
    /// over when nothing is left to send, and says so when that was too early.
    fn must_wait_for_end(&self, pacer: &Pacer, drain_until: Option<i64>, now: i64) -> bool {
        if drain_until.is_some() || !pacer.is_open() {
            return false;
        }
        match self.setup.spec.stop {
            Stop::Duration { .. } => true,
            Stop::AllRequests => false,
            Stop::Steady { .. } | Stop::WhenEnough { .. } => {
                self.setup.agreement.run_out(now);
                false
            }
        }
    }

    /// Sleeps until a socket is ready or `until_ns` has come; the past means: only look.
    fn wait(&mut self, until_ns: i64) -> Result<(), LoadError> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut timeout = None;
        if until_ns <= self.now() {
            timeout = Some(&zero);
        } else if self.armed_ns > until_ns || self.armed_ns <= self.now() {
            let at = until_ns.saturating_add(self.setup.spec.clock.epoch_monotonic_ns).max(1);
            let it_value = Timespec { tv_sec: at / 1_000_000_000, tv_nsec: at % 1_000_000_000 };
            let setting = Itimerspec { it_interval: zero, it_value };
            timerfd_settime(&self.setup.timer, TimerfdTimerFlags::ABSTIME, &setting)
                .map_err(LoadError::system("set a timer"))?;
            self.armed_ns = until_ns;
        }
        self.ready.clear();
        match epoll::wait(&self.setup.epoll, rustix::buffer::spare_capacity(&mut self.ready), timeout) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(LoadError::system("wait for sockets")(errno)),
        }
    }

    /// First pass over ready sockets: read and stamp, nothing else. It ends when a request is due, because an arrival that
    /// waits for a batch of reads is late by all of it; sockets left over are still ready in the next turn.
    fn read_ready(&mut self, due_ns: i64) {
        let mut used = 0;
        let epoch = self.setup.spec.clock;
        for event in &self.ready {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == TIMER_TOKEN {
                continue;
            }
            let token = Token::unpack(data);
            let fd = if data == CANARY_TOKEN {
                self.setup.canary.as_ref().map(|canary| &canary.fd)
            } else {
                match self.conns.get_mut(token) {
                    Some(conn) if conn.state == ConnState::Connecting || !flags.intersects(READABLE) => {
                        let t_ns = clock::now_ns(epoch);
                        self.reads.push(Read { token, t_ns, outcome: Err(Errno::AGAIN) });
                        continue;
                    }
                    conn => conn.map(|conn| &conn.fd),
                }
            };
            let Some(fd) = fd else { continue };
            // Sockets that find no room are still ready in the next turn.
            let Some(room) = self.arena.get_mut(used..used + READ_BYTES) else { break };
            let outcome = recv(fd, room, RecvFlags::DONTWAIT);
            let t_ns = clock::now_ns(epoch);
            let outcome = outcome.map(|(n, _)| {
                let range = used..used + n;
                used += n;
                range
            });
            self.reads.push(Read { token, t_ns, outcome });
            if t_ns >= due_ns {
                break;
            }
        }
    }

    fn read_and_handle(&mut self) -> Result<(), LoadError> {
        self.read_ready(i64::MAX);
        self.handle_reads(&mut None)
    }

    /// Second pass: connects, parsing, ends of responses, pending writes.
    fn handle_reads(&mut self, pacer: &mut Option<&mut Pacer>) -> Result<(), LoadError> {
        let mut reads = std::mem::take(&mut self.reads);
        let arena = std::mem::take(&mut self.arena);
        for Read { token, t_ns, outcome } in reads.drain(..) {
            if token.pack() == CANARY_TOKEN {
                let bytes = outcome.ok().and_then(|range| arena.get(range)).unwrap_or_default();
                self.setup.canary.iter_mut().for_each(|canary| canary.on_bytes(t_ns, bytes));
                continue;
            }
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if conn.state == ConnState::Connecting {
                self.on_connect_event(token, t_ns, pacer)?;
                continue;
            }
            match outcome {
                Ok(range) if range.is_empty() => self.on_closed(token, t_ns, pacer),
                Ok(range) => self.on_read(token, t_ns, arena.get(range).unwrap_or_default(), pacer)?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.end_job(token, t_ns, End::Reset, false, pacer),
            }
            if self.conns.get_mut(token).is_some_and(|conn| conn.wants_write) {
                self.write(token, pacer)?;
            }
        }
        self.reads = reads;
        self.arena = arena;
        Ok(())
    }

    fn send_due(&mut self, pacer: &mut Pacer, now: i64) -> Result<(), LoadError> {
        for _ in 0..SENDS_PER_TURN {
            let Some(dispatch) = pacer.take(now, self.setup.agreement, self.setup.supply) else { break };
            self.send(dispatch, pacer)?;
        }
        Ok(())
    }

    /// Ends jobs whose time is up and forgets timer entries of jobs that have ended.
    fn expire(&mut self, pacer: &mut Pacer, now: i64) {
        for kind in [Timeout::Connect, Timeout::DoneGrace, Timeout::Request] {
            while let Some(deadline) = self.queue(kind).front().copied() {
                let Deadline { at_ns, token, ticket } = deadline;
                let conn = self.conns.get_mut(token);
                let is_void = conn.is_none_or(|conn| {
                    let is_other = conn.job.as_ref().is_none_or(|job| job.ticket != ticket);
                    is_other || kind == Timeout::Connect && conn.state == ConnState::Open
                });
                if !is_void && at_ns > now {
                    break;
                }
                self.queue(kind).pop_front();
                if !is_void {
                    self.time_out(token, kind, now, &mut Some(pacer));
                }
            }
        }
    }

    fn queue(&mut self, kind: Timeout) -> &mut VecDeque<Deadline> {
        match kind {
            Timeout::Request => &mut self.request_deadlines,
            Timeout::Connect => &mut self.connect_deadlines,
            Timeout::DoneGrace => &mut self.grace_deadlines,
        }
    }

    fn time_out(&mut self, token: Token, kind: Timeout, now: i64, pacer: &mut Option<&mut Pacer>) {
        let is_connecting = self.conns.get_mut(token).is_some_and(|conn| conn.state != ConnState::Open);
        match kind {
            Timeout::DoneGrace => self.end_job(token, now, End::Closed, false, pacer),
            Timeout::Request | Timeout::Connect if is_connecting => {
                if let Some(job) = self.conns.remove(token).and_then(|conn| conn.job) {
                    self.fail_job(job, codes::CONNECT_TIMEOUT, "no answer to the connect", pacer);
                }
            }
            Timeout::Request | Timeout::Connect => self.end_job(token, now, End::TimedOut, false, pacer),
        }
    }

    /// Records what was scheduled but will not be sent.
    fn leave_unsent(&mut self, pacer: &mut Pacer, stop_ns: i64, now: i64, code: &'static str) {
        for dispatch in pacer.stop(stop_ns, self.setup.supply) {
            let mut record = record_of(&dispatch);
            record.failure_code = Some(code.to_owned());
            self.setup.control.scheduled.fetch_add(1, Relaxed);
            self.keep(record, now);
        }
    }

    /// Ends everything now; records of waiting and running requests are kept.
    fn cut_off(&mut self, pacer: &mut Pacer, now: i64, end: End) {
        let code = if end == End::Cancelled { codes::CANCELLED } else { codes::CENSORED };
        self.leave_unsent(pacer, now, now, code);
        for token in self.conns.tokens() {
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if conn.state != ConnState::Open {
                if let Some(job) = self.conns.remove(token).and_then(|conn| conn.job) {
                    self.fail_job(job, code, "still connecting", &mut None);
                }
            } else {
                self.end_job(token, now, end, false, &mut None);
            }
        }
        if end == End::Cancelled {
            self.setup.agreement.stop_at(now);
        }
    }
}

const READABLE: EventFlags = EventFlags::IN.union(EventFlags::HUP).union(EventFlags::ERR);
