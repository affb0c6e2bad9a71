use std::collections::HashSet;

use servelab_core::workload::{ConversationSynth, Spread};

use super::*;

fn parse(text: &str) -> Result<ConversationFile, String> {
    parse_conversations(text.as_bytes(), Path::new("c"), FileFormat::Auto, 99, None, &Tokenizer::builtin())
        .map_err(|error| error.to_string())
}

fn questions(script: &ConversationScript) -> Vec<&str> {
    script.turns.iter().map(|turn| turn.user.as_str()).collect()
}

#[test]
fn sharegpt_keeps_every_turn() {
    let file = parse(
        r#"[{"id": "a", "conversations": [
            {"from": "gpt", "value": "Hello, how can I help?"},
            {"from": "human", "value": "First question"}, {"from": "gpt", "value": "one two three"},
            {"from": "human", "value": "Second"}, {"from": "human", "value": "and more"}, {"from": "gpt", "value": "one"},
            {"from": "human", "value": "Third"}]},
           {"id": "b", "conversations": [{"from": "gpt", "value": "nobody asked"}]}]"#,
    )
    .unwrap();
    assert_eq!((file.format, file.skipped, file.scripts.len()), (FileFormat::Sharegpt, 1, 1));
    let script = &file.scripts[0];
    assert_eq!(questions(script), ["First question", "Second\n\nand more", "Third"]);
    let outputs: Vec<u32> = script.turns.iter().map(|turn| turn.output_tokens).collect();
    assert_eq!(outputs, [3, 1, 99]);
    assert_eq!(script.id, "a");
    let tokens = |turn: usize| script.turns[turn].user_tokens;
    assert_eq!(script.expected_input_tokens(0), tokens(0));
    assert_eq!(script.expected_input_tokens(2), tokens(0) + 3 + tokens(1) + 1 + tokens(2));
}

#[test]
fn openai_messages_keep_system_and_turns() {
    let file = parse(
        r#"{"id": 7, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Yes."}, {"role": "user", "content": [{"type": "text", "text": "Two?"}]}], "max_tokens": 20}"#
            .replace('\n', " ")
            .as_str(),
    )
    .unwrap();
    let script = &file.scripts[0];
    assert_eq!((script.id.as_str(), script.system.as_deref()), ("7", Some("Be brief.")));
    assert_eq!(questions(script), ["One?", "Two?"]);
    assert!(script.turns.iter().all(|turn| turn.output_tokens == 20));
    assert!(script.system_tokens > 0);
}

#[test]
fn malformed_conversations_name_the_line() {
    for (text, part) in [
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}"#,
            "line 1: message 2 is from `tool`",
        ),
        (r#"{"prompt": "x"}"#, "single prompt"),
        (r#"{"messages": []}"#, "none of its 1 conversations"),
        (r#"{"conversations": 3}"#, "expected a list"),
        ("[1]", "line 1"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

fn generated(spec: &ConversationSpec, stream: &str, n: usize) -> Vec<ConversationScript> {
    let tokenizer = Tokenizer::builtin();
    let mut source = SynthConversations::new(spec, 1, stream, &tokenizer).unwrap();
    (0..n).map(|_| source.next_script().unwrap()).collect()
}

#[test]
fn generated_conversations_are_exact_and_depend_on_their_number_only() {
    let tokenizer = Tokenizer::builtin();
    let synth = ConversationSynth {
        turns: Spread::Uniform { min: 2, max: 4 },
        user_tokens: Spread::Uniform { min: 5, max: 40 },
        output_tokens: Spread::Geometric { mean: 20.0, max: 100 },
        system_tokens: Some(60),
        system_prompts: 2,
        ..ConversationSynth::exact(1, 1, 1)
    };
    let mut spec = ConversationSpec::generated(synth);
    let scripts = generated(&spec, "a", 20);
    assert_eq!(generated(&spec, "a", 5), scripts[..5]);
    assert_ne!(generated(&spec, "b", 1)[0].turns, scripts[0].turns);
    let lengths: HashSet<usize> = scripts.iter().map(|script| script.turns.len()).collect();
    assert_eq!(lengths, HashSet::from([2, 3, 4]));
    for (idx, script) in scripts.iter().enumerate() {
        assert_eq!(script.system, scripts[idx % 2].system);
        assert_eq!(tokenizer.count(script.system.as_deref().unwrap()).unwrap(), 60);
        for turn in &script.turns {
            assert_eq!(tokenizer.count(&turn.user).unwrap(), turn.user_tokens);
            assert!((5..=40).contains(&turn.user_tokens) && (1..=100).contains(&turn.output_tokens));
        }
    }
    assert_ne!(scripts[0].system, scripts[1].system);
    let texts: HashSet<&str> = scripts.iter().flat_map(questions).collect();
    assert!(texts.len() > scripts.len() * 2);
    spec.max_turns = Some(2);
    assert!(generated(&spec, "a", 10).iter().all(|script| script.turns.len() == 2));
}
