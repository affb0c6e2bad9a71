//! One attempt at a cell: what is in its folder and in which order it is written. `state.json` is written last, so a result
//! counts only when the state says that the attempt is over. Records keep their own formats (`records`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use servelab_core::engine_facts::EngineFacts;
use servelab_core::ids::CellId;
use servelab_core::record::{ClockEpoch, EventRecord, PromSample, RequestRecord};
use servelab_core::result::{BenchResult, RESULT_SCHEMA_VERSION};
use servelab_core::state::CellState;

use crate::error::StoreError;
use crate::files::{read_json, read_json_if_there, write_json};
use crate::records;

const STATE_SCHEMA: u32 = 1;

/// One step in an attempt's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The state entered.
    pub state: CellState,
    /// When, by the wall clock: nanoseconds since 1970.
    pub t_unix_ns: i64,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptState {
    /// Version of this file.
    pub schema: u32,
    /// The state now.
    pub state: CellState,
    /// Failure or verdict code, when there is one.
    #[serde(default)]
    pub code: Option<String>,
    /// What a person should know.
    #[serde(default)]
    pub detail: Option<String>,
    /// Every state with the instant it was entered, oldest first.
    #[serde(default)]
    pub history: Vec<StateChange>,
}

impl AttemptState {
    /// True for an attempt that was cut off from outside (killed, crashed, node lost), not ended by a result.
    pub fn is_interrupted(&self) -> bool {
        self.state == CellState::Failed && self.code.as_deref() == Some(AttemptDir::INTERRUPTED)
    }
}

/// `window.json`: the measured window and the facts of this attempt that tables need and the plan cannot know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowInfo {
    /// The clock of every stamp.
    pub clock: Option<ClockEpoch>,
    /// Start of the measured window, nanoseconds after the epoch.
    pub window_start_ns: i64,
    /// End of the measured window, nanoseconds after the epoch.
    pub window_end_ns: i64,
    /// Version that the engine reported.
    #[serde(default)]
    pub engine_version: Option<String>,
    /// GPU model that was found.
    #[serde(default)]
    pub gpu_model: Option<String>,
    /// Site name.
    #[serde(default)]
    pub site: Option<String>,
    /// The engine is a simulator.
    #[serde(default)]
    pub simulated: Option<bool>,
    /// Names of the nodes used.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Job that ran it.
    #[serde(default)]
    pub job: Option<String>,
    /// Position of this cell in the order in which its server start ran its cells, from 0.
    #[serde(default)]
    pub order: Option<u32>,
    /// What the engine said about itself while it started.
    #[serde(default, skip_serializing_if = "EngineFacts::is_empty")]
    pub engine: EngineFacts,
    /// Settings that a first start of the server told (`probe:`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probed: BTreeMap<String, serde_json::Value>,
}

/// `failure.json`: why an attempt failed, for people and for `--retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureReport {
    /// A code that `servelab explain` knows.
    pub code: String,
    /// What happened, in one sentence.
    pub detail: String,
    /// The line that gave it away, and the file it stands in.
    #[serde(default)]
    pub line: Option<String>,
    /// File of that line.
    #[serde(default)]
    pub source: Option<String>,
    /// What to do.
    #[serde(default)]
    pub advice: Option<String>,
}

/// The folder of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptDir {
    path: PathBuf,
    cell: CellId,
    attempt: u32,
}

impl AttemptDir {
    /// Code of an attempt whose process vanished.
    pub const INTERRUPTED: &'static str = "interrupted";

