//! What an engine's log says about the engine: the configuration it settled on, its KV cache, its log level. The names are
//! vLLM's. Why an engine failed is found elsewhere (`servelab_core::failures`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servelab_core::engine_facts::EngineFacts;

use crate::pyliteral::{parse_dict, parse_kwargs};

/// Facts from one engine's log. `None` or empty where the log does not say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerLogFacts {
    /// Version that the engine gave itself.
    pub engine_version: Option<String>,
    /// `non-default args: {…}`: what the engine understood of its command line.
    pub non_default_args: Map<String, Value>,
    /// `with config: …`: what the engine core was initialised with.
    pub engine_config: Map<String, Value>,
    /// Memory, cache sizes, durations.
    pub engine: EngineFacts,
    /// Lines at DEBUG level were seen.
    pub is_debug: bool,
}

impl ServerLogFacts {
    /// Reads every line; the first statement of each fact counts (later ones come from further ranks).
    pub fn parse(log: &str) -> Self {
        let mut facts = Self::default();
        for line in log.lines() {
            facts.line(line);
        }
        facts
    }

    fn line(&mut self, line: &str) {
        if let Some(args) = after(line, "non-default args: ").and_then(parse_dict) {
            set(&mut self.non_default_args, args);
        }
        if let Some((version, config)) =
            after(line, "LLM engine (v").and_then(|text| text.split_once(") with config: "))
        {
            self.engine_version.get_or_insert_with(|| version.to_owned());
            set(&mut self.engine_config, parse_kwargs(config));
        }
        engine_line(&mut self.engine, line);
        other_engine_line(&mut self.engine, line);
        self.is_debug |= is_debug_line(line);
    }
}

/// One line of a vLLM log, of several versions.
fn engine_line(engine: &mut EngineFacts, line: &str) {
    let first = |slot: &mut Option<f64>, value: Option<f64>| {
        if slot.is_none() {
            *slot = value;
        }
    };
    if let Some(tokens) = after(line, "KV cache size: ").and_then(number) {
        engine.kv_cache_tokens.get_or_insert(tokens as u64);
    }
    if let Some(text) = after(line, "Maximum concurrency for ")
        && let Some((tokens, times)) = number(text).zip(after(text, "per request: ").and_then(number))
        && engine.max_concurrency.is_none()
    {
        engine.max_concurrency = Some(times);
        engine.max_concurrency_tokens = Some(tokens as u64);
    }
    first(&mut engine.available_kv_gib, after(line, "Available KV cache memory: ").and_then(number));
    if let Some(text) = after(line, "Model loading took ") {
        first(&mut engine.model_memory_gib, number(text));
        first(&mut engine.model_load_s, after(text, " and ").and_then(number));
    }
    // `torch.compile takes 12.3 s in total` (0.9 …), `torch.compile took 12.3 s in total` (newer).
    if line.contains(" in total") {
        let compiled = after(line, "torch.compile takes ").or_else(|| after(line, "torch.compile took "));
        first(&mut engine.compile_s, compiled.and_then(number));
    }
    if let Some(text) = after(line, "Graph capturing finished in ") {
        first(&mut engine.graph_capture_s, number(text));
        first(&mut engine.graph_memory_gib, after(text, "took ").and_then(number));
    }
    if let Some(text) = after(line, "init engine (").and_then(|text| after(text, ") took ")) {
        first(&mut engine.engine_init_s, number(text));
    }
    if let Some(blocks) = after(line, "# GPU blocks: ").or_else(|| after(line, "# CPU blocks: ")).and_then(number)
        && engine.kv_cache_blocks.is_none()
    {
        engine.kv_cache_blocks = Some(blocks as u64);
    }
}

/// SGLang's and llama.cpp's words for the same.
fn other_engine_line(engine: &mut EngineFacts, line: &str) {
    if let Some(text) = after(line, "Load weight end.") {
        engine.model_memory_gib = engine.model_memory_gib.or_else(|| after(text, ", mem usage=").and_then(number));
    }
    if let Some(text) = after(line, "KV Cache is allocated.")
        && let Some(tokens) = after(text, "#tokens: ").and_then(number)
    {
        engine.kv_cache_tokens.get_or_insert(tokens as u64);
    }
    if let Some(text) = after(line, "Capture cuda graph end.") {
        engine.graph_capture_s = engine.graph_capture_s.or_else(|| after(text, "Time elapsed: ").and_then(number));
        engine.graph_memory_gib = engine.graph_memory_gib.or_else(|| after(text, "mem usage=").and_then(number));
    }
    // `load_tensors: CUDA0 model buffer size = 4095.05 MiB`, one line per device.
    if let Some(mib) = after(line, " model buffer size = ").and_then(number) {
        engine.model_memory_gib = Some(engine.model_memory_gib.unwrap_or(0.0) + mib / 1024.0);
    }
    if let Some(tokens) = after(line, "n_ctx         = ").or_else(|| after(line, "n_ctx      = ")).and_then(number)
        && line.contains("llama_context")
    {
        engine.kv_cache_tokens.get_or_insert(tokens as u64);
    }
}

