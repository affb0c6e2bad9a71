//! Which jobs a study needs now: its open cells, less those that a job works on already, one job per configuration and
//! repeat block, within the budget. A job's UUID follows from what it is for, so two planners at the same time come to the
//! same one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use servelab_core::identity::sha256_hex;
use servelab_core::ids::{CellId, JobId, PointId};
use servelab_core::plan::{Plan, PlannedCell, PlannedPoint};
use servelab_core::site::{Scheduler, Site};
use servelab_store::{Liveness, Root, StoreError, write_atomic, write_json};

use super::{ArrayPlace, INTENT_SCHEMA, Intent, JobState, KnownJob, judge};
use crate::glibc::Glibc;
use crate::job::{job_life, unix_ns};
use crate::launch::{Engine, role_to_start};
use crate::observe::SkippedCell;
use crate::resume::{Decision, RetryPolicy, decide};
use crate::schedule::{Ordering, starts};
use crate::script::{
    Experiment, JOB_SCRIPT, JobScript, Launch, Member, ScriptError, array_script, exp_runner, extension, file_name,
    job_script, launch_all, variable,
};

/// What may be spent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Budget {
    /// Jobs at a time.
    pub max_jobs: Option<u32>,
    /// Node-hours of the whole study.
    pub node_hours: Option<f64>,
}

/// What jobs are planned from.
#[derive(Debug, Clone, Copy)]
pub struct PlanJobs<'a> {
    /// Where results go.
    pub root: &'a Root,
    /// The study's plan.
    pub plan: &'a Plan,
    /// Cells that may be measured.
    pub cells: &'a [CellId],
    /// What is known about earlier jobs.
    pub known: &'a [KnownJob],
    /// What serves.
    pub engine: &'a Engine,
    /// What to take up again.
    pub retry: &'a RetryPolicy,
    /// Order of jobs and cells.
    pub ordering: Ordering,
    /// Time limit of one job, seconds.
    pub walltime_s: u64,
    /// What may be spent.
    pub budget: Budget,
}

/// One job to make.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    /// The configuration.
    pub point: PlannedPoint,
    /// Repeat block.
    pub block: u32,
    /// Its cells in order.
    pub cells: Vec<CellId>,
}

/// Cells that no job is made for.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// How many.
    pub n_cells: u64,
    /// Why, for people.
    pub reason: String,
}

/// What is to be done now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Planned {
    /// Jobs to submit now, in this order.
    pub now: Vec<JobRequest>,
    /// Jobs that wait for room in the budget.
    pub later: Vec<JobRequest>,
    /// Why they wait.
    pub waits_for: Option<String>,
    /// Cells that are finished.
    pub finished: u64,
    /// Cells that a job or a run works on already.
    pub in_work: u64,
    /// Cells that are left out: infeasible, blocked, failed in a way that a retry does not cure.
    pub skipped: Vec<SkippedCell>,
    /// Configurations that no job can run.
    pub left_out: Vec<LeftOut>,
}

/// Plans the jobs that are needed now.
pub fn plan_jobs(input: &PlanJobs<'_>) -> Result<Planned, StoreError> {
    let mut planned = Planned::default();
    let views: Vec<_> = input.known.iter().map(|job| (job, judge(job))).collect();
    let covered: BTreeSet<&CellId> =
        views.iter().filter(|(_, view)| view.state.is_active()).flat_map(|(job, _)| &job.intent.cells).collect();
    let by_id: HashMap<&CellId, &PlannedCell> = input.plan.cells.iter().map(|cell| (&cell.id, cell)).collect();
    let life = |job: &JobId| job_life(input.root, job);
    let liveness = Liveness { now_unix_ns: unix_ns(), grace_s: Liveness::DEFAULT_GRACE_S, job_life: &life };
    let mut open: Vec<&PlannedCell> = Vec::new();
    for cell in input.cells.iter().filter_map(|id| by_id.get(id).copied()) {
        match decide(input.root, cell, input.retry)? {
            Decision::Finished => planned.finished += 1,
            Decision::Skip(skipped) => planned.skipped.push(skipped),
            Decision::Run { .. } if covered.contains(&cell.id) => planned.in_work += 1,
            Decision::Run { .. } => {
                let held = match input.root.latest_attempt(&cell.id)? {
                    Some(attempt) => {
                        let is_over = attempt.state()?.is_some_and(|state| state.state.is_terminal());
                        !is_over && !attempt.is_abandoned(&liveness)?
                    }
                    None => false,
                };
                if held { planned.in_work += 1 } else { open.push(cell) }
            }
        }
    }
    let mut requests = Vec::new();
    for start in starts(input.plan, &open, input.ordering) {
        // The job will have the nodes that it asks for.
        match role_to_start(input.engine, start.point, usize::MAX) {
            Ok(_) => requests.push(JobRequest {
                point: start.point.clone(),
                block: start.block,
                cells: start.cells.iter().map(|cell| cell.id.clone()).collect(),
            }),
            Err(not_here) => {
                let labels = start.point.labels.join(" = ");
                let reason = format!("{labels}: {}", not_here.0);
                match planned.left_out.iter_mut().find(|left| left.reason == reason) {
                    Some(left) => left.n_cells += start.cells.len() as u64,
                    None => planned.left_out.push(LeftOut { n_cells: start.cells.len() as u64, reason }),
                }
            }
        }
    }
    within_budget(input, &views, requests, &mut planned);
    Ok(planned)
}

