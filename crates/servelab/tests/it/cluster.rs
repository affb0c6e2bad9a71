//! Jobs through a scheduler, as a suite that every scheduler must pass: here against the stand-in for PBS, in `real_slurm`
//! against a real Slurm. What is special about one scheduler is tested beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use servelab_testkit::{Deadline, FakePbs, Output, Place, Servelab, at, brisk, number, one_cell, poll, text};

use super::place;

/// Longest that a job of these tests may take on a busy machine.
pub(super) const PATIENCE_S: u64 = 180;

/// A scheduler to test with.
pub(super) struct Park {
    /// Environment in which its clients work.
    pub(super) env: Vec<(String, String)>,
    /// The site file.
    pub(super) site: String,
}

/// A place with a study, at a park.
pub(super) struct Lab<'a> {
    pub(super) place: Place,
    pub(super) park: &'a Park,
}

impl<'a> Lab<'a> {
    pub(super) fn new(park: &'a Park, study: &str) -> Self {
        let place = place();
        place.write("study.yaml", study);
        place.write("site.yaml", &park.site);
        Self { place, park }
    }

    pub(super) fn command(&self, line: &str) -> Servelab<'_> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let line = format!("{name} study.yaml --root out --site site.yaml {}", rest.join(" "));
        self.park.env.iter().fold(self.place.servelab(&line), |command, (name, value)| command.env(name, value))
    }

    pub(super) fn run(&self, line: &str) -> Output {
        self.command(line).run()
    }

    pub(super) fn status(&self) -> Value {
        self.run("status --json").expect(0).json()
    }

    /// Cells by state.
    pub(super) fn cells(&self) -> BTreeMap<String, u64> {
        let status = self.status();
        let cells = at(&status, "cells").as_object().unwrap();
        cells.iter().map(|(state, n)| (state.clone(), n.as_u64().unwrap())).collect()
    }

    /// States of the jobs, oldest first.
    pub(super) fn jobs(&self) -> Vec<String> {
        let status = self.status();
        at(&status, "jobs").as_array().unwrap().iter().map(|job| text(job, "state").to_owned()).collect()
    }

    /// Polls until the jobs satisfy a condition.
    pub(super) fn until(&self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        let deadline = Deadline::in_s(PATIENCE_S);
        loop {
            let jobs = self.jobs();
            if is_so(&jobs) {
                return;
            }
            assert!(!deadline.has_passed(), "waited in vain for {what}; jobs: {jobs:?}\n{}", self.logs());
            // Each look costs two programs; others work here as well.
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
    }

    /// Every cell was measured, and none twice.
    #[track_caller]
    pub(super) fn all_measured_once(&self, n: usize) {
        let states = self.place.states("out");
        let over = states.values().filter(|(state, _)| state == "done" || state == "invalid").count();
        assert_eq!((over, states.len()), (n, n), "{states:?}\n{}", self.logs());
        for cell in states.keys() {
            let attempts = self.place.attempts("out", cell);
            let measured = attempts.iter().filter(|attempt| {
                self.place.list(&format!("out/cells/{cell}/{attempt}")).iter().any(|name| name == "result.json")
            });
            assert_eq!(measured.count(), 1, "{cell}: {attempts:?}");
        }
    }

    /// What the jobs printed, for a failed assertion.
    pub(super) fn logs(&self) -> String {
        let names = self.place.list("out/logs");
        names.iter().map(|name| format!("--- {name}\n{}", self.place.read(&format!("out/logs/{name}")))).collect()
    }
}

/// A cell that goes on until somebody ends it.
pub(super) fn endless() -> String {
    one_cell("endless", 600)
}

pub(super) fn submitted_once_and_measured(park: &Park) {
    let lab = Lab::new(park, &brisk(2, 2, 2));
    let first = lab.run("submit --json").expect(0).json();
    let jobs = at(&first, "jobs").as_array().unwrap();
    assert_eq!(jobs.len(), 4, "one per configuration and repeat");
    let ids: BTreeSet<&str> = jobs.iter().map(|job| text(job, "scheduler_id")).collect();
    assert_eq!(ids.len(), 4);
    let again = lab.run("submit --json").expect(0).json();
    assert_eq!(at(&again, "jobs").as_array().unwrap().len(), 0, "{again}");
    assert_eq!(number(&again, "cells_in_work") + number(&again, "cells_finished"), 8.0, "{again}");
    let waited = lab.run("submit --wait").expect(0);
    assert!(waited.stdout.contains("Answer"), "{}", waited.stdout);
    lab.all_measured_once(8);
    assert_eq!(lab.jobs(), ["finished"; 4]);
    let status = lab.status();
    for job in at(&status, "jobs").as_array().unwrap() {
        assert!(ids.contains(text(job, "scheduler_id")), "{job}");
    }
    assert_eq!(lab.place.list("out/logs").len(), 4);
    assert_eq!(lab.place.list("out/reports/brisk").len(), 1);
    lab.run("submit").expect(0);
    lab.all_measured_once(8);
    lab.place.wait_until_quiet();
}

