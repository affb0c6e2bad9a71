//! The OpenAI-compatible server: start, what its parts share, end. The loop is `server`; what a request may say is in
//! `request`, what an answer looks like in `answer`, error bodies in `refuse`, HTTP itself in `wire`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::SimError;
use crate::config::ServerConfig;
use crate::config::checks::out_of_memory;
use crate::fail::{Death, FailPlan};
use crate::handover::Connector;
use crate::live::Live;
use crate::predict::Label;
use crate::profile::Profiler;
use crate::settings::SimSettings;
use crate::startup::{StartupLog, unix_seconds};
use crate::text::{DecodeFn, PromptTokenizer, approximate_text};

mod admit;
mod answer;
mod conn;
mod fields;
mod generate;
mod logprobs;
mod refuse;
mod request;
mod route;
mod sampling;
mod server;
pub mod wire;

/// Time from process start to readiness without injected delays, simulated seconds.
const START_SECS: f64 = 0.2;

/// What all requests share.
struct App {
    live: Live,
    tokenizer: PromptTokenizer,
    decode: Option<DecodeFn>,
    fail: FailPlan,
    slow_factor: f64,
    seed: u64,
    speedup: f64,
    /// How far the numbers may be believed.
    label: Label,
    log: StartupLog,
    api_keys: Vec<String>,
    echoes_request_id: bool,
    n_requests: u64,
    created_unix_s: u64,
    /// The engine dies with the next token of this request.
    doomed: Option<(u64, Death)>,
    is_dead: bool,
    is_sleeping: bool,
    /// Why the loop has to end.
    ending: Option<SimError>,
    connector: Option<Connector>,
    profiler: Option<Profiler>,
}

impl App {
    /// Value of the header that says what this is.
    fn label_header(&self) -> String {
        format!("{}; speedup={}", self.label.name(), self.speedup)
    }
}

impl App {
    /// The text of token ids; an unknown one is a replacement character.
    fn text_of(&self, ids: &[u32]) -> String {
        let decoded = match &self.decode {
            Some(decode) => decode(ids),
            None => approximate_text(ids),
        };
        decoded.unwrap_or_else(|| {
            ids.iter().map(|id| approximate_text(&[*id]).unwrap_or_else(|| "\u{FFFD}".to_owned())).collect()
        })
    }

    fn is_authorised(&self, request: &wire::Request) -> bool {
        if self.api_keys.is_empty() || request.method == "OPTIONS" || !route::is_guarded(&request.path) {
            return true;
        }
        let given = request.authorization.as_deref().and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer") && self.api_keys.iter().any(|known| known == key)
        })
    }

    fn apply_slow_down(&mut self, request: u64) {
        let factor = self.fail.slow_factor(request);
        if factor != self.slow_factor {
            self.slow_factor = factor;
            self.live.slow_down(factor);
        }
    }

    fn note_finished(&mut self, job: &generate::Job) {
        let (n, longest) = (job.asked.n, job.longest_output());
        for line in &job.lines {
            self.live.counts.choice_done(line.rank, n, longest);
        }
    }
}

fn api_keys(settings: &SimSettings) -> Vec<String> {
    let given = settings.serving.get("api_key").and_then(|keys| keys.as_array());
    let given: Vec<String> = given
        .into_iter()
        .flatten()
        .filter_map(|key| key.as_str())
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect();
    if given.is_empty() { settings.env.api_key.iter().cloned().collect() } else { given }
}

/// Serves until `shutdown` becomes true; answers still streaming are cut. `on_ready` gets the bound address once requests
/// are answered, and how far the numbers may be believed.
pub fn run_blocking(
    settings: SimSettings,
    on_ready: impl FnOnce(SocketAddr, Label),
    shutdown: &AtomicBool,
) -> Result<(), SimError> {
    let log = StartupLog::new(Arc::clone(&settings.log), &settings.declared_version);
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
    let load_secs = START_SECS + fail.start_delay_secs();
    let loaded = Instant::now() + Duration::from_secs_f64((load_secs / settings.speedup).min(86_400.0));
    while Instant::now() < loaded {
        if shutdown.load(Ordering::Relaxed) {
            return Ok(());
        }
        std::thread::sleep(loaded.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)));
    }
    if fail.out_of_memory_at_start() {
        let message = out_of_memory(config.weight_bytes, config.gpu.visible_bytes());
        log.refusal(&message);
        return Err(SimError::InjectedOutOfMemory(message));
    }
    log.memory(&config, load_secs);
    let listen = |source| SimError::Listen { addr: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).map_err(|source| {
        log.plain(&format!("ERROR: {source}: error while attempting to bind on address {}", settings.listen));
        listen(source)
    })?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let label = config.label()?;
    let app = app(settings, config, label, fail, log)?;
    app.log.ready(address);
    let mut server = server::Server::new(app, listener)?;
    on_ready(address, label);
    server.run(shutdown)
}

fn app(
    settings: SimSettings,
    config: ServerConfig,
    label: Label,
    fail: FailPlan,
    log: StartupLog,
) -> Result<App, SimError> {
    let seed = settings.seed.wrapping_add(settings.serving.integer("seed").unwrap_or(0));
    let side_channel = (
        settings.env.side_channel_host.clone().unwrap_or_else(|| "localhost".to_owned()),
        settings.env.side_channel_port.unwrap_or(5600),
    );
    let transfer = settings.serving.get("kv_transfer_config");
    let slow_factor = fail.slow_factor(0);
    Ok(App {
        connector: Connector::of(transfer, side_channel, seed, &settings.declared_version),
        profiler: Profiler::of(&settings, &config),
        live: Live::start(config, settings.speedup, slow_factor)?,
        decode: settings.decode.clone(),
        fail,
        slow_factor,
        seed,
        speedup: settings.speedup,
        label,
        log,
        api_keys: api_keys(&settings),
        echoes_request_id: settings.serving.switch("enable_request_id_headers").unwrap_or(false),
        n_requests: 0,
        created_unix_s: unix_seconds() as u64,
        doomed: None,
        is_dead: false,
        is_sleeping: false,
        ending: None,
        tokenizer: settings.tokenizer,
    })
}
