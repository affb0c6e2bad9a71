//! When does a server count as ready? Health answers, the model is listed, and one token was really generated: servers
//! exist that pass the first two and die on the first request. Everything has one deadline, and a server that ends while
//! being waited for is noticed at once.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servelab_load::http::{Reply, get_text, post_json};
use servelab_load::{ApiKey, Endpoint};

use crate::process::{ServerExit, ServerProcess};
use crate::serverlog::last_line;

/// What is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyStep {
    /// `/health`.
    Health,
    /// `/v1/models` lists the model.
    Models,
    /// One generated token.
    Token,
}

impl ReadyStep {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Health => "waiting for /health",
            Self::Models => "waiting for the model in /v1/models",
            Self::Token => "waiting for the first generated token",
        }
    }
}

/// What to check, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct ReadyCheck<'a> {
    /// `http://host:port`, without `/v1`.
    pub base_url: &'a str,
    /// Sent as a bearer token.
    pub api_key: Option<&'a ApiKey>,
    /// Name that `/v1/models` must list.
    pub model: &'a str,
    /// From now until everything has to be there.
    pub timeout: Duration,
    /// The server's log, for progress.
    pub log: Option<&'a Path>,
    /// A server that we did not start may have no `/health`.
    pub needs_health: bool,
    /// Port at which the server that we started must be the one that listens.
    pub own_port: Option<u16>,
}

/// A server that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Endpoint that generated the token.
    pub endpoint: Endpoint,
    /// Time from the first check to the token.
    pub waited: Duration,
}

/// Why a server is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The run was asked to end.
    #[error("cancelled")]
    Cancelled,
    /// The server's process ended.
    #[error("the server {}", exit.describe())]
    Exited {
        /// How.
        exit: ServerExit,
    },
    /// Time is up.
    #[error("not ready after {:.0} s ({}; last answer: {last_answer})", timeout.as_secs_f64(), step.describe())]
    TimedOut {
        /// What was missing.
        step: ReadyStep,
        /// The deadline.
        timeout: Duration,
        /// The latest answer or error.
        last_answer: String,
    },
    /// Another program answers at the port that was free when the server was started.
    #[error("port {port} was taken by another program while the server was loading")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// Healthy, but it serves something else.
    #[error("the server does not serve `{wanted}`; it serves {served}")]
    OtherModel {
        /// Asked for.
        wanted: String,
        /// Listed.
        served: String,
    },
}

/// Waits. `progress` is called about twice a second with the step and the server's last log line.
pub fn wait_ready(
    check: &ReadyCheck<'_>,
    mut server: Option<&mut ServerProcess>,
    is_cancelled: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(ReadyStep, Option<String>),
) -> Result<Ready, NotReady> {
    let started = Instant::now();
    let deadline = started + check.timeout;
    let mut step = ReadyStep::Health;
    let mut pause = Duration::from_millis(20);
    let mut next_progress = started;
    loop {
        if is_cancelled() {
            return Err(NotReady::Cancelled);
        }
        if let Some(exit) = server.as_deref_mut().and_then(ServerProcess::exit) {
            return Err(NotReady::Exited { exit });
        }
        if Instant::now() >= next_progress {
            progress(step, check.log.and_then(last_line));
            next_progress = Instant::now() + Duration::from_millis(500);
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(50));
        let last_answer = match advance(check, step, left) {
            Answer::Next(next) => {
                // Whoever has taken the port meanwhile is healthy too, and may even serve a model of this name.
                let is_foreign = |port: &u16| server.as_deref().is_some_and(|server| server.is_port_foreign(*port));
                if let Some(port) = check.own_port.filter(is_foreign) {
                    return Err(NotReady::PortTaken { port });
                }
                step = next;
                continue;
            }
            Answer::Done(endpoint) => return Ok(Ready { endpoint, waited: started.elapsed() }),
            Answer::OtherModel { served } => {
                return Err(NotReady::OtherModel { wanted: check.model.to_owned(), served });
            }
            Answer::NotYet(answer) => answer,
        };
        if Instant::now() >= deadline {
            // It may have ended while the last answer was being waited for.
            if let Some(exit) = server.as_deref_mut().and_then(ServerProcess::exit) {
                return Err(NotReady::Exited { exit });
            }
            return Err(NotReady::TimedOut { step, timeout: check.timeout, last_answer });
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 3 / 2).min(Duration::from_millis(500));
    }
}

enum Answer {
    Next(ReadyStep),
    Done(Endpoint),
    OtherModel { served: String },
    NotYet(String),
}

