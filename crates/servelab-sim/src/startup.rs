//! The lines that vLLM logs while starting, with the values of the simulated server: people and the runner read the
//! effective configuration from them. Nothing is decided here.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::config::ServerConfig;
use crate::fail::Death;
use crate::flags::version_key;
use crate::settings::{LogSink, SimSettings};

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Writes log lines in the format of the declared vLLM version.
pub(crate) struct StartupLog {
    sink: LogSink,
    pid: u32,
    /// Versions before 0.12 name other files, and the KV cache on two lines.
    is_old: bool,
}

impl StartupLog {
    pub(crate) fn new(sink: LogSink, version: &str) -> Self {
        Self { sink, pid: std::process::id(), is_old: version_key(version) < (0, 12) }
    }

    /// A line as the server prints it, without a prefix.
    pub(crate) fn plain(&self, text: &str) {
        (self.sink)(text);
    }

    pub(crate) fn line(&self, process: &str, level: &str, source: &str, text: &str) {
        let stamp = month_day_time(unix_seconds() as u64);
        for part in text.split('\n') {
            (self.sink)(&format!("({process} pid={}) {level} {stamp} [{source}] {part}", self.pid));
        }
    }

    /// One line of the current version or of an older one, which differ in the source that they name.
    fn either(&self, process: &str, new: &str, old: &str, text: &str) {
        self.line(process, "INFO", if self.is_old { old } else { new }, text);
    }