/// The KV cache's blocks from a page of metrics: newer vLLM versions log tokens only.
pub fn cache_facts(engine: &mut EngineFacts, page: &str) {
    let samples = servelab_load::prometheus::parse(page).samples;
    let Some(info) = samples.iter().find(|sample| sample.name == "vllm:cache_config_info") else { return };
    let label = |name: &str| {
        let (_, value) = info.labels.iter().find(|(label, _)| label == name)?;
        value.parse::<f64>().ok()
    };
    let whole = |name: &str| label(name).map(|value| value as u64);
    engine.kv_cache_blocks = engine.kv_cache_blocks.or_else(|| whole("num_gpu_blocks"));
    engine.kv_block_size = whole("block_size");
    engine.kv_cache_tokens = engine.kv_cache_tokens.or_else(|| whole("kv_cache_size_tokens"));
    engine.max_concurrency = engine.max_concurrency.or_else(|| label("kv_cache_max_concurrency"));
}

fn set(slot: &mut Map<String, Value>, map: Map<String, Value>) {
    if slot.is_empty() {
        *slot = map;
    }
}

fn after<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    Some(line.split_once(marker)?.1)
}

/// A number at the start of `text`, with or without thousands separators.
fn number(text: &str) -> Option<f64> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ',' && c != '.').unwrap_or(text.len());
    text.get(..end)?.replace(',', "").trim_end_matches('.').parse().ok()
}

/// `(APIServer pid=1) DEBUG 11-22 …`, with or without the process in front.
fn is_debug_line(line: &str) -> bool {
    let text = if line.starts_with('(') { line.split_once(") ").map_or(line, |(_, rest)| rest) } else { line };
    text.starts_with("DEBUG ")
}

/// The last `max_bytes` of a file, lossily decoded, without a first line that was cut.
pub fn tail(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if start > 0 => rest.to_owned(),
        _ => text,
    })
}

