//! The failure codes that a request record may carry, one constant each, with the sentence that explains it. A request
//! has at most one code; the order of precedence is in `stream::conclude`. Nothing here decides anything.

/// The server refused the connection (nothing listens there, or its accept queue is full and it says so).
pub const CONNECT_REFUSED: &str = "connect_refused";
/// The connection was not established in time.
pub const CONNECT_TIMEOUT: &str = "connect_timeout";
/// The connection could not be made for another reason (no route, network down).
pub const CONNECT_FAILED: &str = "connect_failed";
/// The TLS handshake failed (certificate, protocol).
pub const TLS_FAILED: &str = "tls_failed";
/// The client itself had no file descriptor or port left.
pub const CLIENT_RESOURCES: &str = "client_resources";
/// The connection was reset, or closed before the first response byte.
pub const CONNECTION_RESET: &str = "connection_reset";
/// The response was not complete within the request timeout.
pub const REQUEST_TIMEOUT: &str = "request_timeout";
/// A redirect; they are not followed.
pub const HTTP_3XX: &str = "http_3xx";
/// A 4xx status other than 429.
pub const HTTP_4XX: &str = "http_4xx";
/// 429 Too Many Requests.
pub const HTTP_429: &str = "http_429";
/// A 5xx status other than 503.
pub const HTTP_5XX: &str = "http_5xx";
/// 503 Service Unavailable.
pub const HTTP_503: &str = "http_503";
/// 2xx, but the body carried an error.
pub const IN_BAND_ERROR: &str = "in_band_error";
/// The response ended without `[DONE]`, a finish reason or its last chunk.
pub const TRUNCATED_STREAM: &str = "truncated_stream";
/// An event that is not the JSON it should be.
pub const MALFORMED_SSE: &str = "malformed_sse";
/// The response is not HTTP/1.1, or a 2xx body is neither an event stream nor JSON.
pub const MALFORMED_HTTP: &str = "malformed_http";
/// The body is compressed although the request asked for plain bytes.
pub const UNSUPPORTED_ENCODING: &str = "unsupported_encoding";
/// The server ended the answer itself: finish reason `abort` or `error`.
pub const SERVER_ABORTED: &str = "server_aborted";
/// The response ended properly and carried no token.
pub const ZERO_TOKENS: &str = "zero_tokens";
/// `ignore_eos` was set and fewer tokens came than were asked for.
pub const EARLY_STOP: &str = "early_stop";
/// `ignore_eos` was set and the server counted more tokens than were asked for.
pub const OVER_DELIVERY: &str = "over_delivery";
/// An earlier turn of the conversation failed, so this one was not sent.
pub const SESSION_BROKEN: &str = "session_broken";
/// The run was cancelled while the request was waiting or in flight.
pub const CANCELLED: &str = "cancelled";
/// Cut off by the end of the run: neither success nor failure.
pub const CENSORED: &str = "censored";

/// Every code with its explanation, in the order of this file.
pub const ALL: [(&str, &str); 24] = [
    (CONNECT_REFUSED, "the server refused the connection"),
    (CONNECT_TIMEOUT, "the connection was not established in time"),
    (CONNECT_FAILED, "the connection could not be made (no route, network down)"),
    (TLS_FAILED, "the TLS handshake with the server failed"),
    (CLIENT_RESOURCES, "this machine had no file descriptor or port left for another connection"),
    (CONNECTION_RESET, "the connection was reset, or closed before the first response byte"),
    (REQUEST_TIMEOUT, "the response was not complete within the request timeout"),
    (HTTP_3XX, "the server answered with a redirect, which is not followed"),
    (HTTP_4XX, "the server answered with a 4xx status other than 429"),
    (HTTP_429, "the server answered 429 Too Many Requests"),
    (HTTP_5XX, "the server answered with a 5xx status other than 503"),
    (HTTP_503, "the server answered 503 Service Unavailable"),
    (IN_BAND_ERROR, "the server answered 2xx and then sent an error inside the body"),
    (TRUNCATED_STREAM, "the response ended without [DONE], a finish reason or its last chunk"),
    (MALFORMED_SSE, "an event of the stream was not the JSON it should be"),
    (MALFORMED_HTTP, "the response was not HTTP/1.1, or its body neither an event stream nor JSON"),
    (UNSUPPORTED_ENCODING, "the body was compressed although the request asked for plain bytes"),
    (SERVER_ABORTED, "the server ended the answer itself (finish reason abort or error)"),
    (ZERO_TOKENS, "the response ended properly but carried no token"),
    (EARLY_STOP, "ignore_eos was set and fewer tokens came than were asked for"),
    (OVER_DELIVERY, "ignore_eos was set and more tokens came than were asked for"),
    (SESSION_BROKEN, "an earlier turn of the conversation failed, so this one was not sent"),
    (CANCELLED, "the run was cancelled while the request was waiting or in flight"),
    (CENSORED, "the end of the run cut the request off; neither success nor failure"),
];

/// The server's failure, rather than the request's or ours.
pub(crate) fn is_server_error(code: &str) -> bool {
    [
        CONNECT_REFUSED,
        CONNECT_TIMEOUT,
        CONNECT_FAILED,
        CONNECTION_RESET,
        HTTP_5XX,
        HTTP_503,
        IN_BAND_ERROR,
        TRUNCATED_STREAM,
        MALFORMED_SSE,
        MALFORMED_HTTP,
        SERVER_ABORTED,
    ]
    .contains(&code)
}

/// The explanation of `code`, if it is one of ours.
pub fn explain(code: &str) -> Option<&'static str> {
    ALL.iter().find(|(name, _)| *name == code).map(|(_, text)| *text)
}

/// The code of an HTTP status, `None` for 2xx.
pub(crate) fn of_status(status: u16) -> Option<&'static str> {
    match status {
        200..=299 => None,
        429 => Some(HTTP_429),
        503 => Some(HTTP_503),
        400..=499 => Some(HTTP_4XX),
        300..=399 => Some(HTTP_3XX),
        _ => Some(HTTP_5XX),
    }
}

#[cfg(test)]
mod tests {
    use servelab_core::codes::{CodeKind, explain};

    use super::ALL;

    #[test]
    fn every_code_is_in_the_catalogue() {
        for (code, _) in ALL {
            assert_eq!(explain(code).map(|known| known.kind), Some(CodeKind::RequestFailure), "{code}");
        }
    }
}
