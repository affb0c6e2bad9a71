//! Which path means what, and the plain endpoints: models, tokens, state of the server, profiler. Generation is `admit`'s
//! business.

use std::time::Instant;

use serde_json::{Value, json};

use super::conn::RequestNote;
use super::fields::Fields;
use super::refuse::ApiError;
use super::request::{Endpoint, tokenize_text};
use super::server::{Reply, Server};
use super::wire::Request;
use crate::random::mix;

/// Paths that an API key guards.
const GUARDED: [&str; 4] = ["/v1", "/v2", "/inference", "/cohere"];

/// Endpoints: path and methods. Development endpoints are always there.
const ROUTES: [(&str, &[&str]); 20] = [
    ("/health", &["GET"]),
    ("/ping", &["GET", "POST"]),
    ("/version", &["GET"]),
    ("/load", &["GET"]),
    ("/metrics", &["GET"]),
    ("/v1/models", &["GET"]),
    ("/v1/completions", &["POST"]),
    ("/v1/chat/completions", &["POST"]),
    ("/tokenize", &["POST"]),
    ("/detokenize", &["POST"]),
    ("/server_info", &["GET"]),
    ("/reset_prefix_cache", &["POST"]),
    ("/reset_mm_cache", &["POST"]),
    ("/start_profile", &["POST"]),
    ("/stop_profile", &["POST"]),
    ("/sleep", &["POST"]),
    ("/wake_up", &["POST"]),
    ("/is_sleeping", &["GET"]),
    ("/kv_event_sources", &["GET"]),
    ("/tokenizer_info", &["GET"]),
];

/// Paths that the server's own request metrics leave out.
const UNCOUNTED: [&str; 6] = ["/health", "/ping", "/version", "/load", "/metrics", "/server_info"];

fn detail(status: u16, text: &str) -> Reply {
    Reply { status, ..Reply::json(&json!({"detail": text})) }
}

impl Server {
    /// Answers a request, or begins to.
    pub(super) fn dispatch(&mut self, key: usize, request: Request) {
        let route = ROUTES.iter().find(|(path, _)| *path == request.path);
        let method =
            ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"].into_iter().find(|name| *name == request.method);
        if let Some(conn) = self.conns.get_mut(key) {
            let handler = route.map_or("none", |(path, _)| path);
            conn.note = (!UNCOUNTED.contains(&handler)).then(|| RequestNote {
                handler,
                method: method.unwrap_or("GET"),
                began: Instant::now(),
                body_bytes: request.body.len(),
            });
            if self.app.echoes_request_id {
                let drawn = || format!("{:032x}", mix(self.app.seed, self.app.n_requests));
                conn.echo_id = Some(request.request_id.clone().unwrap_or_else(drawn));
            }
        }
        if !self.app.is_authorised(&request) {
            let reply = Reply { status: 401, ..Reply::json(&json!({"error": "Unauthorized"})) };
            return self.reply(key, reply);
        }
        let Some((path, methods)) = route else { return self.reply(key, detail(404, "Not Found")) };
        if !methods.contains(&request.method.as_str()) {
            return self.reply(key, detail(405, "Method Not Allowed"));
        }
        match *path {
            "/v1/completions" => self.generate(key, Endpoint::Completions, &request),
            "/v1/chat/completions" => self.generate(key, Endpoint::Chat, &request),
            path => {
                let reply = self.plain(path, &request).unwrap_or_else(Reply::from);
                self.reply(key, reply);
            }
        }
    }

    fn plain(&mut self, path: &str, request: &Request) -> Result<Reply, ApiError> {
        let n_fetching = self.fetching.len();
        let app = &mut self.app;
        let config = app.live.config();
        Ok(match path {
            "/health" | "/ping" => Reply::empty(if app.is_dead { 503 } else { 200 }),
            "/version" => Reply::json(&json!({"version": config.version})),
            "/load" => Reply::json(&json!({"server_load": app.live.n_requests()})),
            "/metrics" => Reply {
                status: 200,
                content_type: Some("text/plain; version=1.0.0; charset=utf-8"),
                body: app.live.metrics_page(n_fetching, app.is_sleeping).into_bytes(),
            },
            "/v1/models" => Reply::json(&self.models()),
            "/server_info" => Reply::json(&self.server_info()),
            "/tokenize" => self.tokenize(&request.body)?,
            "/detokenize" => self.detokenize(&request.body)?,
            "/tokenizer_info" => return Err(ApiError::bad_request("Tokenizer not initialized")),
            "/reset_prefix_cache" => {
                app.log.line("APIServer", "INFO", "api_router.py:39", "Resetting prefix cache...");
                let success = app.live.reset_prefix_cache();
                let (level, text) = if success {
                    ("INFO", "Successfully reset prefix cache")
                } else {
                    ("WARNING", "Failed to reset prefix cache because some blocks are not freed yet")
                };
                app.log.line("EngineCore", level, "block_pool.py:861", text);
                if crate::flags::version_key(&app.live.config().version) < (0, 12) {
                    return Ok(Reply::empty(200));
                }
                Reply::json(&json!({"success": success}))
            }
            "/start_profile" | "/stop_profile" => self.profile(path == "/start_profile", &request.body)?,
            "/sleep" | "/wake_up" | "/reset_mm_cache" => {
                app.is_sleeping = path == "/sleep" || (path == "/reset_mm_cache" && app.is_sleeping);
                Reply::empty(200)
            }
            "/is_sleeping" => Reply::json(&json!({"is_sleeping": app.is_sleeping})),
            _ => Reply::json(&json!([])),
        })
    }