fn advance(check: &ReadyCheck<'_>, step: ReadyStep, left: Duration) -> Answer {
    let short = left.min(Duration::from_secs(5));
    match step {
        ReadyStep::Health => match get_text(&url(check, "/health"), short, check.api_key) {
            Ok(reply) if reply.is_success() => Answer::Next(ReadyStep::Models),
            Ok(reply) if !check.needs_health && matches!(reply.status, 404 | 405) => Answer::Next(ReadyStep::Models),
            other => Answer::NotYet(describe(other)),
        },
        ReadyStep::Models => match get_text(&url(check, "/v1/models"), short, check.api_key) {
            Ok(reply) if reply.is_success() => match listed_models(&reply.body) {
                Some(models) if models.iter().any(|model| model == check.model) => Answer::Next(ReadyStep::Token),
                Some(models) if !models.is_empty() => {
                    let served: Vec<String> = models.iter().map(|model| format!("`{model}`")).collect();
                    Answer::OtherModel { served: served.join(", ") }
                }
                _ => Answer::NotYet(describe(Ok(reply))),
            },
            other => Answer::NotYet(describe(other)),
        },
        ReadyStep::Token => one_token(check, left),
    }
}

/// Whichever endpoint generates first. Base models have no chat template, some servers no completions.
fn one_token(check: &ReadyCheck<'_>, left: Duration) -> Answer {
    // The first request may compile kernels for minutes.
    let limit = left.min(Duration::from_secs(300));
    let mut last = String::new();
    let messages = json!([{"role": "user", "content": "Hello"}]);
    for (endpoint, key, value) in
        [(Endpoint::Completions, "prompt", json!("Hello")), (Endpoint::Chat, "messages", messages)]
    {
        let mut body = json!({"model": check.model, "max_tokens": 1, "temperature": 0});
        if let Some(object) = body.as_object_mut() {
            object.insert(key.to_owned(), value);
        }
        match post_json(&url(check, endpoint.path()), &body, limit, check.api_key) {
            Ok(reply) if reply.is_success() && has_token(&reply.body) => return Answer::Done(endpoint),
            other => last = describe(other),
        }
    }
    Answer::NotYet(last)
}

fn has_token(body: &str) -> bool {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return false };
    let counted = value.pointer("/usage/completion_tokens").and_then(Value::as_u64);
    let has_choice = value.pointer("/choices/0").is_some_and(Value::is_object);
    has_choice && value.get("error").is_none_or(Value::is_null) && counted.is_none_or(|tokens| tokens > 0)
}

fn listed_models(body: &str) -> Option<Vec<String>> {
    let value: Value = serde_json::from_str(body).ok()?;
    let data = value.get("data")?.as_array()?;
    Some(data.iter().filter_map(|model| model.get("id")?.as_str().map(str::to_owned)).collect())
}

fn url(check: &ReadyCheck<'_>, path: &str) -> String {
    format!("{}{path}", check.base_url)
}

