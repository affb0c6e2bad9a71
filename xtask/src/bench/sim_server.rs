//! The simulated server's HTTP path: 2,000 concurrent streams at rising token rates, the server on one core, our own client
//! on the other. A rate is held when the token events come one by one, at that rate, and close to their instants.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use servelab_core::result::BenchResult;
use servelab_load::http::get_text;
use servelab_store::read_events;

use super::release_binary;

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct SimServerArgs {
    /// Concurrent streams
    #[arg(long, default_value_t = 2000)]
    streams: u32,
    /// Token events per second over all streams
    #[arg(long, value_delimiter = ',', default_value = "50000,75000,100000,125000")]
    rates: Vec<f64>,
    /// Seconds of each rate
    #[arg(long, default_value_t = 12)]
    seconds: u32,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the client
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// This `servelab` instead of a fresh release build
    #[arg(long, value_name = "FILE")]
    servelab: Option<PathBuf>,
}

/// The target of the product: what must be held with 2,000 streams.
const TARGET_RATE: f64 = 50_000.0;

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then both calls fail harmlessly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Row {
    asked: f64,
    tokens_per_s: f64,
    events_per_s: f64,
    itl_p50_ms: f64,
    itl_p99_ms: f64,
    asked_itl_ms: f64,
    server_busy: f64,
    worst_late_ms: f64,
    failed: u64,
}

impl Row {
    fn is_held(&self) -> bool {
        // Between two answers a stream waits for its prompt: a few of a hundred gaps are no tokens.
        self.failed == 0 && self.events_per_s >= 0.93 * self.asked && self.itl_p50_ms <= 1.05 * self.asked_itl_ms
    }
}

/// Measures every rate; fails when the target is not held.
pub(crate) fn sim_server(root: &Path, args: &SimServerArgs) -> Result<(), Box<dyn Error>> {
    let servelab = match &args.servelab {
        Some(path) => path.clone(),
        None => release_binary(root)?,
    };
    let folder = tempfile::tempdir()?;
    let base_ms = own_step_ms(&servelab, args, folder.path())?;
    println!("a step with {} streams takes {base_ms:.3} simulated ms before it is slowed down", args.streams);
    println!(
        "\n| events/s asked | tokens/s | events/s | ITL p50 ms (asked) | ITL p99 ms | server core busy | worst lateness ms | held |\n|---|---|---|---|---|---|---|---|"
    );
    let mut is_met = false;
    for rate in &args.rates {
        let asked_itl_ms = 1e3 * f64::from(args.streams) / rate;
        // Every stream is answered twice in the window.
        let output_tokens = (f64::from(args.seconds) * 1e3 / asked_itl_ms / 2.0).ceil() as u32;
        // A step takes longer when contexts have grown: the first run says by how much.
        let guess = asked_itl_ms / base_ms;
        let run = |slow: f64| measure(&servelab, args, folder.path(), slow, args.seconds, *rate, output_tokens);
        let row = run(guess * asked_itl_ms / run(guess)?.itl_p50_ms)?;
        println!(
            "| {:.0} | {:.0} | {:.0} | {:.2} ({:.2}) | {:.2} | {:.0} % | {:.1} | {} |",
            row.asked,
            row.tokens_per_s,
            row.events_per_s,
            row.itl_p50_ms,
            row.asked_itl_ms,
            row.itl_p99_ms,
            row.server_busy * 100.0,
            row.worst_late_ms,
            if row.is_held() { "yes" } else { "no" }
        );
        is_met |= row.is_held() && *rate >= TARGET_RATE;
    }
    let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d"]);
    let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
    println!("\n{date}, commit {commit}, {} streams, {} s for each rate", args.streams, args.seconds);
    if is_met { Ok(()) } else { Err(format!("{TARGET_RATE:.0} events/s are not held").into()) }
}

/// How long an unslowed step with all streams takes, simulated milliseconds.
fn own_step_ms(servelab: &Path, args: &SimServerArgs, folder: &Path) -> Result<f64, Box<dyn Error>> {
    const SLOW: f64 = 20.0;
    let row = measure(servelab, args, folder, SLOW, 4, 1.0, 4)?;
    Ok(row.itl_p50_ms / SLOW)
}

