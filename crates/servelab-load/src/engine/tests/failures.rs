//! What can go wrong with a request or before the first one, each with its own code or error.

use super::*;

/// Every way in which a request can fail, side by side with good ones on the same connections.
#[test]
fn each_failure_has_its_code() {
    fn script(exchange: &mut Exchange<'_>) -> After {
        match exchange.index {
            0 => exchange.answer(3, 0),
            1 => exchange.answer(2, 0),
            2 => { exchange.stream_head(); exchange.finish(0); After::KeepOpen }
            3 => { exchange.stream_head(); exchange.token("a"); exchange.event(r#"{"error":{"message":"engine died"}}"#); exchange.event("[DONE]"); exchange.write("0\r\n\r\n"); After::KeepOpen }
            4 => { exchange.stream_head(); exchange.token("a"); After::Close }
            5 => { exchange.stream_head(); exchange.token("a"); exchange.pause(20); After::Reset }
            6 => exchange.plain("503 Service Unavailable", r#"{"error":{"message":"queue full"}}"#),
            7 => exchange.plain("429 Too Many", "{}"),
            8 => exchange.plain("404 Not Found", r#"{"detail":"no such model"}"#),
            9 => exchange.plain("500 Oops", "boom"),
            10 => { exchange.stream_head(); exchange.event("{broken"); After::KeepOpen }
            11 => { exchange.write("220 mail.example ESMTP\r\n\r\n"); After::Close }
            12 => After::Close,
            13 => { exchange.stream_head(); exchange.token("a"); exchange.pause(2_500); After::Close }
            14 => { exchange.stream_head(); for _ in 0..3 { exchange.token("a"); } exchange.event("[DONE]"); exchange.pause(2_500); After::Close }
            _ => exchange.plain("200 OK", r#"{"id":"w","choices":[{"text":"abc","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":3}}"#),
        }
    }
    let server = Server::start(script);
    let mut spec = spec(&server, 16, closed(1), Stop::AllRequests);
    spec.request_timeout_ns = 1_000 * MS;
    let outcome = run(spec);
    let got: Vec<&str> = outcome.requests.iter().map(|record| record.failure_code.as_deref().unwrap_or("ok")).collect();
    assert_eq!(
        got,
        [
            "ok",
            codes::EARLY_STOP,
            codes::ZERO_TOKENS,
            codes::IN_BAND_ERROR,
            codes::TRUNCATED_STREAM,
            codes::CONNECTION_RESET,
            codes::HTTP_503,
            codes::HTTP_429,
            codes::HTTP_4XX,
            codes::HTTP_5XX,
            codes::MALFORMED_SSE,
            codes::MALFORMED_HTTP,
            codes::CONNECTION_RESET,
            codes::REQUEST_TIMEOUT,
            "ok",
            "ok",
        ]
    );
    assert_eq!(server.counts.requests.load(SeqCst), 16, "no silent retry");
    let sample = |code: &str| {
        outcome.failure_samples.iter().find(|sample| sample.code == code).map(|sample| sample.detail.as_str())
    };
    assert_eq!(sample(codes::IN_BAND_ERROR), Some("engine died"));
    assert_eq!(sample(codes::HTTP_503), Some("503: queue full"));
    assert_eq!(sample(codes::HTTP_4XX), Some("404: no such model"));
    let after_close = &outcome.requests[5];
    assert!(after_close.t_conn0.unwrap() <= after_close.t_conn1.unwrap(), "a new connection is recorded");
    assert!(after_close.t_conn1.unwrap() <= after_close.t_send.unwrap());
    let timeout = &outcome.requests[13];
    assert!(timeout.t_first.is_some(), "what came before the timeout is kept");
    let lasted = timeout.t_done.unwrap() - timeout.t_send.unwrap();
    assert!((900 * MS..2_400 * MS).contains(&lasted), "in flight until the timeout: {lasted} ns");
    for record in &outcome.requests {
        assert!(record.t_done.unwrap() >= record.t_send.unwrap(), "{record:?}");
    }
}

#[test]
fn a_server_that_stops_listening_refuses_the_rest() {
    let server = Server::start(|exchange| {
        if exchange.index == 2 {
            exchange.stop_listening();
        }
        // Announced, so that the client does not send on a connection that is about to be closed.
        exchange.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
        let event = "data: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n";
        exchange.write(format!("{}data: [DONE]\n\n", event.repeat(3)));
        After::Close
    });
    let outcome = run(spec(&server, 5, closed(1), Stop::AllRequests));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 3), (codes::CONNECT_REFUSED, 2)]));
    let refused = &outcome.requests[4];
    assert!(refused.t_conn0.is_some() && refused.t_conn1.is_none() && refused.t_send.is_none());
    assert!(refused.t_done.unwrap() >= refused.t_conn0.unwrap());
}

#[test]
fn an_endpoint_without_server_is_an_error_before_the_start() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = Prepared::new(Vec::new(), requests(0, 1, 0));
    let target = target(format!("http://{address}"));
    let spec = LoadSpec::new(target, clock::new_epoch(), source, closed(1), Stop::AllRequests);
    let error = run_load(spec, &mut MemoryRecords::default(), &LoadControl::new()).unwrap_err();
    assert!(matches!(error, LoadError::Connect { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
