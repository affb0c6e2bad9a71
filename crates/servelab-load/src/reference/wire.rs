//! The bytes of answers, in the form that vLLM 0.32 gives them (its captures are the model): one HTTP chunk per event.
//! Event chunks are made once per form and only get the request's number written in, so that a write costs a copy and
//! a stream needs no memory of its own.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::request::Path;

/// Digits of a request number in a response id; fixed, so that a template's places do not move.
const NUMBER_DIGITS: usize = 10;
const ID_MARK: &str = "ref-";
/// A constant instead of the wall clock: answers are the same bytes in every run.
const CREATED: u32 = 1_790_000_000;

/// The number of the request that a response with this id answers; `None` for another server's id.
pub fn request_number(response_id: &str) -> Option<u32> {
    let (_, digits) = response_id.split_once(ID_MARK)?;
    if digits.len() == NUMBER_DIGITS { digits.parse().ok() } else { None }
}

/// Everything in which one event chunk differs from another, apart from the request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub(super) path: Path,
    pub(super) tokens: u32,
    pub(super) has_token_ids: bool,
    /// Only the last token event has one.
    pub(super) finish_reason: Option<&'static str>,
}

/// A chunk with places for the number.
struct Template {
    bytes: Vec<u8>,
    number_at: Vec<usize>,
}

impl Template {
    fn new(text: &str) -> Self {
        let number_at = text.match_indices(PLACE).map(|(at, _)| at).collect();
        Self { bytes: text.as_bytes().to_vec(), number_at }
    }

    fn push(&self, out: &mut Vec<u8>, digits: &[u8; NUMBER_DIGITS]) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for at in &self.number_at {
            if let Some(place) = out.get_mut(start + at..start + at + NUMBER_DIGITS) {
                place.copy_from_slice(digits);
            }
        }
    }
}

const PLACE: &str = "##########";

