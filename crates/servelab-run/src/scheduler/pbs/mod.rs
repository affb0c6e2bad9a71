//! PBS Pro and OpenPBS through `qsub`, `qstat`, `qselect` and `qdel`. `qstat -xf` prints text for any number of ids, its
//! JSON only for the first: text it is. A job is found again by the variable that carries our UUID.

pub mod parse;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use servelab_core::ids::JobId;

use super::{
    Caller, FoundJob, JobReport, QueryError, Reply, Scheduler, SchedulerId, SubmitError, complaint, hand_over,
};

/// The variable of a job that holds its UUID.
pub const JOB_VARIABLE: &str = "SERVELAB_JOB";

const IDS_PER_CALL: usize = 200;
/// At least one of the ids is finished, or unknown; the others are printed all the same.
const SOME_ARE_GONE: [i32; 2] = [35, 153];

/// Words of a client that reached no server, or got no answer from it.
const NO_ANSWER: [&str; 6] =
    ["annot connect to server", "Connection refused", "timed out", "End of File", "no server", "Communication failure"];

/// PBS.
#[derive(Debug, Default)]
pub struct Pbs {
    /// How its clients are run.
    pub caller: Caller,
    /// Names of environment variables that jobs inherit; their values never stand in a file or on a command line.
    pub secrets: Vec<String>,
}

impl Pbs {
    fn ask(&self, program: &'static str, args: &[String]) -> Result<Reply, QueryError> {
        self.caller.call(program, args).map_err(|error| QueryError { program, text: error.to_string() })
    }

    /// `-v` on the command line replaces the script's own: it carries both, with secrets by name. A name that is not set
    /// would be an error.
    fn variables(&self, script: &Path) -> Option<String> {
        let set: Vec<&str> =
            self.secrets.iter().map(String::as_str).filter(|name| std::env::var_os(name).is_some()).collect();
        let text = std::fs::read_to_string(script).ok()?;
        let own = text.lines().find_map(|line| line.strip_prefix("#PBS -v "))?;
        (!set.is_empty()).then(|| format!("{own},{}", set.join(",")))
    }

    /// Everything about these jobs, finished ones included where the server keeps a history.
    fn details(&self, ids: &[SchedulerId]) -> Result<Vec<parse::PbsJob>, QueryError> {
        let mut jobs = Vec::new();
        for ids in ids.chunks(IDS_PER_CALL) {
            let names = ids.iter().map(ToString::to_string);
            let mut reply =
                self.ask("qstat", &["-xf".to_owned()].into_iter().chain(names.clone()).collect::<Vec<_>>())?;
            // Without a history `-x` answers with a sentence about that, and status 0.
            if reply.stdout.contains("not configured to maintain job history")
                || reply.stderr.contains("not configured to maintain job history")
            {
                reply = self.ask("qstat", &["-f".to_owned()].into_iter().chain(names).collect::<Vec<_>>())?;
            }
            if reply.status != 0 && !SOME_ARE_GONE.contains(&reply.status) {
                return Err(QueryError { program: "qstat", text: complaint(&reply) });
            }
            jobs.extend(parse::qstat_f(&reply.stdout));
        }
        Ok(jobs)
    }
}

impl Scheduler for Pbs {
    fn name(&self) -> &'static str {
        "pbs"
    }

    fn submit(&self, script: &Path) -> Result<SchedulerId, SubmitError> {
        let mut args: Vec<OsString> = Vec::new();
        if let Some(variables) = self.variables(script) {
            args.extend(["-v".into(), variables.into()]);
        }
        args.push(script.into());
        let id = |stdout: &str| stdout.lines().rev().find_map(SchedulerId::parse);
        hand_over(&self.caller, "qsub", &args, &NO_ANSWER, 200, id)
    }

    fn find(&self, jobs: &[JobId]) -> Result<BTreeMap<JobId, FoundJob>, QueryError> {
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "root".to_owned());
        let reply = self.ask("qselect", &["-x".to_owned(), "-u".to_owned(), user])?;
        if reply.status != 0 {
            return Err(QueryError { program: "qselect", text: complaint(&reply) });
        }
        let ids: Vec<SchedulerId> = reply.stdout.lines().filter_map(SchedulerId::parse).collect();
        let mut found = BTreeMap::new();
        for job in self.details(&ids)? {
            let Some(uuid) = job.variable(JOB_VARIABLE).map(JobId::new).filter(|uuid| jobs.contains(uuid)) else {
                continue;
            };
            let phase = job.report().phase;
            found.insert(uuid, FoundJob { id: job.id, phase });
        }
        Ok(found)
    }

    fn poll(&self, ids: &[SchedulerId]) -> Result<BTreeMap<SchedulerId, JobReport>, QueryError> {
        let mut reports: BTreeMap<SchedulerId, JobReport> =
            self.details(ids)?.into_iter().map(|job| (job.id.clone(), job.report())).collect();
        reports.retain(|id, _| ids.contains(id));
        Ok(reports)
    }

    fn cancel(&self, ids: &[SchedulerId]) -> Result<(), QueryError> {
        for ids in ids.chunks(IDS_PER_CALL) {
            let args: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let reply = self.ask("qdel", &args)?;
            if reply.status != 0 && !SOME_ARE_GONE.contains(&reply.status) {
                return Err(QueryError { program: "qdel", text: complaint(&reply) });
            }
        }
        Ok(())
    }
}