    fn models(&self) -> Value {
        let config = self.app.live.config();
        let created = self.app.created_unix_s;
        let cards: Vec<Value> = config
            .served_names
            .iter()
            .map(|name| {
                json!({
                    "id": name, "object": "model", "created": created, "owned_by": "vllm", "root": config.model_name,
                    "parent": null, "max_model_len": config.max_model_len,
                    "permission": [{
                        "id": format!("modelperm-{:016x}", mix(self.app.seed, 1)), "object": "model_permission",
                        "created": created, "allow_create_engine": false, "allow_sampling": true,
                        "allow_logprobs": true, "allow_search_indices": false, "allow_view": true,
                        "allow_fine_tuning": false, "organization": "*", "group": null, "is_blocking": false,
                    }],
                })
            })
            .collect();
        json!({"object": "list", "data": cards})
    }

    fn server_info(&self) -> Value {
        let app = &self.app;
        let config = app.live.config();
        json!({
            "vllm_config": config.to_vllm_json(),
            "vllm_env": {},
            "system_env": {},
            "servelab_sim": {
                "label": app.label.name(), "speedup": app.speedup, "gpu": config.gpu.name, "architecture": config.model.name,
                "architecture_source": config.model.source, "not_simulated": config.not_simulated, "seed": app.seed,
                "stands_for_gpus": config.tp * config.pp * config.dp,
            },
        })
    }

    fn check_model(&self, fields: &Fields) -> Result<(), ApiError> {
        let served = &self.app.live.config().served_names;
        match fields.text("model")? {
            Some(name) if !served.iter().any(|known| known == name) => Err(ApiError::no_model(name, served)),
            _ => Ok(()),
        }
    }

    fn tokenize(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let fields = Fields::parse(body)?;
        let text = tokenize_text(&fields)?;
        self.check_model(&fields)?;
        let tokens = self.app.tokenizer.encode(&text);
        let strings = fields
            .is_set("return_token_strs")?
            .then(|| tokens.iter().map(|id| self.app.text_of(&[*id])).collect::<Vec<_>>());
        Ok(Reply::json(&json!({
            "count": tokens.len(), "max_model_len": self.app.live.config().max_model_len, "tokens": tokens,
            "token_strs": strings,
        })))
    }

    fn detokenize(&self, body: &[u8]) -> Result<Reply, ApiError> {
        let fields = Fields::parse(body)?;
        if fields.present("tokens").is_none() {
            let input = format!("'<dict of {} items>'", fields.0.len());
            return Err(ApiError::model("body.tokens", "missing", "Field required", &input, ""));
        }
        let ids = fields.ids("tokens")?;
        self.check_model(&fields)?;
        Ok(Reply::json(&json!({"prompt": self.app.text_of(&ids)})))
    }

    fn profile(&mut self, starts: bool, body: &[u8]) -> Result<Reply, ApiError> {
        let app = &mut self.app;
        let Some(profiler) = &mut app.profiler else { return Ok(detail(404, "Not Found")) };
        if starts {
            app.log.line("APIServer", "INFO", "api_router.py:39", "Starting profiler...");
            let fields = if body.is_empty() { Fields::default() } else { Fields::parse(body)? };
            let prefix = fields.text("profile_prefix")?.map(str::to_owned);
            if !profiler.start(&mut app.live, prefix) {
                let text = "A profiling session is already active. Call /stop_profile before starting another session.";
                return Err(ApiError::conflict(text));
            }
            app.log.line("APIServer", "INFO", "api_router.py:44", "Profiler started.");
        } else {
            app.log.line("APIServer", "INFO", "api_router.py:50", "Stopping profiler...");
            profiler.stop(&mut app.live, &app.log);
            app.log.line("APIServer", "INFO", "api_router.py:52", "Profiler stopped.");
        }
        Ok(Reply::empty(200))
    }
}

/// True when a path needs an API key.
pub(super) fn is_guarded(path: &str) -> bool {
    GUARDED.iter().any(|prefix| path.starts_with(prefix))
}
