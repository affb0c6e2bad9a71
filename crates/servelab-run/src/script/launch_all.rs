//! `launch_all.sh`: submits every script of a study by hand, one line per job.

use std::fmt::Write as _;

use servelab_core::ids::JobId;
use servelab_core::site::Scheduler;

use super::safe;
use crate::launch::quote;
use crate::scheduler::pbs::JOB_VARIABLE;

/// One script to submit.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Its file name.
    pub script: &'a str,
    /// Its job.
    pub job: &'a JobId,
    /// The label as part of a file name.
    pub name: &'a str,
    /// Whether its engine runs without CUDA graphs.
    pub enforce_eager: bool,
    /// Script of the array that it is a task of.
    pub array: Option<&'a str>,
}

/// The text of `launch_all.sh`.
pub fn launch_all(study: &str, scheduler: Scheduler, launches: &[Launch<'_>]) -> String {
    let study = safe::comment(study);
    let mut out = format!(
        "#!/bin/bash\n\
         # Submits every job of study {study} that is still to be done, one per configuration and repeat.\n\
         # `servelab submit` does the same and keeps track; started by hand, the jobs still write down what they did, and\n\
         # cells that are done or held are left alone. This file is written anew by `servelab submit --dry-run`.\n\
         set -eu\ncd \"$(dirname \"$0\")\"\n\n"
    );
    let mut submitted = std::collections::BTreeSet::new();
    for launch in launches {
        if let Some(array) = launch.array {
            // Once for all of its tasks.
            if submitted.insert(array) {
                let _ = writeln!(out, "sbatch {}", quote(array));
            }
            continue;
        }
        let script = quote(launch.script);
        let _ = match scheduler {
            Scheduler::Slurm => writeln!(out, "sbatch {script}"),
            // `-v` on the command line replaces the script's own: it must carry everything.
            Scheduler::Pbs => writeln!(
                out,
                "qsub -v '{JOB_VARIABLE}={},EXP_NAME={},ENFORCE_EAGER={}' {script}",
                launch.job,
                launch.name,
                if launch.enforce_eager { "yes" } else { "no" }
            ),
            Scheduler::Local => writeln!(out, "bash {script}"),
        };
    }
    out
}
