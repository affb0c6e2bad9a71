//! `env.lock.json`: what a point really ran on. The machine, the engine's packages, the commits of engine and study, the
//! container. What cannot be found out stands under `absent` with its reason, so that nobody takes silence for sameness.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::environment::{Machine, output_within};

/// Reads versions without importing the packages: an import of torch takes seconds.
const PACKAGES: &str = include_str!("packages.py");
/// A cold shared file system answers slowly.
const PYTHON_LIMIT: Duration = Duration::from_secs(60);
const GIT_LIMIT: Duration = Duration::from_secs(10);

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EnvLock {
    /// Version of this file.
    pub schema: u32,
    /// Version of this program.
    pub servelab: String,
    /// Version that the engine reported.
    pub engine_version: Option<String>,
    /// The machine on which this program ran.
    pub machine: Machine,
    /// Host names of the allocation, the first one first.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Versions of the packages that decide about speed, by name (`vllm`, `torch`, `nvidia-nccl-cu12`, …).
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// Python's version.
    #[serde(default)]
    pub python: Option<String>,
    /// CUDA that torch was built for.
    #[serde(default)]
    pub cuda: Option<String>,
    /// GPU driver.
    #[serde(default)]
    pub driver: Option<String>,
    /// NCCL or RCCL.
    #[serde(default)]
    pub nccl: Option<String>,
    /// Commit from which the engine was built.
    #[serde(default)]
    pub engine_commit: Option<String>,
    /// Commit of the repository that holds the study, with `+changes` where the work tree differs.
    #[serde(default)]
    pub study_commit: Option<String>,
    /// The container.
    #[serde(default)]
    pub container: Option<ContainerLock>,
    /// What is not known, with the reason.
    #[serde(default)]
    pub absent: BTreeMap<String, String>,
}

/// The container that the engine ran in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLock {
    /// As the site, or the runtime around us, names it.
    pub image: String,
    /// `sha256:…`, where the name carries it.
    pub digest: Option<String>,
}

/// What all starts of a run have in common.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    nodes: Vec<String>,
    packages: Option<Value>,
    study_commit: Option<String>,
    container: Option<ContainerLock>,
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct SurroundingsRequest<'a> {
    /// The engine's program.
    pub engine: Option<PathBuf>,
    /// Nodes of the allocation.
    pub nodes: &'a [String],
    /// Folder of the study.
    pub study_folder: Option<&'a Path>,
    /// The site's container image.
    pub container_image: Option<&'a str>,
}

impl Surroundings {
    /// Looks around; asks Python once and git twice.
    pub fn detect(request: &SurroundingsRequest<'_>) -> Self {
        Self {
            nodes: request.nodes.to_vec(),
            packages: request.engine.as_deref().and_then(python_of).and_then(|python| packages(&python)),
            study_commit: request.study_folder.and_then(commit),
            container: container(request.container_image, |name| std::env::var(name).ok()),
        }
    }
}

impl EnvLock {
    /// Puts it together. `info` is what the server says about its own environment (`/server_info`, `system_env`).
    pub fn new(machine: &Machine, around: &Surroundings, engine_version: Option<String>, info: Option<&Value>) -> Self {
        let mut packages = BTreeMap::new();
        // The running server's own word is worth more than the environment that its program belongs to.
        for (name, version) in around.packages.iter().flat_map(listed).chain(info.into_iter().flat_map(pip_list)) {
            packages.insert(name, version);
        }
        let text = |value: Option<&Value>| {
            let text = value?.as_str()?.trim();
            (!matches!(text, "" | "N/A" | "None" | "null")).then(|| text.to_owned())
        };
        let by_server = |name: &str| text(info.and_then(|info| info.get(name)));
        let by_python = |name: &str| text(around.packages.as_ref().and_then(|all| all.get(name)));
        if let Some(torch) = by_server("torch_version") {
            packages.insert("torch".to_owned(), torch);
        }
        let nccl = packages.iter().find(|(name, _)| name.contains("nccl") || name.contains("rccl"));
        let mut lock = Self {
            schema: 2,
            servelab: env!("CARGO_PKG_VERSION").to_owned(),
            engine_version,
            machine: machine.clone(),
            nodes: if around.nodes.is_empty() { vec![machine.host.clone()] } else { around.nodes.clone() },
            python: by_server("python_version").or_else(|| by_python("python")),
            cuda: by_server("cuda_compiled_version").or_else(|| by_python("cuda")),
            driver: by_server("nvidia_driver_version").or_else(|| Some(machine.gpus.first()?.driver.clone())),
            nccl: nccl.map(|(_, version)| version.clone()),
            engine_commit: by_python("vllm_commit"),
            study_commit: around.study_commit.clone(),
            container: around.container.clone(),
            packages,
            absent: BTreeMap::new(),
        };
        lock.say_what_is_absent(info.is_some(), around.packages.is_some());
        lock
    }