/// Jobs that wait in the queue and for which nothing is left: every cell was finished, or is left out, since they were
/// submitted. They would start, find that, and end; a queue slot and a server's nodes are better given back at once.
pub fn needless<'a>(input: &PlanJobs<'a>) -> Result<Vec<&'a KnownJob>, StoreError> {
    let by_id: HashMap<&CellId, &PlannedCell> = input.plan.cells.iter().map(|cell| (&cell.id, cell)).collect();
    let mut needless = Vec::new();
    for job in input.known {
        if !matches!(judge(job).state, JobState::Submitted | JobState::Pending) || job.is_cancel_asked() {
            continue;
        }
        let mut is_open = job.intent.cells.is_empty();
        for cell in &job.intent.cells {
            // A cell that is not in this plan belongs to an older one, which is not ours to judge.
            is_open |= match by_id.get(cell) {
                Some(cell) => matches!(decide(input.root, cell, input.retry)?, Decision::Run { .. }),
                None => true,
            };
        }
        if !is_open {
            needless.push(job);
        }
    }
    Ok(needless)
}

fn within_budget(
    input: &PlanJobs<'_>,
    views: &[(&KnownJob, super::JobView)],
    requests: Vec<JobRequest>,
    planned: &mut Planned,
) {
    let now = unix_ns();
    let mut in_flight = views.iter().filter(|(_, view)| view.state.is_active()).count() as u64;
    let mut node_hours: f64 = views.iter().map(|(job, view)| job.node_hours(now, view.state.is_active())).sum();
    for request in requests {
        let cost = f64::from(request.point.nodes.max(1)) * input.walltime_s as f64 / 3600.0;
        let is_full = input.budget.max_jobs.is_some_and(|most| in_flight >= u64::from(most));
        let is_spent = input.budget.node_hours.is_some_and(|most| node_hours + cost > most);
        if planned.waits_for.is_none() {
            if is_full {
                planned.waits_for = Some(format!("{in_flight} jobs are in flight (budget.max_jobs)"));
            } else if is_spent {
                let most = input.budget.node_hours.unwrap_or(0.0);
                planned.waits_for = Some(format!(
                    "{node_hours:.1} of {most} node-hours are used or reserved, and a job may take {cost:.1} (budget.node_hours)"
                ));
            }
        }
        if planned.waits_for.is_some() {
            planned.later.push(request);
        } else {
            in_flight += 1;
            node_hours += cost;
            planned.now.push(request);
        }
    }
}

/// Why a job could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum JobPlanError {
    /// Files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The site cannot be written into a script.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// A job whose script and intent are on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedJob {
    /// What it is to do.
    pub intent: Intent,
    /// Its script.
    pub script: PathBuf,
}

/// Where and how jobs are prepared.
pub struct Preparation<'a> {
    /// Where results go.
    pub root: &'a Root,
    /// The study.
    pub study: &'a str,
    /// The machine park.
    pub site: &'a Site,
    /// What is known about earlier jobs.
    pub known: &'a [KnownJob],
    /// Time limit of one job, seconds.
    pub walltime_s: u64,
    /// The command line of a job's run.
    pub command: &'a dyn Fn(&JobId) -> Vec<String>,
    /// The C library that its program needs, where that is known.
    pub glibc: Option<Glibc>,
    /// Most tasks of an array, where the site wants arrays.
    pub largest_array: Option<usize>,
}

