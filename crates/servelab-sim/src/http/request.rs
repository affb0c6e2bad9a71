//! What clients may ask for: the fields of completion and chat requests, checked in vLLM's order and refused in its
//! words. Unknown fields are allowed, as there.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::App;
use super::refuse::ApiError;
use crate::text::render_chat;

/// Which API a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

/// A checked request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) endpoint: Endpoint,
    /// The served name that was asked for.
    pub(super) model: String,
    /// One entry per prompt, as token ids.
    pub(super) prompts: Vec<Arc<[u32]>>,
    /// Choices per prompt.
    pub(super) n: u32,
    /// Output limit of each prompt.
    pub(super) max_tokens: Vec<u32>,
    pub(super) min_tokens: u32,
    pub(super) ignore_eos: bool,
    pub(super) stop: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
    pub(super) return_token_ids: bool,
    pub(super) request_seed: u64,
    pub(super) request_id: Option<String>,
}

struct Fields(Map<String, Value>);

impl Fields {
    fn present(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let parsed = match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_i64(),
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| {
            let (kind, text) = match value {
                Value::String(_) => {
                    ("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
                }
                Value::Number(_) => {
                    ("int_from_float", "Input should be a valid integer, got a number with a fractional part")
                }
                _ => ("int_type", "Input should be a valid integer"),
            };
            ApiError::field(name, kind, text, value)
        })
    }

    fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.present(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(ApiError::field(name, "bool_parsing", "Input should be a valid boolean", other)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        match self.present(name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| ApiError::field(name, "float_type", "Input should be a valid number", value)),
        }
    }
}

fn object(body: &[u8]) -> Result<Fields, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(Fields(map)),
        Ok(other) => Err(ApiError::field("", "model_attributes_type", "Input should be a valid dictionary", &other)),
        Err(error) => Err(ApiError::json(&error)),
    }
}

/// Parses and checks a generation request.
pub(super) fn parse(app: &App, endpoint: Endpoint, body: &[u8]) -> Result<Asked, ApiError> {
    let fields = object(body)?;
    let config = app.config();
    let served = &config.served_names;
    let model = match fields.present("model") {
        None => served.first().cloned().unwrap_or_default(),
        Some(Value::String(name)) if served.contains(name) => name.clone(),
        Some(Value::String(name)) => return Err(ApiError::model(name, served)),
        Some(other) => return Err(ApiError::field("model", "string_type", "Input should be a valid string", other)),
    };
    let prompts = match endpoint {
        Endpoint::Completions => completion_prompts(app, &fields)?,
        Endpoint::Chat => vec![chat_prompt(app, &fields)?],
    };
    let n = fields.integer("n")?.unwrap_or(1);
    if !(1..=128).contains(&n) {
        return Err(ApiError::bad_value("n", format!("n must be at least 1 and at most 128, got {n}.")));
    }
    if let Some(temperature) = fields.number("temperature")?
        && temperature < 0.0
    {
        return Err(ApiError::bad_value(
            "temperature",
            format!("temperature must be non-negative, got {temperature}."),
        ));
    }
    let limit = match endpoint {
        Endpoint::Chat => match fields.integer("max_completion_tokens")? {
            Some(limit) => Some(limit),
            None => fields.integer("max_tokens")?,
        },
        // OpenAI's historical default.
        Endpoint::Completions => Some(fields.integer("max_tokens")?.unwrap_or(16)),
    };
    let max_tokens = prompts
        .iter()
        .map(|prompt| output_limit(config.max_model_len, prompt.len(), limit))
        .collect::<Result<_, _>>()?;
    let min_tokens = fields.integer("min_tokens")?.unwrap_or(0);
    if min_tokens < 0 || limit.is_some_and(|limit| min_tokens > limit) {
        let text =
            format!("min_tokens must be less than or equal to max_tokens={}, got {min_tokens}.", limit.unwrap_or(0));
        return Err(ApiError::bad_value("min_tokens", text));
    }
    let stream = fields.switch("stream")?;
    let options = Fields(match fields.present("stream_options") {
        None => Map::new(),
        Some(_) if !stream => {
            return Err(ApiError::bad_value(
                "stream_options",
                "Stream options can only be defined when `stream=True`.",
            ));
        }
        Some(Value::Object(map)) => map.clone(),
        Some(other) => {
            return Err(ApiError::field("stream_options", "model_type", "Input should be a valid dictionary", other));
        }
    });
    Ok(Asked {
        endpoint,
        model,
        prompts,
        n: u32::try_from(n).unwrap_or(1),
        max_tokens,
        min_tokens: u32::try_from(min_tokens).unwrap_or(u32::MAX),
        ignore_eos: fields.switch("ignore_eos")?,
        stop: stop_strings(&fields)?,
        stream,
        include_usage: options.switch("include_usage")?,
        continuous_usage: options.switch("continuous_usage_stats")?,
        return_token_ids: fields.switch("return_token_ids")?,
        request_seed: fields.integer("seed")?.unwrap_or(0).cast_unsigned(),
        request_id: fields.present("request_id").and_then(Value::as_str).map(str::to_owned),
    })
}

