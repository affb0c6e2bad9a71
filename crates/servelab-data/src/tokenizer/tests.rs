use proptest::prelude::*;

use super::*;

const ENGLISH: &str = "The committee published its findings on Tuesday, after nearly eighteen months of interviews with \
    residents, shopkeepers and former employees. It concludes that the bridge was safe when it opened in 1974, but that \
    repeated budget cuts left inspectors without the instruments they needed. \"Nobody was negligent,\" the chairwoman \
    said, \"yet everybody assumed that somebody else was watching.\" Repairs will begin next spring and should take about \
    two years; until then, heavy lorries must use the longer route through the valley.";

pub(crate) fn byte_level_json() -> String {
    // A byte-level BPE without merges: one token per byte, which is the hardest case for whoever counts by word.
    let mut vocab = serde_json::Map::new();
    for (id, c) in byte_level_alphabet().into_iter().enumerate() {
        vocab.insert(c.to_string(), id.into());
    }
    serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
    .to_string()
}

fn byte_level_alphabet() -> Vec<char> {
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    alphabet
}

#[test]
fn english_has_about_four_characters_per_token() {
    let tokenizer = Tokenizer::builtin();
    let ratio = ENGLISH.len() as f64 / f64::from(tokenizer.count(ENGLISH).expect("counts"));
    assert!((3.5..5.0).contains(&ratio), "{ratio}");
}

#[test]
fn parts_are_cut_as_expected() {
    let tokenizer = Tokenizer::builtin();
    let check = |text: &str, expected: &[&str]| {
        let ids = tokenizer.encode(text).expect("encodes");
        let pieces: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id]).expect("decodes")).collect();
        assert_eq!(pieces, expected, "{text:?}");
    };
    check("", &[]);
    check("the house", &["the", " house"]);
    check("The house.", &["The", " house", "."]);
    check("12345 6", &["123", "45", " ", "6"]);
    check("a  house\n\nThe", &["a", " ", " house", "\n\n", "The"]);
    check("don't", &["do", "n't"]);
    check(" ", &[" "]);
}

#[test]
fn missing_tokenizers_name_the_next_command() {
    let check = |path: &str, parts: &[&str]| {
        let error = Tokenizer::load(&path.parse().unwrap()).expect_err("must fail").to_string();
        for part in parts.iter().chain(&["--tokenizer builtin"]) {
            assert!(error.contains(part), "{error}");
        }
    };
    check("zai-org/No-Model", &["download zai-org/No-Model tokenizer.json --local-dir zai-org/No-Model"]);
    check("/nowhere/at/all", &["/nowhere/at/all", "huggingface-cli download ORG/MODEL"]);
    let dir = tempfile::tempdir().unwrap();
    check(&dir.path().display().to_string(), &["holds no tokenizer.json"]);
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = Tokenizer::load(&TokenizerSource::Path(dir.path().into())).expect_err("must fail").to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_tokenizer_file_is_read_without_its_truncation() {
    let dir = tempfile::tempdir().unwrap();
    let json = byte_level_json();
    std::fs::write(dir.path().join("tokenizer.json"), &json).unwrap();
    let by_folder = Tokenizer::load(&TokenizerSource::Path(dir.path().into())).unwrap();
    let by_file = Tokenizer::load(&TokenizerSource::Path(dir.path().join("tokenizer.json"))).unwrap();
    assert_eq!(by_folder.count("twelve bytes").unwrap(), 12);
    assert_eq!(by_folder.decode(&by_folder.encode("twelve bytes").unwrap()).unwrap(), "twelve bytes");
    assert_eq!(by_folder.fingerprint(), by_file.fingerprint());
    assert_eq!(by_folder.fingerprint(), hex_sha256(json.as_bytes()));
    assert_ne!(by_folder.fingerprint(), Tokenizer::builtin().fingerprint());
    assert_eq!(by_folder.special_tokens_per_prompt().unwrap(), 0);
}

#[test]
fn sources_parse_and_print() {
    assert_eq!("builtin".parse(), Ok(TokenizerSource::Builtin));
    assert_eq!("models/x".parse(), Ok(TokenizerSource::Path("models/x".into())));
    assert_eq!(TokenizerSource::Builtin.to_string(), "builtin");
}

proptest! {
    #[test]
    fn any_text_survives_the_round_trip(text in any::<String>()) {
        let tokenizer = Tokenizer::builtin();
        let ids = tokenizer.encode(&text).expect("encodes");
        prop_assert_eq!(ids.len() as u32, tokenizer.count(&text).expect("counts"));
        prop_assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
    }

    #[test]
    fn english_like_text_survives_the_round_trip(text in "([A-Za-z']{1,12}| {1,20}|[0-9]{1,9}|[.,;()\"\n\t-]{1,4}){0,40}") {
        let tokenizer = Tokenizer::builtin();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).expect("encodes")).expect("decodes"), text);
    }
}
