//! The loop of the server: one thread, one epoll, one timer for the next step of the engine. Each turn reads what has
//! come, completes the steps that are due and writes what they produced, one write for each answer and step; a token
//! never has a timer, a task or a lock of its own. What a request gets is in `admit`, plain endpoints are in `route`.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::App;
use super::conn::{Conn, Sent, Slab};
use super::generate::{Breakage, ENGINE_DEAD, Job, Next};
use super::refuse::{ApiError, status_line};
use super::wire::{self, Framing, HeadFacts, Parsed};
use crate::SimError;
use crate::engine::RequestSpec;
use crate::metrics::HttpRequest;

const TIMER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

const EVENTS_PER_TURN: usize = 256;
/// Writes before the next look at the sockets: a write takes about 6 µs, and a request that comes meanwhile waits.
const WRITES_PER_TURN: usize = 128;
const READ_BYTES: usize = 256 << 10;
/// How soon a stop is noticed when nothing happens.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
const READING_AND_WRITING: EventFlags = READING.union(EventFlags::OUT);

/// Request ids are a job's place and the choice's position in it.
pub(super) const LINE_BITS: u32 = 20;

/// Choices whose KV is on its way.
pub(super) struct Fetching {
    pub(super) due_ns: u64,
    pub(super) job: usize,
    pub(super) specs: Vec<RequestSpec>,
}

pub(super) struct Server {
    pub(super) app: App,
    listener: TcpListener,
    epoll: OwnedFd,
    timer: OwnedFd,
    pub(super) conns: Slab<Conn>,
    pub(super) jobs: Slab<Job>,
    /// Jobs with something to write.
    queue: VecDeque<usize>,
    pub(super) fetching: Vec<Fetching>,
    /// The engine is dead; the process ends then.
    pub(super) ends_at: Option<Instant>,
    out: Vec<u8>,
    date: (u64, String),
}

/// What an answer consists of.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: Some("application/json"), body: value.to_string().into_bytes() }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self { status, content_type: None, body: Vec::new() }
    }
}

impl From<ApiError> for Reply {
    fn from(error: ApiError) -> Self {
        Self { status: error.status, content_type: Some("application/json"), body: error.body().into_bytes() }
    }
}

fn system(errno: rustix::io::Errno) -> SimError {
    SimError::Start(io::Error::from(errno))
}

