//! Is this machine fit for a run at this site? Each check says what it found and what to do; none changes anything. The same
//! checks run at a desk (`servelab doctor`) and on the first node of a job, where they count.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use servelab_core::flags::HelpFlags;
use servelab_core::identity::sha256_hex;
use servelab_core::site::{Scheduler, Site};

use crate::launch::find_program;
use crate::scheduler::{Caller, pbs, slurm};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Does not apply here.
    Skipped,
    /// Runs will work, or their results need care.
    Warning,
    /// Runs will fail.
    Bad,
}

impl Health {
    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it came out.
    pub health: Health,
    /// What was found.
    pub detail: String,
    /// What to do, where something is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(check: &str, health: Health, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), health, detail: detail.into(), advice: None }
    }

    fn advice(mut self, text: &str) -> Self {
        self.advice = Some(text.to_owned());
        self
    }
}

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The machine park.
    pub site: &'a Site,
    /// Where results go.
    pub root: &'a Path,
    /// Program of the engine, where one is to be started here.
    pub engine: Option<&'a Path>,
    /// Folder of the model, where it is one.
    pub model: Option<&'a Path>,
    /// Code that comes with the model may be executed.
    pub trusts_model_code: bool,
    /// First port of this user's block.
    pub port_base: u16,
    /// Command lines of servers that are to be started, for vLLM.
    pub servers: &'a [&'a [String]],
}

/// Everything that can be told here.
pub fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = vec![
        descriptors(),
        disk("disk of the results", subject.root, 20.0),
        clock(subject.root),
        ports(subject.port_base),
    ];
    if let Some(scratch) = &subject.site.scratch {
        findings.push(disk("scratch", Path::new(scratch), 20.0));
    }
    if let Some(interface) = &subject.site.fabric.interface {
        findings.push(fabric(interface, Path::new("/sys/class/net")));
    }
    findings.push(debug_variables(subject.site, &|name| std::env::var(name).ok()));
    findings.extend(subject.engine.map(|program| engine(program, subject.site)));
    if let Some(program) = subject.engine.filter(|_| !subject.servers.is_empty()) {
        findings.push(flags(program, subject));
    }
    findings.extend(subject.model.map(|folder| model(folder, subject.trusts_model_code)));
    findings.push(gpus());
    findings.push(compilers());
    findings.extend(scheduler(subject.site));
    findings
}

/// A hundred clients and their server need more than the usual 1024.
fn descriptors() -> Finding {
    const WANTED: u64 = 4096;
    let limit = getrlimit(Resource::Nofile);
    match limit.current {
        Some(now) if now < WANTED && limit.maximum.is_none_or(|most| most >= WANTED) => {
            Finding::new("open files", Health::Warning, format!("at most {now} at a time"))
                .advice("`ulimit -n 65536` in the site's `prologue`")
        }
        Some(now) if now < WANTED => {
            Finding::new("open files", Health::Warning, format!("at most {now}, by a hard limit"))
                .advice("ask the operators for more, or keep concurrency below a few hundred")
        }
        now => {
            Finding::new("open files", Health::Ok, now.map_or("no limit".to_owned(), |now| format!("at most {now}")))
        }
    }
}

/// The nearest folder that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(check: &str, path: &Path, least_gb: f64) -> Finding {
    let folder = existing(path);
    let Ok(stat) = rustix::fs::statvfs(&folder) else {
        return Finding::new(check, Health::Bad, format!("`{}` cannot be asked", folder.display()));
    };
    let free_gb = stat.f_bavail as f64 * stat.f_frsize as f64 / 1e9;
    let detail = format!("{free_gb:.1} GB free at `{}`", folder.display());
    if free_gb < 1.0 {
        Finding::new(check, Health::Bad, detail).advice("free some space, or choose another place")
    } else if free_gb < least_gb {
        Finding::new(check, Health::Warning, detail)
            .advice("a study with events.parquet may need more; `--no-events` saves most")
    } else {
        Finding::new(check, Health::Ok, detail)
    }
}

