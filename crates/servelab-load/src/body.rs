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
    /// Token ids; completions only.
    TokenIds(Vec<u32>),
    /// Chat messages as they go over the wire; for completions their contents are joined by blank lines.
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
    /// Further fields; they win over the ones above.
    pub extra: Map<String, Value>,
}

/// Serialises one request. Token ids on the chat endpoint have no wire form and are sent as a `prompt` field, which
/// servers refuse with a clear message.
pub fn request_body(endpoint: Endpoint, prompt: &Prompt, options: &BodyOptions) -> Vec<u8> {
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(options.model));
    match (endpoint, prompt) {
        (Endpoint::Chat, Prompt::Text(text)) => {
            insert(&mut body, "messages", &json!([{"role": "user", "content": text}]))
        }
        (Endpoint::Chat, Prompt::Messages(messages)) => insert(&mut body, "messages", messages),
        (Endpoint::Completions, Prompt::Messages(messages)) => {
            let parts: Vec<&str> =
                messages.iter().filter_map(|message| message.get("content").and_then(Value::as_str)).collect();
            insert(&mut body, "prompt", &parts.join("\n\n"));
        }
        (Endpoint::Completions, Prompt::Text(text)) => insert(&mut body, "prompt", text),
        (_, Prompt::TokenIds(ids)) => insert(&mut body, "prompt", ids),
    }
    if let Some(max_tokens) = options.max_tokens {
        insert(&mut body, "max_tokens", &max_tokens);
    }
    if options.ignore_eos {
        insert(&mut body, "ignore_eos", &true);
    }
    if let Some(temperature) = options.temperature {
        insert(&mut body, "temperature", &temperature);
    }
    insert(&mut body, "stream", &options.stream);
    if options.stream {
        insert(&mut body, "stream_options", &json!({"include_usage": true}));
    }
    for (key, value) in &options.extra {
        body.insert(key.clone(), value.clone());
    }
    Value::Object(body).to_string().into_bytes()
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
}
