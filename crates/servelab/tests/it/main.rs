//! Tests of the whole program, one module per subject. They run the built binary in a folder of their own and look at
//! what it prints, what it writes and what it leaves running. What can fail in a lower layer is tested there.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails like the test itself")]

mod bench;
mod cluster;
mod data;
mod edges;
mod engine;
mod errors;
mod evidence;
mod failures;
mod findings;
mod info;
mod init;
mod limits;
mod network;
mod pd;
mod plan;
mod portable;
mod predict;
mod real_chromium;
mod real_engine;
mod real_pandas;
mod real_pd;
mod real_predict;
mod real_slurm;
mod real_vllm;
mod real_vllm_bench;
mod report;
mod router;
mod run;
mod schema;
mod scripts;
mod shards;
mod side_runs;
mod sim;
mod stops;
mod traces;
mod traffic;

use std::path::{Path, PathBuf};

use servelab_testkit::Place;

/// A new place to run the program in.
fn place() -> Place {
    Place::new(env!("CARGO_BIN_EXE_servelab"))
}

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// An example study.
fn example(name: &str) -> String {
    repository().join("examples").join(format!("{name}.yaml")).to_string_lossy().into_owned()
}

/// A module that is not declared would silently not be tested.
#[test]
fn every_file_is_declared() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let modules = names.filter(|path| path.extension().is_some_and(|e| e == "rs") || path.join("mod.rs").is_file());
    for path in modules {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_declared = main.lines().any(|line| line == format!("mod {name};"));
        assert!(name == "main" || is_declared, "tests/it/main.rs does not declare `mod {name};`");
    }
}
