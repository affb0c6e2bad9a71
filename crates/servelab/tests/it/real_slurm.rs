//! Jobs through a real Slurm (`scripts/slurm/start-slurm.sh`: two nodes on this machine, eight fake GPUs each): the suite
//! of `cluster`, and faults that only a real scheduler has. Left out, and said so, unless it is asked for.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use servelab_testkit::{Deadline, Signal, at, brisk, marked_processes, one_cell, poll, send, text};

use super::cluster::{self, Lab, PATIENCE_S, Park};
use super::repository;

/// A cell of eight seconds: long enough to be met in the middle.
fn long_cell() -> String {
    one_cell("long", 8)
}

/// Faults of the park are everybody's: such a test has it alone, the others share it.
enum InThePark {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

struct Slurm {
    park: Park,
    state: PathBuf,
    _place: InThePark,
}

impl Slurm {
    /// `None` when this test was not asked for; asked for and not there is a failure.
    fn wanted() -> Option<Self> {
        Self::take(|park| InThePark::Shared { _guard: park.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// For a test that breaks something of the park itself.
    fn alone() -> Option<Self> {
        Self::take(|park| InThePark::Alone { _guard: park.write().unwrap_or_else(PoisonError::into_inner) })
    }

    fn take(enter: fn(&'static RwLock<()>) -> InThePark) -> Option<Self> {
        static PARK: RwLock<()> = RwLock::new(());
        let wanted = std::env::var("SERVELAB_REAL").unwrap_or_default();
        if !wanted.split(',').any(|part| part.trim() == "slurm") {
            // Past libtest's capture: that something was left out must be seen when everything passes.
            let _ = std::io::stderr().write_all(
                b"left out: real_slurm, which needs a Slurm (Debian: slurmctld slurmd slurm-client \
                  slurm-wlm-basic-plugins munge). Run it with\n  \
                  scripts/slurm/start-slurm.sh DIR\n  \
                  SERVELAB_REAL=slurm SERVELAB_SLURM_DIR=DIR cargo test -p servelab --test it real_slurm -- --nocapture \
                  --test-threads=4\n",
            );
            return None;
        }
        let place = enter(&PARK);
        let state = std::env::var("SERVELAB_SLURM_DIR");
        let state = PathBuf::from(state.unwrap_or_else(|_| panic!("SERVELAB_REAL=slurm needs SERVELAB_SLURM_DIR")));
        let conf = state.join("etc/slurm.conf");
        assert!(conf.is_file(), "there is no {}", conf.display());
        let site = std::fs::read_to_string(repository().join("examples/sites/slurm-test.yaml")).unwrap();
        let env = vec![("SLURM_CONF".to_owned(), conf.to_string_lossy().into_owned())];
        Some(Self { park: Park { env, site }, state, _place: place })
    }

    /// Runs one of Slurm's clients.
    #[track_caller]
    fn call(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let out = command.args(words).envs(self.park.env.iter().cloned()).output().unwrap();
        assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Submits the study and waits until its first cell is measured; returns the job's id.
    fn in_the_middle(&self, lab: &Lab<'_>) -> String {
        let out = lab.run("submit --json").expect(0).json();
        measuring(lab);
        text(&out, "jobs.0.scheduler_id").to_owned()
    }
}

fn measuring(lab: &Lab<'_>) {
    poll("a cell that is measured", Deadline::in_s(PATIENCE_S), || {
        lab.place.states("out").values().any(|(state, _)| state == "measuring").then_some(())
    });
}

#[test]
fn submitted_once_and_measured() {
    let Some(slurm) = Slurm::wanted() else { return };
    cluster::submitted_once_and_measured(&slurm.park);
}

#[test]
fn cancelled_and_taken_up_again() {
    let Some(slurm) = Slurm::wanted() else { return };
    cluster::cancelled_and_taken_up_again(&slurm.park);
}

#[test]
fn scripts_by_hand() {
    let Some(slurm) = Slurm::wanted() else { return };
    cluster::scripts_by_hand(&slurm.park, &cluster::launch_all);
}

/// The example as its comment says.
#[test]
fn the_quickstart_example() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &std::fs::read_to_string(super::example("quickstart")).unwrap());
    lab.run("submit --wait --max-requests 12").expect(0);
    lab.all_measured_once(12);
    assert_eq!(lab.jobs(), ["finished"; 4]);
    lab.place.wait_until_quiet();
}

#[test]
fn an_array_of_one_script_measures_once() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    lab.run("submit --dry-run").expect(0);
    let script = lab.place.path().join("out/studies/long/scripts/run_seqs_4_head.sbatch");
    slurm.call(&format!("sbatch --array=0-2 {}", script.display()));
    lab.until("the jobs' end", |jobs| jobs == ["finished"]);
    lab.all_measured_once(1);
    let id = text(at(&lab.status(), "jobs.0"), "scheduler_id").to_owned();
    assert!(id.contains('_'), "{id}");
    lab.place.wait_until_quiet();
}

/// Six jobs that ask for the same: one submission, one log and one record for each.
#[test]
fn equal_jobs_in_one_array() {
    let Some(slurm) = Slurm::wanted() else { return };
    let park = Park { env: slurm.park.env.clone(), site: format!("{}arrays: true\n", slurm.park.site) };
    let lab = Lab::new(&park, &brisk(3, 1, 2));
    let out = lab.run("submit --json").expect(0).json();
    let ids: Vec<&str> = at(&out, "jobs").as_array().unwrap().iter().map(|job| text(job, "scheduler_id")).collect();
    let array = ids[0].split_once('_').unwrap().0;
    let expected: Vec<String> = (0..6).map(|index| format!("{array}_{index}")).collect();
    assert_eq!(ids, expected);
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(6);
    assert_eq!(lab.jobs(), ["finished"; 6]);
    let logs = lab.place.list("out/logs");
    assert!(logs.len() == 6 && logs.iter().all(|name| name.contains(&format!("_{array}_"))), "{logs:?}");
    lab.place.wait_until_quiet();
}

#[test]
fn cancelled_by_somebody_else() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    let id = slurm.in_the_middle(&lab);
    slurm.call(&format!("scancel {id}"));
    lab.until("the end of the job", |jobs| jobs == ["cancelled"]);
    assert_eq!(lab.cells(), BTreeMap::from([("cancelled".to_owned(), 1)]), "{}", lab.logs());
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(1);
}

#[test]
fn a_run_that_is_killed_inside_its_job() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    slurm.in_the_middle(&lab);
    let job = lab.place.list("out/jobs").remove(0);
    let run = lab.place.json(&format!("out/jobs/{job}/run.json"));
    assert!(send(i32::try_from(at(&run, "pid").as_i64().unwrap()).unwrap(), Signal::KILL));
    lab.until("the end of the job", |jobs| jobs == ["failed"]);
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(1);
    assert_eq!(lab.jobs(), ["failed", "finished"]);
    lab.place.wait_until_quiet();
}

#[test]
fn a_node_that_fails() {
    let Some(slurm) = Slurm::alone() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    let id = slurm.in_the_middle(&lab);
    let node = slurm.call(&format!("squeue -h -j {id} -o %N"));
    slurm.call(&format!("scontrol update NodeName={node} State=DOWN Reason=test"));
    lab.until("the end of the job", |jobs| jobs == ["node_failed"]);
    // Its daemon may have brought it back by itself: then there is nothing to resume.
    let resume = format!("scontrol update NodeName={node} State=RESUME 2>/dev/null; true");
    Command::new("sh").args(["-c", &resume]).envs(slurm.park.env.iter().cloned()).status().unwrap();
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(1);
    assert_eq!(lab.jobs(), ["node_failed", "finished"]);
    let script = lab.place.read("out/studies/long/scripts/run_seqs_4_head.sbatch");
    assert!(script.contains(&format!("#SBATCH --exclude={node}")), "{script}");
    lab.place.wait_until_quiet();
}

fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Somebody with a higher priority takes the nodes away.
#[test]
fn a_job_that_is_preempted() {
    let Some(slurm) = Slurm::alone() else { return };
    assert!(slurm.call("sinfo -h -o %P").contains("urgent"), "this Slurm was started by an older script");
    let lab = Lab::new(&slurm.park, &long_cell());
    slurm.in_the_middle(&lab);
    let urgent = slurm.call("sbatch --parsable -p urgent -N2 --exclusive --output=/dev/null --wrap true");
    lab.until("the end of the job", |jobs| jobs == ["preempted"]);
    assert_eq!(lab.cells(), BTreeMap::from([("cancelled".to_owned(), 1)]), "{}", lab.logs());
    poll("the end of the other job", Deadline::in_s(PATIENCE_S), || {
        (slurm.call(&format!("squeue -h -t all -j {urgent} -o %T")) == "COMPLETED").then_some(())
    });
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(1);
    assert_eq!(lab.jobs(), ["preempted", "finished"]);
    lab.place.wait_until_quiet();
}

#[test]
fn a_drained_node_is_passed_over() {
    let Some(slurm) = Slurm::alone() else { return };
    slurm.call("scontrol update NodeName=node1 State=DRAIN Reason=test");
    let lab = Lab::new(&slurm.park, &brisk(1, 1, 1));
    let mut words = lab.place.servelab("doctor --site site.yaml");
    for (name, value) in &slurm.park.env {
        words = words.env(name, value);
    }
    let doctor = words.run();
    let out = lab.run("submit --wait");
    slurm.call("scontrol update NodeName=node1 State=RESUME");
    out.expect(0);
    lab.all_measured_once(1);
    assert!(doctor.stdout.contains("node1 (drained, test)"), "{}", doctor.stdout);
    let host = lab
        .place
        .list("out/jobs")
        .iter()
        .map(|job| lab.place.read(&format!("out/jobs/{job}/scheduler.jsonl")))
        .collect::<String>();
    assert!(host.contains("\"host\":\"node2\""), "{host}");
    lab.place.wait_until_quiet();
}

#[test]
fn a_job_that_is_requeued() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    let id = slurm.in_the_middle(&lab);
    // Ours asks not to be; an operator can.
    slurm.call(&format!("scontrol update JobId={id} Requeue=1"));
    slurm.call(&format!("scontrol requeue {id}"));
    poll("the job in the queue", Deadline::in_s(PATIENCE_S), || {
        (slurm.call(&format!("squeue -h -j {id} -o %T")) == "PENDING").then_some(())
    });
    lab.place.wait_until_quiet();
    // It will go on by itself: nothing else is submitted for its cells.
    lab.until("the job in the queue", |jobs| jobs == ["pending"]);
    let again = lab.run("submit --json").expect(0).json();
    assert_eq!(at(&again, "jobs").as_array().unwrap().len(), 0, "{again}");
    // It would wait two minutes. A node takes no credential of a job that is as old as its end, in whole seconds
    // (`Job credential revoked`): the next start belongs to a later second.
    let requeued_s = unix_s();
    poll("the next second", Deadline::in_s(10), || (unix_s() > requeued_s + 1).then_some(()));
    slurm.call(&format!("scontrol update JobId={id} StartTime=now"));
    lab.until("the end of the job", |jobs| jobs == ["finished"]);
    lab.all_measured_once(1);
    lab.place.wait_until_quiet();
}

