//! Verification against real software. Each run's whole output goes to `docs/verification/NAME.md` with its date, commit
//! and machine, whether it went well or not; paths of the machine are replaced by names.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;

/// The verifications.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// A study against a real vLLM on CPU, installed for the purpose
    Vllm,
    /// A real vLLM on CPU under a dozen starts: ranks, profiler, FP8, prefixes, flags, a killed worker
    Engine,
    /// The simulated scheduler against the real one's decisions, recorded anew
    Scheduler,
    /// Predictions of a real vLLM on CPU: two cells calibrate, two others are predicted
    Predict,
    /// Prefill and decode servers of a real vLLM on CPU, KV over NIXL, through the router
    Pd,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Engine => "engine",
            Self::Scheduler => "scheduler",
            Self::Predict => "predict",
            Self::Pd => "pd",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Vllm => {
                "A real vLLM (CPU build) serves a tiny model; a study of two points × two loads runs against it: exact greedy tokens, \
                 token counts, Prometheus series, effective configuration, resume after kill -9."
            }
            Self::Engine => {
                "A real vLLM (CPU build) serves a tiny model: flags asked about beforehand, two tensor-parallel ranks with torch profiler \
                 and execution traces, two data-parallel engines with a label each, FP8 beside BF16 KV with greedy answers compared, \
                 prefix caching on and off, an unknown flag, a worker that is killed while it streams."
            }
            Self::Scheduler => {
                "vLLM's own Scheduler class (CPU build, no model runs) is driven through named and random scenarios by \
                 `scripts/scheduler-trace/trace.py`; the simulator's scheduler replays them. Every call must be the same: tokens per \
                 request in order, preemptions, free blocks, cached tokens."
            }
            Self::Predict => {
                "A real vLLM (CPU build) serves a tiny model: two cells of a study calibrate the step-time model, the two others are \
                 predicted before and after and compared with what was measured."
            }
            Self::Pd => {
                "The example study `vllm-cpu-pd`: a prefill and a decode server of a real vLLM (CPU build) with KV over NIXL between them, \
                 and two replicas, behind the router. The decode server's own answer equals the routed one, transfer counters move for \
                 every request, both legs are recorded."
            }
        }
    }
}

/// Runs one verification and writes its page.
pub(crate) fn verify(root: &Path, name: Name) -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let (command, env) = match name {
        Name::Vllm => vllm(root, scratch.path(), "real_vllm")?,
        Name::Engine => vllm(root, scratch.path(), "real_engine")?,
        Name::Predict => vllm(root, scratch.path(), "real_predict")?,
        Name::Pd => vllm(root, scratch.path(), "real_pd")?,
        Name::Scheduler => scheduler(root, scratch.path())?,
    };
    let start = Instant::now();
    let (text, is_success) = run(root, name, &command, &env)?;
    let seconds = start.elapsed().as_secs_f64();

    let folder = root.join("docs/verification");
    fs::create_dir_all(&folder)?;
    let page = page(root, name, &command, &env, &text, is_success, seconds);
    let mut hidden = vec![(root.to_path_buf(), "<repository>"), (scratch.path().to_path_buf(), "<scratch>")];
    hidden.extend(env.iter().map(|(variable, path)| (path.clone(), *variable)));
    let path = folder.join(format!("{}.md", name.text()));
    fs::write(&path, hide(page, hidden))?;
    println!("wrote {}", path.display());
    if is_success { Ok(()) } else { Err(format!("verification `{}` failed", name.text()).into()) }
}

