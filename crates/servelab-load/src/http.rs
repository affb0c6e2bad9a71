//! A small blocking HTTP client for everything off the hot path: health, models, one-token checks, metric scrapes.
//! http and https. Measured requests never go through here; their client is `engine`.

use std::time::Duration;

use serde_json::Value;

use crate::simtime::{SPEEDUP_HEADER, speedup_of};
use crate::target::ApiKey;

/// Largest answer that is read.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body; bytes that are not UTF-8 are replaced.
    pub body: String,
    /// The server is a simulator and its time runs so many times faster than ours.
    pub speedup: Option<f64>,
}

impl Reply {
    /// Status 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {source}")]
pub struct CallError {
    method: &'static str,
    url: String,
    source: Box<ureq::Error>,
}

impl CallError {
    /// True when nothing listens at the address; a server that is still starting looks like this.
    pub fn is_refused(&self) -> bool {
        matches!(&*self.source, ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

fn agent(timeout: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent("servelab")
        .build();
    ureq::Agent::new_with_config(config)
}

fn read(response: ureq::http::Response<ureq::Body>) -> Result<Reply, ureq::Error> {
    let status = response.status().as_u16();
    let header = response.headers().get(SPEEDUP_HEADER).and_then(|value| value.to_str().ok());
    let speedup = header.and_then(speedup_of);
    let bytes = response.into_body().into_with_config().limit(MAX_BODY_BYTES).read_to_vec()?;
    Ok(Reply { status, body: String::from_utf8_lossy(&bytes).into_owned(), speedup })
}

fn bearer(key: &ApiKey) -> String {
    format!("Bearer {}", key.expose())
}

/// GETs a URL within `timeout`. Redirects are not followed and no proxy is used.
pub fn get_text(url: &str, timeout: Duration, api_key: Option<&ApiKey>) -> Result<Reply, CallError> {
    let mut request = agent(timeout).get(url);
    if let Some(key) = api_key {
        request = request.header("Authorization", bearer(key));
    }
    let outcome = request.call().and_then(read);
    outcome.map_err(|source| CallError { method: "GET", url: url.to_owned(), source: Box::new(source) })
}

/// POSTs a JSON value within `timeout`.
pub fn post_json(url: &str, value: &Value, timeout: Duration, api_key: Option<&ApiKey>) -> Result<Reply, CallError> {
    post_json_with(url, value, timeout, api_key, &[])
}

/// POSTs a JSON value with headers of its own.
pub fn post_json_with(
    url: &str,
    value: &Value,
    timeout: Duration,
    api_key: Option<&ApiKey>,
    headers: &[(&str, String)],
) -> Result<Reply, CallError> {
    let mut request = agent(timeout).post(url).header("Content-Type", "application/json");
    if let Some(key) = api_key {
        request = request.header("Authorization", bearer(key));
    }
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let outcome = request.send(value.to_string().as_bytes()).and_then(read);
    outcome.map_err(|source| CallError { method: "POST", url: url.to_owned(), source: Box::new(source) })
}
