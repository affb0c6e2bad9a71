//! Test doubles: an HTTP server with canned answers, an engine process (this test binary, started again), small plans.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use servelab_core::ids::{CellId, PointId};
use servelab_core::plan::{
    CellSettings, Load, NodeHours, Placement, Plan, PlanCounts, PlanStatus, PlannedCell, PlannedPoint, RolePlan,
    StopAt, WallHours,
};

pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) body: String,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    pub(crate) delay: Duration,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self { status, content_type: "application/json", body: body.to_owned(), delay: Duration::ZERO }
    }

    pub(crate) fn text(body: &str) -> Self {
        Self { content_type: "text/plain", ..Self::json(200, body) }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

pub(crate) struct FakeServer {
    port: u16,
    is_over: Arc<AtomicBool>,
}

impl FakeServer {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::on_port(0, handler)
    }

    pub(crate) fn on_port(port: u16, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, handler): (_, Arc<Handler>) = (Arc::clone(&is_over), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(SeqCst) {
                    return;
                }
                let (over, handler) = (Arc::clone(&over), Arc::clone(&handler));
                thread::spawn(move || serve(stream.unwrap(), &over, &*handler));
            }
        });
        Self { port, is_over }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, is_over: &AtomicBool, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || is_over.load(SeqCst) {
                return;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let path = head.split_whitespace().nth(1).unwrap_or("").split('?').next().unwrap_or("").to_owned();
        let reply = handler(&Request { path, body: String::from_utf8_lossy(&body).into_owned() });
        thread::sleep(reply.delay);
        let Reply { status, content_type, body, .. } = reply;
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers like a small vLLM: health, models, version, metrics, streamed completions with exact token counts.
pub(crate) struct FakeEngine {
    finished: AtomicU32,
    resets: AtomicU32,
    latency: Duration,
    /// Ends the whole process at this request.
    dies_at: Option<u32>,
}

impl FakeEngine {
    pub(crate) fn new(latency: Duration, dies_at: Option<u32>) -> Self {
        Self { finished: AtomicU32::new(0), resets: AtomicU32::new(0), latency, dies_at }
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        match request.path.as_str() {
            "/health" => Reply::text(""),
            "/v1/models" => Reply::json(200, r#"{"data": [{"id": "tiny"}]}"#),
            "/version" => Reply::json(200, r#"{"version": "0.32.0"}"#),
            "/reset_prefix_cache" => {
                self.resets.fetch_add(1, SeqCst);
                Reply::text("")
            }
            "/metrics" => Reply::text(&self.metrics()),
            "/v1/completions" => self.complete(&request.body),
            _ => Reply::json(404, r#"{"detail": "Not Found"}"#),
        }
    }

    fn metrics(&self) -> String {
        let finished = self.finished.load(SeqCst);
        format!(
            "vllm:num_requests_running{{engine=\"0\"}} 0\nvllm:num_requests_waiting{{engine=\"0\"}} 0\n\
             vllm:kv_cache_usage_perc{{engine=\"0\"}} 0.5\nvllm:num_preemptions_total{{engine=\"0\"}} 0\n\
             vllm:request_success_total{{engine=\"0\"}} {finished}\n\
             vllm:prefix_cache_resets_seen {}\n",
            self.resets.load(SeqCst)
        )
    }

    fn complete(&self, body: &str) -> Reply {
        let body: Value = serde_json::from_str(body).unwrap();
        let n = body.get("max_tokens").and_then(Value::as_u64).unwrap();
        let finished = self.finished.fetch_add(1, SeqCst) + 1;
        if self.dies_at == Some(finished) {
            println!("ValueError: fake engine dies here");
            std::process::exit(42);
        }
        let usage = json!({"prompt_tokens": 3, "completion_tokens": n, "total_tokens": n + 3});
        if body.get("stream").and_then(Value::as_bool) != Some(true) {
            let choices = json!([{"text": " x", "finish_reason": "length", "index": 0}]);
            return Reply::json(200, &json!({"id": "c", "choices": choices, "usage": usage}).to_string());
        }
        let mut text = String::new();
        for token in 0..n {
            let finish = if token + 1 == n { json!("length") } else { Value::Null };
            let choices = json!([{"index": 0, "text": " x", "finish_reason": finish}]);
            text += &format!("data: {}\n\n", json!({"id": "c", "choices": choices}));
        }
        text += &format!("data: {}\n\ndata: [DONE]\n\n", json!({"id": "c", "choices": [], "usage": usage}));
        Reply { content_type: "text/event-stream", delay: self.latency, ..Reply::json(200, &text) }
    }
}

/// Turns this test binary into an engine process when a test starts it so; otherwise there is nothing to do.
#[test]
fn engine_process() {
    let Ok(port) = std::env::var("FAKE_ENGINE_PORT") else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let engine = FakeEngine::new(
        Duration::from_millis(number("FAKE_ENGINE_LATENCY_MS").unwrap_or(20).into()),
        number("FAKE_ENGINE_DIES_AT"),
    );
    println!("INFO 11-22 [kv.py:1] GPU KV cache size: 4,096 tokens");
    let _server = FakeServer::on_port(port.parse().unwrap(), move |request| engine.answer(request));
    loop {
        thread::park();
    }
}

/// Writes a program that may be started at once. Another process writes it: were it open for writing here, a child that
/// another test starts in that instant would keep it so, and starting it would fail with "text file busy".
pub(crate) fn executable(path: &std::path::Path, text: &str) {
    let mut writer = std::process::Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// The command line of a fake engine: finds `--port` as the runner appends it.
pub(crate) fn fake_engine_role(env: &[(&str, &str)]) -> RolePlan {
    let script = "while [ $# -gt 0 ]; do [ \"$1\" = --port ] && export FAKE_ENGINE_PORT=\"$2\"; shift; done; \
                  exec \"$FAKE_ENGINE\" --exact fixtures::engine_process --nocapture";
    let exe = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let mut all = BTreeMap::from([("FAKE_ENGINE".to_owned(), exe)]);
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    role(&["/bin/sh", "-c", script, "engine", "--served-model-name", "tiny"], all)
}

pub(crate) fn role(argv: &[&str], env: BTreeMap<String, String>) -> RolePlan {
    RolePlan {
        role: "serve".to_owned(),
        count: 1,
        gpus: 1,
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        env,
        placement: vec![Placement { instance: 0, node_gpus: BTreeMap::from([(0, vec![0])]) }],
    }
}

pub(crate) fn point(id: &str, serve: &[(&str, Value)]) -> PlannedPoint {
    let serve: serde_json::Map<String, Value> = serve.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    PlannedPoint {
        id: PointId::new(id),
        labels: vec![id.to_uppercase()],
        legacy_hashes: BTreeMap::new(),
        designs: vec!["d".to_owned()],
        factors: BTreeMap::new(),
        config: json!({"engine": {"kind": "vllm"}, "model": {"id": "tiny"}, "deploy": {}, "serve": serve, "env": {}}),
        roles: vec![fake_engine_role(&[])],
        nodes: 1,
        gpus: 1,
        status: PlanStatus::Planned,
        reasons: Vec::new(),
        flag_notes: Vec::new(),
    }
}

pub(crate) fn cell(point: &PlannedPoint, concurrency: u32, repeat: u32) -> PlannedCell {
    PlannedCell {
        id: CellId::new(format!("{}-c{concurrency}-r{repeat}", point.id)),
        point: point.id.clone(),
        workload: "w".to_owned(),
        load: Load::closed(concurrency),
        repeat,
        settings: CellSettings {
            stop: StopAt::Requests(12),
            warmup_requests: 2,
            seed: 42,
            request_timeout_s: 30.0,
            output_max: None,
            ignore_eos: true,
            endpoint: None,
            temperature: 0.0,
            reuse_prompts: false,
        },
        status: PlanStatus::Planned,
        reasons: Vec::new(),
    }
}

pub(crate) fn plan(points: Vec<PlannedPoint>, cells: Vec<PlannedCell>) -> Plan {
    Plan {
        schema: 1,
        id_scheme: 1,
        study: "s".to_owned(),
        points,
        cells,
        jobs: 1,
        node_hours: NodeHours::default(),
        wall_hours: WallHours::default(),
        warnings: Vec::new(),
        designs: Vec::new(),
        counts: PlanCounts::default(),
    }
}
