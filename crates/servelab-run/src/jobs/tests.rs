use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use servelab_core::ids::{CellId, JobId};
use servelab_core::plan::Plan;
use servelab_core::state::CellState;
use servelab_core::study::Order;
use servelab_store::{Claim, ClaimInfo, ClaimRequest, Liveness, Root};

use super::*;
use crate::fixtures::{cell, plan, point};
use crate::launch::Engine;
use crate::resume::RetryPolicy;
use crate::schedule::Ordering;
use crate::scheduler::{FoundJob, JobPhase, QueryError, Scheduler, SubmitError, task_id};

const UUID: &str = "6f1c0000-1111-4222-8333-444455556666";

fn id(text: &str) -> SchedulerId {
    SchedulerId::parse(text).unwrap()
}

fn report(phase: JobPhase, reason: Option<&str>) -> JobReport {
    JobReport { phase, word: phase.name().to_uppercase(), reason: reason.map(str::to_owned), never_runs: false }
}

fn known(events: &[JobEvent], heartbeat_age_s: Option<u64>, exit: Option<(&str, Option<&str>)>) -> KnownJob {
    KnownJob {
        intent: Intent {
            schema: 1,
            job: JobId::new(UUID),
            study: "s".to_owned(),
            by: "submit".to_owned(),
            site: "park".to_owned(),
            scheduler: "slurm".to_owned(),
            point: servelab_core::ids::PointId::new("p"),
            labels: vec!["a".to_owned()],
            block: 0,
            round: 0,
            cells: Vec::new(),
            nodes: 2,
            gpus_per_node: 8,
            walltime_s: 3600,
            script: "run_a_head.sbatch".to_owned(),
            array: None,
            t_unix_ns: 0,
        },
        journal: events.iter().map(|event| Entry { t_unix_ns: 0, event: event.clone() }).collect(),
        heartbeat_age_s,
        exit: exit.map(|(state, cause)| ExitInfo {
            state: state.to_owned(),
            cause: cause.map(str::to_owned),
            error: None,
            saved_s: 90.0,
            t_unix_ns: 0,
        }),
    }
}

