//! Job scripts: from a planned job and its site to text that a person can read, submit by hand and keep. Pure functions;
//! files are written by `jobs`. A script carries its job's UUID, and the run inside it claims every cell, so a script that
//! is submitted twice measures nothing twice.

mod array;
mod directives;
mod launch_all;
mod runner;
mod safe;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use servelab_core::ids::{JobId, PointId};
use servelab_core::site::{Container, ContainerRuntime, Scheduler, Site};

use crate::glibc::Glibc;
use crate::launch::quote;
pub use array::{JOB_SCRIPT, Member, array_script};
pub use launch_all::{Launch, launch_all};
pub use runner::{Experiment, exp_runner, variable};
pub use safe::{ScriptError, file_name};

/// One job as a script needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct JobScript<'a> {
    /// Its UUID.
    pub job: &'a JobId,
    /// The study.
    pub study: &'a str,
    /// The configuration's first label.
    pub label: &'a str,
    /// The same as part of a file name.
    pub name: &'a str,
    /// The configuration.
    pub point: &'a PointId,
    /// Repeat block, from 0.
    pub block: u32,
    /// Cells that it measures.
    pub n_cells: usize,
    /// Nodes to ask for.
    pub nodes: u32,
    /// GPUs that the configuration uses on one node.
    pub gpus_per_node: u32,
    /// Time limit, seconds.
    pub walltime_s: u64,
    /// The machine park.
    pub site: &'a Site,
    /// Folder of the output files.
    pub logs: &'a Path,
    /// The job's `intent.json`.
    pub intent: &'a Path,
    /// `servelab run …` with absolute paths.
    pub command: &'a [String],
    /// Nodes to keep away from beside the site's: those that failed under an earlier job for the same cells.
    pub avoid: &'a [String],
    /// The C library that the program needs, where it could be read from its file.
    pub glibc: Option<Glibc>,
}

impl JobScript<'_> {
    /// Seconds before the time limit at which the run stops in order: two minutes, or a tenth of a short limit.
    pub fn margin_s(&self) -> u64 {
        (self.walltime_s / 10).clamp(1, 120)
    }
}

/// The ending of script names.
pub fn extension(scheduler: Scheduler) -> &'static str {
    match scheduler {
        Scheduler::Pbs => "pbs",
        Scheduler::Slurm => "sbatch",
        Scheduler::Local => "sh",
    }
}

/// The script of one job.
pub fn job_script(job: &JobScript<'_>) -> Result<String, ScriptError> {
    safe::check_site(job.site)?;
    let mut out = String::from("#!/bin/bash\n");
    preamble(&mut out, job);
    match job.site.scheduler {
        Scheduler::Slurm => directives::slurm(&mut out, job, None)?,
        scheduler if job.site.arrays && scheduler != Scheduler::Slurm => {
            let instead = "leave it out: jobs are handed over one by one";
            return Err(ScriptError::NotForThis { key: "arrays", scheduler: "this scheduler", instead });
        }
        Scheduler::Pbs => directives::pbs(&mut out, job, directives::Naming::Job)?,
        Scheduler::Local => {}
    }
    // Neither `set -e` nor `set -u`: environment scripts stumble over them, and whatever fails, the run must get to
    // write down how it ended.
    if job.site.scheduler == Scheduler::Pbs {
        let log = job.logs.join(format!("vllm_{}_", job.name));
        let _ = write!(
            out,
            "\n# PBS keeps output until the end; here it can be followed. Jobs start in $HOME with a private umask.\n\
             exec >>{}\"${{PBS_JOBID:-by_hand}}\".out 2>&1\ncd \"${{PBS_O_WORKDIR:-.}}\" || exit 1\numask 022\n",
            quote(&log.to_string_lossy())
        );
    }
    let _ = write!(
        out,
        "\n# The run stops in order {} s before the time limit: finished cells stay, the rest is taken up by the next job.\n\
         export SERVELAB_STOP_AT=$(($(date +%s) + {} - {}))\n",
        job.margin_s(),
        job.walltime_s,
        job.margin_s()
    );
    surroundings(&mut out, job.site);
    if let Some(glibc) = job.glibc {
        c_library(&mut out, job, glibc);
    }
    scratch(&mut out, job);
    run(&mut out, job);
    Ok(out)
}