fn describe(answer: Result<Reply, servelab_load::http::CallError>) -> String {
    match answer {
        Ok(reply) => {
            let body: String = reply.body.chars().take(200).collect();
            format!("HTTP status {}: {}", reply.status, body.trim())
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::fixtures::{FakeServer, Reply as Canned};

    fn check(base_url: &str) -> ReadyCheck<'_> {
        ReadyCheck {
            base_url,
            api_key: None,
            model: "tiny",
            timeout: Duration::from_millis(400),
            log: None,
            needs_health: true,
            own_port: None,
        }
    }

    fn wait(server: &FakeServer, edit: impl Fn(&mut ReadyCheck<'_>)) -> Result<Ready, NotReady> {
        let url = server.url();
        let mut check = check(&url);
        edit(&mut check);
        wait_ready(&check, None, &|| false, &mut |_, _| {})
    }

    const MODELS: &str = r#"{"data": [{"id": "tiny"}, {"id": "other"}]}"#;
    const TOKEN: &str = r#"{"choices": [{"text": " x"}], "usage": {"completion_tokens": 1}}"#;

    #[test]
    fn all_three_steps_are_needed() {
        for (name, health, models, token, expected) in [
            ("ready", 200, MODELS, (200, TOKEN), "ok"),
            ("unhealthy", 503, MODELS, (200, TOKEN), "waiting for /health"),
            ("no health endpoint", 404, MODELS, (200, TOKEN), "waiting for /health"),
            ("no model yet", 200, r#"{"data": []}"#, (200, TOKEN), "waiting for the model"),
            ("another model", 200, r#"{"data": [{"id": "big"}]}"#, (200, TOKEN), "it serves `big`"),
            ("models are no JSON", 200, "<html>", (200, TOKEN), "waiting for the model"),
            ("dies on the first request", 200, MODELS, (500, "{}"), "first generated token"),
            (
                "an error with status 200",
                200,
                MODELS,
                (200, r#"{"error": {"message": "full"}}"#),
                "last answer: HTTP status 200",
            ),
            (
                "no token",
                200,
                MODELS,
                (200, r#"{"choices": [{}], "usage": {"completion_tokens": 0}}"#),
                "generated token",
            ),
        ] {
            let server = FakeServer::start(move |request| match request.path.as_str() {
                "/health" => Canned::json(health, ""),
                "/v1/models" => Canned::json(200, models),
                _ => Canned::json(token.0, token.1),
            });
            let outcome = match wait(&server, |_| {}) {
                Ok(ready) => {
                    assert_eq!(ready.endpoint, Endpoint::Completions);
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            };
            assert!(outcome.contains(expected), "{name}: {outcome}");
        }
    }

    #[test]
    fn chat_only_servers_and_servers_without_health() {
        let server = FakeServer::start(|request| match request.path.as_str() {
            "/v1/models" => Canned::json(200, MODELS),
            "/v1/chat/completions" => Canned::json(200, TOKEN),
            _ => Canned::json(404, ""),
        });
        let ready = wait(&server, |check| check.needs_health = false).unwrap();
        assert_eq!(ready.endpoint, Endpoint::Chat);
    }

    #[test]
    fn a_slow_start_is_waited_for_and_reported() {
        let calls = AtomicU32::new(0);
        let server = FakeServer::start(move |request| match request.path.as_str() {
            "/health" if calls.fetch_add(1, Relaxed) < 3 => Canned::json(503, "loading"),
            "/v1/models" => Canned::json(200, MODELS),
            _ => Canned::json(200, TOKEN),
        });
        let (url, mut steps) = (server.url(), Vec::new());
        let check = ReadyCheck { timeout: Duration::from_secs(10), ..check(&url) };
        wait_ready(&check, None, &|| false, &mut |step, _| steps.push(step)).unwrap();
        assert_eq!(steps.first(), Some(&ReadyStep::Health));
    }

    #[test]
    fn nobody_listens_and_cancelled() {
        let closed = FakeServer::start(|_| Canned::json(200, "")).url();
        let outcome = wait_ready(&check(&closed), None, &|| false, &mut |_, _| {});
        assert!(matches!(outcome, Err(NotReady::TimedOut { step: ReadyStep::Health, .. })), "{outcome:?}");
        let outcome = wait_ready(&check(&closed), None, &|| true, &mut |_, _| {});
        assert_eq!(outcome, Err(NotReady::Cancelled));
    }

    fn spawn(folder: &Path, script: &str) -> ServerProcess {
        ServerProcess::spawn(&crate::process::ServerCommand {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: folder.join("log"),
            record: folder.join("record.json"),
            token: format!("ready-test {}", folder.display()),
        })
        .unwrap()
    }

    #[test]
    fn another_program_at_the_port_is_not_taken_for_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = spawn(folder.path(), "exec sleep 60");
        let other = FakeServer::start(|request| match request.path.as_str() {
            "/v1/models" => Canned::json(200, MODELS),
            _ => Canned::json(200, TOKEN),
        });
        let url = other.url();
        let port: u16 = url.rsplit_once(':').unwrap().1.parse().unwrap();
        let check = ReadyCheck { own_port: Some(port), timeout: Duration::from_secs(10), ..check(&url) };
        let outcome = wait_ready(&check, Some(&mut process), &|| false, &mut |_, _| {});
        assert_eq!(outcome, Err(NotReady::PortTaken { port }));
    }

    #[test]
    fn a_server_that_ends_is_noticed_long_before_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = spawn(folder.path(), "echo boom; exit 9");
        let url = "http://127.0.0.1:9".to_owned();
        let check = ReadyCheck { timeout: Duration::from_secs(60), ..check(&url) };
        let started = Instant::now();
        let outcome = wait_ready(&check, Some(&mut process), &|| false, &mut |_, _| {});
        let exit = ServerExit { status: Some(9), signal: None };
        assert_eq!(outcome, Err(NotReady::Exited { exit }));
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
