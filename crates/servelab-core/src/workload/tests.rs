use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: Value) -> Result<DatasetSpec, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn problem(value: Value) -> Option<(String, String)> {
    parse(value).expect("the spec parses").validate().err().map(|problem| (problem.key, problem.message))
}

#[test]
fn all_kinds_parse_and_write_back() {
    for value in [
        json!({"synth": {"n": 500, "mix": {"short": 0.3, "medium": 0.5, "long": 0.2}, "seed": 42}}),
        json!({"synth": {"n": 5, "input_tokens": 6000, "output_tokens": 100, "seed": 1}}),
        json!({"suite": "medium_balanced"}),
        json!({"suite": "8k"}),
        json!({"file": {"path": "x.jsonl", "format": "sharegpt"}}),
        json!({"trace": {"path": "t.jsonl", "format": "mooncake", "from_s": 10.0, "to_s": 20.0, "max_requests": 5, "seed": 1}}),
        json!({"conversations": {"synth": {"n": 3, "turns": {"min": 2, "max": 4}, "user_tokens": 50,
            "output_tokens": {"mean": 100.0, "max": 500}, "system_prompts": 1}, "think_s": {"exponential": 2.0}, "seed": 1}}),
        json!({"conversations": {"file": {"path": "c.json", "format": "sharegpt"}, "max_turns": 3, "seed": 1}}),
    ] {
        let spec = parse(value.clone()).expect("parses");
        assert_eq!(spec.validate(), Ok(()), "{value}");
        assert_eq!(parse(serde_json::to_value(&spec).expect("writes")), Ok(spec));
    }
}

#[test]
fn unknown_keys_and_names_are_errors() {
    for value in [
        json!({"synth": {"mixx": {}}}),
        json!({"synth": {"mix": {"tiny": 1.0}}}),
        json!({"synth": {}, "file": {"path": "x"}}),
        json!({"suite": "medium"}),
        json!({"file": {"path": "x", "format": "csv"}}),
        json!({"file": {"path": "x", "sha": 1}}),
        json!({"trace": {"path": "x", "format": "burst"}}),
        json!({"conversations": {"synth": {"turns": {"min": 1}, "user_tokens": 1, "output_tokens": 1}}}),
        json!({"conversations": {"synth": {"turns": {"min": 1, "mean": 2, "max": 3}, "user_tokens": 1, "output_tokens": 1}}}),
        json!({"conversations": {"synth": {"turns": -1, "user_tokens": 1, "output_tokens": 1}}}),
        json!({}),
    ] {
        assert!(parse(value.clone()).is_err(), "{value}");
    }
}

#[test]
fn problems_name_their_key() {
    let check = |spec: Value, key: &str, part: &str| {
        let (found, message) = problem(json!({"synth": spec.clone()})).unwrap_or_else(|| panic!("{spec} must fail"));
        assert_eq!(found, key, "{spec}");
        assert!(message.contains(part), "{spec}: {message}");
    };
    check(json!({}), "synth.mix", "is missing");
    check(json!({"mix": {"short": 0.3, "medium": 0.5}}), "synth.mix", "adds up to 0.8");
    check(json!({"mix": {"short": 1.3, "medium": -0.3}}), "synth.mix.short", "1.3");
    check(json!({"mix": {"short": 1.0}, "input_tokens": 5}), "synth.input_tokens", "mix");
    check(json!({"mix": {"short": 1.0}, "length_jitter": 0.1}), "synth.length_jitter", "no effect");
    check(json!({"input_tokens": 5}), "synth.output_tokens", "is missing");
    check(json!({"output_tokens": 5}), "synth.input_tokens", "is missing");
    check(json!({"input_tokens": 5, "output_tokens": 0}), "synth.output_tokens", "between 1");
    check(json!({"n": 0, "input_tokens": 5, "output_tokens": 1}), "synth.n", "between 1");
    check(json!({"input_tokens": 5, "output_tokens": 1, "length_jitter": 1.5}), "synth.length_jitter", "1.5");
    let prefix = |prefix: Value| json!({"input_tokens": 100, "output_tokens": 1, "shared_prefix": prefix});
    check(prefix(json!({})), "synth.shared_prefix", "needs one");
    check(prefix(json!({"tokens": 10, "hit_rate": 0.5})), "synth.shared_prefix.hit_rate", "beside");
    check(prefix(json!({"tokens": 93})), "synth.shared_prefix.tokens", "shortest prompt has 100");
    check(prefix(json!({"tokens": 10, "groups": 0})), "synth.shared_prefix.groups", "between 1");
    check(prefix(json!({"hit_rate": 0.99})), "synth.shared_prefix.hit_rate", "needs a shared prefix");
    check(prefix(json!({"hit_rate": 0.5, "groups": 100})), "synth.shared_prefix.hit_rate", "needs a shared prefix");
    check(
        json!({"mix": {"short": 1.0}, "shared_prefix": {"tokens": 64}}),
        "synth.shared_prefix.tokens",
        "shortest prompt has 16",
    );
    assert_eq!(problem(json!({"file": {"path": " "}})).map(|(key, _)| key), Some("file.path".to_owned()));
}