/// The file server's clock against this machine's: heartbeats are judged by both.
fn clock(root: &Path) -> Finding {
    const CHECK: &str = "clock";
    let path = existing(root).join(format!(".servelab-clock-{}", std::process::id()));
    let before = SystemTime::now();
    let stamped = fs::write(&path, "x").and_then(|()| fs::metadata(&path)).and_then(|meta| meta.modified());
    let _ = fs::remove_file(&path);
    match stamped {
        Ok(there) => {
            let skew = there.duration_since(before).unwrap_or_else(|error| error.duration());
            let detail = format!("the file server's clock is within {:.1} s of this machine's", skew.as_secs_f64());
            if skew > Duration::from_secs(5) {
                Finding::new(CHECK, Health::Warning, detail)
                    .advice("tell the operators: heartbeats are judged by both clocks")
            } else {
                Finding::new(CHECK, Health::Ok, detail)
            }
        }
        Err(error) => {
            Finding::new(CHECK, Health::Bad, format!("nothing can be written to `{}`: {error}", path.display()))
                .advice("choose another --root")
        }
    }
}

fn ports(base: u16) -> Finding {
    const BLOCK: u16 = 16;
    let taken: Vec<String> = (base..base.saturating_add(BLOCK))
        .filter(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_err())
        .map(|port| port.to_string())
        .collect();
    match taken.len() {
        0 => Finding::new("ports", Health::Ok, format!("{base} and the {} after it are free", BLOCK - 1)),
        n if n < usize::from(BLOCK) => {
            Finding::new("ports", Health::Ok, format!("taken: {}; others are used", taken.join(", ")))
        }
        _ => Finding::new("ports", Health::Warning, format!("{base} to {} are all taken", base.saturating_add(BLOCK)))
            .advice("set the site's `port_base` to another block"),
    }
}

fn fabric(interface: &str, folder: &Path) -> Finding {
    let state = fs::read_to_string(folder.join(interface).join("operstate"));
    match state.as_deref().map(str::trim) {
        Ok("up" | "unknown") => Finding::new("fabric", Health::Ok, format!("`{interface}` is up")),
        Ok(state) => Finding::new("fabric", Health::Bad, format!("`{interface}` is {state}"))
            .advice("this node's link is down: exclude the node and tell the operators"),
        Err(_) => {
            Finding::new("fabric", Health::Warning, format!("there is no interface `{interface}` on this machine"))
                .advice("on a login node that is usual; on a compute node, correct `fabric.interface`")
        }
    }
}

/// Settings that make everything slower, and were once left on through a whole study.
fn debug_variables(site: &Site, variable: &dyn Fn(&str) -> Option<String>) -> Finding {
    let loud: [(&str, &[&str]); 5] = [
        ("VLLM_LOGGING_LEVEL", &["DEBUG", "TRACE"]),
        ("NCCL_DEBUG", &["INFO", "TRACE"]),
        ("UCX_LOG_LEVEL", &["DEBUG", "TRACE", "DATA"]),
        ("CUDA_LAUNCH_BLOCKING", &["1"]),
        ("TORCH_DISTRIBUTED_DEBUG", &["INFO", "DETAIL"]),
    ];
    let found: Vec<String> = loud
        .iter()
        .filter_map(|(name, values)| {
            let value = site.env.get(*name).cloned().or_else(|| variable(name))?;
            values.contains(&value.to_uppercase().as_str()).then(|| format!("{name}={value}"))
        })
        .collect();
    if found.is_empty() {
        return Finding::new("debug variables", Health::Ok, "none that slows an engine down");
    }
    Finding::new("debug variables", Health::Warning, found.join(", ")).advice(
        "take them out of the site's `env` and of your shell: they slow the engine down, and results are marked",
    )
}

