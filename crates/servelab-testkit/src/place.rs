//! A folder of its own for each test, outside of the source tree, with what a test asks about it: which files exist,
//! what they hold, what the cells of a root have come to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::Servelab;
use crate::process::marked_processes;
use crate::wait::{Deadline, poll};

/// A test's folder.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    path: PathBuf,
    outputs: TempDir,
    program: PathBuf,
    mark: String,
    commands: Cell<u32>,
}

impl Place {
    /// A new, empty folder in which `program` is tested.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let folder = tempfile::Builder::new().prefix("servelab-test-").tempdir().expect("a temporary folder");
        let path = folder.path().canonicalize().expect("the folder's real path");
        let mark = path.to_string_lossy().into_owned();
        // Beside the test's folder: what a command prints must not look like something that it wrote.
        let outputs = tempfile::Builder::new().prefix("servelab-out-").tempdir().expect("a temporary folder");
        Self { folder, path, outputs, program: program.into(), mark, commands: Cell::new(0) }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What marks the processes of this test.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a folder");
        std::fs::write(&path, text).expect("write a file");
        path
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
    }

    /// Reads a JSON file.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        crate::json::parse(&self.read(name))
    }

    /// A command with these arguments, split at spaces.
    pub fn servelab(&self, line: &str) -> Servelab<'_> {
        Servelab::new(self, &self.program).args(line.split_whitespace())
    }

    pub(crate) fn output_files(&self) -> (PathBuf, PathBuf) {
        let n = self.commands.get();
        self.commands.set(n + 1);
        (self.outputs.path().join(format!("{n}.out")), self.outputs.path().join(format!("{n}.err")))
    }

    /// Every file below the folder with its length and content hash, sorted: to see what a command changed.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(self.path(), self.path(), &mut found);
        found
    }

    /// Names of files and folders right below `name`; empty when there is no such folder.
    pub fn list(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path().join(name)).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The latest state of every cell that has an attempt under `root`, with its code.
    pub fn states(&self, root: &str) -> BTreeMap<String, (String, Option<String>)> {
        let mut out = BTreeMap::new();
        for cell in self.list(&format!("{root}/cells")) {
            let Some(attempt) = self.attempts(root, &cell).into_iter().next_back() else { continue };
            let path = format!("{root}/cells/{cell}/{attempt}/state.json");
            if !self.path().join(&path).is_file() {
                out.insert(cell, ("claimed".to_owned(), None));
                continue;
            }
            let state = self.json(&path);
            let text = |key: &str| state.get(key).and_then(Value::as_str).map(str::to_owned);
            out.insert(cell, (text("state").expect("a state"), text("code")));
        }
        out
    }

    /// The attempts of a cell in order of their numbers.
    pub fn attempts(&self, root: &str, cell: &str) -> Vec<String> {
        let mut names = self.list(&format!("{root}/cells/{cell}"));
        names.retain(|name| name.starts_with("attempt-"));
        names.sort_by_key(|name| name.trim_start_matches("attempt-").parse::<u32>().unwrap_or(0));
        names
    }

    /// Waits until no process of this test is left.
    #[track_caller]
    pub fn wait_until_quiet(&self) {
        poll("the end of all processes", Deadline::in_s(20), || marked_processes(&self.mark).is_empty().then_some(()));
    }

    /// Keeps the folder after the test, for a look at it.
    pub fn keep(self) -> PathBuf {
        self.folder.keep()
    }
}

fn collect(base: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(base, &path, found);
        } else if let Ok(name) = path.strip_prefix(base) {
            found.insert(name.to_string_lossy().into_owned(), std::fs::read(&path).unwrap_or_default());
        }
    }
}
