//! What Slurm's clients print, read into our words. Lines that are not understood are passed over: a scheduler's message
//! of the day must not turn a running job into a lost one.

use std::collections::BTreeMap;

use servelab_core::ids::JobId;

use super::{ARRAY_PREFIX, COMMENT_PREFIX};
use crate::scheduler::{FoundJob, JobPhase, JobReport, SchedulerId, task_id};

/// Reasons for waiting that no waiting ends: the request itself is impossible.
const NEVER_RUNS: [&str; 9] = [
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "NodesNotInPartition",
];

/// `sbatch --parsable`: `id` or `id;cluster`, after whatever the site's plugins say.
pub fn sbatch_answer(text: &str) -> Option<SchedulerId> {
    text.lines().rev().find_map(|line| SchedulerId::parse(line.split(';').next()?))
}

/// What one of Slurm's words for a state means; `None` when it is none of them.
pub(super) fn phase(word: &str) -> JobPhase {
    // sacct appends who cancelled (`CANCELLED by 0`) and `+` where it ran out of room.
    let word = word.split_whitespace().next().unwrap_or_default().trim_end_matches('+');
    match word {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            JobPhase::Pending
        }
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => {
            JobPhase::Running
        }
        "COMPLETED" => JobPhase::Completed,
        "FAILED" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => JobPhase::Failed,
        "CANCELLED" | "REVOKED" => JobPhase::Cancelled,
        "TIMEOUT" | "DEADLINE" => JobPhase::Timeout,
        "PREEMPTED" => JobPhase::Preempted,
        "NODE_FAIL" | "BOOT_FAIL" => JobPhase::NodeFailed,
        "OUT_OF_MEMORY" => JobPhase::OutOfMemory,
        _ => JobPhase::Unknown,
    }
}

pub(super) fn report(word: &str, reason: Option<&str>) -> JobReport {
    let phase = phase(word);
    let reason = reason.map(str::trim).filter(|reason| !matches!(*reason, "" | "None" | "(null)"));
    let never_runs = phase == JobPhase::Pending
        && reason.is_some_and(|reason| NEVER_RUNS.iter().any(|word| reason.trim_matches(['(', ')']).starts_with(word)));
    JobReport { phase, word: word.trim().to_owned(), reason: reason.map(str::to_owned), never_runs }
}

/// `squeue -h -o '%i|%T|%r'`: the reason is free text and stands last. Of two lines about one job (a requeued one) the
/// last counts.
pub fn squeue(text: &str) -> BTreeMap<SchedulerId, JobReport> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, '|');
        let (id, word) = (SchedulerId::parse(fields.next()?)?, fields.next()?);
        Some((id, report(word, fields.next())))
    };
    text.lines().filter_map(line).collect()
}

/// `squeue -h -r -o '%i|%T|%k'`: jobs whose comment holds one of our ids. A task of an array goes by the array's UUID and
/// its number (`task_id`).
pub fn comments(text: &str) -> BTreeMap<JobId, FoundJob> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, '|');
        let (id, word) = (SchedulerId::parse(fields.next()?)?, fields.next()?);
        let job = of_comment(fields.next()?, &id)?;
        Some((job, FoundJob { id, phase: phase(word) }))
    };
    text.lines().filter_map(line).collect()
}

/// The job that a comment names.
pub(super) fn of_comment(comment: &str, id: &SchedulerId) -> Option<JobId> {
    let comment = comment.trim();
    if let Some(array) = comment.strip_prefix(ARRAY_PREFIX) {
        let (_, index) = id.as_str().rsplit_once('_')?;
        return Some(task_id(&JobId::new(array), index.parse().ok()?));
    }
    Some(JobId::new(comment.strip_prefix(COMMENT_PREFIX)?))
}

/// `scontrol show config`: the largest number of tasks. The highest index is one less than `MaxArraySize`.
pub fn max_array_size(text: &str) -> Option<usize> {
    let line = text.lines().find(|line| line.trim_start().starts_with("MaxArraySize"))?;
    line.split_once('=')?.1.trim().parse().ok()
}

