//! A server on a thread and a plain HTTP client of a few lines: it keeps the tests independent of the load generator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servelab_sim::{FailSpec, SimError, SimSettings, parse_serving_flags, run_blocking};

pub struct Server {
    pub address: SocketAddr,
    pub stop: Arc<AtomicBool>,
    pub thread: Option<JoinHandle<Result<(), SimError>>>,
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(line: &str, fail: &[&str]) -> Self {
        Self::try_start(line, fail, 50.0).expect("the server starts")
    }

    pub fn try_start(line: &str, fail: &[&str], speedup: f64) -> Result<Self, SimError> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut settings = SimSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)), "acme/tiny-0.5b", "sim");
        settings.served_model_name = Some("tiny".to_owned());
        settings.serving = parse_serving_flags(&args, &settings.declared_version)?;
        settings.fail = fail.iter().map(|spec| spec.parse::<FailSpec>()).collect::<Result<_, _>>()?;
        settings.speedup = speedup;
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        settings.log = Arc::new(move |line: &str| sink.lock().expect("log").push(line.to_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let (tx, rx) = mpsc::sync_channel(1);
        let thread =
            std::thread::spawn(move || run_blocking(settings, |address, _| tx.send(address).expect("waits"), &flag));
        match rx.recv() {
            Ok(address) => Ok(Self { address, stop, thread: Some(thread), log }),
            Err(_) => Err(thread.join().expect("no panic").expect_err("it ended before it was ready")),
        }
    }

    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("send");
        stream
    }

    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut raw = Vec::new();
        // An abruptly closed connection is an outcome that some tests look for.
        let _ = self.send(method, path, body).read_to_end(&mut raw);
        Answer::parse(&String::from_utf8(raw).expect("UTF-8"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &body.to_string())
    }

    pub fn metric(&self, start: &str) -> f64 {
        let page = self.call("GET", "/metrics", "").body;
        let line = page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {page}"));
        line.rsplit(' ').next().expect("value").parse().expect("number")
    }

    pub fn until(&self, start: &str, expected: f64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.metric(start) != expected {
            assert!(Instant::now() < deadline, "{start} never became {expected}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// A chunked body came with its end marker.
    pub complete: bool,
}

impl Answer {
    pub fn parse(raw: &str) -> Self {
        let Some((head, rest)) = raw.split_once("\r\n\r\n") else {
            return Self { status: 0, head: String::new(), body: String::new(), complete: false };
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        if !head.contains("transfer-encoding: chunked") {
            return Self { status, head: head.to_owned(), body: rest.to_owned(), complete: true };
        }
        let (mut body, mut rest, mut complete) = (String::new(), rest, false);
        while let Some((size, tail)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("chunk size");
            if size == 0 {
                complete = true;
                break;
            }
            body.push_str(tail.get(..size).unwrap_or(tail));
            rest = tail.get(size + 2..).unwrap_or("");
        }
        Self { status, head: head.to_owned(), body, complete }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Events of a stream, without the end marker; panics when that is missing.
    pub fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.body);
        events
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").expect("data")).expect("JSON"))
            .collect()
    }
}

/// Keys in order, recursively, with types of leaves: two documents of the same shape give the same text.
pub fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", shape(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
    }
}

pub fn sample(name: &str) -> Option<String> {
    let path = format!("{}/../../../shared/samples/vllm/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if text.is_none() {
        println!("skipped: {path} is absent");
    }
    text
}

pub fn completion(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 12, "ignore_eos": true});
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    body
}

pub fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 12, "ignore_eos": true});
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    body
}
