//! The JSON body of one generation request, built before the clock starts. Which prompts to send is decided by the
//! caller.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::target::Endpoint;

/// What the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Plain text; for the chat endpoint it becomes one user message.
    Text(String),
    /// Token ids; every endpoint but chat.
    TokenIds(Vec<u32>),
    /// Chat messages as they go over the wire; for all other endpoints their contents are joined by blank lines.
    Messages(Vec<Value>),
}

/// Everything that shapes a request's body.
#[derive(Debug, Clone, PartialEq)]
pub struct BodyOptions {
    /// Name of the served model.
    pub model: String,
    /// Most output tokens; `None` leaves it to the server.
    pub max_tokens: Option<i64>,
    /// Ask for exactly `max_tokens`. `min_tokens` is not sent: it makes vLLM run another logits processor.
    pub ignore_eos: bool,
    /// Sampling temperature; `None` leaves it to the server.
    pub temperature: Option<f64>,
    /// Ask for a stream with a final usage event.
    pub stream: bool,
    /// Further fields; they win over the ones above. An object (SGLang's `sampling_params`) is merged into ours.
    pub extra: Map<String, Value>,
}

/// Serialises one request. Token ids on the chat endpoint have no wire form and are sent as a `prompt` field, which
/// servers refuse with a clear message.
pub fn request_body(endpoint: Endpoint, prompt: &Prompt, options: &BodyOptions) -> Vec<u8> {
    Value::Object(request_map(endpoint, prompt, options)).to_string().into_bytes()
}

/// One request as an object.
pub(crate) fn request_map(endpoint: Endpoint, prompt: &Prompt, options: &BodyOptions) -> Map<String, Value> {
    let mut body = match endpoint {
        Endpoint::Completions | Endpoint::Chat => openai(endpoint, prompt, options),
        Endpoint::SglangGenerate => sglang(prompt, options),
        Endpoint::LlamaCppCompletion => llama_cpp(prompt, options),
    };
    insert(&mut body, "stream", &options.stream);
    for (key, value) in &options.extra {
        match (body.get_mut(key), value) {
            (Some(Value::Object(ours)), Value::Object(theirs)) => ours.extend(theirs.clone()),
            _ => {
                body.insert(key.clone(), value.clone());
            }
        }
    }
    body
}

fn openai(endpoint: Endpoint, prompt: &Prompt, options: &BodyOptions) -> Map<String, Value> {
    let mut body = Map::new();
    insert(&mut body, "model", &options.model);
    match (endpoint, prompt) {
        (Endpoint::Chat, Prompt::Text(text)) => {
            insert(&mut body, "messages", &json!([{"role": "user", "content": text}]))
        }
        (Endpoint::Chat, Prompt::Messages(messages)) => insert(&mut body, "messages", messages),
        (_, Prompt::Messages(messages)) => insert(&mut body, "prompt", &joined(messages)),
        (_, Prompt::Text(text)) => insert(&mut body, "prompt", text),
        (_, Prompt::TokenIds(ids)) => insert(&mut body, "prompt", ids),
    }
    sampling(&mut body, "max_tokens", options);
    if options.stream {
        insert(&mut body, "stream_options", &json!({"include_usage": true}));
    }
    body
}

/// SGLang's own form: what concerns sampling is an object of its own, the model is the server's.
fn sglang(prompt: &Prompt, options: &BodyOptions) -> Map<String, Value> {
    let mut body = Map::new();
    match prompt {
        Prompt::Text(text) => insert(&mut body, "text", text),
        Prompt::TokenIds(ids) => insert(&mut body, "input_ids", ids),
        Prompt::Messages(messages) => insert(&mut body, "text", &joined(messages)),
    }
    let mut params = Map::new();
    sampling(&mut params, "max_new_tokens", options);
    insert(&mut body, "sampling_params", &params);
    body
}