#[test]
fn three_witnesses() {
    use JobState as S;
    let submitting = JobEvent::Submitting { host: "h".to_owned(), pid: 1 };
    let submitted = JobEvent::Submitted { scheduler_id: id("7") };
    let started = JobEvent::Started { scheduler_id: Some(id("7")), host: "n1".to_owned() };
    let says = |phase| JobEvent::Report { report: report(phase, None) };
    let unanswered = JobEvent::Unanswered { text: "timed out".to_owned() };
    let refused = JobEvent::Refused { text: "no".to_owned() };
    type Exit = Option<(&'static str, Option<&'static str>)>;
    let cases: Vec<(Vec<JobEvent>, Option<u64>, Exit, S)> = vec![
        (vec![], None, None, S::Prepared),
        (vec![submitting.clone()], None, None, S::Submitting),
        (vec![submitting.clone(), unanswered], None, None, S::Submitting),
        (vec![submitting.clone(), refused], None, None, S::Refused),
        (vec![submitting.clone(), JobEvent::NotFound], None, None, S::Prepared),
        (vec![submitted.clone()], None, None, S::Submitted),
        (vec![submitted.clone(), says(JobPhase::Pending)], None, None, S::Pending),
        (vec![submitted.clone(), says(JobPhase::Running)], Some(900), None, S::Running),
        // The heart beats: whatever the scheduler says, it runs.
        (vec![submitted.clone(), says(JobPhase::Cancelled)], Some(3), None, S::Running),
        (vec![started.clone()], Some(3), None, S::Running),
        (vec![submitted.clone(), says(JobPhase::Cancelled)], Some(90), None, S::Cancelled),
        (vec![submitted.clone(), says(JobPhase::NodeFailed)], Some(90), None, S::NodeFailed),
        (vec![submitted.clone(), says(JobPhase::Completed)], None, None, S::Failed),
        (vec![submitted.clone(), says(JobPhase::Unknown)], None, None, S::Unknown),
        (vec![submitted.clone(), JobEvent::Lost], None, None, S::Lost),
        // Its own record decides, also over a COMPLETED or FAILED of the scheduler.
        (vec![submitted.clone(), says(JobPhase::Failed)], Some(90), Some(("finished", None)), S::Finished),
        (vec![submitted.clone()], Some(1), Some(("interrupted", Some("walltime"))), S::Timeout),
        (vec![submitted.clone()], Some(1), Some(("interrupted", None)), S::Interrupted),
        (vec![submitted.clone(), says(JobPhase::Preempted)], None, Some(("interrupted", None)), S::Preempted),
        (
            vec![submitted.clone(), says(JobPhase::Cancelled)],
            None,
            Some(("interrupted", Some("walltime"))),
            S::Cancelled,
        ),
        (vec![submitted.clone(), JobEvent::CancelAsked], None, Some(("interrupted", None)), S::Cancelled),
        (vec![submitted.clone(), JobEvent::CancelAsked], None, None, S::Submitted),
        (vec![submitted, JobEvent::CancelAsked, says(JobPhase::Failed)], None, None, S::Cancelled),
        (vec![JobEvent::CancelAsked], None, None, S::Cancelled),
        (vec![started.clone()], None, Some(("failed", None)), S::Failed),
        // Requeued: the record is of the start before. What is left of it counts when the next start came to nothing.
        (vec![started.clone(), says(JobPhase::Pending)], Some(1), Some(("interrupted", None)), S::Pending),
        (
            vec![started.clone(), says(JobPhase::Pending), says(JobPhase::Running)],
            Some(9),
            Some(("interrupted", None)),
            S::Running,
        ),
        (
            vec![started.clone(), says(JobPhase::Pending), says(JobPhase::Failed)],
            None,
            Some(("interrupted", None)),
            S::Interrupted,
        ),
        (vec![started.clone(), says(JobPhase::Running)], None, Some(("interrupted", None)), S::Interrupted),
        (
            vec![says(JobPhase::Pending), started.clone(), says(JobPhase::Running)],
            None,
            Some(("interrupted", None)),
            S::Interrupted,
        ),
        (vec![started, says(JobPhase::Pending)], None, Some(("finished", None)), S::Finished),
    ];
    for (events, age, exit, expected) in cases {
        assert_eq!(judge(&known(&events, age, exit)).state, expected, "{events:?} {age:?} {exit:?}");
    }
    let job = known(&[JobEvent::Submitted { scheduler_id: id("7") }, says(JobPhase::Running)], Some(900), None);
    assert_eq!(judge(&job).reason.as_deref(), Some("no heartbeat for 900 s"));
}

/// A scheduler in memory, with answers that can be lost.
#[derive(Default)]
struct Fake {
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    jobs: BTreeMap<SchedulerId, (JobId, JobReport)>,
    lose_answers: bool,
    is_down: bool,
    refuses: bool,
    submissions: u32,
}

