//! What `qstat -f` and `pbsnodes -a` print: records of `name = value` lines, long values continued on lines that begin with
//! a tab.

use std::collections::BTreeMap;

use crate::scheduler::{JobPhase, JobReport, SchedulerId};

/// One job with all its attributes as printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbsJob {
    /// Its id, server included.
    pub id: SchedulerId,
    attributes: BTreeMap<String, String>,
}

impl PbsJob {
    /// An attribute: `job_state`, `Resource_List.walltime`, …
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// A variable out of `Variable_List`.
    pub fn variable(&self, name: &str) -> Option<String> {
        let list = self.get("Variable_List")?;
        let mut found = None;
        let mut rest = list;
        loop {
            let (entry, tail) = next_entry(rest);
            if let Some((key, value)) = entry.split_once('=')
                && key.trim() == name
            {
                found = Some(value.replace("\\,", ","));
            }
            match tail {
                Some(tail) => rest = tail,
                None => return found,
            }
        }
    }

    /// How it is.
    pub fn report(&self) -> JobReport {
        let word = self.get("job_state").unwrap_or_default();
        let exit: Option<i32> = self.get("Exit_status").and_then(|text| text.trim().parse().ok());
        let phase = match word {
            "Q" | "H" | "W" | "T" => JobPhase::Pending,
            "R" | "E" | "B" | "S" | "U" => JobPhase::Running,
            "F" | "X" | "M" => ended(exit),
            _ => JobPhase::Unknown,
        };
        let comment = self.get("comment").map(str::trim).filter(|text| !text.is_empty());
        let reason = match (phase.is_over(), exit) {
            (true, Some(0)) => None,
            (true, Some(status)) => Some(exit_words(status)),
            (true, None) => comment.map(str::to_owned),
            (false, _) if phase == JobPhase::Pending => comment.map(str::to_owned),
            (false, _) => None,
        };
        let never_runs = phase == JobPhase::Pending && comment.is_some_and(|text| text.starts_with("Can Never Run"));
        JobReport { phase, word: word.to_owned(), reason, never_runs }
    }
}

/// The part up to the next comma that is not escaped, and what follows it.
fn next_entry(text: &str) -> (&str, Option<&str>) {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '\\' => is_escaped = !is_escaped,
            ',' if !is_escaped => return (&text[..at], Some(&text[at + 1..])),
            _ => is_escaped = false,
        }
    }
    (text, None)
}

/// Codes of OpenPBS's `job.h` and of its manuals.
fn ended(exit: Option<i32>) -> JobPhase {
    match exit {
        Some(0) => JobPhase::Completed,
        Some(-29) => JobPhase::Timeout,
        Some(-27) => JobPhase::OutOfMemory,
        Some(-20) => JobPhase::NodeFailed,
        // 256 + signal: ended by the server, which `qdel` asks for.
        Some(status) if status >= 256 => JobPhase::Cancelled,
        Some(_) => JobPhase::Failed,
        // Deleted before it started, or the child of a failed parent.
        None => JobPhase::Cancelled,
    }
}

fn exit_words(status: i32) -> String {
    match status {
        -29 => "its walltime ran out".to_owned(),
        -27 => "over its memory limit".to_owned(),
        -20 => "a node failed".to_owned(),
        -10 => "its user is not known on the node".to_owned(),
        status if status >= 256 => format!("ended by the server with signal {}", status - 256),
        status if status < 0 => format!("PBS could not run it (code {status})"),
        status => format!("exit status {status}"),
    }
}

/// `qstat -f` and `qstat -xf`: every job, subjobs of arrays included.
pub fn qstat_f(text: &str) -> Vec<PbsJob> {
    let mut jobs: Vec<PbsJob> = Vec::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("Job Id:") {
            last = None;
            if let Some(id) = SchedulerId::parse(id) {
                jobs.push(PbsJob { id, attributes: BTreeMap::new() });
            }
            continue;
        }
        let Some(job) = jobs.last_mut() else { continue };
        take_line(&mut job.attributes, &mut last, line);
    }
    jobs
}

/// Adds one line to a record.
fn take_line(attributes: &mut BTreeMap<String, String>, last: &mut Option<String>, line: &str) {
    if let Some(more) = line.strip_prefix('\t') {
        // A value is cut wherever its line was full: nothing stands between the parts.
        if let Some(value) = last.as_ref().and_then(|name| attributes.get_mut(name)) {
            value.push_str(more);
        }
        return;
    }
    if let Some((name, value)) = line.trim_start().split_once(" = ") {
        attributes.insert(name.to_owned(), value.to_owned());
        *last = Some(name.to_owned());
    } else if line.trim().is_empty() {
        *last = None;
    }
}

/// One node of `pbsnodes -a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `free`, `job-busy`, `down`, `offline`, …
    pub state: String,
    /// GPUs that it has.
    pub gpus: u32,
    /// Cores that it has.
    pub cpus: u32,
    /// What an operator wrote about it.
    pub comment: Option<String>,
}

