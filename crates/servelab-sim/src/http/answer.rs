//! The JSON of answers, field for field as vLLM writes it: streamed chunks, usage, whole answers. Strings from outside
//! are escaped once, when an answer begins; a streamed token costs a few copies.

use std::io::Write as _;

use serde_json::{Value, json};

use super::logprobs::TokenLogprobs;
use super::request::Endpoint;

/// Token counts of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u64,
    pub(super) completion: u64,
    /// Prompt tokens from the prefix cache, where the server reports them.
    pub(super) cached: Option<u64>,
}

impl Usage {
    /// `has_details`: chunks of a chat name a field more than all others.
    fn write(self, out: &mut Vec<u8>, has_details: bool) {
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{}",
            self.prompt,
            self.prompt + self.completion,
            self.completion
        );
        if has_details {
            out.extend_from_slice(b",\"completion_tokens_details\":null");
        }
        if let Some(cached) = self.cached {
            let _ = write!(out, ",\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}");
        }
        out.push(b'}');
    }

    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": self.cached.map(|cached| json!({"cached_tokens": cached})),
            "completion_tokens_details": null,
        })
    }
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    /// `stop`, `length`, ….
    pub(super) reason: &'static str,
    /// The stop string or stop token id that was hit.
    pub(super) stop: Option<Value>,
}

/// One streamed piece of one choice.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) index: usize,
    pub(super) text: &'a str,
    pub(super) logprobs: Option<&'a TokenLogprobs>,
    pub(super) token_ids: Option<&'a [u32]>,
    pub(super) prompt_token_ids: Option<&'a [u32]>,
    pub(super) ending: Option<&'a Ending>,
    pub(super) usage: Option<Usage>,
    /// Ends a choice in a stream without a usage chunk: carries the fingerprint.
    pub(super) has_fingerprint: bool,
}

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    endpoint: Endpoint,
    prefix: Vec<u8>,
    fingerprint: String,
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn ids(out: &mut Vec<u8>, list: Option<&[u32]>) {
    let Some(list) = list else { return out.extend_from_slice(b"null") };
    out.push(b'[');
    for (index, id) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let _ = write!(out, "{id}");
    }
    out.push(b']');
}

/// A JSON string. Nearly every text here needs no escape.
fn text(out: &mut Vec<u8>, text: &str) {
    let is_plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7F);
    if is_plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(quoted(text).as_bytes());
    }
}

impl ChunkWriter {
    pub(super) fn new(endpoint: Endpoint, id: &str, created: u64, model: &str, version: &str) -> Self {
        let object = match endpoint {
            Endpoint::Completions => "text_completion",
            Endpoint::Chat => "chat.completion.chunk",
        };
        let prefix = format!(
            "data: {{\"id\":{},\"object\":\"{object}\",\"created\":{created},\"model\":{},\"choices\":[",
            quoted(id),
            quoted(model)
        );
        Self { endpoint, prefix: prefix.into_bytes(), fingerprint: quoted(&fingerprint(version)) }
    }

    fn finish(&self, out: &mut Vec<u8>, usage: Option<Usage>, has_fingerprint: bool) {
        out.push(b']');
        if let Some(usage) = usage {
            out.extend_from_slice(b",\"usage\":");
            usage.write(out, self.endpoint == Endpoint::Chat);
        }
        if has_fingerprint {
            out.extend_from_slice(b",\"system_fingerprint\":");
            out.extend_from_slice(self.fingerprint.as_bytes());
        }
    }

    /// Chat only: the chunk that names the role, before any token.
    pub(super) fn role(&self, out: &mut Vec<u8>, index: usize, prompt_token_ids: Option<&[u32]>, usage: Option<Usage>) {
        out.extend_from_slice(&self.prefix);
        let _ = write!(
            out,
            "{{\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"logprobs\":null,\"finish_reason\":null}}"
        );
        self.finish(out, usage, false);
        out.extend_from_slice(b",\"prompt_token_ids\":");
        ids(out, prompt_token_ids);
        out.extend_from_slice(b",\"prompt_text\":null}\n\n");
    }

