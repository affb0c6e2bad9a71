use std::collections::HashMap;

use proptest::prelude::*;
use servelab_core::workload::{GENERATOR_VERSION, Mix, SharedPrefix, SuiteName};

use super::*;
use crate::stats::stats;
use crate::tokenizer::TokenizerSource;

fn texts(prompts: &[Prompt]) -> Vec<String> {
    prompts.iter().map(|prompt| prompt.body.text().into_owned()).collect()
}

fn check_counts(prompts: &[Prompt], tokenizer: &Tokenizer) {
    for prompt in prompts {
        let counted = tokenizer.count(&prompt.body.text()).unwrap();
        assert_eq!(counted, prompt.input_tokens, "{}: {:?}", prompt.id, prompt.body.text());
    }
}

/// A tokenizer that cuts text in a quite different way: one token per byte.
pub(crate) fn byte_tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), crate::tokenizer::byte_level_json()).unwrap();
    Tokenizer::load(&TokenizerSource::Path(dir.path().into())).unwrap()
}

/// A tokenizer whose tokens cross word boundaries and whose text starts with a space of its own, as sentencepiece's do.
pub(crate) fn metaspace_tokenizer() -> Tokenizer {
    let mut vocab: HashMap<String, u32> = HashMap::new();
    let mut scores: Vec<(String, f64)> = vec![("<unk>".to_owned(), 0.0)];
    for byte in 33..127u8 {
        scores.push((char::from(byte).to_string(), -10.0));
    }
    for piece in [
        "▁",
        "▁the",
        "▁of",
        "▁and",
        "ing",
        "er",
        ".▁The",
        ":▁",
        "▁a",
        "tion",
        "es",
        "an",
        "in",
        "\n",
        "▁please",
        "▁so▁on",
    ] {
        scores.push((piece.to_owned(), -3.0));
    }
    for (id, (piece, _)) in scores.iter().enumerate() {
        vocab.insert(piece.clone(), id as u32);
    }
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": false}
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::load(&TokenizerSource::Path(dir.path().into())).unwrap()
}

#[test]
fn exact_lengths_are_exact() {
    let tokenizer = Tokenizer::builtin();
    for (input, n) in
        [(1, 3), (2, 3), (7, 3), (16, 20), (40, 20), (100, 20), (255, 10), (256, 10), (1_000, 10), (6_000, 2)]
    {
        let prompts = synthesize(&SynthSpec::exact(n, input, 10), 7, "exact", n as usize, &tokenizer).unwrap();
        assert_eq!(prompts.len(), n as usize);
        assert!(prompts.iter().all(|prompt| prompt.input_tokens == input && prompt.output_tokens == 10));
        check_counts(&prompts, &tokenizer);
    }
}

#[test]
fn exact_lengths_hold_for_other_tokenizers() {
    for tokenizer in [byte_tokenizer(), metaspace_tokenizer()] {
        for input in [1, 5, 16, 33, 100, 400, 2_000] {
            let prompts = synthesize(&SynthSpec::exact(4, input, 10), 7, "exact", 4, &tokenizer).unwrap();
            check_counts(&prompts, &tokenizer);
        }
    }
}

#[test]
fn suites_have_the_lengths_their_names_promise() {
    let tokenizer = Tokenizer::builtin();
    for suite in [SuiteName::QuickTest, SuiteName::ShortLatency] {
        let spec = suite.spec();
        let prompts = synthesize(&spec, 1, "level", spec.n as usize, &tokenizer).unwrap();
        check_counts(&prompts, &tokenizer);
        let mut counts = HashMap::new();
        for prompt in &prompts {
            let category = prompt.category.unwrap();
            *counts.entry(category).or_insert(0u64) += 1;
            assert!(category.input_range().contains(prompt.input_tokens));
            assert!(category.output_range().capped(spec.max_output).contains(prompt.output_tokens));
        }
        let expected = spec.mix.unwrap().quotas(u64::from(spec.n));
        for (category, quota) in Category::ALL.into_iter().zip(expected) {
            assert_eq!(counts.get(&category).copied().unwrap_or(0), quota);
        }
        let measured = stats(&prompts, &tokenizer).unwrap();
        assert_eq!(measured.lints, [], "{suite:?}");
    }
}

#[test]
fn no_prefix_is_shared_unless_asked_for() {
    let tokenizer = Tokenizer::builtin();
    let spec = SynthSpec::mixed(600, Mix { short: 0.8, medium: 0.2, long: 0.0 }, None);
    let warmup = synthesize(&spec, 1, "warmup", 300, &tokenizer).unwrap();
    let level = synthesize(&spec, 1, "level-0", 600, &tokenizer).unwrap();
    let all: Vec<Prompt> = warmup.into_iter().chain(level).collect();
    let measured = stats(&all, &tokenizer).unwrap();
    assert!(measured.shared_prefix_fraction < 0.001, "{}", measured.shared_prefix_fraction);
    assert_eq!(measured.lints, []);
    let mut starts = HashMap::new();
    for text in texts(&all) {
        let ids = tokenizer.encode(&text).unwrap();
        *starts.entry(ids[..6].to_vec()).or_insert(0) += 1;
    }
    let crowded = starts.values().max().copied().unwrap();
    assert!(crowded <= 3, "{crowded} prompts share their first six tokens");
}

