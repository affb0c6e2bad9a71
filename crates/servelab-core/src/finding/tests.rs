use proptest::prelude::*;

use super::*;

const GOOD: &str = "\
# Batching pays

## Question

Do more sequences help?

## Observation

With 64 sequences the server makes **1,882.5** tok/s <!-- = throughput_tokens_per_sec; point: seqs_64; load: closed 16; workload: chat -->, \
which is +12 %<!-- = throughput_tokens_per_sec; point: seqs_64; versus: seqs_4; load: closed 16; within: 2 % --> more; \
99.5 %<!-- = success_rate; point: seqs_64 --> succeed.

## Details
x
## Reproduce
```
# not a heading
servelab run study.yaml
```
## Data
x
## Implications
x
";

#[test]
fn numbers_and_what_they_are_bound_to() {
    let found = read_finding(GOOD);
    assert_eq!(found.problems, []);
    assert_eq!((found.title.as_str(), found.question.as_str()), ("Batching pays", "Do more sequences help?"));
    let shown: Vec<(&str, f64)> = found.numbers.iter().map(|n| (n.written.as_str(), n.value)).collect();
    assert_eq!(shown, [("1,882.5", 1882.5), ("12", 12.0), ("99.5", 0.995)]);
    assert_eq!(found.numbers[0].line, 9);
    let binding = &found.numbers[1].binding;
    assert_eq!(
        (binding.versus.as_deref(), binding.load.as_deref(), binding.within),
        (Some("seqs_4"), Some("closed 16"), 0.02)
    );
    let half = |idx: usize| found.numbers[idx].half_unit;
    assert!((half(0) - 0.05).abs() < 1e-12 && (half(1) - 0.5).abs() < 1e-12 && (half(2) - 0.0005).abs() < 1e-12);
    let first = &found.numbers[0];
    assert!(first.agrees_with(1882.549) && first.agrees_with(1882.45) && !first.agrees_with(1882.56));
    assert!(found.numbers[1].agrees_with(12.73) && !found.numbers[1].agrees_with(12.75));
}

#[test]
fn what_cannot_be_checked_is_said_with_its_line() {
    let check = |line: &str, expected: &str| {
        let found = read_finding(&GOOD.replace("x\n## Reproduce", &format!("{line}\n## Reproduce")));
        let messages: Vec<&str> = found.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert!(messages.len() == 1 && messages[0].contains(expected), "{line}: {messages:?}");
        assert_eq!(found.problems[0].line, 12);
        assert_eq!(found.numbers.len(), 3);
    };
    check("about <!-- = ttft_p95_ms; point: a -->", "no number before");
    check("5 <!-- = ttft_p95_ms -->", "needs `point: LABEL`");
    check("5 <!-- = two words; point: a -->", "no metric");
    check("5 <!-- = ttft_p95_ms; point: a; lod: b -->", "`lod` is no key");
    check("5 <!-- = ttft_p95_ms; point: a; within: x -->", "no percentage");
    check("5 <!-- = ttft_p95_ms; point: a", "without `-->`");
    check("1.2.3 <!-- = ttft_p95_ms; point: a -->", "`1.2.3` is no number");
    check("TODO: write", "not written yet");
    let found = read_finding("# A\n## Question\n## Data\nx\n");
    assert_eq!(found.problems.len(), 5, "{:?}", found.problems);
}

#[test]
fn a_minus_belongs_to_the_number() {
    let number = |text: &str| {
        let found = read_finding(&format!("{text}<!-- = a; point: p -->"));
        found.numbers[0].value
    };
    assert_eq!((number("-3.5"), number("−3"), number("4–7 "), number("p95: 1,000")), (-3.5, -3.0, 7.0, 1000.0));
}

proptest! {
    #[test]
    fn any_text_is_read(text in "(\\PC|\n|<!-- =|-->|;|:|%|[0-9.,−-]){0,200}") {
        read_finding(&text);
    }

    #[test]
    fn what_is_written_is_read(point in "[a-z_0-9]{1,12}", load in "closed [0-9]{1,3}", within in 0_u8..50, value in -1e6_f64..1e6) {
        let binding = Binding { metric: "ttft_p95_ms".into(), point, load: Some(load), within: f64::from(within) / 100.0, ..Binding::default() };
        let found = read_finding(&format!("{value:.3} {}", binding_comment(&binding)));
        prop_assert!((found.numbers[0].binding.within - binding.within).abs() < 1e-9);
        prop_assert_eq!(&found.numbers[0].binding.load, &binding.load);
        prop_assert!(found.numbers[0].agrees_with(value));
    }
}
