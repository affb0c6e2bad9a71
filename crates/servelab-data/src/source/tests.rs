use std::collections::BTreeSet;

use servelab_core::workload::{FileFormat, SuiteName};

use super::*;

fn streams(sizes: &[(&str, usize)]) -> Vec<StreamRequest> {
    sizes.iter().map(|(name, n)| StreamRequest { name: (*name).to_owned(), n: *n }).collect()
}

fn file_of(n: usize) -> (tempfile::TempDir, DatasetSpec) {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..n).map(|idx| format!("{{\"prompt\": \"prompt number {idx}\"}}\n")).collect();
    std::fs::write(dir.path().join("x.jsonl"), lines).unwrap();
    let spec =
        DatasetSpec::File(FileSpec { path: "x.jsonl".to_owned(), format: FileFormat::Auto, output_tokens: Some(9) });
    (dir, spec)
}

fn ids(prompts: &[Prompt]) -> BTreeSet<String> {
    prompts.iter().map(|prompt| prompt.id.clone()).collect()
}

#[test]
fn file_streams_are_disjoint_seeded_slices() {
    let tokenizer = Tokenizer::builtin();
    let (dir, spec) = file_of(30);
    let mut source = PromptSource::open(&spec, dir.path(), &tokenizer, 1).unwrap();
    let first = source.draw(&streams(&[("warmup", 5), ("level-0", 10)])).unwrap();
    assert_eq!(source.remaining(), Some(15));
    let second = source.draw(&streams(&[("level-1", 15)])).unwrap();
    let all: BTreeSet<String> = first.iter().chain(&second).flat_map(|stream| ids(stream)).collect();
    assert_eq!(all.len(), 30);
    assert!(first.iter().flatten().all(|prompt| prompt.output_tokens == 9 && prompt.input_tokens > 0));

    let again = |seed| {
        let mut source = PromptSource::open(&spec, dir.path(), &tokenizer, seed).unwrap();
        source.draw(&streams(&[("warmup", 5), ("level-0", 10)])).unwrap()
    };
    assert_eq!(again(1), first);
    assert_ne!(again(2), first);
}

#[test]
fn a_file_that_is_too_small_names_both_numbers_and_loses_nothing() {
    let tokenizer = Tokenizer::builtin();
    let (dir, spec) = file_of(10);
    let mut source = PromptSource::open(&spec, dir.path(), &tokenizer, 1).unwrap();
    source.draw(&streams(&[("warmup", 4)])).unwrap();
    let error = source.draw(&streams(&[("a", 2), ("level-0", 5)])).expect_err("must fail").to_string();
    for part in ["5 prompts for `level-0`", "x.jsonl", "holds 10", "6 are already taken", "at least 11", "reuse"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(source.remaining(), Some(6));
}

#[test]
fn reuse_goes_round_with_fresh_ids() {
    let tokenizer = Tokenizer::builtin();
    let (dir, spec) = file_of(4);
    let mut source = PromptSource::open(&spec, dir.path(), &tokenizer, 1).unwrap().with_reuse(true);
    let drawn = source.draw(&streams(&[("a", 10)])).unwrap();
    assert_eq!(ids(&drawn[0]).len(), 10);
    assert_eq!(drawn[0][0].body, drawn[0][4].body);
    assert_eq!(source.remaining(), None);
}

#[test]
fn synthetic_streams_grow_and_repeat_by_name() {
    let tokenizer = Tokenizer::builtin();
    let spec = DatasetSpec::Synth(SynthSpec::exact(2, 32, 100));
    let mut source = PromptSource::open(&spec, Path::new("."), &tokenizer, 1).unwrap().with_max_output(Some(7));
    let first = source.draw(&streams(&[("warmup", 3), ("level-0", 20)])).unwrap();
    assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [3, 20]);
    assert!(first.iter().flatten().all(|prompt| prompt.output_tokens == 7));
    let second = source.draw(&streams(&[("level-0", 20)])).unwrap();
    assert_eq!(first[1], second[0]);
    let error = source.draw(&streams(&[("a", 1), ("a", 1)])).expect_err("must fail");
    assert!(error.to_string().contains("asked for twice"), "{error}");
}

#[test]
fn suites_missing_files_and_empty_prompts() {
    let tokenizer = Tokenizer::builtin();
    let suite = DatasetSpec::Suite(SuiteName::ShortLatency);
    let mut source = PromptSource::open(&suite, Path::new("."), &tokenizer, 1).unwrap();
    assert_eq!(source.draw(&streams(&[("a", 10)])).unwrap()[0].len(), 10);

    let (dir, spec) = file_of(1);
    let error = PromptSource::open(&spec, Path::new("/nowhere"), &tokenizer, 1).expect_err("must fail");
    assert!(error.to_string().contains("/nowhere/x.jsonl"), "{error}");
    std::fs::write(dir.path().join("x.jsonl"), "{\"prompt\": \"\"}\n").unwrap();
    let error = PromptSource::open(&spec, dir.path(), &tokenizer, 1).expect_err("must fail");
    assert!(error.to_string().contains("is empty"), "{error}");
}

#[test]
fn a_file_is_known_by_its_content() {
    let (dir, spec) = file_of(3);
    let DatasetSpec::File(file) = spec else { panic!("is a file") };
    let digest = file_sha256(&file, dir.path()).unwrap();
    std::fs::rename(dir.path().join("x.jsonl"), dir.path().join("y.jsonl")).unwrap();
    let moved = FileSpec { path: "y.jsonl".to_owned(), ..file };
    assert_eq!(file_sha256(&moved, dir.path()).unwrap(), digest);
    assert_eq!(digest.len(), 64);
}