    pub(crate) fn new(path: PathBuf, cell: CellId, attempt: u32) -> Self {
        Self { path, cell, attempt }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cell.
    pub fn cell(&self) -> &CellId {
        &self.cell
    }

    /// The attempt's number, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Folder of the server logs, `<role>-<rank>.log`.
    pub fn server_log(&self, role: &str, rank: u32) -> PathBuf {
        self.path.join("server").join(format!("{role}-{rank}.log"))
    }

    /// Enters a state, keeping the history. For a terminal state call this after everything else was written.
    pub fn enter(
        &self,
        state: CellState,
        t_unix_ns: i64,
        code: Option<&str>,
        detail: Option<&str>,
    ) -> Result<AttemptState, StoreError> {
        let mut history = self.state()?.map(|old| old.history).unwrap_or_default();
        history.push(StateChange { state, t_unix_ns });
        let new = AttemptState {
            schema: STATE_SCHEMA,
            state,
            code: code.map(str::to_owned),
            detail: detail.map(str::to_owned),
            history,
        };
        write_json(&self.path.join("state.json"), &new)?;
        Ok(new)
    }

    /// The state; `None` before the first one was entered.
    pub fn state(&self) -> Result<Option<AttemptState>, StoreError> {
        let path = self.path.join("state.json");
        let state: Option<AttemptState> = read_json_if_there(&path)?;
        check_schema(&path, state.as_ref().map(|s| s.schema), STATE_SCHEMA)?;
        Ok(state)
    }

    /// Writes `result.json`.
    pub fn write_result(&self, result: &BenchResult) -> Result<(), StoreError> {
        write_json(&self.path.join("result.json"), result)
    }

    /// The result, if this attempt is over and has one. A result beside an unfinished state does not count.
    pub fn result(&self) -> Result<Option<BenchResult>, StoreError> {
        if !self.state()?.is_some_and(|state| state.state.is_terminal()) {
            return Ok(None);
        }
        let path = self.path.join("result.json");
        // The version is checked first: a newer file may not fit today's type.
        let value: Option<serde_json::Value> = read_json_if_there(&path)?;
        let Some(value) = value else { return Ok(None) };
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if let Some(found) = schema.filter(|found| *found > u64::from(RESULT_SCHEMA_VERSION)) {
            return Err(StoreError::TooNew { path, found, known: RESULT_SCHEMA_VERSION.into() });
        }
        serde_json::from_value(value).map(Some).map_err(|error| StoreError::malformed(&path, error.to_string()))
    }

    /// Writes `window.json`.
    pub fn write_window(&self, window: &WindowInfo) -> Result<(), StoreError> {
        write_json(&self.path.join("window.json"), window)
    }

    /// Reads `window.json`.
    pub fn window(&self) -> Result<Option<WindowInfo>, StoreError> {
        read_json_if_there(&self.path.join("window.json"))
    }

    /// Writes `failure.json`.
    pub fn write_failure(&self, failure: &FailureReport) -> Result<(), StoreError> {
        write_json(&self.path.join("failure.json"), failure)
    }

    /// Reads `failure.json`.
    pub fn failure(&self) -> Result<Option<FailureReport>, StoreError> {
        read_json_if_there(&self.path.join("failure.json"))
    }

    /// Path of `requests.parquet`.
    pub fn requests_path(&self) -> PathBuf {
        self.path.join("requests.parquet")
    }

    /// Path of `events.parquet`.
    pub fn events_path(&self) -> PathBuf {
        self.path.join("events.parquet")
    }

    /// Path of `prom.parquet`.
    pub fn prom_path(&self) -> PathBuf {
        self.path.join("prom.parquet")
    }

    /// Writes `requests.parquet`.
    pub fn write_requests(&self, requests: &[RequestRecord]) -> Result<(), StoreError> {
        records::write_requests(&self.requests_path(), requests)
    }

    /// Reads `requests.parquet`.
    pub fn requests(&self) -> Result<Vec<RequestRecord>, StoreError> {
        records::read_requests(&self.requests_path())
    }

    /// Writes `events.parquet`.
    pub fn write_events(&self, events: &[EventRecord]) -> Result<(), StoreError> {
        records::write_events(&self.events_path(), events)
    }

    /// Reads `events.parquet`; without the file there are no events.
    pub fn events(&self) -> Result<Vec<EventRecord>, StoreError> {
        or_empty(records::read_events(&self.events_path()))
    }

    /// Writes `prom.parquet`.
    pub fn write_prom(&self, samples: &[PromSample]) -> Result<(), StoreError> {
        records::write_prom(&self.prom_path(), samples)
    }

    /// Reads `prom.parquet`; without the file there are no samples.
    pub fn prom(&self) -> Result<Vec<PromSample>, StoreError> {
        or_empty(records::read_prom(&self.prom_path()))
    }

    pub(crate) fn read_claim<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        read_json(&self.path.join("claim.json"))
    }
}

fn or_empty<T>(read: Result<Vec<T>, StoreError>) -> Result<Vec<T>, StoreError> {
    match read {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

fn check_schema(path: &Path, found: Option<u32>, known: u32) -> Result<(), StoreError> {
    match found {
        Some(found) if found > known => {
            Err(StoreError::TooNew { path: path.to_owned(), found: found.into(), known: known.into() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_only_when_the_state_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = AttemptDir::new(dir.path().join("attempt-1"), CellId::new("c"), 1);
        assert_eq!(attempt.state().unwrap(), None);
        attempt.enter(CellState::Measuring, 1, None, None).unwrap();
        let fixture = "tests/fixtures/v1/root/cells/c1a0/attempt-1/result.json";
        let json = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
        let result: BenchResult = serde_json::from_str(&json).unwrap();
        attempt.write_result(&result).unwrap();
        assert_eq!(attempt.result().unwrap(), None);
        let state = attempt.enter(CellState::Done, 2, None, None).unwrap();
        assert_eq!(attempt.result().unwrap(), Some(result));
        let states: Vec<CellState> = state.history.iter().map(|change| change.state).collect();
        assert_eq!(states, [CellState::Measuring, CellState::Done]);

        let newer = json.replacen("\"schema\": 1", "\"schema\": 9, \"shape\": \"unknown\"", 1);
        std::fs::write(attempt.path().join("result.json"), newer).unwrap();
        assert!(matches!(attempt.result(), Err(StoreError::TooNew { found: 9, .. })));
    }

    #[test]
    fn failure_and_window_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = AttemptDir::new(dir.path().to_owned(), CellId::new("c"), 1);
        assert_eq!((attempt.window().unwrap(), attempt.failure().unwrap()), (None, None));
        let window = WindowInfo { window_end_ns: 7, simulated: Some(true), ..WindowInfo::default() };
        attempt.write_window(&window).unwrap();
        assert_eq!(attempt.window().unwrap(), Some(window));
        assert_eq!(attempt.events().unwrap(), []);
        assert!(attempt.requests().unwrap_err().is_not_found());
        std::fs::write(attempt.path().join("failure.json"), "{\"code\":").unwrap();
        assert!(matches!(attempt.failure(), Err(StoreError::Malformed { .. })));
    }
}
