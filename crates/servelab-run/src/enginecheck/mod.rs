//! Asks the engine of the target environment whether it would take a plan's command lines: its own parser and configuration
//! classes, every distinct flag set, one Python process. Costs one import (about 20 s of vLLM) and some hundredths of a
//! second per set, against a node-hour for each server that would have refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use servelab_core::flags::Dialect;
use servelab_core::ids::PointId;
use servelab_core::plan::{Plan, PlanStatus};

use crate::effective::{Difference, compare};
use crate::envlock::python_of;
use crate::launch::environment;
use crate::serverlog::ServerLogFacts;

#[cfg(test)]
mod tests;

const SCRIPT: &str = include_str!("check_engine.py");
/// Before every answer; engines log to the same stream.
const MARK: &str = "@servelab ";

/// Version of the JSON form.
pub const CHECK_SCHEMA: u32 = 1;

/// Which engine to ask, and how.
#[derive(Debug, Clone)]
pub struct CheckRequest<'a> {
    /// The engine's program, found.
    pub program: &'a Path,
    /// Whose flags these are.
    pub dialect: Dialect,
    /// The site's environment.
    pub env: &'a [(String, String)],
    /// For the import and all sets together.
    pub limit: Duration,
}

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Its first line names no interpreter.
    #[error("find the Python of `{}`: its first line names no interpreter; give the engine's own program with --engine-bin", .0.display())]
    NoPython(PathBuf),
    /// The simulator and external servers have no parser that could be asked beforehand.
    #[error(
        "check flags of this engine: only vLLM and SGLang can be asked; the simulator refuses what it does not know at its start"
    )]
    NotAsked,
    /// The process could not be run.
    #[error("run `{}`", python.display())]
    Spawn {
        /// The interpreter.
        python: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("hear from `{}` within {limit_s:.0} s", python.display())]
    TimedOut {
        /// The interpreter.
        python: PathBuf,
        /// The limit.
        limit_s: f64,
    },
    /// The engine could not be imported, or answered something else.
    #[error("ask `{}`: {detail}", python.display())]
    Engine {
        /// The interpreter.
        python: PathBuf,
        /// What it said.
        detail: String,
    },
}

/// What the engine made of one flag set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetStatus {
    /// It would start with exactly this.
    Ok,
    /// It would start, but with other values than were asked for.
    Changed,
    /// It would not start.
    Refused,
    /// The flags parse; the rest needs what this machine lacks (a GPU, the model).
    Parsed,
}

/// One distinct flag set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckedSet {
    /// Points that share it.
    pub points: Vec<PointId>,
    /// Their labels.
    pub labels: Vec<String>,
    /// Role within the point.
    pub role: String,
    /// Command line without the program.
    pub argv: Vec<String>,
    /// The answer.
    pub status: SetStatus,
    /// Why it is refused, or was parsed only.
    pub detail: Option<String>,
    /// Settings that would have another value.
    pub differences: Vec<Difference>,
    /// Values that the engine would choose for settings that nobody made.
    pub implied: BTreeMap<String, Value>,
    /// Warnings that the engine logged meanwhile.
    pub warnings: Vec<String>,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineCheck {
    /// Always [`CHECK_SCHEMA`].
    pub schema: u32,
    /// The engine's program.
    pub program: PathBuf,
    /// Its version, by its own word.
    pub engine_version: String,
    /// Seconds that it took, the import included.
    pub seconds: f64,
    /// One entry per distinct flag set, in the order of the plan.
    pub sets: Vec<CheckedSet>,
}

impl EngineCheck {
    /// Sets that the engine would not start with.
    pub fn refused(&self) -> impl Iterator<Item = &CheckedSet> {
        self.sets.iter().filter(|set| set.status == SetStatus::Refused)
    }
}

/// A flag set before it was asked about.
struct FlagSet {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    points: Vec<PointId>,
    labels: Vec<String>,
    role: String,
    config: Value,
}