#[test]
fn the_time_limit() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &format!("{}budget: {{walltime: \"00:01:00\"}}\n", cluster::endless()));
    lab.run("submit").expect(0);
    lab.until("the end of the time", |jobs| jobs == ["timeout"]);
    assert_eq!(lab.cells(), BTreeMap::from([("timeout".to_owned(), 1)]), "{}", lab.logs());
    let dry = lab.run("submit --dry-run --json").expect(0).json();
    assert_eq!(at(&dry, "jobs").as_array().unwrap().len(), 1, "the rest is taken up by the next job");
    lab.place.wait_until_quiet();
}

#[test]
fn a_dependency_that_fails_and_a_request_that_is_too_large() {
    let Some(slurm) = Slurm::wanted() else { return };
    let parent = slurm.call("sbatch --parsable --hold -n1 --output=/dev/null --wrap false");
    let park = Park {
        env: slurm.park.env.clone(),
        site: format!("{}extra_directives: [\"--dependency=afterok:{parent}\"]\n", slurm.park.site),
    };
    let lab = Lab::new(&park, &long_cell());
    lab.run("submit").expect(0);
    let status = lab.status();
    assert_eq!((text(&status, "jobs.0.state"), text(&status, "jobs.0.reason")), ("pending", "Dependency"));
    slurm.call(&format!("scontrol release {parent}"));
    lab.run("submit --wait").expect(1).says("can never run").says("DependencyNeverSatisfied");
    lab.run("cancel").expect(0);
    lab.until("the end", |jobs| jobs == ["cancelled"]);

    let park = Park {
        env: slurm.park.env.clone(),
        site: slurm.park.site.replace("partition: gpu", "partition: debug").replace("00:10:00", "01:00:00"),
    };
    let lab = Lab::new(&park, &long_cell());
    lab.run("submit --wait").expect(1).says("can never run").says("PartitionTimeLimit");
    lab.run("cancel").expect(0);
    let park =
        Park { env: slurm.park.env.clone(), site: slurm.park.site.replace("partition: gpu", "partition: nowhere") };
    Lab::new(&park, &long_cell()).run("submit").expect(1).says("sbatch refused the job").says("invalid partition");
}