impl Server {
    pub(super) fn new(app: App, listener: TcpListener) -> Result<Self, SimError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(system)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN).map_err(system)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN).map_err(system)?;
        Ok(Self {
            app,
            listener,
            epoll,
            timer,
            conns: Slab::default(),
            jobs: Slab::default(),
            queue: VecDeque::new(),
            fetching: Vec::new(),
            ends_at: None,
            out: Vec::with_capacity(64 << 10),
            date: (u64::MAX, String::new()),
        })
    }

    /// Serves until `shutdown` becomes true or an injected failure ends the process.
    pub(super) fn run(&mut self, shutdown: &AtomicBool) -> Result<(), SimError> {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut incoming = vec![0; READ_BYTES];
        while !shutdown.load(Ordering::Relaxed) {
            self.step();
            self.write_queued();
            if let Some(error) = self.app.ending.take() {
                return Err(error);
            }
            let wait = self.wait()?;
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(system(errno)),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    TIMER => {
                        let mut expirations = [0; 8];
                        let _ = rustix::io::read(&self.timer, &mut expirations);
                    }
                    LISTENER => self.accept(),
                    place => self.on_socket(usize::try_from(place).unwrap_or(usize::MAX), event.flags, &mut incoming),
                }
            }
        }
        Ok(())
    }

    /// Arms the timer for the next instant and says how long the epoll may sleep at most.
    fn wait(&mut self) -> Result<Timespec, SimError> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !self.queue.is_empty() {
            return Ok(zero);
        }
        let fetch = self.fetching.iter().map(|fetch| self.app.live.wall_until(fetch.due_ns)).min();
        let ends = self.ends_at.map(|at| at.saturating_duration_since(Instant::now()));
        let until = [self.app.live.next_wake(), fetch, ends].into_iter().flatten().min();
        let Some(until) = until else { return Ok(timespec(LONGEST_WAIT)) };
        if until.is_zero() {
            return Ok(zero);
        }
        if until < LONGEST_WAIT {
            // The epoll's own timeout counts milliseconds.
            let value = Itimerspec { it_interval: zero, it_value: timespec(until) };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value).map_err(system)?;
        }
        Ok(timespec(LONGEST_WAIT))
    }

    /// Completes what is due and queues the jobs that got something.
    fn step(&mut self) {
        if self.ends_at.is_some_and(|at| at <= Instant::now()) {
            self.app.ending.get_or_insert(SimError::InjectedEngineDeath);
            return;
        }
        self.release_fetched();
        let Self { app, jobs, queue, .. } = self;
        let mut doomed = None;
        app.live.advance(&mut |_, progress| {
            let place = (progress.id >> LINE_BITS) as usize;
            let Some(job) = jobs.get_mut(place) else { return };
            let line = (progress.id & ((1 << LINE_BITS) - 1)) as usize;
            if app.doomed.is_some_and(|(id, _)| id == progress.id) {
                doomed = Some(progress.id);
            }
            job.progress(line, progress.n_output, progress.finish.is_some());
            if !job.is_queued && job.has_news() {
                job.is_queued = true;
                queue.push_back(place);
            }
        });
        if doomed.is_some() {
            self.die();
        }
    }

    fn write_queued(&mut self) {
        for _ in 0..WRITES_PER_TURN {
            let Some(place) = self.queue.pop_front() else { return };
            self.write_job(place);
        }
    }

    fn write_job(&mut self, place: usize) {
        let Self { app, jobs, conns, out, .. } = self;
        let Some(job) = jobs.get_mut(place) else { return };
        job.is_queued = false;
        if !job.has_news() {
            return;
        }
        if !job.asked.stream {
            return self.write_whole(place);
        }
        out.clear();
        let next = job.stream(out, &|ids| app.text_of(ids));
        let key = job.conn;
        let sent = conns.get_mut(key).map_or(Sent::Gone, |conn| conn.send(out));
        match (sent, next) {
            (Sent::Gone, _) => self.close(key),
            (_, Next::Break(what)) => self.break_off(key, what),
            (_, Next::Complete) => {
                let n_bytes = self.out.len();
                self.finish_job(place);
                self.note(key, 200, n_bytes);
                self.after_send(key, sent);
                self.take_requests(key);
            }
            (_, Next::Wait) => self.after_send(key, sent),
        }
    }

    fn write_whole(&mut self, place: usize) {
        let Some(job) = self.jobs.get(place) else { return };
        let (key, breakage) = (job.conn, job.breaks_whole());
        let text = job.whole(&|ids| self.app.text_of(ids)).to_string();
        if let Some(what) = breakage {
            if what == Breakage::InBand {
                self.finish_job(place);
                return self.reply(key, ApiError::internal(ENGINE_DEAD).into());
            }
            let half = text.as_bytes().get(..text.len() / 2).unwrap_or_default().to_vec();
            self.head(key, 200, Some("application/json"), Framing::Length(text.len()));
            if let Some(conn) = self.conns.get_mut(key) {
                let _ = conn.send(&half);
            }
            return self.break_off(key, what);
        }
        self.finish_job(place);
        self.reply(key, Reply { status: 200, content_type: Some("application/json"), body: text.into_bytes() });
        self.take_requests(key);
    }

    /// Counts an answer in the server's own metrics.
    fn note(&mut self, key: usize, status: u16, body_bytes: usize) {
        let Some(note) = self.conns.get_mut(key).and_then(|conn| conn.note.take()) else { return };
        self.app.live.counts.http.observe(&HttpRequest {
            handler: note.handler,
            method: note.method,
            status,
            seconds: note.began.elapsed().as_secs_f64(),
            request_bytes: note.body_bytes,
            response_bytes: body_bytes,
        });
    }

    /// Closes a connection before its answer is complete.
    fn break_off(&mut self, key: usize, what: Breakage) {
        if let Some(conn) = self.conns.get_mut(key)
            && what == Breakage::Reset
        {
            // Closing a socket that must not linger sends a reset.
            let _ = rustix::net::sockopt::set_socket_linger(&conn.socket, Some(Duration::ZERO));
        }
        self.close(key);
    }

    /// Ends a job whose answer is written.
    pub(super) fn finish_job(&mut self, place: usize) {
        let Some(job) = self.jobs.remove(place) else { return };
        self.app.note_finished(&job);
        // An answer that an injected failure ended early: its ids will be used again.
        job.unfinished().for_each(|id| self.app.live.abort(id));
        if let Some(conn) = self.conns.get_mut(job.conn) {
            conn.job = None;
        }
    }

    /// Appends a head to what is sent next on a connection.
    pub(super) fn head(&mut self, key: usize, status: u16, content_type: Option<&str>, framing: Framing) {
        let now = crate::startup::unix_seconds() as u64;
        if self.date.0 != now {
            self.date = (now, wire::http_date(now));
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        let facts =
            HeadFacts { label: self.app.label_header(), request_id: conn.echo_id.take(), keep_alive: !conn.must_close };
        self.out.clear();
        wire::write_head(&mut self.out, status_line(status), content_type, framing, &facts, &self.date.1);
        if framing == Framing::Chunked {
            // Streams begin with their head at once; whole answers send both together.
            let sent = conn.send(&self.out);
            self.watch(key, sent);
        }
    }

    /// Sends a whole answer.
    pub(super) fn reply(&mut self, key: usize, reply: Reply) {
        self.head(key, reply.status, reply.content_type, Framing::Length(reply.body.len()));
        let Self { conns, out, .. } = self;
        out.extend_from_slice(&reply.body);
        let sent = conns.get_mut(key).map_or(Sent::Gone, |conn| conn.send(out));
        self.note(key, reply.status, reply.body.len());
        self.after_send(key, sent);
    }

    /// Closes the connection when that was its last answer, or the client is gone.
    pub(super) fn after_send(&mut self, key: usize, sent: Sent) {
        self.watch(key, sent);
        let is_over = self.conns.get(key).is_some_and(|conn| conn.must_close && conn.job.is_none());
        if sent == Sent::Gone || (sent == Sent::All && is_over) {
            self.close(key);
        }
    }

    /// Asks to be told when there is room for what is left.
    fn watch(&mut self, key: usize, sent: Sent) {
        let Self { epoll, conns, .. } = self;
        let Some(conn) = conns.get_mut(key) else { return };
        let wants_writing = sent == Sent::Partly;
        if wants_writing != conn.is_watched_for_writing {
            conn.is_watched_for_writing = wants_writing;
            let flags = if wants_writing { READING_AND_WRITING } else { READING };
            let _ = epoll::modify(epoll, &conn.socket, EventData::new_u64(key as u64), flags);
        }
    }

    /// Closes a connection; what it waited for is aborted.
    pub(super) fn close(&mut self, key: usize) {
        let Some(conn) = self.conns.remove(key) else { return };
        let _ = epoll::delete(&self.epoll, &conn.socket);
        let Some(place) = conn.job else { return };
        self.fetching.retain(|fetch| fetch.job != place);
        if let Some(job) = self.jobs.remove(place) {
            for line in &job.lines {
                self.app.live.abort(line.id);
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            // Nagle's algorithm would hold back small events and show up as latency.
            if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
                continue;
            }
            let key = self.conns.insert(Conn::new(socket));
            let Self { epoll, conns, .. } = self;
            if let Some(conn) = conns.get(key)
                && epoll::add(epoll, &conn.socket, EventData::new_u64(key as u64), READING).is_err()
            {
                conns.remove(key);
            }
        }
    }

    fn on_socket(&mut self, key: usize, flags: EventFlags, buffer: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if flags.contains(EventFlags::OUT) && conn.has_unsent() {
            let sent = conn.flush();
            self.after_send(key, sent);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        // A client that closes its sending side is gone for this server, as for the one that it imitates.
        if !conn.read(buffer) {
            return self.close(key);
        }
        self.take_requests(key);
    }

    /// Serves the requests that are complete, one at a time.
    pub(super) fn take_requests(&mut self, key: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.job.is_none() && !conn.inbox.is_empty()) else {
                return;
            };
            match wire::parse(&conn.inbox) {
                Parsed::Incomplete { expects_continue } => {
                    if expects_continue && !conn.has_continued {
                        conn.has_continued = true;
                        let sent = conn.send(b"HTTP/1.1 100 Continue\r\n\r\n");
                        self.after_send(key, sent);
                    }
                    return;
                }
                Parsed::Refused(status) => {
                    conn.must_close = true;
                    conn.inbox.clear();
                    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                    let sent = conn.send(answer.as_bytes());
                    return self.after_send(key, sent);
                }
                Parsed::Whole(request, taken) => {
                    conn.inbox.drain(..taken);
                    conn.has_continued = false;
                    conn.must_close = !request.keep_alive;
                    self.dispatch(key, *request);
                }
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // At most some seconds, so both parts fit.
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}