/// llama.cpp's own form. Token ids are asked for: its events hold whole characters, not tokens.
fn llama_cpp(prompt: &Prompt, options: &BodyOptions) -> Map<String, Value> {
    let mut body = Map::new();
    match prompt {
        Prompt::Text(text) => insert(&mut body, "prompt", text),
        Prompt::TokenIds(ids) => insert(&mut body, "prompt", ids),
        Prompt::Messages(messages) => insert(&mut body, "prompt", &joined(messages)),
    }
    sampling(&mut body, "n_predict", options);
    insert(&mut body, "return_tokens", &true);
    body
}

fn sampling(body: &mut Map<String, Value>, max_tokens_key: &str, options: &BodyOptions) {
    if let Some(max_tokens) = options.max_tokens {
        insert(body, max_tokens_key, &max_tokens);
    }
    if options.ignore_eos {
        insert(body, "ignore_eos", &true);
    }
    if let Some(temperature) = options.temperature {
        insert(body, "temperature", &temperature);
    }
}

fn joined(messages: &[Value]) -> String {
    let parts: Vec<&str> =
        messages.iter().filter_map(|message| message.get("content").and_then(Value::as_str)).collect();
    parts.join("\n\n")
}

fn insert(body: &mut Map<String, Value>, key: &str, value: &(impl Serialize + ?Sized)) {
    // Strings, numbers and JSON values always serialise; null would be refused by the server, visibly.
    body.insert(key.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BodyOptions {
        BodyOptions {
            model: "m".to_owned(),
            max_tokens: Some(8),
            ignore_eos: false,
            temperature: Some(0.0),
            stream: true,
            extra: Map::new(),
        }
    }

    fn check(endpoint: Endpoint, prompt: Prompt, options: &BodyOptions, expected: Value) {
        let body: Value = serde_json::from_slice(&request_body(endpoint, &prompt, options)).unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn shapes() {
        let usage = json!({"include_usage": true});
        check(
            Endpoint::Completions,
            Prompt::Text("a \"b\"\n".to_owned()),
            &options(),
            json!({"model":"m","prompt":"a \"b\"\n","max_tokens":8,"temperature":0.0,"stream":true,"stream_options":usage}),
        );
        check(
            Endpoint::Chat,
            Prompt::Text("hi".to_owned()),
            &BodyOptions { ignore_eos: true, temperature: None, ..options() },
            json!({"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":8,"ignore_eos":true,"stream":true,"stream_options":usage}),
        );
        let mut extra = Map::new();
        extra.insert("seed".to_owned(), json!(3));
        extra.insert("temperature".to_owned(), json!(0.7));
        check(
            Endpoint::Completions,
            Prompt::TokenIds(vec![1, 2]),
            &BodyOptions { stream: false, max_tokens: None, extra, ..options() },
            json!({"model":"m","prompt":[1,2],"temperature":0.7,"stream":false,"seed":3}),
        );
        let messages = vec![json!({"role":"system","content":"s"}), json!({"role":"user","content":"u"})];
        check(
            Endpoint::Completions,
            Prompt::Messages(messages),
            &BodyOptions { stream: false, max_tokens: None, temperature: None, ..options() },
            json!({"model":"m","prompt":"s\n\nu","stream":false}),
        );
    }

    #[test]
    fn native_shapes() {
        let extra = json!({"sampling_params": {"top_k": 1}, "return_logprob": true}).as_object().unwrap().clone();
        check(
            Endpoint::SglangGenerate,
            Prompt::Text("hi".to_owned()),
            &BodyOptions { ignore_eos: true, extra, ..options() },
            json!({"text":"hi","sampling_params":{"max_new_tokens":8,"ignore_eos":true,"temperature":0.0,"top_k":1},"stream":true,"return_logprob":true}),
        );
        check(
            Endpoint::SglangGenerate,
            Prompt::TokenIds(vec![3]),
            &BodyOptions { max_tokens: None, temperature: None, ..options() },
            json!({"input_ids":[3],"sampling_params":{},"stream":true}),
        );
        check(
            Endpoint::LlamaCppCompletion,
            Prompt::TokenIds(vec![1, 2]),
            &BodyOptions { stream: false, ..options() },
            json!({"prompt":[1,2],"n_predict":8,"temperature":0.0,"return_tokens":true,"stream":false}),
        );
    }
}