/// Can scripts be written for this site, with their output in this folder? Told before anything is written.
pub fn check(site: &Site, logs: &Path) -> Result<(), ScriptError> {
    job_script(&JobScript {
        job: &JobId::new("00000000-0000-8000-8000-000000000000"),
        study: "study",
        label: "label",
        name: "label",
        point: &PointId::new("point"),
        block: 0,
        n_cells: 1,
        nodes: 1,
        gpus_per_node: 1,
        walltime_s: 3600,
        site,
        logs,
        intent: Path::new("/jobs/uuid/intent.json"),
        command: &[],
        avoid: &[],
        glibc: None,
    })
    .map(|_| ())
}

fn preamble(out: &mut String, job: &JobScript<'_>) {
    let cells = if job.n_cells == 1 { "1 cell".to_owned() } else { format!("{} cells", job.n_cells) };
    let submit = match job.site.scheduler {
        Scheduler::Pbs => "qsub",
        Scheduler::Slurm => "sbatch",
        Scheduler::Local => "bash",
    };
    let _ = write!(
        out,
        "# Servelab job {}\n\
         # study {}, configuration {} (point {}), repeat {}: {cells} on one server start.\n\
         # What it means to do: {}\n\
         # Submit it with `servelab submit`, or by hand: {submit} run_{}_head.{}\n\
         # Cells that are done, or that another job holds, are left alone: submitting it twice measures nothing twice.\n",
        job.job,
        job.study,
        safe::comment(job.label),
        job.point.short(),
        job.block + 1,
        safe::comment(&job.intent.to_string_lossy()),
        job.name,
        extension(job.site.scheduler),
    );
}

/// Modules, environments and variables of the site.
fn surroundings(out: &mut String, site: &Site) {
    let _ = write!(out, "\n# --- the site `{}`\n", safe::comment(&site.site));
    let modules: Vec<String> = site.modules.iter().map(|module| quote(module)).collect();
    if !modules.is_empty() {
        out.push_str("type module >/dev/null 2>&1 || . /etc/profile\n");
        let _ = writeln!(out, "module load {} || exit 1", modules.join(" "));
    }
    if let Some(conda) = &site.conda {
        let _ = writeln!(out, "eval \"$(conda shell.bash hook)\" && conda activate {} || exit 1", quote(conda));
    }
    if let Some(venv) = &site.venv {
        let _ = writeln!(out, ". {} || exit 1", quote(&format!("{}/bin/activate", venv.trim_end_matches('/'))));
    }
    if let Some(interface) = &site.fabric.interface {
        // The site's own words below win.
        for name in ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"] {
            if !site.env.contains_key(name) {
                let _ = writeln!(out, "export {name}={}", quote(interface));
            }
        }
    }
    for (name, value) in &site.env {
        let _ = writeln!(out, "export {name}={}", quote(value));
    }
    for name in site.secrets.iter() {
        let _ = writeln!(
            out,
            "[ -n \"${{{name}:-}}\" ] || echo 'servelab: {name} is not set in the environment that submitted this job' >&2"
        );
    }
    for line in site.prologue.iter() {
        let _ = writeln!(out, "{line}");
    }
}

/// Sockets have short names only, and compiled kernels of several jobs must not meet: a short folder per job.
fn scratch(out: &mut String, job: &JobScript<'_>) {
    let base = job.site.scratch.as_deref().unwrap_or("/tmp").trim_end_matches('/');
    let short = job.job.as_str().get(..8).unwrap_or(job.job.as_str());
    let _ = write!(
        out,
        "export TMPDIR={}-$$\nmkdir -p \"$TMPDIR\" || exit 1\n\
         export TRITON_CACHE_DIR=\"$TMPDIR/triton\" VLLM_CACHE_ROOT=\"$TMPDIR/vllm\"\n",
        quote(&format!("{base}/sl-{short}"))
    );
}

