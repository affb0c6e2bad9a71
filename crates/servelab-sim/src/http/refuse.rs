//! Error answers in vLLM's shape and words: its own validation errors, those of its request models (pydantic), and the
//! few that a running server gives.

use serde_json::{Value, json};

/// One complaint of a request model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Violation<'a> {
    /// `body.max_tokens`.
    pub(super) at: &'a str,
    pub(super) kind: &'a str,
    pub(super) text: &'a str,
    pub(super) input: &'a str,
    pub(super) ctx: &'a str,
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    kind: &'static str,
    param: Option<String>,
    message: String,
}

/// A value as Python's `str` of the parsed JSON shows it.
pub(super) fn python(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => crate::startup::python(other),
    }
}

impl ApiError {
    fn new(status: u16, kind: &'static str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self { status, kind, param: param.map(str::to_owned), message: message.into() }
    }

    /// A refusal that names no parameter.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequestError", None, message)
    }

    /// A refusal that names its parameter.
    pub(super) fn parameter(param: &str, message: &str) -> Self {
        Self::new(400, "BadRequestError", Some(param), format!("{message} (parameter={param})"))
    }

    /// A refusal that names its parameter and the value given.
    pub(super) fn value(param: &str, value: &str, message: &str) -> Self {
        Self::new(400, "BadRequestError", Some(param), format!("{message} (parameter={param}, value={value})"))
    }

    /// The body is not JSON.
    pub(super) fn json(body: &[u8], error: &serde_json::Error) -> Self {
        // Python counts characters from 0 and says what it would have liked to find.
        let at = body.split(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1);
        let position = at.sum::<usize>() + error.column() - usize::from(!error.is_eof() && error.column() > 0);
        let words = error.to_string();
        let wants_name = ["key must be a string", "EOF while parsing an object", "trailing comma"];
        let reason = if wants_name.iter().any(|start| words.starts_with(start)) {
            "Expecting property name enclosed in double quotes"
        } else if words.starts_with("trailing characters") {
            "Extra data"
        } else if words.starts_with("expected `:`") {
            "Expecting ':' delimiter"
        } else if words.starts_with("expected `,`") {
            "Expecting ',' delimiter"
        } else {
            "Expecting value"
        };
        Self::model(
            &format!("body.{position}"),
            "json_invalid",
            "JSON decode error",
            "'<dict of 0 items>'",
            &format!("{{'error': '{reason}'}}"),
        )
    }

    /// A request model's validation error; `input` and `ctx` are shown as Python prints them, an empty one is left out.
    pub(super) fn model(at: &str, kind: &str, text: &str, input: &str, ctx: &str) -> Self {
        Self::models(&[Violation { at, kind, text, input, ctx }])
    }

    /// Several of them: what a field with alternatives gives.
    pub(super) fn models(violations: &[Violation<'_>]) -> Self {
        let entries: Vec<String> = violations
            .iter()
            .map(|violation| {
                let Violation { at, kind, text, input, ctx } = violation;
                let mut entry = format!("  {{'type': '{kind}', 'loc': '{at}', 'msg': '{}'", text.replace('\'', "\\'"));
                for (name, value) in [("input", input), ("ctx", ctx)] {
                    if !value.is_empty() {
                        entry.push_str(&format!(", '{name}': {value}"));
                    }
                }
                entry + "}"
            })
            .collect();
        let errors = if entries.len() == 1 { "error" } else { "errors" };
        let message = format!("{} validation {errors}:\n{}", entries.len(), entries.join("\n"));
        Self::new(400, "Bad Request", violations.first().map(|violation| violation.at), message)
    }

    /// A field of the wrong type.
    pub(super) fn field(field: &str, kind: &str, text: &str, input: &Value) -> Self {
        Self::model(&format!("body.{field}"), kind, text, &summary(input), "")
    }

    /// A model that this server does not serve.
    pub(super) fn no_model(name: &str, served: &[String]) -> Self {
        let message = format!("The model `{name}` does not exist. Valid aliases: {}.", served.join(", "));
        Self::new(404, "NotFoundError", Some("model"), message)
    }

    /// A refusal that names its parameter outside of its message.
    pub(super) fn about(param: &str, message: &str) -> Self {
        Self::new(400, "BadRequestError", Some(param), message)
    }

    /// Not now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "Service Unavailable", None, message)
    }

    /// Another session is in the way.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", None, message)
    }

    /// The engine failed under the request.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalServerError", None, message)
    }

    /// The JSON body, also sent inside streams.
    pub(super) fn body(&self) -> String {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status,
        }})
        .to_string()
    }
}

/// A value inside a validation error: containers are described, long texts cut.
pub(super) fn summary(value: &Value) -> String {
    const MOST: usize = 200;
    let described = |kind: &str, n: usize| format!("'<{kind} of {n} items>'");
    match value {
        Value::Array(items) => described("list", items.len()),
        Value::Object(map) => described("dict", map.len()),
        Value::String(text) if text.chars().count() > MOST => {
            let cut: String = text.chars().take(MOST).collect();
            crate::startup::python(&Value::from(format!("{cut}...[truncated]")))
        }
        other => {
            let shown = crate::startup::python(other);
            // Everything but a text is shown through `str`, as a text.
            if other.is_string() { shown } else { format!("'{shown}'") }
        }
    }
}

/// The status line of a status code.
pub(super) fn status_line(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        409 => "409 Conflict",
        503 => "503 Service Unavailable",
        _ => "500 Internal Server Error",
    }
}
