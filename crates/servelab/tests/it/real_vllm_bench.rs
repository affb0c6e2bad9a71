//! `servelab bench` beside `vllm bench serve` on one real vLLM: the same prompts give the same token counts and texts, our
//! means agree with the server's own histograms, and vLLM's plots read our `vllm_bench.json`. Part of the test in
//! `real_vllm`, which knows where the real parts lie; the server is one of its own, with metrics per request.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use servelab_load::http::get_text;
use servelab_testkit::{Deadline, Place, Spawned, at, number, poll};

use super::place;

const REQUESTS: usize = 24;
const OUTPUT_TOKENS: usize = 32;
const START_LIMIT_S: u64 = 600;
/// The client's mean may lie this far above the server's: HTTP on two shared cores. Below it may never lie.
const MOST_OVERHEAD_MS: f64 = 150.0;
/// TPOT is a difference of two client stamps; the reads that they come from may wait for the same cores.
const TPOT_TOLERANCE: f64 = 0.25;

struct Server {
    place: Place,
    process: Spawned,
    url: String,
    model: String,
}

impl Server {
    fn start(vllm: &Path, model: &Path) -> Self {
        let place = Place::new(vllm);
        std::fs::create_dir(place.path().join("tmp")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let model = model.to_string_lossy().into_owned();
        let line = format!(
            "serve {model} --load-format dummy --dtype float32 --served-model-name tiny --max-model-len 2048 --max-num-seqs 8 \
             --enforce-eager --enable-per-request-metrics --host 127.0.0.1 --port {port}"
        );
        let process = offline(&place, &line).env("VLLM_CPU_KVCACHE_SPACE", "1").spawn();
        let url = format!("http://127.0.0.1:{port}");
        let mut server = Self { place, process, url, model };
        poll("the server", Deadline::in_s(START_LIMIT_S), || {
            assert!(!server.process.has_ended(), "vLLM ended:\n{}", server.process.stderr());
            server.page("/health").map(drop)
        });
        server
    }

    fn page(&self, path: &str) -> Option<String> {
        let reply = get_text(&format!("{}{path}", self.url), Duration::from_secs(10), None).ok()?;
        reply.is_success().then_some(reply.body)
    }

    /// Sum over engines of a series on the metrics page.
    fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics").unwrap();
        let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let values: Vec<f64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "{name} is not on the metrics page");
        values.into_iter().sum()
    }

    /// Runs a `vllm bench` command to its end.
    fn vllm(&self, line: &str) {
        offline(&self.place, line).run().expect(0);
    }
}

fn offline<'a>(place: &'a Place, line: &str) -> servelab_testkit::Servelab<'a> {
    let tmp = place.path().join("tmp");
    let command = place.servelab(line).env("TMPDIR", &tmp.to_string_lossy());
    let command = command.env("HF_HUB_OFFLINE", "1").env("VLLM_NO_USAGE_STATS", "1").env("DO_NOT_TRACK", "1");
    // Where plots keep their fonts and settings.
    command.env("MPLCONFIGDIR", &tmp.to_string_lossy()).env("MPLBACKEND", "Agg")
}

/// Prompts of different lengths and contents, in a form that both programs read.
fn prompts() -> String {
    let words =
        ["def", "class", "import", "return", "value", "index", "result", "data", "name", "list", "while", "print"];
    let prompt = |k: usize| {
        let text: Vec<&str> = (0..20 + k).map(|i| words[(i * i + 7 * k + i * k) % words.len()]).collect();
        json!({"prompt": format!("# task {k}\n{}", text.join(" ")), "expected_output_length": OUTPUT_TOKENS, "output_tokens": OUTPUT_TOKENS})
    };
    (0..REQUESTS).map(|k| format!("{}\n", prompt(k))).collect()
}

/// Prompt length, output length and text of every answer, whatever the order: the two programs shuffle differently.
fn answers(result: &Value) -> Vec<(u64, u64, String)> {
    let list = |key: &str| at(result, key).as_array().unwrap().clone();
    let (inputs, outputs, texts) = (list("input_lens"), list("output_lens"), list("generated_texts"));
    let mut all: Vec<_> = inputs
        .iter()
        .zip(&outputs)
        .zip(&texts)
        .map(|((input, output), text)| {
            (input.as_u64().unwrap(), output.as_u64().unwrap(), text.as_str().unwrap().to_owned())
        })
        .collect();
    all.sort();
    all
}

