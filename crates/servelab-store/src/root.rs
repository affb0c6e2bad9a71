//! The results root: its format version and where everything lies in it. Folders of points, cells and jobs are made at
//! first use. What is inside an attempt belongs to `attempt`, who may work on it to `claim`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use servelab_core::ids::{CellId, JobId, PointId};
use servelab_core::plan::Plan;

use crate::attempt::AttemptDir;
use crate::error::StoreError;
use crate::files::{create_dir_all, read_json, write_json};

/// Format of the root folder that this version writes; a newer one is refused, an older one read.
pub const ROOT_FORMAT: u64 = 1;

const MARKER: &str = "servelab-root.json";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u64,
}

/// An open results root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// Opens an existing root.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let marker_path = path.join(MARKER);
        let marker: Marker = match read_json(&marker_path) {
            Err(error) if error.is_not_found() && path.is_dir() => {
                return Err(StoreError::NotARoot { path: path.to_owned() });
            }
            other => other?,
        };
        if marker.format > ROOT_FORMAT {
            return Err(StoreError::TooNew { path: marker_path, found: marker.format, known: ROOT_FORMAT });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Opens a root, making it first when the folder is missing or empty.
    pub fn open_or_create(path: &Path) -> Result<Self, StoreError> {
        match Self::open(path) {
            Err(error) if error.is_not_found() => {}
            Err(StoreError::NotARoot { .. }) if is_empty(path)? => {}
            other => return other,
        }
        create_dir_all(path)?;
        write_json(&path.join(MARKER), &Marker { format: ROOT_FORMAT })?;
        Self::open(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `studies/<study>`: study.yaml, plan.json, labels.json, events.jsonl, MANIFEST.md, scripts.
    pub fn study_dir(&self, study: &str) -> Result<PathBuf, StoreError> {
        Ok(self.path.join("studies").join(folder_name(study)?))
    }

    /// `points/<id>`: config.json, command.txt, effective.json, env.lock.json, probe.json.
    pub fn point_dir(&self, point: &PointId) -> Result<PathBuf, StoreError> {
        Ok(self.path.join("points").join(folder_name(point.as_str())?))
    }

    /// `cells/<id>`: one folder per attempt.
    pub fn cell_dir(&self, cell: &CellId) -> Result<PathBuf, StoreError> {
        Ok(self.path.join("cells").join(folder_name(cell.as_str())?))
    }

    /// `jobs/<uuid>`: intent.json, scheduler.jsonl, heartbeat, exit.json.
    pub fn job_dir(&self, job: &JobId) -> Result<PathBuf, StoreError> {
        Ok(self.path.join("jobs").join(folder_name(job.as_str())?))
    }

    /// `reports/<study>/<rev>`.
    pub fn reports_dir(&self, study: &str, revision: &str) -> Result<PathBuf, StoreError> {
        Ok(self.path.join("reports").join(folder_name(study)?).join(folder_name(revision)?))
    }

    /// `logs`: output of scheduler jobs.
    pub fn logs_dir(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// `studies/<study>/events.jsonl`.
    pub fn events_path(&self, study: &str) -> Result<PathBuf, StoreError> {
        Ok(self.study_dir(study)?.join("events.jsonl"))
    }

    /// `studies/<study>/plan.json`.
    pub fn plan_path(&self, study: &str) -> Result<PathBuf, StoreError> {
        Ok(self.study_dir(study)?.join("plan.json"))
    }

    /// Reads the stored plan of a study; one of a newer schema is refused.
    pub fn load_plan(&self, study: &str) -> Result<Plan, StoreError> {
        let path = self.plan_path(study)?;
        let plan: Plan = read_json(&path)?;
        let known = servelab_core::plan::PLAN_SCHEMA_VERSION;
        if plan.schema > known {
            return Err(StoreError::TooNew { path, found: plan.schema.into(), known: known.into() });
        }
        Ok(plan)
    }

    /// Names of the studies that this root holds, sorted.
    pub fn studies(&self) -> Result<Vec<String>, StoreError> {
        let mut names = child_names(&self.path.join("studies"))?;
        names.sort();
        Ok(names)
    }

    /// The folder of one attempt, whether it exists or not. Attempts count from 1.
    pub fn attempt_dir(&self, cell: &CellId, attempt: u32) -> Result<AttemptDir, StoreError> {
        Ok(AttemptDir::new(self.cell_dir(cell)?.join(format!("attempt-{attempt}")), cell.clone(), attempt))
    }

    /// Every attempt of a cell, oldest first.
    pub fn attempts(&self, cell: &CellId) -> Result<Vec<AttemptDir>, StoreError> {
        let names = child_names(&self.cell_dir(cell)?)?;
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix("attempt-")?.parse().ok()).filter(|n| *n > 0).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|attempt| self.attempt_dir(cell, attempt)).collect()
    }

    /// The newest attempt of a cell.
    pub fn latest_attempt(&self, cell: &CellId) -> Result<Option<AttemptDir>, StoreError> {
        Ok(self.attempts(cell)?.pop())
    }
}

fn child_names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::read(dir, error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_, _>>().map_err(|error| StoreError::read(dir, error))
}

fn is_empty(dir: &Path) -> Result<bool, StoreError> {
    Ok(child_names(dir)?.is_empty())
}

/// An identifier that comes from a file must never climb out of the root.
fn folder_name(id: &str) -> Result<&str, StoreError> {
    let is_safe = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(is_safe) {
        return Err(StoreError::BadName { id: id.to_owned() });
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_opens_and_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/root");
        assert!(Root::open(&path).unwrap_err().is_not_found());
        let root = Root::open_or_create(&path).unwrap();
        assert_eq!(Root::open(&path).unwrap(), root);
        assert_eq!(Root::open_or_create(&path).unwrap(), root);

        fs::write(path.join(MARKER), "{\"format\": 2}").unwrap();
        assert!(matches!(Root::open_or_create(&path), Err(StoreError::TooNew { found: 2, known: 1, .. })));

        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        Root::open_or_create(&foreign).unwrap();
        fs::remove_file(foreign.join(MARKER)).unwrap();
        fs::write(foreign.join("thesis.tex"), "x").unwrap();
        assert!(matches!(Root::open_or_create(&foreign), Err(StoreError::NotARoot { .. })));
    }

    #[test]
    fn no_identifier_climbs_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(dir.path()).unwrap();
        for id in ["", "..", ".hidden", "a/b", "/etc", "a\0b", "x\n", &"y".repeat(300)] {
            assert!(root.cell_dir(&CellId::new(id)).is_err(), "{id:?}");
            assert!(root.study_dir(id).is_err(), "{id:?}");
        }
        assert!(root.study_dir("glm46-phases_2.1").unwrap().ends_with("studies/glm46-phases_2.1"));
    }

    #[test]
    fn attempts_are_found_in_numeric_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(dir.path()).unwrap();
        let cell = CellId::new("c0ffee");
        assert!(root.latest_attempt(&cell).unwrap().is_none());
        for name in ["attempt-2", "attempt-10", "attempt-1", "attempt-x", "attempt-0", "notes"] {
            fs::create_dir_all(root.cell_dir(&cell).unwrap().join(name)).unwrap();
        }
        let numbers: Vec<u32> = root.attempts(&cell).unwrap().iter().map(AttemptDir::attempt).collect();
        assert_eq!(numbers, [1, 2, 10]);
    }
}