fn engine(program: &Path, site: &Site) -> Finding {
    const CHECK: &str = "engine";
    if let Some(container) = &site.container {
        let image = Path::new(&container.image);
        return if container.image.starts_with('/') && !image.exists() {
            Finding::new(CHECK, Health::Bad, format!("there is no image `{}`", container.image))
                .advice("correct `container.image`, or build the image")
        } else {
            Finding::new(CHECK, Health::Ok, format!("in the container `{}`", container.image))
        };
    }
    match engine_path(program, site) {
        Some(path) => Finding::new(CHECK, Health::Ok, format!("`{}`", path.display())),
        None if site.conda.is_some() || !site.modules.is_empty() => Finding::new(
            CHECK,
            Health::Skipped,
            "comes with the site's modules or conda environment, which only a job loads",
        ),
        None => Finding::new(CHECK, Health::Bad, format!("`{}` was not found", program.display()))
            .advice("install it, or name its environment in the site file: `venv`, `conda` or `container`"),
    }
}

/// The engine's program as a job would find it.
fn engine_path(program: &Path, site: &Site) -> Option<PathBuf> {
    let in_venv = site.venv.as_ref().map(|venv| Path::new(venv).join("bin").join(program)).filter(|path| path.exists());
    in_venv.or_else(|| find_program(program, std::env::var_os("PATH").as_deref()))
}

/// Flags of the servers' command lines against what this very engine says it knows.
fn flags(program: &Path, subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "flags";
    if subject.site.container.is_some() {
        return Finding::new(CHECK, Health::Skipped, "the engine is in a container, which only a job enters");
    }
    let Some(path) = engine_path(program, subject.site) else {
        return Finding::new(CHECK, Health::Skipped, "the engine is not here");
    };
    match captured_help(&path, subject.root) {
        Ok(help) => judge_flags(&help, subject.servers, &path),
        Err(why) => Finding::new(CHECK, Health::Warning, format!("`{} serve --help=all`: {why}", path.display()))
            .advice("start it by hand to see what is wrong with the environment"),
    }
}

/// What `serve --help=all` printed, from the results folder when this program was asked before: an answer costs vLLM 20 s of
/// imports.
fn captured_help(program: &Path, root: &Path) -> Result<HelpFlags, String> {
    let meta = program.metadata().map_err(|error| error.to_string())?;
    let modified = meta.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let version = format!("{}/{}/{:?}", program.display(), meta.len(), modified);
    let name = sha256_hex(version.as_bytes()).chars().take(16).collect::<String>();
    let kept = root.join("engine-help").join(format!("{name}.txt"));
    if let Ok(text) = fs::read_to_string(&kept) {
        let help = HelpFlags::parse(&text);
        if !help.is_empty() {
            return Ok(help);
        }
    }
    let caller = Caller { timeout: Duration::from_secs(180) };
    let reply = caller.call(&program.to_string_lossy(), &["serve", "--help=all"]).map_err(|error| error.to_string())?;
    let help = HelpFlags::parse(&reply.stdout);
    if help.is_empty() {
        let last = reply.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no flags came");
        return Err(format!("status {}: {}", reply.status, last.trim()));
    }
    // Only where there is a results folder already: looking makes none.
    if root.is_dir() {
        let _ = servelab_store::write_atomic(&kept, reply.stdout.as_bytes());
    }
    Ok(help)
}

fn judge_flags(help: &HelpFlags, servers: &[&[String]], program: &Path) -> Finding {
    const CHECK: &str = "flags";
    let mut unknown: Vec<String> = Vec::new();
    for word in servers.iter().flat_map(|argv| argv.iter()) {
        let Some(flag) = word.strip_prefix("--").and_then(|flag| flag.split('=').next()) else { continue };
        let name = flag.replace('-', "_");
        // `--no-…` belongs to its positive form, `--a.b` to the structured flag `--a`.
        let stem = name.split('.').next().unwrap_or_default();
        let is_known = help.has(stem) || stem.strip_prefix("no_").is_some_and(|positive| help.has(positive));
        let shown = format!("--{flag}");
        if !stem.is_empty() && !is_known && !unknown.contains(&shown) {
            unknown.push(shown);
        }
    }
    if unknown.is_empty() {
        let detail = format!("all known to `{}` ({} flags)", program.display(), help.len());
        return Finding::new(CHECK, Health::Ok, detail);
    }
    Finding::new(CHECK, Health::Bad, format!("`{}` does not know {}", program.display(), unknown.join(", ")))
        .advice("correct `serve:` or `engine.version`; `servelab plan` says what flags were renamed to")
}

