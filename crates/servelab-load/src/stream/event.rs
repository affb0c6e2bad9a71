//! The meaning of one event of an OpenAI-style stream (or of one whole JSON answer): which tokens it carries, usage,
//! finish reason, error. Dialects seen: vLLM, SGLang, llama.cpp, OpenAI; completions and chat. Two ways in: [`is_plain_token`],
//! a byte search that settles the usual event without parsing it, and [`decode`], a full JSON decode for all others.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

/// `usage` as the server sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: Option<i64>,
    /// Output tokens so far.
    pub completion_tokens: Option<i64>,
}

/// What one JSON object of a response says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// The server's id of the response.
    pub id: Option<String>,
    /// `choices` is there and not empty.
    pub has_choices: bool,
    /// Choices that carry non-reasoning text or a tool call.
    pub output_pieces: u32,
    /// Choices that carry reasoning text only.
    pub reasoning_pieces: u32,
    /// Token ids of all choices, where the server sends them.
    pub token_ids: Option<Vec<i64>>,
    /// `usage`, when not null.
    pub usage: Option<Usage>,
    /// The first finish reason.
    pub finish_reason: Option<String>,
    /// The message of an error object.
    pub error: Option<String>,
    /// Text of all choices in order, reasoning included.
    pub text: String,
    /// Queue time that the server measured, milliseconds.
    pub server_queue_ms: Option<f64>,
    /// TTFT that the server measured, milliseconds.
    pub server_ttft_ms: Option<f64>,
}

static INDEX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"index\":"));
static TEXT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"text\":\""));
static CONTENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"content\":\""));
static SPECIAL: LazyLock<[Finder<'static>; 8]> = LazyLock::new(|| {
    [
        Finder::new(b"\"finish_reason\":\""),
        Finder::new(b"\"token_ids\":["),
        Finder::new(b"\"usage\":{"),
        Finder::new(b"\"error\""),
        Finder::new(b"\"tool_calls\":["),
        Finder::new(b"\"reasoning_content\":\""),
        Finder::new(b"\"reasoning\":\""),
        Finder::new(b"\"metrics\":{"),
    ]
});

/// True only when the event is one choice with non-empty ordinary text and nothing else that matters: no finish reason,
/// token ids, usage, error, tool call or reasoning. Such an event counts as one token of output and needs no decode.
///
/// The patterns contain bare quotes. Inside a JSON string a quote is always preceded by a backslash, so generated text
/// cannot imitate them. Whatever does not match (spaces after colons, several choices) goes the long way.
pub fn is_plain_token(data: &[u8]) -> bool {
    if data.first() != Some(&b'{') || data.last() != Some(&b'}') {
        return false;
    }
    let has_text = |finder: &Finder<'_>, length: usize| {
        finder.find(data).and_then(|at| data.get(at + length)).is_some_and(|byte| *byte != b'"')
    };
    if !has_text(&TEXT, 8) && !has_text(&CONTENT, 11) {
        return false;
    }
    let Some(index) = INDEX.find(data) else { return false };
    let after_index = data.get(index + 1..).unwrap_or_default();
    INDEX.find(after_index).is_none() && SPECIAL.iter().all(|finder| finder.find(data).is_none())
}

/// True for the stream's end mark.
pub fn is_done_mark(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

/// Decodes one JSON object of a response. `None` when it is not a JSON object.
pub fn decode(data: &[u8]) -> Option<Chunk> {
    let Ok(Value::Object(root)) = serde_json::from_slice::<Value>(data) else { return None };
    let mut chunk = Chunk { id: string(root.get("id")), ..Chunk::default() };
    chunk.error = error_message(&root);
    if let Some(Value::Array(choices)) = root.get("choices") {
        chunk.has_choices = !choices.is_empty();
        for choice in choices {
            read_choice(choice, &mut chunk);
        }
    }
    chunk.usage = root.get("usage").filter(|usage| usage.is_object()).map(|usage| Usage {
        prompt_tokens: usage.get("prompt_tokens").and_then(Value::as_i64),
        completion_tokens: usage.get("completion_tokens").and_then(Value::as_i64),
    });
    if let Some(metrics) = root.get("metrics") {
        chunk.server_queue_ms = metrics.get("queue_time_ms").and_then(Value::as_f64);
        chunk.server_ttft_ms = metrics.get("time_to_first_token_ms").and_then(Value::as_f64);
    }
    Some(chunk)
}

fn read_choice(choice: &Value, chunk: &mut Chunk) {
    // A stream has `delta`, a whole chat answer `message`, completions neither.
    let part = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(choice);
    let text = |key: &str| part.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let reasoning = text("reasoning_content").or_else(|| text("reasoning"));
    let content = text("content").or_else(|| text("text")).or_else(|| text("refusal"));
    let has_tool_call = part.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty())
        || part.get("function_call").is_some_and(Value::is_object);
    chunk.text.push_str(reasoning.unwrap_or_default());
    chunk.text.push_str(content.unwrap_or_default());
    if content.is_some() || has_tool_call {
        chunk.output_pieces += 1;
    } else if reasoning.is_some() {
        chunk.reasoning_pieces += 1;
    }
    if let Some(ids) = choice.get("token_ids").or_else(|| part.get("token_ids")).and_then(Value::as_array) {
        chunk.token_ids.get_or_insert_default().extend(ids.iter().filter_map(Value::as_i64));
    }
    if chunk.finish_reason.is_none() {
        chunk.finish_reason = string(choice.get("finish_reason"));
    }
}

fn error_message(root: &serde_json::Map<String, Value>) -> Option<String> {
    let error = match root.get("error") {
        // Older vLLM sends the error object itself.
        None | Some(Value::Null) if root.get("object").and_then(Value::as_str) == Some("error") => {
            return Some(string(root.get("message")).unwrap_or_else(|| "unspecified error".to_owned()));
        }
        None | Some(Value::Null) => return None,
        Some(error) => error,
    };
    let message = error.get("message").and_then(Value::as_str).or_else(|| error.as_str());
    Some(message.map_or_else(|| error.to_string(), str::to_owned))
}

fn string(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

/// The message inside an error body, or its beginning as it is.
pub(crate) fn error_detail(body: &[u8]) -> String {
    let text = match decode(body).and_then(|chunk| chunk.error) {
        Some(message) => message,
        None => match serde_json::from_slice::<Value>(body) {
            // FastAPI's own errors.
            Ok(value) => string(value.get("detail")).unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()),
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        },
    };
    text.trim().chars().take(500).collect()
}
