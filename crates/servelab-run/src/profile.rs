//! A profiling run of one point: a server of its own with a profiler, warm-up iterations, then the profiled ones between
//! `/start_profile` and `/stop_profile`; its files under the names that traces have everywhere here. What reads them is
//! another crate; measured cells never see any of this.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of `profile.json`.
pub const PROFILE_SCHEMA: u32 = 1;
/// Where the profiler itself writes, below the point's `profile` folder.
pub(crate) const RAW: &str = "raw";
/// So much of a trace is searched for a process id: the first operator is near the beginning.
const HEAD_BYTES: u64 = 8 << 20;

/// What to profile, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfilePlan {
    /// Iterations before the profiler starts.
    pub warmup_iterations: u32,
    /// Profiled iterations.
    pub profile_iterations: u32,
    /// The torch profiler, if wanted.
    pub torch: Option<TorchPlan>,
    /// APIs that Nsight Systems traces, if it is wanted.
    pub nsys: Option<Vec<String>>,
}

/// The torch profiler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TorchPlan {
    /// Ranks whose traces are kept; `None` for all.
    pub ranks: Option<Vec<u32>>,
    /// Record execution traces too.
    pub execution_trace: bool,
}

/// `profile.json`: what was profiled, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Always [`PROFILE_SCHEMA`] when written by this version.
    pub schema: u32,
    /// Load of one iteration, in words.
    pub load: String,
    /// Workload.
    pub workload: String,
    /// Requests of one iteration.
    pub requests_per_iteration: u32,
    /// Prompt tokens of a request, where the load says them.
    pub seq_len: Option<u32>,
    /// Output tokens of a request, where the load says them.
    pub max_tokens: Option<u32>,
    /// Iterations before the profiler was started.
    pub warmup_iterations: u32,
    /// Iterations while it ran.
    pub profile_iterations: u32,
    /// Requests that succeeded while it ran.
    pub completed: u64,
    /// Output tokens of these.
    pub output_tokens: u64,
    /// Files, by their names in this folder.
    pub files: Vec<String>,
    /// What is not there, with the reason.
    pub absent: BTreeMap<String, String>,
    /// Simulated servers write synthetic traces.
    pub simulated: bool,
}

/// Arguments, environment and wrapper of a server that is to be profiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProfiledLaunch {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) wrapper: Vec<String>,
    pub(crate) absent: BTreeMap<String, String>,
}

/// How the server of a profiling run is started. `takes_flag` is false for versions that read the environment only.
pub(crate) fn launch(plan: &ProfilePlan, raw: &Path, takes_flag: bool, nsys: Option<&Path>) -> ProfiledLaunch {
    let mut out = ProfiledLaunch::default();
    let folder = raw.display().to_string();
    if let Some(torch) = &plan.torch {
        if takes_flag {
            // Stacks make traces ten times as large and are read by nobody here; the front end runs no model.
            let config = serde_json::json!({
                "profiler": "torch", "torch_profiler_dir": folder, "torch_profiler_with_stack": false,
                "torch_profiler_use_gzip": false, "ignore_frontend": true,
            });
            out.args.extend(["--profiler-config".to_owned(), config.to_string()]);
        } else {
            out.env.push(("VLLM_TORCH_PROFILER_DIR".to_owned(), folder.clone()));
            out.env.push(("VLLM_TORCH_PROFILER_WITH_STACK".to_owned(), "0".to_owned()));
            out.env.push(("VLLM_TORCH_PROFILER_USE_GZIP".to_owned(), "0".to_owned()));
        }
        if torch.execution_trace {
            // Every rank's observer makes a file of its own there; its process id says whose it is.
            out.env.push(("ENABLE_PYTORCH_EXECUTION_TRACE".to_owned(), "1".to_owned()));
            out.env.push(("TMPDIR".to_owned(), folder.clone()));
            // Sockets stay where paths are short: their names may not be longer than 107 bytes.
            let sockets = std::env::temp_dir().display().to_string();
            out.env.push(("VLLM_RPC_BASE_PATH".to_owned(), sockets));
        }
    }
    match (&plan.nsys, nsys) {
        (None, _) => {}
        (Some(_), None) => {
            out.absent.insert("nsys".to_owned(), "`nsys` is not on PATH".to_owned());
        }
        (Some(trace), Some(nsys)) => {
            let trace = if trace.is_empty() { "cuda,nvtx,osrt".to_owned() } else { trace.join(",") };
            let output = raw.join("nsys_0").display().to_string();
            let words = [
                "profile",
                "--trace",
                &trace,
                "--output",
                &output,
                "--force-overwrite=true",
                "--trace-fork-before-exec=true",
                "--cuda-graph-trace=node",
                "--capture-range=cudaProfilerApi",
                "--capture-range-end=stop",
                "--kill=none",
                "--wait=all",
            ];
            out.wrapper.push(nsys.display().to_string());
            out.wrapper.extend(words.map(str::to_owned));
            if plan.torch.is_none() && takes_flag {
                let config = serde_json::json!({"profiler": "cuda"}).to_string();
                out.args.extend(["--profiler-config".to_owned(), config]);
            }
        }
    }
    out
}

