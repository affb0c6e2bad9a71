//! The lines that vLLM logs while starting, with the values of the simulated server: people and the runner read the
//! effective configuration from them. Nothing is decided here.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::LABEL;
use crate::config::ServerConfig;
use crate::settings::{LogSink, SimSettings};

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Writes log lines in vLLM's format.
pub(crate) struct StartupLog {
    sink: LogSink,
    pid: u32,
}

impl StartupLog {
    pub(crate) fn new(sink: LogSink) -> Self {
        Self { sink, pid: std::process::id() }
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

    /// The refusal of a configuration, as the engine's last words.
    pub(crate) fn refusal(&self, message: &str) {
        self.line("EngineCore", "ERROR", "core.py:900", "EngineCore failed to start.");
        self.line("EngineCore", "ERROR", "core.py:900", message);
        self.plain("RuntimeError: Engine core initialization failed. See root cause above.");
    }

    pub(crate) fn before_engine(&self, settings: &SimSettings) {
        let version = &settings.declared_version;
        self.line(
            "APIServer",
            "INFO",
            "api_utils.py:347",
            &format!("servelab-sim claims vLLM version {version}  model   {}", settings.model),
        );
        let what =
            format!("simulated engine on {} at {}x speed: every number is {LABEL}", settings.gpu, settings.speedup);
        self.line("APIServer", "WARNING", "servelab_sim", &what);
        let mut arguments = vec![format!("'model_tag': {}", python(&Value::from(settings.model.as_str())))];
        arguments.push(format!("'host': '{}', 'port': {}", settings.listen.ip(), settings.listen.port()));
        arguments.push(format!("'model': {}", python(&Value::from(settings.model.as_str()))));
        if let Some(tp) = settings.tp.filter(|tp| *tp > 1) {
            arguments.push(format!("'tensor_parallel_size': {tp}"));
        }
        arguments.extend(settings.serving.iter().map(|(name, value)| format!("'{name}': {}", python(value))));
        self.line("APIServer", "INFO", "api_utils.py:286", &format!("non-default args: {{{}}}", arguments.join(", ")));
    }

    pub(crate) fn engine(&self, config: &ServerConfig) {
        self.line("APIServer", "INFO", "model.py:2152", &format!("Using max model len {}", config.max_model_len));
        if config.chunked_prefill {
            let text =
                format!("Chunked prefill is enabled with max_num_batched_tokens={}.", config.max_num_batched_tokens);
            self.line("APIServer", "INFO", "scheduler.py:307", &text);
        }
        let truth = |value: bool| if value { "True" } else { "False" };
        let text = format!(
            "Initializing a V1 LLM engine (v{}) with config: model='{}', speculative_config=None, dtype={}, \
             max_seq_len={}, tensor_parallel_size={}, pipeline_parallel_size={}, data_parallel_size={}, \
             quantization={}, enforce_eager={}, kv_cache_dtype={}, device_config={}, served_model_name={}, \
             enable_prefix_caching={}, enable_chunked_prefill={}",
            config.version,
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
        self.line("EngineCore", "INFO", "core.py:133", &text);
        for name in &config.not_simulated {
            self.line("EngineCore", "WARNING", "servelab_sim", &format!("{name} is accepted but not simulated"));
        }
        let text = format!("architecture of {} ({})", config.model.name, config.model.source);
        self.line("Worker", "INFO", "servelab_sim", &text);
    }

    pub(crate) fn memory(&self, config: &ServerConfig, load_secs: f64) {
        let weights = ServerConfig::gib(config.weight_bytes);
        let text = format!("Model loading took {weights:.2} GiB and {load_secs:.2} seconds");
        self.line("Worker", "INFO", "gpu_model_runner.py:2653", &text);
        let text = format!("Available KV cache memory: {:.2} GiB", ServerConfig::gib(config.kv_cache_bytes));
        self.line("Worker", "INFO", "gpu_worker.py:298", &text);
        let device = if config.gpu.device == "cpu" { "CPU" } else { "GPU" };
        let tokens = grouped(config.kv_cache_tokens());
        let longest = grouped(u64::from(config.max_model_len));
        // One line in current versions, two in older ones: readers of either find both phrases.
        let text = format!(
            "{device} KV cache size: {tokens} tokens, Maximum concurrency for {longest} tokens per request: {:.2}x",
            config.max_concurrency()
        );
        self.line("EngineCore", "INFO", "kv_cache_utils.py:2327", &text);
    }
}

/// A value as Python prints it.
fn python(value: &Value) -> String {
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

/// `11-22 20:41:19` in UTC, from seconds since 1970 (days to a civil date after Hinnant's algorithm).
fn month_day_time(unix_s: u64) -> String {
    let shifted = unix_s / 86_400 + 719_468;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
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
