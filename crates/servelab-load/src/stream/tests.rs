use std::path::PathBuf;

use servelab_core::record::{Phase, TokenSource};

use super::*;
use crate::codes;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn wire(events: &[&str]) -> Vec<u8> {
    let mut text = HEAD.to_owned();
    for event in events {
        let body = format!("data: {event}\n\n");
        text += &format!("{:x}\r\n{body}\r\n", body.len());
    }
    (text + "0\r\n\r\n").into_bytes()
}

pub(super) struct Seen {
    pub(super) record: RequestRecord,
    pub(super) events: Vec<(i64, i32)>,
    pub(super) conclusion: Conclusion,
}

/// Feeds the parts at 10, 20, 30, … ns and concludes.
pub(super) fn read(parts: &[&[u8]], end: Option<End>, expect: Expectation, keep_text: bool) -> Seen {
    let mut reader = ResponseReader::new(keep_text);
    let mut events = Vec::new();
    let mut progress = Progress::Open;
    let mut t_ns = 0;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        t_ns += 10;
        progress = reader.feed(t_ns, part, |n| events.push((t_ns, n)));
        if progress == Progress::Broken {
            break;
        }
    }
    let end = match (progress, end) {
        (Progress::Complete { .. }, _) => End::Complete,
        (_, Some(end)) => end,
        (Progress::Broken, None) => End::Closed,
        (_, None) => {
            let is_complete = reader.close(t_ns + 10, |n| events.push((t_ns + 10, n)));
            if is_complete { End::Complete } else { End::Closed }
        }
    };
    let mut record = RequestRecord::scheduled(1, Phase::Window, 0);
    let conclusion = reader.conclude(end, expect, &mut record);
    Seen { record, events, conclusion }
}

/// One event per read, head first, end of the body last.
pub(super) fn read_events(events: &[&str]) -> Seen {
    read_framed(events, false)
}

pub(super) fn read_events_kept(events: &[&str]) -> Seen {
    read_framed(events, true)
}

/// A body of events as it stands.
pub(super) fn read_body(body: &str) -> Seen {
    let wire = format!("{HEAD}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    read(&[wire.as_bytes()], None, Expectation::default(), false)
}

fn read_framed(events: &[&str], keep_text: bool) -> Seen {
    let mut parts = vec![HEAD.as_bytes().to_vec()];
    for event in events {
        let body = format!("data: {event}\n\n");
        parts.push(format!("{:x}\r\n{body}\r\n", body.len()).into_bytes());
    }
    parts.push(b"0\r\n\r\n".to_vec());
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    read(&parts, None, Expectation::default(), keep_text)
}

pub(super) fn code(seen: &Seen) -> Option<&str> {
    seen.record.failure_code.as_deref()
}

#[test]
fn stamps_of_a_completions_stream() {
    let seen = read_events(&[
        r#"{"id":"cmpl-1","choices":[{"index":0,"text":"a","finish_reason":null}]}"#,
        r#"{"id":"cmpl-1","choices":[{"index":0,"text":"b","finish_reason":null}]}"#,
        r#"{"id":"cmpl-1","choices":[{"index":0,"text":"","finish_reason":"length"}]}"#,
        r#"{"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3},"metrics":{"queue_time_ms":1.5,"time_to_first_token_ms":9.0}}"#,
        "[DONE]",
    ]);
    let record = &seen.record;
    assert_eq!(code(&seen), None);
    assert_eq!((record.t_hdr, record.t_first, record.t_out, record.t_last), (Some(10), Some(20), Some(20), Some(30)));
    assert_eq!((record.t_usage, record.t_done), (Some(50), Some(60)));
    assert_eq!((record.output_tokens, record.token_source), (Some(3), Some(TokenSource::ServerUsage)));
    assert_eq!((record.input_tokens, record.n_first, record.http_status), (Some(4), Some(1), Some(200)));
    assert_eq!((record.response_id.as_deref(), record.finish_reason.as_deref()), (Some("cmpl-1"), Some("length")));
    assert_eq!((record.server_queue_ms, record.server_ttft_ms), (Some(1.5), Some(10.5)));
    assert_eq!(seen.events, [(20, 1), (30, 1)]);
    assert!(record.is_success());
}

#[test]
fn a_role_chunk_is_no_token_and_reasoning_is_no_output() {
    let delta = |delta: &str| format!(r#"{{"id":"c","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#);
    for reasoning in
        [r#"{"reasoning":"hm"}"#, r#"{"reasoning_content":"hm"}"#, r#"{"content":"","reasoning_content":"hm"}"#]
    {
        let seen = read_events(&[
            &delta(r#"{"role":"assistant","content":""}"#),
            &delta(reasoning),
            &delta(r#"{"content":"so"}"#),
            &delta(r#"{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#),
            "[DONE]",
        ]);
        assert_eq!(code(&seen), None, "{reasoning}");
        assert_eq!((seen.record.t_first, seen.record.t_out, seen.record.t_last), (Some(30), Some(40), Some(50)));
        assert_eq!(seen.record.token_source, Some(TokenSource::EventCount));
        assert_eq!(seen.record.output_tokens, Some(3));
    }
}

#[test]
fn token_counts_by_provenance() {
    let ids = read_events(&[
        r#"{"choices":[{"index":0,"text":"ab","token_ids":[5,6]}]}"#,
        r#"{"choices":[{"index":0,"text":"","token_ids":[7],"finish_reason":"stop"}]}"#,
        "[DONE]",
    ]);
    assert_eq!((ids.record.output_tokens, ids.record.token_source), (Some(3), Some(TokenSource::ServerTokenIds)));
    assert_eq!((ids.record.n_first, ids.events), (Some(2), vec![(20, 2), (30, 1)]));
    assert_eq!(ids.record.event_token_source, Some(TokenSource::ServerTokenIds));

    let continuous = |n: i64, text: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"text":"{text}"}}],"usage":{{"prompt_tokens":1,"completion_tokens":{n}}}}}"#
        )
    };
    // An event with usage but no visible text still carries a token.
    let deltas =
        read_events(&[&continuous(2, "a"), &continuous(3, ""), &continuous(3, ""), &continuous(7, "b"), "[DONE]"]);
    assert_eq!(
        (deltas.record.output_tokens, deltas.record.token_source),
        (Some(7), Some(TokenSource::ContinuousUsage))
    );
    assert_eq!(deltas.events, [(20, 2), (30, 1), (50, 4)]);
    assert_eq!(deltas.record.event_token_source, Some(TokenSource::ContinuousUsage));
    // Text without a new token in the count was held back by the server: its number of tokens is a guess again.
    let held_back = read_events(&[&continuous(2, "a"), &continuous(2, "b"), "[DONE]"]);
    assert_eq!(held_back.record.event_token_source, Some(TokenSource::EventCount));

    // Usage attached to the last content chunk is a total, not a delta.
    let total = read_events(&[
        r#"{"choices":[{"index":0,"text":"a"}]}"#,
        r#"{"choices":[{"index":0,"text":"b","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":9}}"#,
        "[DONE]",
    ]);
    assert_eq!((total.record.output_tokens, total.events), (Some(9), vec![(20, 1), (30, 1)]));
    assert_eq!(total.record.token_source, Some(TokenSource::ServerUsage));
    assert_eq!(total.record.event_token_source, Some(TokenSource::EventCount), "one token per event is a guess");
}