pub(super) fn compare(vllm: &Path, model: &Path) {
    let server = Server::start(vllm, model);
    server.place.write("prompts.jsonl", &prompts());
    let ours = place();
    ours.write("prompts.jsonl", &prompts());
    let bench = |endpoint: &str, concurrency: u32, out: &str| {
        let line = format!(
            "bench --url {} --model tiny --endpoint {endpoint} --concurrency {concurrency} --start burst --requests {REQUESTS} \
             --dataset prompts.jsonl --tokenizer {} --ignore-eos --keep-text --out {out} --json",
            server.url, server.model
        );
        ours.servelab(&line).run().expect(0).json()
    };
    // The first requests of a server take their time.
    bench("completions", 2, "warmup");

    for (endpoint, backend, path) in
        [("completions", "openai", "/v1/completions"), ("chat", "openai-chat", "/v1/chat/completions")]
    {
        let (url, tokenizer) = (&server.url, &server.model);
        server.vllm(&format!(
            "bench serve --backend {backend} --base-url {url} --endpoint {path} --model tiny --tokenizer {tokenizer} \
             --dataset-name custom --dataset-path prompts.jsonl --custom-output-len {OUTPUT_TOKENS} --skip-chat-template \
             --num-prompts {REQUESTS} --max-concurrency 4 --temperature 0 --ignore-eos --save-result --save-detailed \
             --result-filename {endpoint}.json"
        ));
        let theirs = server.place.json(&format!("{endpoint}.json"));
        let before = histograms(&server);
        let result = bench(endpoint, 4, endpoint);
        let after = histograms(&server);
        let document = ours.json(&format!("{endpoint}/vllm_bench.json"));

        assert_eq!((number(&theirs, "completed"), number(&document, "completed")), (REQUESTS as f64, REQUESTS as f64));
        if endpoint == "completions" {
            assert_eq!(answers(&document), answers(&theirs), "{endpoint}");
        } else {
            // vLLM's chat bench reports prompt lengths without the chat template; outputs must be the same.
            let outputs = |result: &Value| {
                let mut outputs: Vec<_> = answers(result).into_iter().map(|(_, n, text)| (n, text)).collect();
                outputs.sort();
                outputs
            };
            assert_eq!(outputs(&document), outputs(&theirs), "{endpoint}");
        }
        let missing: Vec<&String> =
            theirs.as_object().unwrap().keys().filter(|key| document.get(key.as_str()).is_none()).collect();
        assert!(missing.is_empty(), "{endpoint}: keys of vLLM that ours lacks: {missing:?}");
        check_agreement(&result, &before, &after, endpoint);
    }
    plots(&server, &ours, bench);
}

const HISTOGRAMS: [&str; 3] =
    ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_time_per_output_token_seconds"];

/// Sum in milliseconds and count of each histogram.
fn histograms(server: &Server) -> BTreeMap<&'static str, (f64, f64)> {
    let read = |name: &str, part: &str| server.metric(&format!("vllm:{name}_{part}"));
    HISTOGRAMS.into_iter().map(|name| (name, (1e3 * read(name, "sum"), read(name, "count")))).collect()
}

/// A line for the log of the verification.
fn say(line: String) {
    let _ = std::io::stderr().write_all((line + "\n").as_bytes());
}

/// Our means against the server's histograms over the same requests, and against what it sent with each answer.
fn check_agreement(
    result: &Value,
    before: &BTreeMap<&str, (f64, f64)>,
    after: &BTreeMap<&str, (f64, f64)>,
    what: &str,
) {
    let server_mean = |name: &str| {
        let ((sum0, n0), (sum1, n1)) = (before[name], after[name]);
        assert_eq!(n1 - n0, REQUESTS as f64, "{what}: {name} counted strangers");
        (sum1 - sum0) / (n1 - n0)
    };
    for (ours, theirs) in [("ttft", "time_to_first_token_seconds"), ("e2e", "e2e_request_latency_seconds")] {
        let (client, server) = (number(result, &format!("latency_ms.{ours}.mean")), server_mean(theirs));
        say(format!("{what}: mean {ours} {client:.3} ms here, {server:.3} ms in the server"));
        assert!(
            (0.0..=MOST_OVERHEAD_MS).contains(&(client - server)),
            "{what}: {ours} {client} ms, server {server} ms"
        );
    }
    let (client, server) =
        (number(result, "latency_ms.tpot.mean"), server_mean("request_time_per_output_token_seconds"));
    say(format!("{what}: mean tpot {client:.3} ms here, {server:.3} ms in the server"));
    assert!((client - server).abs() <= 1.0 + TPOT_TOLERANCE * server, "{what}: tpot {client} ms, server {server} ms");

    let times = at(result, "server_times");
    for name in ["queue_ms", "ttft_ms", "itl_ms", "e2e_ms", "ttft_residual_ms", "e2e_residual_ms"] {
        assert_eq!(number(times, &format!("{name}.n")), REQUESTS as f64, "{what}: {name}");
    }
    // Two ways to the same number: per request in the answers, and in the histogram.
    let itl = number(times, "itl_ms.mean");
    assert!((itl - server).abs() < 0.01 * server, "{what}: {itl} ms in the answers, {server} ms in the histogram");
    assert!(number(times, "e2e_residual_ms.mean") >= 0.0, "{what}: {times}");
    assert_eq!(at(result, "verdict.ok"), &json!(true), "{what}: {}", at(result, "verdict"));
}

/// `vllm bench sweep` finds our results in its own layout: one folder per point and a summary of all runs.
fn plots(server: &Server, ours: &Place, bench: impl Fn(&str, u32, &str) -> Value) {
    let runs: Vec<Value> = [1, 2, 4]
        .into_iter()
        .map(|concurrency| {
            let out = format!("sweep-{concurrency}");
            bench("completions", concurrency, &out);
            let mut run = ours.json(&format!("{out}/vllm_bench.json"));
            run["run_number"] = json!(0);
            let name = format!("exp/SERVE--BENCH--max_concurrency={concurrency}/run=0.json");
            server.place.write(&name, &run.to_string());
            run
        })
        .collect();
    server.place.write("exp/summary.json", &json!(runs).to_string());
    server.vllm("bench sweep plot exp --var-x max_concurrency --var-y p99_e2el_ms");
    server.vllm("bench sweep plot_pareto exp --user-count-var max_concurrency --label-by max_concurrency");
    for figure in ["exp/FIGURE.png", "exp/pareto/PARETO.png"] {
        let bytes = std::fs::read(server.place.path().join(figure)).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 1000, "{figure}");
    }
}