#[test]
fn the_controller_is_restarted() {
    let Some(slurm) = Slurm::alone() else { return };
    let lab = Lab::new(&slurm.park, &long_cell());
    slurm.in_the_middle(&lab);
    let pid_file = slurm.state.join("run/slurmctld.pid");
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    send(pid, Signal::TERM);
    let is_gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    poll("the controller's end", Deadline::in_s(60), || is_gone().then_some(()));
    let out = lab.run("status --json").expect(0);
    assert!(matches!(text(&out.json(), "jobs.0.state"), "running" | "finished"), "{}", out.stdout);
    slurm.call("slurmctld");
    lab.until("the end of the job", |jobs| jobs == ["finished"]);
    lab.all_measured_once(1);
    lab.place.wait_until_quiet();
}

#[test]
fn a_submitter_that_is_killed_before_the_answer() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, &brisk(2, 1, 1));
    // An sbatch that submits, and is slow to say so.
    let real =
        String::from_utf8(Command::new("sh").args(["-c", "command -v sbatch"]).output().unwrap().stdout).unwrap();
    let slow = lab
        .place
        .write("slow/sbatch", &format!("#!/bin/sh\n{} \"$@\" > out/id && sleep 3 && cat out/id\n", real.trim()));
    let mut mode = std::fs::metadata(&slow).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&slow, mode).unwrap();
    let path = format!("{}:{}", slow.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let submitter = lab.command("submit").env("PATH", &path).spawn();
    let id = lab.place.path().join("out/id");
    poll("the first submission", Deadline::in_s(PATIENCE_S), || {
        std::fs::read_to_string(&id).is_ok_and(|id| !id.trim().is_empty()).then_some(())
    });
    submitter.kill_9();
    let taken = std::fs::read_to_string(&id).unwrap();
    lab.run("submit --wait").expect(0);
    lab.all_measured_once(2);
    let status = lab.status();
    let ids: Vec<&str> = at(&status, "jobs").as_array().unwrap().iter().map(|job| text(job, "scheduler_id")).collect();
    assert!(ids.len() == 2 && ids.contains(&taken.trim()), "{ids:?}, {taken}");
    lab.place.wait_until_quiet();
}

