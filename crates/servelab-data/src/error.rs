//! What can go wrong with datasets and tokenizers. Messages are fragments that follow "failed to".

use std::io;
use std::path::PathBuf;

use servelab_core::workload::WorkloadProblem;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is no tokenizer where one was expected.
    #[error(
        "load the tokenizer `{}`: {reason}; use `--tokenizer builtin`, or fetch one with `huggingface-cli download {model} tokenizer.json --local-dir {}`",
        path.display(), directory.display()
    )]
    TokenizerMissing {
        /// What was given.
        path: PathBuf,
        /// What is missing.
        reason: String,
        /// The model to download, as far as it can be guessed.
        model: String,
        /// Folder to download to.
        directory: PathBuf,
    },
    /// A tokenizer file that cannot be used.
    #[error("load the tokenizer `{}`: {reason}; use `--tokenizer builtin`, or download the file again", path.display())]
    TokenizerBroken {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The tokenizer refused a text.
    #[error("tokenize a text of {bytes} bytes: {reason}")]
    Tokenize {
        /// Size of the text.
        bytes: usize,
        /// What the tokenizer said.
        reason: String,
    },
    /// No text with the wanted number of tokens was found.
    #[error(
        "make a prompt of exactly {wanted} tokens: the tokenizer merges its pieces so that only {reached} came out; ask for another length or use `--tokenizer builtin`"
    )]
    Length {
        /// Tokens wanted.
        wanted: u32,
        /// Tokens of the closest text.
        reached: u32,
    },
    /// A dataset specification that makes no sense.
    #[error("use the dataset: {0}")]
    Spec(#[from] WorkloadProblem),
    /// A file could not be read.
    #[error("read the dataset `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("write the dataset `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One entry of a dataset file is not what its format asks for.
    #[error("read the dataset `{}`, line {line}: {reason}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Line of the entry, from 1.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// A dataset file without a usable prompt.
    #[error("read the dataset `{}`: {reason}", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
        /// Why nothing is left.
        reason: String,
    },
    /// A file has fewer prompts than the load needs.
    #[error(
        "draw {wanted} prompts for `{stream}` from `{}`: it holds {available} prompts and {drawn} are already taken; give a file of at least {} prompts, ask for fewer requests, or set `reuse: true`",
        path.display(), drawn + wanted
    )]
    TooFewPrompts {
        /// The file.
        path: PathBuf,
        /// The stream that came away empty.
        stream: String,
        /// Prompts that it asked for.
        wanted: usize,
        /// Prompts that earlier streams took.
        drawn: usize,
        /// Prompts in the file.
        available: usize,
    },
    /// Two streams of one draw have the same name, so a synthetic set would give them the same prompts.
    #[error("draw prompts: the stream `{stream}` is asked for twice; give each stream its own name")]
    StreamTwice {
        /// The name.
        stream: String,
    },
    /// Single prompts were asked for.
    #[error("draw prompts: this dataset holds conversations, whose prompts depend on the server's answers")]
    NotSingle,
    /// The legacy form holds plain text only.
    #[error("write prompt `{id}` in the legacy form: it is a conversation; write the messages form instead")]
    NotPlainText {
        /// The prompt.
        id: String,
    },
}