/// Writes scripts, intents and `launch_all.sh`. A job that was prepared before and never submitted keeps its UUID.
pub fn prepare(preparation: &Preparation<'_>, requests: &[JobRequest]) -> Result<Vec<PreparedJob>, JobPlanError> {
    let root = preparation.root;
    let study_dir = root.study_dir(preparation.study)?;
    let folder = study_dir.join("scripts");
    make_folder(&folder)?;
    make_folder(&root.logs_dir())?;
    let nonce = nonce(&study_dir)?;
    let names = names(requests);
    let mut drafts = Vec::new();
    for (request, name) in requests.iter().zip(&names) {
        drafts.push(draft(preparation, &nonce, request, name)?);
    }
    let arrays = arrays(preparation, &mut drafts)?;
    // Everything could be written: only now is anything written.
    let mut prepared = Vec::new();
    for draft in &drafts {
        let job_dir = root.job_dir(&draft.intent.job)?;
        write_json(&job_dir.join("intent.json"), &draft.intent)?;
        if draft.intent.array.is_some() || preparation.site.scheduler == Scheduler::Pbs {
            write_atomic(&job_dir.join(JOB_SCRIPT), draft.text.as_bytes())?;
        }
        let script = folder.join(&draft.intent.script);
        write_atomic(&script, draft.text.as_bytes())?;
        make_executable(&script);
        prepared.push(PreparedJob { intent: draft.intent.clone(), script });
    }
    let runner = if preparation.site.scheduler == Scheduler::Pbs { runner(preparation, &drafts)? } else { None };
    for (name, text) in arrays.iter().chain(&runner) {
        let script = folder.join(name);
        write_atomic(&script, text.as_bytes())?;
        make_executable(&script);
    }
    if !drafts.is_empty() {
        write_launch_all(preparation, &folder, &drafts)?;
    }
    Ok(prepared)
}

/// A job that could be written.
struct Draft<'a> {
    intent: Intent,
    name: &'a str,
    text: String,
    avoid: Vec<String>,
    enforce_eager: bool,
    /// Settings as variables, for `exp_runner.pbs`.
    settings: Vec<(String, String)>,
}

/// What a job's script is made from.
struct Parts {
    intent_path: PathBuf,
    logs: PathBuf,
    command: Vec<String>,
}

fn script<'a>(
    preparation: &'a Preparation<'_>,
    intent: &'a Intent,
    name: &'a str,
    parts: &'a Parts,
    avoid: &'a [String],
) -> JobScript<'a> {
    JobScript {
        job: &intent.job,
        study: preparation.study,
        label: intent.labels.first().map_or_else(|| intent.point.short(), String::as_str),
        name,
        point: &intent.point,
        block: intent.block,
        n_cells: intent.cells.len(),
        nodes: intent.nodes,
        gpus_per_node: intent.gpus_per_node,
        walltime_s: preparation.walltime_s,
        site: preparation.site,
        logs: &parts.logs,
        intent: &parts.intent_path,
        command: &parts.command,
        avoid,
        glibc: preparation.glibc,
    }
}

fn parts(preparation: &Preparation<'_>, job: &JobId) -> Result<Parts, StoreError> {
    Ok(Parts {
        intent_path: preparation.root.job_dir(job)?.join("intent.json"),
        logs: preparation.root.logs_dir(),
        command: (preparation.command)(job),
    })
}

fn draft<'a>(
    preparation: &Preparation<'_>,
    nonce: &str,
    request: &JobRequest,
    name: &'a str,
) -> Result<Draft<'a>, JobPlanError> {
    let round = round(preparation.known, &request.point.id, request.block);
    let intent = Intent {
        schema: INTENT_SCHEMA,
        job: uuid(nonce, preparation.study, &request.point.id, request.block, round),
        study: preparation.study.to_owned(),
        by: "submit".to_owned(),
        site: preparation.site.site.clone(),
        scheduler: match preparation.site.scheduler {
            Scheduler::Pbs => "pbs".to_owned(),
            Scheduler::Slurm => "slurm".to_owned(),
            Scheduler::Local => "local".to_owned(),
        },
        point: request.point.id.clone(),
        labels: request.point.labels.clone(),
        block: request.block,
        round,
        cells: request.cells.clone(),
        nodes: request.point.nodes.max(1),
        gpus_per_node: gpus_per_node(&request.point),
        walltime_s: preparation.walltime_s,
        script: format!("run_{name}_head.{}", extension(preparation.site.scheduler)),
        array: None,
        t_unix_ns: unix_ns(),
    };
    let avoid = failed_nodes(preparation.known, &request.point.id, request.block);
    let parts = parts(preparation, &intent.job)?;
    let text = job_script(&script(preparation, &intent, name, &parts, &avoid))?;
    Ok(Draft { intent, name, text, avoid, enforce_eager: eager(&request.point), settings: settings(&request.point) })
}

