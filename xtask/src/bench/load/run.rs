//! Processes of one measurement: the reference server on its core, a client on another, and what the kernel knows about
//! the client. Each measurement has a server of its own, so that no log mixes two.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use servelab_core::result::BenchResult;
use servelab_load::reference::ReferenceLog;
use servelab_store::{read_events, read_requests};

use super::scenario::{Answers, Load, Start};
use super::stats::Sample;
use super::truth::{Comparison, bare_receive_errors, events_between};
use crate::bare_reader::{self, BareReport};
use crate::system;

/// How often a client is looked at: rarely, because the one who looks needs a core too.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Programs, cores and the folder of one whole benchmark.
pub(super) struct Bench {
    pub(super) xtask: PathBuf,
    pub(super) servelab: PathBuf,
    pub(super) server_core: usize,
    pub(super) client_core: usize,
    pub(super) server_spin: String,
    pub(super) folder: PathBuf,
    /// The client knows `--start`.
    pub(super) has_start_option: bool,
}

/// A reference server in a process of its own.
pub(super) struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(super) address: SocketAddr,
    log: PathBuf,
}

impl Server {
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it and reads what it stamped.
    pub(super) fn stop(mut self) -> Result<ReferenceLog, Box<dyn Error>> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the reference server ended with {status}").into());
        }
        let log = ReferenceLog::read_file(&self.log)?;
        fs::remove_file(&self.log)?;
        if log.dropped_writes + log.dropped_requests > 0 {
            return Err(format!(
                "the server's log was too small: {} writes and {} requests are missing",
                log.dropped_writes, log.dropped_requests
            )
            .into());
        }
        Ok(log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` the process is gone and both calls fail harmlessly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client process cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) peak_rss_kib: u64,
    /// The whole process, preparation and writing of files included.
    pub(super) cpu_s: f64,
}

/// One run of the product.
pub(super) struct OwnRun {
    pub(super) result: BenchResult,
    pub(super) seen: Comparison,
    pub(super) log: ReferenceLog,
    pub(super) cost: Cost,
}

impl OwnRun {
    /// CPU time of the load threads for each token event.
    pub(super) fn micros_per_event(&self) -> f64 {
        self.result.client.cpu_s * 1e6 / self.log.n_events() as f64
    }

    pub(super) fn is_client_limited(&self) -> bool {
        self.result.verdict.reasons.iter().any(|reason| reason.code == "client_limited")
    }
}

/// One run of the bare reader.
pub(super) struct Floor {
    pub(super) micros_per_event: f64,
    pub(super) events_per_s: f64,
    /// From the instant before a write to the read, milliseconds.
    pub(super) receive_error: Sample,
    pub(super) log: ReferenceLog,
}

impl Floor {
    /// Both of two runs, one before and one after what they are compared with: the machine is not always equally fast.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            micros_per_event: f64::midpoint(self.micros_per_event, later.micros_per_event),
            events_per_s: f64::midpoint(self.events_per_s, later.events_per_s),
            receive_error: self.receive_error.and(later.receive_error),
            log: later.log,
        }
    }
}

impl Bench {
    pub(super) fn start_server(&self, answers: &Answers, events: u64) -> Result<Server, Box<dyn Error>> {
        let log = self.folder.join("server.log");
        let mut command = Command::new(&self.xtask);
        command
            .arg("ref-server")
            .args(["--listen", "127.0.0.1:0", "--core", &self.server_core.to_string(), "--spin", &self.server_spin])
            .args(["--first-ms", &answers.first_ms.to_string(), "--gap-ms", &answers.gap_ms.to_string()])
            .args(["--jitter", &answers.jitter.to_string(), "--tokens", &answers.tokens.to_string()])
            .args(["--events-per-write", &answers.events_per_write.to_string()])
            // Room for what is expected and as much again, for clients that ask more than they were told.
            .args(["--log-writes", &(2 * events / u64::from(answers.events_per_write) + 500_000).to_string()])
            .arg("--log")
            .arg(&log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = system::spawn_on(self.server_core, &mut command)?;
        let stdin = child.stdin.take();
        let mut first_line = String::new();
        let mut output = BufReader::new(child.stdout.take().ok_or("no output of the reference server")?);
        output.read_line(&mut first_line)?;
        // Its last words need a reader, or it could not end.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        match first_line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok()) {
            Some(address) => Ok(Server { child, stdin, address, log }),
            None => {
                let _ = child.kill();
                let status = child.wait()?;
                Err(format!("the reference server did not start ({status})").into())
            }
        }
    }

    /// Runs a client to its end on its core. Its output goes to files in `folder`.
    pub(super) fn client(&self, command: &mut Command, folder: &Path) -> Result<(bool, Cost), Box<dyn Error>> {
        command
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("stdout"))?)
            .stderr(File::create(folder.join("stderr"))?);
        let mut child = system::spawn_on(self.client_core, command)?;
        let mut cost = Cost::default();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            cost.peak_rss_kib = system::peak_rss_kib(child.id()).unwrap_or(0).max(cost.peak_rss_kib);
            cost.cpu_s = system::cpu_seconds(child.id()).unwrap_or(0.0).max(cost.cpu_s);
            thread::sleep(WATCH_INTERVAL);
        };
        Ok((status.success(), cost))
    }

    /// The product against a server with these answers.
    pub(super) fn own(
        &self,
        name: &str,
        load: Load,
        answers: &Answers,
        requests: u32,
    ) -> Result<OwnRun, Box<dyn Error>> {
        let folder = self.subfolder(name)?;
        let server = self.start_server(answers, u64::from(requests) * u64::from(answers.tokens))?;
        let mut command = Command::new(&self.servelab);
        command.args(["bench", "--url", &server.url(), "--model", "reference", "--endpoint", "completions"]);
        command.args(["--input-tokens", "16", "--output-tokens", &answers.tokens.to_string(), "--ignore-eos"]);
        command.args(["--requests", &requests.to_string(), "--events", "--out"]).arg(&folder);
        match load {
            Load::Open { rate } => {
                command.args(["--rate", &rate.to_string(), "--arrival", "poisson"]);
            }
            Load::Closed { streams, start } => {
                command.args(["--concurrency", &streams.to_string()]);
                if start == Start::Burst && self.has_start_option {
                    command.args(["--start", "burst"]);
                }
            }
        }
        let (_, cost) = self.client(&mut command, &folder)?;
        let log = server.stop()?;
        let path = folder.join("result.json");
        let Ok(text) = fs::read(&path) else {
            let words = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
            return Err(format!("`servelab bench` left no result: {}", words.trim()).into());
        };
        let result: BenchResult = serde_json::from_slice(&text)?;
        let records = read_requests(&folder.join("requests.parquet"))?;
        let events = read_events(&folder.join("events.parquet"))?;
        let clock = result.clock;
        let seen = Comparison::new(&log, &records, &events, clock);
        Ok(OwnRun { result, seen, log, cost })
    }

    /// The bare reader against a server with these answers.
    pub(super) fn floor(
        &self,
        name: &str,
        streams: usize,
        answers: &Answers,
        seconds: f64,
    ) -> Result<Floor, Box<dyn Error>> {
        let folder = self.subfolder(name)?;
        let reads = folder.join("reads");
        let spread = answers.seconds();
        let per_second = streams as f64 * f64::from(answers.tokens) / answers.seconds();
        let server = self.start_server(answers, (per_second * (seconds + spread)) as u64)?;
        let mut command = Command::new(&self.xtask);
        command
            .args(["bare-reader", "--address", &server.address.to_string(), "--streams", &streams.to_string()])
            .args(["--seconds", &seconds.to_string(), "--spread-seconds", &spread.to_string()])
            .args(["--tokens", &answers.tokens.to_string(), "--core", &self.client_core.to_string()])
            .arg("--log")
            .arg(&reads);
        let (is_success, _) = self.client(&mut command, &folder)?;
        let log = server.stop()?;
        if !is_success {
            let words = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
            return Err(format!("the bare reader failed: {}", words.trim()).into());
        }
        let report: BareReport = serde_json::from_slice(&fs::read(folder.join("stdout"))?)?;
        let events = events_between(&log, report.begin_ns, report.end_ns) as f64;
        let stamps = bare_reader::read_log(&reads)?;
        fs::remove_file(&reads)?;
        Ok(Floor {
            receive_error: bare_receive_errors(&log, &stamps, report.begin_ns, report.end_ns),
            micros_per_event: report.cpu_ns as f64 / 1e3 / events,
            events_per_s: events / ((report.end_ns - report.begin_ns) as f64 / 1e9),
            log,
        })
    }

    pub(super) fn subfolder(&self, name: &str) -> Result<PathBuf, Box<dyn Error>> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Whether the product's `bench` has an option.
pub(super) fn has_option(servelab: &Path, option: &str) -> Result<bool, Box<dyn Error>> {
    let output = Command::new(servelab).args(["bench", "--help"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(option))
}

/// Waits until other processes leave the machine alone, and says whether they do.
pub(super) fn idle_fraction(for_how_long: Duration) -> Option<f64> {
    let read = || -> Option<(u64, u64)> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<u64> =
            text.lines().next()?.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        Some((fields.iter().take(8).sum(), fields.get(3)? + fields.get(4)?))
    };
    let (all_before, idle_before) = read()?;
    let until = Instant::now() + for_how_long;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::sleep(left);
    }
    let (all, idle) = read()?;
    Some((idle - idle_before) as f64 / ((all - all_before) as f64).max(1.0))
}
