//! One prompt with its lengths, wherever it came from. Nothing here knows files or tokenizers.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use servelab_core::workload::Category;

/// One request's content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prompt {
    /// Unique within its dataset or stream.
    pub id: String,
    /// What is sent.
    pub body: PromptBody,
    /// Tokens of the text, or of all message contents; special tokens and the chat template are not counted.
    pub input_tokens: u32,
    /// Target output length in tokens (`max_tokens` of the request).
    pub output_tokens: u32,
    /// Sampling temperature, where the dataset states one.
    pub temperature: Option<f64>,
    /// Length class, where the dataset states one.
    pub category: Option<Category>,
    /// Prompts with the same number were made with the same prefix.
    pub group: Option<u32>,
    /// Prompt length that the file claims, in tokens.
    pub stated_input_tokens: Option<u32>,
}

/// What is sent to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptBody {
    /// Plain text: a completion, or one user message.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, …
    pub role: String,
    /// The text.
    pub content: String,
}

impl PromptBody {
    /// Is it a list of messages?
    pub fn is_messages(&self) -> bool {
        matches!(self, Self::Messages(_))
    }

    /// The text, messages joined by line feeds: for statistics and for endpoints that know no messages.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Messages(messages) => {
                Cow::Owned(messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// The content as chat messages; plain text becomes one user message.
    pub fn messages(&self) -> Cow<'_, [Message]> {
        match self {
            Self::Text(text) => Cow::Owned(vec![Message { role: "user".to_owned(), content: text.clone() }]),
            Self::Messages(messages) => Cow::Borrowed(messages),
        }
    }
}