    fn say_what_is_absent(&mut self, server_told: bool, python_told: bool) {
        let nobody = match (server_told, python_told) {
            (false, false) => "the server shows no environment, and its program has no Python that could be asked",
            _ => "neither the server nor its Python environment says",
        };
        let no_gpu = self.machine.gpus.is_empty();
        let facts: [(&str, bool, &str); 8] = [
            ("packages", self.packages.is_empty(), nobody),
            ("python", self.python.is_none(), nobody),
            ("cuda", self.cuda.is_none(), nobody),
            ("driver", self.driver.is_none(), if no_gpu { "nvidia-smi shows no GPU" } else { nobody }),
            ("nccl", self.nccl.is_none(), nobody),
            ("engine_commit", self.engine_commit.is_none(), nobody),
            (
                "study_commit",
                self.study_commit.is_none(),
                "the study's folder is in no git work tree, or there is no git",
            ),
            (
                "container.digest",
                self.container.as_ref().is_some_and(|container| container.digest.is_none()),
                "the image's name carries no digest",
            ),
        ];
        let absent = facts.into_iter().filter(|(_, is_absent, _)| *is_absent);
        self.absent = absent.map(|(name, _, reason)| (name.to_owned(), reason.to_owned())).collect();
    }
}

/// `{"packages": {name: version}}`.
fn listed(all: &Value) -> Vec<(String, String)> {
    let packages = all.get("packages").and_then(Value::as_object).into_iter().flatten();
    packages.filter_map(|(name, version)| Some((name.clone(), version.as_str()?.to_owned()))).collect()
}

/// `name==version` lines of `system_env.pip_packages`.
fn pip_list(info: &Value) -> Vec<(String, String)> {
    let lines = info.get("pip_packages").and_then(Value::as_str).unwrap_or_default().lines();
    lines.filter_map(|line| line.trim().split_once("==")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// The interpreter in the first line of a Python program, or the program itself when it is one. A wrapper in another
/// language has none.
pub fn python_of(program: &Path) -> Option<PathBuf> {
    let is_python = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with("python"));
    if is_python(&program.to_string_lossy()) {
        return Some(program.to_owned());
    }
    let mut start = [0_u8; 512];
    let mut file = std::fs::File::open(program).ok()?;
    let n = std::io::Read::read(&mut file, &mut start).ok()?;
    let text = String::from_utf8_lossy(start.get(..n)?).into_owned();
    let line = text.strip_prefix("#!")?.lines().next()?.trim();
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    if is_python(first) {
        return Some(PathBuf::from(first));
    }
    // `#!/usr/bin/env python3`; pip writes `#!/bin/sh` with `exec` where the path is too long for a first line.
    let named = words.find(|word| is_python(word)).map(PathBuf::from);
    named.or_else(|| {
        let exec = text.lines().find_map(|line| line.trim_start_matches('\'').strip_prefix("exec' \""))?;
        let path = exec.split('"').next()?;
        is_python(path).then(|| PathBuf::from(path))
    })
}

fn packages(python: &Path) -> Option<Value> {
    let output = output_within(Command::new(python).args(["-c", PACKAGES]).current_dir("/"), PYTHON_LIMIT)?;
    serde_json::from_str(output.lines().last()?).ok()
}

fn commit(folder: &Path) -> Option<String> {
    let git = |args: &[&str]| output_within(Command::new("git").arg("-C").arg(folder).args(args), GIT_LIMIT);
    let commit = git(&["rev-parse", "HEAD"])?.trim().to_owned();
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.trim().is_empty());
    Some(if is_changed { format!("{commit}+changes") } else { commit })
}

