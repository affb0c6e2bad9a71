use std::collections::BTreeSet;

use servelab_core::workload::{FileFormat, SuiteName};

use super::*;

fn streams(sizes: &[(&str, usize)]) -> Vec<StreamRequest> {
    sizes.iter().map(|(name, n)| StreamRequest::items(*name, *n)).collect()
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
    let tokenizer = Arc::new(Tokenizer::builtin());
    let (dir, spec) = file_of(30);
    let mut source = PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), 1).unwrap();
    let first = source.draw(&streams(&[("warmup", 5), ("level-0", 10)])).unwrap();
    assert_eq!(source.remaining(), Some(15));
    let second = source.draw(&streams(&[("level-1", 15)])).unwrap();
    let all: BTreeSet<String> = first.iter().chain(&second).flat_map(|stream| ids(stream)).collect();
    assert_eq!(all.len(), 30);
    assert!(first.iter().flatten().all(|prompt| prompt.output_tokens == 9 && prompt.input_tokens > 0));

    let again = |seed| {
        let mut source = PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), seed).unwrap();
        source.draw(&streams(&[("warmup", 5), ("level-0", 10)])).unwrap()
    };
    assert_eq!(again(1), first);
    assert_ne!(again(2), first);
}

#[test]
fn a_file_that_is_too_small_names_both_numbers_and_loses_nothing() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let (dir, spec) = file_of(10);
    let mut source = PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), 1).unwrap();
    source.draw(&streams(&[("warmup", 4)])).unwrap();
    let error = source.draw(&streams(&[("a", 2), ("level-0", 5)])).expect_err("must fail").to_string();
    for part in ["5 prompts for `level-0`", "x.jsonl", "holds 10", "6 are already taken", "at least 11", "reuse"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(source.remaining(), Some(6));
}

#[test]
fn reuse_goes_round_with_fresh_ids() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let (dir, spec) = file_of(4);
    let mut source = PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), 1).unwrap().with_reuse(true);
    let drawn = source.draw(&streams(&[("a", 10)])).unwrap();
    assert_eq!(ids(&drawn[0]).len(), 10);
    assert_eq!(drawn[0][0].body, drawn[0][4].body);
    assert_eq!(source.remaining(), None);
}

#[test]
fn synthetic_streams_grow_and_repeat_by_name() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let spec = DatasetSpec::Synth(SynthSpec::exact(2, 32, 100));
    let mut source =
        PromptSource::open(&spec, Path::new("."), Arc::clone(&tokenizer), 1).unwrap().with_max_output(Some(7));
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
    let tokenizer = Arc::new(Tokenizer::builtin());
    let suite = DatasetSpec::Suite(SuiteName::ShortLatency);
    let mut source = PromptSource::open(&suite, Path::new("."), Arc::clone(&tokenizer), 1).unwrap();
    assert_eq!(source.draw(&streams(&[("a", 10)])).unwrap()[0].len(), 10);

    let (dir, spec) = file_of(1);
    let error = PromptSource::open(&spec, Path::new("/nowhere"), Arc::clone(&tokenizer), 1).expect_err("must fail");
    assert!(error.to_string().contains("/nowhere/x.jsonl"), "{error}");
    std::fs::write(dir.path().join("x.jsonl"), "{\"prompt\": \"\"}\n").unwrap();
    let error = PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), 1).expect_err("must fail");
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

fn prompts(stream: &mut ItemStream, n: usize) -> Vec<Prompt> {
    let prompt = |item: Result<Item, DataError>| match item.unwrap() {
        Item::Prompt(prompt) => prompt,
        other => panic!("{other:?} is no prompt"),
    };
    stream.by_ref().take(n).map(prompt).collect()
}

#[test]
fn lazy_streams_are_the_drawn_ones_and_go_on() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let shared = servelab_core::workload::SharedPrefix { tokens: Some(6), hit_rate: None, groups: 3 };
    let mix = servelab_core::workload::Mix { short: 0.8, medium: 0.2, long: 0.0 };
    for spec in [
        SynthSpec::exact(40, 4, 5),
        SynthSpec { length_jitter: Some(0.5), shared_prefix: Some(shared), ..SynthSpec::exact(40, 60, 5) },
        SynthSpec::mixed(40, mix, Some(30)),
    ] {
        let spec = DatasetSpec::Synth(spec);
        let open = || PromptSource::open(&spec, Path::new("."), Arc::clone(&tokenizer), 1).unwrap();
        let drawn = open().draw(&streams(&[("a", 40)])).unwrap();
        let mut lazy = open().streams(&streams(&[("a", 40)])).unwrap();
        assert_eq!(prompts(&mut lazy[0], 40), drawn[0]);
        let more = prompts(&mut lazy[0], 80);
        assert_eq!(more.len(), 80);
        assert!(more.iter().all(|prompt| tokenizer.count(&prompt.body.text()).unwrap() == prompt.input_tokens));
        let texts: BTreeSet<_> = drawn[0].iter().chain(&more).map(|prompt| prompt.body.text()).collect();
        assert!(texts.len() > 110, "{}", texts.len());
    }
}

