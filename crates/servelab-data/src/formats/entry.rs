//! One entry of a dataset file, per format, before its tokens are counted.

use serde_json::{Map, Value};
use servelab_core::workload::{Category, FileFormat};

use crate::prompt::{Message, PromptBody};

/// What an entry says.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Option<String>,
    pub(super) body: PromptBody,
    pub(super) output_tokens: Option<u32>,
    pub(super) temperature: Option<f64>,
    pub(super) category: Option<Category>,
    pub(super) group: Option<u32>,
    pub(super) stated_input_tokens: Option<u32>,
    /// The recorded answer, whose length is the target when no other is stated.
    pub(super) answer: Option<String>,
}

impl Entry {
    fn new(body: PromptBody) -> Self {
        Self {
            id: None,
            body,
            output_tokens: None,
            temperature: None,
            category: None,
            group: None,
            stated_input_tokens: None,
            answer: None,
        }
    }
}

/// Reads one entry; `None` when it holds nothing to send.
pub(super) fn parse_entry(value: &Value, format: FileFormat) -> Result<Option<Entry>, String> {
    let object = value.as_object().ok_or_else(|| format!("holds {}; expected a JSON object", kind_of(value)))?;
    match format {
        FileFormat::Legacy | FileFormat::Auto => legacy(object).map(Some),
        FileFormat::Messages | FileFormat::Openai => openai(object),
        FileFormat::Sharegpt => sharegpt(object),
    }
}

fn legacy(object: &Map<String, Value>) -> Result<Entry, String> {
    let prompt = string(object, "prompt")?.ok_or("has no `prompt`; expected the prompt's text")?;
    let mut entry = Entry::new(PromptBody::Text(prompt));
    entry.stated_input_tokens = whole(object, "prompt_length", 0)?;
    entry.output_tokens = whole(object, "expected_output_length", 1)?;
    entry.id = id(object, "id")?;
    match object.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => {
            entry.id = id(metadata, "id")?.or(entry.id);
            entry.group = whole(metadata, "group", 0)?;
            // Other people's files use the key for other things too, so a foreign word is no error.
            entry.category = metadata
                .get("category")
                .and_then(Value::as_str)
                .and_then(|name| Category::ALL.into_iter().find(|category| category.as_str() == name));
        }
        Some(other) => return Err(wrong("metadata", "an object", other)),
    }
    Ok(entry)
}

fn openai(object: &Map<String, Value>) -> Result<Option<Entry>, String> {
    let request = openai_request(object)?;
    let mut messages = openai_messages(request)?;
    // Training files end with the answer; it must not be sent, but tells how long an answer is.
    let answer = messages.pop_if(|last| last.role == "assistant").map(|last| last.content);
    if messages.is_empty() {
        return Ok(None);
    }
    let mut entry = Entry::new(PromptBody::Messages(messages));
    entry.answer = answer;
    entry.output_tokens = openai_max_tokens(request)?;
    entry.temperature = match request.get("temperature") {
        None | Some(Value::Null) => None,
        Some(value) => {
            Some(value.as_f64().filter(|t| *t >= 0.0).ok_or_else(|| wrong("temperature", "a number from 0", value))?)
        }
    };
    entry.id = openai_id(object)?;
    Ok(Some(entry))
}

fn openai_request(object: &Map<String, Value>) -> Result<&Map<String, Value>, String> {
    match object.get("body") {
        None => Ok(object),
        Some(Value::Object(body)) => Ok(body),
        Some(other) => Err(wrong("body", "an object", other)),
    }
}

fn openai_messages(request: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let list = match request.get("messages") {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages", "a list", other)),
        None => return Err("has no `messages`; expected a list of {\"role\", \"content\"}".to_owned()),
    };
    list.iter().enumerate().map(|(idx, message)| openai_message(idx, message)).collect()
}

fn openai_max_tokens(request: &Map<String, Value>) -> Result<Option<u32>, String> {
    match whole(request, "max_completion_tokens", 1)? {
        Some(tokens) => Ok(Some(tokens)),
        None => whole(request, "max_tokens", 1),
    }
}

fn openai_id(object: &Map<String, Value>) -> Result<Option<String>, String> {
    match id(object, "custom_id")? {
        Some(custom) => Ok(Some(custom)),
        None => id(object, "id"),
    }
}

/// A conversation of several turns, before its tokens are counted.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) id: Option<String>,
    /// System messages before the first question.
    pub(crate) system: Option<String>,
    /// Questions, each with the recorded answer.
    pub(crate) turns: Vec<(String, Option<String>)>,
    /// Output length stated for all answers.
    pub(crate) output_tokens: Option<u32>,
}