/// On a node whose C library is too old the program cannot even say so: the script does, in the job's own record, unless a
/// run has left one.
fn c_library(out: &mut String, job: &JobScript<'_>, needed: Glibc) {
    let inside = job.site.container.as_ref().map(|container| format!("{} ", in_container(container, job)));
    let folder = job.intent.parent().unwrap_or(Path::new("."));
    let file = |name: &str| quote(&folder.join(name).to_string_lossy());
    let _ = write!(
        out,
        "\n# --- the program was linked for glibc {needed}\n\
         glibc=$({}getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)\n\
         if [ -n \"$glibc\" ] && [ \"$(printf '%s\\n' {needed} \"$glibc\" | sort -V | head -n 1)\" != {needed} ]; then\n    \
         why=\"$(hostname) has glibc $glibc and servelab was linked for {needed}: submit with a portable build (--node-program)\"\n    \
         echo \"preflight bad: $why\" >&2\n    \
         [ -e {} ] || {{ printf '{{\"schema\":1,\"state\":\"failed\",\"t_unix_ns\":%s,\"detail\":{{\"error\":\"%s\"}}}}\\n' \"$(date +%s%N)\" \"$why\" \\\n        \
         >{}.$$ && mv {}.$$ {}; }}\n    \
         exit 1\nfi\n",
        inside.unwrap_or_default(),
        file("run.json"),
        file("exit.json"),
        file("exit.json"),
        file("exit.json"),
    );
}

fn run(out: &mut String, job: &JobScript<'_>) {
    let words: Vec<String> = job.command.iter().map(|word| quote(word)).collect();
    let command = match &job.site.container {
        Some(container) => format!("{} {}", in_container(container, job), words.join(" ")),
        None => words.join(" "),
    };
    let _ = write!(
        out,
        "\n# --- the run, in the background: bash runs a trap only when no command is in front\n\
         {command} &\nrun=$!\n\
         trap 'kill -s TERM \"$run\" 2>/dev/null' TERM INT\n\
         status=0\nwait \"$run\" || status=$?\n\
         # A signal ends `wait`, not the run: wait for the run itself.\n\
         while kill -0 \"$run\" 2>/dev/null; do wait \"$run\"; status=$?; done\n\
         rm -rf -- \"$TMPDIR\"\n"
    );
    for line in job.site.epilogue.iter() {
        let _ = writeln!(out, "{line}");
    }
    out.push_str("exit \"$status\"\n");
}

/// Words in front of the command. The root, the study and the program lie outside of the image: their folders come along.
fn in_container(container: &Container, job: &JobScript<'_>) -> String {
    let mut folders: Vec<String> = Vec::new();
    let jobs = job.intent.ancestors().nth(3);
    for path in jobs.into_iter().map(|path| path.to_string_lossy().into_owned()).chain(
        job.command.iter().filter(|word| word.starts_with('/')).filter_map(|word| {
            let path = Path::new(word);
            let folder = if path.extension().is_some() || path.ends_with("servelab") { path.parent()? } else { path };
            Some(folder.to_string_lossy().into_owned())
        }),
    ) {
        if !folders.contains(&path) && path != "/" {
            folders.push(path);
        }
    }
    match container.runtime {
        ContainerRuntime::Apptainer => {
            let mut text = "apptainer exec --nv".to_owned();
            for bind in container.binds.iter().chain(&folders) {
                let _ = write!(text, " --bind {}", quote(bind));
            }
            let _ = write!(text, " {}", quote(&container.image));
            text
        }
        ContainerRuntime::Pyxis => {
            let mounts: Vec<String> = container
                .binds
                .iter()
                .cloned()
                .chain(folders.iter().map(|folder| format!("{folder}:{folder}")))
                .collect();
            format!(
                "srun --overlap --nodes=1 --ntasks=1 --container-image={} --container-mounts={}",
                quote(&container.image),
                quote(&mounts.join(","))
            )
        }
    }
}
