//! The life of an answer: begun when its request is whole, written event by event as they come due, ended by its last
//! bytes or by its fault. When this happens is decided by the loop.

use std::cmp::Reverse;
use std::time::Duration;

use super::Server;
use crate::reference::conn::{Answer, Key, Sent};
use crate::reference::fault::FaultKind;
use crate::reference::log::{RequestEnd, RequestStamp, WriteStamp};
use crate::reference::request::{Path, Request, Wishes};
use crate::reference::script::RoleChunk;
use crate::reference::wire::{self, Form, Usage};

impl Server {
    pub(super) fn begin(&mut self, key: Key, request: &Request<'_>, read_ns: i64) {
        let error = |status: &str, code, message: &str| wire::plain(status, &wire::error_body(code, message));
        let reply = match request.path {
            Path::Completions | Path::Chat => match Wishes::parse(request.body) {
                Ok(wishes) => return self.begin_answer(key, request, &wishes, read_ns),
                Err(problem) => error("400 Bad Request", 400, &problem.to_string()),
            },
            Path::Models => self.wire.models(),
            Path::Health => wire::plain("200 OK", ""),
            Path::Unknown => error("404 Not Found", 404, "the reference server has no such page"),
        };
        self.send_plain(key, &reply, request.must_close);
    }

    fn begin_answer(&mut self, key: Key, request: &Request<'_>, wishes: &Wishes, read_ns: i64) {
        self.first_read_ns.get_or_insert(read_ns);
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let mut plan = self.config.script.plan(number, wishes);
        let kind = plan.fault.map(|fault| fault.kind);
        let after = plan.fault.and_then(|fault| fault.after_events).unwrap_or(plan.n_events() / 2);
        let tokens = plan.tokens;
        let mut finish_reason = "length";
        let mut fault_after = None;
        match kind {
            Some(FaultKind::ZeroTokens) => plan.tokens = 0,
            Some(FaultKind::EarlyStop) => {
                plan.tokens = plan.tokens.min(after.saturating_mul(plan.tokens_per_event));
                finish_reason = "stop";
            }
            Some(kind) if kind.is_in_the_middle() => fault_after = Some(after),
            _ => {}
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.must_close |= request.must_close;
        let mut answer = Box::new(Answer {
            stamp: RequestStamp {
                number,
                connection: conn.number,
                read_ns,
                head_ns: 0,
                end_ns: 0,
                tokens,
                tokens_written: 0,
                end: RequestEnd::Stopped,
            },
            plan,
            path: request.path,
            is_stream: wishes.is_stream,
            wants_usage: wishes.wants_usage,
            wants_token_ids: wishes.wants_token_ids,
            prompt_tokens: wishes.prompt_tokens,
            finish_reason,
            head_left: 0,
            needs_role: request.path == Path::Chat,
            next_event: 0,
            fault_after,
            due_ns: read_ns - self.stalled_ns,
        });
        match kind {
            Some(FaultKind::Silence) => {
                conn.answer = Some(answer);
                return;
            }
            Some(FaultKind::Http503) => {
                conn.answer = Some(answer);
                let body = wire::error_body(503, "the script asked for a refusal");
                self.outgoing.clear();
                self.outgoing.extend_from_slice(wire::plain("503 Service Unavailable", &body).as_bytes());
                if self.send(key).is_some() {
                    self.finish(key, RequestEnd::Fault);
                }
                return;
            }
            _ => {}
        }
        if answer.is_stream {
            let head = match kind {
                Some(FaultKind::SlowHeader) => wire::STREAM_HEAD.get(..wire::SLOW_HEAD_BYTES).unwrap_or_default(),
                _ => wire::STREAM_HEAD,
            };
            answer.head_left = wire::STREAM_HEAD.len() - head.len();
            self.outgoing.clear();
            self.outgoing.extend_from_slice(head);
            if answer.needs_role && answer.head_left == 0 && self.config.script.role_chunk == RoleChunk::WithHead {
                self.wire.role(&mut self.outgoing, number);
                answer.needs_role = false;
            }
            answer.due_ns += answer.plan.group_delay_ns(0, answer.next_count());
        } else {
            answer.due_ns += (0..answer.plan.n_events()).map(|event| answer.plan.delay_ns(event)).sum::<i64>();
        }
        let (due_ns, is_stream) = (answer.due_ns, answer.is_stream);
        conn.answer = Some(answer);
        if is_stream {
            let Some((before_ns, ..)) = self.send(key) else { return };
            if let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) {
                answer.stamp.head_ns = before_ns;
            }
        }
        self.due.push(Reverse((due_ns, key)));
    }

