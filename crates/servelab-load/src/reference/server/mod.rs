//! The loop of the reference server. Each turn writes a few of the events that are due, then reads what has come; every
//! read is stamped when it returned, every write just before and just after. Instants are absolute and come from the
//! script, so lateness does not add up; a stall stops the script's clock and thereby shifts all of them. What an answer
//! consists of is in `answers`.

mod answers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::Sender;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::thread::{CpuSet, clock_nanosleep_absolute, sched_setaffinity};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::conn::{Conn, Conns, Key, Sent};
use super::log::{ReferenceLog, RequestEnd, RequestStamp};
use super::request::{self, Parsed};
use super::wire::{self, Wire};
use super::{ReferenceConfig, ReferenceError, Shared, Spin};
use crate::scheduling::wake_promptly;

/// Before a due instant, polling replaces sleeping.
const SPIN_NS: i64 = 60_000;
/// Writes per turn: a write takes about 6 µs, and a request that comes meanwhile is read so much later.
const WRITES_PER_TURN: usize = 8;
const EVENTS_PER_TURN: usize = 64;
const READ_BYTES: usize = 256 << 10;
/// How soon a stalled server notices that it shall stop.
const STALL_STEP_NS: i64 = 20_000_000;

const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
/// Listeners count down from here.
const LISTENER: u64 = u64::MAX - 2;
/// Data below is a connection's key.
const FIRST_SPECIAL: u64 = u64::MAX - (1 << 16);

const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
const READING_AND_WRITING: EventFlags = READING.union(EventFlags::OUT);

fn now_ns() -> i64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn nanos(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }
}

pub(super) struct Server {
    config: ReferenceConfig,
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
    logs: Sender<ReferenceLog>,
    epoll: OwnedFd,
    timer: OwnedFd,
    armed_ns: i64,
    conns: Conns,
    due: BinaryHeap<Reverse<(i64, Key)>>,
    wire: Wire,
    log: ReferenceLog,
    /// Length of all stalls so far: real time minus this is the script's clock.
    stalled_ns: i64,
    first_read_ns: Option<i64>,
    n_stalls: usize,
    next_number: u32,
    next_connection: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Server {
    pub(super) fn new(
        config: ReferenceConfig,
        listeners: Vec<TcpListener>,
        shared: Arc<Shared>,
        logs: Sender<ReferenceLog>,
    ) -> Result<Self, ReferenceError> {
        let system = ReferenceError::system;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("create an epoll"))?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(system("create a timer"))?;
        let watch =
            |data, fd: &dyn rustix::fd::AsFd| epoll::add(&epoll, fd.as_fd(), EventData::new_u64(data), EventFlags::IN);
        watch(WAKE, &shared.wake).map_err(system("watch an eventfd"))?;
        watch(TIMER, &timer).map_err(system("watch a timer"))?;
        for (data, listener) in listener_data().zip(&listeners) {
            watch(data, listener).map_err(system("watch a listening socket"))?;
        }
        let log =
            ReferenceLog::with_room(config.script.clone(), config.max_requests, config.max_writes, config.prefault);
        Ok(Self {
            wire: Wire::new(&config.model),
            config,
            listeners,
            shared,
            logs,
            epoll,
            timer,
            armed_ns: i64::MAX,
            conns: Conns::default(),
            due: BinaryHeap::new(),
            log,
            stalled_ns: 0,
            first_read_ns: None,
            n_stalls: 0,
            next_number: 0,
            next_connection: 0,
            outgoing: Vec::with_capacity(64 << 10),
            incoming: vec![0; READ_BYTES],
        })
    }

    /// Prepares the thread that it is called on.
    pub(super) fn settle(&self) -> Result<(), ReferenceError> {
        wake_promptly();
        if let Some(core) = self.config.core {
            let mut cores = CpuSet::new();
            if core < CpuSet::MAX_CPU {
                cores.set(core);
            }
            sched_setaffinity(None, &cores).map_err(ReferenceError::system("stay on the given core"))?;
        }
        Ok(())
    }