/// `sacct -X -P -n -o JobID,State,ExitCode`. Lines of steps (`12.batch`) are passed over.
pub fn sacct(text: &str) -> BTreeMap<SchedulerId, JobReport> {
    let line = |line: &str| {
        let mut fields = line.split('|');
        let id = fields.next()?;
        if id.contains('.') {
            return None;
        }
        let (id, word) = (SchedulerId::parse(id)?, fields.next()?);
        let exit = fields.next().filter(|exit| *exit != "0:0").map(exit_words);
        Some((id, report(word, exit.as_deref())))
    };
    text.lines().filter_map(line).collect()
}

/// `status:signal` in words.
fn exit_words(exit: &str) -> String {
    match exit.split_once(':') {
        // Slurm's own code for a job whose output file or folder could not be opened.
        Some(("0", "53")) => "could not start: its folder or output file cannot be opened".to_owned(),
        Some((status, "0")) => format!("exit status {status}"),
        Some((_, signal)) => format!("signal {signal}"),
        None => exit.to_owned(),
    }
}

/// One node as `sinfo -h -N -o '%N|%T|%c|%m|%G|%P|%E'` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its state in Slurm's words.
    pub state: String,
    /// Its GPUs, all types together.
    pub gpus: u32,
    /// Partition, without the `*` of the default one.
    pub partition: String,
    /// Why it is down or drained.
    pub reason: Option<String>,
}