    /// The refusal of a configuration: of the arguments in the API server, or later as the engine's last words.
    pub(crate) fn refusal(&self, message: &str) {
        if message.starts_with("pydantic_core.") {
            self.plain("(APIServer) Traceback (most recent call last):");
            return self.plain(&format!("(APIServer) {message}"));
        }
        self.line("EngineCore", "ERROR", "core.py:1510", "EngineCore failed to start.");
        self.line("EngineCore", "ERROR", "core.py:1510", "Traceback (most recent call last):");
        self.line("EngineCore", "ERROR", "core.py:1510", message);
        self.plain(
            "(APIServer) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        );
    }

    pub(crate) fn before_engine(&self, settings: &SimSettings) {
        let version = &settings.declared_version;
        if self.is_old {
            let text = format!("vLLM API server version {version}");
            self.line("APIServer", "INFO", "api_server.py:1839", &text);
        } else {
            for text in [
                String::new(),
                "       █     █     █▄   ▄█".to_owned(),
                format!(" ▄▄ ▄█ █     █     █ ▀▄▀ █  version {version}"),
                format!("  █▄█▀ █     █     █     █  model   {}", settings.model),
                "   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀".to_owned(),
                String::new(),
            ] {
                self.line("APIServer", "INFO", "api_utils.py:347", &text);
            }
        }
        let what = format!(
            "servelab sim: simulated engine on {} at {}x speed: every number is simulated",
            settings.gpu, settings.speedup
        );
        self.line("APIServer", "WARNING", "servelab_sim", &what);
        let mut arguments = vec![format!("'model_tag': {}", python(&Value::from(settings.model.as_str())))];
        arguments.push(format!("'host': '{}', 'port': {}", settings.listen.ip(), settings.listen.port()));
        arguments.push(format!("'model': {}", python(&Value::from(settings.model.as_str()))));
        if let Some(tp) = settings.tp.filter(|tp| *tp > 1) {
            arguments.push(format!("'tensor_parallel_size': {tp}"));
        }
        for (name, value) in settings.serving.iter() {
            // A key in a log outlives the server.
            let shown = if name == "api_key" { "['***']".to_owned() } else { python(value) };
            arguments.push(format!("'{name}': {shown}"));
        }
        let text = format!("non-default args: {{{}}}", arguments.join(", "));
        self.either("APIServer", "api_utils.py:286", "utils.py:233", &text);
    }

    pub(crate) fn engine(&self, config: &ServerConfig) {
        let text = format!("Using max model len {}", config.max_model_len);
        self.either("APIServer", "model.py:2152", "__init__.py:1510", &text);
        if config.chunked_prefill {
            let text =
                format!("Chunked prefill is enabled with max_num_batched_tokens={}.", config.max_num_batched_tokens);
            self.either("APIServer", "scheduler.py:307", "scheduler.py:205", &text);
        }
        let truth = |value: bool| if value { "True" } else { "False" };
        let text = format!(
            "Initializing a V1 LLM engine (v{}) with config: model='{}', speculative_config=None, tokenizer='{}', \
             skip_tokenizer_init=False, tokenizer_mode=auto, revision=None, tokenizer_revision=None, dtype={}, \
             max_seq_len={}, download_dir=None, load_format=auto, tensor_parallel_size={}, pipeline_parallel_size={}, \
             data_parallel_size={}, disable_custom_all_reduce=False, quantization={}, enforce_eager={}, \
             kv_cache_dtype={}, device_config={}, seed=0, served_model_name={}, enable_prefix_caching={}, \
             enable_chunked_prefill={}",
            config.version,
            config.model_name,
            config.model_name,
            if config.dtype == "auto" { "torch.bfloat16".to_owned() } else { format!("torch.{}", config.dtype) },
            config.max_model_len,
            config.tp,
            config.pp,
            config.dp,
            config.quantization.as_deref().unwrap_or("None"),
            truth(config.enforce_eager),
            config.kv_cache_dtype,
            config.gpu.device,
            config.served_names.first().map_or("", String::as_str),
            truth(config.prefix_caching),
            truth(config.chunked_prefill),
        );
        self.either("EngineCore", "core.py:133", "core.py:77", &text);
        let n_gpus = config.tp * config.pp * config.dp;
        if n_gpus > 1 {
            let text = format!(
                "servelab sim: this process stands for {n_gpus} GPUs on all their nodes (tp {} x pp {} x dp {})",
                config.tp, config.pp, config.dp
            );
            self.line("EngineCore", "WARNING", "servelab_sim", &text);
        }
        for name in &config.not_simulated {
            self.line("EngineCore", "WARNING", "servelab_sim", &format!("{name} is accepted but not simulated"));
        }
        for rank in 0..(config.tp * config.pp).min(MOST_RANK_LINES) {
            let process = Self::worker(config, rank);
            let text = format!("Starting to load model {}...", config.model_name);
            self.either(&process, "gpu_model_runner.py:5040", "gpu_model_runner.py:2602", &text);
        }
        let text = format!("architecture of {} ({})", config.model.name, config.model.source);
        self.line("Worker", "INFO", "servelab_sim", &text);
    }

    fn worker(config: &ServerConfig, rank: u32) -> String {
        match config.tp * config.pp {
            1 => "Worker".to_owned(),
            _ => format!("Worker_TP{rank}"),
        }
    }

    pub(crate) fn memory(&self, config: &ServerConfig, load_secs: f64) {
        let weights = ServerConfig::gib(config.weight_bytes);
        for rank in 0..(config.tp * config.pp).min(MOST_RANK_LINES) {
            let process = Self::worker(config, rank);
            // Readers of older logs look for the unit right before "and".
            let text = if self.is_old {
                format!("Model loading took {weights:.4} GiB and {load_secs:.6} seconds")
            } else {
                format!("Model loading took {weights:.2} GiB memory and {load_secs:.6} seconds")
            };
            self.either(&process, "gpu_model_runner.py:5150", "gpu_model_runner.py:2653", &text);
            let text = format!("Available KV cache memory: {:.2} GiB", ServerConfig::gib(config.kv_cache_bytes));
            self.either(&process, "gpu_worker.py:760", "gpu_worker.py:298", &text);
        }
        let device = if config.gpu.device == "cpu" { "CPU" } else { "GPU" };
        let size = format!("{device} KV cache size: {} tokens", grouped(config.kv_cache_tokens()));
        let longest = grouped(u64::from(config.max_model_len));
        let concurrency =
            format!("Maximum concurrency for {longest} tokens per request: {:.2}x", config.max_concurrency());
        if self.is_old {
            self.line("EngineCore", "INFO", "kv_cache_utils.py:1087", &size);
            self.line("EngineCore", "INFO", "kv_cache_utils.py:1091", &concurrency);
        } else {
            self.line("EngineCore", "INFO", "kv_cache_utils.py:2327", &format!("{size}, {concurrency}"));
        }
        if !config.enforce_eager && device == "GPU" {
            let n_sizes = capture_sizes(config.max_num_seqs);
            for (kind, name) in [("mixed prefill-decode", "PIECEWISE"), ("decode", "FULL")] {
                self.plain(&format!(
                    "Capturing CUDA graphs ({kind}, {name}): 100%|██████████| {n_sizes}/{n_sizes} [00:02<00:00]"
                ));
            }
            let text = "Graph capturing finished in 4 secs, took 0.56 GiB";
            self.either(&Self::worker(config, 0), "gpu_model_runner.py:6582", "gpu_model_runner.py:3480", text);
        }
        let text = if self.is_old {
            format!("init engine (profile, create kv cache, warmup model) took {load_secs:.2} seconds")
        } else {
            format!("init engine (profile, create kv cache, warmup model) took {load_secs:.2} s")
        };
        self.either("EngineCore", "core.py:403", "core.py:210", &text);
    }

    /// The API is there.
    pub(crate) fn ready(&self, address: SocketAddr) {
        let (source, what) = if self.is_old {
            ("api_server.py:1912", format!("Starting vLLM API server 0 on http://{address}"))
        } else {
            ("entry.py:140", format!("Starting vLLM server on http://{address}"))
        };
        self.line("APIServer", "INFO", source, &what);
        self.plain(&format!("INFO:     Started server process [{}]", self.pid));
        self.plain("INFO:     Waiting for application startup.");
        self.plain("INFO:     Application startup complete.");
    }

    /// What the engine and the API server log when the engine dies while serving.
    pub(crate) fn engine_death(&self, death: Death, config: &ServerConfig) {
        match death {
            Death::Rank(rank) => {
                let text =
                    format!("Worker proc VllmWorker-{rank} died unexpectedly (exit code: -9), shutting down executor.");
                self.line("EngineCore", "ERROR", "multiproc_executor.py:315", &text);
            }
            Death::OutOfMemory => {
                let total = config.gpu.memory_gb * 1e9;
                let text = crate::config::checks::out_of_memory(1.74e9, total);
                let process = Self::worker(config, 0);
                self.line(&process, "ERROR", "multiproc_executor.py:960", "WorkerProc hit an exception.");
                self.line(&process, "ERROR", "multiproc_executor.py:960", &text);
            }
        }
        self.line("EngineCore", "ERROR", "core.py:1512", "EngineCore encountered a fatal error.");
        self.line("EngineCore", "ERROR", "core.py:1512", "Traceback (most recent call last):");
        let cause = match death {
            Death::Rank(_) => "RuntimeError: Executor failed.",
            Death::OutOfMemory => "RuntimeError: Worker failed with error 'CUDA out of memory'",
        };
        self.line("EngineCore", "ERROR", "core.py:1512", cause);
        self.line("APIServer", "ERROR", "async_llm.py:906", "AsyncLLM output_handler failed.");
        let text = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) \
                    for the root cause.";
        self.line("APIServer", "ERROR", "async_llm.py:906", text);
        self.plain("INFO:     Shutting down");
    }
}

