//! `servelab dataset`: sets with true lengths, the same bytes for the same seed, and the lints that the older sets of
//! document 001 needed.

use servelab_testkit::{Place, at, number, parse, text};

use super::place;

fn stats(place: &Place, file: &str) -> serde_json::Value {
    place.servelab("dataset stats --json").args([file]).run().expect(0).json()
}

#[test]
fn the_suite_has_five_sets_that_deserve_their_names() {
    let place = place();
    let said = place.servelab("dataset create --suite --out sets --json").run().expect(0).json();
    let sizes: Vec<(&str, f64)> =
        said.as_array().unwrap().iter().map(|set| (text(set, "name"), number(set, "n"))).collect();
    let expected = [
        ("quick_test", 100.0),
        ("medium_balanced", 500.0),
        ("large_throughput", 1000.0),
        ("short_latency", 500.0),
        ("long_context", 300.0),
    ];
    assert_eq!(sizes, expected);
    let longest = |name: &str| number(&stats(&place, &format!("sets/{name}.jsonl")), "output_tokens.max");
    assert!(longest("quick_test") <= 256.0 && longest("long_context") <= 1024.0);
    let mean = |name: &str| number(&stats(&place, &format!("sets/{name}.jsonl")), "input_tokens.mean");
    assert!(mean("long_context") > 2000.0, "a long set has long prompts");
    assert!(mean("short_latency") < mean("medium_balanced"));
    // The older form, for the older tools.
    let first = place.read("sets/quick_test.jsonl").lines().next().unwrap().to_owned();
    let first = parse(&first);
    for key in ["prompt", "prompt_length", "expected_output_length", "metadata.category", "metadata.template_type"] {
        at(&first, key);
    }
}

#[test]
fn lengths_are_exact_on_request() {
    let place = place();
    let options = "dataset create --name six --prompts 3 --input-tokens 6000 --output-tokens 8000 --out sets";
    place.servelab(options).run().expect(0);
    let stats = stats(&place, "sets/six.jsonl");
    for (path, tokens) in [("input_tokens", 6000.0), ("output_tokens", 8000.0)] {
        assert_eq!(number(&stats, &format!("{path}.min")), tokens);
        assert_eq!(number(&stats, &format!("{path}.max")), tokens);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let place = place();
    for (out, seed) in [("a", 5), ("b", 5), ("c", 6)] {
        place
            .servelab(&format!(
                "dataset create --name set --prompts 20 --mix short=.5,medium=.5 --max-output 128 --seed {seed} --out {out}"
            ))
            .run()
            .expect(0);
    }
    assert_eq!(place.read("a/set.jsonl"), place.read("b/set.jsonl"));
    assert_ne!(place.read("a/set.jsonl"), place.read("c/set.jsonl"));
}

fn lint_text(stats: &serde_json::Value) -> String {
    at(stats, "lints").to_string()
}

#[test]
fn lints_name_what_confounds_a_measurement() {
    let place = place();
    let row = |prompt: &str, category: &str| {
        format!(
            "{{\"prompt\":\"{prompt}\",\"prompt_length\":9000,\"expected_output_length\":100,\"metadata\":{{\"category\":\"{category}\"}}}}\n"
        )
    };
    let short: String = (0..20).map(|i| row(&format!("{i} tell me about question number {i}"), "long")).collect();
    place.write("long.jsonl", &short);
    assert!(lint_text(&stats(&place, "long.jsonl")).contains("long"), "{}", stats(&place, "long.jsonl"));
    place.write("twice.jsonl", &row("the very same words, over and over", "short").repeat(20));
    assert!(lint_text(&stats(&place, "twice.jsonl")).contains("duplicate"), "{}", stats(&place, "twice.jsonl"));
    let opening = "All prompts of this set begin with the very same, rather long, padded instruction. ".repeat(12);
    let shared: String = (0..20).map(|i| row(&format!("{opening} And then comes number {i}."), "medium")).collect();
    place.write("shared.jsonl", &shared);
    assert!(lint_text(&stats(&place, "shared.jsonl")).contains("prefix"), "{}", stats(&place, "shared.jsonl"));
    place.servelab("dataset create --name fine --prompts 30 --mix short=1 --out .").run().expect(0);
    assert_eq!(at(&stats(&place, "fine.jsonl"), "lints").as_array().map(Vec::len), Some(0));
}

#[test]
fn other_people_s_formats_are_read() {
    let place = place();
    place.write(
        "messages.json",
        r#"[{"id":"a","messages":[{"role":"user","content":"Say something"}],"max_tokens":7,"temperature":0}]"#,
    );
    place.write(
        "sharegpt.json",
        r#"[{"id":"a","conversations":[{"from":"human","value":"Hello there"},{"from":"gpt","value":"Hi"}]}]"#,
    );
    place.write(
        "batch.jsonl",
        r#"{"custom_id":"a","body":{"messages":[{"role":"user","content":"Say something"}],"max_tokens":9}}"#,
    );
    for (file, output) in [("messages.json", 7.0), ("batch.jsonl", 9.0)] {
        assert_eq!(number(&stats(&place, file), "output_tokens.max"), output, "{file}");
    }
    assert_eq!(number(&stats(&place, "sharegpt.json"), "count"), 1.0);
}

#[test]
fn mistakes_are_named() {
    let place = place();
    for (options, says) in [
        ("create --name x --out sets", "--mix short=.3,medium=.5,long=.2"),
        ("create --name x --mix short=.3 --out sets", "add up to 1"),
        ("create --name x --mix tall=1 --out sets", "there is no length class `tall`"),
        ("create --name x --input-tokens 5 --out sets", "--output-tokens"),
        ("create --out sets", "--name"),
        ("create --suite --name x --out sets", "cannot be used with"),
        ("stats none.jsonl", "none.jsonl"),
        ("create --suite --tokenizer /nowhere --out sets", "/nowhere"),
    ] {
        let out = place.servelab("dataset").args(options.split(' ')).run();
        assert_eq!(out.code, Some(2), "{options}: {}", out.stderr);
        assert!(out.stderr.contains(says), "{options}: {}", out.stderr);
    }
    assert!(place.files().is_empty());
    place.write("broken.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \n");
    let out = place.servelab("dataset stats broken.jsonl").run().expect(2);
    out.says("broken.jsonl").says("line 2");
}