fn measure(
    servelab: &Path,
    args: &SimServerArgs,
    folder: &Path,
    slow: f64,
    seconds: u32,
    asked: f64,
    output_tokens: u32,
) -> Result<Row, Box<dyn Error>> {
    let server = start(servelab, args, slow)?;
    let before = page(&server.url)?;
    let out = folder.join("run");
    let output = Command::new("taskset")
        .args(["-c", &args.client_core.to_string()])
        .arg(servelab)
        .args(["bench", "--url", &server.url, "--model", "sim", "--endpoint", "completions", "--ignore-eos", "--json"])
        .args(["--concurrency", &args.streams.to_string(), "--duration", &seconds.to_string()])
        .args(["--input-tokens", "16", "--output-tokens", &output_tokens.to_string()])
        .args(["--events", "--out"])
        .arg(&out)
        .stderr(Stdio::null())
        .output()?;
    let result: BenchResult = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("the client gave no result ({error}): {}", String::from_utf8_lossy(&output.stdout)))?;
    let after = page(&server.url)?;
    let events = read_events(&out.join("events.parquet"))?;
    let first = events.iter().map(|event| event.t_ns).min().unwrap_or(0);
    let last = events.iter().map(|event| event.t_ns).max().unwrap_or(0);
    // The ramps at both ends are left out: streams begin and end over the length of an answer, a quarter of the whole.
    let margin = (last - first) / 3;
    let inside: Vec<i64> = events
        .iter()
        .filter(|event| (first + margin..last - margin).contains(&event.t_ns))
        .map(|event| i64::from(event.n_tokens))
        .collect();
    let window_s = (last - first - 2 * margin).max(1) as f64 / 1e9;
    let value = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or(f64::NAN)
    };
    let cpu = value(&after, "process_cpu_seconds_total") - value(&before, "process_cpu_seconds_total");
    let itl = &result.latency_ms.itl;
    std::fs::remove_dir_all(&out)?;
    Ok(Row {
        asked,
        tokens_per_s: inside.iter().sum::<i64>() as f64 / window_s,
        events_per_s: inside.len() as f64 / window_s,
        itl_p50_ms: itl.p50.unwrap_or(f64::NAN),
        itl_p99_ms: itl.p99.unwrap_or(f64::NAN),
        asked_itl_ms: 1e3 * f64::from(args.streams) / asked,
        server_busy: cpu / ((last - first).max(1) as f64 / 1e9),
        worst_late_ms: 1e3 * value(&after, "servelab_sim:worst_step_lateness_seconds"),
        failed: result.requests.failed,
    })
}

fn page(url: &str) -> Result<String, Box<dyn Error>> {
    Ok(get_text(&format!("{url}/metrics"), std::time::Duration::from_secs(5), None)?.body)
}

fn start(servelab: &Path, args: &SimServerArgs, slow: f64) -> Result<Server, Box<dyn Error>> {
    let mut child = Command::new("taskset")
        .args(["-c", &args.server_core.to_string()])
        .arg(servelab)
        .args(["sim", "--listen", "127.0.0.1:0", "--model", "sim", "--gpu", "sim", "--max-model-len", "8192"])
        .args(["--max-num-seqs", &args.streams.to_string(), "--max-num-batched-tokens", "65536"])
        // Every stream has its blocks at once: a preemption would be the simulated engine's limit, not the server's.
        .args(["--num-gpu-blocks-override", &(u64::from(args.streams) * 8192 / 16 + 1).to_string()])
        .args(["--fail", &format!("slow:{slow}")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take().ok_or("the server has no log")?;
    let mut lines = BufReader::new(stderr);
    let mut url = None;
    let mut line = String::new();
    while url.is_none() && lines.read_line(&mut line)? > 0 {
        let found = line.split_whitespace().find(|word| word.starts_with("http://"));
        url = found.map(str::to_owned);
        line.clear();
    }
    // Whatever it says later must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut lines.by_ref(), &mut std::io::sink()));
    let server = Server { child, url: url.ok_or("the server named no address")? };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while page(&server.url).is_err() {
        if std::time::Instant::now() > deadline {
            return Err("the server does not answer".into());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(server)
}