/// Workers that have lines of their own at the start; more would only repeat them.
const MOST_RANK_LINES: u32 = 16;

/// How many batch sizes have a graph: 1, 2, 4, then every 8 up to 256, then every 16, up to twice `max_num_seqs`, at most
/// 512.
fn capture_sizes(max_num_seqs: u32) -> u32 {
    let most = max_num_seqs.saturating_mul(2).min(512);
    let small = [1, 2, 4].into_iter().filter(|size| *size <= most).count() as u32;
    small + most.min(256) / 8 + most.saturating_sub(256) / 16
}

/// A value as Python prints it.
pub(crate) fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let items: Vec<_> = map.iter().map(|(key, value)| format!("'{key}': {}", python(value))).collect();
            format!("{{{}}}", items.join(", "))
        }
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Year, month and day of a number of days since 1970 (after Hinnant's algorithm).
pub(crate) fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// `11-22 20:41:19` in UTC, from seconds since 1970.
fn month_day_time(unix_s: u64) -> String {
    let (_, month, day) = civil_date(unix_s / 86_400);
    let second = unix_s % 86_400;
    format!("{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_numbers() {
        assert_eq!(month_day_time(1_795_377_290), "11-22 19:54:50");
        assert_eq!(month_day_time(951_782_400), "02-29 00:00:00");
        assert_eq!(grouped(2_097_152), "2,097,152");
        assert_eq!(grouped(16), "16");
        assert_eq!(python(&serde_json::json!({"a": [true, null, "x'y", 1.5]})), "{'a': [True, None, 'x\\'y', 1.5]}");
    }
}
