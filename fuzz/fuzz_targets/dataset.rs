//! Dataset files in every format: prompts, conversations, or an error that names the line.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use servelab_core::workload::FileFormat;
use servelab_data::{Tokenizer, parse_conversations, parse_dataset};

const FORMATS: [FileFormat; 5] =
    [FileFormat::Auto, FileFormat::Legacy, FileFormat::Messages, FileFormat::Sharegpt, FileFormat::Openai];

fuzz_target!(|bytes: &[u8]| {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(Tokenizer::builtin);
    for format in FORMATS {
        match parse_dataset(bytes, Path::new("set.jsonl"), format, 128, tokenizer) {
            Ok(set) => assert!(!set.prompts.is_empty() && set.format != FileFormat::Auto),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(file) = parse_conversations(bytes, Path::new("set.jsonl"), format, 128, Some(8), tokenizer) {
            assert!(file.scripts.iter().all(|script| (1..=8).contains(&script.turns.len())));
        }
    }
});
