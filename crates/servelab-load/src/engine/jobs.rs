//! The life of one request inside a load thread: finding or opening its connection, writing it, feeding what comes back
//! to its reader, and its record at the end. When any of this happens is decided in `worker`.

use std::sync::atomic::Ordering::Relaxed;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use servelab_core::record::{EventRecord, Phase, RequestRecord};

use super::conn::{Conn, ConnState, Job, Token, connect_code, connect_outcome, is_alive, start_connect, write_request};
use super::pacer::{Dispatch, Pacer};
use super::worker::{Deadline, READ_BYTES, Worker};
use crate::clock;
use crate::codes;
use crate::control::LivePhase;
use crate::error::LoadError;
use crate::spec::{CapturedOutput, FailureSample, PreparedRequest};
use crate::stream::{End, Expectation, Progress, ResponseReader};

/// After `[DONE]`, for the end of the HTTP response to follow.
const DONE_GRACE_NS: i64 = 100_000_000;
/// A connection that has been idle longer is not used again: uvicorn, in front of vLLM and SGLang, closes after 5 s, and
/// a request that crosses that close would fail for no fault of the server's.
const MAX_IDLE_NS: i64 = 4_000_000_000;
const SAMPLES_PER_CODE: usize = 5;

/// No connection could be started; the job, if there was one, comes back.
pub(super) struct ConnectFailure {
    job: Option<Box<Job>>,
    errno: Errno,
}

impl<'a> Worker<'a> {
    pub(super) fn record(&self, dispatch: Dispatch) -> Option<(RequestRecord, &'a PreparedRequest)> {
        let spec = self.setup.spec;
        let request = spec.request(dispatch.seq)?;
        let phase = if dispatch.seq < spec.warmup.len() { Phase::Warmup } else { Phase::Window };
        let mut record = RequestRecord::scheduled(request.request_idx, phase, dispatch.t_sched);
        record.t_slot = dispatch.t_slot;
        record.input_tokens = request.input_tokens;
        record.requested_output_tokens = request.requested_output_tokens;
        Some((record, request))
    }

    pub(super) fn send(&mut self, dispatch: Dispatch, pacer: &mut Pacer) -> Result<(), LoadError> {
        let Some((record, request)) = self.record(dispatch) else { return Ok(()) };
        if record.phase == Phase::Window {
            self.setup.control.advance(LivePhase::Measuring);
        }
        let mut head = self.setup.route.head_prefix.clone();
        head.extend_from_slice(format!("{}\r\n\r\n", request.body.len()).as_bytes());
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let reader = ResponseReader::new(self.setup.spec.keep_text);
        let job = Box::new(Job { ticket, seq: dispatch.seq, record, reader, head, written: 0 });
        self.in_flight += 1;
        self.setup.control.scheduled.fetch_add(1, Relaxed);
        self.setup.control.in_flight.fetch_add(1, Relaxed);
        self.place(job, &mut Some(pacer))
    }

    /// Gives a job an idle connection, or a new one.
    pub(super) fn place(&mut self, mut job: Box<Job>, pacer: &mut Option<&mut Pacer>) -> Result<(), LoadError> {
        let now = self.now();
        let slot_ns = job.record.t_slot.unwrap_or(job.record.t_sched);
        let at_ns = slot_ns.saturating_add(self.setup.spec.request_timeout_ns);
        let ticket = job.ticket;
        while let Some(token) = self.idle.pop() {
            let Some(conn) = self.conns.get_mut(token) else { continue };
            let is_fresh = conn.idle_since_ns.is_none_or(|since| now - since < MAX_IDLE_NS);
            if !is_fresh || !is_alive(&conn.fd) {
                self.conns.remove(token);
                continue;
            }
            conn.job = Some(job);
            self.request_deadlines.push_back(Deadline { at_ns, token, ticket });
            return self.write(token, pacer);
        }
        job.record.t_conn0 = Some(self.now());
        match self.connect(Some(job)) {
            Ok((token, is_connected)) => {
                self.request_deadlines.push_back(Deadline { at_ns, token, ticket });
                if is_connected {
                    return self.on_connected(token, self.now(), pacer);
                }
                let at_ns = self.now().saturating_add(self.setup.spec.connect_timeout_ns);
                self.connect_deadlines.push_back(Deadline { at_ns, token, ticket });
                Ok(())
            }
            Err(ConnectFailure { job: Some(job), errno }) => {
                self.fail_job(job, connect_code(errno), &std::io::Error::from(errno).to_string(), pacer);
                Ok(())
            }
            Err(ConnectFailure { job: None, .. }) => Ok(()),
        }
    }

