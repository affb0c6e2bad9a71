//! The hand-over to lm-evaluation-harness: a server that is up, and `lm_eval --model local-completions` against it. What the
//! harness measures is its own business; its results are kept as it wrote them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answers::Asked;
use crate::control::RunControl;

/// Beside the point's answers.
pub(crate) const RECORD: &str = "lm_eval.json";
const FOLDER: &str = "lm_eval";
const LIMIT: Duration = Duration::from_secs(6 * 3600);
const POLL: Duration = Duration::from_millis(100);
/// Requests that the harness keeps in flight.
const CONCURRENT: u32 = 8;

/// What the harness is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HarnessPlan {
    /// Names of its tasks.
    pub tasks: Vec<String>,
    /// Documents per task.
    pub limit: Option<u32>,
}

/// `lm_eval.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HarnessRecord {
    pub(crate) schema: u32,
    pub(crate) command: Vec<String>,
    pub(crate) seconds: f64,
    /// Task → metric → value, as the harness wrote them.
    pub(crate) results: BTreeMap<String, Value>,
    /// Why there are no results.
    pub(crate) absent: Option<String>,
}

/// Runs the harness; whatever goes wrong is a reason in the record.
pub(crate) fn hand_over(
    plan: &HarnessPlan,
    program: Option<&Path>,
    asked: Asked<'_>,
    folder: &Path,
    control: &RunControl,
) -> HarnessRecord {
    let started = Instant::now();
    let mut record = HarnessRecord { schema: 1, ..HarnessRecord::default() };
    let Some(program) = program else {
        record.absent = Some("`lm_eval` is not on PATH (pip install lm-eval[api])".to_owned());
        return record;
    };
    let out = folder.join(FOLDER);
    record.command = command(plan, program, asked, &out);
    match run(&record.command, &out, control).and_then(|()| results(&out)) {
        Ok(results) => record.results = results,
        Err(reason) => record.absent = Some(reason),
    }
    record.seconds = started.elapsed().as_secs_f64();
    record
}

fn command(plan: &HarnessPlan, program: &Path, asked: Asked<'_>, out: &Path) -> Vec<String> {
    let model_args = format!(
        "model={},base_url={}/v1/completions,num_concurrent={CONCURRENT},max_retries=1,tokenized_requests=False",
        asked.model, asked.base_url
    );
    let words = ["--model", "local-completions", "--model_args", &model_args, "--tasks", &plan.tasks.join(",")];
    let mut command = vec![program.display().to_string()];
    command.extend(words.map(str::to_owned));
    command.extend(plan.limit.into_iter().flat_map(|limit| ["--limit".to_owned(), limit.to_string()]));
    command.extend(["--output_path".to_owned(), out.display().to_string()]);
    command
}

fn run(command: &[String], out: &Path, control: &RunControl) -> Result<(), String> {
    fs::create_dir_all(out).map_err(|error| error.to_string())?;
    let log = fs::File::create(out.join("log.txt")).map_err(|error| error.to_string())?;
    let (program, args) = command.split_first().ok_or("no command")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot start `{program}`: {error}"))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}; see {FOLDER}/log.txt")),
            Ok(None) if Instant::now() < deadline && !control.is_stopping() => std::thread::sleep(POLL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it was ended before it was done".to_owned());
            }
        }
    }
}

/// The newest `results_*.json` below the folder: the harness makes a folder per model.
fn results(out: &Path) -> Result<BTreeMap<String, Value>, String> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("results") && name.ends_with(".json") {
                found.push(path);
            }
        }
    }
    found.sort();
    let path = found.last().ok_or("it wrote no results")?;
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let all: Value = serde_json::from_slice(&bytes).map_err(|error| format!("its results are no JSON: {error}"))?;
    let tasks = all.get("results").and_then(Value::as_object).ok_or("its results have no section `results`")?;
    Ok(tasks.iter().map(|(task, metrics)| (task.clone(), metrics.clone())).collect())
}

#[cfg(test)]
mod tests {
    use servelab_load::Endpoint;

    use super::*;
    use crate::fixtures::executable;

    fn asked() -> Asked<'static> {
        let base_url = "http://127.0.0.1:9";
        Asked { base_url, api_key: None, endpoint: Endpoint::Completions, model: "m", engine_version: None }
    }

    fn harness(folder: &Path, script: &str) -> PathBuf {
        let program = folder.join("program");
        executable(&program, &format!("#!/bin/sh\n{script}\n"));
        program
    }

    #[test]
    fn results_are_kept_as_they_are_and_failures_have_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let plan = HarnessPlan { tasks: vec!["gsm8k".to_owned(), "arc_easy".to_owned()], limit: Some(5) };
        let control = RunControl::new();
        let script = r#"for last; do :; done; mkdir -p "$last/m"
echo '{"results": {"gsm8k": {"exact_match,strict-match": 0.5}}}' > "$last/m/results_2026.json""#;
        let program = harness(folder.path(), script);
        let record = hand_over(&plan, Some(&program), asked(), folder.path(), &control);
        assert_eq!(record.results["gsm8k"]["exact_match,strict-match"], 0.5, "{record:?}");
        let line = record.command.join(" ");
        assert!(
            line.contains("--tasks gsm8k,arc_easy --limit 5")
                && line.contains("base_url=http://127.0.0.1:9/v1/completions")
        );
        let other = tempfile::tempdir().unwrap();
        let program = harness(other.path(), "exit 3");
        let record = hand_over(&plan, Some(&program), asked(), other.path(), &control);
        assert!(record.absent.is_some_and(|reason| reason.contains("exit status: 3")));
        let record = hand_over(&plan, None, asked(), other.path(), &control);
        assert!(record.absent.is_some_and(|reason| reason.contains("not on PATH")));
    }
}