/// Nodes; a node in several partitions comes once for each.
pub fn sinfo(text: &str) -> Vec<Node> {
    let line = |line: &str| {
        let mut fields = line.splitn(7, '|');
        let (name, state) = (fields.next()?.trim(), fields.next()?.trim());
        let (_, _) = (fields.next()?, fields.next()?);
        let (gres, partition) = (fields.next()?, fields.next()?.trim());
        let reason = fields.next().map(str::trim).filter(|reason| !matches!(*reason, "" | "none"));
        Some(Node {
            name: name.to_owned(),
            state: plain_state(state).to_owned(),
            gpus: gpus(gres),
            partition: partition.trim_end_matches('*').to_owned(),
            reason: reason.map(str::to_owned),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Without the marks for "does not respond", "powered down" and the like.
pub(super) fn plain_state(state: &str) -> &str {
    state.trim_end_matches(['*', '~', '#', '!', '%', '$', '@', '^', '-'])
}

/// `scontrol show job`, with or without `-o`: words of `key=value`, a job ends where the next `JobId=` begins.
pub fn scontrol_jobs(text: &str) -> BTreeMap<SchedulerId, JobReport> {
    let mut blocks: Vec<BTreeMap<&str, &str>> = Vec::new();
    for (key, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
        if key == "JobId" {
            blocks.push(BTreeMap::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.entry(key).or_insert(value);
        }
    }
    let job = |block: &BTreeMap<&str, &str>| {
        let id = match (block.get("ArrayJobId"), block.get("ArrayTaskId")) {
            (Some(array), Some(task)) => SchedulerId::parse(&format!("{array}_{task}"))?,
            _ => SchedulerId::parse(block.get("JobId")?)?,
        };
        Some((id, report(block.get("JobState")?, block.get("Reason").copied())))
    };
    blocks.iter().filter_map(job).collect()
}

/// `gpu:8`, `gpu:h200:8(S:0-1),nvme:1`.
pub(super) fn gpus(gres: &str) -> u32 {
    let count = |part: &str| {
        let part = part.split('(').next()?;
        part.strip_prefix("gpu:")?.rsplit(':').next()?.parse::<u32>().ok()
    };
    gres.split(',').filter_map(count).fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> SchedulerId {
        SchedulerId::parse(text).unwrap()
    }

    #[test]
    fn answers_of_sbatch() {
        for (text, expected) in [
            ("123\n", Some("123")),
            ("123;test\n", Some("123")),
            ("Welcome to the park: 3 jobs\n124\n", Some("124")),
            ("", None),
            ("Submitted batch job\n", None),
        ] {
            assert_eq!(sbatch_answer(text).as_ref().map(SchedulerId::as_str), expected, "{text:?}");
        }
    }

    /// As 22.05 and 26.05 print it.
    #[test]
    fn queues() {
        let text = "1076|PENDING|Resources\n1077_[0-5%2]|PENDING|Priority\n1075|RUNNING|None\n\
                    2|FAILED|NonZeroExitCode\n9|PENDING|PartitionNodeLimit\nslurm_load_jobs error: x\n\
                    10|PENDING|Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions\n\
                    11|PENDING|(PartitionTimeLimit)\n12|QUANTUM|None\n";
        let jobs = squeue(text);
        assert_eq!(jobs.len(), 7, "{jobs:?}");
        assert_eq!(jobs[&id("1076")].reason.as_deref(), Some("Resources"));
        assert_eq!((jobs[&id("1075")].phase, &jobs[&id("1075")].reason), (JobPhase::Running, &None));
        assert_eq!(jobs[&id("2")].phase, JobPhase::Failed);
        assert!(jobs[&id("9")].never_runs && jobs[&id("11")].never_runs && !jobs[&id("10")].never_runs);
        assert!(jobs[&id("10")].reason.as_ref().unwrap().ends_with("higher priority partitions"));
        assert_eq!((jobs[&id("12")].phase, jobs[&id("12")].word.as_str()), (JobPhase::Unknown, "QUANTUM"));
    }

    #[test]
    fn every_state_of_slurm_has_a_phase() {
        use JobPhase::{Cancelled, Completed, Failed, NodeFailed, OutOfMemory, Pending, Preempted, Running, Timeout};
        for (words, expected) in [
            ("PENDING CONFIGURING REQUEUED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD", Pending),
            ("RUNNING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING", Running),
            ("COMPLETED", Completed),
            ("FAILED", Failed),
            ("CANCELLED CANCELLED+ REVOKED", Cancelled),
            ("TIMEOUT DEADLINE", Timeout),
            ("PREEMPTED", Preempted),
            ("NODE_FAIL BOOT_FAIL", NodeFailed),
            ("OUT_OF_MEMORY", OutOfMemory),
        ] {
            for word in words.split(' ') {
                assert_eq!(phase(word), expected, "{word}");
            }
        }
        assert_eq!(phase("CANCELLED by 1000"), Cancelled);
        assert_eq!(phase(""), JobPhase::Unknown);
    }

    #[test]
    fn jobs_are_found_by_their_comment() {
        let text = "7|RUNNING|servelab:0a1b\n8|PENDING|(null)\n9|PENDING|exp1\n10|COMPLETED|servelab:22 \n";
        let found = comments(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[&JobId::new("0a1b")].id, id("7"));
        assert_eq!(found[&JobId::new("22")].phase, JobPhase::Completed);
        let found =
            comments("11_0|RUNNING|servelab-array:aa\n11_12|PENDING|servelab-array:aa\n12|FAILED|servelab-array:bb\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[&task_id(&JobId::new("aa"), 12)].id, id("11_12"));
    }

    #[test]
    fn jobs_of_scontrol() {
        let text = "JobId=7 JobName=a\n   JobState=PENDING Reason=Resources Dependency=(null)\n\n\
                    JobId=9 ArrayJobId=8 ArrayTaskId=1 JobName=b JobState=RUNNING Reason=None\nJobId=x JobState=RUNNING\n";
        let jobs = scontrol_jobs(text);
        assert_eq!(jobs.len(), 2, "{jobs:?}");
        assert_eq!(jobs[&id("7")].reason.as_deref(), Some("Resources"));
        assert_eq!((jobs[&id("8_1")].phase, &jobs[&id("8_1")].reason), (JobPhase::Running, &None));
        let Some(folder) = crate::scheduler::samples("slurm") else { return };
        for name in ["job-22.05", "job-24.11", "job-26.05", "job-oneliner-22.05"] {
            let jobs =
                scontrol_jobs(&std::fs::read_to_string(folder.join(format!("scontrol-show-{name}.txt"))).unwrap());
            assert!(!jobs.is_empty() && jobs.values().all(|job| job.phase != JobPhase::Unknown), "{name}: {jobs:?}");
        }
    }

    #[test]
    fn sizes_of_arrays() {
        assert_eq!(max_array_size("MaxArraySize            = 1001\nMaxDBDMsgs = 2\n"), Some(1001));
        assert_eq!(max_array_size("MaxArraySize = many"), None);
        assert_eq!(max_array_size(""), None);
        let Some(folder) = crate::scheduler::samples("slurm") else { return };
        let text = std::fs::read_to_string(folder.join("scontrol-show-config-22.05.txt")).unwrap();
        assert_eq!(max_array_size(&text), Some(1001));
    }

    #[test]
    fn accounting() {
        let text = "25|CANCELLED by 0|0:0\n3|FAILED|0:9\n11|TIMEOUT|0:0\n18|FAILED|0:53\n2|FAILED|3:0\n1|COMPLETED|0:0\n\
                    1.batch|COMPLETED|0:0\n7_0|COMPLETED|0:0\n30|NODE_FAIL|0:0\n";
        let jobs = sacct(text);
        assert_eq!(jobs.len(), 8);
        assert_eq!(jobs[&id("25")].phase, JobPhase::Cancelled);
        assert_eq!(jobs[&id("3")].reason.as_deref(), Some("signal 9"));
        assert!(jobs[&id("18")].reason.as_ref().unwrap().contains("output file"));
        assert_eq!(jobs[&id("2")].reason.as_deref(), Some("exit status 3"));
        assert_eq!((jobs[&id("7_0")].phase, jobs[&id("30")].phase), (JobPhase::Completed, JobPhase::NodeFailed));
    }

    #[test]
    fn nodes() {
        let text = "node1|mixed|128|1000000|gpu:8|gpu*|none\nnode1|mixed|128|1000000|gpu:8|debug|none\n\
                    n2|drained*|64|1|gpu:h200:4(S:0-1),nvme:1,gpu:mig:2|gpu|bad cable | link\nbroken line\n";
        let nodes = sinfo(text);
        assert_eq!(nodes.len(), 3);
        assert_eq!((nodes[0].gpus, nodes[0].partition.as_str(), nodes[0].reason.as_deref()), (8, "gpu", None));
        assert_eq!((nodes[2].state.as_str(), nodes[2].gpus), ("drained", 6));
        assert_eq!(nodes[2].reason.as_deref(), Some("bad cable | link"));
    }

    #[test]
    fn real_samples() {
        let Some(folder) = crate::scheduler::samples("slurm") else { return };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(squeue(&read("squeue-r-22.05.txt")).len(), 10);
        let jobs = squeue(&read("squeue-o-26.05.txt"));
        assert_eq!(jobs[&id("1")].phase, JobPhase::Completed);
        assert_eq!(jobs[&id("3")].phase, JobPhase::Running);
        let steps = sacct(&read("sacct-P-steps-22.05.txt"));
        assert!(steps.values().all(|job| job.phase != JobPhase::Unknown), "{steps:?}");
        assert_eq!(steps[&id("1077_0")].phase, JobPhase::Running);
        assert_eq!(steps[&id("25")].phase, JobPhase::Cancelled);
        assert!(steps.keys().all(|id| !id.as_str().contains('.')));
        let nodes = sinfo(&read("sinfo-N-o-22.05.txt"));
        assert_eq!(nodes.iter().map(|node| node.gpus).collect::<Vec<_>>(), [8, 8, 8]);
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_makes_a_panic(text in "(?s)[ -~\n|;_\\[\\]é]{0,400}") {
            squeue(&text);
            sacct(&text);
            comments(&text);
            sinfo(&text);
            sbatch_answer(&text);
            max_array_size(&text);
            scontrol_jobs(&text);
        }
    }
}
