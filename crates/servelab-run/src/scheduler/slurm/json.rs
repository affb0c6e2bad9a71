//! What Slurm's clients print with `--json`. Its shape differs from version to version (22.05 to 26.05 seen), so the plain
//! columns of `parse` come first; this is read where a site's wrapper or format variables make those unreadable.

use std::collections::BTreeMap;

use serde_json::Value;
use servelab_core::ids::JobId;

use super::parse::{Node, gpus, of_comment, phase, plain_state, report};
use crate::scheduler::{FoundJob, JobReport, SchedulerId};

/// `squeue --json`: how jobs are.
pub fn squeue(text: &str) -> BTreeMap<SchedulerId, JobReport> {
    let job = |job: &Value| Some((id(job)?, report(&word(job.get("job_state")?)?, text_of(job, "state_reason"))));
    list(text, "jobs").iter().filter_map(job).collect()
}

/// `squeue --json`: jobs whose comment holds one of our ids.
pub fn comments(text: &str) -> BTreeMap<JobId, FoundJob> {
    let job = |job: &Value| {
        let id = id(job)?;
        let uuid = of_comment(text_of(job, "comment")?, &id)?;
        Some((uuid, FoundJob { phase: phase(&word(job.get("job_state")?)?), id }))
    };
    list(text, "jobs").iter().filter_map(job).collect()
}

/// `sacct --json`: how jobs ended.
pub fn sacct(text: &str) -> BTreeMap<SchedulerId, JobReport> {
    let job = |job: &Value| {
        let state = job.get("state")?;
        Some((id(job)?, report(&word(state.get("current")?)?, text_of(state, "reason"))))
    };
    list(text, "jobs").iter().filter_map(job).collect()
}

/// `sinfo --json`: nodes as 22.05 lists them one by one, or as later versions group them.
pub fn sinfo(text: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node in list(text, "nodes") {
        let partitions = node.get("partitions").and_then(Value::as_array).cloned().unwrap_or_default();
        let (Some(name), Some(state)) = (text_of(&node, "name"), node.get("state").and_then(word)) else { continue };
        for partition in partitions.iter().filter_map(Value::as_str) {
            nodes.push(Node {
                name: name.to_owned(),
                state: plain_state(&state).to_lowercase(),
                gpus: gpus(text_of(&node, "gres").unwrap_or_default()),
                partition: partition.to_owned(),
                reason: text_of(&node, "reason").map(str::to_owned),
            });
        }
    }
    for group in list(text, "sinfo") {
        let names = group.pointer("/nodes/nodes").and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(state) = group.pointer("/node/state").and_then(word) else { continue };
        let partition = group.pointer("/partition/name").and_then(Value::as_str).unwrap_or_default();
        let gres = group.pointer("/gres/total").and_then(Value::as_str).unwrap_or_default();
        let reason = group.pointer("/reason/description").or_else(|| group.get("reason")).and_then(Value::as_str);
        for name in names.iter().filter_map(Value::as_str) {
            nodes.push(Node {
                name: name.to_owned(),
                state: plain_state(&state).to_lowercase(),
                gpus: gpus(gres),
                partition: partition.to_owned(),
                reason: reason.filter(|reason| !reason.is_empty()).map(str::to_owned),
            });
        }
    }
    nodes
}

/// A list of the document; nothing where the text is no such document.
fn list(text: &str, name: &str) -> Vec<Value> {
    let document: Option<Value> = serde_json::from_str(text).ok();
    document.and_then(|mut document| document.get_mut(name)?.as_array_mut().map(std::mem::take)).unwrap_or_default()
}

fn text_of<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// `7`, or `{"set": true, "infinite": false, "number": 7}`.
fn number(value: &Value) -> Option<u64> {
    match value.get("set") {
        Some(Value::Bool(false)) => None,
        _ => value.as_u64().or_else(|| value.get("number")?.as_u64()),
    }
}

/// `"RUNNING"`, or `["CANCELLED", "COMPLETING"]`: as the plain columns have it, one that is still cleaning up is that.
fn word(value: &Value) -> Option<String> {
    if let Some(word) = value.as_str() {
        return Some(word.to_owned());
    }
    let words: Vec<&str> = value.as_array()?.iter().filter_map(Value::as_str).collect();
    words.iter().find(|word| **word == "COMPLETING").or(words.first()).map(|word| (*word).to_owned())
}

