//! The two-phase start: a first, short start of the server tells settings by its log (`probe:`), the real start uses them.
//! What was found is kept with the point, so that repeats and resumed runs start alike; other hardware asks anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use servelab_core::flags::{Dialect, setting_flag};
use servelab_core::plan::{PlannedPoint, RolePlan};
use servelab_core::probe::{ProbeRule, Probed, rules};
use servelab_core::state::CellState;
use servelab_store::{AttemptDir, write_json};

use crate::diagnosis::ServerFailure;
use crate::error::RunError;
use crate::observe::ServerPhase;
use crate::port::reserve_port;
use crate::process::ServerProcess;
use crate::server::Launcher;

const POLL: Duration = Duration::from_millis(100);

/// `probe.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ProbeFile {
    schema: u32,
    /// What was looked for.
    rules: Vec<ProbeRule>,
    /// What was found.
    found: Vec<Probed>,
    /// GPUs of the machine that told it.
    gpus: Vec<String>,
    /// Memory of that machine, GiB.
    memory_gib: Option<f64>,
    /// The log of the probing start.
    log: String,
}

/// How a probing start ended.
pub(crate) enum ProbeOutcome {
    /// Settings with their values; empty without probes.
    Known(BTreeMap<String, Value>),
    /// No value was found.
    Failed(ServerFailure),
    /// The run was asked to end.
    Cancelled,
}

impl Launcher<'_> {
    /// The point's probed settings, from an earlier start or from one of its own.
    pub(crate) fn probe(
        &self,
        point: &PlannedPoint,
        role: Option<&RolePlan>,
        attempts: &[AttemptDir],
    ) -> Result<ProbeOutcome, RunError> {
        let rules = rules(&point.config);
        let Some(role) = role.filter(|_| !rules.is_empty()) else {
            return Ok(ProbeOutcome::Known(BTreeMap::new()));
        };
        let path = self.root.point_dir(&point.id)?.join("probe.json");
        let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<ProbeFile>(&bytes).ok());
        let known = known.filter(|file| self.still_holds(file, &rules));
        if let Some(file) = known {
            return Ok(ProbeOutcome::Known(values(&file.found)));
        }
        for attempt in attempts {
            self.recorder.cell(attempt, CellState::Probing, None, None)?;
        }
        let start: BTreeMap<String, Value> =
            rules.iter().map(|rule| (rule.setting.clone(), rule.start_with.clone())).collect();
        let role = with_settings(point, role, &start);
        let mut ports = Vec::new();
        let reserved = reserve_port(self.options.port_base).ok_or(RunError::NoPort { base: self.options.port_base })?;
        let number = reserved.port();
        ports.push(reserved);
        let began = Instant::now();
        let words = || start.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
        self.recorder.server(&point.id, ServerPhase::Starting, 0.0, Some(format!("probing with {}", words())))?;
        let (mut process, log) = match self.spawn(point, &role, number, &mut ports, attempts)? {
            Ok(started) => started,
            Err(failure) => return Ok(ProbeOutcome::Failed(failure)),
        };
        let outcome = self.read_log(&rules, &mut process, &log, began);
        self.end(Some(&mut process), "end of the probe");
        self.recorder.server(&point.id, ServerPhase::Stopped, began.elapsed().as_secs_f64(), None)?;
        let found = match outcome {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(ProbeOutcome::Cancelled),
            Err(failure) => return Ok(ProbeOutcome::Failed(*failure)),
        };
        for probed in &found {
            self.recorder.notice(format!("  probed {}: {} ({})", probed.setting, probed.value, probed.line));
        }
        let known = values(&found);
        write_json(
            &path,
            &ProbeFile {
                schema: 1,
                rules,
                found,
                gpus: self.gpu_names(),
                memory_gib: self.machine.memory_gib,
                log: log.display().to_string(),
            },
        )?;
        Ok(ProbeOutcome::Known(known))
    }

    /// Reads the log until every rule has its value. `None`: the run was asked to end.
    fn read_log(
        &self,
        rules: &[ProbeRule],
        process: &mut ServerProcess,
        log: &Path,
        began: Instant,
    ) -> Result<Option<Vec<Probed>>, Box<ServerFailure>> {
        loop {
            // Looked at before the log is read: what a server says before it ends must not be missed.
            let has_ended = process.exit();
            let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let found: Result<Vec<Probed>, String> = rules.iter().map(|rule| rule.find(&text)).collect();
            let missing = match found {
                Ok(found) => return Ok(Some(found)),
                Err(missing) => missing,
            };
            if self.control.is_stopping() {
                return Ok(None);
            }
            if let Some(exit) = has_ended {
                let detail = format!("the probing server {}", exit.describe());
                return Err(Box::new(ServerFailure::died("server_exited", detail, Some(log))));
            }
            if began.elapsed() > self.options.ready_timeout {
                let detail = format!("{missing}, after {:.0} s", began.elapsed().as_secs_f64());
                let advice = Some("check `from_log` against the server's log");
                return Err(Box::new(ServerFailure::new("probe_failed", detail, advice)));
            }
            std::thread::sleep(POLL);
        }
    }

    fn still_holds(&self, file: &ProbeFile, rules: &[ProbeRule]) -> bool {
        file.rules == rules && file.gpus == self.gpu_names() && file.memory_gib == self.machine.memory_gib
    }

    fn gpu_names(&self) -> Vec<String> {
        self.machine.gpus.iter().map(|gpu| format!("{} {}", gpu.name, gpu.memory)).collect()
    }
}

fn values(found: &[Probed]) -> BTreeMap<String, Value> {
    found.iter().map(|probed| (probed.setting.clone(), probed.value.clone())).collect()
}

/// The role with settings on its command line.
pub(crate) fn with_settings(point: &PlannedPoint, role: &RolePlan, settings: &BTreeMap<String, Value>) -> RolePlan {
    let mut role = role.clone();
    let kind = point.config.pointer("/engine/kind").and_then(Value::as_str).unwrap_or("vllm");
    let dialect = Dialect::of_engine(kind).unwrap_or(Dialect::Vllm);
    for (name, value) in settings {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        role.argv.extend([setting_flag(dialect, name), text]);
    }
    role
}
