//! The JSON of answers, field for field as vLLM writes it: streamed chunks, usage, whole answers. Strings from outside
//! are escaped once, when an answer begins.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::request::Endpoint;

/// Token counts of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u64,
    pub(super) completion: u64,
}

impl Usage {
    fn write(self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{}}}",
            self.prompt,
            self.prompt + self.completion,
            self.completion
        );
    }
}

/// How a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// `stop`, `length`, ….
    pub(super) reason: &'static str,
    /// The stop string that was hit.
    pub(super) stop: Option<String>,
}

/// One streamed piece of one choice.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub(super) index: usize,
    pub(super) text: &'a str,
    pub(super) token_ids: Option<&'a [u32]>,
    pub(super) prompt_token_ids: Option<&'a [u32]>,
    pub(super) ending: Option<&'a Ending>,
    pub(super) usage: Option<Usage>,
    /// Last chunk of a stream without a usage chunk: carries the fingerprint.
    pub(super) last: bool,
}

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    endpoint: Endpoint,
    prefix: String,
    fingerprint: String,
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn ids(list: Option<&[u32]>) -> String {
    list.map_or_else(|| "null".to_owned(), |list| format!("{list:?}").replace(' ', ""))
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
        Self { endpoint, prefix, fingerprint: quoted(&fingerprint(version)) }
    }

    fn finish(&self, mut out: String, usage: Option<Usage>, last: bool, tail: &str) -> String {
        out.push(']');
        if let Some(usage) = usage {
            out.push_str(",\"usage\":");
            usage.write(&mut out);
        }
        if last {
            let _ = write!(out, ",\"system_fingerprint\":{}", self.fingerprint);
        }
        out.push_str(tail);
        out.push_str("}\n\n");
        out
    }

    /// Chat only: the chunk that names the role, before any token.
    pub(super) fn role(&self, index: usize, prompt_token_ids: Option<&[u32]>, usage: Option<Usage>) -> String {
        let mut out = self.prefix.clone();
        let _ = write!(
            out,
            "{{\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"logprobs\":null,\"finish_reason\":null}}"
        );
        let tail = format!(",\"prompt_token_ids\":{},\"prompt_text\":null", ids(prompt_token_ids));
        self.finish(out, usage, false, &tail)
    }

    /// A token-bearing chunk.
    pub(super) fn piece(&self, piece: &Piece<'_>) -> String {
        let mut out = String::with_capacity(self.prefix.len() + piece.text.len() + 160);
        out.push_str(&self.prefix);
        let (reason, stop) = match piece.ending {
            None => ("null".to_owned(), "null".to_owned()),
            Some(ending) => (quoted(ending.reason), ending.stop.as_deref().map_or_else(|| "null".to_owned(), quoted)),
        };
        let (index, text) = (piece.index, quoted(piece.text));
        let token_ids = ids(piece.token_ids);
        let _ = match self.endpoint {
            Endpoint::Completions => write!(
                out,
                "{{\"index\":{index},\"text\":{text},\"logprobs\":null,\"finish_reason\":{reason},\"stop_reason\":{stop},\
                 \"prompt_token_ids\":{},\"token_ids\":{token_ids}}}",
                ids(piece.prompt_token_ids)
            ),
            Endpoint::Chat if piece.ending.is_some() => write!(
                out,
                "{{\"index\":{index},\"delta\":{{\"content\":{text}}},\"logprobs\":null,\"finish_reason\":{reason},\
                 \"stop_reason\":{stop},\"token_ids\":{token_ids}}}"
            ),
            Endpoint::Chat => write!(
                out,
                "{{\"index\":{index},\"delta\":{{\"content\":{text}}},\"logprobs\":null,\"finish_reason\":null,\
                 \"token_ids\":{token_ids}}}"
            ),
        };
        self.finish(out, piece.usage, piece.last, "")
    }

    /// The chunk without choices that ends a stream with `include_usage`.
    pub(super) fn usage(&self, usage: Usage) -> String {
        self.finish(self.prefix.clone(), Some(usage), true, "")
    }
}

/// Ends every stream.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// One finished choice of a whole answer.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) text: String,
    pub(super) ending: Ending,
    pub(super) token_ids: Option<Vec<u32>>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
}

fn fingerprint(version: &str) -> String {
    format!("vllm-{version}-servelab-sim")
}

/// A whole answer.
pub(super) fn whole(
    endpoint: Endpoint,
    id: &str,
    created: u64,
    model: &str,
    version: &str,
    choices: &[Choice],
    usage: Usage,
) -> Value {
    let usage = json!({
        "prompt_tokens": usage.prompt, "total_tokens": usage.prompt + usage.completion,
        "completion_tokens": usage.completion, "prompt_tokens_details": null, "completion_tokens_details": null,
    });
    match endpoint {
        Endpoint::Completions => {
            let choices: Vec<Value> = choices
                .iter()
                .enumerate()
                .map(|(index, choice)| {
                    json!({
                        "index": index, "text": choice.text, "logprobs": null, "finish_reason": choice.ending.reason,
                        "stop_reason": choice.ending.stop, "token_ids": choice.token_ids, "prompt_logprobs": null,
                        "prompt_token_ids": choice.prompt_token_ids, "routed_experts": null,
                    })
                })
                .collect();
            json!({
                "id": id, "object": "text_completion", "created": created, "model": model, "choices": choices,
                "service_tier": null, "system_fingerprint": fingerprint(version), "usage": usage,
                "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null,
            })
        }
        Endpoint::Chat => {
            let prompt_token_ids = choices.first().and_then(|choice| choice.prompt_token_ids.clone());
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
                        "logprobs": null, "finish_reason": choice.ending.reason, "stop_reason": choice.ending.stop,
                        "token_ids": choice.token_ids, "routed_experts": null,
                    })
                })
                .collect();
            json!({
                "id": id, "object": "chat.completion", "created": created, "model": model, "choices": choices,
                "service_tier": null, "system_fingerprint": fingerprint(version), "usage": usage,
                "prompt_logprobs": null, "prompt_token_ids": prompt_token_ids, "prompt_text": null,
                "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null,
            })
        }
    }
}
