//! Error answers in vLLM's shape and words.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self { status, kind, param: param.map(str::to_owned), message: message.into() }
    }

    /// A value that the API's rules refuse.
    pub(super) fn bad_value(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", Some(param), message)
    }

    /// The body is not JSON.
    pub(super) fn json(error: &serde_json::Error) -> Self {
        let at = format!("body.{}", error.column().saturating_sub(1));
        let message = format!(
            "1 validation error:\n  {{'type': 'json_invalid', 'loc': '{at}', 'msg': 'JSON decode error', 'input': '<dict \
             of 0 items>', 'ctx': {{'error': '{error}'}}}}"
        );
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", Some(&at), message)
    }

    /// A field of the wrong type.
    pub(super) fn field(field: &str, kind: &str, text: &str, input: &Value) -> Self {
        let at = format!("body.{field}");
        let shown = input.as_str().map_or_else(|| input.to_string(), |text| format!("'{text}'"));
        let message =
            format!("1 validation error:\n  {{'type': '{kind}', 'loc': '{at}', 'msg': '{text}', 'input': {shown}}}");
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", Some(&at), message)
    }

    /// A model that this server does not serve.
    pub(super) fn model(name: &str, served: &[String]) -> Self {
        let message = format!("The model `{name}` does not exist. Valid aliases: {}.", served.join(", "));
        Self::new(StatusCode::NOT_FOUND, "NotFoundError", Some("model"), message)
    }

    /// Not now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", None, message)
    }

    /// The engine failed under the request.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", None, message)
    }

    /// The JSON body, also sent inside streams.
    pub(super) fn body(&self) -> String {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status.as_u16(),
        }})
        .to_string()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response()
    }
}

/// The web framework's own errors.
pub(super) fn detail(status: StatusCode, text: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json!({"detail": text}).to_string()).into_response()
}