/// Gives the profiler's files their names: `kineto_trace_<rank>.json`, `torch_et_<rank>.json`, `nsys_<rank>.nsys-rep`.
/// Returns the names and what is missing.
pub(crate) fn collect(
    folder: &Path,
    plan: &ProfilePlan,
    mut absent: BTreeMap<String, String>,
) -> io::Result<(Vec<String>, BTreeMap<String, String>)> {
    let raw = folder.join(RAW);
    let mut paths: Vec<PathBuf> = fs::read_dir(&raw)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut files = Vec::new();
    let mut traces: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for path in &paths {
        // The front end's trace holds no model; a version that does not leave it out names it so.
        let is_trace = name(path).contains(".pt.trace.json") && !name(path).to_ascii_lowercase().contains("async_llm");
        if let Some(rank) = rank_in(&name(path)).filter(|_| is_trace) {
            traces.insert(rank, path.clone());
        }
    }
    if let Some(torch) = &plan.torch {
        let is_wanted = |rank: &u32| torch.ranks.as_ref().is_none_or(|ranks| ranks.contains(rank));
        let ets: Vec<&PathBuf> = paths.iter().filter(|path| name(path).ends_with(".et.json")).collect();
        for (rank, trace) in traces.iter().filter(|(rank, _)| is_wanted(rank)) {
            let et = if torch.execution_trace { find_et(trace, &ets) } else { None };
            let end = if name(trace).ends_with(".gz") { ".json.gz" } else { ".json" };
            let kept = format!("kineto_trace_{rank}{end}");
            fs::rename(trace, folder.join(&kept))?;
            files.push(kept);
            match et {
                Some(et) => {
                    let kept = format!("torch_et_{rank}.json");
                    fs::rename(et, folder.join(&kept))?;
                    files.push(kept);
                }
                None if torch.execution_trace => {
                    let reason = match ets.len() {
                        0 => {
                            "no worker wrote an execution trace: this torch may not know ENABLE_PYTORCH_EXECUTION_TRACE"
                        }
                        _ => "none of the execution traces belongs to this rank's process",
                    };
                    absent.insert(format!("torch_et_{rank}"), reason.to_owned());
                }
                None => {}
            }
        }
        if traces.is_empty() {
            absent.insert(
                "kineto_trace".to_owned(),
                "the profiler wrote no trace; the server's log may say why".to_owned(),
            );
        }
        for rank in torch.ranks.iter().flatten().filter(|rank| !traces.contains_key(rank)) {
            absent.insert(format!("kineto_trace_{rank}"), "the profiler wrote no trace of this rank".to_owned());
        }
    }
    for path in paths.iter().filter(|path| name(path).starts_with("nsys_")) {
        fs::rename(path, folder.join(name(path)))?;
        files.push(name(path));
    }
    if plan.nsys.is_some() && !absent.contains_key("nsys") && !files.iter().any(|file| file.ends_with(".nsys-rep")) {
        absent.insert("nsys".to_owned(), "nsys wrote no report; the server's log may say why".to_owned());
    }
    // The workers' temporary folder was here: compiled kernels of the run, nobody's result.
    for path in paths.iter().filter(|path| path.is_dir()) {
        let _ = fs::remove_dir_all(path);
    }
    files.sort();
    Ok((files, absent))
}

/// The rank in a trace's name: `rank0.179….pt.trace.json`, `host_12-rank-3.…`, `vllm-rank_1…`.
fn rank_in(name: &str) -> Option<u32> {
    let mut rest = name;
    while let Some((_, after)) = rest.split_once("rank") {
        let digits: String = after.trim_start_matches(['-', '_']).chars().take_while(char::is_ascii_digit).collect();
        if let Ok(rank) = digits.parse() {
            return Some(rank);
        }
        rest = after;
    }
    None
}

/// The execution trace of the process that wrote a Kineto trace.
fn find_et<'a>(trace: &Path, ets: &[&'a PathBuf]) -> Option<&'a PathBuf> {
    if trace.extension().is_some_and(|end| end == "gz") {
        // One rank, one file: nothing to tell apart.
        return ets.first().filter(|_| ets.len() == 1).copied();
    }
    let head = head(trace)?;
    ets.iter().find(|et| self_pid(et).is_some_and(|pid| mentions_pid(&head, pid))).copied()
}