/// `7`, or `7_3` for a task. An array whose tasks are still together has none of its own.
fn id(job: &Value) -> Option<SchedulerId> {
    let array = job.get("array");
    let array_job = job.get("array_job_id").or_else(|| array?.get("job_id")).and_then(number).unwrap_or(0);
    let task = job.get("array_task_id").or_else(|| array?.get("task_id")).and_then(number);
    let text = match (array_job, task) {
        (0, _) => number(job.get("job_id")?)?.to_string(),
        (array, Some(task)) => format!("{array}_{task}"),
        (array, None) => array.to_string(),
    };
    SchedulerId::parse(&text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scheduler::{JobPhase, task_id};

    fn id(text: &str) -> SchedulerId {
        SchedulerId::parse(text).unwrap()
    }

    #[test]
    fn both_shapes() {
        let old = r#"{"jobs": [
            {"job_id": 7, "job_state": "RUNNING", "state_reason": "None", "array_job_id": 0, "array_task_id": null,
             "comment": "servelab:aa"},
            {"job_id": 9, "job_state": "PENDING", "state_reason": "Resources", "array_job_id": 8, "array_task_id": 1,
             "comment": "servelab-array:bb"}]}"#;
        let new = r#"{"jobs": [
            {"job_id": 7, "job_state": ["RUNNING"], "state_reason": "None",
             "array_job_id": {"set": true, "infinite": false, "number": 0},
             "array_task_id": {"set": false, "infinite": false, "number": 0}, "comment": "servelab:aa"},
            {"job_id": 9, "job_state": ["PENDING"], "state_reason": "Resources",
             "array_job_id": {"set": true, "infinite": false, "number": 8},
             "array_task_id": {"set": true, "infinite": false, "number": 1}, "comment": "servelab-array:bb"}]}"#;
        for text in [old, new] {
            let jobs = squeue(text);
            assert_eq!(jobs.len(), 2, "{text}");
            assert_eq!((jobs[&id("7")].phase, &jobs[&id("7")].reason), (JobPhase::Running, &None));
            assert_eq!(jobs[&id("8_1")].reason.as_deref(), Some("Resources"));
            let found = comments(text);
            assert_eq!(found[&JobId::new("aa")].id, id("7"));
            assert_eq!(found[&task_id(&JobId::new("bb"), 1)].id, id("8_1"));
        }
        let ending = r#"{"jobs": [{"job_id": 3, "job_state": ["CANCELLED", "COMPLETING"]}]}"#;
        assert_eq!(squeue(ending)[&id("3")].phase, JobPhase::Running, "it still holds its nodes");
        let ended = r#"{"jobs": [{"job_id": 5, "state": {"current": ["TIMEOUT"], "reason": "None"},
            "array": {"job_id": 0, "task_id": {"set": false, "infinite": false, "number": 0}}}]}"#;
        assert_eq!(sacct(ended)[&id("5")].phase, JobPhase::Timeout);
    }

    #[test]
    fn what_is_no_such_document() {
        for text in ["", "[]", "{}", "{\"jobs\": 3}", "{\"jobs\": [3, null, {}]}", "slurm_load_jobs error"] {
            assert!(squeue(text).is_empty() && comments(text).is_empty() && sacct(text).is_empty(), "{text}");
            assert!(sinfo(text).is_empty());
        }
    }

    /// The same jobs and nodes as the plain columns of the same moment.
    #[test]
    fn real_samples() {
        let Some(folder) = crate::scheduler::samples("slurm") else { return };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let old = squeue(&read("squeue-22.05.json"));
        let plain = super::super::parse::squeue(&read("squeue-r-22.05.txt"));
        for (id, report) in &plain {
            let Some(other) = old.get(id) else { continue };
            assert_eq!((other.phase, &other.reason), (report.phase, &report.reason), "{id}");
        }
        assert!(old.contains_key(&id("1075")) && old.len() >= 4, "{old:?}");
        for (name, least) in [("squeue-24.11.json", 6), ("squeue-24.11-v0.0.40.json", 6), ("squeue-26.05.json", 4)] {
            let jobs = squeue(&read(name));
            assert!(jobs.len() >= least, "{name}: {jobs:?}");
            assert!(jobs.values().all(|job| job.phase != JobPhase::Unknown), "{name}: {jobs:?}");
        }
        for name in ["sinfo-22.05.json", "sinfo-24.11.json", "sinfo-26.05.json"] {
            let nodes = sinfo(&read(name));
            assert!(nodes.iter().any(|node| node.gpus == 8 && node.partition == "gpu"), "{name}: {nodes:?}");
            assert!(nodes.iter().all(|node| node.name.starts_with("node") && !node.state.is_empty()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_makes_a_panic(text in "(?s)[\\[\\]{}\":,a-z_0-9 ]{0,200}") {
            squeue(&text);
            comments(&text);
            sacct(&text);
            sinfo(&text);
        }
    }
}