    /// Starts a connection; on failure the job comes back.
    pub(super) fn connect(&mut self, job: Option<Box<Job>>) -> Result<(Token, bool), ConnectFailure> {
        let (fd, is_connected) = match start_connect(self.setup.address) {
            Ok(started) => started,
            Err(errno) => return Err(ConnectFailure { job, errno }),
        };
        let token = self.conns.next_token();
        let interest = if is_connected { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
        if let Err(errno) = epoll::add(&self.setup.epoll, &fd, EventData::new_u64(token.pack()), interest) {
            return Err(ConnectFailure { job, errno });
        }
        let state = if is_connected { ConnState::Open } else { ConnState::Connecting };
        let conn = Conn { fd, state, job, wants_write: !is_connected, idle_since_ns: None };
        Ok((self.conns.insert(conn), is_connected))
    }

    pub(super) fn on_connect_event(
        &mut self,
        token: Token,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let has_job = conn.job.is_some();
        if !has_job {
            self.connecting_ahead = self.connecting_ahead.saturating_sub(1);
        }
        match connect_outcome(&conn.fd) {
            Ok(()) if has_job => self.on_connected(token, t_ns, pacer),
            Ok(()) => {
                conn.state = ConnState::Open;
                self.watch_writes(token, false)?;
                self.idle.push(token);
                Ok(())
            }
            Err(errno) => {
                let job = self.conns.remove(token).and_then(|conn| conn.job);
                if let Some(job) = job {
                    self.fail_job(job, connect_code(errno), &std::io::Error::from(errno).to_string(), pacer);
                }
                Ok(())
            }
        }
    }

    pub(super) fn on_connected(
        &mut self,
        token: Token,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) -> Result<(), LoadError> {
        if let Some(conn) = self.conns.get_mut(token) {
            conn.state = ConnState::Open;
            if let Some(job) = &mut conn.job {
                job.record.t_conn1 = Some(t_ns);
            }
        }
        self.write(token, pacer)
    }

    /// Sets whether epoll reports writability of a connection.
    pub(super) fn watch_writes(&mut self, token: Token, wanted: bool) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        if conn.wants_write == wanted {
            return Ok(());
        }
        conn.wants_write = wanted;
        let interest = if wanted { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.setup.epoll, &conn.fd, EventData::new_u64(token.pack()), interest)
            .map_err(LoadError::system("watch a socket"))
    }

    pub(super) fn write(&mut self, token: Token, pacer: &mut Option<&mut Pacer>) -> Result<(), LoadError> {
        let spec = self.setup.spec;
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let Some(job) = &mut conn.job else { return self.watch_writes(token, false) };
        let Some(request) = spec.request(job.seq) else { return Ok(()) };
        let is_reused = job.record.t_conn0.is_none();
        match write_request(&conn.fd, job, &request.body, || clock::now_ns(spec.clock)) {
            Ok(Some(t_send)) => {
                job.record.t_send = Some(t_send);
                self.setup.control.sent.fetch_add(1, Relaxed);
                self.watch_writes(token, false)
            }
            Ok(None) => self.watch_writes(token, true),
            // The server had closed the kept connection and nothing of this request went out: take another.
            Err(_) if job.written == 0 && is_reused => {
                let job = self.conns.remove(token).and_then(|conn| conn.job);
                job.map_or(Ok(()), |job| self.place(job, pacer))
            }
            Err(_) => {
                self.read_last_words(token, pacer);
                Ok(())
            }
        }
    }

    /// A server that refuses a request early answers and closes while the request is still being written. Its answer
    /// says more than the broken write.
    pub(super) fn read_last_words(&mut self, token: Token, pacer: &mut Option<&mut Pacer>) {
        let mut buffer = vec![0_u8; READ_BYTES];
        loop {
            let Some(conn) = self.conns.get_mut(token) else { return };
            let outcome = recv(&conn.fd, &mut buffer[..], RecvFlags::DONTWAIT);
            let t_ns = self.now();
            match outcome {
                Ok((n, _)) if n > 0 => self.on_bytes(token, t_ns, buffer.get(..n).unwrap_or_default(), pacer),
                Ok(_) => return self.on_closed(token, t_ns, pacer),
                Err(Errno::INTR) => {}
                Err(_) => return self.end_job(token, t_ns, End::Reset, false, pacer),
            }
        }
    }