pub(super) fn cancelled_and_taken_up_again(park: &Park) {
    let lab = Lab::new(park, &endless());
    lab.run("submit").expect(0);
    poll("a cell that is measured", Deadline::in_s(PATIENCE_S), || {
        lab.place.states("out").values().any(|(state, _)| state == "measuring").then_some(())
    });
    assert_eq!(lab.jobs(), ["running"]);
    assert_eq!(lab.cells(), BTreeMap::from([("measuring".to_owned(), 1)]));
    let out = lab.run("cancel").expect(0);
    assert!(out.stdout.contains("asked") && out.stdout.contains("to cancel 1 jobs"), "{}", out.stdout);
    lab.until("the end of the job", |jobs| jobs == ["cancelled"]);
    assert_eq!(lab.cells(), BTreeMap::from([("cancelled".to_owned(), 1)]), "{}", lab.logs());
    lab.place.wait_until_quiet();
    lab.run("cancel").expect(0);
    let dry = lab.run("submit --dry-run --json").expect(0).json();
    assert_eq!(at(&dry, "jobs").as_array().unwrap().len(), 1, "what was cancelled can be submitted again: {dry}");
}

pub(super) fn scripts_by_hand(park: &Park, submit_all: &dyn Fn(&Lab<'_>)) {
    let lab = Lab::new(park, &brisk(2, 1, 1));
    let dry = lab.run("submit --dry-run").expect(0);
    assert!(dry.stdout.contains("2 jobs with 2 cells written, not submitted"), "{}", dry.stdout);
    assert_eq!(lab.jobs(), ["prepared"; 2]);
    // Twice: the second job of a script finds nothing to do.
    submit_all(&lab);
    submit_all(&lab);
    lab.until("the jobs' end", |jobs| jobs == ["finished"; 2]);
    lab.all_measured_once(2);
    let out = lab.run("submit --json").expect(0).json();
    assert_eq!((at(&out, "jobs").as_array().unwrap().len(), number(&out, "cells_finished")), (0, 2.0));
    lab.place.wait_until_quiet();
}

/// Submits by `launch_all.sh`.
pub(super) fn launch_all(lab: &Lab<'_>) {
    let script = lab.place.path().join("out/studies/brisk/scripts/launch_all.sh");
    let mut command = Command::new("bash");
    command.arg(&script).env("SERVELAB_TEST_MARK", lab.place.mark());
    let out = command.envs(lab.park.env.iter().cloned()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn pbs_park(pbs: &FakePbs) -> Park {
    Park {
        env: vec![("PATH".to_owned(), pbs.search_path()), ("USER".to_owned(), "hpcuser".to_owned())],
        site: std::fs::read_to_string(super::repository().join("examples/sites/pbs-test.yaml")).unwrap(),
    }
}

#[test]
fn pbs_submitted_once_and_measured() {
    submitted_once_and_measured(&pbs_park(&FakePbs::new()));
}

#[test]
fn pbs_cancelled_and_taken_up_again() {
    cancelled_and_taken_up_again(&pbs_park(&FakePbs::new()));
}

#[test]
fn pbs_scripts_by_hand() {
    let pbs = FakePbs::new();
    scripts_by_hand(&pbs_park(&pbs), &launch_all);
    assert_eq!(pbs.n_jobs(), 4);
}

/// One script for every experiment, chosen by name, as PBS users write it; a value that contradicts the study is refused.
#[test]
fn pbs_one_runner_for_every_experiment() {
    let pbs = FakePbs::new();
    let park = pbs_park(&pbs);
    let lab = Lab::new(&park, &brisk(2, 1, 1));
    lab.run("submit --dry-run").expect(0);
    let scripts = lab.place.path().join("out/studies/brisk/scripts");
    let qsub = |variables: &str| {
        let mut command = Command::new("qsub");
        command.args(["-v", variables, "exp_runner.pbs"]).current_dir(&scripts);
        command.env("SERVELAB_TEST_MARK", lab.place.mark()).envs(park.env.iter().cloned());
        assert!(command.status().unwrap().success(), "{variables}");
    };
    let text = lab.place.read("out/studies/brisk/scripts/exp_runner.pbs");
    let name = text.lines().find_map(|line| line.split_once(") same ")).unwrap().0;
    qsub(&format!("EXP_NAME={name},ENFORCE_EAGER=no"));
    qsub(&format!("EXP_NAME={name},ENFORCE_EAGER=yes"));
    qsub("EXP_NAME=nothing");
    lab.until("the one job", |jobs| jobs.iter().any(|job| job == "finished"));
    let says = |number: u32| std::fs::read_to_string(pbs.job_dir(number).join("out")).unwrap_or_default();
    poll("what the others say", Deadline::in_s(PATIENCE_S), || {
        let are_told =
            says(1).contains("ENFORCE_EAGER=no in the study, not yes") && says(2).contains("there is no experiment");
        are_told.then_some(())
    });
    let measured = lab.place.states("out").values().filter(|(state, _)| state == "done" || state == "invalid").count();
    assert_eq!(measured, 1, "{}", lab.logs());
    lab.place.wait_until_quiet();
}

#[test]
fn pbs_what_it_says_is_shown() {
    let pbs = FakePbs::new();
    let park = pbs_park(&pbs);
    let lab = Lab::new(&park, &brisk(2, 1, 1));
    pbs.switch_on("refuse", "");
    lab.run("submit").expect(1).says("qsub refused the job").says("Unknown queue");
    assert_eq!(pbs.n_jobs(), 0);
    pbs.switch_off("refuse");
    pbs.switch_on("hold", "");
    lab.run("submit").expect(0);
    assert_eq!((lab.jobs(), pbs.n_jobs()), (vec!["pending".to_owned(); 2], 2));
    assert_eq!(lab.cells(), BTreeMap::from([("pending".to_owned(), 2)]));
    // A server that is down says nothing about jobs.
    pbs.switch_on("down", "");
    let out = lab.run("status --json").expect(0);
    out.says("warning: cannot ask qstat");
    assert_eq!(text(&out.json(), "jobs.0.state"), "pending");
    lab.run("submit").expect(0);
    assert_eq!(pbs.n_jobs(), 2);
    pbs.switch_off("down");
    pbs.switch_off("hold");
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(2);
    lab.place.wait_until_quiet();
}

/// Jobs wait in the queue while somebody measures their cells on this machine: the next submission takes them back.
#[test]
fn pbs_what_waits_for_nothing_is_taken_back() {
    let pbs = FakePbs::new();
    let park = pbs_park(&pbs);
    let lab = Lab::new(&park, &brisk(2, 1, 1));
    pbs.switch_on("hold", "");
    lab.run("submit").expect(0);
    assert_eq!(lab.jobs(), ["pending"; 2]);
    lab.run("run").expect(0);
    lab.all_measured_once(2);
    lab.run("submit").expect(0).says("nothing is left to do for 2 queued jobs").says("node-hours are free again");
    lab.until("the end of the jobs", |jobs| jobs == ["finished", "cancelled", "cancelled"]);
    pbs.switch_off("hold");
    lab.all_measured_once(2);
    assert_eq!((pbs.n_jobs(), number(&lab.status(), "node_hours.used")), (2, 0.0));
    lab.place.wait_until_quiet();
}

#[test]
fn pbs_a_submitter_that_is_killed_before_the_answer() {
    let pbs = FakePbs::new();
    let park = pbs_park(&pbs);
    let lab = Lab::new(&park, &brisk(2, 1, 1));
    pbs.switch_on("slow", "2");
    let submitter = lab.command("submit").spawn();
    poll("the first job", Deadline::in_s(PATIENCE_S), || (pbs.n_jobs() == 1).then_some(()));
    submitter.kill_9();
    pbs.switch_off("slow");
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(2);
    assert_eq!((pbs.n_jobs(), lab.jobs()), (2, vec!["finished".to_owned(); 2]), "the first one was found again");
    lab.place.wait_until_quiet();
}

#[test]
fn pbs_walltime_stops_in_order() {
    let pbs = FakePbs::new();
    let park = pbs_park(&pbs);
    let lab = Lab::new(&park, &format!("{}budget: {{walltime: \"00:00:40\"}}\n", endless()));
    lab.run("submit").expect(0);
    lab.until("the end of the time", |jobs| jobs == ["timeout"]);
    assert_eq!(lab.cells(), BTreeMap::from([("timeout".to_owned(), 1)]));
    let job = lab.place.list("out/jobs").remove(0);
    let exit = lab.place.json(&format!("out/jobs/{job}/exit.json"));
    assert_eq!((text(&exit, "state"), text(&exit, "detail.cause")), ("interrupted", "walltime"));
    lab.place.wait_until_quiet();
}

#[test]
fn pbs_what_can_never_run_is_told() {
    let pbs = FakePbs::new();
    let mut park = pbs_park(&pbs);
    park.site = park.site.replace("exclusive: false", "exclusive: true").replace("per_node: 8", "per_node: 16");
    let lab = Lab::new(&park, &brisk(1, 1, 1));
    lab.run("submit --wait").expect(1).says("can never run").says("Insufficient amount of resource");
    let status = lab.status();
    assert!(text(at(&status, "jobs.0"), "reason").starts_with("can never run: Can Never Run"), "{status}");
    lab.run("cancel").expect(0);
    lab.until("the end", |jobs| jobs == ["cancelled"]);
}

#[test]
fn a_site_without_a_scheduler_is_told_apart() {
    let place = place();
    place.write("study.yaml", &brisk(1, 1, 1));
    place.servelab("submit study.yaml").run().expect(2).says("has no scheduler").says("servelab run");
    place.write("site.yaml", "schema: 1\nsite: s\nscheduler: slurm\n");
    place.servelab("submit study.yaml --site site.yaml").run().expect(2).says("time limit");
    place.write("site.yaml", "schema: 1\nsite: s\nscheduler: slurm\nwalltime: \"01:00:00\"\npartition: \"a b\"\n");
    place.servelab("submit study.yaml --site site.yaml").run().expect(2).says("`partition`");
    assert_eq!(place.list("servelab-out").len(), 0, "nothing was written");
}
