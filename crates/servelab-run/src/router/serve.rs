//! One client connection: its requests one after the other, each to where it belongs. Generation goes through the legs;
//! questions about health and numbers are answered here; everything else goes to a server.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use servelab_load::clock::monotonic_ns;
use servelab_load::http::get_text;
use servelab_load::simtime::SPEEDUP_HEADER;

use super::exchange::{Ended, Sink, exchange};
use super::legs::{Leg, LegOutcome, LegRecord};
use super::pool::{Picked, Pool, Server};
use super::split::{Handover, decode_body, hash, parse, prefill_body, refusal, session};
use super::wire::{Request, RequestReader, answer};
use super::{PIN_PREFILL, PIN_SERVER, Shared};

const READ_BYTES: usize = 64 << 10;
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
const JSON: &str = "application/json";

/// Paths that generate tokens and can be split.
const GENERATION: [&str; 2] = ["/v1/completions", "/v1/chat/completions"];
/// Paths that generate tokens in a way that is not split here.
const WHOLE: [&str; 3] = ["/v1/responses", "/v1/messages", "/generate"];
/// What is meant for every server.
const FOR_ALL: [&str; 6] =
    ["/reset_prefix_cache", "/start_profile", "/stop_profile", "/sleep", "/wake_up", "/reset_mm_cache"];

/// Whether the connection is still good after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

pub(super) fn connection(shared: &Shared, mut stream: TcpStream) {
    if stream.set_nonblocking(false).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let mut reader = RequestReader::default();
    while let Ok(Some(request)) = next_request(shared, &mut stream, &mut reader) {
        if route(shared, &request, &mut stream) == After::Close || !request.is_keep_alive {
            return;
        }
    }
}