#[test]
fn problems_of_traces_and_conversations_name_their_key() {
    let check = |spec: Value, key: &str, part: &str| {
        let (found, message) = problem(spec.clone()).unwrap_or_else(|| panic!("{spec} must fail"));
        assert_eq!(found, key, "{spec}");
        assert!(message.contains(part), "{spec}: {message}");
    };
    let trace = |more: Value| {
        let mut spec = json!({"path": "t.csv"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"trace": spec})
    };
    check(trace(json!({"path": ""})), "trace.path", "must name a file");
    check(trace(json!({"from_s": -1.0})), "trace.from_s", "is -1");
    check(trace(json!({"from_s": 5.0, "to_s": 5.0})), "trace.to_s", "more than `from_s` (5)");
    check(trace(json!({"max_requests": 0})), "trace.max_requests", "between 1");
    check(trace(json!({"block_tokens": 0})), "trace.block_tokens", "between 1");
    let talks = |more: Value| json!({"conversations": more});
    let synth = |more: Value| {
        let mut spec = json!({"turns": 2, "user_tokens": 10, "output_tokens": 10});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"conversations": {"synth": spec}})
    };
    check(talks(json!({})), "conversations.synth", "is missing");
    check(
        talks(json!({"file": {"path": "x"}, "synth": {"turns": 1, "user_tokens": 1, "output_tokens": 1}})),
        "conversations.file",
        "beside `synth`",
    );
    check(talks(json!({"file": {"path": ""}})), "conversations.file.path", "must name");
    check(talks(json!({"file": {"path": "x", "format": "legacy"}})), "conversations.file.format", "single prompts");
    check(talks(json!({"file": {"path": "x"}, "max_turns": 0})), "conversations.max_turns", "between 1");
    check(talks(json!({"file": {"path": "x"}, "think_s": {"constant": -1.0}})), "conversations.think_s.constant", "-1");
    check(synth(json!({"turns": 0})), "conversations.synth.turns", "between 1 and 1000");
    check(synth(json!({"user_tokens": {"min": 5, "max": 2}})), "conversations.synth.user_tokens", "min 5 above max 2");
    check(synth(json!({"output_tokens": {"mean": 0.5, "max": 2}})), "conversations.synth.output_tokens", "1 ≤ mean");
}

