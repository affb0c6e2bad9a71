//! The text of /metrics: vLLM's names, help texts, label sets and order of lines (each counter and histogram is followed
//! by its `_created` gauge, as Python's client library writes it). No value is computed here.

use std::fmt::Write as _;

use super::{EngineMetrics, Histogram, ServerFacts};
use crate::engine::{Engine, FinishReason};

struct Page<'a> {
    out: String,
    facts: ServerFacts<'a>,
    model: String,
}

/// Renders the page.
pub fn render(facts: ServerFacts<'_>) -> String {
    let name = facts.config.served_names.first().map_or("", String::as_str);
    let model = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut page = Page { out: String::with_capacity(32 * 1024), facts, model };
    page.gauges();
    page.counters();
    page.histograms();
    page.cache_config();
    page.simulator();
    page.out
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value:?}");
    }

    fn labels(&self, engine: usize, before_model: &str, after_model: &str) -> String {
        format!("engine=\"{engine}\",{before_model}model_name=\"{}\"{after_model}", self.model)
    }

    fn per_engine(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Engine) -> f64) {
        self.head(name, kind, help);
        for (index, engine) in self.facts.engines.iter().enumerate() {
            self.sample(name, &self.labels(index, "", ""), value(engine));
        }
        if kind == "counter" {
            let created = format!("{}_created", name.trim_end_matches("_total"));
            self.head(&created, "gauge", help);
            for index in 0..self.facts.engines.len() {
                self.sample(&created, &self.labels(index, "", ""), self.facts.started_unix_s);
            }
        }
    }

    fn gauges(&mut self) {
        self.per_engine("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", |e| {
            e.n_running() as f64
        });
        self.per_engine("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", |e| {
            e.n_waiting() as f64
        });
        self.per_engine("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", |e| {
            e.kv_usage()
        });
    }

    fn counters(&mut self) {
        let mut counter = |name: &str, help: &str, value: fn(&EngineMetrics) -> u64| {
            self.per_engine(name, "counter", help, |engine| value(engine.metrics()) as f64);
        };
        counter(
            "vllm:prefix_cache_queries_total",
            "Prefix cache queries, in terms of number of queried tokens.",
            |m| m.prefix_queries,
        );
        counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", |m| {
            m.prefix_hits
        });
        counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", |m| m.preemptions);
        counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", |m| m.prompt_tokens);
        counter("vllm:prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).", |m| {
            m.cached_tokens
        });
        counter("vllm:generation_tokens_total", "Number of generation tokens processed.", |m| m.generation_tokens);
        let help = "Count of successfully processed requests.";
        self.head("vllm:request_success_total", "counter", help);
        let reasons = [FinishReason::Stop, FinishReason::Length, FinishReason::Abort];
        let each = |page: &mut Self, name: &str, value: &dyn Fn(&Engine, FinishReason) -> f64| {
            for (index, engine) in page.facts.engines.iter().enumerate() {
                for reason in reasons {
                    let labels = page.labels(index, &format!("finished_reason=\"{}\",", reason.name()), "");
                    page.sample(name, &labels, value(engine, reason));
                }
            }
        };
        each(self, "vllm:request_success_total", &|engine, reason| {
            engine.metrics().finished.get(reason as usize).copied().unwrap_or(0) as f64
        });
        self.head("vllm:request_success_created", "gauge", help);
        let started = self.facts.started_unix_s;
        each(self, "vllm:request_success_created", &|_, _| started);
        let help = "Number of admission attempts rejected by a queue limit, by reason.";
        self.head("vllm:admission_rejections_total", "counter", help);
        let labels = format!("model_name=\"{}\",reason=\"max_num_queued_reqs\"", self.model);
        self.sample("vllm:admission_rejections_total", &labels, self.facts.rejected as f64);
        self.head("vllm:admission_rejections_created", "gauge", help);
        self.sample("vllm:admission_rejections_created", &labels, started);
    }

    fn histograms(&mut self) {
        let mut histogram =
            |name: &str, help: &str, pick: fn(&EngineMetrics) -> &Histogram| self.histogram(name, help, pick);
        histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", |m| &m.request_prompt);
        histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", |m| {
            &m.request_generation
        });
        histogram("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", |m| {
            &m.iteration_tokens
        });
        histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", |m| {
            &m.request_max_tokens
        });
        histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", |m| &m.ttft);
        histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", |m| &m.itl);
        histogram(
            "vllm:request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            |m| &m.tpot,
        );
        histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", |m| &m.e2e);
        histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", |m| {
            &m.queue
        });
        histogram(
            "vllm:request_inference_time_seconds",
            "Histogram of time spent in RUNNING phase for request.",
            |m| &m.inference,
        );
        histogram("vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", |m| {
            &m.prefill
        });
        histogram("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", |m| {
            &m.decode
        });
        histogram("vllm:request_num_preemptions", "Histogram of the number of times a request was preempted.", |m| {
            &m.request_preemptions
        });
    }

    fn histogram(&mut self, name: &str, help: &str, pick: fn(&EngineMetrics) -> &Histogram) {
        self.head(name, "histogram", help);
        for (index, engine) in self.facts.engines.iter().enumerate() {
            let histogram = pick(engine.metrics());
            let mut cumulative = 0;
            for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                cumulative += count;
                let labels = self.labels(index, &format!("le=\"{bound:?}\","), "");
                self.sample(&format!("{name}_bucket"), &labels, cumulative as f64);
            }
            let labels = self.labels(index, "le=\"+Inf\",", "");
            self.sample(&format!("{name}_bucket"), &labels, histogram.count as f64);
            let labels = self.labels(index, "", "");
            self.sample(&format!("{name}_count"), &labels, histogram.count as f64);
            self.sample(&format!("{name}_sum"), &labels, histogram.sum);
        }
        let created = format!("{name}_created");
        self.head(&created, "gauge", help);
        for index in 0..self.facts.engines.len() {
            self.sample(&created, &self.labels(index, "", ""), self.facts.started_unix_s);
        }
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