/// The last line with something on it, shortened for a progress line.
pub fn last_line(path: &Path) -> Option<String> {
    let text = tail(path, 8192).ok()?;
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_several_versions() {
        let facts = ServerLogFacts::parse(
            "(APIServer pid=1) INFO 11-22 20:41:19 [x.py:1] non-default args: {'max_num_seqs': 8, 'api': None}\n\
             INFO 11-22 [core.py:133] Initializing a V1 LLM engine (v0.11.0) with config: model='m', max_seq_len=2048\n\
             INFO [gpu_worker.py:1] Available KV cache memory: 3.18 GiB\n\
             INFO [gpu_model_runner.py:1] Model loading took 14.9888 GiB and 6.33 seconds\n\
             INFO [kv.py:1] GPU KV cache size: 1,234,567 tokens\n\
             INFO [kv.py:1] Maximum concurrency for 32,768 tokens per request: 61.44x\n\
             INFO [backends.py:1] torch.compile takes 9.50 s (compile range (1, 8192)), cache saved\n\
             INFO [monitor.py:34] torch.compile takes 15.64 s in total\n\
             INFO [gpu_model_runner.py:1] Graph capturing finished in 20 secs, took 0.61 GiB\n\
             INFO [executor.py:1] # GPU blocks: 77160, # CPU blocks: 0\n\
             INFO [core.py:1] init engine (profile, create kv cache, warmup model) took 48.06 seconds\n\
             INFO [kv.py:1] GPU KV cache size: 5 tokens\n",
        );
        assert_eq!(facts.engine_version.as_deref(), Some("0.11.0"));
        assert_eq!(facts.non_default_args.get("max_num_seqs"), Some(&json!(8)));
        assert_eq!(facts.engine_config.get("max_seq_len"), Some(&json!(2048)));
        let expected = EngineFacts {
            model_memory_gib: Some(14.9888),
            model_load_s: Some(6.33),
            kv_cache_tokens: Some(1_234_567),
            kv_cache_blocks: Some(77_160),
            available_kv_gib: Some(3.18),
            max_concurrency: Some(61.44),
            max_concurrency_tokens: Some(32_768),
            compile_s: Some(15.64),
            graph_capture_s: Some(20.0),
            graph_memory_gib: Some(0.61),
            engine_init_s: Some(48.06),
            ..EngineFacts::default()
        };
        assert_eq!(facts.engine, expected);
        assert!(!facts.is_debug);
    }

    #[test]
    fn lines_of_other_engines() {
        let sglang = ServerLogFacts::parse(
            "[TP0] Load weight end. type=LlamaForCausalLM, dtype=torch.bfloat16, avail mem=63.31 GB, mem usage=14.98 GB.\n\
             [TP0] KV Cache is allocated. #tokens: 442208, K size: 26.99 GB, V size: 26.99 GB\n\
             [TP0] Capture cuda graph end. Time elapsed: 9.21 s. mem usage=1.06 GB. avail mem=7.50 GB.\n",
        );
        let got = sglang.engine;
        assert_eq!((got.model_memory_gib, got.kv_cache_tokens), (Some(14.98), Some(442_208)));
        assert_eq!((got.graph_capture_s, got.graph_memory_gib), (Some(9.21), Some(1.06)));
        let llamacpp = ServerLogFacts::parse(
            "load_tensors:   CPU_Mapped model buffer size =   512.00 MiB\n\
             load_tensors:        CUDA0 model buffer size =  4096.00 MiB\n\
             llama_context: n_ctx         = 8192\n",
        );
        assert_eq!((llamacpp.engine.model_memory_gib, llamacpp.engine.kv_cache_tokens), (Some(4.5), Some(8192)));
    }

    #[test]
    fn blocks_are_read_from_the_metrics() {
        let page = "vllm:cache_config_info{block_size=\"128\",engine=\"0\",num_gpu_blocks=\"16384\",num_cpu_blocks=\"None\"} 1.0\n";
        let mut engine = EngineFacts { kv_cache_tokens: Some(7), ..EngineFacts::default() };
        cache_facts(&mut engine, page);
        assert_eq!(
            (engine.kv_cache_blocks, engine.kv_block_size, engine.kv_cache_tokens),
            (Some(16_384), Some(128), Some(7))
        );
        cache_facts(&mut engine, "nothing");
        assert_eq!(engine.kv_cache_blocks, Some(16_384));
    }

    #[test]
    fn debug_lines() {
        for (line, expected) in [
            ("DEBUG 11-22 20:41:19 [x.py:1] y", true),
            ("(EngineCore pid=7) DEBUG 11-22 [x.py:1] y", true),
            ("INFO 11-22 [x.py:1] DEBUG is off", false),
            ("(broken DEBUG", false),
            ("", false),
        ] {
            assert_eq!(is_debug_line(line), expected, "{line}");
        }
    }

    #[test]
    fn a_real_log() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples/vllm/server-start-0.32-cpu.log");
        let Ok(log) = std::fs::read_to_string(&path) else {
            println!("skipped: {} is not here", path.display());
            return;
        };
        let facts = ServerLogFacts::parse(&log);
        assert_eq!(facts.engine_version.as_deref(), Some("0.32.0"));
        assert_eq!(facts.engine.kv_cache_tokens, Some(2_097_152));
        assert_eq!((facts.engine.max_concurrency, facts.engine.max_concurrency_tokens), (Some(1024.0), Some(2048)));
        assert_eq!((facts.engine.engine_init_s, facts.engine.model_memory_gib), (Some(0.51), None));
        for (key, expected) in [
            ("max_seq_len", json!(2048)),
            ("dtype", json!("torch.bfloat16")),
            ("enable_prefix_caching", json!(true)),
            ("enable_chunked_prefill", json!(true)),
            ("enforce_eager", json!(true)),
            ("kv_cache_dtype", json!("auto")),
            ("served_model_name", json!("tiny")),
            ("tensor_parallel_size", json!(1)),
        ] {
            assert_eq!(facts.engine_config.get(key), Some(&expected), "{key}");
        }
        assert_eq!(
            facts.engine_config.get("compilation_config").and_then(|c| c.get("backend")),
            Some(&json!("inductor"))
        );
        assert!(facts.engine_config.contains_key("kernel_config"), "the whole line was read");
        assert_eq!(facts.non_default_args.get("served_model_name"), Some(&json!(["tiny"])));
    }

    #[test]
    fn tails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "first line\nsecond line\n\n").unwrap();
        assert_eq!(tail(&path, 1000).unwrap(), "first line\nsecond line\n\n");
        assert_eq!(tail(&path, 15).unwrap(), "second line\n\n");
        assert_eq!(last_line(&path).as_deref(), Some("second line"));
        assert_eq!(last_line(&folder.path().join("none")), None);
    }
}