/// A server of two ranks on two nodes.
const TWO_NODES: &str = "\
schema: 1
study: wide
engine: {kind: sim, version: \"0.32.*\"}
model: {id: meta-llama/Llama-3.1-70B}
deploy: {nodes: 2, gpus_per_node: 8, tp: 8, pp: 2, launch: mp}
serve: {max_model_len: 4096, max_num_batched_tokens: 2048}
workloads:
  chat: {dataset: {synth: {input_tokens: 64, output_tokens: 16, seed: 7}}}
load: {closed: {concurrency: [2]}, warmup: {requests: 2}, stop: {duration_s: 8}}
designs:
  batch: {grid: {max_num_seqs: [16]}, label: \"seqs_{max_num_seqs}\"}
";

#[test]
fn a_server_on_two_nodes() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, TWO_NODES);
    let id = slurm.in_the_middle(&lab);
    assert_eq!(slurm.call(&format!("squeue -h -j {id} -o %D")), "2");
    let cell = lab.place.list("out/cells").remove(0);
    let logs = format!("out/cells/{cell}/attempt-1/server");
    assert_eq!(lab.place.list(&logs), ["serve-0.log", "serve-1.log"]);
    assert!(lab.place.read(&format!("{logs}/serve-0.log")).contains("rank 1 joined from"));
    assert!(lab.place.read(&format!("{logs}/serve-1.log")).contains("headless"));
    lab.until("the end of the job", |jobs| jobs == ["finished"]);
    lab.all_measured_once(1);
    lab.place.wait_until_quiet();
}