/// `"pid": 1234` at the beginning of an execution trace.
fn self_pid(et: &Path) -> Option<u64> {
    pid_after(&head(et)?, "\"pid\":")
}

fn pid_after(text: &str, key: &str) -> Option<u64> {
    let (_, after) = text.split_once(key)?;
    after.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

fn mentions_pid(trace: &str, pid: u64) -> bool {
    let mut rest = trace;
    while let Some((_, after)) = rest.split_once("\"pid\":") {
        let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
        if digits.parse() == Ok(pid) {
            return true;
        }
        rest = after;
    }
    false
}

fn head(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(execution_trace: bool, ranks: Option<Vec<u32>>) -> ProfilePlan {
        ProfilePlan {
            warmup_iterations: 1,
            profile_iterations: 1,
            torch: Some(TorchPlan { ranks, execution_trace }),
            nsys: None,
        }
    }

    #[test]
    fn ranks_in_names() {
        for (name, expected) in [
            ("rank0.1795.pt.trace.json", Some(0)),
            ("prefix_rank12.1795.pt.trace.json.gz", Some(12)),
            ("host_77-rank-3.1795.pt.trace.json", Some(3)),
            ("frankfurt_rank_1.pt.trace.json", Some(1)),
            ("vm_22320.async_llm.1795.pt.trace.json", None),
            ("rank", None),
        ] {
            assert_eq!(rank_in(name), expected, "{name}");
        }
    }

    #[test]
    fn files_get_their_names_and_execution_traces_their_ranks() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join(RAW);
        fs::create_dir(&raw).unwrap();
        let write = |name: &str, text: &str| fs::write(raw.join(name), text).unwrap();
        write("rank0.1.pt.trace.json", r#"{"traceEvents": [{"ph": "X", "pid": 100, "tid": 100}]}"#);
        write("rank1.1.pt.trace.json", r#"{"traceEvents": [{"ph": "M", "pid": 7}, {"ph": "X", "pid": 101}]}"#);
        write("vm.async_llm.1.pt.trace.json", "{}");
        write("tmpa.et.json", r#"{"schema": "1.1.1", "pid": 101, "nodes": []}"#);
        write("tmpb.et.json", r#"{"schema": "1.1.1", "pid": 999, "nodes": []}"#);
        write("rank0.profiler_out.txt", "table");
        let (files, absent) = collect(folder.path(), &plan(true, None), BTreeMap::new()).unwrap();
        assert_eq!(files, ["kineto_trace_0.json", "kineto_trace_1.json", "torch_et_1.json"]);
        assert!(
            absent.get("torch_et_0").is_some_and(|reason| reason.contains("none of the execution traces")),
            "{absent:?}"
        );
        assert!(fs::read_to_string(folder.path().join("torch_et_1.json")).unwrap().contains("101"));
    }

    #[test]
    fn what_is_missing_has_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(RAW)).unwrap();
        let (files, absent) = collect(folder.path(), &plan(false, Some(vec![0, 2])), BTreeMap::new()).unwrap();
        assert!(files.is_empty());
        assert_eq!(absent.keys().collect::<Vec<_>>(), ["kineto_trace", "kineto_trace_0", "kineto_trace_2"]);
        let nsys = ProfilePlan { nsys: Some(Vec::new()), ..plan(false, None) };
        let launched = launch(&nsys, Path::new("/raw"), true, None);
        assert!(launched.wrapper.is_empty() && launched.absent.contains_key("nsys"));
        let launched = launch(&nsys, Path::new("/raw"), true, Some(Path::new("/opt/nsys")));
        assert_eq!(launched.wrapper[..4], ["/opt/nsys", "profile", "--trace", "cuda,nvtx,osrt"].map(str::to_owned));
    }

    #[test]
    fn older_versions_are_told_by_the_environment() {
        let old = launch(&plan(true, None), Path::new("/raw"), false, None);
        assert!(old.args.is_empty());
        let names: Vec<&str> = old.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "VLLM_TORCH_PROFILER_DIR",
                "VLLM_TORCH_PROFILER_WITH_STACK",
                "VLLM_TORCH_PROFILER_USE_GZIP",
                "ENABLE_PYTORCH_EXECUTION_TRACE",
                "TMPDIR",
                "VLLM_RPC_BASE_PATH",
            ]
        );
        let new = launch(&plan(false, None), Path::new("/raw"), true, None);
        assert_eq!((new.args.len(), new.env.len()), (2, 0));
    }

    proptest! {
        #[test]
        fn any_name_and_text_is_read(text in ".{0,60}") {
            let _ = rank_in(&text);
            let _ = pid_after(&text, "\"pid\":");
            let _ = mentions_pid(&text, 3);
        }
    }
}