/// The next request; `None` at the end of the connection or of the router, and after an answer that ends it.
fn next_request(shared: &Shared, stream: &mut TcpStream, reader: &mut RequestReader) -> io::Result<Option<Request>> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.next_request() {
            Ok(Some(request)) => return Ok(Some(request)),
            Ok(None) => {}
            Err(error) => {
                let body = error_body(&error.to_string(), error.status(), "request");
                stream.write_all(&answer(error.status(), JSON, &[], &body, false))?;
                return Ok(None);
            }
        }
        if reader.take_wants_continue() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while !is_readable(stream)? {
            if shared.is_stopping.load(SeqCst) && reader.is_empty() {
                return Ok(None);
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(n) => reader.push(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_readable(stream: &TcpStream) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    match poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)], Some(&timeout)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn error_body(message: &str, status: u16, leg: &str) -> Vec<u8> {
    json!({"error": {"message": message, "type": "router_error", "code": status, "leg": leg}}).to_string().into_bytes()
}

fn route(shared: &Shared, request: &Request, client: &mut TcpStream) -> After {
    let path = request.path();
    let is_post = request.method == "POST";
    if !is_post && request.method != "GET" {
        return own(client, request, 405, JSON, &[], &error_body("only GET and POST are routed", 405, "request"));
    }
    if request.method == "GET" && matches!(path, "/health" | "/ping") {
        let (status, speed, body) = health(shared);
        let speed: Vec<(&str, &str)> = speed.as_deref().map(|speed| (SPEEDUP_HEADER, speed)).into_iter().collect();
        return own(client, request, status, JSON, &speed, &body);
    }
    if request.method == "GET" && path == "/metrics" {
        return own(client, request, 200, "text/plain; version=0.0.4", &[], metrics(shared).as_bytes());
    }
    if is_post && FOR_ALL.contains(&path) {
        return for_all(shared, request, client);
    }
    if is_post && GENERATION.contains(&path) {
        return Generation::new(shared, request).run(client);
    }
    if is_post && shared.prefill.is_some() && WHOLE.contains(&path) {
        let text = format!("{path} is not split over prefill and decode servers; use /v1/completions or chat");
        return own(client, request, 501, JSON, &[], &error_body(&text, 501, "request"));
    }
    // Questions that any server answers.
    Generation::new(shared, request).pass(client)
}

/// An answer of the router's own.
fn own(
    client: &mut TcpStream,
    request: &Request,
    status: u16,
    kind: &str,
    extra: &[(&str, &str)],
    body: &[u8],
) -> After {
    let bytes = answer(status, kind, extra, body, request.is_keep_alive);
    if client.write_all(&bytes).is_ok() { After::Keep } else { After::Close }
}

/// Healthy when all servers are; and how fast the first one's time runs, if it is simulated.
fn health(shared: &Shared) -> (u16, Option<String>, Vec<u8>) {
    let mut speed = None;
    let mut sick = Vec::new();
    for server in all(shared) {
        match get_text(&format!("{}/health", server.url), HEALTH_TIMEOUT, None) {
            Ok(reply) if reply.is_success() => {
                speed = speed.or_else(|| reply.speedup.map(|speedup| format!("routed; speedup={speedup}")));
            }
            Ok(reply) => sick.push(json!({"server": server.url, "status": reply.status})),
            Err(error) => sick.push(json!({"server": server.url, "error": error.to_string()})),
        }
    }
    let status = if sick.is_empty() { 200 } else { 503 };
    (status, speed, json!({"healthy": sick.is_empty(), "sick": sick}).to_string().into_bytes())
}

fn all(shared: &Shared) -> impl Iterator<Item = &Server> {
    shared.prefill.iter().flat_map(|pool| &pool.servers).chain(&shared.servers.servers)
}

fn for_all(shared: &Shared, request: &Request, client: &mut TcpStream) -> After {
    let mut worst = 200;
    let mut answers = Vec::new();
    let pools = shared.prefill.iter().chain(std::iter::once(&shared.servers));
    for (pool, index) in pools.flat_map(|pool| (0..pool.servers.len()).map(move |index| (pool, index))) {
        let Some(picked) = pool.pick(shared.policy, Some(index), &|| 0) else { continue };
        let mut body = Vec::new();
        let bytes = request.to_server(&picked.server.host, &request.body, &new_id(shared));
        let (leg, ended) = exchange(&picked, &bytes, client, shared.silence, Sink::Collect(&mut body));
        let status = match ended {
            Ended::Complete { .. } => leg.status.unwrap_or(502),
            Ended::ClientGone => return After::Close,
            _ => 502,
        };
        worst = worst.max(status);
        answers.push(json!({"server": picked.server.url, "status": status, "body": String::from_utf8_lossy(&body)}));
    }
    own(client, request, worst, JSON, &[], json!({"servers": answers}).to_string().as_bytes())
}

fn metrics(shared: &Shared) -> String {
    let mut out = String::from(
        "# HELP servelab_router_requests_total Requests by what became of them.\n\
         # TYPE servelab_router_requests_total counter\n",
    );
    for (outcome, n) in shared.legs.counts() {
        out.push_str(&format!("servelab_router_requests_total{{outcome=\"{}\"}} {n}\n", outcome.name()));
    }
    let role = if shared.prefill.is_some() { "decode" } else { "serve" };
    let pools: Vec<(&str, &Pool)> =
        shared.prefill.iter().map(|pool| ("prefill", pool)).chain([(role, &shared.servers)]).collect();
    type Column = (&'static str, &'static str, &'static str, fn(&Server) -> f64);
    let columns: [Column; 4] = [
        ("in_flight", "gauge", "Requests on their way.", |s| s.in_flight.load(Relaxed) as f64),
        ("legs_total", "counter", "Requests sent to a server.", |s| s.n_sent.load(Relaxed) as f64),
        ("legs_failed_total", "counter", "Requests not answered to the end.", |s| s.n_failed.load(Relaxed) as f64),
        ("leg_seconds_total", "counter", "Time of all legs.", |s| s.busy_ns.load(Relaxed) as f64 / 1e9),
    ];
    for (name, kind, help, value) in columns {
        out.push_str(&format!("# HELP servelab_router_{name} {help}\n# TYPE servelab_router_{name} {kind}\n"));
        for (role, pool) in &pools {
            for (index, server) in pool.servers.iter().enumerate() {
                let value = value(server);
                out.push_str(&format!("servelab_router_{name}{{role=\"{role}\",server=\"{index}\"}} {value}\n"));
            }
        }
    }
    out
}

fn new_id(shared: &Shared) -> String {
    format!("{}-{}", shared.name, shared.next_id.fetch_add(1, Relaxed))
}

/// One request on its legs.
struct Generation<'a> {
    shared: &'a Shared,
    request: &'a Request,
    record: LegRecord,
}

impl<'a> Generation<'a> {
    fn new(shared: &'a Shared, request: &'a Request) -> Self {
        let id = request.header("x-request-id").filter(|id| !id.is_empty() && id.len() <= 200);
        let record = LegRecord {
            id: id.map_or_else(|| new_id(shared), str::to_owned),
            path: request.path().to_owned(),
            t_accept_ns: monotonic_ns(),
            prefill: None,
            decode: None,
            handed_over: None,
            outcome: LegOutcome::Ok,
            error: None,
        };
        Self { shared, request, record }
    }

    /// Through both legs, or the only one, and into the records.
    fn run(mut self, client: &mut TcpStream) -> After {
        let after = match &self.shared.prefill {
            Some(prefill) => self.split(prefill, client),
            None => self.last_leg(&self.request.body, client),
        };
        self.shared.legs.write(&self.record);
        after
    }

    /// To any server, without a record.
    fn pass(mut self, client: &mut TcpStream) -> After {
        self.last_leg(&self.request.body, client)
    }

    fn pick<'p>(&self, pool: &'p Pool, header: &str) -> Option<Picked<'p>> {
        let pinned = match self.request.header(header).map(str::parse::<usize>) {
            None => None,
            Some(Ok(index)) => Some(index),
            Some(Err(_)) => return None,
        };
        let own = || match self.request.header("x-session-id") {
            Some(session) => hash(session.as_bytes()),
            None => session(&self.request.body),
        };
        pool.pick(self.shared.policy, pinned, &own)
    }

    fn split(&mut self, prefill: &Pool, client: &mut TcpStream) -> After {
        let body = match parse(&self.request.body).and_then(|body| match refusal(&body) {
            Some(why) => Err(why.to_owned()),
            None => Ok(body),
        }) {
            Ok(body) => body,
            Err(why) => return self.fail(client, LegOutcome::Rejected, 400, why, "request"),
        };
        let Some(picked) = self.pick(prefill, PIN_PREFILL) else { return self.no_such_server(client, PIN_PREFILL) };
        let handover = self.shared.handover;
        let asked = prefill_body(&body, handover);
        let bytes = self.request.to_server(&picked.server.host, &asked, &self.record.id);
        let mut answered = Vec::new();
        let (leg, ended) = exchange(&picked, &bytes, client, self.shared.silence, Sink::Collect(&mut answered));
        let status = leg.status;
        self.record.prefill = Some(leg);
        if let Some(after) = self.ended_badly(&ended, &picked, client, "prefill", None) {
            return after;
        }
        // Not available before its answer is complete: the load it was is over now.
        drop(picked);
        let status = status.unwrap_or(502);
        if !(200..300).contains(&status) {
            self.record.outcome = LegOutcome::Status;
            self.record.error = Some(format!("the prefill server answered with status {status}"));
            return own(client, self.request, status, JSON, &[], &answered);
        }
        let told = decode_body(&body, &answered, handover);
        self.record.handed_over = (handover == Handover::Params).then_some(told.is_some());
        // Without a hand-over the decode server computes the prompt itself. That is passed on and recorded: hiding it
        // behind an error would hide what the deployment does.
        let told = told.unwrap_or_else(|| self.request.body.clone());
        self.last_leg(&told, client)
    }

    fn last_leg(&mut self, body: &[u8], client: &mut TcpStream) -> After {
        let Some(picked) = self.pick(&self.shared.servers, PIN_SERVER) else {
            return self.no_such_server(client, PIN_SERVER);
        };
        let name = if self.shared.prefill.is_some() { "decode" } else { "serve" };
        let bytes = self.request.to_server(&picked.server.host, body, &self.record.id);
        let (leg, ended) = exchange(&picked, &bytes, client, self.shared.silence, Sink::Stream);
        let (status, has_begun) = (leg.status, leg.t_head_ns.is_some());
        self.record.decode = Some(leg);
        if let Some(after) = self.ended_badly(&ended, &picked, client, name, Some(has_begun)) {
            return after;
        }
        if let Some(status) = status.filter(|status| !(200..300).contains(status)) {
            self.record.outcome = LegOutcome::Status;
            self.record.error = Some(format!("the {name} server answered with status {status}"));
        }
        match ended {
            Ended::Complete { is_framed: true } => After::Keep,
            _ => After::Close,
        }
    }

    /// What the client is told when a leg has no whole answer. Once a part of it has gone out, the end of the connection
    /// is all that can be said, and it is what the server said.
    fn ended_badly(
        &mut self,
        ended: &Ended,
        picked: &Picked<'_>,
        client: &mut TcpStream,
        leg: &str,
        has_begun: Option<bool>,
    ) -> Option<After> {
        let url = &picked.server.url;
        let (outcome, status, why) = match ended {
            Ended::Complete { .. } => return None,
            Ended::ClientGone => {
                self.record.outcome = LegOutcome::ClientGone;
                return Some(After::Close);
            }
            Ended::Refused(error) => {
                (LegOutcome::Refused, 502, format!("no connection to the {leg} server {url}: {error}"))
            }
            Ended::Died(why) => (LegOutcome::Died, 502, format!("the {leg} server {url} failed: {why}")),
            Ended::TimedOut => {
                let seconds = self.shared.silence.as_secs_f64();
                (LegOutcome::TimedOut, 504, format!("the {leg} server {url} said nothing for {seconds} s"))
            }
        };
        if has_begun == Some(true) {
            self.record.outcome = outcome;
            self.record.error = Some(why);
            return Some(After::Close);
        }
        Some(self.fail(client, outcome, status, why, leg))
    }

    fn no_such_server(&mut self, client: &mut TcpStream, header: &str) -> After {
        let why = format!("`{header}` names no server of this router");
        self.fail(client, LegOutcome::Rejected, 400, why, "request")
    }

    fn fail(&mut self, client: &mut TcpStream, outcome: LegOutcome, status: u16, why: String, leg: &str) -> After {
        let body = error_body(&why, status, leg);
        self.record.outcome = outcome;
        self.record.error = Some(why);
        own(client, self.request, status, JSON, &[], &body)
    }
}

/// A leg's own time, for tests and summaries.
impl Leg {
    /// From sending to the end of the answer.
    pub fn duration_ns(&self) -> i64 {
        self.t_end_ns - self.t_send_ns
    }
}
