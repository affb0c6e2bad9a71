//! Slurm through `sbatch`, `squeue`, `sacct` and `scancel`. Forms of output that are the same from 22.05 to 26.05 come first;
//! where those cannot be read, JSON and `scontrol` are asked for, whose shapes differ. A job is found again by its comment, which holds our UUID.

pub mod json;
pub mod parse;

use std::collections::BTreeMap;
use std::path::Path;

use servelab_core::ids::JobId;

use super::{
    Caller, FoundJob, JobReport, QueryError, Reply, Scheduler, SchedulerId, SubmitError, complaint, hand_over,
};

/// In front of the UUID in a job's comment.
pub const COMMENT_PREFIX: &str = "servelab:";

/// In front of the UUID in an array's comment.
pub const ARRAY_PREFIX: &str = "servelab-array:";

/// Ids per question: a command line of at most a few kilobytes.
const IDS_PER_CALL: usize = 500;

/// Words of a client that reached no controller, or got no answer from it.
const NO_ANSWER: [&str; 7] = [
    "timed out",
    "Unable to contact slurm controller",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Transport endpoint",
    "Unexpected message received",
    "Communication connection failure",
];

/// Slurm.
#[derive(Debug, Default)]
pub struct Slurm {
    /// How its clients are run.
    pub caller: Caller,
}

impl Slurm {
    fn ask(&self, program: &'static str, args: &[String]) -> Result<Reply, QueryError> {
        self.caller.call(program, args).map_err(|error| QueryError { program, text: error.to_string() })
    }

    fn squeue(&self, args: &[&str], ids: &[SchedulerId]) -> Result<String, QueryError> {
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        if !ids.is_empty() {
            args.push("-j".to_owned());
            args.push(join(ids));
        }
        let reply = self.ask("squeue", &args)?;
        // A single unknown id is an error to squeue and an answer to us: it is not there any more.
        if reply.status == 0 || reply.stderr.contains("Invalid job id") {
            return Ok(reply.stdout);
        }
        Err(QueryError { program: "squeue", text: complaint(&reply) })
    }

    /// Where the plain columns come in another form: a wrapper around squeue, say.
    fn asked_otherwise(&self, ids: &[SchedulerId]) -> Result<BTreeMap<SchedulerId, JobReport>, QueryError> {
        if let Ok(text) = self.squeue(&["--json"], ids) {
            let jobs = json::squeue(&text);
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
        let mut jobs = BTreeMap::new();
        for id in ids {
            let reply = self.ask("scontrol", &["-o", "show", "job", id.as_str()].map(str::to_owned))?;
            jobs.extend(parse::scontrol_jobs(&reply.stdout));
        }
        Ok(jobs)
    }

    /// What accounting still knows of jobs that squeue forgot; nothing where accounting is off.
    fn sacct(&self, ids: &[SchedulerId]) -> BTreeMap<SchedulerId, JobReport> {
        let args = ["-X", "-P", "-n", "-o", "JobID,State,ExitCode", "-j"];
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).chain([join(ids)]).collect();
        match self.ask("sacct", &args) {
            Ok(reply) if reply.status == 0 => parse::sacct(&reply.stdout),
            _ => BTreeMap::new(),
        }
    }
}

impl Scheduler for Slurm {
    fn name(&self) -> &'static str {
        "slurm"
    }

    fn submit(&self, script: &Path) -> Result<SchedulerId, SubmitError> {
        let args = ["--parsable".into(), script.into()];
        hand_over(&self.caller, "sbatch", &args, &NO_ANSWER, 128, parse::sbatch_answer)
    }

    fn find(&self, jobs: &[JobId]) -> Result<BTreeMap<JobId, FoundJob>, QueryError> {
        // Tasks of arrays one by one.
        let text = self.squeue(&["-h", "-r", "-t", "all", "--me", "-o", "%i|%T|%k"], &[])?;
        let mut found = parse::comments(&text);
        if !is_readable(&text) {
            found = json::comments(&self.squeue(&["--json"], &[])?);
        }
        found.retain(|job, _| jobs.contains(job));
        Ok(found)
    }

    fn poll(&self, ids: &[SchedulerId]) -> Result<BTreeMap<SchedulerId, JobReport>, QueryError> {
        let mut reports = BTreeMap::new();
        for ids in ids.chunks(IDS_PER_CALL) {
            let text = self.squeue(&["-h", "-r", "-t", "all", "-o", "%i|%T|%r"], ids)?;
            let known = if is_readable(&text) { parse::squeue(&text) } else { self.asked_otherwise(ids)? };
            let forgotten: Vec<SchedulerId> = ids.iter().filter(|id| !known.contains_key(id)).cloned().collect();
            reports.extend(known);
            if !forgotten.is_empty() {
                reports.extend(self.sacct(&forgotten));
            }
        }
        reports.retain(|id, _| ids.contains(id));
        Ok(reports)
    }

    fn largest_array(&self) -> Option<usize> {
        let reply = self.ask("scontrol", &["show".to_owned(), "config".to_owned()]).ok()?;
        parse::max_array_size(&reply.stdout)
    }

    fn cancel(&self, ids: &[SchedulerId]) -> Result<(), QueryError> {
        for ids in ids.chunks(IDS_PER_CALL) {
            let args: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let reply = self.ask("scancel", &args)?;
            let is_over = |line: &str| line.contains("Invalid job id") || line.contains("already");
            let wrong = reply.stderr.lines().any(|line| !line.trim().is_empty() && !is_over(line));
            if reply.status != 0 && wrong {
                return Err(QueryError { program: "scancel", text: complaint(&reply) });
            }
        }
        Ok(())
    }
}

/// Lines came, and at least one has the columns that were asked for; no lines say that there are no jobs.
fn is_readable(text: &str) -> bool {
    text.trim().is_empty() || text.lines().any(|line| line.splitn(3, '|').count() == 3)
}

fn join(ids: &[SchedulerId]) -> String {
    ids.iter().map(SchedulerId::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read() {
        for (text, expected) in [
            ("", true),
            ("7|RUNNING|None\n", true),
            ("motd\n7|RUNNING|None\n", true),
            ("JOBID PARTITION NAME\n  7 gpu run\n", false),
        ] {
            assert_eq!(is_readable(text), expected, "{text:?}");
        }
    }
}
