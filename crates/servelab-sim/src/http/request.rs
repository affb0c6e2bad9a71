//! What clients may ask for: the fields of completion and chat requests, checked in vLLM's order and refused in its
//! words. Unknown fields are allowed, as there.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Fields, token_ids};
use super::refuse::{ApiError, Violation, python, summary};
use super::sampling;
use crate::config::ServerConfig;
use crate::flags::version_key;
use crate::handover::KvParams;
use crate::text::{PromptTokenizer, render_chat};

/// Which API a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions
    Chat,
}

/// One prompt.
#[derive(Debug, Clone)]
pub(super) struct Prompt {
    pub(super) ids: Arc<[u32]>,
    /// As it came; `None` when it came as token ids.
    pub(super) text: Option<String>,
}

/// A checked request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) endpoint: Endpoint,
    /// The served name that was asked for.
    pub(super) model: String,
    pub(super) prompts: Vec<Prompt>,
    /// Choices per prompt.
    pub(super) n: u32,
    /// Output limit of each prompt.
    pub(super) max_tokens: Vec<u32>,
    pub(super) min_tokens: u32,
    pub(super) ignore_eos: bool,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) include_stop: bool,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
    pub(super) return_token_ids: bool,
    /// Alternatives per token; `None`: no log-probabilities.
    pub(super) logprobs: Option<u32>,
    pub(super) prompt_logprobs: bool,
    /// The answer begins with the prompt.
    pub(super) echo: bool,
    /// Nothing is to be generated: `max_tokens` 0 with `echo`.
    pub(super) echo_only: bool,
    pub(super) stream_interval: u32,
    pub(super) request_seed: u64,
    pub(super) request_id: Option<String>,
    /// Smaller is earlier.
    pub(super) priority: i32,
    pub(super) kv: Option<KvParams>,
}

