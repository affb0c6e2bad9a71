use proptest::prelude::*;
use servelab_core::workload::{Category, FileFormat, FileSpec, Mix};

use super::*;
use crate::formats::{Dataset, read_dataset};
use crate::stats::stats;

fn read(path: &Path) -> Result<Dataset, DataError> {
    let path = path.to_str().unwrap().to_owned();
    let file = FileSpec { path, format: FileFormat::Auto, output_tokens: None };
    read_dataset(&file, Path::new(""), &Tokenizer::builtin())
}

#[test]
fn created_sets_read_back_as_they_were_counted() {
    let tokenizer = Tokenizer::builtin();
    let dir = tempfile::tempdir().unwrap();
    let spec = SynthSpec::mixed(40, Mix { short: 0.75, medium: 0.25, long: 0.0 }, Some(200));
    let written = create("mine", &spec, &tokenizer, &dir.path().join("new")).unwrap();
    assert_eq!((written.name.as_str(), written.n), ("mine", 40));
    let bytes = std::fs::read(&written.path).unwrap();
    assert_eq!(hex_sha256(&bytes), written.sha256);
    let dataset = read(&written.path).unwrap();
    assert_eq!(dataset.format, FileFormat::Legacy);
    assert!(dataset.prompts.iter().all(|prompt| prompt.stated_input_tokens == Some(prompt.input_tokens)));
    assert_eq!(dataset.prompts.iter().filter(|prompt| prompt.category == Some(Category::Short)).count(), 30);
    assert_eq!(dataset.prompts.iter().map(|prompt| u64::from(prompt.input_tokens)).sum::<u64>(), written.input_tokens);
    assert_eq!(stats(&dataset.prompts, &tokenizer).unwrap().lints, []);
    // Only the finished file is left.
    assert_eq!(std::fs::read_dir(written.path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn the_legacy_form_has_its_keys_and_no_others() {
    let tokenizer = Tokenizer::builtin();
    let dir = tempfile::tempdir().unwrap();
    let spec = SynthSpec::mixed(1, Mix { short: 1.0, medium: 0.0, long: 0.0 }, None);
    let written = create("one", &spec, &tokenizer, dir.path()).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(written.path).unwrap()).unwrap();
    let mut keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["expected_output_length", "metadata", "prompt", "prompt_length"]);
    assert_eq!(line["metadata"]["category"], "short");
    assert_eq!(line["metadata"]["template_type"], "synthetic");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let tokenizer = Tokenizer::builtin();
    let dir = tempfile::tempdir().unwrap();
    let digest = |folder: &str, seed: u64| {
        let spec = SynthSpec { seed, ..SynthSpec::exact(20, 50, 10) };
        create("set", &spec, &tokenizer, &dir.path().join(folder)).unwrap().sha256
    };
    assert_eq!(digest("a", 1), digest("b", 1));
    assert_ne!(digest("a", 1), digest("a", 2));
}

#[test]
fn messages_form_reads_back() {
    let tokenizer = Tokenizer::builtin();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.json");
    let prompts = synthesize(&SynthSpec::exact(3, 30, 10), 1, "x", 3, &tokenizer).unwrap();
    write_messages(&path, &prompts).unwrap();
    let read = read(&path).unwrap();
    assert_eq!(read.format, FileFormat::Messages);
    for (written, read) in prompts.iter().zip(&read.prompts) {
        assert_eq!((read.input_tokens, read.output_tokens, &read.id), (30, 10, &written.id));
        assert_eq!(read.body.messages(), written.body.messages());
    }
    let error = write_legacy(&path, &read.prompts).expect_err("must fail");
    assert!(error.to_string().contains("conversation"), "{error}");
}

#[test]
fn unfit_names_and_places_are_refused() {
    let tokenizer = Tokenizer::builtin();
    let dir = tempfile::tempdir().unwrap();
    let spec = SynthSpec::exact(1, 10, 10);
    for name in ["", "../x", "a b", ".hidden"] {
        let error = create(name, &spec, &tokenizer, dir.path()).expect_err("must fail");
        assert!(error.to_string().contains("`name`"), "{error}");
    }
    let blocker = dir.path().join("file");
    std::fs::write(&blocker, "x").unwrap();
    let error = create("x", &spec, &tokenizer, &blocker).expect_err("must fail");
    assert!(error.to_string().contains("write the dataset"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]
    #[test]
    fn any_text_survives_the_legacy_form(texts in prop::collection::vec(any::<String>(), 1..5), output in 1u32..u32::MAX) {
        let tokenizer = Tokenizer::builtin();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        let prompts: Vec<Prompt> = texts.iter().enumerate().map(|(idx, text)| Prompt {
            id: format!("p{idx}"),
            body: PromptBody::Text(text.clone()),
            input_tokens: tokenizer.count(text).unwrap(),
            output_tokens: output,
            temperature: None,
            category: Some(Category::Long),
            group: Some(3),
            stated_input_tokens: Some(tokenizer.count(text).unwrap()),
        }).collect();
        write_legacy(&path, &prompts).unwrap();
        prop_assert_eq!(read(&path).unwrap().prompts, prompts);
    }
}