#[test]
fn the_mix_is_met_in_every_chunk() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let mix = servelab_core::workload::Mix { short: 0.75, medium: 0.25, long: 0.0 };
    let spec = DatasetSpec::Synth(SynthSpec::mixed(8, mix, None));
    let mut source = PromptSource::open(&spec, Path::new("."), tokenizer, 1).unwrap();
    let mut lazy = source.streams(&streams(&[("a", 8)])).unwrap();
    let mut orders = BTreeSet::new();
    for _ in 0..4 {
        let chunk = prompts(&mut lazy[0], 8);
        let short = |prompt: &Prompt| prompt.category == Some(servelab_core::workload::Category::Short);
        assert_eq!(chunk.iter().filter(|prompt| short(prompt)).count(), 6);
        orders.insert(chunk.iter().map(short).collect::<Vec<_>>());
    }
    assert!(orders.len() > 1, "chunks are shuffled anew");
}

#[test]
fn traces_are_read_whole_before_anything_is_sent() {
    let tokenizer = Arc::new(Tokenizer::builtin());
    let dir = tempfile::tempdir().unwrap();
    let good = "Timestamp,Request tokens,Response tokens\n1,5,6\n2,7,300\n";
    std::fs::write(dir.path().join("good.csv"), good).unwrap();
    std::fs::write(dir.path().join("bad.csv"), format!("{good}3,x,1\n")).unwrap();
    let open = |name: &str| {
        let spec = DatasetSpec::Trace(TraceSpec::new(name));
        PromptSource::open(&spec, dir.path(), Arc::clone(&tokenizer), 1).map(|source| source.with_max_output(Some(9)))
    };
    let error = open("bad.csv").expect_err("must fail").to_string();
    assert!(error.contains("line 4") && error.contains("Request tokens"), "{error}");
    let mut source = open("good.csv").unwrap();
    assert_eq!((source.remaining(), source.trace().unwrap().last_ns), (Some(2), 1_000_000_000));
    let both = source.streams(&streams(&[("a", 9), ("b", 9)])).unwrap();
    let [a, b] = <[Vec<Item>; 2]>::try_from(
        both.into_iter().map(|stream| stream.map(Result::unwrap).collect()).collect::<Vec<Vec<Item>>>(),
    )
    .unwrap();
    let (Item::Traced(first), Item::Traced(other)) = (&a[0], &b[0]) else { panic!("are traced") };
    assert_ne!(first.prompt.body, other.prompt.body);
    let Item::Traced(second) = &a[1] else { panic!("is traced") };
    assert_eq!((second.at_ns, second.prompt.input_tokens, second.prompt.output_tokens), (1_000_000_000, 7, 9));
    assert_eq!((a.len(), b.len()), (2, 2));
}

#[test]
fn conversations_stream_from_files_and_from_nothing() {
    use servelab_core::workload::{ConversationSpec, ConversationSynth};
    let tokenizer = Arc::new(Tokenizer::builtin());
    let dir = tempfile::tempdir().unwrap();
    let talk = |n: usize| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"question {n}\"}}]}}\n");
    std::fs::write(dir.path().join("c.jsonl"), (0..6).map(talk).collect::<String>()).unwrap();
    let file = FileSpec { path: "c.jsonl".to_owned(), format: FileFormat::Auto, output_tokens: Some(9) };
    let open = |spec: ConversationSpec| {
        PromptSource::open(&DatasetSpec::Conversations(spec), dir.path(), Arc::clone(&tokenizer), 1).unwrap()
    };
    let mut source = open(ConversationSpec::from_file(file.clone()));
    let both = source.streams(&streams(&[("a", 2), ("b", 4)])).unwrap();
    let questions: BTreeSet<String> = both
        .into_iter()
        .flatten()
        .map(|item| match item.unwrap() {
            Item::Conversation(script) => script.turns[0].user.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((questions.len(), source.remaining()), (6, Some(0)));
    assert!(source.streams(&streams(&[("c", 1)])).is_err());
    // Two turns each: three requests take two conversations.
    let two = |n: usize| {
        let turn = |k: usize| format!("{{\"from\": \"human\", \"value\": \"question {n} {k}\"}}");
        format!("{{\"conversations\": [{}, {{\"from\": \"gpt\", \"value\": \"a\"}}, {}]}}\n", turn(0), turn(1))
    };
    std::fs::write(dir.path().join("c.jsonl"), (0..3).map(two).collect::<String>()).unwrap();
    let mut source = open(ConversationSpec::from_file(file));
    let three = source.streams(&[StreamRequest::requests("a", 3)]).unwrap().remove(0);
    assert_eq!(three.count(), 2);
    let error = source.streams(&[StreamRequest::requests("b", 3)]).unwrap_err().to_string();
    assert!(
        error.contains("draw 3 prompts") && error.contains("holds 6") && error.contains("4 are already"),
        "{error}"
    );
    let mut endless = open(ConversationSpec::generated(ConversationSynth::exact(2, 5, 5)));
    assert_eq!(endless.streams(&streams(&[("a", 1)])).unwrap().remove(0).take(3).count(), 3);
    assert!(matches!(endless.draw(&streams(&[("a", 1)])), Err(DataError::NotSingle)));
}