impl Fake {
    fn set(&self, change: impl FnOnce(&mut FakeState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn report_all(&self, report: &JobReport) {
        self.set(|state| state.jobs.values_mut().for_each(|(_, known)| *known = report.clone()));
    }

    fn n_jobs(&self) -> usize {
        self.state.lock().unwrap().jobs.len()
    }
}

impl Scheduler for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn submit(&self, script: &Path) -> Result<SchedulerId, SubmitError> {
        let mut state = self.state.lock().unwrap();
        state.submissions += 1;
        if state.refuses {
            return Err(SubmitError::Refused { program: "sbatch", text: "invalid account".to_owned() });
        }
        let text = std::fs::read_to_string(script).unwrap();
        let value = |name: &str| text.split_once(name).and_then(|(_, rest)| rest.lines().next());
        let id = id(&format!("{}", 100 + state.jobs.len()));
        let pending = report(JobPhase::Pending, Some("Priority"));
        if let Some(array) = value("--comment=servelab-array:") {
            let last: u32 = value("--array=0-").unwrap().parse().unwrap();
            for index in 0..=last {
                let name = task_id(&JobId::new(array), index);
                state.jobs.insert(id.task(index), (name, pending.clone()));
            }
        } else {
            let uuid = JobId::new(value("--comment=servelab:").unwrap());
            state.jobs.insert(id.clone(), (uuid, pending));
        }
        if state.lose_answers {
            return Err(SubmitError::Unanswered { program: "sbatch", text: "timed out".to_owned() });
        }
        Ok(id)
    }

    fn find(&self, jobs: &[JobId]) -> Result<BTreeMap<JobId, FoundJob>, QueryError> {
        let state = self.state.lock().unwrap();
        if state.is_down {
            return Err(QueryError { program: "squeue", text: "down".to_owned() });
        }
        let found = state.jobs.iter().filter(|(_, (uuid, _))| jobs.contains(uuid));
        Ok(found.map(|(id, (uuid, report))| (uuid.clone(), FoundJob { id: id.clone(), phase: report.phase })).collect())
    }

    fn poll(&self, ids: &[SchedulerId]) -> Result<BTreeMap<SchedulerId, JobReport>, QueryError> {
        let state = self.state.lock().unwrap();
        if state.is_down {
            return Err(QueryError { program: "squeue", text: "down".to_owned() });
        }
        let known = state.jobs.iter().filter(|(id, _)| ids.contains(id));
        Ok(known.map(|(id, (_, report))| (id.clone(), report.clone())).collect())
    }

    fn cancel(&self, ids: &[SchedulerId]) -> Result<(), QueryError> {
        let mut state = self.state.lock().unwrap();
        for id in ids {
            state.jobs.get_mut(id).unwrap().1 = report(JobPhase::Cancelled, None);
        }
        Ok(())
    }
}

/// A root, a plan of two points × two loads × two repeats, and a scheduler.
struct Lab {
    _folder: tempfile::TempDir,
    root: Root,
    plan: Plan,
    fake: Fake,
    budget: Budget,
    largest_array: Option<usize>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(folder.path()).unwrap();
        let points = vec![point("a", &[]), point("b", &[])];
        let mut cells = Vec::new();
        for point in &points {
            for (level, repeat) in [(1, 0), (2, 0), (1, 1), (2, 1)] {
                cells.push(cell(point, level, repeat));
            }
        }
        std::fs::create_dir_all(root.study_dir("study").unwrap()).unwrap();
        Self {
            _folder: folder,
            root,
            plan: plan(points, cells),
            fake: Fake::default(),
            budget: Budget::default(),
            largest_array: None,
        }
    }

    fn known(&self) -> Vec<KnownJob> {
        survey(&self.root, &self.plan.study, unix_ns()).unwrap()
    }

    fn planned(&self) -> Planned {
        let cells: Vec<CellId> = self.plan.cells.iter().map(|cell| cell.id.clone()).collect();
        plan_jobs(&self.plan_input(&cells, &self.known(), &Engine::Sim { program: "servelab".into() })).unwrap()
    }

    fn plan_input<'a>(&'a self, cells: &'a [CellId], known: &'a [KnownJob], engine: &'a Engine) -> PlanJobs<'a> {
        PlanJobs {
            root: &self.root,
            plan: &self.plan,
            cells,
            known,
            engine,
            retry: &RetryPolicy::Default,
            ordering: Ordering { order: Order::RandomBlocks, seed: 1, same_server: false },
            walltime_s: 3600,
            budget: self.budget,
        }
    }

    fn prepare(&self, planned: &Planned) -> Vec<PreparedJob> {
        let mut site = servelab_core::site::Site::local();
        site.scheduler = servelab_core::site::Scheduler::Slurm;
        let command = |job: &JobId| vec!["/bin/servelab".to_owned(), "run".to_owned(), job.to_string()];
        let preparation = Preparation {
            root: &self.root,
            study: &self.plan.study,
            site: &site,
            known: &self.known(),
            walltime_s: 3600,
            command: &command,
            glibc: None,
            largest_array: self.largest_array,
        };
        prepare(&preparation, &planned.now).unwrap()
    }

    fn submit(&self) -> Vec<SubmitOutcome> {
        let jobs = self.prepare(&self.planned());
        jobs.iter().map(|job| submit(&self.root, &job.intent.job, &job.script, &self.fake).unwrap()).collect()
    }

    fn refresh(&self) -> Refreshed {
        refresh(&self.root, &self.known(), &self.fake).unwrap()
    }

    fn states(&self) -> Vec<JobState> {
        self.known().iter().map(|job| judge(job).state).collect()
    }
}