    pub(super) fn on_bytes(&mut self, token: Token, t_ns: i64, bytes: &[u8], pacer: &mut Option<&mut Pacer>) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let Some(job) = &mut conn.job else {
            // Nobody asked: an idle connection must stay silent.
            self.conns.remove(token);
            return;
        };
        let request_idx = job.record.request_idx;
        let had_token = job.reader.has_token();
        let mut tokens = 0;
        let keep_events = self.setup.spec.keep_events;
        let events = &mut self.log.events;
        let progress = job.reader.feed(t_ns, bytes, |n_tokens| {
            tokens += u64::from(n_tokens.unsigned_abs());
            if keep_events {
                events.push(EventRecord { request_idx, t_ns, n_tokens });
            }
        });
        if tokens > 0 {
            self.setup.control.tokens.fetch_add(tokens, Relaxed);
            if !had_token {
                self.setup.control.first_tokens.fetch_add(1, Relaxed);
            }
        }
        let ticket = job.ticket;
        let is_written = job.record.t_send.is_some();
        match progress {
            Progress::Open => {}
            Progress::Done => {
                self.grace_deadlines.push_back(Deadline { at_ns: t_ns + DONE_GRACE_NS, token, ticket });
            }
            Progress::Complete { is_reusable } => {
                self.end_job(token, t_ns, End::Complete, is_reusable && is_written, pacer);
            }
            Progress::Broken => self.end_job(token, t_ns, End::Closed, false, pacer),
        }
    }

    pub(super) fn on_closed(&mut self, token: Token, t_ns: i64, pacer: &mut Option<&mut Pacer>) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let Some(job) = &mut conn.job else {
            self.conns.remove(token);
            return;
        };
        let request_idx = job.record.request_idx;
        let keep_events = self.setup.spec.keep_events;
        let events = &mut self.log.events;
        let is_complete = job.reader.close(t_ns, |n_tokens| {
            if keep_events {
                events.push(EventRecord { request_idx, t_ns, n_tokens });
            }
        });
        let end = if is_complete { End::Complete } else { End::Closed };
        self.end_job(token, t_ns, end, false, pacer);
    }

    /// The job of a connection has ended; the connection is kept or closed.
    pub(super) fn end_job(
        &mut self,
        token: Token,
        t_ns: i64,
        end: End,
        is_reusable: bool,
        pacer: &mut Option<&mut Pacer>,
    ) {
        let job = if is_reusable {
            let Some(conn) = self.conns.get_mut(token) else { return };
            conn.idle_since_ns = Some(t_ns);
            self.idle.push(token);
            conn.job.take()
        } else {
            self.conns.remove(token).and_then(|conn| conn.job)
        };
        let Some(job) = job else { return };
        let Job { seq, mut record, reader, .. } = *job;
        let request = self.setup.spec.request(seq);
        let expect = request.map_or_else(Expectation::default, |request| Expectation {
            requested_output_tokens: request.requested_output_tokens,
            ignore_eos: request.ignore_eos,
        });
        let conclusion = reader.conclude(end, expect, &mut record);
        // Whatever ended it, the request is in flight no longer.
        record.t_done.get_or_insert(t_ns);
        if let Some(text) = conclusion.text {
            let request_idx = record.request_idx;
            self.log.outputs.push(CapturedOutput { request_idx, text, token_ids: conclusion.token_ids });
        }
        self.finish(record, conclusion.detail, t_ns, pacer);
    }

    /// A job that never got a connection.
    pub(super) fn fail_job(&mut self, job: Box<Job>, code: &'static str, detail: &str, pacer: &mut Option<&mut Pacer>) {
        let mut record = job.record;
        record.failure_code = Some(code.to_owned());
        let t_ns = self.now();
        record.t_done.get_or_insert(t_ns);
        self.finish(record, Some(detail.to_owned()), t_ns, pacer);
    }

    pub(super) fn finish(
        &mut self,
        record: RequestRecord,
        detail: Option<String>,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) {
        let control = self.setup.control;
        self.in_flight -= 1;
        control.in_flight.fetch_sub(1, Relaxed);
        let counter = if record.failure_code.is_none() { &control.done } else { &control.failed };
        counter.fetch_add(1, Relaxed);
        if record.phase == Phase::Window {
            self.log.last_window_end_ns = self.log.last_window_end_ns.max(Some(t_ns));
        }
        self.keep_sample(&record, detail);
        self.log.requests.push(record);
        if let Some(pacer) = pacer {
            pacer.finished(t_ns);
        }
    }

    pub(super) fn keep_sample(&mut self, record: &RequestRecord, detail: Option<String>) {
        let (Some(code), Some(detail)) = (&record.failure_code, detail) else { return };
        let Some((name, _)) = codes::ALL.iter().find(|(name, _)| name == code) else { return };
        let kept = self.log.samples_per_code.entry(name).or_default();
        if *kept < SAMPLES_PER_CODE {
            *kept += 1;
            let request_idx = record.request_idx;
            self.log.failure_samples.push(FailureSample { request_idx, code: code.clone(), detail });
        }
    }
}