    pub(super) fn run(mut self) -> Result<ReferenceLog, ReferenceError> {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        while !self.shared.must_stop.load(SeqCst) {
            self.stall_if_due();
            let wait = self.write_what_is_due()?;
            let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if wait == Wait::Poll { Some(&no_time) } else { None };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(ReferenceError::system("wait for events")(errno)),
            }
            for event in events.drain(..) {
                self.on_event(event.data.u64(), event.flags)?;
            }
        }
        let now = now_ns();
        for conn in self.conns.drain() {
            if let Some(answer) = conn.answer {
                self.log.push_request(RequestStamp { end_ns: now, end: RequestEnd::Stopped, ..answer.stamp });
            }
        }
        self.log.cpu_ns = nanos(clock_gettime(ClockId::ThreadCPUTime));
        Ok(self.log)
    }

    fn on_event(&mut self, data: u64, flags: EventFlags) -> Result<(), ReferenceError> {
        match data {
            WAKE => self.on_wake(),
            TIMER => {
                self.armed_ns = i64::MAX;
                let mut expirations = [0; 8];
                let _ = rustix::io::read(&self.timer, &mut expirations);
            }
            FIRST_SPECIAL.. => self.accept(data)?,
            _ => {
                let key = Key::unpack(data);
                if flags.contains(EventFlags::OUT) {
                    self.flush(key);
                }
                if flags.intersects(READING | EventFlags::HUP | EventFlags::ERR) {
                    self.read(key);
                }
            }
        }
        Ok(())
    }

    fn on_wake(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        if self.shared.must_hand_over.swap(false, SeqCst) {
            let ReferenceConfig { max_requests, max_writes, .. } = self.config;
            let next = ReferenceLog::with_room(self.log.script.clone(), max_requests, max_writes, false);
            let mut log = std::mem::replace(&mut self.log, next);
            log.cpu_ns = nanos(clock_gettime(ClockId::ThreadCPUTime));
            // The receiver is gone only when the handle is being dropped.
            let _ = self.logs.send(log);
        }
    }

    /// Stops everything for a while, as the script says.
    fn stall_if_due(&mut self) {
        let (Some(first), Some(stall)) = (self.first_read_ns, self.config.script.stalls.get(self.n_stalls)) else {
            return;
        };
        let begin = now_ns();
        if begin < first + stall.after_ns {
            return;
        }
        let end = begin + stall.length_ns;
        while now_ns() < end && !self.shared.must_stop.load(SeqCst) {
            let step = end.min(now_ns() + STALL_STEP_NS);
            // Interrupted or not: the loop looks at the clock.
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &timespec(step));
        }
        let end = now_ns();
        self.n_stalls += 1;
        self.stalled_ns += end - begin;
        self.log.stalls.push((begin, end));
    }

    /// Writes some of what is due and says how to wait for what comes next.
    fn write_what_is_due(&mut self) -> Result<Wait, ReferenceError> {
        for _ in 0..WRITES_PER_TURN {
            let Some(&Reverse((due_ns, key))) = self.due.peek() else { break };
            if due_ns > now_ns() - self.stalled_ns {
                break;
            }
            self.due.pop();
            self.fire(key);
        }
        let next_write = self.due.peek().map(|Reverse((due_ns, _))| due_ns + self.stalled_ns);
        let stall = self.config.script.stalls.get(self.n_stalls);
        let next_stall = self.first_read_ns.zip(stall).map(|(first, stall)| first + stall.after_ns);
        let next = next_write.into_iter().chain(next_stall).min();
        let lead_ns = match self.config.spin {
            Spin::Always => return Ok(Wait::Poll),
            Spin::Near => SPIN_NS,
            Spin::Never => 0,
        };
        let Some(next) = next else { return Ok(Wait::Block) };
        let wake_ns = next - lead_ns;
        if wake_ns <= now_ns() {
            return Ok(Wait::Poll);
        }
        if wake_ns != self.armed_ns {
            let value = Itimerspec { it_interval: timespec(0), it_value: timespec(wake_ns) };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)
                .map_err(ReferenceError::system("set a timer"))?;
            self.armed_ns = wake_ns;
        }
        Ok(Wait::Block)
    }

    fn accept(&mut self, data: u64) -> Result<(), ReferenceError> {
        let Some(position) = listener_data().zip(0..self.listeners.len()).find(|(own, _)| *own == data) else {
            return Ok(());
        };
        // Some per turn; the rest of a herd waits in the queue without keeping due events.
        for _ in 0..WRITES_PER_TURN {
            let Some(Ok((socket, _))) = self.listeners.get(position.1).map(TcpListener::accept) else { break };
            if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
                continue;
            }
            let number = self.next_connection;
            self.next_connection = number.wrapping_add(1);
            let key = self.conns.insert(Conn::new(socket, number));
            let Some(conn) = self.conns.get_mut(key) else { continue };
            epoll::add(&self.epoll, &conn.socket, EventData::new_u64(key.pack()), READING)
                .map_err(ReferenceError::system("watch a connection"))?;
        }
        Ok(())
    }

    fn read(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(outcome) = conn.read(&mut self.incoming) else { return };
        let read_ns = now_ns();
        let length = match outcome {
            Ok(length) if length > 0 => length,
            _ => return self.close(key, RequestEnd::ClientClosed),
        };
        if conn.answer.is_some() || !conn.inbox.is_empty() {
            conn.inbox.extend_from_slice(self.incoming.get(..length).unwrap_or_default());
            conn.inbox_read_ns = read_ns;
            if conn.answer.is_none() {
                self.serve_inbox(key);
            }
            return;
        }
        let incoming = std::mem::take(&mut self.incoming);
        let bytes = incoming.get(..length).unwrap_or_default();
        let served = self.serve(key, bytes, read_ns);
        if let Some(conn) = self.conns.get_mut(key)
            && let Some(rest) = bytes.get(served..)
        {
            conn.inbox.extend_from_slice(rest);
            conn.inbox_read_ns = read_ns;
        }
        self.incoming = incoming;
    }

    fn serve_inbox(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.inbox.is_empty() {
            return;
        }
        let mut inbox = std::mem::take(&mut conn.inbox);
        let read_ns = conn.inbox_read_ns;
        let served = self.serve(key, &inbox, read_ns);
        if let Some(conn) = self.conns.get_mut(key) {
            inbox.drain(..served.min(inbox.len()));
            // A short answer may have ended and looked into the inbox already, which was empty then.
            conn.inbox = inbox;
        }
    }

    /// Begins answers until one takes time; returns how many bytes were used.
    fn serve(&mut self, key: Key, bytes: &[u8], read_ns: i64) -> usize {
        let mut used = 0;
        while self.conns.get_mut(key).is_some_and(|conn| conn.answer.is_none() && !conn.must_close) {
            match request::parse(bytes.get(used..).unwrap_or_default()) {
                Parsed::Incomplete => break,
                Parsed::Whole(request) => {
                    used += request.length;
                    self.begin(key, &request, read_ns);
                }
                Parsed::Refused(status) => {
                    self.send_plain(key, &wire::plain(status, ""), true);
                    break;
                }
            }
        }
        used
    }

    /// Writes `outgoing`; gives the instants before and after. `None` when the client is gone and its connection closed.
    fn send(&mut self, key: Key) -> Option<(i64, i64, Sent)> {
        let conn = self.conns.get_mut(key)?;
        let before_ns = now_ns();
        let sent = conn.send(&self.outgoing);
        let after_ns = now_ns();
        match sent {
            Sent::All => {}
            Sent::Partly => self.watch(key),
            Sent::Gone => {
                self.close(key, RequestEnd::ClientClosed);
                return None;
            }
        }
        Some((before_ns, after_ns, sent))
    }

    fn send_plain(&mut self, key: Key, reply: &str, must_close: bool) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.must_close |= must_close;
        }
        self.outgoing.clear();
        self.outgoing.extend_from_slice(reply.as_bytes());
        if self.send(key).is_some() {
            self.close_if_told(key);
        }
    }

    fn flush(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        match conn.flush() {
            Sent::All => {
                self.watch(key);
                self.close_if_told(key);
            }
            Sent::Partly => {}
            Sent::Gone => self.close(key, RequestEnd::ClientClosed),
        }
    }

    /// Asks for writability exactly while something is unsent.
    fn watch(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let wanted = conn.has_unsent();
        if wanted == conn.is_watched_for_writing {
            return;
        }
        let flags = if wanted { READING_AND_WRITING } else { READING };
        if epoll::modify(&self.epoll, &conn.socket, EventData::new_u64(key.pack()), flags).is_ok() {
            conn.is_watched_for_writing = wanted;
        }
    }

    fn finish(&mut self, key: Key, end: RequestEnd) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(answer) = conn.answer.take() else { return };
        self.log.push_request(RequestStamp { end_ns: now_ns(), end, ..answer.stamp });
        self.close_if_told(key);
        self.serve_inbox(key);
    }

    fn close_if_told(&mut self, key: Key) {
        if self.conns.get_mut(key).is_some_and(|conn| conn.must_close && conn.answer.is_none() && !conn.has_unsent()) {
            self.close(key, RequestEnd::Complete);
        }
    }

    /// Dropping the socket closes it and takes it out of the epoll.
    fn close(&mut self, key: Key, end: RequestEnd) {
        if let Some(answer) = self.conns.remove(key).and_then(|conn| conn.answer) {
            self.log.push_request(RequestStamp { end_ns: now_ns(), end, ..answer.stamp });
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Poll,
    Block,
}

fn listener_data() -> impl Iterator<Item = u64> {
    (FIRST_SPECIAL + 1..=LISTENER).rev()
}
