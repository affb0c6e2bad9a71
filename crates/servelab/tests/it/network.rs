//! `servelab network-test` between two processes of this machine, by hand and as inside an allocation of two nodes (an
//! `srun` that runs everything here), and the gate that a study puts in front of its cells.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use servelab_testkit::{Place, Servelab, at, number, text};

use super::{example, place};

/// Two nodes, both of them this machine.
fn in_allocation<'a>(place: &Place, command: Servelab<'a>) -> Servelab<'a> {
    let srun = "#!/bin/sh\nwhile [ \"$1\" != -w ]; do shift; done\nshift 2\nexec \"$@\"\n";
    let path = place.write("bin/srun", srun);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}/bin:{}", place.path().display(), std::env::var("PATH").unwrap_or_default());
    command.env("PATH", &path).env("SLURM_JOB_NODELIST", "near,far").env("SLURM_JOB_ID", "7")
}

#[test]
fn by_hand() {
    let place = place();
    let mut far = place.servelab("network-test --serve 127.0.0.1:0").spawn();
    far.wait_for("network-test listens on ");
    let said = far.stderr();
    let address = said.trim().rsplit(' ').next().unwrap();
    let out = place.servelab(&format!("network-test --to {address} --seconds 0.1 --streams 2 --json")).run().expect(0);
    let document = out.json();
    let tcp = at(&document, "report.findings.0");
    assert_eq!((text(tcp, "transport"), at(tcp, "values_ok")), ("tcp", &Value::Bool(true)), "{document}");
    assert!(number(tcp, "gb_per_s") > 0.0 && number(tcp, "latency_us") > 0.0);
    let out =
        place.servelab(&format!("network-test --to {address} --seconds 0.1 --min-gb-per-s 100000")).run().expect(1);
    out.says("below 100000");
    assert!(out.stdout.contains("every byte as sent"), "{}", out.stdout);
    drop(far);
    place.servelab(&format!("network-test --to {address}")).run().expect(1).says("reach");
}

#[test]
fn one_node_has_no_network() {
    let place = place();
    place.servelab("network-test").run().expect(2).says("two ends").says("--serve");
    place.servelab("network-test --seconds 0").run().expect(2);
}

#[test]
fn inside_an_allocation() {
    let place = place();
    let command = in_allocation(&place, place.servelab("network-test --seconds 0.1"));
    let out = command.run().expect(0);
    assert!(out.stdout.starts_with("near to far\n") && out.stdout.contains("GB/s"), "{}", out.stdout);
    place.wait_until_quiet();
}

#[test]
fn a_gate_that_fails_blocks_the_cells() {
    let place = place();
    let run = |more: &[&str]| {
        let line = format!("run {} --engine sim --root out --only 1P-TP4+1D-TP4-spread", example("pd-gptoss"));
        let small = ["repeats.n=1", "load.closed.concurrency=[2]", "load.stop={requests: 4}", "engine.speedup=50"];
        let sets = small.iter().chain(more).flat_map(|set| ["--set", set]);
        in_allocation(&place, place.servelab(&line).args(sets))
    };
    let out = run(&["network.min_gb_per_s=100000"]).run().expect(1);
    out.says("network_gate").says("below 100000").says("near and far");
    let states: Vec<(String, Option<String>)> = place.states("out").into_values().collect();
    assert_eq!(states, [("failed".to_owned(), Some("network_gate".to_owned()))]);
    // A value that the study forbids needs no test.
    let out = run(&["network.forbid_env={A_TRANSPORT: [slow]}", "load.stop={requests: 5}"]);
    out.env("A_TRANSPORT", "fast,slow").run().expect(1).says("A_TRANSPORT=fast,slow is set");
    // No server was started for any of this.
    let jobs = place.list("out/jobs");
    assert!(jobs.iter().all(|job| place.list(&format!("out/jobs/{job}/server")).is_empty()), "{jobs:?}");
    place.wait_until_quiet();
}