    /// Does what is due for one connection.
    pub(super) fn fire(&mut self, key: Key) {
        let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) else { return };
        if !answer.is_stream {
            return self.write_whole(key);
        }
        let count = answer.next_count();
        if count == 0 && answer.fault_after.is_some() {
            return self.commit_fault(key);
        }
        let (number, first_event, due_ns) = (answer.stamp.number, answer.next_event, answer.due_ns);
        let tokens_per_event = answer.plan.tokens_per_event;
        self.outgoing.clear();
        let head_start = wire::STREAM_HEAD.len() - std::mem::take(&mut answer.head_left);
        self.outgoing.extend_from_slice(wire::STREAM_HEAD.get(head_start..).unwrap_or_default());
        if std::mem::take(&mut answer.needs_role) {
            self.wire.role(&mut self.outgoing, number);
        }
        let n_events = answer.plan.n_events();
        let mut tokens = 0;
        for event in first_event..first_event + count {
            let form = Form {
                path: answer.path,
                tokens: answer.plan.tokens_of(event),
                has_token_ids: answer.wants_token_ids,
                finish_reason: (event + 1 == n_events).then_some(answer.finish_reason),
            };
            tokens += form.tokens;
            self.wire.event(&mut self.outgoing, number, form);
        }
        answer.next_event += count;
        let is_last = answer.next_event == n_events;
        if count > 0 {
            let Some((before_ns, after_ns, sent)) = self.send(key) else { return };
            let clamp = |ns: i64| u32::try_from(ns.max(0)).unwrap_or(u32::MAX);
            self.log.push_write(WriteStamp {
                request: number,
                first_event,
                n_events: u16::try_from(count).unwrap_or(u16::MAX),
                tokens_per_event: u16::try_from(tokens_per_event).unwrap_or(u16::MAX),
                is_partial: sent == Sent::Partly,
                before_ns,
                took_ns: clamp(after_ns - before_ns),
                late_ns: clamp(before_ns - due_ns - self.stalled_ns),
            });
            if let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) {
                answer.stamp.tokens_written += tokens;
            }
            self.outgoing.clear();
        }
        if is_last { self.write_tail(key) } else { self.schedule(key) }
    }

    fn schedule(&mut self, key: Key) {
        let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) else { return };
        answer.due_ns += answer.plan.group_delay_ns(answer.next_event, answer.next_count());
        self.due.push(Reverse((answer.due_ns, key)));
    }

    /// Adds the end of the stream to what is still to be sent, in a write of its own after the last token's.
    fn write_tail(&mut self, key: Key) {
        let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) else { return };
        let kind = answer.plan.fault.map(|fault| fault.kind);
        if kind == Some(FaultKind::NoDone) {
            self.outgoing.extend_from_slice(wire::LAST_CHUNK);
        } else {
            let usage = Usage { prompt: answer.prompt_tokens, completion: answer.plan.tokens };
            let usage = answer.wants_usage.then_some(usage);
            self.wire.tail(&mut self.outgoing, answer.stamp.number, answer.path, usage);
        }
        let is_fault = matches!(kind, Some(FaultKind::NoDone | FaultKind::ZeroTokens | FaultKind::EarlyStop));
        let end = if is_fault { RequestEnd::Fault } else { RequestEnd::Complete };
        self.send_and_finish(key, end);
    }

    fn write_whole(&mut self, key: Key) {
        let Some(answer) = self.conns.get_mut(key).and_then(|conn| conn.answer.as_mut()) else { return };
        answer.stamp.tokens_written = answer.plan.tokens;
        let usage = Usage { prompt: answer.prompt_tokens, completion: answer.plan.tokens };
        self.outgoing.clear();
        self.wire.whole(&mut self.outgoing, answer.stamp.number, answer.path, usage);
        self.send_and_finish(key, RequestEnd::Complete);
    }

    fn commit_fault(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(answer) = conn.answer.as_mut() else { return };
        answer.fault_after = None;
        self.outgoing.clear();
        match answer.plan.fault.map(|fault| fault.kind) {
            Some(FaultKind::Reset) => {
                // Closing a socket that must not linger sends a reset.
                let _ = rustix::net::sockopt::set_socket_linger(&conn.socket, Some(Duration::ZERO));
                self.close(key, RequestEnd::Fault);
            }
            Some(FaultKind::Truncate) => self.close(key, RequestEnd::Fault),
            Some(FaultKind::InBandError) => {
                wire::in_band_error(&mut self.outgoing);
                self.send_and_finish(key, RequestEnd::Fault);
            }
            Some(FaultKind::BadChunk) => {
                conn.must_close = true;
                self.outgoing.extend_from_slice(wire::BAD_CHUNK);
                self.send_and_finish(key, RequestEnd::Fault);
            }
            Some(FaultKind::BadEvent) => {
                wire::bad_event(&mut self.outgoing);
                if self.send(key).is_some() {
                    self.schedule(key);
                }
            }
            // Hang: the answer stays without anything due.
            _ => {}
        }
    }

    fn send_and_finish(&mut self, key: Key, end: RequestEnd) {
        if self.send(key).is_some() {
            self.finish(key, end);
        }
    }
}
