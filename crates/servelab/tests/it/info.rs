//! What the program says about itself: codes, completions, manual, help, version.

use std::collections::BTreeSet;

use servelab_testkit::{servelab_snapshot, text};

use super::place;

/// Every command that there is. A new one is a deliberate change here and in the contract.
const COMMANDS: [&str; 25] = [
    "init",
    "plan",
    "dataset",
    "run",
    "bench",
    "submit",
    "status",
    "cancel",
    "logs",
    "report",
    "best",
    "compare",
    "finding",
    "import",
    "predict",
    "calibrate",
    "sim",
    "router",
    "network-test",
    "trace",
    "doctor",
    "explain",
    "completions",
    "man",
    "schema",
];

#[test]
fn every_code_is_explained() {
    let place = place();
    let all = place.servelab("explain --json").run().expect(0).json();
    let codes: BTreeSet<&str> = all.as_array().unwrap().iter().map(|entry| text(entry, "code")).collect();
    for (code, _) in servelab_load::codes::ALL {
        assert!(codes.contains(code), "{code} can stand in a record and is not explained");
    }
    for verdict in servelab_core::verdict::VERDICTS {
        assert!(codes.contains(verdict.code), "{}", verdict.code);
    }
    for code in codes {
        let out = place.servelab("explain").args([code]).run().expect(0);
        assert!(out.stdout.starts_with(code) && out.stdout.contains("What to do: "), "{}", out.stdout);
        assert_eq!(text(&place.servelab("explain --json").args([code]).run().expect(0).json(), "code"), code);
    }
}

#[test]
fn an_unknown_code_gets_a_suggestion() {
    let place = place();
    servelab_snapshot!("an_unknown_code", place.servelab("explain saturatd").run().expect(2));
    servelab_snapshot!("a_code", place.servelab("explain zero_token_successes").run().expect(0));
}

#[test]
fn completions_for_the_usual_shells() {
    let place = place();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.servelab("completions").args([shell]).run().expect(0).stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    // A shell that is here must be able to read its script.
    let script = place.write("completions.bash", &place.servelab("completions bash").run().expect(0).stdout);
    let check = std::process::Command::new("bash").arg("-n").arg(&script).status();
    assert!(check.map_or(true, |status| status.success()), "bash cannot read it");
    place.servelab("completions tcsh").run().expect(2);
}

#[test]
fn manual_pages() {
    let place = place();
    assert!(place.servelab("man").run().expect(0).stdout.contains(".TH servelab 1"));
    for command in COMMANDS {
        let page = place.servelab("man").args([command]).run().expect(0).stdout;
        assert!(page.contains(".TH") && page.contains(command), "{command}");
    }
    place.servelab("man nothing").run().expect(2).says("known: ");
}

#[test]
fn help_lists_the_commands_that_exist_and_no_other() {
    let place = place();
    let help = place.servelab("--help").run().expect(0).stdout;
    let section = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let mut listed: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    listed.sort_unstable();
    let mut expected = COMMANDS.to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    for command in COMMANDS {
        let text = place.servelab(command).args(["--help"]).run().expect(0).stdout;
        assert!(text.contains("Usage: servelab") && text.lines().count() > 3, "{command}");
    }
    place.servelab("").run().expect(2).says("Usage:");
}

#[test]
fn version() {
    let place = place();
    let version = format!("servelab {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(place.servelab("--version").run().expect(0).stdout, version);
}
