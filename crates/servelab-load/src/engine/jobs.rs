//! The life of one request inside a load thread: finding or opening its connection, writing it, feeding what comes back
//! to its reader, and its record at the end. When any of this happens is decided in `worker`.

use std::sync::atomic::Ordering::Relaxed;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use servelab_core::record::{Phase, RequestRecord};

use super::conn::{Conn, ConnState, Job, Token, connect_code, connect_outcome, start_connect, write_request};
use super::pacer::{Dispatch, Pacer};
use super::session::Session;
use super::tls::TlsStream;
use super::worker::{Deadline, READ_BYTES, Worker};
use crate::clock;
use crate::codes;
use crate::control::LivePhase;
use crate::error::LoadError;
use crate::sink::{CapturedOutput, EventLog, FinishedRequest};
use crate::source::PreparedRequest;
use crate::stream::{End, Expectation, Progress, ResponseReader};

/// After `[DONE]`, for the end of the HTTP response to follow.
const DONE_GRACE_NS: i64 = 100_000_000;
/// A connection that has been idle longer is not used again: uvicorn, in front of vLLM and SGLang, closes after 5 s, and
/// a request that crosses that close would fail for no fault of the server's.
const MAX_IDLE_NS: i64 = 4_000_000_000;

/// No connection could be started; the job, if there was one, comes back.
pub(super) struct ConnectFailure {
    job: Option<Box<Job>>,
    errno: Errno,
}

/// The record of a request that has not been touched yet.
pub(super) fn record_of(dispatch: &Dispatch) -> RequestRecord {
    let request = &dispatch.request;
    let mut record = RequestRecord::scheduled(request.request_idx, dispatch.phase, dispatch.t_sched);
    record.t_slot = dispatch.t_slot;
    record.input_tokens = request.input_tokens;
    record.requested_output_tokens = request.requested_output_tokens;
    record
}

