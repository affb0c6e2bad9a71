//! Whole answers of every dialect through the reader: tokens, provenance, stamps, text; and that the short way for usual
//! events gives the same as the long one.

use proptest::prelude::*;
use serde_json::{Value, json};
use servelab_core::record::TokenSource;

use super::tests::{Seen, code, read_events, read_events_kept};

fn events(events: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = events.iter().map(Value::to_string).collect();
    lines.push("[DONE]".to_owned());
    lines
}

fn read(values: &[Value]) -> Seen {
    let lines = events(values);
    read_events(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn read_kept(values: &[Value]) -> Seen {
    let lines = events(values);
    read_events_kept(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn counts(seen: &Seen) -> (Option<i64>, Option<TokenSource>, Vec<i32>, Option<TokenSource>) {
    let tokens = seen.events.iter().map(|(_, n)| *n).collect();
    (seen.record.output_tokens, seen.record.token_source, tokens, seen.record.event_token_source)
}

#[test]
fn sglang_generate_with_the_text_so_far() {
    let event = |text: &str, ids: &[i64], n: i64, finish: Value| json!({"text": text, "output_ids": ids, "meta_info": {"id": "r1", "finish_reason": finish, "prompt_tokens": 6, "completion_tokens": n}});
    let length = json!({"type": "length", "length": 5});
    let seen = read_kept(&[
        event(" Par", &[1], 1, Value::Null),
        event(" Paris", &[1, 2], 2, Value::Null),
        // A step that gave half a character: the text stands still, the count does not.
        event(" Paris", &[1, 2, 3], 3, Value::Null),
        // Nothing new at all bears no token.
        event(" Paris", &[1, 2, 3], 3, Value::Null),
        event(" Paris ü.", &[1, 2, 3, 4, 5], 5, length),
    ]);
    assert_eq!(code(&seen), None);
    let expected = (Some(5), Some(TokenSource::ServerUsage), vec![1, 1, 1, 2], Some(TokenSource::ServerTokenIds));
    assert_eq!(counts(&seen), expected);
    assert_eq!(seen.conclusion.text.as_deref(), Some(" Paris ü."));
    assert_eq!(seen.conclusion.token_ids, [1, 2, 3, 4, 5]);
    assert_eq!(
        (seen.record.finish_reason.as_deref(), seen.record.response_id.as_deref()),
        (Some("length"), Some("r1"))
    );
    assert_eq!((seen.record.input_tokens, seen.record.t_first, seen.record.t_last), (Some(6), Some(20), Some(60)));
}

#[test]
fn sglang_generate_with_increments() {
    let event = |text: &str, ids: &[i64], n: i64, finish: Value| json!({"text": text, "output_ids": ids, "meta_info": {"finish_reason": finish, "prompt_tokens": 6, "completion_tokens": n}});
    let seen = read_kept(&[
        event("a", &[1], 1, Value::Null),
        event("b", &[2], 2, Value::Null),
        event("cd", &[3, 4], 4, json!({"type": "stop"})),
    ]);
    let expected = (Some(4), Some(TokenSource::ServerUsage), vec![1, 1, 2], Some(TokenSource::ServerTokenIds));
    assert_eq!(counts(&seen), expected);
    assert_eq!(
        (seen.conclusion.text.as_deref(), seen.conclusion.token_ids.as_slice()),
        (Some("abcd"), &[1, 2, 3, 4][..])
    );
}

#[test]
fn sglang_generate_without_ids_counts_by_its_meta_info() {
    let event =
        |text: &str, n: i64| json!({"text": text, "meta_info": {"finish_reason": null, "completion_tokens": n}});
    let mut values = vec![event("a", 1), event("a", 1), event("a b c", 3)];
    let seen = read(&values);
    let expected = (Some(3), Some(TokenSource::ContinuousUsage), vec![1, 2], Some(TokenSource::ContinuousUsage));
    assert_eq!(counts(&seen), expected);
    values.push(json!({"text": "a b c", "meta_info": {"finish_reason": {"type": "abort", "message": "gone"}, "completion_tokens": 3}}));
    assert_eq!(code(&read(&values)), Some("server_aborted"));
}

#[test]
fn llama_cpp_completion_ends_with_stop_and_no_end_mark() {
    let lines = [
        r#"{"index":0,"content":" a","tokens":[5],"stop":false,"id_slot":0,"tokens_predicted":1,"tokens_evaluated":3}"#,
        r#"{"index":0,"content":" b","tokens":[6,7],"stop":false,"id_slot":0,"tokens_predicted":3,"tokens_evaluated":3}"#,
        r#"{"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"tokens_predicted":3,"tokens_evaluated":3,"stop_type":"limit","timings":{"prompt_n":3,"prompt_ms":4.5,"predicted_n":3,"predicted_ms":15.0,"predicted_per_token_ms":5.0}}"#,
    ];
    let seen = read_events_kept(&lines);
    assert_eq!(code(&seen), None);
    let expected = (Some(3), Some(TokenSource::ServerUsage), vec![1, 2], Some(TokenSource::ServerTokenIds));
    assert_eq!(counts(&seen), expected);
    assert_eq!((seen.conclusion.text.as_deref(), seen.conclusion.token_ids.as_slice()), (Some(" a b"), &[5, 6, 7][..]));
    assert_eq!((seen.record.finish_reason.as_deref(), seen.record.input_tokens), (Some("length"), Some(3)));
    let times = (seen.record.server_ttft_ms, seen.record.server_itl_ms, seen.record.server_e2e_ms);
    assert_eq!(times, (Some(4.5), Some(5.0), Some(19.5)));
    // Without its last event it was cut off.
    assert_eq!(code(&read_events(&lines[..2])), Some("truncated_stream"));
}

#[test]
fn llama_cpp_chat_counts_by_its_timings_when_usage_is_not_sent() {
    let delta =
        |delta: Value, finish: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let mut last = delta(json!({}), json!("stop"));
    last["timings"] = json!({"cache_n": 2, "prompt_n": 3, "predicted_n": 4});
    let seen = read(&[
        delta(json!({"role": "assistant", "content": null}), Value::Null),
        delta(json!({"content": "a"}), Value::Null),
        delta(json!({"content": "b"}), Value::Null),
        last,
    ]);
    let expected = (Some(4), Some(TokenSource::ServerUsage), vec![1, 1], Some(TokenSource::EventCount));
    assert_eq!((counts(&seen), seen.record.input_tokens), (expected, Some(5)));
}

#[test]
fn tgi_and_older_llama_cpp_report_errors_in_fields_of_their_own() {
    let body = "event: error\ndata: {\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}\n\n";
    let bare = "event:error\ndata: something broke\n\n";
    let field = "error: {\"code\":500,\"message\":\"slot unavailable\",\"type\":\"server_error\"}\n\n";
    for (body, detail) in [(body, "Model is overloaded"), (bare, "something broke"), (field, "slot unavailable")] {
        let seen = super::tests::read_body(body);
        assert_eq!(code(&seen), Some("in_band_error"), "{body}");
        assert!(seen.conclusion.detail.clone().unwrap().contains(detail), "{:?}", seen.conclusion);
    }
}

#[test]
fn several_answers_are_told_apart() {
    let event = |index: i64, text: &str, n: i64| json!({"choices": [{"index": index, "text": text}], "usage": {"prompt_tokens": 2, "completion_tokens": n}});
    let finish = |index: i64, n: i64| json!({"choices": [{"index": index, "text": "", "finish_reason": "length"}], "usage": {"completion_tokens": n}});
    // Continuous usage counts each answer by itself.
    let both = [event(1, "x", 1), event(0, "a", 1), event(0, "b", 2), event(1, "yz", 3), finish(1, 3), finish(0, 2)];
    let seen = read_kept(&both);
    let expected = (Some(5), Some(TokenSource::ServerUsage), vec![1, 1, 1, 2], Some(TokenSource::ContinuousUsage));
    assert_eq!((counts(&seen), seen.conclusion.text.as_deref()), (expected, Some("abxyz")));
    // Whole only when each answer has ended (there is no end mark here).
    let lines: Vec<String> = both.iter().map(Value::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(code(&read_events(&lines)), None);
    assert_eq!(code(&read_events(&lines[..5])), Some("truncated_stream"));
    // Both in one event.
    let pair = json!({"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]});
    assert_eq!(counts(&read(&[pair])).2, [2]);
}

#[test]
fn an_event_that_only_names_a_call_is_a_token_and_its_id_is_none() {
    let call = |call: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let seen = read(&[
        json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}}]}),
        call(json!({"index": 0, "id": "call_1", "type": "function"})),
        call(json!({"index": 0, "function": {"name": "get", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{}"}})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ]);
    assert_eq!(
        (code(&seen), seen.record.t_first, seen.record.t_out, seen.record.t_last),
        (None, Some(40), Some(40), Some(50))
    );
}

#[test]
fn whole_answers_of_the_native_dialects() {
    let answer = |body: &str| {
        let wire = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        super::tests::read(&[wire.as_bytes()], None, super::Expectation::default(), true)
    };
    let sglang = answer(
        r#"{"text":" Paris","output_ids":[4,5],"meta_info":{"id":"r","finish_reason":{"type":"stop","matched":2},"prompt_tokens":6,"completion_tokens":2,"e2e_latency":0.5}}"#,
    );
    assert_eq!((code(&sglang), counts(&sglang).0, sglang.conclusion.text.as_deref()), (None, Some(2), Some(" Paris")));
    assert_eq!((sglang.events.as_slice(), sglang.record.server_e2e_ms), (&[(10, 2)][..], Some(500.0)));
    let llama = answer(
        r#"{"index":0,"content":" Paris","tokens":[],"stop":true,"tokens_predicted":2,"tokens_evaluated":6,"stop_type":"eos"}"#,
    );
    assert_eq!((code(&llama), counts(&llama).0, llama.record.input_tokens), (None, Some(2), Some(6)));
    assert_eq!(
        (llama.record.finish_reason.as_deref(), llama.conclusion.text.as_deref()),
        (Some("stop"), Some(" Paris"))
    );
    let plain = answer(
        r#"{"choices":[{"index":0,"text":"a","finish_reason":"stop"},{"index":1,"text":"b","finish_reason":"stop"}]}"#,
    );
    assert_eq!(
        (counts(&plain).0, counts(&plain).1, plain.events.as_slice()),
        (Some(2), Some(TokenSource::EventCount), &[(10, 2)][..])
    );
}

/// Events of streams that look usual and are not always.
fn stream() -> impl Strategy<Value = Vec<Value>> {
    let text = prop_oneof![4 => "[a-z ]{1,6}", 1 => ".{0,4}", 1 => Just("\"\\\n".to_owned())];
    let event = (text, 0..3_i64, 0..40_u32, any::<bool>()).prop_map(|(text, index, kind, is_late)| {
        let created = if is_late { 2 } else { 1 };
        let mut event = json!({"id": "c", "created": created, "choices": [{"index": index.min(1), "text": text, "finish_reason": null}], "usage": null});
        match kind {
            0 => event["choices"][0]["finish_reason"] = json!("stop"),
            1 => event["usage"] = json!({"completion_tokens": 3}),
            2 => event["choices"] = json!([]),
            3 => event["choices"][0] = json!({"index": index, "delta": {"reasoning": text}}),
            4 => event["choices"][0]["token_ids"] = json!([1, 2]),
            5 => event["choices"][0] = json!({"index": index, "delta": {"content": text}}),
            6 => event["metrics"] = json!({"queue_time_ms": 1.0}),
            _ => {}
        }
        event
    });
    prop::collection::vec(event, 0..24)
}

proptest! {
    /// The same events with another number of spaces each: none has the shape of the one before, all are decoded.
    #[test]
    fn the_short_way_gives_the_same(values in stream(), keep_text in any::<bool>()) {
        let spaced: Vec<String> = values.iter().enumerate().map(|(k, value)| {
            let text = value.to_string();
            format!("{{{}{}", " ".repeat(k % 7 + 1), &text[1..])
        }).collect();
        let usual: Vec<String> = values.iter().map(Value::to_string).collect();
        let all = |lines: &[String]| {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            if keep_text { read_events_kept(&lines) } else { read_events(&lines) }
        };
        let (mut short, mut long) = (all(&usual), all(&spaced));
        (short.record.bytes_received, long.record.bytes_received) = (0, 0);
        prop_assert_eq!(short.record, long.record);
        prop_assert_eq!(short.events, long.events);
        prop_assert_eq!(short.conclusion, long.conclusion);
    }
}
