use servelab_core::workload::SynthSpec;

use super::*;
use crate::prompt::PromptBody;
use crate::synth::synthesize;

fn prompt(id: usize, text: &str, category: Option<Category>) -> Prompt {
    let input_tokens = Tokenizer::builtin().count(text).unwrap();
    Prompt {
        id: format!("p{id}"),
        body: PromptBody::Text(text.to_owned()),
        input_tokens,
        output_tokens: 100,
        temperature: None,
        category,
        group: None,
        stated_input_tokens: None,
    }
}

fn codes(prompts: &[Prompt]) -> Vec<&'static str> {
    stats(prompts, &Tokenizer::builtin()).unwrap().lints.iter().map(|lint| lint.code).collect()
}

fn of_length(tokens: u32, n: usize) -> Vec<Prompt> {
    synthesize(&SynthSpec::exact(n as u32, tokens, 100), 1, "stats", n, &Tokenizer::builtin()).unwrap()
}

#[test]
fn a_long_set_of_short_prompts_is_found_out() {
    let mut prompts = of_length(85, 50);
    assert_eq!(codes(&prompts), [] as [&str; 0]);
    for prompt in &mut prompts {
        prompt.category = Some(Category::Long);
    }
    let found = stats(&prompts, &Tokenizer::builtin()).unwrap();
    assert_eq!(found.lints[0].code, "category_length_mismatch");
    for part in ["50 of 50", "average 85 tokens", "long means 2048"] {
        assert!(found.lints[0].detail.contains(part), "{}", found.lints[0].detail);
    }
    for prompt in &mut prompts {
        prompt.category = Some(Category::Short);
    }
    assert_eq!(codes(&prompts), [] as [&str; 0]);
    for prompt in &mut prompts {
        prompt.output_tokens = 5_000;
    }
    assert_eq!(codes(&prompts), ["category_length_mismatch"]);
}

#[test]
fn a_padded_prefix_is_found_out() {
    let padding = of_length(200, 1)[0].body.text().into_owned();
    let prompts: Vec<Prompt> =
        (0..20).map(|idx| prompt(idx, &format!("{padding} Item {idx} of the list."), None)).collect();
    let found = stats(&prompts, &Tokenizer::builtin()).unwrap();
    assert_eq!(found.lints.iter().map(|lint| lint.code).collect::<Vec<_>>(), ["shared_prefix"]);
    assert!(found.shared_prefix_fraction > 0.8, "{}", found.shared_prefix_fraction);
}

#[test]
fn duplicates_empty_prompts_and_wrong_claims() {
    let mut prompts = vec![prompt(0, "the house", None), prompt(1, "the tree", None), prompt(2, "the house", None)];
    assert_eq!(codes(&prompts), ["duplicate_prompts"]);
    prompts.truncate(2);
    prompts[1].stated_input_tokens = Some(2);
    assert_eq!(codes(&prompts), [] as [&str; 0]);
    prompts[1].stated_input_tokens = Some(3);
    assert_eq!(codes(&prompts), ["stated_length_mismatch"]);
    prompts[1] = prompt(1, "", None);
    assert_eq!(codes(&prompts), ["empty_prompt"]);
}

#[test]
fn nothing_is_measured_of_nothing() {
    let found = stats(&[], &Tokenizer::builtin()).unwrap();
    assert_eq!((found.count, found.input_tokens.mean, found.input_tokens.p50), (0, None, None));
    assert_eq!(found.lints, []);
    assert!(render_stats(&found).contains("0 prompts"));
}

#[test]
fn percentiles_interpolate_and_histograms_count_everything() {
    let lengths = length_stats(&[10, 20, 30, 40]);
    assert_eq!((lengths.p50, lengths.min, lengths.max, lengths.total), (Some(25.0), Some(10), Some(40), 100));
    assert!((lengths.p90.unwrap() - 37.0).abs() < 1e-9);
    let check = |values: &[u32]| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let bins = histogram(&sorted).bins;
        assert!(bins.len() <= 13, "{bins:?}");
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), values.len());
        for pair in bins.windows(2) {
            assert_eq!(pair[0].to_tokens + 1, pair[1].from_tokens);
        }
    };
    check(&[0]);
    check(&[6_000; 7]);
    check(&[16, 255, 2_047, 8_192]);
    check(&[0, u32::MAX]);
    check(&(1..500).collect::<Vec<_>>());
}

#[test]
fn the_text_shows_table_bars_and_lints() {
    let mut prompts = of_length(20, 3);
    prompts.extend(of_length(300, 1));
    prompts[0].category = Some(Category::Long);
    let text = render_stats(&stats(&prompts, &Tokenizer::builtin()).unwrap());
    for part in [
        "4 prompts",
        "prompt   all",
        "output   long",
        "prompt tokens\n",
        "####",
        "lint category_length_mismatch: 1 of 1",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}
