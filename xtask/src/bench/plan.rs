//! Planning a million points: wall time and peak memory.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::release_binary;
use crate::system;

/// Values of each of the six factors: 10⁶ points.
const VALUES: u32 = 10;
const FACTORS: u32 = 6;
const RUNS: usize = 3;
/// What the plan may take.
const BUDGET_SECONDS: f64 = 5.0;
const BUDGET_MIB: f64 = 2048.0;

/// Plans a million points; fails when the median run is over the budget.
pub(crate) fn plan(root: &Path) -> Result<(), Box<dyn Error>> {
    let binary = release_binary(root)?;
    let folder = tempfile::tempdir()?;
    let study = folder.path().join("million.yaml");
    fs::create_dir(folder.path().join("sites"))?;
    fs::write(folder.path().join("sites/bench.yaml"), SITE)?;
    fs::write(&study, study_text())?;

    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(measure(Command::new(&binary).args(["plan", "--summary"]).arg(&study))?);
    }
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = runs.get(RUNS / 2).ok_or("no run")?;
    let peak_mib = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    let points = VALUES.pow(FACTORS);
    let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d"]);
    let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
    println!("{}", median.stdout.trim_end());
    println!("\n| date | commit | points | wall s (median of {RUNS}) | peak RSS MiB |\n|---|---|---|---|---|");
    println!("| {date} | {commit} | {points} | {:.2} | {peak_mib:.0} |", median.seconds);
    if median.seconds > BUDGET_SECONDS || peak_mib > BUDGET_MIB {
        return Err(format!("over the budget of {BUDGET_SECONDS} s and {BUDGET_MIB} MiB").into());
    }
    Ok(())
}

const SITE: &str = "schema: 1\nsite: bench\ngpus: {per_node: 8}\nhardware: {gpu: H100-SXM5-80GB, nodes: 1}\n";

/// Six factors, three rules of which one needs arithmetic, and points that some of them forbid.
fn study_text() -> String {
    let values = |from: u32, step: u32| {
        let list: Vec<String> = (0..VALUES).map(|i| (from + i * step).to_string()).collect();
        list.join(", ")
    };
    let mut text = String::from(
        "schema: 1\nstudy: million\nsite: bench\nengine: {kind: vllm, version: \"0.32.*\"}\nmodel: {id: meta-llama/Llama-3.1-8B}\n\
         deploy: {tp: 1}\nserve: {enable_chunked_prefill: true}\n\
         workloads: {chat: {dataset: {synth: {input_tokens: 128, output_tokens: 64}}}}\n\
         load: {closed: {concurrency: [8]}, stop: {requests: 100}}\ndesigns:\n  million:\n    grid:\n",
    );
    for (name, from, step) in [
        ("max_num_batched_tokens", 1024, 1024),
        ("max_num_seqs", 256, 256),
        ("max_model_len", 2048, 2048),
        ("long_prefill_token_threshold", 512, 512),
        ("max_num_partial_prefills", 1, 1),
        ("cpu_offload_gb", 0, 1),
    ] {
        let _ = writeln!(text, "      {name}: [{}]", values(from, step));
    }
    text.push_str(
        "constraints:\n  - \"max_num_batched_tokens >= max_num_seqs\"\n  - \"long_prefill_token_threshold <= max_model_len\"\n  \
         - {rule: \"max_num_partial_prefills * long_prefill_token_threshold <= 4 * max_num_batched_tokens\", else: warn}\n",
    );
    text
}

/// One run of a command.
pub(super) struct Run {
    pub(super) seconds: f64,
    pub(super) peak_mib: f64,
    stdout: String,
}

/// Runs it, looking at its memory meanwhile.
pub(super) fn measure(command: &mut Command) -> Result<Run, Box<dyn Error>> {
    let mut output = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command.stdout(output.try_clone()?).stdin(Stdio::null()).spawn()?;
    let mut peak_mib = 0.0_f64;
    // The high-water mark only grows, so what is missed is the growth of the last interval.
    let status = loop {
        peak_mib = system::peak_rss_kib(child.id()).map_or(peak_mib, |kib| peak_mib.max(kib as f64 / 1024.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    let mut stdout = String::new();
    std::io::Seek::rewind(&mut output)?;
    std::io::Read::read_to_string(&mut output, &mut stdout)?;
    Ok(Run { seconds, peak_mib, stdout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use servelab_core::source::SourceMap;
    use servelab_core::study::{Study, check};
    use servelab_core::yaml;

    #[test]
    fn the_generated_study_is_one() {
        let mut sources = SourceMap::default();
        let text = study_text();
        let id = sources.add("million.yaml", text.as_str());
        let doc = yaml::parse(id, &text).unwrap();
        let study: Study = yaml::from_node(&doc).unwrap_or_else(|problem| panic!("{}", problem.render(&sources)));
        check::check(&study, &doc).unwrap_or_else(|problem| panic!("{}", problem.render(&sources)));
    }

    #[test]
    fn memory_of_a_process_is_seen() {
        let run = measure(Command::new("sh").args(["-c", "sleep 0.05; echo done"])).unwrap();
        assert_eq!(run.stdout, "done\n");
        assert!(run.peak_mib > 0.1 && run.seconds >= 0.05, "{} MiB, {} s", run.peak_mib, run.seconds);
    }
}