#[test]
fn one_job_per_point_and_block_and_never_twice() {
    let lab = Lab::new();
    let outcomes = lab.submit();
    assert_eq!(outcomes.len(), 4);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, SubmitOutcome::Submitted(_))), "{outcomes:?}");
    let again = lab.planned();
    assert_eq!((again.now.len(), again.in_work), (0, 8));
    assert_eq!(lab.refresh().news, 4);
    assert_eq!(lab.states(), [JobState::Pending; 4]);
    assert_eq!(lab.refresh().news, 0, "no news is not written down");
    assert_eq!((lab.submit().len(), lab.fake.n_jobs()), (0, 4));
    let scripts = lab.root.study_dir(&lab.plan.study).unwrap().join("scripts");
    let launch = std::fs::read_to_string(scripts.join("launch_all_experiments.sh")).unwrap();
    assert_eq!(launch.lines().filter(|line| line.starts_with("sbatch run_")).count(), 4, "{launch}");
}

#[test]
fn a_prepared_job_keeps_its_id_until_it_is_submitted() {
    let lab = Lab::new();
    let ids = |jobs: &[PreparedJob]| jobs.iter().map(|job| job.intent.job.clone()).collect::<Vec<_>>();
    let first = lab.prepare(&lab.planned());
    let second = lab.prepare(&lab.planned());
    assert_eq!(ids(&first), ids(&second));
    assert_eq!(lab.states(), [JobState::Prepared; 4]);
    for job in &first {
        let parts: Vec<usize> = job.intent.job.as_str().split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{}", job.intent.job);
    }
    // Submitted by hand meanwhile: found, and not submitted again.
    for job in &first {
        lab.fake.submit(&job.script).unwrap();
    }
    assert_eq!(lab.refresh().news, 4);
    assert_eq!((lab.submit().len(), lab.fake.n_jobs()), (0, 4));
}

#[test]
fn a_lost_answer_is_looked_for_before_anything_is_repeated() {
    let lab = Lab::new();
    lab.fake.set(|state| state.lose_answers = true);
    assert!(lab.submit().iter().all(|outcome| matches!(outcome, SubmitOutcome::Unanswered(_))));
    assert_eq!(lab.states(), [JobState::Submitting; 4]);
    lab.fake.set(|state| state.is_down = true);
    assert!(lab.refresh().trouble.is_some());
    assert_eq!((lab.submit().len(), lab.states()), (0, vec![JobState::Submitting; 4]), "not known is not gone");
    lab.fake.set(|state| {
        state.is_down = false;
        state.lose_answers = false;
    });
    assert_eq!(lab.refresh().news, 4);
    assert_eq!((lab.submit().len(), lab.fake.n_jobs()), (0, 4));
    assert!(lab.known().iter().all(|job| job.scheduler_id().is_some()));
}

#[test]
fn a_submitter_that_was_killed_before_the_answer() {
    let lab = Lab::new();
    let jobs = lab.prepare(&lab.planned());
    // Killed after the scheduler took two of them and before it wrote that down.
    for (number, job) in jobs.iter().enumerate() {
        let event = JobEvent::Submitting { host: "elsewhere".to_owned(), pid: 1 };
        let path = lab.root.job_dir(&job.intent.job).unwrap().join("scheduler.jsonl");
        let entry = Entry { t_unix_ns: unix_ns() - 60_000_000_000, event };
        append_line(&path, &entry, Durability::Buffered).unwrap();
        if number < 2 {
            lab.fake.submit(&job.script).unwrap();
        }
    }
    assert_eq!(lab.states(), [JobState::Submitting; 4]);
    assert_eq!(lab.refresh().news, 4);
    let states = lab.states();
    assert_eq!(states.iter().filter(|state| **state == JobState::Submitted).count(), 2, "{states:?}");
    assert_eq!(states.iter().filter(|state| **state == JobState::Prepared).count(), 2, "{states:?}");
    assert_eq!(lab.submit().len(), 2, "only those that the scheduler does not have");
    assert_eq!(lab.fake.n_jobs(), 4);
    let uuids: std::collections::BTreeSet<JobId> =
        lab.fake.state.lock().unwrap().jobs.values().map(|(uuid, _)| uuid.clone()).collect();
    assert_eq!(uuids.len(), 4);
}

