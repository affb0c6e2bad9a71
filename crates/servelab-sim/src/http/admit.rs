//! What a generation request gets: its fate under injected failures, its place in the engine's queue, the KV that it
//! fetches or offers, and what happens to everybody when the engine dies.

use std::time::{Duration, Instant};

use super::answer::DONE;
use super::generate::{Breakage, ENGINE_DEAD, Job, JobFacts, Line, Script};
use super::refuse::ApiError;
use super::request::{Asked, Endpoint, parse};
use super::server::{Fetching, LINE_BITS, Reply, Server};
use super::wire::{Framing, LAST_CHUNK, Request, write_chunk};
use crate::engine::RequestSpec;
use crate::fail::Fate;
use crate::live::SubmitError;
use crate::random::mix;
use crate::startup::unix_seconds;

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// How often vLLM's watchdog looks whether its engine is alive, simulated seconds.
const WATCHDOG_SECS: f64 = 5.0;

impl Server {
    /// Takes a generation request.
    pub(super) fn generate(&mut self, key: usize, endpoint: Endpoint, request: &Request) {
        self.app.n_requests += 1;
        let number = self.app.n_requests;
        let mut fate = self.app.fail.fate(number);
        self.app.apply_slow_down(number);
        match fate {
            Fate::Crash => {
                self.app.ending = Some(crate::SimError::InjectedCrash { request: number });
                return;
            }
            Fate::Unavailable => {
                return self.reply(key, ApiError::unavailable("Injected: the server is overloaded.").into());
            }
            Fate::Hang => self.app.live.hang(),
            _ => {}
        }
        let asked = match parse(self.app.live.config(), &self.app.tokenizer, endpoint, &request.body) {
            Ok(asked) => asked,
            Err(error) => return self.reply(key, error.into()),
        };
        if self.app.is_dead {
            return self.reply(key, ApiError::internal(ENGINE_DEAD).into());
        }
        if asked.kv.as_ref().is_none_or(|kv| !kv.do_remote_prefill) && fate == Fate::KvTransfer {
            fate = Fate::Serve;
        }
        let breakage = match fate {
            // An engine that fails at once gives no token.
            Fate::InBand(after) => Some((Breakage::InBand, Some(after.unwrap_or(0)))),
            Fate::Truncate(after) => Some((Breakage::Truncate, after)),
            Fate::Reset(after) => Some((Breakage::Reset, after)),
            _ => None,
        };
        let id = self.answer_id(&asked, request, number);
        let place = self.jobs.next_place();
        let scripts: Vec<(Script, u32)> = asked
            .prompts
            .iter()
            .zip(&asked.max_tokens)
            .flat_map(|(prompt, limit)| (0..asked.n).map(move |choice| (prompt, *limit, choice)))
            .map(|(prompt, limit, choice)| (Script::write(self.app.seed, &asked, prompt, limit, choice), limit))
            .collect();
        let line_id = |index: usize| (place as u64) << LINE_BITS | index as u64;
        let arrival_ns = self.app.live.now_ns();
        let specs: Vec<RequestSpec> = scripts
            .iter()
            .enumerate()
            .map(|(index, (script, limit))| RequestSpec {
                priority: asked.priority,
                ..script.spec(line_id(index), *limit, arrival_ns)
            })
            .collect();
        let lines = scripts.into_iter().enumerate().map(|(index, (script, _))| Line::new(line_id(index), script));
        let created = unix_seconds() as u64;
        let version = self.app.live.config().version.clone();
        let facts = JobFacts { conn: key, id, created, version: &version, breakage };
        let mut asked = asked;
        asked.stream_interval = asked.stream_interval.max(self.app.live.config().stream_interval);
        let mut job = Job::new(facts, asked, lines.collect());
        if fate == Fate::Zero {
            return self.answer_nothing(key, &mut job);
        }
        if let Fate::Dies(death) = fate {
            self.app.doomed = Some((line_id(0), death));
        }
        self.enqueue(key, job, specs, number, fate == Fate::KvTransfer);
    }

