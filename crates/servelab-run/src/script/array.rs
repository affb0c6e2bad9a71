//! An array: one submission for many jobs with equal resources. The task's number chooses a job, whose own script then runs
//! in the place of this one, so everything that is said of a job holds for a task as well.

use std::fmt::Write as _;

use servelab_core::ids::JobId;

use super::{JobScript, ScriptError, directives, safe};
use crate::launch::quote;

/// A job's own copy of its script, in its folder.
pub const JOB_SCRIPT: &str = "job.sh";

/// One task.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its job; what the task runs lies in that job's folder, where no later submission writes.
    pub job: &'a JobId,
    /// The job's label as part of a file name.
    pub name: &'a str,
}

/// The script of an array. `job` is any of its jobs: they ask for the same.
pub fn array_script(array: &JobId, job: &JobScript<'_>, members: &[Member<'_>]) -> Result<String, ScriptError> {
    let mut out = format!(
        "#!/bin/bash\n\
         # Servelab array {array}\n\
         # study {}: {} jobs that ask for the same; the number of a task chooses its job.\n\
         # Each may also be submitted by itself: a job that runs, or is done, is left alone.\n",
        safe::comment(job.study),
        members.len(),
    );
    directives::slurm(&mut out, job, Some(directives::ArrayLine { id: array, n_tasks: members.len() }))?;
    out.push_str("\ncase \"$SLURM_ARRAY_TASK_ID\" in\n");
    for (index, member) in members.iter().enumerate() {
        let _ = writeln!(out, "{index}) name={} job={} ;;", quote(member.name), quote(member.job.as_str()));
    }
    // jobs/UUID/intent.json of any of them.
    let jobs = job.intent.ancestors().nth(2).unwrap_or(job.intent);
    let _ = write!(
        out,
        "*) echo \"servelab: there is no task $SLURM_ARRAY_TASK_ID in this array\" >&2; exit 2 ;;\nesac\n\
         exec >>{}\"$name\"_\"$SLURM_ARRAY_JOB_ID\"_\"$SLURM_ARRAY_TASK_ID\".out 2>&1\n\
         # In this place, so that the signal before the time limit reaches it.\n\
         exec /bin/bash {}/\"$job\"/{JOB_SCRIPT}\n",
        quote(&job.logs.join("vllm_").to_string_lossy()),
        quote(&jobs.to_string_lossy()),
    );
    Ok(out)
}