#[test]
fn what_is_measured_enters_the_identity() {
    let key =
        |value: Value| parse(value).unwrap().content_key(|file| Ok::<_, ()>(format!("sha of {}", file.path))).unwrap();
    let trace = |more: Value| {
        let mut spec = json!({"path": "t.csv"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key(json!({"trace": spec}))
    };
    assert_eq!(trace(json!({})), trace(json!({"from_s": 0.0, "block_tokens": 512, "seed": 42})));
    for more in [
        json!({"to_s": 9.0}),
        json!({"from_s": 1.0}),
        json!({"max_requests": 9}),
        json!({"seed": 1}),
        json!({"path": "u.csv"}),
    ] {
        assert_ne!(trace(json!({})), trace(more));
    }
    let talks = |n: u32, turns: u32, think: f64| {
        key(json!({"conversations": {"synth": {"n": n, "turns": turns, "user_tokens": 9, "output_tokens": 9},
            "think_s": {"constant": think}}}))
    };
    assert_eq!(talks(1, 2, 0.5), talks(7, 2, 0.5));
    assert_ne!(talks(1, 2, 0.5), talks(1, 3, 0.5));
    assert_ne!(talks(1, 2, 0.5), talks(1, 2, 0.6));
}

#[test]
fn spreads_follow_their_distribution() {
    let draws = |spread: Spread| (0..10_000).map(|i| spread.at((f64::from(i) + 0.5) / 1e4)).collect::<Vec<u32>>();
    let mean = |values: &[u32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    assert!(draws(Spread::Fixed(7)).iter().all(|n| *n == 7));
    let uniform = draws(Spread::Uniform { min: 3, max: 6 });
    assert_eq!((uniform.iter().min(), uniform.iter().max(), mean(&uniform)), (Some(&3), Some(&6), 4.5));
    let geometric = draws(Spread::Geometric { mean: 4.0, max: 1000 });
    assert!((mean(&geometric) - 4.0).abs() < 0.02, "{}", mean(&geometric));
    assert_eq!(geometric.iter().filter(|n| **n == 1).count(), 2_500);
    assert_eq!(draws(Spread::Geometric { mean: 4.0, max: 5 }).iter().max(), Some(&5));
    assert_eq!(Spread::Uniform { min: 1, max: u32::MAX }.at(1.0), u32::MAX);
    assert_eq!(Spread::Geometric { mean: 1.0, max: 3 }.at(0.99), 1);
}

#[test]
fn a_conversation_grows_with_its_turns() {
    let mut synth = ConversationSynth::exact(3, 10, 100);
    synth.system_tokens = Some(50);
    let mut spec = ConversationSpec::generated(synth);
    let bounds = spec.length_bounds().unwrap();
    assert_eq!((bounds.input.min, bounds.input.max, bounds.output.max), (60, 50 + 2 * 110 + 10, 100));
    spec.max_turns = Some(2);
    assert_eq!(spec.length_bounds().unwrap().input.max, 170);
    assert_eq!(spec.most_turns(), Some(2));
}

#[test]
fn suites_are_valid_and_named() {
    for suite in SuiteName::ALL {
        assert_eq!(suite.spec().validate(), Ok(()));
        assert_eq!(SuiteName::from_name(suite.as_str()), Some(suite));
        assert_eq!(serde_json::to_value(suite).expect("writes"), json!(suite.as_str()));
    }
    assert_eq!(SuiteName::from_name("nope"), None);
    let counts = SuiteName::SUITE.map(|suite| suite.spec().n);
    assert_eq!(counts, [100, 500, 1_000, 500, 300]);
}

#[test]
fn quotas_follow_the_mix() {
    let check = |mix: Mix, n: u64, expected: [u64; 3]| assert_eq!(mix.quotas(n), expected);
    check(Mix { short: 0.4, medium: 0.5, long: 0.1 }, 100, [40, 50, 10]);
    check(Mix { short: 0.3, medium: 0.5, long: 0.2 }, 500, [150, 250, 100]);
    check(Mix { short: 0.9, medium: 0.1, long: 0.0 }, 500, [450, 50, 0]);
    check(Mix { short: 0.0, medium: 0.3, long: 0.7 }, 300, [0, 90, 210]);
    check(Mix { short: 0.3, medium: 0.5, long: 0.2 }, 1, [0, 1, 0]);
    check(Mix { short: 0.5, medium: 0.5, long: 0.0 }, 3, [2, 1, 0]);
}

#[test]
fn bounds_follow_the_lengths() {
    let bounds = SuiteName::LongContext.spec().length_bounds();
    assert_eq!((bounds.input.min, bounds.input.max), (256, 8_192));
    assert_eq!((bounds.output.min, bounds.output.max), (150, 1_024));
    assert!((bounds.input_mean - (0.3 * 1_151.5 + 0.7 * 5_120.0)).abs() < 1e-9);
    let mut exact = SynthSpec::exact(10, 1_000, 100);
    exact.length_jitter = Some(0.1);
    let bounds = exact.length_bounds();
    assert_eq!((bounds.input.min, bounds.input.max), (900, 1_100));
    assert_eq!((bounds.output.min, bounds.output.max), (90, 110));
}

#[test]
fn capped_mean_matches_enumeration() {
    let range = TokenRange { min: 50, max: 150 };
    for cap in [None, Some(10), Some(50), Some(77), Some(149), Some(150), Some(500)] {
        let values: Vec<f64> = (50..=150).map(|tokens: u32| f64::from(tokens.min(cap.unwrap_or(u32::MAX)))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((range.capped_mean(cap) - mean).abs() < 1e-9, "{cap:?}");
    }
}

#[test]
fn hit_rate_counts_whole_blocks_after_the_first_of_each_group() {
    let mut spec = SynthSpec::exact(100, 1_000, 10);
    assert_eq!(spec.expected_hit_rate(100, 16), 0.0);
    spec.shared_prefix = Some(SharedPrefix { tokens: Some(505), hit_rate: None, groups: 4 });
    // 505 tokens hold 31 blocks of 16: 496 tokens.
    assert!((spec.expected_hit_rate(100, 16) - 96.0 * 496.0 / 100_000.0).abs() < 1e-12);
    assert_eq!(spec.expected_hit_rate(4, 16), 0.0);
    spec.shared_prefix = Some(SharedPrefix { tokens: None, hit_rate: Some(0.5), groups: 1 });
    assert_eq!(spec.shared_prefix_tokens(), 512);
    assert!((spec.expected_hit_rate(100, 16) - 0.5).abs() < 0.01);
}

#[test]
fn identity_ignores_spelling_and_sees_content() {
    let key = |spec: &DatasetSpec| spec.content_key(|file| Ok::<_, ()>(format!("hash of {}", file.format.as_str())));
    let suite = DatasetSpec::Suite(SuiteName::QuickTest);
    let spelled = parse(json!({"synth": {"max_output": 256, "mix": {"long": 0.1, "medium": 0.5, "short": 0.4}}}));
    assert_eq!(key(&suite), key(&spelled.expect("parses")));
    let mut other = SuiteName::QuickTest.spec();
    other.seed = 43;
    assert_ne!(key(&suite), key(&DatasetSpec::Synth(other)));
    let file = |path: &str| {
        DatasetSpec::File(FileSpec { path: path.to_owned(), format: FileFormat::Auto, output_tokens: None })
    };
    assert_eq!(key(&file("a.jsonl")), key(&file("elsewhere/b.jsonl")));
}

proptest! {
    #[test]
    fn quotas_add_up(short in 0.0..1.0f64, medium in 0.0..1.0f64, n in 0u64..100_000) {
        let mix = Mix { short: short * (1.0 - medium), medium, long: (1.0 - short) * (1.0 - medium) };
        let quotas = mix.quotas(n);
        prop_assert_eq!(quotas.iter().sum::<u64>(), n);
        for (category, quota) in Category::ALL.into_iter().zip(quotas) {
            prop_assert!((quota as f64 - mix.share(category) * n as f64).abs() <= 1.0 + 1e-6);
        }
    }

    #[test]
    fn any_valid_spec_has_room_behind_its_prefix(
        input in 1u32..20_000, tokens in 1u32..20_000, groups in 1u32..50, jitter in 0.0..1.0f64,
    ) {
        let mut spec = SynthSpec::exact(100, input, 10);
        spec.length_jitter = Some(jitter);
        spec.shared_prefix = Some(SharedPrefix { tokens: Some(tokens), hit_rate: None, groups });
        if spec.validate().is_ok() {
            prop_assert!(tokens < spec.length_bounds().input.min);
            prop_assert!((0.0..1.0).contains(&spec.expected_hit_rate(100, 16)));
        }
    }
}
