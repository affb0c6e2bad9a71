//! The OpenAI-compatible server: start, routes, shutdown. What a request may say is in `request`, what an answer looks
//! like in `answer`, error bodies in `refuse`; the engine behind it is `live`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::config::ServerConfig;
use crate::config::checks::out_of_memory;
use crate::fail::FailPlan;
use crate::live::Live;
use crate::settings::SimSettings;
use crate::startup::{StartupLog, unix_seconds};
use crate::text::PromptTokenizer;
use crate::{LABEL, SimError};

mod answer;
mod generate;
mod refuse;
mod request;

use refuse::ApiError;
use request::Endpoint;

/// Time from process start to readiness without injected delays, simulated seconds.
const START_SECS: f64 = 0.2;

/// What handlers share.
pub(crate) struct App {
    live: Arc<Live>,
    tokenizer: PromptTokenizer,
    fail: FailPlan,
    seed: u64,
    speedup: f64,
    n_requests: AtomicU64,
    crashed: AtomicU64,
    crash: Notify,
    created_unix_s: u64,
}

impl App {
    fn config(&self) -> &ServerConfig {
        self.live.config()
    }
}

/// Serves until `shutdown` resolves. Answers still streaming are cut.
pub async fn serve(settings: SimSettings, shutdown: impl Future<Output = ()>) -> Result<(), SimError> {
    serve_with(settings, |_| {}, shutdown).await
}

/// As [`serve`]; `on_ready` gets the bound address once requests are answered.
pub async fn serve_with(
    settings: SimSettings,
    on_ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimError> {
    let log = StartupLog::new(Arc::clone(&settings.log));
    let fail = FailPlan::new(&settings.fail, settings.seed);
    log.before_engine(&settings);
    let config = match ServerConfig::resolve(&settings) {
        Ok(config) => config,
        Err(error) => {
            if let SimError::Refused(message) = &error {
                log.refusal(message);
            }
            return Err(error);
        }
    };
    log.engine(&config);
    tokio::pin!(shutdown);
    let load_secs = START_SECS + fail.start_delay_secs();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64((load_secs / settings.speedup).min(86_400.0))) => {}
        () = &mut shutdown => return Ok(()),
    }
    if fail.out_of_memory_at_start() {
        let message = out_of_memory(config.weight_bytes, config.gpu.memory_gb * 1e9);
        log.refusal(&message);
        return Err(SimError::InjectedOutOfMemory(message));
    }
    log.memory(&config, load_secs);
    let listen = |source| SimError::Listen { addr: settings.listen, source };
    let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(|source| {
        log.plain(&format!("ERROR: {source}: error while attempting to bind on address {}", settings.listen));
        listen(source)
    })?;
    let address = listener.local_addr().map_err(listen)?;
    let (live, engine) = Live::start(config, settings.speedup, fail.slow_factor())?;
    let app = Arc::new(App {
        live,
        tokenizer: settings.tokenizer.clone(),
        fail,
        seed: settings.seed.wrapping_add(settings.serving.integer("seed").unwrap_or(0)),
        speedup: settings.speedup,
        n_requests: AtomicU64::new(0),
        crashed: AtomicU64::new(0),
        crash: Notify::new(),
        created_unix_s: unix_seconds() as u64,
    });
    log.line("APIServer", "INFO", "entry.py:140", &format!("Starting vLLM server on http://{address}"));
    log.plain("INFO:     Application startup complete.");
    on_ready(address);
    // Nagle's algorithm would hold back small events and show up as latency.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let result = tokio::select! {
        served = axum::serve(listener, router(Arc::clone(&app))) => served.map_err(SimError::Start),
        () = &mut shutdown => Ok(()),
        () = app.crash.notified() => Err(SimError::InjectedCrash { request: app.crashed.load(Ordering::Relaxed) }),
    };
    drop(engine);
    result
}

/// As [`serve_with`] on a runtime of its own, until `shutdown` becomes true. On return all connections are closed.
pub fn run_blocking(
    settings: SimSettings,
    on_ready: impl FnOnce(SocketAddr),
    shutdown: &AtomicBool,
) -> Result<(), SimError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SimError::Start)?;
    runtime.block_on(serve_with(settings, on_ready, async {
        while !shutdown.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }))
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(|| async {}))
        .route("/ping", get(|| async {}).post(|| async {}))
        .route("/version", get(version))
        .route("/load", get(load))
        .route("/v1/models", get(models))
        .route("/metrics", get(metrics))
        .route("/server_info", get(server_info))
        .route("/tokenize", post(tokenize))
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(|| async { refuse::detail(axum::http::StatusCode::NOT_FOUND, "Not Found") })
        .method_not_allowed_fallback(|| async {
            refuse::detail(axum::http::StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        })
        .layer(DefaultBodyLimit::max(256 << 20))
        .layer(axum::middleware::map_response_with_state(Arc::clone(&app), common_headers))
        .with_state(app)
}

/// vLLM's headers, and ours that says what this is.
async fn common_headers(State(app): State<Arc<App>>, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("uvicorn"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Ok(value) = HeaderValue::from_str(&format!("{LABEL}; speedup={}", app.speedup)) {
        headers.insert(HeaderName::from_static("x-servelab-sim"), value);
    }
    response
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn version(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"version": app.config().version}))
}

async fn load(State(app): State<Arc<App>>) -> Response {
    json_response(&json!({"server_load": app.live.n_requests()}))
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let config = app.config();
    let created = app.created_unix_s;
    let cards: Vec<Value> = config
        .served_names
        .iter()
        .map(|name| {
            json!({
                "id": name, "object": "model", "created": created, "owned_by": "vllm", "root": config.model_name,
                "parent": null, "max_model_len": config.max_model_len,
                "permission": [{
                    "id": format!("modelperm-{:016x}", crate::random::mix(app.seed, 1)), "object": "model_permission",
                    "created": created, "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
                    "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false,
                    "organization": "*", "group": null, "is_blocking": false,
                }],
            })
        })
        .collect();
    json_response(&json!({"object": "list", "data": cards}))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "text/plain; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.live.metrics_page()).into_response()
}

async fn server_info(State(app): State<Arc<App>>) -> Response {
    let config = app.config();
    json_response(&json!({
        "vllm_config": config.to_vllm_json(),
        "servelab_sim": {
            "label": LABEL, "speedup": app.speedup, "gpu": config.gpu.name, "architecture": config.model.name,
            "architecture_source": config.model.source, "not_simulated": config.not_simulated, "seed": app.seed,
        },
    }))
}

async fn reset_prefix_cache(State(app): State<Arc<App>>) -> Response {
    if app.live.reset_prefix_cache() {
        Body::empty().into_response()
    } else {
        ApiError::unavailable("Failed to reset prefix cache because some blocks are not freed yet").into_response()
    }
}

async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Response {
    match request::tokenize_text(&body) {
        Ok(text) => {
            let tokens = app.tokenizer.encode(&text);
            json_response(&json!({
                "count": tokens.len(), "max_model_len": app.config().max_model_len, "tokens": tokens, "token_strs": null,
            }))
        }
        Err(error) => error.into_response(),
    }
}

async fn completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response {
    generate::generate(app, Endpoint::Completions, headers, body).await
}

async fn chat_completions(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Response {
    generate::generate(app, Endpoint::Chat, headers, body).await
}
