//! `servelab finding`: begun with numbers from the data, checked against them, flagged when they no longer stand.

use servelab_testkit::{TINY, at, text};

use super::place;

#[test]
fn a_finding_is_begun_written_checked_and_flagged() {
    let place = place();
    place.write("study.yaml", &format!("{TINY}repeats: {{n: 2}}\n"));
    place.servelab("finding new study.yaml batching --root out").run().expect(1).says("servelab run study.yaml");
    place.servelab("run study.yaml --root out").run().expect(0);
    let finding = |words: &str| place.servelab(&format!("finding {words} --root out")).run();
    finding("check study.yaml").expect(2).says("finding new");
    let out = finding("new study.yaml batching --question Why? --point seqs_64 --versus seqs_4").expect(0);
    assert_eq!(out.stdout.trim(), "findings/batching.md");
    let begun = place.read("findings/batching.md");
    assert!(
        begun.contains("versus: seqs_4") && begun.contains("## Implications") && begun.contains("closed 2"),
        "{begun}"
    );
    finding("new study.yaml batching").expect(2).says("exists already");
    finding("new study.yaml ../batching").expect(2).says("file name");
    finding("new study.yaml other --point seqs_65").expect(2).says("did you mean `seqs_64`?");
    let list = finding("list study.yaml").expect(0).stdout;
    assert!(list.contains("Why?") && list.contains("not finished"), "{list}");
    let unfinished = finding("check study.yaml").expect(1).stdout;
    assert!(unfinished.contains("is not written yet"), "{unfinished}");

    // What a person writes; whether two equal servers differ is not this test's business.
    let written: String = begun
        .lines()
        .filter(|line| !line.contains("versus: "))
        .map(|line| format!("{}\n", line.replace("TODO:", "")))
        .collect();
    place.write("findings/batching.md", &written);
    let good = finding("check study.yaml --json").expect(0).json();
    let numbers = at(&good, "numbers").as_array().unwrap().clone();
    assert!(numbers.len() >= 4 && numbers.iter().all(|number| text(number, "status") == "holds"), "{good}");

    let line = written.lines().find(|line| line.contains("= throughput_tokens_per_sec")).unwrap();
    place.write("findings/batching.md", &written.replace(line, &line.replacen("(tok/s): ", "(tok/s): 9", 1)));
    let changed = finding("check study.yaml").expect(1).stdout;
    assert!(changed.contains("changed") && changed.contains("findings/batching.md:"), "{changed}");
    place.write("findings/batching.md", &written.replace("point: seqs_64", "point: seqs_1"));
    let gone = finding("check study.yaml findings/batching.md").expect(1).stdout;
    assert!(gone.contains("there is no point `seqs_1`"), "{gone}");
}