    /// A token-bearing chunk.
    pub(super) fn piece(&self, out: &mut Vec<u8>, piece: &Piece<'_>) {
        out.extend_from_slice(&self.prefix);
        let _ = write!(out, "{{\"index\":{},", piece.index);
        let is_chat = self.endpoint == Endpoint::Chat;
        out.extend_from_slice(if is_chat { b"\"delta\":{\"content\":" } else { b"\"text\":" });
        text(out, piece.text);
        out.extend_from_slice(if is_chat { b"},\"logprobs\":" } else { b",\"logprobs\":" });
        match piece.logprobs {
            None => out.extend_from_slice(b"null"),
            Some(logprobs) => out.extend_from_slice(logprobs.to_json(self.endpoint).to_string().as_bytes()),
        }
        match piece.ending {
            None if is_chat => out.extend_from_slice(b",\"finish_reason\":null"),
            None => out.extend_from_slice(b",\"finish_reason\":null,\"stop_reason\":null"),
            Some(ending) => {
                let stop = ending.stop.as_ref().map_or_else(|| "null".to_owned(), Value::to_string);
                let _ = write!(out, ",\"finish_reason\":\"{}\",\"stop_reason\":{stop}", ending.reason);
            }
        }
        if !is_chat {
            out.extend_from_slice(b",\"prompt_token_ids\":");
            ids(out, piece.prompt_token_ids);
        }
        out.extend_from_slice(b",\"token_ids\":");
        ids(out, piece.token_ids);
        out.push(b'}');
        self.finish(out, piece.usage, piece.has_fingerprint);
        out.extend_from_slice(b"}\n\n");
    }

    /// The chunk without choices that ends a stream with `include_usage`.
    pub(super) fn usage(&self, out: &mut Vec<u8>, usage: Usage) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(b"],\"usage\":");
        usage.write(out, false);
        out.extend_from_slice(b",\"system_fingerprint\":");
        out.extend_from_slice(self.fingerprint.as_bytes());
        out.extend_from_slice(b"}\n\n");
    }
}

/// Ends every stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// One finished choice of a whole answer.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) ending: Ending,
    pub(super) logprobs: Option<TokenLogprobs>,
    pub(super) prompt_logprobs: Value,
    pub(super) token_ids: Option<Vec<u32>>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
}

fn fingerprint(version: &str) -> String {
    format!("vllm-{version}-servelab-sim")
}

/// What a whole answer says about itself.
#[derive(Debug)]
pub(super) struct WholeFacts<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) id: &'a str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) version: &'a str,
    pub(super) usage: Usage,
    pub(super) kv_transfer_params: Value,
}

/// A whole answer.
pub(super) fn whole(facts: &WholeFacts<'_>, choices: &[Choice]) -> Value {
    let WholeFacts { endpoint, id, created, model, version, usage, kv_transfer_params } = facts;
    let logprobs = |choice: &Choice| choice.logprobs.as_ref().map(|logprobs| logprobs.to_json(*endpoint));
    match endpoint {
        Endpoint::Completions => {
            let choices: Vec<Value> = choices
                .iter()
                .enumerate()
                .map(|(index, choice)| {
                    json!({
                        "index": index, "text": choice.text, "logprobs": logprobs(choice),
                        "finish_reason": choice.ending.reason, "stop_reason": choice.ending.stop,
                        "token_ids": choice.token_ids, "prompt_logprobs": choice.prompt_logprobs,
                        "prompt_token_ids": choice.prompt_token_ids, "routed_experts": null,
                    })
                })
                .collect();
            json!({
                "id": id, "object": "text_completion", "created": created, "model": model, "choices": choices,
                "service_tier": null, "system_fingerprint": fingerprint(version), "usage": usage.to_json(),
                "kv_transfer_params": kv_transfer_params, "ec_transfer_params": null, "metrics": null,
            })
        }
        Endpoint::Chat => {
            let first = choices.first();
            let prompt_token_ids = first.and_then(|choice| choice.prompt_token_ids.clone());
            let prompt_logprobs = first.map(|choice| choice.prompt_logprobs.clone());
            let choices: Vec<Value> = choices
                .iter()
                .enumerate()
                .map(|(index, choice)| {
                    json!({
                        "index": index,
                        "message": {
                            "role": "assistant", "content": choice.text, "refusal": null, "annotations": null,
                            "audio": null, "function_call": null, "reasoning": null,
                        },
                        "logprobs": logprobs(choice), "finish_reason": choice.ending.reason,
                        "stop_reason": choice.ending.stop, "token_ids": choice.token_ids, "routed_experts": null,
                    })
                })
                .collect();
            json!({
                "id": id, "object": "chat.completion", "created": created, "model": model, "choices": choices,
                "service_tier": null, "system_fingerprint": fingerprint(version), "usage": usage.to_json(),
                "prompt_logprobs": prompt_logprobs, "prompt_token_ids": prompt_token_ids, "prompt_text": null,
                "kv_transfer_params": kv_transfer_params, "ec_transfer_params": null, "metrics": null,
            })
        }
    }
}
