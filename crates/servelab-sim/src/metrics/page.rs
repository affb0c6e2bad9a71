//! The text of /metrics: vLLM's names, help texts, label sets and order of lines (each counter and histogram is followed
//! by its `_created` gauge, as Python's client library writes it). No value is computed here.

use std::fmt::Write as _;

use super::{EngineMetrics, Histogram, ServerFacts};
use crate::engine::{Engine, FinishReason};
use crate::flags::version_key;

mod names;

use names::{Name, Since};

struct Page<'a> {
    out: String,
    facts: ServerFacts<'a>,
    model: String,
    version: (u32, u32),
}

/// A number as Python's client writes it.
fn go(value: f64) -> String {
    if value.is_finite() && value.fract() == 0.0 && value.abs() >= 1e6 && value.abs() < 1e21 {
        // `2.097152e+06`: whole numbers of seven digits and more are written with an exponent.
        let digits = format!("{:e}", value);
        if let Some((mantissa, exponent)) = digits.split_once('e') {
            return format!("{mantissa}e+{exponent:0>2}");
        }
    }
    format!("{value:?}")
}

/// Renders the page.
pub fn render(facts: ServerFacts<'_>) -> String {
    let name = facts.config.served_names.first().map_or("", String::as_str);
    let model = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let version = version_key(&facts.config.version);
    let mut page = Page { out: String::with_capacity(64 * 1024), facts, model, version };
    page.process();
    page.kv_transfers();
    page.estimates();
    page.gauges();
    page.counters();
    page.histograms();
    page.cache_config();
    page.http();
    page.simulator();
    page.out
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {}", go(value));
    }

    fn has(&self, since: Since) -> bool {
        self.version >= since.version()
    }

    fn labels(&self, engine: usize, before_model: &str, after_model: &str) -> String {
        format!("engine=\"{engine}\",{before_model}model_name=\"{}\"{after_model}", self.model)
    }

    /// One metric with a value for each engine and each value of one more label. `labels` is what surrounds the model's
    /// name, which sorts between them.
    fn each(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: &[(String, String)],
        value: &dyn Fn(usize, usize) -> f64,
    ) {
        self.head(name, kind, help);
        let n_engines = self.facts.engines.len();
        for engine in 0..n_engines {
            for (index, (before, after)) in labels.iter().enumerate() {
                self.sample(name, &self.labels(engine, before, after), value(engine, index));
            }
        }
        if kind == "counter" {
            let created = format!("{}_created", name.trim_end_matches("_total"));
            self.head(&created, "gauge", help);
            for engine in 0..n_engines {
                for (before, after) in labels {
                    self.sample(&created, &self.labels(engine, before, after), self.facts.counts.started_unix_s);
                }
            }
        }
    }

    fn by(
        &mut self,
        name: Name,
        kind: &str,
        label: &str,
        values: &[&str],
        value: &dyn Fn(&Engine, usize, usize) -> f64,
    ) {
        if !self.has(name.since) {
            return;
        }
        let labels: Vec<(String, String)> = values
            .iter()
            .map(|own| {
                if label < "model_name" {
                    (format!("{label}=\"{own}\","), String::new())
                } else {
                    (String::new(), format!(",{label}=\"{own}\""))
                }
            })
            .collect();
        let engines = self.facts.engines;
        self.each(name.name, kind, name.help, &labels, &|engine, index| {
            engines.get(engine).map_or(0.0, |own| value(own, engine, index))
        });
    }

    fn per_engine(&mut self, name: Name, kind: &str, value: &dyn Fn(&Engine, usize) -> f64) {
        if !self.has(name.since) {
            return;
        }
        let engines = self.facts.engines;
        self.each(name.name, kind, name.help, &[(String::new(), String::new())], &|engine, _| {
            engines.get(engine).map_or(0.0, |own| value(own, engine))
        });
    }

    /// Of this process; what only a Python interpreter has is absent.
    fn process(&mut self) {
        for (name, kind, help, value) in names::process_values(self.facts.counts.started_unix_s) {
            self.head(name, kind, help);
            let _ = writeln!(self.out, "{name} {}", go(value));
        }
    }

    fn kv_transfers(&mut self) {
        if !self.facts.has_connector {
            return;
        }
        let kv = &self.facts.counts.kv;
        for (name, histogram) in
            names::NIXL_HISTOGRAMS.iter().zip([&kv.seconds, &kv.post_seconds, &kv.bytes, &kv.descriptors])
        {
            // The connector belongs to the whole server here; ranks above the first have nothing of their own.
            let empty = Histogram::new(histogram.bounds);
            self.histogram_of(*name, &|engine| if engine == 0 { histogram } else { &empty });
        }
        let failed = kv.failed as f64;
        for (index, name) in names::NIXL_COUNTERS.iter().enumerate() {
            self.per_engine(*name, "counter", &|_, engine| if index == 0 && engine == 0 { failed } else { 0.0 });
        }
    }

    fn estimates(&mut self) {
        for name in names::ESTIMATES {
            self.per_engine(name, "counter", &|_, _| 0.0);
        }
    }

    fn gauges(&mut self) {
        self.per_engine(names::RUNNING, "gauge", &|engine, _| engine.n_running() as f64);
        self.per_engine(names::WAITING, "gauge", &|engine, _| engine.n_waiting() as f64);
        self.by(names::WAITING_BY_REASON, "gauge", "reason", &["capacity", "deferred"], &|engine, _, index| {
            if index == 0 { engine.n_waiting() as f64 } else { 0.0 }
        });
        if self.facts.has_connector {
            let fetching = self.facts.n_fetching as f64;
            let stages = ["waiting_to_start", "in_progress", "completed_waiting"];
            self.by(names::KV_FETCH, "gauge", "stage", &stages, &|_, engine, index| {
                if index == 1 && engine == 0 { fetching } else { 0.0 }
            });
        }
        let asleep = f64::from(u8::from(self.facts.is_sleeping));
        let states = ["awake", "weights_offloaded", "discard_all"];
        self.by(names::SLEEP_STATE, "gauge", "sleep_state", &states, &|_, _, index| match index {
            0 => 1.0 - asleep,
            1 => asleep,
            _ => 0.0,
        });
        self.per_engine(names::KV_USAGE, "gauge", &|engine, _| engine.kv_usage());
        if !self.has(Since::V0_10) {
            self.per_engine(names::OLD_KV_USAGE, "gauge", &|engine, _| engine.kv_usage());
        }
    }

    fn counter(&mut self, name: Name, value: fn(&EngineMetrics) -> u64) {
        self.per_engine(name, "counter", &|engine, _| value(engine.metrics()) as f64);
    }

    fn counters(&mut self) {
        let kv = &self.facts.counts.kv;
        let (queried, fetched) = (kv.queried_tokens, kv.fetched_tokens);
        let external = move |engine: usize, value: u64| if engine == 0 { value as f64 } else { 0.0 };
        self.counter(names::PREFIX_QUERIES, |m| m.prefix_queries);
        self.counter(names::PREFIX_HITS, |m| m.prefix_hits);
        self.per_engine(names::EXTERNAL_QUERIES, "counter", &|_, engine| external(engine, queried));
        self.per_engine(names::EXTERNAL_HITS, "counter", &|_, engine| external(engine, fetched));
        self.per_engine(names::MM_QUERIES, "counter", &|_, _| 0.0);
        self.per_engine(names::MM_HITS, "counter", &|_, _| 0.0);
        self.counter(names::PREEMPTIONS, |m| m.preemptions);
        self.counter(names::PROMPT_TOKENS, |m| m.prompt_tokens);
        let sources = ["local_compute", "local_cache_hit", "external_kv_transfer"];
        self.by(names::PROMPT_BY_SOURCE, "counter", "source", &sources, &|own, engine, index| {
            let metrics = own.metrics();
            let fetched = external(engine, fetched);
            match index {
                0 => (metrics.prompt_tokens.saturating_sub(metrics.cached_tokens) as f64 - fetched).max(0.0),
                1 => metrics.cached_tokens as f64,
                _ => fetched,
            }
        });
        self.per_engine(names::CACHED_TOKENS, "counter", &|own, engine| {
            own.metrics().cached_tokens as f64 + external(engine, fetched)
        });
        let tiers = ["device", "host", "p2p", "disk", "external_unspecified"];
        self.by(names::CACHED_BY_SOURCE, "counter", "source", &tiers, &|own, engine, index| match index {
            0 => own.metrics().cached_tokens as f64,
            2 => external(engine, fetched),
            _ => 0.0,
        });
        self.counter(names::GENERATION_TOKENS, |m| m.generation_tokens);
        let reasons = [FinishReason::Stop, FinishReason::Length, FinishReason::Abort];
        let all = ["stop", "length", "abort", "error", "repetition"];
        let known = if self.has(Since::V0_12) { &all[..] } else { &all[..3] };
        self.by(names::SUCCESS, "counter", "finished_reason", known, &|own, _, index| {
            let reason = reasons.get(index).map(|reason| *reason as usize);
            reason.and_then(|reason| own.metrics().finished.get(reason)).copied().unwrap_or(0) as f64
        });
        self.admissions();
    }

    fn admissions(&mut self) {
        let name = names::ADMISSIONS;
        if !self.has(name.since) {
            return;
        }
        let counts = self.facts.counts;
        let started = counts.started_unix_s;
        let reasons =
            [("max_num_queued_reqs", counts.rejected_requests), ("max_num_queued_tokens", counts.rejected_tokens)];
        self.head(name.name, "counter", name.help);
        for (reason, value) in reasons {
            let labels = format!("model_name=\"{}\",reason=\"{reason}\"", self.model);
            self.sample(name.name, &labels, value as f64);
        }
        let created = "vllm:admission_rejections_created";
        self.head(created, "gauge", name.help);
        for (reason, _) in reasons {
            let labels = format!("model_name=\"{}\",reason=\"{reason}\"", self.model);
            self.sample(created, &labels, started);
        }
    }

    fn histograms(&mut self) {
        self.histogram(names::REQUEST_PROMPT, |m| &m.request_prompt);
        self.histogram(names::REQUEST_GENERATION, |m| &m.request_generation);
        self.histogram(names::ITERATION_TOKENS, |m| &m.iteration_tokens);
        let ranks = &self.facts.counts.ranks;
        let empty = Histogram::new(super::REQUEST_TOKENS);
        self.histogram_of(names::MAX_GENERATION, &|rank| ranks.get(rank).map_or(&empty, |own| &own.longest_output));
        self.histogram_of(names::PARAMS_N, &|rank| ranks.get(rank).map_or(&empty, |own| &own.params_n));
        self.histogram(names::PARAMS_MAX_TOKENS, |m| &m.request_max_tokens);
        self.histogram(names::TTFT, |m| &m.ttft);
        self.histogram(if self.has(Since::V0_11) { names::ITL } else { names::OLD_ITL }, |m| &m.itl);
        self.histogram(names::TPOT, |m| &m.tpot);
        self.histogram(names::E2E, |m| &m.e2e);
        self.histogram(names::QUEUE, |m| &m.queue);
        self.histogram(names::INFERENCE, |m| &m.inference);
        self.histogram(names::PREFILL, |m| &m.prefill);
        self.histogram(names::DECODE, |m| &m.decode);
        self.histogram(names::REQUEST_PREEMPTIONS, |m| &m.request_preemptions);
        self.histogram(names::REQUEST_COMPUTED, |m| &m.request_computed);
    }

    fn histogram(&mut self, name: Name, pick: fn(&EngineMetrics) -> &Histogram) {
        let engines = self.facts.engines;
        let Some(first) = engines.first() else { return };
        self.histogram_of(name, &|rank| pick(engines.get(rank).unwrap_or(first).metrics()));
    }

    fn histogram_of<'h>(&mut self, name: Name, pick: &dyn Fn(usize) -> &'h Histogram) {
        let Name { name, help, since } = name;
        if !self.has(since) {
            return;
        }
        self.head(name, "histogram", help);
        for rank in 0..self.facts.engines.len() {
            let label = |le: &str| self.labels(rank, &format!("le=\"{le}\","), "");
            let lines = bucket_lines(pick(rank), self.most_of(pick(rank)), &label);
            for (labels, value) in lines {
                self.sample(&format!("{name}_bucket"), &labels, value);
            }
            let labels = self.labels(rank, "", "");
            self.sample(&format!("{name}_count"), &labels, pick(rank).count as f64);
            self.sample(&format!("{name}_sum"), &labels, pick(rank).sum);
        }
        let created = format!("{name}_created");
        self.head(&created, "gauge", help);
        for rank in 0..self.facts.engines.len() {
            self.sample(&created, &self.labels(rank, "", ""), self.facts.counts.started_unix_s);
        }
    }

    /// Histograms of tokens per request have buckets up to the longest sequence only.
    fn most_of(&self, histogram: &Histogram) -> f64 {
        let is_per_request = std::ptr::eq(histogram.bounds, super::REQUEST_TOKENS);
        if is_per_request { f64::from(self.facts.config.max_model_len) } else { f64::INFINITY }
    }

    fn cache_config(&mut self) {
        let config = self.facts.config;
        self.head("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig");
        let python_bool = |value: bool| if value { "True" } else { "False" };
        for index in 0..self.facts.engines.len() {
            let labels = format!(
                "block_size=\"{}\",cache_dtype=\"{}\",enable_prefix_caching=\"{}\",engine=\"{index}\",\
                 gpu_memory_utilization=\"{:?}\",kv_cache_max_concurrency=\"{:?}\",kv_cache_memory_bytes=\"{}\",\
                 kv_cache_size_tokens=\"{}\",num_gpu_blocks=\"{}\"",
                config.block_size,
                config.kv_cache_dtype,
                python_bool(config.prefix_caching),
                config.gpu_memory_utilization,
                config.max_concurrency(),
                config.kv_cache_bytes as u64,
                config.kv_cache_tokens(),
                config.num_gpu_blocks,
            );
            self.sample("vllm:cache_config_info", &labels, 1.0);
        }
    }

    fn http(&mut self) {
        let counts = self.facts.counts;
        let started = counts.started_unix_s;
        self.head("http_requests_total", "counter", "Total number of requests by method, status and handler.");
        for ((handler, method, class), n) in &counts.http.by_status {
            let labels = format!("handler=\"{handler}\",method=\"{method}\",status=\"{class}xx\"");
            self.sample("http_requests_total", &labels, *n as f64);
        }
        for (name, help, pick) in names::HTTP_SIZES {
            self.head(name, "summary", help);
            for ((handler, _), own) in &counts.http.by_handler {
                let labels = format!("handler=\"{handler}\"");
                self.sample(&format!("{name}_count"), &labels, own.n as f64);
                self.sample(&format!("{name}_sum"), &labels, pick(own) as f64);
            }
        }
        let (name, help) = names::HTTP_FINE;
        self.head(name, "histogram", help);
        let fine = &counts.http.fine_seconds;
        for (labels, value) in bucket_lines(fine, f64::INFINITY, &|le| format!("le=\"{le}\"")) {
            self.sample(&format!("{name}_bucket"), &labels, value);
        }
        let _ = write!(self.out, "{name}_count {}\n{name}_sum {}\n", go(fine.count as f64), go(fine.sum));
        let (name, help) = names::HTTP_COARSE;
        self.head(name, "histogram", help);
        for ((handler, method), own) in &counts.http.by_handler {
            let label = |le: &str| format!("handler=\"{handler}\",le=\"{le}\",method=\"{method}\"");
            for (labels, value) in bucket_lines(&own.seconds, f64::INFINITY, &label) {
                self.sample(&format!("{name}_bucket"), &labels, value);
            }
            let labels = format!("handler=\"{handler}\",method=\"{method}\"");
            self.sample(&format!("{name}_count"), &labels, own.seconds.count as f64);
            self.sample(&format!("{name}_sum"), &labels, own.seconds.sum);
        }
        self.head(&format!("{name}_created"), "gauge", help);
        for (handler, method) in counts.http.by_handler.keys() {
            let labels = format!("handler=\"{handler}\",method=\"{method}\"");
            self.sample(&format!("{name}_created"), &labels, started);
        }
    }

    /// The simulator's own honesty: how far the machine fell behind the simulated clock.
    fn simulator(&mut self) {
        let name = "servelab_sim:worst_step_lateness_seconds";
        self.head(
            name,
            "gauge",
            "Largest wall-clock delay of a simulated step so far; large values invalidate latencies.",
        );
        let labels = format!("model_name=\"{}\"", self.model);
        self.sample(name, &labels, self.facts.worst_lateness_s);
    }
}

/// Labels and cumulative counts of a histogram's buckets, up to the bound `most`.
fn bucket_lines(histogram: &Histogram, most: f64, label: &dyn Fn(&str) -> String) -> Vec<(String, f64)> {
    let mut cumulative = 0;
    let mut lines = Vec::with_capacity(histogram.bounds.len() + 1);
    for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
        cumulative += count;
        if *bound <= most {
            lines.push((label(&go(*bound)), cumulative as f64));
        }
    }
    lines.push((label("+Inf"), histogram.count as f64));
    lines
}
