//! Prompts: tokenizers, synthesis with exact token counts, dataset files in and out, statistics and lints. What a study
//! says about its dataset is `servelab_core::workload`; sending prompts and printing is left to others.

mod conversation;
mod create;
mod error;
mod formats;
mod prompt;
mod source;
mod stats;
mod synth;
mod tokenizer;
mod trace;

pub use conversation::{ConversationFile, ConversationScript, ScriptTurn, parse_conversations, read_conversations};
pub use create::{Written, create, create_suite, write_legacy, write_messages};
pub use error::DataError;
pub use formats::{Dataset, parse_dataset, read_dataset};
pub use prompt::{Message, Prompt, PromptBody};
pub use source::{Item, ItemStream, PromptSource, StreamRequest, file_sha256};
pub use stats::{CategoryStats, DatasetStats, Histogram, HistogramBin, LengthStats, Lint, render_stats, stats};
pub use synth::synthesize;
pub use tokenizer::{Tokenizer, TokenizerSource};
pub use trace::{
    REORDER_REQUESTS, TraceCounts, TracePrompt, TracePrompts, TraceReader, TraceRecord, TraceSummary, open_trace,
    summarise_trace,
};