fn digits(mut number: u32) -> [u8; NUMBER_DIGITS] {
    let mut digits = [b'0'; NUMBER_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// Makes every answer of one server.
pub(super) struct Wire {
    /// The model's name as JSON.
    model: String,
    events: HashMap<Form, Template>,
}

pub(super) const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nserver: servelab-reference\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
/// Up to here a slow head is sent at once.
pub(super) const SLOW_HEAD_BYTES: usize = 9;

impl Wire {
    pub(super) fn new(model: &str) -> Self {
        Self { model: serde_json::Value::from(model).to_string(), events: HashMap::new() }
    }

    /// One token event.
    pub(super) fn event(&mut self, out: &mut Vec<u8>, number: u32, form: Form) {
        let model = &self.model;
        let template = self.events.entry(form).or_insert_with(|| Template::new(&event_chunk(model, form)));
        template.push(out, &digits(number));
    }

    /// The event that opens a chat stream and carries no token.
    pub(super) fn role(&self, out: &mut Vec<u8>, number: u32) {
        let body = r#","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}"#;
        self.dynamic(out, number, Path::Chat, body);
    }

    /// What follows the tokens: usage where asked for, `[DONE]`, the last chunk.
    pub(super) fn tail(&self, out: &mut Vec<u8>, number: u32, path: Path, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.dynamic(out, number, path, &format!(r#","choices":[],{}}}"#, usage.json()));
        }
        out.extend_from_slice(DONE);
        out.extend_from_slice(LAST_CHUNK);
    }

    fn dynamic(&self, out: &mut Vec<u8>, number: u32, path: Path, rest: &str) {
        let start = event_start(path, &self.model);
        Template::new(&chunk(&format!("data: {start}{rest}\n\n"))).push(out, &digits(number));
    }

    /// A whole answer without a stream.
    pub(super) fn whole(&self, out: &mut Vec<u8>, number: u32, path: Path, usage: Usage) {
        let text = text_of(usage.completion);
        let (id, object, choice) = match path {
            Path::Chat => {
                ("chatcmpl", "chat.completion", format!(r#""message":{{"role":"assistant","content":"{text}"}}"#))
            }
            _ => ("cmpl", "text_completion", format!(r#""text":"{text}""#)),
        };
        let body = format!(
            r#"{{"id":"{id}-{ID_MARK}{PLACE}","object":"{object}","created":{CREATED},"model":{},"choices":[{{"index":0,{choice},"logprobs":null,"finish_reason":"length","stop_reason":null}}],{}}}"#,
            self.model,
            usage.json()
        );
        Template::new(&plain("200 OK", &body)).push(out, &digits(number));
    }

    /// The list of models.
    pub(super) fn models(&self) -> String {
        let body = format!(
            r#"{{"object":"list","data":[{{"id":{},"object":"model","created":{CREATED},"owned_by":"servelab","max_model_len":1048576}}]}}"#,
            self.model
        );
        plain("200 OK", &body)
    }
}

/// Token counts of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) prompt: u32,
    pub(super) completion: u32,
}

impl Usage {
    fn json(self) -> String {
        let Self { prompt, completion } = self;
        let total = u64::from(prompt) + u64::from(completion);
        format!(r#""usage":{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{completion}}}"#)
    }
}

const DONE: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n";
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Each token is one word.
fn text_of(tokens: u32) -> String {
    " tok".repeat(tokens as usize)
}

fn event_start(path: Path, model: &str) -> String {
    let (id, object) = match path {
        Path::Chat => ("chatcmpl", "chat.completion.chunk"),
        _ => ("cmpl", "text_completion"),
    };
    format!(r#"{{"id":"{id}-{ID_MARK}{PLACE}","object":"{object}","created":{CREATED},"model":{model}"#)
}

fn event_chunk(model: &str, form: Form) -> String {
    let Form { path, tokens, has_token_ids, finish_reason } = form;
    let text = text_of(tokens);
    let finish = finish_reason.map_or_else(|| "null".to_owned(), |reason| format!("\"{reason}\""));
    let mut ids = String::from("null");
    if has_token_ids {
        let list: Vec<String> = (0..tokens).map(|token| (1000 + token).to_string()).collect();
        ids = format!("[{}]", list.join(","));
    }
    let mut event = format!("data: {}", event_start(path, model));
    let _ = match path {
        Path::Chat => write!(
            event,
            r#","choices":[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":{finish},"token_ids":{ids}}}]}}"#
        ),
        _ => write!(
            event,
            r#","choices":[{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":{ids}}}]}}"#
        ),
    };
    event.push_str("\n\n");
    chunk(&event)
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// An answer of known length.
pub(super) fn plain(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nserver: servelab-reference\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An error object as vLLM sends it.
pub(super) fn error_body(code: u16, message: &str) -> String {
    let message = serde_json::Value::from(message);
    format!(r#"{{"error":{{"message":{message},"type":"ReferenceServer","param":null,"code":{code}}}}}"#)
}

/// An error inside a stream that began well, and the end of that stream.
pub(super) fn in_band_error(out: &mut Vec<u8>) {
    let event = format!("data: {}\n\n", error_body(500, "the script asked for an error inside the stream"));
    out.extend_from_slice(chunk(&event).as_bytes());
    out.extend_from_slice(DONE);
    out.extend_from_slice(LAST_CHUNK);
}

/// A chunk whose size is no number.
pub(super) const BAD_CHUNK: &[u8] = b"zz\r\ndata: {}\n\n\r\n";

/// A well-framed event that is no JSON.
pub(super) fn bad_event(out: &mut Vec<u8>) {
    out.extend_from_slice(chunk("data: {\"id\":\"cmpl-\",\"choices\":[{\"text\n\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn form(path: Path, tokens: u32, has_token_ids: bool, finish_reason: Option<&'static str>) -> Form {
        Form { path, tokens, has_token_ids, finish_reason }
    }

    /// The JSON of each chunk of a stream.
    fn events(mut bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let line_end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line_end]).unwrap(), 16).unwrap();
            let chunk = &bytes[line_end + 2..line_end + 2 + size];
            bytes = &bytes[line_end + 2 + size..];
            assert_eq!(&bytes[..2], b"\r\n");
            bytes = &bytes[2..];
            if size > 0 {
                let text = std::str::from_utf8(chunk).unwrap();
                events.push(text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap().to_owned());
            }
        }
        events
    }

    #[test]
    fn a_stream_is_well_formed() {
        for (path, id) in [(Path::Completions, "cmpl-ref-0000000042"), (Path::Chat, "chatcmpl-ref-0000000042")] {
            let mut wire = Wire::new("a \"model\"");
            let mut bytes = Vec::new();
            if path == Path::Chat {
                wire.role(&mut bytes, 42);
            }
            wire.event(&mut bytes, 42, form(path, 2, true, None));
            wire.event(&mut bytes, 42, form(path, 1, false, Some("length")));
            wire.tail(&mut bytes, 42, path, Some(Usage { prompt: 7, completion: 3 }));
            let mut events = events(&bytes);
            assert_eq!(events.pop().as_deref(), Some("[DONE]"));
            let mut events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
            for event in &events {
                assert_eq!((event["id"].as_str(), event["model"].as_str()), (Some(id), Some("a \"model\"")));
                assert_eq!(request_number(event["id"].as_str().unwrap()), Some(42));
            }
            let usage = events.pop().unwrap();
            assert_eq!(usage["usage"]["completion_tokens"], 3);
            if path == Path::Chat {
                assert_eq!(events.remove(0)["choices"][0]["delta"]["content"], "");
            }
            let text = |event: &Value| {
                let choice = &event["choices"][0];
                choice.get("text").unwrap_or(&choice["delta"]["content"]).as_str().unwrap().to_owned()
            };
            assert_eq!((text(&events[0]), text(&events[1])), (" tok tok".to_owned(), " tok".to_owned()));
            assert_eq!(events[0]["choices"][0]["token_ids"], serde_json::json!([1000, 1001]));
            assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
        }
    }

    #[test]
    fn ids() {
        assert_eq!(request_number("cmpl-ref-4294967295"), Some(u32::MAX));
        for other in ["cmpl-a054fc0fcaa79b17", "cmpl-ref-12", "cmpl-ref-00000000xx", ""] {
            assert_eq!(request_number(other), None, "{other}");
        }
        assert_eq!(&digits(1_203), b"0000001203");
    }

    #[test]
    fn whole_answers() {
        let mut bytes = Vec::new();
        let wire = Wire::new("m");
        wire.whole(&mut bytes, 5, Path::Chat, Usage { prompt: 1, completion: 2 });
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], " tok tok");
        let models = wire.models();
        assert!(serde_json::from_str::<Value>(models.split_once("\r\n\r\n").unwrap().1).is_ok(), "{models}");
        assert!(serde_json::from_str::<Value>(&error_body(503, "a \"b\"")).is_ok());
    }
}