/// An engine's folder with stand-ins for `vllm`, `ray` and `python3`: what the product says to them, and when, is what counts.
fn ray_engine(lab: &Lab<'_>) -> PathBuf {
    let servelab = env!("CARGO_BIN_EXE_servelab");
    let words = "for word; do case $word in --node-ip-address=*) ip=${word#*=};; --num-gpus=*) gpus=${word#*=};; \
                 --port=*) port=${word#*=};; esac; done\n";
    let joined = "joined=$(dirname \"$0\")/joined\nmkdir -p \"$joined\"\n";
    let programs = [
        (
            "ray",
            // The head must listen where workers look for it.
            format!(
                "{words}{joined}[ ! -e \"$(dirname \"$0\")/lost-$(hostname)\" ] || exec sleep 600\n\
                 echo \"{{\\\"ip\\\": \\\"$ip\\\", \\\"name\\\": \\\"$(hostname)\\\", \\\"gpus\\\": $gpus}}\" >\"$joined/$SLURMD_NODENAME\"\n\
                 [ -z \"$port\" ] || exec {servelab} sim --model head --gpu H100-SXM5-80GB --listen \"$ip:$port\"\n\
                 exec sleep 600\n"
            ),
        ),
        (
            "python3",
            format!(
                "{joined}while sleep 0.3; do echo \"{{\\\"nodes\\\": [$(cat \"$joined\"/* 2>/dev/null | paste -sd, -)]}}\"; done\n"
            ),
        ),
        (
            "vllm",
            format!(
                "shift; model=$1; shift\nwhile [ $# -gt 0 ]; do case $1 in --host) shift;; --port) port=$2; shift;; \
                 *) rest=\"$rest $1\";; esac; shift; done\necho \"cluster $RAY_ADDRESS\"\n\
                 exec {servelab} sim --model \"$model\" --gpu H100-SXM5-80GB --listen 127.0.0.1:$port $rest\n"
            ),
        ),
    ];
    for (name, script) in programs {
        let path = lab.place.write(&format!("engine/{name}"), &format!("#!/bin/sh\n{script}"));
        let mut mode = std::fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    lab.place.path().join("engine")
}

#[test]
fn a_server_on_two_nodes_by_ray() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, "");
    let engine = ray_engine(&lab);
    let study = TWO_NODES
        .replace("launch: mp", "launch: ray")
        .replace("kind: sim", &format!("kind: vllm, start_timeout_s: 120, bin: {}/vllm", engine.display()));
    lab.place.write("study.yaml", &study);
    // First with a node whose worker never joins: it is named. Which of the two is first is Slurm's to say.
    let nodes = ["node1", "node2"].map(|node| lab.place.write(&format!("engine/lost-{node}"), ""));
    let has_own_names = slurm.call("srun -N1 -w node2 hostname") == "node2";
    if has_own_names {
        std::fs::remove_file(&nodes[0]).unwrap();
        lab.run("submit --set engine.start_timeout_s=24").expect(0);
        lab.until("the end of the job", |jobs| jobs == ["finished"]);
        let status = lab.status();
        let line = text(&status, "failures.0.line");
        assert!(text(&status, "failures.0.code") == "ray_cluster" && line.contains("missing: node2"), "{status}");
        lab.place.wait_until_quiet();
    }
    for node in nodes {
        let _ = std::fs::remove_file(node);
    }
    let _ = std::fs::remove_dir_all(engine.join("joined"));
    lab.run("submit --wait --retry ray_cluster").expect(0);
    let cell = lab.place.list("out/cells").into_iter().last().unwrap();
    let attempt = lab.place.attempts("out", &cell).pop().unwrap();
    let log = lab.place.read(&format!("out/cells/{cell}/{attempt}/server/serve-0.log"));
    if has_own_names {
        assert!(log.contains("Ray: 2 of 2 nodes and 16 of 16 GPUs have joined"), "{log}");
    }
    assert!(log.contains("cluster ") && !log.contains("cluster \n"), "{log}");
    lab.place.wait_until_quiet();
}

#[test]
fn a_rank_that_dies_takes_its_server_along() {
    let Some(slurm) = Slurm::wanted() else { return };
    let lab = Lab::new(&slurm.park, TWO_NODES);
    slurm.in_the_middle(&lab);
    let rank = marked_processes(lab.place.mark()).into_iter().find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&b"sim".as_slice()) && words.contains(&b"--headless".as_slice())
    });
    assert!(send(rank.unwrap(), Signal::KILL));
    lab.until("the end of the job", |jobs| jobs == ["finished"]);
    let states = lab.place.states("out");
    assert!(
        states.values().all(|(state, code)| state == "failed" && code.as_deref() == Some("server_exited")),
        "{states:?}"
    );
    lab.place.wait_until_quiet();
}