/// Puts jobs that ask for the same into arrays, and gives the arrays' scripts. A single job needs none.
fn arrays(preparation: &Preparation<'_>, drafts: &mut [Draft<'_>]) -> Result<Vec<(String, String)>, JobPlanError> {
    let Some(largest) = preparation.largest_array.filter(|most| *most > 1) else { return Ok(Vec::new()) };
    let mut groups: BTreeMap<(u32, u32, Vec<String>), Vec<usize>> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let asks = (draft.intent.nodes, draft.intent.gpus_per_node, draft.avoid.clone());
        groups.entry(asks).or_default().push(index);
    }
    let mut scripts = Vec::new();
    let chunks = groups.values().flat_map(|group| group.chunks(largest)).filter(|chunk| chunk.len() > 1);
    for (number, chunk) in (1..).zip(chunks) {
        let members: Vec<&Draft<'_>> = chunk.iter().filter_map(|index| drafts.get(*index)).collect();
        let Some(first) = members.first() else { continue };
        let ids: Vec<&str> = members.iter().map(|draft| draft.intent.job.as_str()).collect();
        let array = uuid_of(&ids.join("/"));
        let parts = parts(preparation, &first.intent.job)?;
        let head = script(preparation, &first.intent, first.name, &parts, &first.avoid);
        let tasks: Vec<Member<'_>> =
            members.iter().map(|draft| Member { job: &draft.intent.job, name: draft.name }).collect();
        let name = format!("run_array_{number}.{}", extension(preparation.site.scheduler));
        scripts.push((name.clone(), array_script(&array, &head, &tasks)?));
        for (index, place) in (0..).zip(chunk) {
            if let Some(draft) = drafts.get_mut(*place) {
                draft.intent.array = Some(ArrayPlace { array: array.clone(), index, script: name.clone() });
            }
        }
    }
    Ok(scripts)
}

/// `exp_runner.pbs` asks for what most experiments ask for; it names the scripts of the others.
fn runner(preparation: &Preparation<'_>, drafts: &[Draft<'_>]) -> Result<Option<(String, String)>, JobPlanError> {
    let asks = |draft: &Draft<'_>| (draft.intent.nodes, draft.intent.gpus_per_node);
    let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for draft in drafts {
        *counts.entry(asks(draft)).or_default() += 1;
    }
    let usual = counts.into_iter().max_by_key(|(_, n)| *n).map(|(asks, _)| asks);
    let Some(head) = drafts.iter().find(|draft| Some(asks(draft)) == usual) else { return Ok(None) };
    let parts = parts(preparation, &head.intent.job)?;
    let experiments: Vec<Experiment<'_>> = drafts
        .iter()
        .map(|draft| Experiment {
            name: draft.name,
            job: &draft.intent.job,
            script: &draft.intent.script,
            asks: asks(draft),
            settings: draft.settings.clone(),
        })
        .collect();
    let job = script(preparation, &head.intent, head.name, &parts, &[]);
    Ok(Some(("exp_runner.pbs".to_owned(), exp_runner(&job, asks(head), &experiments)?)))
}

/// The point's own settings and `enforce_eager`, as variables.
fn settings(point: &PlannedPoint) -> Vec<(String, String)> {
    let mut settings: BTreeMap<String, String> =
        point.factors.iter().filter_map(|(key, value)| variable(key, value)).collect();
    settings.entry("ENFORCE_EAGER".to_owned()).or_insert_with(|| if eager(point) { "yes" } else { "no" }.to_owned());
    settings.into_iter().collect()
}

fn write_launch_all(preparation: &Preparation<'_>, folder: &Path, drafts: &[Draft<'_>]) -> Result<(), StoreError> {
    let launches: Vec<Launch<'_>> = drafts
        .iter()
        .map(|draft| Launch {
            script: &draft.intent.script,
            job: &draft.intent.job,
            name: draft.name,
            enforce_eager: draft.enforce_eager,
            array: draft.intent.array.as_ref().map(|place| place.script.as_str()),
        })
        .collect();
    let path = folder.join("launch_all.sh");
    let text = launch_all(preparation.study, preparation.site.scheduler, &launches);
    write_atomic(&path, text.as_bytes())?;
    make_executable(&path);
    let link = folder.join("launch_all_experiments.sh");
    let _ = fs::remove_file(&link);
    // A file system without links loses only the second name.
    let _ = std::os::unix::fs::symlink("launch_all.sh", &link);
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::Io { action: "make", path: path.to_owned(), source })
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    // `bash FILE` works without it.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
}