/// A queued job whose cells were all finished by somebody else; one with an open cell stays.
#[test]
fn what_waits_for_nothing() {
    let lab = Lab::new();
    lab.submit();
    lab.fake.report_all(&report(JobPhase::Pending, Some("Priority")));
    lab.refresh();
    let known = lab.known();
    let me = ClaimInfo::of_this_process(None, 1);
    let cells = known[0].intent.cells.iter().chain(&known[1].intent.cells[..1]);
    for cell in cells {
        let request = ClaimRequest { cell, info: &me, liveness: &Liveness::local(1), rerun_after: None };
        let Claim::Acquired(attempt) = lab.root.claim_cell(&request).unwrap() else { panic!("not acquired") };
        attempt.enter(CellState::Done, 1, None, None).unwrap();
    }
    let cells: Vec<CellId> = lab.plan.cells.iter().map(|cell| cell.id.clone()).collect();
    let engine = Engine::Sim { program: "servelab".into() };
    let input = lab.plan_input(&cells, &known, &engine);
    let ids: Vec<&JobId> = needless(&input).unwrap().iter().map(|job| job.id()).collect();
    assert_eq!(ids, [known[0].id()]);
    note(&lab.root, known[0].id(), JobEvent::CancelAsked).unwrap();
    assert!(needless(&lab.plan_input(&cells, &lab.known(), &engine)).unwrap().is_empty(), "asked once");
}

/// Two arrays of at most three tasks; an answer that is lost is found again task by task.
#[test]
fn jobs_with_equal_resources_go_into_arrays() {
    let mut lab = Lab::new();
    lab.largest_array = Some(3);
    let jobs = lab.prepare(&lab.planned());
    let places: Vec<Option<&ArrayPlace>> = jobs.iter().map(|job| job.intent.array.as_ref()).collect();
    assert_eq!(places.iter().flatten().map(|place| place.index).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(places[3].is_none(), "a single job needs no array");
    let script = jobs[0].script.with_file_name("run_array_1.sbatch");
    let text = std::fs::read_to_string(&script).unwrap();
    assert!(text.contains("#SBATCH --array=0-2\n") && text.contains("--time=01:00:00"), "{text}");
    for job in &jobs[..3] {
        let copy = lab.root.job_dir(&job.intent.job).unwrap().join("job.sh");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), std::fs::read_to_string(&job.script).unwrap());
        assert!(text.contains(job.intent.job.as_str()));
    }
    let all = std::fs::read_to_string(script.with_file_name("launch_all.sh")).unwrap();
    assert_eq!(all.lines().filter(|line| line.starts_with("sbatch ")).count(), 2, "{all}");

    let ids: Vec<&JobId> = jobs[..3].iter().map(|job| &job.intent.job).collect();
    lab.fake.set(|state| state.lose_answers = true);
    let outcome = submit_array(&lab.root, &ids, &script, &lab.fake).unwrap();
    assert!(matches!(outcome, SubmitOutcome::Unanswered(_)), "{outcome:?}");
    let again = submit_array(&lab.root, &ids, &script, &lab.fake).unwrap();
    assert!(matches!(again, SubmitOutcome::Busy(_)), "{again:?}");
    assert_eq!(lab.refresh().news, 3);
    let tasks: std::collections::BTreeSet<String> =
        lab.known().iter().filter_map(|job| job.scheduler_id().map(ToString::to_string)).collect();
    assert_eq!(tasks.into_iter().collect::<Vec<_>>(), ["100_0", "100_1", "100_2"]);
    assert_eq!((lab.fake.n_jobs(), lab.fake.state.lock().unwrap().submissions), (3, 1));
}