fn model(folder: &Path, trusts_code: bool) -> Finding {
    const CHECK: &str = "model";
    let Ok(text) = fs::read_to_string(folder.join("config.json")) else {
        return Finding::new(CHECK, Health::Bad, format!("`{}` has no config.json", folder.display())).advice(
            "fetch the model to a place that compute nodes see, and name it: `model.path` or the site's `paths`",
        );
    };
    let config: serde_json::Value = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            return Finding::new(CHECK, Health::Bad, format!("config.json of `{}`: {error}", folder.display()));
        }
    };
    if config.get("auto_map").is_some() && !trusts_code {
        return Finding::new(CHECK, Health::Bad, format!("`{}` brings code of its own (auto_map)", folder.display()))
            .advice("read that code, then set `model.trust_remote_code: true`; without it the server asks and ends");
    }
    Finding::new(CHECK, Health::Ok, format!("`{}`", folder.display()))
}

/// GPUs with memory in use before anything was started belong to somebody else, or to a process left behind.
fn gpus() -> Finding {
    let query = ["--query-gpu=index,name,memory.used,memory.total", "--format=csv,noheader,nounits"];
    match (Caller { timeout: Duration::from_secs(20) }).call("nvidia-smi", &query) {
        Ok(reply) if reply.status == 0 => judge_gpus(&reply.stdout),
        Ok(reply) => Finding::new("GPUs", Health::Bad, format!("nvidia-smi: {}", reply.stderr.trim()))
            .advice("the driver does not answer on this node: exclude it and tell the operators"),
        Err(_) => Finding::new("GPUs", Health::Skipped, "no nvidia-smi on this machine"),
    }
}

fn judge_gpus(text: &str) -> Finding {
    let mut dirty = Vec::new();
    let mut n = 0;
    for line in text.lines() {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [index, _, used, total] = fields.as_slice() else { continue };
        let (Ok(used), Ok(total)) = (used.parse::<f64>(), total.parse::<f64>()) else { continue };
        n += 1;
        if used > total * 0.05 {
            dirty.push(format!("GPU {index}: {used:.0} of {total:.0} MiB in use"));
        }
    }
    match (n, dirty.is_empty()) {
        (0, _) => Finding::new("GPUs", Health::Warning, "nvidia-smi lists none"),
        (n, true) => Finding::new("GPUs", Health::Ok, format!("{n} free")),
        _ => Finding::new("GPUs", Health::Warning, dirty.join("; "))
            .advice("`nvidia-smi` names the processes; wait for them, end what is yours, or exclude the node"),
    }
}

/// What kernels are compiled with at the first start.
fn compilers() -> Finding {
    let path = std::env::var_os("PATH");
    let missing = |names: &[&str]| !names.iter().any(|name| find_program(Path::new(name), path.as_deref()).is_some());
    let mut lacking = Vec::new();
    if missing(&["cc", "gcc", "clang"]) {
        lacking.push("a C compiler");
    }
    if missing(&["ninja"]) {
        lacking.push("ninja");
    }
    if !has_python_headers() {
        lacking.push("Python.h");
    }
    if lacking.is_empty() {
        return Finding::new("compilers", Health::Ok, "C compiler, ninja, Python.h");
    }
    Finding::new("compilers", Health::Warning, format!("not here: {}", lacking.join(", ")))
        .advice("engines compile kernels at start; install them or load a module on the compute nodes")
}

fn has_python_headers() -> bool {
    let code = "import os,sysconfig;print(os.path.exists(os.path.join(sysconfig.get_path('include'),'Python.h')))";
    let out = Command::new("python3").args(["-c", code]).output();
    out.is_ok_and(|out| out.stdout.starts_with(b"True"))
}