type Env = Vec<(&'static str, PathBuf)>;

/// Records a real scheduler's decisions and replays them.
fn scheduler(root: &Path, scratch: &Path) -> Result<(Vec<&'static str>, Env), Box<dyn Error>> {
    let (venv, models) = vllm_folders(root, scratch)?;
    let recording = scratch.join("scheduler.jsonl");
    let status = Command::new(venv.join("bin/python"))
        .arg(root.join("scripts/scheduler-trace/trace.py"))
        .arg(models.join("tiny-llama"))
        .arg(&recording)
        .args(["--random", "1000", "--seed", "100000"])
        .status()?;
    if !status.success() {
        return Err("scripts/scheduler-trace/trace.py failed; its messages are above".into());
    }
    let command = vec!["cargo", "test", "-p", "servelab-sim", "--test", "scheduler", "--locked", "--", "--nocapture"];
    Ok((command, vec![("SERVELAB_VLLM_DIR", venv), ("SERVELAB_SCHEDULER_TRACE", recording)]))
}

/// A test of the whole program that needs a real vLLM.
fn vllm(root: &Path, scratch: &Path, test: &'static str) -> Result<(Vec<&'static str>, Env), Box<dyn Error>> {
    let (venv, models) = vllm_folders(root, scratch)?;
    let command = vec!["cargo", "test", "-p", "servelab", "--test", "it", "--locked", test, "--", "--nocapture"];
    Ok((command, vec![("SERVELAB_VLLM_DIR", venv), ("SERVELAB_MODELS_DIR", models)]))
}

/// Installs vLLM and makes models, unless SERVELAB_VLLM_DIR and SERVELAB_MODELS_DIR point to some.
fn vllm_folders(root: &Path, scratch: &Path) -> Result<(PathBuf, PathBuf), Box<dyn Error>> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    match (given("SERVELAB_VLLM_DIR"), given("SERVELAB_MODELS_DIR")) {
        (Some(venv), Some(models)) => Ok((venv, models)),
        _ => {
            let status = Command::new(root.join("scripts/vllm-cpu/prepare.sh")).arg(scratch).status()?;
            if !status.success() {
                return Err("scripts/vllm-cpu/prepare.sh failed; its messages are above".into());
            }
            Ok((scratch.join("venv"), scratch.join("models")))
        }
    }
}

/// Runs a command, showing and keeping what it says on both streams.
fn run(root: &Path, name: Name, command: &[&str], env: &Env) -> Result<(String, bool), Box<dyn Error>> {
    // One pipe for both streams keeps their order.
    let (reader, writer) = std::io::pipe()?;
    let (program, args) = command.split_first().ok_or("no command")?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(root)
        .env("SERVELAB_REAL", name.text())
        .envs(env.iter().map(|(name, path)| (name, path)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let mut text = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        let _ = writeln!(text, "{line}");
    }
    Ok((text, child.wait()?.success()))
}

fn page(root: &Path, name: Name, command: &[&str], env: &Env, text: &str, is_success: bool, seconds: f64) -> String {
    let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut versions = vec![crate::first_line(root, "rustc", &["--version"])];
    if let Some((_, venv)) = env.first() {
        let vllm = venv.join("bin/vllm");
        versions.push(format!("vllm {}", crate::first_line(root, &vllm.to_string_lossy(), &["--version"])));
    }
    let outcome = if is_success { "passed" } else { "FAILED" };
    format!(
        "# Verification: {}\n\n{}\n\n{outcome} on {date}, commit {commit}, {cpus} CPUs, in {seconds:.0} s. {}.\n\n\
         Repeat it with `cargo xtask verify {}`; the command was `SERVELAB_REAL={} {}`.\n\n```text\n{}\n```\n",
        name.text(),
        name.about(),
        versions.join("; "),
        name.text(),
        name.text(),
        command.join(" "),
        text.trim_end()
    )
}

/// Replaces paths of this machine, the longest first.
fn hide(mut text: String, mut paths: Vec<(PathBuf, &str)>) -> String {
    paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.as_os_str().len()));
    for (path, name) in paths {
        text = text.replace(&*path.to_string_lossy(), name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_is_hidden_first() {
        let paths = vec![(PathBuf::from("/a"), "<root>"), (PathBuf::from("/a/venv"), "VENV")];
        assert_eq!(hide("/a/venv/bin/x /a/b".to_owned(), paths), "VENV/bin/x <root>/b");
    }

    #[test]
    fn both_streams_are_kept_in_order() {
        let command = ["sh", "-c", "echo one; echo two >&2; echo three; exit 3"];
        let (text, is_success) = run(&crate::root(), Name::Vllm, &command, &Vec::new()).unwrap();
        assert_eq!(text, "one\ntwo\nthree\n");
        assert!(!is_success);
    }
}