/// `pbsnodes -a`.
pub fn pbsnodes_a(text: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut name: Option<String> = None;
    let mut attributes = BTreeMap::new();
    let mut last = None;
    let close = |name: Option<String>, attributes: &mut BTreeMap<String, String>, nodes: &mut Vec<Node>| {
        let attributes = std::mem::take(attributes);
        let Some(name) = name else { return };
        let number = |key: &str| attributes.get(key).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        nodes.push(Node {
            name,
            state: attributes.get("state").cloned().unwrap_or_default(),
            gpus: number("resources_available.ngpus"),
            cpus: number("resources_available.ncpus"),
            comment: attributes.get("comment").cloned(),
        });
    };
    for line in text.lines() {
        if !line.is_empty() && !line.starts_with([' ', '\t']) {
            close(name.take(), &mut attributes, &mut nodes);
            name = Some(line.trim().to_owned());
        } else {
            take_line(&mut attributes, &mut last, line);
        }
    }
    close(name, &mut attributes, &mut nodes);
    nodes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &str = "Job Id: 0.pbshead
    Job_Name = exp_runner
    job_state = F
    Variable_List = PBS_O_HOME=/home/hpcuser,PBS_O_LOGNAME=hpcuser,
\tPBS_O_PATH=/opt/pbs/bin:/usr/local/bin:/usr/bin,SERVELAB_JOB=aaaa-
\tbbbb,A=x\\,y,PBS_O_HOST=pbshead
    comment = Job run at Sun Nov 22 at 19:59 on (pbsn1:ncpus=16:ngpus=8)+(pbsn2
\t:ncpus=16:ngpus=8) and finished
    Exit_status = 0

Job Id: 8.pbshead
    job_state = Q
    comment = Can Never Run: Insufficient amount of resource: ncpus (R: 999 A: 
\t128 T: 128)

";

    #[test]
    fn records_and_their_continuations() {
        let jobs = qstat_f(TWO);
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[0].variable("SERVELAB_JOB").as_deref(), Some("aaaa-bbbb"));
        assert_eq!(jobs[0].variable("A").as_deref(), Some("x,y"));
        assert_eq!(jobs[0].variable("PBS_O_HOST").as_deref(), Some("pbshead"));
        assert_eq!(jobs[0].variable("HOST"), None);
        assert!(jobs[0].get("comment").unwrap().contains("(pbsn2:ncpus=16"));
        assert_eq!((jobs[0].report().phase, jobs[0].report().reason), (JobPhase::Completed, None));
        let report = jobs[1].report();
        assert!(report.never_runs && report.phase == JobPhase::Pending, "{report:?}");
        assert!(report.reason.unwrap().ends_with("A: 128 T: 128)"));
    }

    #[test]
    fn how_jobs_end() {
        use JobPhase::{Cancelled, Completed, Failed, NodeFailed, OutOfMemory, Timeout};
        for (exit, expected) in [
            (Some(0), Completed),
            (Some(3), Failed),
            (Some(137), Failed),
            (Some(143), Failed),
            (Some(265), Cancelled),
            (Some(271), Cancelled),
            (Some(-29), Timeout),
            (Some(-27), OutOfMemory),
            (Some(-20), NodeFailed),
            (Some(-3), Failed),
            (None, Cancelled),
        ] {
            let exit_line = exit.map_or_else(String::new, |exit| format!("    Exit_status = {exit}\n"));
            let jobs = qstat_f(&format!("Job Id: 1.s\n    job_state = F\n{exit_line}"));
            assert_eq!(jobs[0].report().phase, expected, "{exit:?}");
        }
        for (state, expected) in [
            ("Q", JobPhase::Pending),
            ("H", JobPhase::Pending),
            ("W", JobPhase::Pending),
            ("T", JobPhase::Pending),
            ("R", JobPhase::Running),
            ("E", JobPhase::Running),
            ("B", JobPhase::Running),
            ("S", JobPhase::Running),
            ("Z", JobPhase::Unknown),
        ] {
            let jobs = qstat_f(&format!("Job Id: 1.s\n    job_state = {state}\n"));
            assert_eq!(jobs[0].report().phase, expected, "{state}");
        }
    }

    #[test]
    fn real_samples() {
        let Some(folder) = crate::scheduler::samples("pbs") else { return };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let jobs = qstat_f(&read("qstat-f-mixed.txt"));
        let phases: Vec<JobPhase> = jobs.iter().map(|job| job.report().phase).collect();
        use JobPhase::{Pending, Running};
        assert_eq!(phases, [Running, Pending, Pending, Pending, Pending]);
        assert_eq!(
            jobs.iter().map(|job| job.report().never_runs).collect::<Vec<_>>(),
            [false, true, true, false, false]
        );
        let jobs = qstat_f(&read("qstat-xf-finished.txt"));
        assert_eq!(jobs[0].report().phase, JobPhase::Completed);
        assert_eq!(jobs[0].variable("ENFORCE_EAGER").as_deref(), Some("no"));
        let nodes = pbsnodes_a(&read("pbsnodes-a.txt"));
        assert_eq!(nodes.iter().map(|node| (node.gpus, node.cpus)).collect::<Vec<_>>(), [(8, 64), (8, 64)]);
        assert_eq!((nodes[1].name.as_str(), nodes[1].state.as_str()), ("pbsn2", "free"));
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_makes_a_panic(text in "(?s)(Job Id: 1\n)?[ -~\n\t=,\\\\é]{0,400}") {
            for job in qstat_f(&text) {
                job.report();
                job.variable("SERVELAB_JOB");
            }
            pbsnodes_a(&text);
        }
    }
}