    fn enqueue(&mut self, key: usize, mut job: Job, mut specs: Vec<RequestSpec>, number: u64, transfer_fails: bool) {
        let app = &mut self.app;
        let now_ns = app.live.now_ns();
        let kv = job.asked.kv.clone().unwrap_or_default();
        let mut fetch_until = None;
        if let Some(connector) = &mut app.connector {
            let n_prompt = specs.first().map_or(0, |spec| spec.prompt.len() as u64);
            if kv.do_remote_decode {
                job.kv_offer = connector.offer(app.live.config(), &job.id, number, n_prompt);
            } else if kv.do_remote_prefill && transfer_fails {
                app.live.counts.kv.failed += 1;
                let text = "NIXL transfer failure: handshake_failed | Context: Error while handshaking with the prefill \
                            engine.";
                app.log.line("Worker", "ERROR", "pull_worker.py:412", text);
                if connector.fails_requests {
                    let error = ApiError::internal("Internal server error");
                    if !job.asked.stream {
                        return self.reply(key, error.into());
                    }
                    self.head(key, 200, Some(EVENT_STREAM), Framing::Chunked);
                    let body = format!("data: {}\n\n", error.body());
                    return self.send_last_chunks(key, &body);
                }
            } else if kv.do_remote_prefill && kv.is_complete && kv.n_blocks > 0 {
                let fetch = connector.fetch(app.live.config(), n_prompt, now_ns);
                app.live.counts.kv.observe(&fetch, n_prompt);
                fetch_until = Some(fetch.end_ns);
                specs.iter_mut().for_each(crate::handover::mark_fetched);
            }
        }
        if fetch_until.is_none() {
            let needs_count = app.live.config().max_num_queued_tokens.is_some();
            let queued = if needs_count { self.jobs.iter().map(Job::waiting_tokens).sum() } else { 0 };
            if let Err(error) = self.app.live.submit(std::mem::take(&mut specs), queued) {
                return self.reply(key, refused(error).into());
            }
            for line in &mut job.lines {
                line.rank = self.app.live.cluster().rank_of(line.id).unwrap_or(0);
            }
        }
        let (is_stream, n_lines) = (job.asked.stream, job.lines.len());
        let place = self.jobs.insert(job);
        debug_assert!(n_lines < 1 << LINE_BITS, "request ids have room for the choices");
        if let Some(due_ns) = fetch_until {
            self.fetching.push(Fetching { due_ns, job: place, specs });
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.job = Some(place);
        }
        if is_stream {
            self.head(key, 200, Some(EVENT_STREAM), Framing::Chunked);
        }
    }

    /// Queues the requests whose KV has arrived.
    pub(super) fn release_fetched(&mut self) {
        if self.fetching.is_empty() {
            return;
        }
        let now_ns = self.app.live.now_ns();
        let (due, later) = std::mem::take(&mut self.fetching).into_iter().partition(|fetch| fetch.due_ns <= now_ns);
        self.fetching = later;
        let due: Vec<Fetching> = due;
        for fetch in due {
            if let Err(error) = self.app.live.submit(fetch.specs, 0) {
                let Some(key) = self.jobs.get(fetch.job).map(|job| job.conn) else { continue };
                let is_stream = self.jobs.get(fetch.job).is_some_and(|job| job.asked.stream);
                self.finish_job(fetch.job);
                let error = refused(error);
                if is_stream {
                    let body = format!("data: {}\n\n", error.body());
                    self.send_last_chunks(key, &body);
                } else {
                    self.reply(key, error.into());
                }
            }
        }
    }

    fn answer_nothing(&mut self, key: usize, job: &mut Job) {
        if !job.asked.stream {
            return self.reply(key, Reply::json(&job.empty_whole()));
        }
        self.head(key, 200, Some(EVENT_STREAM), Framing::Chunked);
        let mut out = Vec::new();
        job.empty_stream(&mut out);
        self.send(key, &out);
    }

    fn send_last_chunks(&mut self, key: usize, event: &str) {
        let mut out = Vec::new();
        write_chunk(&mut out, |out| out.extend_from_slice(event.as_bytes()));
        write_chunk(&mut out, |out| out.extend_from_slice(DONE));
        out.extend_from_slice(LAST_CHUNK);
        self.send(key, &out);
    }

    fn send(&mut self, key: usize, bytes: &[u8]) {
        if let Some(conn) = self.conns.get_mut(key) {
            let sent = conn.send(bytes);
            self.after_send(key, sent);
        }
    }

    /// The engine dies: everybody in flight is told, the API says 500 and 503 for a while, then the process ends.
    pub(super) fn die(&mut self) {
        let Some((_, death)) = self.app.doomed.take() else { return };
        self.app.is_dead = true;
        self.app.live.hang();
        self.app.log.engine_death(death, self.app.live.config());
        self.fetching.clear();
        for place in self.jobs.places() {
            let Some(job) = self.jobs.remove(place) else { continue };
            let key = job.conn;
            if let Some(conn) = self.conns.get_mut(key) {
                conn.job = None;
            }
            if job.asked.stream {
                let mut out = Vec::new();
                job.fail(&mut out);
                self.send(key, &out);
            } else {
                self.reply(key, ApiError::internal(ENGINE_DEAD).into());
            }
        }
        let wait = Duration::from_secs_f64((WATCHDOG_SECS / self.app.speedup).min(86_400.0));
        self.ends_at = Some(Instant::now() + wait);
    }

    fn answer_id(&self, asked: &Asked, request: &Request, number: u64) -> String {
        let prefix = if asked.endpoint == Endpoint::Chat { "chatcmpl" } else { "cmpl" };
        let own = request.request_id.as_ref().or(asked.request_id.as_ref());
        match own {
            Some(own) => format!("{prefix}-{own}"),
            None => format!("{prefix}-{:016x}", mix(mix(self.app.seed, self.app.created_unix_s), number)),
        }
    }
}

fn refused(error: SubmitError) -> ApiError {
    match error {
        SubmitError::QueueFull => ApiError::unavailable(
            "The engine is currently busy and cannot accept new requests. Please try again later or on a different \
             instance.",
        ),
        SubmitError::TokenBacklog => ApiError::unavailable(
            "The engine has reached its prefill token backlog limit. Please try again later or on a different instance.",
        ),
        SubmitError::TooLarge => {
            ApiError::bad_request("The request does not fit into the KV cache or token budget of this server.")
        }
    }
}
