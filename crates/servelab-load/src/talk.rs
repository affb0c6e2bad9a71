//! The bodies of a conversation, in the pieces that the engine puts together once it knows the server's answers. On the
//! chat endpoint these are messages; elsewhere one growing text in which each answer directly follows its question, so
//! that a server which kept the tokens finds them again.

use serde_json::Value;

use crate::body::{BodyOptions, Prompt, request_map};
use crate::source::{Conversation, Turn};
use crate::target::Endpoint;

/// Between an answer and the next question, and after the system prompt, where there are no messages.
const BLANK_LINE: &str = "\n\n";

/// One turn as it is to be held.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnText {
    /// Unique within the attempt.
    pub request_idx: i64,
    /// What the user says.
    pub user: String,
    /// Most output tokens.
    pub max_tokens: i64,
    /// Pause before it; not used for the first.
    pub think_ns: i64,
    /// Prompt tokens as far as they are known without the answers.
    pub input_tokens: Option<i64>,
}

/// Cuts a conversation into the pieces of its bodies. `options.max_tokens` is each turn's own.
pub fn conversation(
    endpoint: Endpoint,
    system: Option<&str>,
    turns: Vec<TurnText>,
    options: &BodyOptions,
) -> Conversation {
    let is_chat = endpoint == Endpoint::Chat;
    let key = match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::SglangGenerate => "text",
        Endpoint::Completions | Endpoint::LlamaCppCompletion => "prompt",
    };
    let mut head = format!("{{\"{key}\":{}", if is_chat { "[" } else { "\"" });
    if let Some(system) = system {
        if is_chat {
            head.push_str(&message("system", system));
            head.push(',');
        } else {
            head.push_str(&escaped(system));
            head.push_str(&escaped(BLANK_LINE));
        }
    }
    let turns = turns.into_iter().enumerate().map(|(number, turn)| {
        let said = match (is_chat, number) {
            (true, 0) => message("user", &turn.user),
            (true, _) => format!(",{}", message("user", &turn.user)),
            (false, 0) => escaped(&turn.user),
            (false, _) => escaped(&format!("{BLANK_LINE}{}", turn.user)),
        };
        let own = BodyOptions { max_tokens: Some(turn.max_tokens), ..options.clone() };
        let mut rest = request_map(endpoint, &Prompt::Text(String::new()), &own);
        rest.remove(key);
        let rest = Value::Object(rest).to_string();
        let tail = format!("{},{}", if is_chat { "]" } else { "\"" }, rest.strip_prefix('{').unwrap_or("}"));
        Turn {
            request_idx: turn.request_idx,
            said: said.into_bytes(),
            tail: tail.into_bytes(),
            think_ns: turn.think_ns,
            input_tokens: turn.input_tokens,
            requested_output_tokens: Some(turn.max_tokens),
            ignore_eos: options.ignore_eos,
        }
    });
    let turns = turns.collect();
    let (before_answer, after_answer) =
        if is_chat { (",{\"role\":\"assistant\",\"content\":\"", "\"}") } else { ("", "") };
    Conversation {
        head: head.into_bytes(),
        turns,
        before_answer: before_answer.into(),
        after_answer: after_answer.into(),
    }
}

fn message(role: &str, content: &str) -> String {
    format!("{{\"role\":\"{role}\",\"content\":{}}}", Value::from(content))
}

/// As it stands inside a JSON string, without the quotes.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    /// The body of the last turn, put together as the engine does.
    fn last_body(conversation: &Conversation, answers: &[&str]) -> Value {
        let mut body = conversation.head.clone();
        for (number, turn) in conversation.turns.iter().enumerate() {
            body.extend_from_slice(&turn.said);
            if let Some(answer) = answers.get(number) {
                body.extend_from_slice(&conversation.before_answer);
                body.extend_from_slice(escaped(answer).as_bytes());
                body.extend_from_slice(&conversation.after_answer);
            } else {
                body.extend_from_slice(&turn.tail);
            }
        }
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
    }

    fn three_turns(endpoint: Endpoint, system: Option<&str>) -> Conversation {
        let options = BodyOptions {
            model: "m\"".to_owned(),
            max_tokens: None,
            ignore_eos: true,
            temperature: Some(0.0),
            stream: true,
            extra: Map::new(),
        };
        let turn = |n: i64| TurnText {
            request_idx: n,
            user: format!("question \"{n}\"\n"),
            max_tokens: 10 + n,
            think_ns: n,
            input_tokens: None,
        };
        conversation(endpoint, system, (0..3).map(turn).collect(), &options)
    }

    #[test]
    fn chat_bodies_hold_all_messages() {
        let body = last_body(&three_turns(Endpoint::Chat, Some("be \\ brief")), &["one\t", "\"two\""]);
        assert_eq!(
            body,
            json!({
                "model": "m\"", "max_tokens": 12, "ignore_eos": true, "temperature": 0.0, "stream": true,
                "stream_options": {"include_usage": true},
                "messages": [
                    {"role": "system", "content": "be \\ brief"},
                    {"role": "user", "content": "question \"0\"\n"},
                    {"role": "assistant", "content": "one\t"},
                    {"role": "user", "content": "question \"1\"\n"},
                    {"role": "assistant", "content": "\"two\""},
                    {"role": "user", "content": "question \"2\"\n"},
                ]
            })
        );
        let body = last_body(&three_turns(Endpoint::Chat, None), &["a", "b"]);
        assert_eq!(body["messages"].as_array().map(Vec::len), Some(5));
    }

    #[test]
    fn text_bodies_grow_and_answers_follow_directly() {
        for (endpoint, key, limit) in [
            (Endpoint::Completions, "prompt", "/max_tokens"),
            (Endpoint::SglangGenerate, "text", "/sampling_params/max_new_tokens"),
            (Endpoint::LlamaCppCompletion, "prompt", "/n_predict"),
        ] {
            let body = last_body(&three_turns(endpoint, Some("system")), &[" one", " two"]);
            let expected = "system\n\nquestion \"0\"\n one\n\nquestion \"1\"\n two\n\nquestion \"2\"\n";
            assert_eq!(body[key], expected);
            assert_eq!(body.pointer(limit), Some(&json!(12)));
        }
    }
}