/// A random word that keeps UUIDs of equal studies in different roots apart. The first writer's counts.
fn nonce(study_dir: &Path) -> Result<String, StoreError> {
    let path = study_dir.join("job-seed");
    let failed = |source| StoreError::Io { action: "write", path: path.clone(), source };
    if let Ok(mut file) = OpenOptions::new().write(true).create_new(true).open(&path) {
        let mut bytes = [0_u8; 16];
        fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(failed)?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        file.write_all(hex.as_bytes()).map_err(failed)?;
        return Ok(hex);
    }
    let text =
        fs::read_to_string(&path).map_err(|source| StoreError::Io { action: "read", path: path.clone(), source })?;
    if text.len() == 32 {
        return Ok(text);
    }
    Err(StoreError::Malformed { path, detail: "it should hold 32 digits; remove it and submit again".to_owned() })
}

/// A UUID of version 8: 122 bits of a hash over what the job is for.
fn uuid(nonce: &str, study: &str, point: &PointId, block: u32, round: u32) -> JobId {
    uuid_of(&format!("{nonce}/{study}/{point}/{block}/{round}"))
}

fn uuid_of(text: &str) -> JobId {
    let hash = sha256_hex(text.as_bytes());
    let part = |range: std::ops::Range<usize>| hash.get(range).unwrap_or("0").to_owned();
    let variant = match hash.as_bytes().get(16).copied().unwrap_or(b'0') {
        b'0'..=b'3' => '8',
        b'4'..=b'7' => '9',
        b'8' | b'9' | b'a' | b'b' => 'a',
        _ => 'b',
    };
    JobId::new(format!("{}-{}-8{}-{variant}{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32)))
}

/// The number of the next job for a configuration and block; a prepared one that nobody submitted is used again.
fn round(known: &[KnownJob], point: &PointId, block: u32) -> u32 {
    let of_start = known.iter().filter(|job| job.intent.point == *point && job.intent.block == block);
    let latest = of_start.max_by_key(|job| job.intent.round);
    match latest {
        None => 0,
        Some(job) if matches!(judge(job).state, JobState::Prepared | JobState::Refused) => job.intent.round,
        Some(job) => job.intent.round + 1,
    }
}

/// Nodes that failed under earlier jobs for the same configuration and block. Of several nodes nobody says which it was.
fn failed_nodes(known: &[KnownJob], point: &PointId, block: u32) -> Vec<String> {
    let of_start = known.iter().filter(|job| job.intent.point == *point && job.intent.block == block);
    let failed = of_start.filter(|job| job.intent.nodes == 1 && judge(job).state == JobState::NodeFailed);
    let nodes: BTreeSet<String> = failed.filter_map(|job| job.first_node().map(str::to_owned)).collect();
    nodes.into_iter().collect()
}

/// A file-safe name for each request, no two alike.
fn names(requests: &[JobRequest]) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut names = Vec::new();
    for request in requests {
        let label = request.point.labels.first().map_or_else(|| request.point.id.short(), String::as_str);
        let mut name = file_name(label);
        if name != label {
            // Labels that differ only in what a file name cannot hold.
            name = format!("{name}_{}", request.point.id.as_str().get(..6).unwrap_or_default());
        }
        if request.block > 0 {
            name = format!("{name}_r{}", request.block + 1);
        }
        let n = seen.entry(name.clone()).or_insert(0);
        *n += 1;
        names.push(if *n > 1 { format!("{name}_{n}") } else { name });
    }
    names
}

/// The most GPUs that the configuration uses on any node.
fn gpus_per_node(point: &PlannedPoint) -> u32 {
    let mut by_node: BTreeMap<u32, u32> = BTreeMap::new();
    for place in point.roles.iter().flat_map(|role| &role.placement) {
        for (node, gpus) in &place.node_gpus {
            *by_node.entry(*node).or_insert(0) += gpus.len() as u32;
        }
    }
    by_node.values().copied().max().filter(|most| *most > 0).unwrap_or_else(|| point.gpus.div_ceil(point.nodes.max(1)))
}

fn eager(point: &PlannedPoint) -> bool {
    point.config.get("serve").and_then(|serve| serve.get("enforce_eager")).and_then(serde_json::Value::as_bool)
        == Some(true)
}