/// Asks about every distinct flag set of the plan's points that nothing speaks against yet.
pub fn check_engine(plan: &Plan, request: &CheckRequest<'_>) -> Result<EngineCheck, CheckError> {
    if matches!(request.dialect, Dialect::Sim | Dialect::LlamaCpp) {
        return Err(CheckError::NotAsked);
    }
    let python = python_of(request.program).ok_or_else(|| CheckError::NoPython(request.program.to_owned()))?;
    let sets = flag_sets(plan, request.env);
    let started = Instant::now();
    let asked = json!({
        "engine": if request.dialect == Dialect::Sglang { "sglang" } else { "vllm" },
        "sets": sets.iter().map(|set| json!({"argv": set.argv, "env": set.env})).collect::<Vec<_>>(),
    });
    let output = ask(&python, &asked, request)?;
    let answers = Answers::read(&output.0);
    let Some(engine_version) = answers.version else {
        let last =
            || output.1.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        return Err(CheckError::Engine { python, detail: answers.error.unwrap_or_else(last) });
    };
    let checked = sets.into_iter().enumerate().map(|(idx, set)| match answers.sets.get(&idx) {
        Some(answer) => judge(set, answer, &engine_version),
        None => CheckedSet { detail: Some("the engine's process ended before this set".to_owned()), ..unanswered(set) },
    });
    Ok(EngineCheck {
        schema: CHECK_SCHEMA,
        program: request.program.to_owned(),
        sets: checked.collect(),
        engine_version,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn flag_sets(plan: &Plan, site_env: &[(String, String)]) -> Vec<FlagSet> {
    let mut sets: Vec<FlagSet> = Vec::new();
    let mut places: BTreeMap<(Vec<String>, BTreeMap<String, String>), usize> = BTreeMap::new();
    for point in plan.points.iter().filter(|point| point.status == PlanStatus::Planned) {
        for role in point.roles.iter().filter(|role| role.role != "router" && role.argv.len() > 1) {
            // `vllm serve MODEL …`, `python3 -m sglang.launch_server …`: what follows the program's own words.
            let own = if role.argv.get(1).is_some_and(|arg| arg == "-m") { 3 } else { 2 };
            let argv: Vec<String> = role.argv.get(own..).unwrap_or_default().to_vec();
            let env: BTreeMap<String, String> = environment(site_env, role).into_iter().collect();
            let place = *places.entry((argv.clone(), env.clone())).or_insert_with(|| {
                let (role, config) = (role.role.clone(), point.config.clone());
                sets.push(FlagSet { argv, env, points: Vec::new(), labels: Vec::new(), role, config });
                sets.len() - 1
            });
            if let Some(set) = sets.get_mut(place).filter(|set| !set.points.contains(&point.id)) {
                set.points.push(point.id.clone());
                set.labels.extend(point.labels.iter().cloned());
            }
        }
    }
    sets
}

/// Standard output and standard error.
fn ask(python: &Path, asked: &Value, request: &CheckRequest<'_>) -> Result<(String, String), CheckError> {
    let spawn = |source| CheckError::Spawn { python: python.to_owned(), source };
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .current_dir("/")
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .envs([("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1"), ("PYTHONUNBUFFERED", "1")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let text = asked.to_string();
    // A thread per stream: none of the three pipes may fill up and stop the others. They end with the process.
    let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(text.as_bytes())));
    let (stdout, stderr) = (thread::spawn(move || all_of(stdout)), thread::spawn(move || all_of(stderr)));
    let deadline = Instant::now() + request.limit;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                let limit_s = request.limit.as_secs_f64();
                return Err(CheckError::TimedOut { python: python.to_owned(), limit_s });
            }
        }
    }
    let _ = writer.join();
    Ok((stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default()))
}

fn all_of(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    refused: Option<String>,
    #[serde(default)]
    unchecked: Option<String>,
    #[serde(default)]
    config: Option<Value>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Debug, Default)]
struct Answers {
    version: Option<String>,
    error: Option<String>,
    sets: BTreeMap<usize, Answer>,
}

impl Answers {
    /// Whatever else is on the stream is passed over.
    fn read(output: &str) -> Self {
        let mut answers = Self::default();
        for line in output.lines().filter_map(|line| line.split_once(MARK)).map(|(_, json)| json) {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
            answers.version = answers.version.or_else(|| text("version"));
            answers.error = answers.error.or_else(|| text("error"));
            let index = value.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
            if let Some((index, answer)) = index.zip(serde_json::from_value(value).ok()) {
                answers.sets.insert(index, answer);
            }
        }
        answers
    }
}

fn unanswered(set: FlagSet) -> CheckedSet {
    let FlagSet { argv, points, labels, role, .. } = set;
    CheckedSet {
        points,
        labels,
        role,
        argv,
        status: SetStatus::Parsed,
        detail: None,
        differences: Vec::new(),
        implied: BTreeMap::new(),
        warnings: Vec::new(),
    }
}

fn judge(set: FlagSet, answer: &Answer, version: &str) -> CheckedSet {
    let config = set.config.clone();
    let mut checked = CheckedSet { warnings: answer.warnings.clone(), ..unanswered(set) };
    if let Some(refused) = &answer.refused {
        checked.status = SetStatus::Refused;
        checked.detail = Some(first_sentence(refused));
    } else if let Some(lacking) = &answer.unchecked {
        checked.detail = Some(first_sentence(lacking));
    } else {
        // The roles of a split point have settings of their own that the point's common part does not show.
        let requested = if checked.role == "serve" { config } else { Value::Null };
        let info = answer.config.as_ref().map(|config| json!({"vllm_config": config}));
        let effective = compare(&requested, &ServerLogFacts::default(), info.as_ref(), Some(version));
        checked.status = if effective.differences.is_empty() { SetStatus::Ok } else { SetStatus::Changed };
        checked.implied = effective.effective;
        checked.implied.retain(|key, _| !effective.requested.contains_key(key));
        checked.differences = effective.differences;
    }
    checked
}

/// Validation errors go on for pages: what matters is before the dump of the input.
fn first_sentence(text: &str) -> String {
    let text = text.split(" [type=").next().unwrap_or(text);
    let text = text.replace("\n  Value error, ", " ").replace('\n', " ");
    text.trim().chars().take(600).collect()
}
