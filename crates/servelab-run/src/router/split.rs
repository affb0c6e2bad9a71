//! One request as two: what the prefill server is asked, and what the decode server is told afterwards. The fields are
//! those of vLLM's connectors (facts of 0.8–0.32). Pure: JSON in, JSON out.

use serde_json::{Map, Value, json};

/// How KV gets from one server to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handover {
    /// The prefill server's answer names where the KV lies (NixlConnector): `kv_transfer_params`.
    #[default]
    Params,
    /// Both servers find it by the prompt (ExampleConnector, shared storage): nothing is handed over.
    Shared,
}

impl Handover {
    /// As written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Params => "params",
            Self::Shared => "shared",
        }
    }

    /// What the connector of this name needs.
    pub fn of_connector(connector: &str) -> Self {
        match connector {
            "ExampleConnector" | "SharedStorageConnector" => Self::Shared,
            _ => Self::Params,
        }
    }
}

/// The JSON object of a body.
pub fn parse(body: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("the request's body is no JSON object".to_owned()),
        Err(error) => Err(format!("the request's body is no JSON: {error}")),
    }
}

/// Why a request cannot be served by two servers.
pub fn refusal(body: &Map<String, Value>) -> Option<&'static str> {
    let several = |name: &str| body.get(name).and_then(Value::as_u64).is_some_and(|n| n > 1);
    if several("n") || several("best_of") {
        return Some("more than one choice (`n`, `best_of`) cannot be handed from a prefill to a decode server");
    }
    let prompts = body.get("prompt").and_then(Value::as_array);
    if prompts.is_some_and(|list| list.len() > 1 && !list.iter().all(Value::is_number)) {
        return Some("a batch of prompts in one request cannot be handed from a prefill to a decode server");
    }
    None
}

/// What the prefill server is asked: the same prompt, one token, no stream.
pub fn prefill_body(body: &Map<String, Value>, handover: Handover) -> Vec<u8> {
    let mut out = body.clone();
    // One token cannot be more than these ask for, and its probabilities are nobody's business.
    for name in
        ["stream_options", "min_tokens", "logprobs", "top_logprobs", "prompt_logprobs", "stop", "stop_token_ids"]
    {
        out.remove(name);
    }
    out.insert("stream".to_owned(), Value::Bool(false));
    out.insert("max_tokens".to_owned(), 1.into());
    if out.contains_key("max_completion_tokens") {
        out.insert("max_completion_tokens".to_owned(), 1.into());
    }
    if handover == Handover::Params {
        let params = json!({
            "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null, "remote_block_ids": null,
            "remote_host": null, "remote_port": null,
        });
        out.insert("kv_transfer_params".to_owned(), params);
    }
    serde_json::to_vec(&out).unwrap_or_default()
}

/// What the decode server is told: the client's request and where the prompt's KV lies. `None` when the prefill server's
/// answer names nothing, although it should.
pub fn decode_body(body: &Map<String, Value>, answer: &[u8], handover: Handover) -> Option<Vec<u8>> {
    if handover == Handover::Shared {
        return serde_json::to_vec(body).ok();
    }
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let params = answer.get("kv_transfer_params").filter(|params| params.is_object())?;
    let mut out = body.clone();
    out.insert("kv_transfer_params".to_owned(), params.clone());
    serde_json::to_vec(&out).ok()
}

/// Bytes that are the same for all turns of a conversation.
const SESSION_BYTES: usize = 512;

/// Names the conversation that a request belongs to: its `user`, else the beginning of its prompt.
pub fn session(body: &[u8]) -> u64 {
    let Ok(body) = parse(body) else { return hash(body) };
    let user = ["user", "session_id"].iter().find_map(|name| body.get(*name)?.as_str());
    if let Some(user) = user {
        return hash(user.as_bytes());
    }
    let prompt = ["messages", "prompt"].iter().find_map(|name| body.get(*name));
    let text = match prompt {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => {
            // The first two messages, system prompt and first question; or the first tokens.
            let take = if list.first().is_some_and(Value::is_object) { 2 } else { 128 };
            list.iter().take(take).map(Value::to_string).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    };
    hash(text.as_bytes().get(..SESSION_BYTES).unwrap_or(text.as_bytes()))
}

/// FNV-1a with a final mix: the same for every process and version, unlike the standard library's.
pub fn hash(bytes: &[u8]) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325_u64;
    let fnv = bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(fnv)
}