/// Reads one conversation; `None` when nobody asks anything. Messages of one side that follow each other are joined by a
/// blank line; an answer before the first question is dropped.
pub(crate) fn parse_talk(value: &Value, format: FileFormat) -> Result<Option<Talk>, String> {
    let object = value.as_object().ok_or_else(|| format!("holds {}; expected a JSON object", kind_of(value)))?;
    let (messages, mut talk) = match format {
        FileFormat::Sharegpt => {
            let talk = Talk { id: id(object, "id")?, system: None, turns: Vec::new(), output_tokens: None };
            (sharegpt_messages(object)?, talk)
        }
        FileFormat::Messages | FileFormat::Openai => {
            let request = openai_request(object)?;
            let talk = Talk {
                id: openai_id(object)?,
                system: None,
                turns: Vec::new(),
                output_tokens: openai_max_tokens(request)?,
            };
            (openai_messages(request)?, talk)
        }
        FileFormat::Legacy | FileFormat::Auto => {
            return Err("holds a single prompt; expected `conversations` or `messages`".to_owned());
        }
    };
    let join = |text: &mut String, more: &str| {
        text.push_str("\n\n");
        text.push_str(more);
    };
    for (idx, message) in messages.into_iter().enumerate() {
        match (message.role.as_str(), talk.turns.last_mut()) {
            ("system" | "developer", None) => match &mut talk.system {
                Some(system) => join(system, &message.content),
                None => talk.system = Some(message.content),
            },
            ("assistant", None) => {}
            ("assistant", Some((_, Some(answer)))) => join(answer, &message.content),
            ("assistant", Some((_, answer))) => *answer = Some(message.content),
            ("user", Some((question, None))) => join(question, &message.content),
            ("user", _) => talk.turns.push((message.content, None)),
            (other, _) => {
                return Err(format!(
                    "message {} is from `{other}`; in a conversation expected system first, then user and assistant",
                    idx + 1
                ));
            }
        }
    }
    talk.turns.retain(|(question, _)| !question.trim().is_empty());
    Ok(Some(talk).filter(|talk| !talk.turns.is_empty()))
}

fn openai_message(idx: usize, value: &Value) -> Result<Message, String> {
    let at = format!("message {}", idx + 1);
    let object = value.as_object().ok_or_else(|| format!("{at} is {}; expected an object", kind_of(value)))?;
    let role = string(object, "role")?.ok_or_else(|| format!("{at} has no `role`"))?;
    let content = match object.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for part in parts {
                let piece = part.get("text").and_then(Value::as_str);
                text.push_str(piece.ok_or_else(|| format!("{at} has a part that is not text; only text can be sent"))?);
            }
            text
        }
        _ => return Err(format!("{at} has no text; expected `content` with a string or a list of text parts")),
    };
    Ok(Message { role, content })
}

fn sharegpt(object: &Map<String, Value>) -> Result<Option<Entry>, String> {
    let mut messages: Vec<Message> = Vec::new();
    let mut answer = None;
    let mut asked = false;
    for message in sharegpt_messages(object)? {
        // The first question is the prompt and the reply to it the target; a reply before any question is dropped.
        match message.role.as_str() {
            "assistant" if asked => {
                answer = Some(message.content);
                break;
            }
            "assistant" => {}
            role => {
                asked |= role == "user";
                messages.push(message);
            }
        }
    }
    if !asked {
        return Ok(None);
    }
    let mut entry = Entry::new(PromptBody::Messages(messages));
    entry.answer = answer;
    entry.id = id(object, "id")?;
    Ok(Some(entry))
}

/// All turns under the roles of the chat API.
fn sharegpt_messages(object: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let turns = match object.get("conversations") {
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(wrong("conversations", "a list", other)),
        None => return Err("has no `conversations`; expected a list of {\"from\", \"value\"}".to_owned()),
    };
    let message = |(idx, turn): (usize, &Value)| {
        let at = format!("turn {}", idx + 1);
        let turn = turn.as_object().ok_or_else(|| format!("{at} is {}; expected an object", kind_of(turn)))?;
        let from = string(turn, "from")?.ok_or_else(|| format!("{at} has no `from`"))?;
        let content = string(turn, "value")?.ok_or_else(|| format!("{at} has no `value`"))?;
        let role = match from.as_str() {
            "human" | "user" => "user",
            "gpt" | "chatgpt" | "assistant" | "bing" | "bard" => "assistant",
            "system" => "system",
            other => return Err(format!("{at} is from `{other}`; expected human, gpt or system")),
        };
        Ok(Message { role: role.to_owned(), content })
    };
    turns.iter().enumerate().map(message).collect()
}

fn string(object: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(key, "a string", other)),
    }
}

fn id(object: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(wrong(key, "a string or a number", other)),
    }
}

fn whole(object: &Map<String, Value>, key: &str, min: u32) -> Result<Option<u32>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number >= min);
            number.map(Some).ok_or_else(|| wrong(key, &format!("a whole number from {min}"), value))
        }
    }
}

fn wrong(key: &str, expected: &str, found: &Value) -> String {
    format!("`{key}` is {}; expected {expected}", kind_of(found))
}

/// The kind of a JSON value in words, numbers with their value.
pub(super) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