#[test]
fn tokens_without_text_are_known_at_the_finish_reason() {
    let seen = read_events(&[
        r#"{"choices":[{"index":0,"text":""}]}"#,
        r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"completion_tokens":2}}"#,
        "[DONE]",
    ]);
    assert_eq!((code(&seen), seen.record.t_first, seen.record.n_first), (None, Some(30), Some(2)));
    assert_eq!(seen.events.len(), 1);
    assert_eq!(seen.record.event_token_source, Some(TokenSource::ServerUsage));
}

#[test]
fn a_whole_json_answer_arrives_at_its_end() {
    let body = r#"{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hey"},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":4}}"#;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let (a, b) = body.as_bytes().split_at(30);
    let seen = read(&[head.as_bytes(), a, b], None, Expectation::default(), true);
    assert_eq!(code(&seen), None);
    assert_eq!((seen.record.t_hdr, seen.record.t_first, seen.record.t_done), (Some(10), Some(30), Some(30)));
    assert_eq!((seen.record.output_tokens, seen.record.n_first), (Some(4), Some(4)));
    assert_eq!((seen.events, seen.conclusion.text.as_deref()), (vec![(30, 4)], Some("hey")));
}

#[test]
fn failures() {
    let check = |events: &[&str], end: Option<End>, expect: Expectation, expected: Option<&str>, detail: &str| {
        let bytes = wire(events);
        let cut = if end.is_some() { bytes.len() - 5 } else { bytes.len() };
        let seen = read(&[&bytes[..cut]], end, expect, false);
        assert_eq!(code(&seen), expected, "{events:?}");
        assert!(seen.conclusion.detail.unwrap_or_default().contains(detail), "{events:?}");
        assert_eq!(seen.record.is_success(), expected.is_none());
    };
    let a = r#"{"choices":[{"index":0,"text":"a"}]}"#;
    let stop = r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#;
    let asked = Expectation { requested_output_tokens: Some(2), ignore_eos: true };
    let any = Expectation::default();
    check(&[a, "[DONE]"], None, any, None, "");
    check(&[a, stop], None, any, None, "");
    check(&[a, a, "[DONE]"], None, asked, None, "");
    check(&[a, "[DONE]"], None, asked, Some(codes::EARLY_STOP), "1 of 2");
    check(&[a, "[DONE]"], None, Expectation { ignore_eos: false, ..asked }, None, "");
    let usage = |n: i64| format!(r#"{{"choices":[],"usage":{{"completion_tokens":{n}}}}}"#);
    check(&[a, &usage(3), "[DONE]"], None, asked, Some(codes::OVER_DELIVERY), "3 output tokens instead of 2");
    check(&[a, &usage(2), "[DONE]"], None, asked, None, "");
    check(&[a, &usage(3), "[DONE]"], None, Expectation { ignore_eos: false, ..asked }, None, "");
    // More events than tokens is a guess too high, not a server that says so.
    check(&[a, a, a, "[DONE]"], None, asked, None, "");
    // Two answers of two tokens each.
    let b = r#"{"choices":[{"index":1,"text":"b"}]}"#;
    check(&[a, b, &usage(4), "[DONE]"], None, asked, None, "");
    check(&[a, b, &usage(3), "[DONE]"], None, asked, Some(codes::EARLY_STOP), "3 of 4");
    for reason in ["abort", "error"] {
        let end = format!(r#"{{"choices":[{{"index":0,"text":"","finish_reason":"{reason}"}}]}}"#);
        check(&[a, &end, "[DONE]"], None, any, Some(codes::SERVER_ABORTED), reason);
    }
    check(&[a, r#"{"choices":[{"index":0,"text":"","finish_reason":"content_filter"}]}"#], None, any, None, "");
    check(&[a, "", " ", "[DONE]"], None, any, None, "");
    check(&[stop, "[DONE]"], None, any, Some(codes::ZERO_TOKENS), "no token");
    check(&["[DONE]"], None, any, Some(codes::ZERO_TOKENS), "");
    check(&[], None, any, Some(codes::ZERO_TOKENS), "");
    check(
        &[a, r#"{"error":{"message":"queue full","code":503}}"#, "[DONE]"],
        None,
        any,
        Some(codes::IN_BAND_ERROR),
        "queue full",
    );
    check(&[r#"{"object":"error","message":"died"}"#], None, any, Some(codes::IN_BAND_ERROR), "died");
    check(&[r#"{"error":"plain"}"#], None, any, Some(codes::IN_BAND_ERROR), "plain");
    check(&[a, "{not json"], None, any, Some(codes::MALFORMED_SSE), "{not json");
    check(&[a, "[]"], None, any, Some(codes::MALFORMED_SSE), "");
    check(&[a], None, any, Some(codes::TRUNCATED_STREAM), "[DONE]");
    check(&[a], Some(End::Closed), any, Some(codes::TRUNCATED_STREAM), "");
    check(&[a], Some(End::Reset), any, Some(codes::CONNECTION_RESET), "");
    check(&[a], Some(End::TimedOut), any, Some(codes::REQUEST_TIMEOUT), "");
    check(&[a], Some(End::Cancelled), any, Some(codes::CANCELLED), "");
    check(&[a], Some(End::Censored), any, Some(codes::CENSORED), "");
    // The end mark came; how the connection ended does not matter any more.
    check(&[a, "[DONE]"], Some(End::Reset), any, None, "");
    check(&[a, "[DONE]"], Some(End::TimedOut), any, None, "");
}

#[test]
fn failures_of_http_itself() {
    let check = |text: &str, expected: &str, detail: &str| {
        let seen = read(&[text.as_bytes()], None, Expectation::default(), false);
        assert_eq!(code(&seen), Some(expected), "{text}");
        assert!(seen.conclusion.detail.clone().unwrap_or_default().contains(detail), "{:?}", seen.conclusion);
    };
    let answer =
        |status: &str, body: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    check(&answer("503 X", r#"{"error":{"message":"busy"}}"#), codes::HTTP_503, "503: busy");
    check(&answer("429 X", ""), codes::HTTP_429, "429");
    check(&answer("404 X", r#"{"detail":"Not Found"}"#), codes::HTTP_4XX, "404: Not Found");
    check(&answer("500 X", "<html>oops"), codes::HTTP_5XX, "500: <html>oops");
    check(&answer("302 X", ""), codes::HTTP_3XX, "302");
    check(&answer("200 OK", "<html>a page</html>"), codes::MALFORMED_HTTP, "a page");
    check(&answer("200 OK", r#"{"error":{"message":"sorry"}}"#), codes::IN_BAND_ERROR, "sorry");
    let coded = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\u{1f}\u{8b}"
        )
    };
    check(&coded("200 OK"), codes::UNSUPPORTED_ENCODING, "compressed");
    check(&coded("503 X"), codes::HTTP_503, "503: a compressed body");
    check("220 smtp ready\r\n\r\n", codes::MALFORMED_HTTP, "malformed response head");
    check("", codes::CONNECTION_RESET, "before the first response byte");
    check("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc", codes::TRUNCATED_STREAM, "inside the response");
    let naked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{\"error\":{}}\n";
    check(naked, codes::MALFORMED_SSE, "no events");
}

fn samples() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples/vllm");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no captures at {}", folder.display());
    None
}

/// Raw captures of a real vLLM: file, output tokens, events, source, failure.
#[test]
fn real_captures_in_any_split() {
    use TokenSource::{EventCount, ServerUsage};
    let Some(folder) = samples() else { return };
    let long = Some("length");
    for (name, tokens, n_events, source, failure, finish, input, text_bytes, text_start) in [
        ("comp_usage", Some(12), 12, Some(ServerUsage), None, long, Some(3), 36, "ctory(ctory("),
        ("comp_plain", Some(12), 12, Some(EventCount), None, long, None, 36, "ctory(ctory("),
        ("comp_200", Some(200), 193, Some(ServerUsage), None, long, Some(1), 927, "'))look sortLE eventsfpmpty"),
        ("comp_contusage", Some(12), 11, Some(ServerUsage), None, long, Some(3), 36, "ctory(ctory("),
        (
            "comp_tokenids",
            Some(6),
            6,
            Some(ServerUsage),
            None,
            long,
            Some(4),
            34,
            "\u{fffd}\u{fffd}\u{fffd}\u{fffd}ailginsr",
        ),
        ("comp_streaminterval", Some(5), 5, Some(EventCount), None, long, None, 110, "rtux initlectorust ImportError"),
        // Two answers, interleaved on the wire, in order here.
        ("comp_batch2", Some(12), 12, Some(ServerUsage), None, long, Some(5), 65, "ction currentlysplit currently"),
        ("chat_usage", Some(12), 12, Some(ServerUsage), None, long, Some(14), 63, " Runtime want writ want writ"),
        (
            "chat_logprobs_tokids",
            Some(12),
            12,
            Some(ServerUsage),
            None,
            long,
            Some(14),
            55,
            "ibpushinesSELE2001\u{fffd} boolean",
        ),
        ("comp_err", None, 0, None, Some(codes::HTTP_4XX), None, None, 0, ""),
    ] {
        let raw = std::fs::read(folder.join("sse").join(format!("{name}.raw"))).unwrap();
        let whole = read(&[&raw], None, Expectation::default(), false);
        assert_eq!((whole.record.output_tokens, whole.record.token_source), (tokens, source), "{name}");
        assert_eq!((whole.events.len(), code(&whole)), (n_events, failure), "{name}");
        let step = (raw.len() / 400).max(1);
        for cut in (0..raw.len()).step_by(step) {
            let (head, tail) = raw.split_at(cut);
            let split = read(&[head, tail], None, Expectation::default(), false);
            assert_eq!(split.record.output_tokens, tokens, "{name} cut at {cut}");
            assert_eq!((split.events.len(), code(&split)), (n_events, failure), "{name} cut at {cut}");
        }
        let bytes: Vec<&[u8]> = raw.chunks(1).collect();
        let slow = read(&bytes, None, Expectation::default(), true);
        assert_eq!((slow.record.output_tokens, slow.events.len(), code(&slow)), (tokens, n_events, failure), "{name}");
        assert_eq!((slow.record.finish_reason.as_deref(), slow.record.input_tokens), (finish, input), "{name}");
        let kept = read(&[&raw], None, Expectation::default(), true);
        assert_eq!(kept.conclusion, slow.conclusion, "{name}");
        let text = kept.conclusion.text.unwrap_or_default();
        assert_eq!((text.len(), text.starts_with(text_start)), (text_bytes, true), "{name}: {text}");
        assert_eq!(slow.record.bytes_received, raw.len() as i64);
    }
}

#[test]
fn real_whole_answers() {
    let Some(folder) = samples() else { return };
    for (name, text) in [
        ("chat_nostream.json", " Runtime want writ want writ want writ want"),
        ("completion_nostream.json", "ctory(ctory(ctory(ctory("),
    ] {
        let body = std::fs::read_to_string(folder.join("api").join(name)).unwrap();
        let wire = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let seen = read(&[wire.as_bytes()], None, Expectation::default(), true);
        assert_eq!((code(&seen), seen.record.output_tokens), (None, Some(8)), "{name}");
        assert_eq!(seen.conclusion.text.as_deref(), Some(text), "{name}");
    }
}