impl Worker<'_> {
    pub(super) fn send(&mut self, dispatch: Dispatch, pacer: &mut Pacer) -> Result<(), LoadError> {
        let record = record_of(&dispatch);
        let Dispatch { request, session, .. } = dispatch;
        if record.phase == Phase::Window {
            self.setup.control.advance(LivePhase::Measuring);
        }
        let PreparedRequest { body, requested_output_tokens, ignore_eos, .. } = request;
        let mut bytes = Vec::with_capacity(self.setup.route.head_prefix.len() + 24 + body.len());
        bytes.extend_from_slice(&self.setup.route.head_prefix);
        bytes.extend_from_slice(format!("{}\r\n", body.len()).as_bytes());
        if let Some(prefix) = &self.setup.spec.request_ids {
            bytes.extend_from_slice(format!("X-Request-Id: {prefix}{}\r\n", record.request_idx).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&body);
        self.next_ticket += 1;
        let job = Box::new(Job {
            ticket: self.next_ticket,
            record,
            expect: Expectation { requested_output_tokens, ignore_eos },
            reader: ResponseReader::new(self.setup.spec.keep_text || session.is_some()),
            session,
            events: EventLog::default(),
            bytes,
            written: 0,
        });
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
            if !is_fresh || !conn.is_alive() {
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
        let sources = &self.setup.spec.source_addresses;
        let source = sources.get(self.next_source % sources.len().max(1)).copied();
        self.next_source += 1;
        let (fd, is_connected) = match start_connect(self.setup.address, source) {
            Ok(started) => started,
            Err(errno) => return Err(ConnectFailure { job, errno }),
        };
        let token = self.conns.next_token();
        let interest = if is_connected && self.setup.route.tls.is_none() {
            EventFlags::IN
        } else {
            EventFlags::IN | EventFlags::OUT
        };
        if let Err(errno) = epoll::add(&self.setup.epoll, &fd, EventData::new_u64(token.pack()), interest) {
            return Err(ConnectFailure { job, errno });
        }
        // A TLS connection is not connected before its handshake: epoll reports the socket as writable, which starts it.
        let is_connected = is_connected && self.setup.route.tls.is_none();
        let state = if is_connected { ConnState::Open } else { ConnState::Connecting };
        let conn = Conn { fd, state, tls: None, job, wants_write: !is_connected, idle_since_ns: None };
        Ok((self.conns.insert(conn), is_connected))
    }

    pub(super) fn on_connect_event(
        &mut self,
        token: Token,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let outcome = connect_outcome(&conn.fd);
        if let Err(errno) = outcome {
            self.fail_connect(token, connect_code(errno), &std::io::Error::from(errno).to_string(), pacer);
            return Ok(());
        }
        let Some((config, name)) = &self.setup.route.tls else { return self.on_connected(token, t_ns, pacer) };
        match TlsStream::new(config, name.clone()) {
            Ok(tls) => {
                conn.state = ConnState::Handshaking;
                conn.tls = Some(tls);
                self.continue_handshake(token, t_ns, pacer)
            }
            Err(problem) => {
                self.fail_connect(token, codes::TLS_FAILED, &problem, pacer);
                Ok(())
            }
        }
    }

    /// A connection that was not established. One that was opened ahead is not missed.
    fn fail_connect(&mut self, token: Token, code: &'static str, detail: &str, pacer: &mut Option<&mut Pacer>) {
        match self.conns.remove(token).map(|conn| conn.job) {
            Some(Some(job)) => self.fail_job(job, code, detail, pacer),
            Some(None) => {
                self.connecting_ahead = self.connecting_ahead.saturating_sub(1);
                self.connect_problem.get_or_insert_with(|| detail.to_owned());
            }
            None => {}
        }
    }

    fn continue_handshake(&mut self, token: Token, t_ns: i64, pacer: &mut Option<&mut Pacer>) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let Some(tls) = &mut conn.tls else { return Ok(()) };
        match tls.flush(&conn.fd, || t_ns) {
            Ok(flushed) if tls.is_handshaking() || flushed.is_none() => self.watch_writes(token, flushed.is_none()),
            Ok(_) => self.on_connected(token, t_ns, pacer),
            Err(errno) => {
                self.fail_connect(token, codes::TLS_FAILED, &std::io::Error::from(errno).to_string(), pacer);
                Ok(())
            }
        }
    }

    /// Bytes of a read: plain, or the records of TLS.
    pub(super) fn on_read(
        &mut self,
        token: Token,
        t_ns: i64,
        bytes: &[u8],
        pacer: &mut Option<&mut Pacer>,
    ) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let Some(tls) = &mut conn.tls else {
            self.on_bytes(token, t_ns, bytes, pacer);
            return Ok(());
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let fed = tls.feed(bytes, &mut plain);
        let wants_write = tls.wants_write();
        let is_handshaking = conn.state == ConnState::Handshaking;
        if let Err(problem) = fed {
            if is_handshaking {
                self.fail_connect(token, codes::TLS_FAILED, &problem, pacer);
            } else {
                self.end_job(token, t_ns, End::Reset, false, pacer);
            }
            return Ok(());
        }
        if is_handshaking {
            self.continue_handshake(token, t_ns, pacer)?;
        } else if wants_write {
            self.write(token, pacer)?;
        }
        if !plain.is_empty() {
            self.on_bytes(token, t_ns, &plain, pacer);
        }
        self.plain = plain;
        Ok(())
    }

    pub(super) fn on_connected(
        &mut self,
        token: Token,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) -> Result<(), LoadError> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        conn.state = ConnState::Open;
        match &mut conn.job {
            Some(job) => {
                job.record.t_conn1 = Some(t_ns);
                self.write(token, pacer)
            }
            None => {
                self.connecting_ahead = self.connecting_ahead.saturating_sub(1);
                self.idle.push(token);
                self.watch_writes(token, false)
            }
        }
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
        let clock = self.setup.spec.clock;
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        if conn.state == ConnState::Handshaking {
            return self.continue_handshake(token, clock::now_ns(clock), pacer);
        }
        let Some(job) = conn.job.as_mut().filter(|job| !job.bytes.is_empty()) else {
            // Nothing of ours, but TLS may have something of its own to say.
            let is_flushed = match &mut conn.tls {
                Some(tls) => tls.flush(&conn.fd, || 0).is_ok_and(|flushed| flushed.is_some()),
                None => true,
            };
            return self.watch_writes(token, !is_flushed);
        };
        let is_reused = job.record.t_conn0.is_none();
        match write_request(&conn.fd, conn.tls.as_mut(), job, || clock::now_ns(clock)) {
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
            Err(_) => self.read_last_words(token, pacer),
        }
    }

    /// A server that refuses a request early answers and closes while the request is still being written. Its answer
    /// says more than the broken write.
    fn read_last_words(&mut self, token: Token, pacer: &mut Option<&mut Pacer>) -> Result<(), LoadError> {
        let mut buffer = vec![0_u8; READ_BYTES];
        loop {
            let Some(conn) = self.conns.get_mut(token).filter(|conn| conn.job.is_some()) else { return Ok(()) };
            let outcome = recv(&conn.fd, &mut buffer[..], RecvFlags::DONTWAIT);
            let t_ns = self.now();
            match outcome {
                Ok((n, _)) if n > 0 => self.on_read(token, t_ns, buffer.get(..n).unwrap_or_default(), pacer)?,
                Ok(_) => {
                    self.on_closed(token, t_ns, pacer);
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.end_job(token, t_ns, End::Reset, false, pacer);
                    return Ok(());
                }
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
        let had_token = job.reader.has_token();
        let mut tokens = 0;
        let events = &mut job.events;
        let progress = job.reader.feed(t_ns, bytes, |n_tokens| {
            tokens += u64::from(n_tokens.unsigned_abs());
            events.push(t_ns, n_tokens);
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
        if conn.state == ConnState::Handshaking {
            return self.fail_connect(token, codes::TLS_FAILED, "the server closed during the handshake", pacer);
        }
        let Some(job) = &mut conn.job else {
            self.conns.remove(token);
            return;
        };
        let events = &mut job.events;
        let is_complete = job.reader.close(t_ns, |n_tokens| events.push(t_ns, n_tokens));
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
        let Job { mut record, expect, session, reader, events, .. } = *job;
        let conclusion = reader.conclude(end, expect, &mut record);
        // Whatever ended it, the request is in flight no longer.
        record.t_done.get_or_insert(t_ns);
        let next = session.and_then(|session| self.next_turn(session, &record, conclusion.text.as_deref(), t_ns));
        let request_idx = record.request_idx;
        let keep_text = self.setup.spec.keep_text;
        let text = conclusion.text.filter(|_| keep_text);
        let output = text.map(|text| CapturedOutput { request_idx, text, token_ids: conclusion.token_ids });
        self.finish(FinishedRequest { record, events, output, detail: conclusion.detail }, next, t_ns, pacer);
    }

    /// What follows in a conversation. After a failure the rest is recorded as not sent.
    fn next_turn(
        &mut self,
        mut session: Box<Session>,
        record: &RequestRecord,
        answer: Option<&str>,
        t_ns: i64,
    ) -> Option<(i64, PreparedRequest, Box<Session>)> {
        if record.failure_code.is_none() {
            let (think_ns, request) = session.follow(answer.unwrap_or_default())?;
            let due_ns = t_ns.saturating_add(think_ns);
            // What would begin after the window belongs to no window.
            return (!self.setup.agreement.has_stopped(due_ns)).then_some((due_ns, request, session));
        }
        let is_over = matches!(record.failure_code.as_deref(), Some(codes::CANCELLED | codes::CENSORED));
        for turn in session.unsent().iter().filter(|_| !is_over) {
            let mut unsent = RequestRecord::scheduled(turn.request_idx, record.phase, t_ns);
            unsent.requested_output_tokens = turn.requested_output_tokens;
            unsent.failure_code = Some(codes::SESSION_BROKEN.to_owned());
            self.setup.control.scheduled.fetch_add(1, Relaxed);
            self.keep(unsent, t_ns);
        }
        None
    }

    /// A job that never got a connection.
    pub(super) fn fail_job(&mut self, job: Box<Job>, code: &'static str, detail: &str, pacer: &mut Option<&mut Pacer>) {
        let Job { mut record, session, events, .. } = *job;
        record.failure_code = Some(code.to_owned());
        let t_ns = self.now();
        record.t_done.get_or_insert(t_ns);
        if let Some(session) = session {
            self.next_turn(session, &record, None, t_ns);
        }
        let detail = Some(detail.to_owned());
        self.finish(FinishedRequest { record, events, output: None, detail }, None, t_ns, pacer);
    }

    fn finish(
        &mut self,
        request: FinishedRequest,
        next: Option<(i64, PreparedRequest, Box<Session>)>,
        t_ns: i64,
        pacer: &mut Option<&mut Pacer>,
    ) {
        self.in_flight -= 1;
        self.setup.control.in_flight.fetch_sub(1, Relaxed);
        if let Some(pacer) = pacer {
            match next {
                Some((due_ns, next, session)) => pacer.follow(due_ns, t_ns, request.record.phase, (next, session)),
                None => pacer.finished(t_ns, self.setup.agreement),
            }
        }
        self.hand_over(request, t_ns);
    }

    /// Records a request that was never sent.
    pub(super) fn keep(&mut self, record: RequestRecord, t_ns: i64) {
        self.hand_over(FinishedRequest { record, events: EventLog::default(), output: None, detail: None }, t_ns);
    }

    fn hand_over(&mut self, request: FinishedRequest, t_ns: i64) {
        let control = self.setup.control;
        match request.record.failure_code.as_deref() {
            None => control.done.fetch_add(1, Relaxed),
            Some(code) => {
                control.server_errors.fetch_add(u64::from(codes::is_server_error(code)), Relaxed);
                control.failed.fetch_add(1, Relaxed)
            }
        };
        self.finished.push(request);
        self.flush(t_ns, 64);
    }
}
