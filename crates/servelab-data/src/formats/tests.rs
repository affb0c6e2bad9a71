use proptest::prelude::*;

use super::*;
use crate::prompt::Message;

fn read(text: &str) -> Result<Dataset, String> {
    read_as(text, FileFormat::Auto)
}

fn read_as(text: &str, format: FileFormat) -> Result<Dataset, String> {
    parse_dataset(text.as_bytes(), Path::new("x.jsonl"), format, 77, &Tokenizer::builtin())
        .map_err(|error| error.to_string())
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

#[test]
fn legacy_lines() {
    let text = concat!(
        r#"{"prompt": "the house", "prompt_length": 9, "expected_output_length": 120, "#,
        r#""metadata": {"category": "short", "template_type": "synthetic"}}"#,
        "\n\n",
        r#"{"prompt": "the old house", "metadata": {"category": "code"}}"#,
        "\n"
    );
    let dataset = read(text).unwrap();
    assert_eq!((dataset.format, dataset.skipped, dataset.prompts.len()), (FileFormat::Legacy, 0, 2));
    let first = &dataset.prompts[0];
    assert_eq!(first.body, PromptBody::Text("the house".to_owned()));
    assert_eq!((first.input_tokens, first.output_tokens, first.stated_input_tokens), (2, 120, Some(9)));
    assert_eq!(first.category.map(|category| category.as_str()), Some("short"));
    let second = &dataset.prompts[1];
    assert_eq!((second.input_tokens, second.output_tokens, second.category), (3, 77, None));
}

#[test]
fn messages_as_array_and_as_lines() {
    let entry =
        r#"{"id": 3, "messages": [{"role": "user", "content": "the house"}], "max_tokens": 5, "temperature": 0.7}"#;
    for text in [format!("[{entry}]"), format!("{entry}\n"), format!("\u{feff}[\n  {entry}\n]\n")] {
        let dataset = read(&text).unwrap();
        assert_eq!(dataset.format, FileFormat::Messages);
        let prompt = &dataset.prompts[0];
        assert_eq!(prompt.body, PromptBody::Messages(vec![message("user", "the house")]));
        assert_eq!((prompt.id.as_str(), prompt.input_tokens, prompt.output_tokens), ("3", 2, 5));
        assert_eq!(prompt.temperature, Some(0.7));
    }
}

#[test]
fn sharegpt_takes_the_first_question_and_its_answer() {
    let text = r#"[
      {"id": "a", "conversations": [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "the house"},
        {"from": "gpt", "value": "the old house"}, {"from": "human", "value": "more"}]},
      {"id": "b", "conversations": [{"from": "gpt", "value": "alone"}]},
      {"id": "c", "conversations": [{"from": "system", "value": "short"}, {"from": "user", "value": "the"}]}
    ]"#;
    let dataset = read(text).unwrap();
    assert_eq!((dataset.format, dataset.skipped, dataset.prompts.len()), (FileFormat::Sharegpt, 1, 2));
    assert_eq!(dataset.prompts[0].body, PromptBody::Messages(vec![message("user", "the house")]));
    assert_eq!(dataset.prompts[0].output_tokens, 3);
    assert_eq!(dataset.prompts[1].body.text(), "short\nthe");
    assert_eq!(dataset.prompts[1].output_tokens, 77);
}

#[test]
fn openai_lines_batches_parts_and_training_files() {
    let text = concat!(
        r#"{"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "max_completion_tokens": 4, "#,
        r#""messages": [{"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "house"}]}]}}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "the house"}]}"#,
        "\n"
    );
    let dataset = read(text).unwrap();
    assert_eq!(dataset.format, FileFormat::Openai);
    assert_eq!(dataset.prompts[0].id, "r-1");
    assert_eq!(dataset.prompts[0].body, PromptBody::Messages(vec![message("user", "the house")]));
    assert_eq!(dataset.prompts[0].output_tokens, 4);
    assert_eq!(dataset.prompts[1].body, PromptBody::Messages(vec![message("user", "the")]));
    assert_eq!(dataset.prompts[1].output_tokens, 2);
}