#[test]
fn streams_are_disjoint_and_depend_on_nothing_else() {
    let tokenizer = Tokenizer::builtin();
    let spec = SynthSpec::exact(50, 64, 10);
    let draw = |seed, stream: &str, n| synthesize(&spec, seed, stream, n, &tokenizer).unwrap();
    assert_eq!(draw(1, "a", 50), draw(1, "a", 50));
    // Exact lengths have no quotas, so a shorter stream is the start of the longer one.
    assert_eq!(draw(1, "a", 20), draw(1, "a", 50)[..20]);
    for (seed, stream) in [(1, "b"), (2, "a")] {
        let other = texts(&draw(seed, stream, 50));
        assert!(texts(&draw(1, "a", 50)).iter().all(|text| !other.contains(text)));
    }
    // Two sets on one server must not start alike just because their streams have the same name.
    let longer = texts(&synthesize(&SynthSpec::exact(50, 65, 10), 1, "a", 50, &tokenizer).unwrap());
    let starts = |text: &String| text.get(..16).unwrap().to_owned();
    let same = texts(&draw(1, "a", 50)).iter().zip(&longer).filter(|(a, b)| starts(a) == starts(b)).count();
    assert_eq!(same, 0);
    let mut reseeded = spec.clone();
    reseeded.seed += 1;
    assert_ne!(texts(&synthesize(&reseeded, 1, "a", 50, &tokenizer).unwrap()), texts(&draw(1, "a", 50)));
}

#[test]
fn shared_prefixes_give_the_stated_hit_rate() {
    let tokenizer = Tokenizer::builtin();
    let check = |prefix: SharedPrefix, jitter: Option<f64>| {
        let mut spec = SynthSpec::exact(60, 400, 10);
        spec.length_jitter = jitter;
        spec.shared_prefix = Some(prefix);
        let prompts = synthesize(&spec, 3, "level", 60, &tokenizer).unwrap();
        check_counts(&prompts, &tokenizer);
        let measured = stats(&prompts, &tokenizer).unwrap();
        let expected = spec.expected_hit_rate(60, 16);
        let tolerance = if jitter.is_some() { 0.02 } else { 0.005 };
        assert!(
            (measured.shared_prefix_fraction - expected).abs() < tolerance,
            "{prefix:?}: {} measured, {expected} expected",
            measured.shared_prefix_fraction
        );
        assert_eq!(measured.lints.iter().map(|lint| lint.code).collect::<Vec<_>>(), ["shared_prefix"]);
        let groups: std::collections::HashSet<_> = prompts.iter().map(|prompt| prompt.group.unwrap()).collect();
        assert_eq!(groups.len(), prefix.groups as usize);
    };
    check(SharedPrefix { tokens: Some(200), hit_rate: None, groups: 1 }, None);
    check(SharedPrefix { tokens: Some(160), hit_rate: None, groups: 6 }, None);
    check(SharedPrefix { tokens: None, hit_rate: Some(0.5), groups: 3 }, None);
    check(SharedPrefix { tokens: Some(192), hit_rate: None, groups: 4 }, Some(0.2));
}

#[test]
fn prompts_read_like_requests() {
    let tokenizer = Tokenizer::builtin();
    for text in texts(&synthesize(&SynthSpec::exact(40, 300, 10), 5, "text", 40, &tokenizer).unwrap()) {
        assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
        assert!(!text.contains(['{', '}']), "{text}");
        assert!(text.contains("\n\n"), "{text}");
    }
}

#[test]
fn the_generator_has_not_changed() {
    // The digest may only change together with GENERATOR_VERSION, because cell ids rely on it.
    let prompts = synthesize(&SuiteName::QuickTest.spec(), 0, "golden", 20, &Tokenizer::builtin()).unwrap();
    let all: Vec<String> = prompts
        .iter()
        .map(|prompt| format!("{} {} {}", prompt.input_tokens, prompt.output_tokens, prompt.body.text()))
        .collect();
    assert_eq!(GENERATOR_VERSION, 1);
    assert_eq!(
        crate::tokenizer::hex_sha256(all.join("\0").as_bytes()),
        "4b07c19fd58cf2dbcd188b779a07f4c562b43246c66afde9c87d656725c44ed5"
    );
}

#[test]
fn an_invalid_spec_is_refused() {
    let error = synthesize(&SynthSpec::exact(1, 0, 1), 0, "x", 1, &Tokenizer::builtin()).expect_err("must fail");
    assert!(error.to_string().contains("input_tokens"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_length_is_reached(input in 1u32..600, jitter in 0.0..1.0f64, seed in any::<u64>()) {
        let tokenizer = Tokenizer::builtin();
        let mut spec = SynthSpec::exact(3, input, 10);
        spec.length_jitter = Some(jitter);
        let prompts = synthesize(&spec, seed, "any", 3, &tokenizer).unwrap();
        let bounds = spec.length_bounds();
        for prompt in &prompts {
            prop_assert!(bounds.input.contains(prompt.input_tokens));
            prop_assert!(bounds.output.contains(prompt.output_tokens));
        }
        check_counts(&prompts, &tokenizer);
    }
}