/// Parses and checks a generation request.
pub(super) fn parse(
    config: &ServerConfig,
    tokenizer: &PromptTokenizer,
    endpoint: Endpoint,
    body: &[u8],
) -> Result<Asked, ApiError> {
    let fields = Fields::parse(body)?;
    let is_chat = endpoint == Endpoint::Chat;
    sampling::check_before_types(&fields, endpoint)?;
    let sampling = sampling::read(&fields, endpoint)?;
    let model = fields.text("model")?;
    let stream = fields.is_set("stream")?;
    let options = fields.object("stream_options")?.unwrap_or_default();
    let include_usage = options.is_set("include_usage")?;
    // Continuous statistics are given only together with usage.
    let continuous_usage = include_usage && options.is_set("continuous_usage_stats")?;
    let echo = !is_chat && fields.is_set("echo")?;
    let source = match endpoint {
        Endpoint::Completions => Source::Prompts(given_prompts(&fields)?),
        Endpoint::Chat => Source::Chat(chat_text(&fields)?),
    };
    let served = &config.served_names;
    let model = match model {
        None => served.first().cloned().unwrap_or_default(),
        Some(name) if served.iter().any(|known| known == name) => name.to_owned(),
        Some(name) => return Err(ApiError::no_model(name, served)),
    };
    if fields.present("suffix").is_some() && !is_chat {
        return Err(ApiError::about("suffix", "suffix is only supported for models with FIM completion rendering"));
    }
    let has_tools = fields.present("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty());
    let choice = fields.present("tool_choice");
    if has_tools && choice.is_none_or(|choice| choice.as_str() == Some("auto")) && !config.auto_tool_choice {
        let text = "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set";
        return Err(ApiError::bad_request(text));
    }
    let is_old = version_key(&config.version) < (0, 12);
    if is_old && fields.integer("best_of")?.is_some_and(|best_of| best_of > 1) {
        return Err(ApiError::bad_request("vLLM V1 does not yet support best_of."));
    }
    let given_limit = match (is_chat, fields.integer("max_completion_tokens")?) {
        (true, Some(limit)) => Some(limit),
        (true, None) => fields.integer("max_tokens")?,
        // OpenAI's historical default.
        (false, _) => Some(fields.integer("max_tokens")?.unwrap_or(16)),
    };
    let echo_only = echo && given_limit == Some(0);
    let limit = if echo_only { Some(1) } else { given_limit };
    let limit_name = if is_chat && fields.present("max_completion_tokens").is_some() {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    let prompts = source.tokenise(config, tokenizer, limit_name, limit)?;
    let max_tokens =
        prompts.iter().map(|prompt| output_limit(config, prompt.ids.len(), limit)).collect::<Result<Vec<_>, _>>()?;
    sampling.check(max_tokens.iter().copied().max(), config)?;
    let priority = fields.integer("priority")?.unwrap_or(0);
    if is_old && priority != 0 && config.scheduling_policy != "priority" {
        let text = format!("Got priority {priority} but Priority scheduling is not enabled.");
        return Err(ApiError::bad_request(text));
    }
    Ok(Asked {
        endpoint,
        model,
        n: sampling.n,
        max_tokens,
        min_tokens: u32::try_from(sampling.min_tokens).unwrap_or(u32::MAX),
        ignore_eos: fields.is_set("ignore_eos")?,
        stop: sampling.stop,
        stop_token_ids: sampling.stop_token_ids,
        include_stop: fields.is_set("include_stop_str_in_output")?,
        stream,
        include_usage,
        continuous_usage,
        return_token_ids: fields.is_set("return_token_ids")?,
        logprobs: sampling.logprobs,
        prompt_logprobs: sampling.prompt_logprobs,
        echo,
        echo_only,
        stream_interval: u32::try_from(fields.integer("stream_interval")?.unwrap_or(1)).unwrap_or(1),
        request_seed: fields.integer("seed")?.unwrap_or(0).cast_unsigned(),
        request_id: fields.text("request_id")?.map(str::to_owned),
        priority: i32::try_from(priority).unwrap_or(if priority < 0 { i32::MIN } else { i32::MAX }),
        kv: fields.object("kv_transfer_params")?.map(|params| KvParams::read(&params.0)),
        prompts,
    })
}

/// What /tokenize is asked about.
pub(super) fn tokenize_text(fields: &Fields) -> Result<String, ApiError> {
    if fields.present("messages").is_some() {
        return chat_text(fields);
    }
    fields.text("prompt")?.map(str::to_owned).ok_or_else(|| {
        let input = format!("'<dict of {} items>'", fields.0.len());
        let missing = |at| Violation { at, kind: "missing", text: "Field required", input: &input, ctx: "" };
        ApiError::models(&[missing("body.prompt"), missing("body.messages")])
    })
}

enum Given {
    Text(String),
    Ids(Vec<u32>),
}

enum Source {
    Prompts(Vec<Given>),
    Chat(String),
}

impl Source {
    /// Tokens of every prompt; one that is too long or not of this vocabulary is refused.
    fn tokenise(
        self,
        config: &ServerConfig,
        tokenizer: &PromptTokenizer,
        limit_name: &str,
        limit: Option<i64>,
    ) -> Result<Vec<Prompt>, ApiError> {
        let is_old = version_key(&config.version) < (0, 12);
        if let Some(limit) = limit.filter(|limit| !is_old && *limit > i64::from(config.max_model_len)) {
            let text = format!(
                "{limit_name}={limit} cannot be greater than max_model_len={}. Please request fewer output tokens.",
                config.max_model_len
            );
            return Err(ApiError::value(limit_name, &limit.to_string(), &text));
        }
        let given = match self {
            Self::Chat(text) => vec![Given::Text(text)],
            Self::Prompts(prompts) => prompts,
        };
        let mut prompts = Vec::with_capacity(given.len());
        for given in given {
            let is_text = matches!(given, Given::Text(_));
            let prompt = match given {
                Given::Text(text) => Prompt { ids: tokenizer.encode(&text).into(), text: Some(text) },
                Given::Ids(ids) => Prompt { ids: ids.into(), text: None },
            };
            if prompt.ids.len() > config.max_model_len as usize {
                return Err(too_long(config, prompt.ids.len(), is_text));
            }
            if let Some(id) = prompt.ids.iter().find(|id| **id >= MOST_TOKEN_IDS) {
                return Err(ApiError::bad_request(format!("Token id {id} is out of vocabulary")));
            }
            if prompt.ids.is_empty() {
                return Err(ApiError::bad_request("The decoder prompt cannot be empty"));
            }
            prompts.push(prompt);
        }
        Ok(prompts)
    }
}

/// No model has a larger vocabulary. The simulator knows no vocabulary of its own and takes any smaller id.
const MOST_TOKEN_IDS: u32 = 1_000_000;

fn too_long(config: &ServerConfig, n_prompt: usize, is_text: bool) -> ApiError {
    let max_model_len = config.max_model_len;
    if version_key(&config.version) < (0, 12) {
        return ApiError::bad_request(format!(
            "This model's maximum context length is {max_model_len} tokens. However, your request has {n_prompt} input \
             tokens. Please reduce the length of the input messages."
        ));
    }
    // Texts are tokenised only as far as needed to know that they are too long.
    let (qualifier, n_prompt) = if is_text { ("at least ", max_model_len as usize + 1) } else { ("", n_prompt) };
    let text = format!(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt contains \
         {qualifier}{n_prompt} input tokens, which exceeds this limit even without any output tokens. Please reduce the \
         length of the input prompt."
    );
    ApiError::value("input_tokens", &n_prompt.to_string(), &text)
}

/// Current versions give what room there is; older ones refuse a limit that does not fit.
fn output_limit(config: &ServerConfig, n_prompt: usize, limit: Option<i64>) -> Result<u32, ApiError> {
    let max_model_len = config.max_model_len;
    let room = i64::from(max_model_len) - n_prompt as i64;
    if let Some(limit) = limit.filter(|limit| *limit > room && version_key(&config.version) < (0, 12)) {
        return Err(ApiError::bad_request(format!(
            "'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's maximum context length is \
             {max_model_len} tokens and your request has {n_prompt} input tokens ({limit} > {max_model_len} - {n_prompt})."
        )));
    }
    let limit = limit.map_or(room, |limit| limit.min(room));
    if limit < 1 {
        let text = format!("max_tokens must be at least 1, got {limit}.");
        return Err(ApiError::value("max_tokens", &limit.to_string(), &text));
    }
    Ok(u32::try_from(limit).unwrap_or(max_model_len))
}

fn given_prompts(fields: &Fields) -> Result<Vec<Given>, ApiError> {
    let Some(prompt) = fields.present("prompt").filter(|prompt| prompt.as_str() != Some("")) else {
        let text = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(ApiError::parameter("prompt", text));
    };
    let parsed = match prompt {
        Value::String(text) => Some(vec![Given::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => {
            return Err(ApiError::bad_request("You must pass at least one prompt"));
        }
        Value::Array(items) if items.iter().all(Value::is_number) => token_ids(items).map(|ids| vec![Given::Ids(ids)]),
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Some(Given::Text(text.clone())),
                Value::Array(ids) => token_ids(ids).map(Given::Ids),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    parsed.ok_or_else(|| {
        // The four alternatives, each with its complaint.
        let input = summary(prompt);
        let complaint = |kind, text| Violation { at: "body.prompt", kind, text, input: &input, ctx: "" };
        let no_list = complaint("list_type", "Input should be a valid list");
        ApiError::models(&[no_list, no_list, complaint("string_type", "Input should be a valid string"), no_list])
    })
}

fn chat_text(fields: &Fields) -> Result<String, ApiError> {
    let messages = match fields.present("messages") {
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(ApiError::field("messages", "list_type", "Input should be a valid list", other)),
        None => {
            let input = format!("'<dict of {} items>'", fields.0.len());
            return Err(ApiError::model("body.messages", "missing", "Field required", &input, ""));
        }
    };
    let mut turns = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let wrong = |what: &str, text: &str| {
            let at = format!("body.messages.{index}.{what}");
            ApiError::model(&at, "missing", text, &format!("'{}'", python(message)), "")
        };
        let role = message.get("role").and_then(Value::as_str).ok_or_else(|| wrong("role", "Field required"))?;
        let content = match message.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()
            }
            Some(_) => return Err(wrong("content", "Input should be a valid string")),
        };
        turns.push((role, content));
    }
    if turns.is_empty() {
        return Err(ApiError::bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
        ));
    }
    Ok(render_chat(turns.iter().map(|(role, content)| (*role, content.as_str()))))
}
