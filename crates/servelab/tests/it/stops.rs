//! Runs that are ended from outside: signals, kill -9, a full disk, a second starter. Whatever happens, nothing finished
//! is lost, nothing is measured twice, and no process stays behind.

use std::collections::BTreeMap;
use std::process::Command;

use servelab_testkit::{Deadline, Place, Signal, TINY, at, brisk, marked_processes, parse, poll, text};

use super::place;

/// Number of finished attempts per cell.
fn finished_attempts(place: &Place) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for cell in place.list("out/cells") {
        let attempts = place.attempts("out", &cell).into_iter().filter(|attempt| {
            let path = format!("out/cells/{cell}/{attempt}/state.json");
            let state = place.path().join(&path).is_file().then(|| place.json(&path));
            state.is_some_and(|state| ["done", "invalid"].contains(&text(&state, "state")))
        });
        out.insert(cell.clone(), attempts.count());
    }
    out
}

fn planned(place: &Place) -> Vec<String> {
    let plan = place.servelab("plan study.yaml --json").run().expect(0).json();
    let mut cells: Vec<String> =
        at(&plan, "cells").as_array().unwrap().iter().map(|cell| text(cell, "id").to_owned()).collect();
    cells.sort();
    cells
}

#[track_caller]
fn each_cell_once(place: &Place) {
    let attempts = finished_attempts(place);
    assert_eq!(attempts.keys().cloned().collect::<Vec<_>>(), planned(place), "the planned cells and no other");
    assert!(attempts.values().all(|n| *n == 1), "measured twice or never: {attempts:?}");
}

#[test]
fn signals_end_a_run_in_order_and_it_goes_on_later() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = place();
        place.write("study.yaml", &brisk(3, 2, 1));
        let mut run = place.servelab("run study.yaml --root out").spawn();
        run.wait_for("[1/6]");
        assert!(marked_processes(place.mark()).len() > 1, "its server runs");
        run.signal(signal);
        let out = run.wait();
        assert_eq!(out.code, Some(1), "{}", out.stderr);
        out.says("nothing finished is lost").says("run study.yaml --root out");
        place.wait_until_quiet();
        let before = finished_attempts(&place).values().sum::<usize>();
        assert!((1..6).contains(&before), "{before} were finished");
        // The printed command, word for word.
        let resume = out.stderr.lines().find_map(|line| line.split("Go on with: servelab ").nth(1)).unwrap();
        place.servelab(resume).run().expect(0).says(&format!("{before} finished earlier"));
        each_cell_once(&place);
    }
}

#[test]
fn an_impatient_second_signal_ends_it_too() {
    let place = place();
    place.write("study.yaml", &TINY.replace("duration_s: 0.8", "duration_s: 60"));
    let mut run = place.servelab("run study.yaml --root out").spawn();
    run.wait_for("ready after");
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    let out = run.wait();
    assert_eq!(out.code, Some(1), "{}", out.stderr);
    assert!(out.elapsed.as_secs() < 20, "{:?}", out.elapsed);
    place.wait_until_quiet();
}

#[test]
fn a_second_starter_says_who_holds_the_cells() {
    let place = place();
    place.write("study.yaml", &TINY.replace("duration_s: 0.8", "duration_s: 60"));
    let mut first = place.servelab("run study.yaml --root out --only seqs_4").spawn();
    first.wait_for("ready after");
    let second = place.servelab("run study.yaml --root out --only seqs_4").run().expect(0);
    second.says(&format!("process {}", first.pid()));
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(1));
    place.wait_until_quiet();
}

/// Twenty moments, drawn from a fixed seed and spread over the whole run; each kill is followed by a resumed run that is
/// killed at the next moment, and whenever the study is over a new one begins.
#[test]
fn kill_9_at_twenty_moments() {
    const KILLS: usize = 20;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut kills = 0;
    while kills < KILLS {
        let place = place();
        place.write("study.yaml", &brisk(2, 3, 2));
        let before_anything = finished_attempts(&place);
        assert!(before_anything.is_empty());
        let mut kept = 0;
        loop {
            let mut run = place.servelab("run study.yaml --root out").spawn();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let moment = Deadline::in_ms(20 + (random >> 33) % 1400);
            let is_over = poll("the moment or the end", Deadline::in_s(60), || {
                let is_due = kills < KILLS && moment.has_passed();
                if run.has_ended() { Some(true) } else { is_due.then_some(false) }
            });
            if is_over {
                run.wait().expect(0).says("to measure, ");
                break;
            }
            run.kill_9();
            kills += 1;
            let now = finished_attempts(&place).values().sum::<usize>();
            assert!(now >= kept, "{kept} were finished before the kill, {now} after");
            kept = now;
        }
        each_cell_once(&place);
        place.wait_until_quiet();
        // Every record that counts can be read.
        for cell in place.list("out/cells") {
            for attempt in place.attempts("out", &cell) {
                parse(&place.read(&format!("out/cells/{cell}/{attempt}/state.json")));
            }
        }
        place.servelab("run study.yaml --root out").run().expect(0).says("nothing left to do");
    }
}

/// A disk of a few hundred kilobytes, in a mount namespace of its own. Needs root.
#[test]
fn a_full_disk_loses_nothing_that_is_finished() {
    let place = place();
    place.write("study.yaml", &brisk(3, 2, 1));
    std::fs::create_dir(place.path().join("disk")).unwrap();
    let program = env!("CARGO_BIN_EXE_servelab");
    let script = format!(
        "mount -t tmpfs -o size=300k none disk || exit 99
{program} run study.yaml --root disk/out > first.txt 2>&1; echo $? > first.code
cp -r disk/out kept
mount -o remount,size=64m disk
{program} run study.yaml --root disk/out > second.txt 2>&1; echo $? > second.code
cp -r disk/out out"
    );
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(place.path())
        .env("HOME", place.path())
        .output();
    match status {
        Ok(output) if output.status.code() != Some(99) && place.path().join("first.code").exists() => {}
        _ => {
            println!("left out: no private mount namespace here, so there is no small disk to fill");
            return;
        }
    }
    let first = place.read("first.txt");
    assert_eq!(place.read("first.code").trim(), "1", "{first}");
    assert!(first.to_lowercase().contains("no space left on") || first.contains("disk_full"), "{first}");
    assert!(first.contains("nothing finished is lost") || first.contains("disk_full"), "{first}");
    let second = place.read("second.txt");
    assert_eq!(place.read("second.code").trim(), "0", "{second}");
    each_cell_once(&place);
    // What was finished on the full disk is what it was.
    for cell in place.list("kept/cells") {
        for attempt in place.list(&format!("kept/cells/{cell}")) {
            let path = format!("cells/{cell}/{attempt}/result.json");
            if place.path().join("kept").join(&path).is_file() {
                assert_eq!(place.read(&format!("kept/{path}")), place.read(&format!("out/{path}")));
            }
        }
    }
}