#[test]
fn many_submitters_at_once() {
    let lab = Lab::new();
    let jobs = lab.prepare(&lab.planned());
    let barrier = std::sync::Barrier::new(6);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                barrier.wait();
                for job in &jobs {
                    // What a submitter does: look, then act.
                    let all = lab.known();
                    let now = all.iter().find(|known| known.id() == &job.intent.job).unwrap();
                    if judge(now).state == JobState::Prepared {
                        submit(&lab.root, &job.intent.job, &job.script, &lab.fake).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(lab.fake.state.lock().unwrap().submissions, 4, "each once");
}

#[test]
fn the_budget_holds_jobs_back() {
    let mut lab = Lab::new();
    lab.budget = Budget { max_jobs: Some(3), node_hours: None };
    let planned = lab.planned();
    assert_eq!((planned.now.len(), planned.later.len()), (3, 1));
    assert!(planned.waits_for.unwrap().contains("max_jobs"));
    lab.budget = Budget { max_jobs: None, node_hours: Some(2.5) };
    assert_eq!(lab.submit().len(), 2);
    let planned = lab.planned();
    assert_eq!((planned.now.len(), planned.later.len()), (0, 2));
    assert!(planned.waits_for.unwrap().contains("node_hours"));
}

#[test]
fn a_refusal_can_be_submitted_again_under_the_same_id() {
    let lab = Lab::new();
    lab.fake.set(|state| state.refuses = true);
    assert!(matches!(&lab.submit()[0], SubmitOutcome::Refused(text) if text.contains("invalid account")));
    lab.fake.set(|state| state.refuses = false);
    let before: Vec<JobId> = lab.known().iter().map(|job| job.id().clone()).collect();
    assert_eq!(lab.submit().len(), 4);
    assert_eq!(lab.known().len(), before.len());
}

/// A job that died: its open cell gets the scheduler's reason, the finished one stays, the rest goes into a new job.
#[test]
fn cells_of_a_dead_job() {
    for (phase, expected, code) in [
        (JobPhase::Timeout, CellState::Timeout, "walltime"),
        (JobPhase::Preempted, CellState::Preempted, "preempted"),
        (JobPhase::Cancelled, CellState::Cancelled, "interrupted"),
        (JobPhase::NodeFailed, CellState::Failed, "node_fail"),
        (JobPhase::OutOfMemory, CellState::Failed, "interrupted"),
        (JobPhase::Completed, CellState::Failed, "interrupted"),
    ] {
        let lab = Lab::new();
        lab.submit();
        let job = lab.known().remove(0);
        let mut owner = ClaimInfo::of_this_process(Some(job.id().clone()), 1);
        owner.host = "node7".to_owned();
        let mut attempts = Vec::new();
        for cell in &job.intent.cells {
            let request = ClaimRequest { cell, info: &owner, liveness: &Liveness::local(unix_ns()), rerun_after: None };
            let Claim::Acquired(attempt) = lab.root.claim_cell(&request).unwrap() else { panic!("not acquired") };
            attempts.push(attempt);
        }
        let started = JobEvent::Started { scheduler_id: None, host: "node7".to_owned() };
        note(&lab.root, job.id(), started).unwrap();
        attempts[0].enter(CellState::Done, 1, None, None).unwrap();
        attempts[1].enter(CellState::Measuring, 1, None, None).unwrap();
        lab.fake.report_all(&report(phase, None));
        lab.refresh();
        let later = unix_ns() + 60_000_000_000;
        assert_eq!(settle(&lab.root, &lab.known(), unix_ns()).unwrap(), 0, "a heart that beat just now");
        assert_eq!(settle(&lab.root, &lab.known(), later).unwrap(), 1);
        let state = attempts[1].state().unwrap().unwrap();
        assert_eq!((state.state, state.code.as_deref()), (expected, Some(code)), "{phase:?}");
        assert_eq!(attempts[0].state().unwrap().unwrap().state, CellState::Done);
        assert_eq!(settle(&lab.root, &lab.known(), later).unwrap(), 0, "once");
        let planned = lab.planned();
        let cells: Vec<&CellId> = planned.now.iter().flat_map(|request| &request.cells).collect();
        assert_eq!((planned.finished, cells.len()), (1, 7), "{phase:?}");
        let next = lab.prepare(&planned);
        assert!(next.iter().all(|next| next.intent.round == 1 && next.intent.job != *job.id()));
        let of_same =
            |next: &&PreparedJob| next.intent.point == job.intent.point && next.intent.block == job.intent.block;
        let script = std::fs::read_to_string(&next.iter().find(of_same).unwrap().script).unwrap();
        assert_eq!(script.contains("--exclude=node7"), phase == JobPhase::NodeFailed, "{phase:?}");
    }
}
