//! The lines that a scheduler reads: `#SBATCH` and `#PBS`.

use std::fmt::Write as _;

use servelab_core::ids::JobId;
use servelab_core::site::{GpuAsk, Site};

use super::safe::{self, ScriptError, expression, value};
use super::{JobScript, file_name};
use crate::scheduler::pbs::JOB_VARIABLE;
use crate::scheduler::slurm::{ARRAY_PREFIX, COMMENT_PREFIX};

/// GPUs of one node to ask for: all of them when the node is ours alone.
fn gpus(job: &JobScript<'_>) -> u32 {
    match job.site.gpus.per_node {
        Some(all) if is_exclusive(job.site) => all,
        _ => job.gpus_per_node,
    }
}

fn is_exclusive(site: &Site) -> bool {
    site.exclusive.unwrap_or(true)
}

/// `HH:MM:SS`, hours without limit: both schedulers take it.
fn walltime(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn name_of(job: &JobScript<'_>) -> String {
    let name = file_name(&format!("{}-{}", job.study, job.name));
    name.chars().take(60).collect()
}

/// What an array says instead of its first job.
pub(super) struct ArrayLine<'a> {
    pub(super) id: &'a JobId,
    pub(super) n_tasks: usize,
}

pub(super) fn slurm(out: &mut String, job: &JobScript<'_>, array: Option<ArrayLine<'_>>) -> Result<(), ScriptError> {
    let site = job.site;
    if site.queue.is_some() {
        let instead = "write `partition: …`";
        return Err(ScriptError::NotForThis { key: "queue", scheduler: "SLURM", instead });
    }
    let mut line = |text: String| {
        let _ = writeln!(out, "#SBATCH {text}");
    };
    // How a submission is found again whose answer was lost.
    match &array {
        None => {
            line(format!("--job-name={}", name_of(job)));
            line(format!("--comment={COMMENT_PREFIX}{}", job.job));
        }
        Some(array) => {
            line(format!("--job-name={}", file_name(job.study)));
            line(format!("--comment={ARRAY_PREFIX}{}", array.id));
            line(format!("--array=0-{}", array.n_tasks.saturating_sub(1)));
        }
    }
    for (option, key, text) in [
        ("--partition", "partition", &site.partition),
        ("--account", "account", &site.account),
        ("--qos", "qos", &site.qos),
        ("--reservation", "reservation", &site.reservation),
    ] {
        if let Some(text) = text {
            line(format!("{option}={}", value(key, text)?));
        }
    }
    if let Some(constraint) = &site.constraint {
        line(format!("--constraint=\"{}\"", expression("constraint", constraint)?));
    }
    line(format!("--nodes={}", job.nodes));
    line("--ntasks-per-node=1".to_owned());
    if let Some(cpus) = site.cpus_per_node {
        line(format!("--cpus-per-task={cpus}"));
    }
    match (site.mem_gb_per_node, is_exclusive(site)) {
        (Some(gb), _) => line(format!("--mem={gb}G")),
        // Everything that the node has; the default of many sites is far too little for a model.
        (None, true) => line("--mem=0".to_owned()),
        (None, false) => {}
    }
    if is_exclusive(site) {
        line("--exclusive".to_owned());
    }
    let kind = match &site.gpus.kind {
        Some(kind) => format!("{}:", value("gpus.kind", kind)?),
        None => String::new(),
    };
    match site.gpus.ask {
        GpuAsk::GpusPerNode => line(format!("--gpus-per-node={kind}{}", gpus(job))),
        GpuAsk::Gres => line(format!("--gres=gpu:{kind}{}", gpus(job))),
        GpuAsk::Implicit => {}
        GpuAsk::Select => {
            let instead = "write `gpus_per_node`, `gres` or `implicit`";
            return Err(ScriptError::NotForThis { key: "gpus.ask: select", scheduler: "SLURM", instead });
        }
    }
    let excluded: Vec<&str> = site.exclude.iter().chain(job.avoid).map(String::as_str).collect();
    if !excluded.is_empty() {
        line(format!("--exclude={}", expression("exclude", &excluded.join(","))?));
    }
    line(format!("--time={}", walltime(job.walltime_s)));
    line(format!("--signal=B:TERM@{}", job.margin_s()));
    // Servelab submits what is left itself; a requeued job would come back after minutes with an old plan.
    line("--no-requeue".to_owned());
    let log = match array {
        None => job.logs.join(format!("vllm_{}_%j.out", job.name)),
        // Each task opens the log of its job itself.
        Some(_) => "/dev/null".into(),
    };
    let log = log.to_string_lossy().replace('\\', "");
    line(format!("--output=\"{}\"", safe::comment(&log).replace('"', "")));
    line("--open-mode=append".to_owned());
    for text in &site.extra_directives {
        line(text.clone());
    }
    Ok(())
}

/// For whom the lines are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// One job.
    Job,
    /// Any experiment of the study: which one is told when it is submitted.
    Runner,
}

pub(super) fn pbs(out: &mut String, job: &JobScript<'_>, naming: Naming) -> Result<(), ScriptError> {
    let site = job.site;
    for (key, is_set, instead) in [
        ("partition", site.partition.is_some(), "write `queue: …`"),
        ("qos", site.qos.is_some(), "choose a queue, or a line of `extra_directives`"),
    ] {
        if is_set {
            return Err(ScriptError::NotForThis { key, scheduler: "PBS", instead });
        }
    }
    let mut line = |text: String| {
        let _ = writeln!(out, "#PBS {text}");
    };
    line(format!("-N {}", if naming == Naming::Runner { file_name(job.study) } else { name_of(job) }));
    if let Some(queue) = site.queue.as_ref().or(site.reservation.as_ref()) {
        line(format!("-q {}", value("queue", queue)?));
    }
    if let Some(account) = &site.account {
        line(format!("-A {}", value("account", account)?));
    }
    let mut select = format!("select={}", job.nodes);
    if let Some(cpus) = site.cpus_per_node {
        let _ = write!(select, ":ncpus={cpus}");
    }
    match site.gpus.ask {
        GpuAsk::Implicit => {}
        _ => {
            let _ = write!(select, ":ngpus={}", gpus(job));
        }
    }
    if let Some(gb) = site.mem_gb_per_node {
        let _ = write!(select, ":mem={gb}gb");
    }
    if let Some(constraint) = &site.constraint {
        let _ = write!(select, ":{}", expression("constraint", constraint)?);
    }
    line(format!("-l {select}"));
    let spread = if job.nodes > 1 { "scatter" } else { "pack" };
    let share = if is_exclusive(site) { ":excl" } else { "" };
    line(format!("-l place={spread}{share}"));
    line(format!("-l walltime={}", walltime(job.walltime_s)));
    // Servelab submits what is left itself.
    line("-r n".to_owned());
    line("-j oe".to_owned());
    let logs = safe::comment(&job.logs.to_string_lossy());
    line(format!("-o {}", value("root", &logs)?));
    if naming == Naming::Job {
        line(format!("-v {JOB_VARIABLE}={},EXP_NAME={}", job.job, job.name));
    }
    for text in &site.extra_directives {
        line(text.clone());
    }
    Ok(())
}