fn container(site_image: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Option<ContainerLock> {
    let names = ["APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "SLURM_CONTAINER"];
    let image = site_image.map(str::to_owned).or_else(|| names.iter().find_map(|name| variable(name)))?;
    let digest = image.split_once("@sha256:").map(|(_, hex)| format!("sha256:{hex}"));
    Some(ContainerLock { image, digest })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_servers_word_beats_the_environments() {
        let around = Surroundings {
            packages: Some(json!({"packages": {"vllm": "0.32.0", "torch": "2.13.0", "nvidia-nccl-cu12": "2.27.5"},
                                  "python": "3.11.7", "cuda": "12.8", "vllm_commit": "g12ab"})),
            study_commit: Some("abc".to_owned()),
            container: container(Some("docker://x/y@sha256:00ff"), |_| None),
            ..Surroundings::default()
        };
        let info = json!({"torch_version": "2.13.0+cu130", "cuda_compiled_version": "13.0", "nvidia_driver_version": null,
                          "pip_packages": "numpy==2.3.5\ntorch==2.13.0\nodd line"});
        let machine = Machine { host: "n1".to_owned(), ..Machine::default() };
        let lock = EnvLock::new(&machine, &around, Some("0.32.0".to_owned()), Some(&info));
        assert_eq!(lock.packages.get("torch").map(String::as_str), Some("2.13.0+cu130"));
        assert_eq!((lock.cuda.as_deref(), lock.nccl.as_deref()), (Some("13.0"), Some("2.27.5")));
        assert_eq!((lock.engine_commit.as_deref(), lock.python.as_deref()), (Some("g12ab"), Some("3.11.7")));
        assert_eq!(lock.container.and_then(|c| c.digest).as_deref(), Some("sha256:00ff"));
        assert_eq!(lock.nodes, ["n1"]);
        let absent: Vec<&str> = lock.absent.keys().map(String::as_str).collect();
        assert_eq!(absent, ["driver"]);
        let bare = EnvLock::new(&machine, &Surroundings::default(), None, None);
        assert_eq!(bare.absent.len(), 7, "{:?}", bare.absent);
    }

    #[test]
    fn interpreters_of_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vllm");
        for (text, expected) in [
            ("#!/venv/bin/python\nimport sys\n", Some("/venv/bin/python")),
            ("#!/usr/bin/env python3\n", Some("python3")),
            (
                "#!/bin/sh\n'''exec' \"/a very/long/bin/python3.11\" \"$0\" \"$@\"\n' '''\n",
                Some("/a very/long/bin/python3.11"),
            ),
            ("#!/bin/bash\nexec vllm\n", None),
            ("\u{7f}ELF", None),
            ("", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(python_of(&path), expected.map(PathBuf::from), "{text}");
        }
        assert_eq!(python_of(&folder.path().join("none")), None);
        assert_eq!(python_of(Path::new("/usr/bin/python3")), Some("/usr/bin/python3".into()));
    }

    #[test]
    fn containers_around_us() {
        let inside = |name: &str| (name == "APPTAINER_CONTAINER").then(|| "/images/vllm.sif".to_owned());
        let image = |container: Option<ContainerLock>| container.map(|container| container.image);
        assert_eq!(image(container(None, inside)).as_deref(), Some("/images/vllm.sif"));
        assert_eq!(image(container(Some("x"), inside)).as_deref(), Some("x"));
        assert_eq!(container(None, |_| None), None);
    }
}