fn scheduler(site: &Site) -> Vec<Finding> {
    const CHECK: &str = "scheduler";
    let caller = Caller { timeout: Duration::from_secs(30) };
    let (program, args): (&str, &[&str]) = match site.scheduler {
        Scheduler::Local => return Vec::new(),
        Scheduler::Slurm => ("sinfo", &["-h", "-N", "-o", "%N|%T|%c|%m|%G|%P|%E"]),
        Scheduler::Pbs => ("pbsnodes", &["-a"]),
    };
    match caller.call(program, args) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            vec![
                Finding::new(CHECK, Health::Bad, format!("`{program}` was not found"))
                    .advice("submit from a login node"),
            ]
        }
        Err(error) => vec![Finding::new(CHECK, Health::Bad, format!("{program}: {error}"))],
        Ok(reply) if reply.status != 0 => {
            vec![Finding::new(CHECK, Health::Bad, format!("{program}: {}", reply.stderr.trim()))]
        }
        Ok(reply) => {
            let nodes: Vec<NodeLine> = if site.scheduler == Scheduler::Slurm {
                slurm_nodes(&reply.stdout, site.partition.as_deref())
            } else {
                pbs_nodes(&reply.stdout)
            };
            vec![judge_nodes(&nodes, site)]
        }
    }
}

/// A node in the words of either scheduler.
struct NodeLine {
    name: String,
    state: String,
    gpus: u32,
    is_usable: bool,
    reason: Option<String>,
}

fn slurm_nodes(text: &str, partition: Option<&str>) -> Vec<NodeLine> {
    let nodes = slurm::parse::sinfo(text).into_iter();
    nodes
        .filter(|node| partition.is_none_or(|wanted| wanted.split(',').any(|name| name == node.partition)))
        .map(|node| NodeLine {
            is_usable: !["down", "drain", "fail", "maint", "inval", "unk"]
                .iter()
                .any(|bad| node.state.starts_with(bad)),
            name: node.name,
            state: node.state,
            gpus: node.gpus,
            reason: node.reason,
        })
        .collect()
}

fn pbs_nodes(text: &str) -> Vec<NodeLine> {
    let nodes = pbs::parse::pbsnodes_a(text).into_iter();
    nodes
        .map(|node| NodeLine {
            is_usable: !["down", "offline", "unknown", "stale"].iter().any(|bad| node.state.contains(bad)),
            name: node.name,
            state: node.state,
            gpus: node.gpus,
            reason: node.comment,
        })
        .collect()
}

fn judge_nodes(nodes: &[NodeLine], site: &Site) -> Finding {
    const CHECK: &str = "scheduler";
    if nodes.is_empty() {
        let place = site.partition.as_ref().map_or_else(String::new, |name| format!(" in partition `{name}`"));
        return Finding::new(CHECK, Health::Bad, format!("it answers, and has no node{place}"))
            .advice("check `partition` in the site file: `sinfo -s` lists them");
    }
    let usable = nodes.iter().filter(|node| node.is_usable).count();
    let bad: Vec<String> = nodes
        .iter()
        .filter(|node| !node.is_usable)
        .take(8)
        .map(|node| {
            let reason = node.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
            format!("{} ({}{reason})", node.name, node.state)
        })
        .collect();
    let mut detail = format!("{usable} of {} nodes can be used", nodes.len());
    if !bad.is_empty() {
        detail.push_str(&format!("; not: {}", bad.join(", ")));
    }
    let wanted = site.gpus.per_node.unwrap_or(0);
    let most = nodes.iter().map(|node| node.gpus).max().unwrap_or(0);
    if wanted > most && most > 0 {
        return Finding::new(CHECK, Health::Bad, format!("{detail}; no node has {wanted} GPUs, the most is {most}"))
            .advice("correct `gpus.per_node` in the site file: such a job would wait for ever");
    }
    if usable == 0 {
        return Finding::new(CHECK, Health::Bad, detail).advice("wait for the operators, or use another partition");
    }
    Finding::new(CHECK, Health::Ok, detail)
}

#[cfg(test)]
mod tests;