#[test]
fn bad_entries_name_file_line_and_expectation() {
    let check = |text: &str, format: FileFormat, parts: &[&str]| {
        let error = read_as(text, format).expect_err("must fail");
        for part in ["x.jsonl"].iter().chain(parts) {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    let auto = FileFormat::Auto;
    check("", auto, &["is empty"]);
    check("[]", auto, &["is empty"]);
    check("{\"prompt\": \"a\"}\n{\"prompt\": 5}\n", auto, &["line 2", "`prompt` is the number 5", "expected a string"]);
    check("{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\"\n", auto, &["line 3", "one JSON object per line"]);
    check("{\"prompt\": \"a\"}\n{\"text\": \"a\"}\n", auto, &["line 2", "has no `prompt`"]);
    check("{\"text\": \"a\", \"n\": 1}\n", auto, &["line 1", "text", "expected `prompt`, `messages`"]);
    check("5\n", auto, &["line 1", "the number 5", "object"]);
    check("[\n{\"prompt\": \"a\"},\n{\"prompt\": null}\n]", auto, &["line 3", "`prompt` is null"]);
    check("[\n{\"prompt\": \"a\"},\n", auto, &["line 3", "not valid JSON"]);
    check("{\"prompt\": \"a\", \"expected_output_length\": 0}", auto, &["`expected_output_length`", "from 1"]);
    check("{\"prompt\": \"a\", \"metadata\": 1}", auto, &["`metadata`", "an object"]);
    check("{\"messages\": []}", auto, &["none of its 1 conversations"]);
    check("{\"messages\": [{\"role\": \"user\"}]}", auto, &["message 1 has no text"]);
    check("{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}", auto, &["not text"]);
    check("{\"conversations\": [{\"from\": \"tool\", \"value\": \"x\"}]}", auto, &["turn 1 is from `tool`"]);
    check("{\"prompt\": \"a\"}", FileFormat::Sharegpt, &["has no `conversations`"]);
    check("{\"prompt\": \"a\"}", FileFormat::Messages, &["has no `messages`"]);
}

#[test]
fn text_that_is_not_utf8_names_its_line() {
    let error = parse_dataset(b"{}\n\xff\n", Path::new("x"), FileFormat::Auto, 1, &Tokenizer::builtin())
        .expect_err("must fail");
    assert!(error.to_string().contains("line 2: is not UTF-8"), "{error}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_dataset(&bytes, Path::new("x"), FileFormat::Auto, 1, &Tokenizer::builtin());
    }

    #[test]
    fn random_json_never_panics(
        keys in prop::collection::vec(("prompt|messages|conversations|body|id|role|content|from|value|max_tokens",
            "null|5|-1.5|\"x\"|\\[\\]|\\{\\}|\\[\\{\"role\":\"user\",\"content\":\"x\"\\}\\]|\\[\\{\"from\":\"human\",\"value\":\"x\"\\}\\]"), 0..5),
        array in any::<bool>(),
    ) {
        let fields: Vec<String> = keys.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let object = format!("{{{}}}", fields.join(","));
        let text = if array { format!("[{object},\n{object}]") } else { format!("{object}\n{object}\n") };
        for format in [FileFormat::Auto, FileFormat::Legacy, FileFormat::Messages, FileFormat::Sharegpt, FileFormat::Openai] {
            if let Err(error) = read_as(&text, format) {
                prop_assert!(error.contains("x.jsonl"), "{}", error);
            }
        }
    }

    #[test]
    fn lines_of_array_elements_are_right(gaps in prop::collection::vec(0usize..4, 1..8), deep in "[\\[\\]{},\"\\\\a\n]{0,10}") {
        let mut text = "[".to_owned();
        let mut expected = Vec::new();
        for (idx, gap) in gaps.iter().enumerate() {
            text.push_str(if idx > 0 { "," } else { "" });
            text.push_str(&"\n".repeat(*gap));
            expected.push(line_of(text.as_bytes()));
            text.push_str(&serde_json::json!({"a": [deep, {"b": deep}]}).to_string());
        }
        text.push_str("\n]");
        prop_assert_eq!(element_lines(&text), expected);
    }
}