/// The text that /tokenize is asked about.
pub(super) fn tokenize_text(body: &[u8]) -> Result<String, ApiError> {
    let fields = object(body)?;
    if fields.present("messages").is_some() {
        return chat_text(&fields);
    }
    match fields.present("prompt") {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(ApiError::field(
            "prompt",
            "string_type",
            "Input should be a valid string",
            other.unwrap_or(&Value::Null),
        )),
    }
}

fn output_limit(max_model_len: u32, n_prompt: usize, limit: Option<i64>) -> Result<u32, ApiError> {
    let room = i64::from(max_model_len) - n_prompt as i64;
    match limit {
        Some(limit) if limit < 1 => {
            Err(ApiError::bad_value("max_tokens", format!("max_tokens must be at least 1, got {limit}.")))
        }
        Some(limit) if limit > i64::from(max_model_len) => Err(ApiError::bad_value(
            "max_tokens",
            format!(
                "max_tokens={limit} cannot be greater than max_model_len={max_model_len}. Please request fewer output \
                 tokens. (parameter=max_tokens, value={limit})"
            ),
        )),
        limit if limit.unwrap_or(1) > room => {
            let wanted = limit.unwrap_or(1);
            let total = n_prompt as i64 + wanted;
            Err(ApiError::bad_value(
                "input_tokens",
                format!(
                    "This model's maximum context length is {max_model_len} tokens. However, you requested {wanted} \
                     output tokens and your prompt contains {n_prompt} input tokens, for a total of {total} tokens. \
                     Please reduce the length of the input prompt or the number of requested output tokens. \
                     (parameter=input_tokens, value={n_prompt})"
                ),
            ))
        }
        limit => Ok(u32::try_from(limit.unwrap_or(room)).unwrap_or(max_model_len)),
    }
}

fn completion_prompts(app: &App, fields: &Fields) -> Result<Vec<Arc<[u32]>>, ApiError> {
    let missing = || ApiError::bad_value("prompt", "Either prompt or prompt_embeds must be provided and non-empty.");
    let wrong = |value: &Value| {
        ApiError::field(
            "prompt",
            "string_type",
            "Input should be a valid string, a list of strings or of token ids",
            value,
        )
    };
    let prompts: Vec<Vec<u32>> = match fields.present("prompt") {
        None => return Err(missing()),
        Some(Value::String(text)) => vec![app.tokenizer.encode(text)],
        Some(Value::Array(items)) if items.iter().all(Value::is_u64) => vec![token_ids(items).ok_or_else(missing)?],
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(app.tokenizer.encode(text)),
                Value::Array(ids) => token_ids(ids).ok_or_else(|| wrong(item)),
                other => Err(wrong(other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong(other)),
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(missing());
    }
    Ok(prompts.into_iter().map(Arc::from).collect())
}

fn token_ids(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

fn chat_prompt(app: &App, fields: &Fields) -> Result<Arc<[u32]>, ApiError> {
    Ok(app.tokenizer.encode(&chat_text(fields)?).into())
}

fn chat_text(fields: &Fields) -> Result<String, ApiError> {
    let missing = |value: &Value| ApiError::field("messages", "list_type", "Input should be a valid list", value);
    let messages = match fields.present("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        other => return Err(missing(other.unwrap_or(&Value::Null))),
    };
    let mut turns = Vec::with_capacity(messages.len());
    for message in messages {
        let role = message.get("role").and_then(Value::as_str).ok_or_else(|| missing(message))?;
        let content = match message.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
            }
            Some(_) => return Err(missing(message)),
        };
        turns.push((role, content));
    }
    Ok(render_chat(turns.iter().map(|(role, content)| (*role, content.as_str()))))
}

fn stop_strings(fields: &Fields) -> Result<Vec<String>, ApiError> {
    match fields.present("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            Ok(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        Some(other) => {
            Err(ApiError::field("stop", "string_type", "Input should be a valid string or list of strings", other))
        }
    }
}