/// SplitMix64's finaliser.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn json_of(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn two_requests_out_of_one() {
        let body = map(json!({
            "model": "m", "prompt": [1, 2, 3], "max_tokens": 64, "min_tokens": 64, "ignore_eos": true, "stream": true,
            "stream_options": {"include_usage": true}, "temperature": 0, "logprobs": 3,
        }));
        let asked = json_of(&prefill_body(&body, Handover::Params));
        let params = json!({"do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null,
                            "remote_block_ids": null, "remote_host": null, "remote_port": null});
        let expected = json!({"model": "m", "prompt": [1, 2, 3], "max_tokens": 1, "ignore_eos": true, "stream": false,
                              "temperature": 0, "kv_transfer_params": params});
        assert_eq!(asked, expected);
        let answer = json!({"choices": [], "kv_transfer_params": {"remote_engine_id": "e", "remote_block_ids": [[1]]}});
        let told = json_of(&decode_body(&body, answer.to_string().as_bytes(), Handover::Params).unwrap());
        assert_eq!(told["kv_transfer_params"], answer["kv_transfer_params"]);
        assert_eq!((&told["max_tokens"], &told["stream"]), (&json!(64), &json!(true)));
        for nothing in ["{}", "{\"kv_transfer_params\": null}", "no json"] {
            assert_eq!(decode_body(&body, nothing.as_bytes(), Handover::Params), None);
        }
    }

    #[test]
    fn shared_storage_needs_no_params() {
        let body = map(json!({"messages": [], "max_completion_tokens": 9}));
        let asked = json_of(&prefill_body(&body, Handover::Shared));
        assert_eq!(asked, json!({"messages": [], "max_completion_tokens": 1, "max_tokens": 1, "stream": false}));
        assert_eq!(json_of(&decode_body(&body, b"", Handover::Shared).unwrap()), Value::Object(body));
        assert_eq!(Handover::of_connector("ExampleConnector"), Handover::Shared);
        assert_eq!(Handover::of_connector("NixlConnector"), Handover::Params);
    }

    #[test]
    fn what_cannot_be_split() {
        for (body, is_refused) in [
            (json!({"n": 2}), true),
            (json!({"best_of": 3}), true),
            (json!({"prompt": ["a", "b"]}), true),
            (json!({"prompt": [[1], [2]]}), true),
            (json!({"prompt": ["a"]}), false),
            (json!({"prompt": [1, 2, 3], "n": 1}), false),
            (json!({"prompt": "a", "n": null}), false),
        ] {
            assert_eq!(refusal(&map(body.clone())).is_some(), is_refused, "{body}");
        }
    }

    #[test]
    fn turns_of_a_conversation_share_a_session() {
        let of = |value: Value| session(value.to_string().as_bytes());
        let system = json!({"role": "system", "content": "be brief"});
        let question = json!({"role": "user", "content": "why?"});
        let first = of(json!({"messages": [system, question], "max_tokens": 4}));
        let later =
            of(json!({"messages": [system, question, {"role": "assistant", "content": "so"}], "max_tokens": 9}));
        assert_eq!(first, later);
        assert_ne!(first, of(json!({"messages": [system, {"role": "user", "content": "how?"}]})));
        assert_eq!(of(json!({"user": "u", "prompt": "a"})), of(json!({"user": "u", "prompt": "b"})));
        let text = "x".repeat(SESSION_BYTES);
        assert_eq!(of(json!({"prompt": text})), of(json!({"prompt": format!("{text} and more")})));
    }

    proptest! {
        #[test]
        fn any_body_is_survived(body in "[\\PC]{0,80}") {
            session(body.as_bytes());
            if let Ok(map) = parse(body.as_bytes()) {
                refusal(&map);
                prefill_body(&map, Handover::Params);
            }
            decode_body(&Map::new(), body.as_bytes(), Handover::Params);
        }

        #[test]
        fn only_the_hand_over_is_added(keys in prop::collection::btree_map("[a-z]{1,6}", any::<i64>(), 0..6)) {
            let body: Map<String, Value> = keys.into_iter().map(|(key, value)| (key, value.into())).collect();
            let answer = json!({"kv_transfer_params": {"x": 1}}).to_string();
            let mut told = map(json_of(&decode_body(&body, answer.as_bytes(), Handover::Params).unwrap()));
            told.remove("kv_transfer_params");
            prop_assert_eq!(told, body);
        }
    }
}
