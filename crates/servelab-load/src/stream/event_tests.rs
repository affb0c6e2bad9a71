//! What events mean: a table of dialects, and the pull reader against the slow oracle on everything that can be generated.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::event::{self, Usage, decode};
use super::oracle::{compare, meaning_of};

/// Events as servers send them. Written after vLLM's captures, SGLang's and llama.cpp's documentation and source.
const REAL: &[&str] = &[
    r#"{"id":"c","choices":[{"index":0,"text":"hi","logprobs":null,"finish_reason":null,"token_ids":null}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":" a\"b\\"},"finish_reason":null}],"usage":null}"#,
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"prompt_token_ids":[1,2]}"#,
    r#"{"choices":[],"usage":{"prompt_tokens":4,"total_tokens":7,"completion_tokens":3,"prompt_tokens_details":null},"metrics":{"time_to_first_token_ms":9.5,"generation_time_ms":20,"queue_time_ms":1.5,"mean_itl_ms":10.0,"tokens_per_second":100.0}}"#,
    r#"{"text":" Paris is","output_ids":[1,2],"meta_info":{"id":"r1","finish_reason":null,"prompt_tokens":6,"weight_version":"default","completion_tokens":2,"cached_tokens":0}}"#,
    r#"{"text":" Paris is","output_ids":[1,2],"meta_info":{"id":"r1","finish_reason":{"type":"length","length":2},"prompt_tokens":6,"completion_tokens":2,"queue_time":0.25,"request_received_ts":100.0,"prefill_finished_ts":100.5,"e2e_latency":2.0}}"#,
    r#"{"index":0,"content":" a","tokens":[5],"stop":false,"id_slot":0,"tokens_predicted":1,"tokens_evaluated":3}"#,
    r#"{"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"model":"m","tokens_predicted":8,"tokens_evaluated":3,"stop_type":"limit","timings":{"cache_n":2,"prompt_n":1,"prompt_ms":4.5,"predicted_n":8,"predicted_ms":40.0,"predicted_per_token_ms":5.0}}"#,
    r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"id":"chatcmpl-x","timings":{"prompt_n":3,"prompt_ms":4.0,"predicted_n":7,"predicted_ms":35.0}}"#,
    r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
    r#"{"object":"error","message":"died","code":500}"#,
    r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"get","arguments":""}}]}}]}"#,
    r#"{"choices":[{"index":1,"delta":{"reasoning_content":"hm","content":null},"meta_info":{"queue_time":0.5}}]}"#,
];

#[test]
fn reader_and_oracle_agree_about_real_events() {
    for data in REAL {
        compare(data.as_bytes());
        for cut in 0..data.len() {
            compare(&data.as_bytes()[..cut]);
        }
    }
}

#[test]
fn what_bears_a_token() {
    let check = |delta: &str, output: bool, reasoning: bool| {
        let data = format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
        let chunk = decode(data.as_bytes()).unwrap();
        assert_eq!((chunk.first.has_output(), chunk.first.reasoning.is_some()), (output, reasoning), "{delta}");
        compare(data.as_bytes());
    };
    check(r#"{"content":"a"}"#, true, false);
    check(r#"{"content":" "}"#, true, false);
    check(r#"{"refusal":"no"}"#, true, false);
    check(r#"{"reasoning":"a"}"#, false, true);
    check(r#"{"reasoning_content":"a","content":""}"#, false, true);
    check(r#"{"reasoning":"a","content":"b"}"#, true, true);
    check(r#"{"role":"assistant","content":"","refusal":null}"#, false, false);
    check(r#"{}"#, false, false);
    check("null", false, false);
    let call = |call: &str| format!(r#"{{"tool_calls":[{call}]}}"#);
    // The id and the type come from the server; name and arguments from the model.
    check(&call(r#"{"index":0,"id":"call_1","type":"function"}"#), false, false);
    check(&call(r#"{"index":0,"id":"call_1","function":{"name":"","arguments":""}}"#), false, false);
    check(&call(r#"{"index":0,"id":"call_1","function":{"name":"get"}}"#), true, false);
    check(&call(r#"{"index":0,"function":{"arguments":"{\"a"}}"#), true, false);
    check(&call(r#"{"index":0,"function":{"arguments":{"a":1}}}"#), true, false);
    check(&call(r#"{"custom":{"input":"x"}}"#), true, false);
    check(&call("null"), false, false);
    check(r#"{"function_call":{"name":"f"}}"#, true, false);
    check(r#"{"function_call":{}}"#, false, false);
}

#[test]
fn text_and_ids_stand_where_the_dialect_puts_them() {
    let check = |data: Value, content: &str, ids: &[i64], finish: Option<&str>| {
        let data = data.to_string();
        let chunk = decode(data.as_bytes()).unwrap();
        let (_, got, _, _, got_ids, got_finish) = meaning_of(&chunk).choices.remove(0);
        assert_eq!(
            (got.as_str(), got_ids.unwrap_or_default().as_slice(), got_finish.as_deref()),
            (content, ids, finish)
        );
        compare(data.as_bytes());
    };
    check(
        json!({"choices": [{"text": "a", "token_ids": [1, 2], "finish_reason": "stop"}]}),
        "a",
        &[1, 2],
        Some("stop"),
    );
    check(json!({"choices": [{"delta": {"content": "a", "token_ids": [3]}, "text": "b"}]}), "a", &[3], None);
    check(json!({"choices": [{"message": {"content": "a"}, "token_ids": [3, 4]}]}), "a", &[3, 4], None);
    check(json!({"choices": [{"delta": {"content": "d"}, "message": {"content": "m"}}]}), "d", &[], None);
    check(json!({"choices": [{"text": "ü\n\"😀"}]}), "ü\n\"😀", &[], None);
    check(
        json!({"text": "s", "output_ids": [1], "meta_info": {"finish_reason": {"type": "stop"}}}),
        "s",
        &[1],
        Some("stop"),
    );
    check(json!({"content": "l", "tokens": [9], "stop": false}), "l", &[9], None);
    check(json!({"content": "", "stop": true, "stop_type": "eos"}), "", &[], Some("stop"));
    check(json!({"content": "", "stop": true, "stopped_limit": true}), "", &[], Some("length"));
}

#[test]
fn counts_and_times_of_the_dialects() {
    let chunk = |data: &'static str| decode(data.as_bytes()).unwrap();
    let usage = |prompt, completion| Some(Usage { prompt_tokens: prompt, completion_tokens: completion });
    let times = |chunk: &event::Chunk<'_>| {
        let times = chunk.times;
        (times.queue_ms, times.ttft_ms, times.itl_ms, times.e2e_ms)
    };
    let vllm = chunk(REAL[3]);
    assert_eq!(vllm.usage, usage(Some(4), Some(3)));
    // vLLM's own TTFT begins when the request is scheduled: the queue is added.
    assert_eq!(times(&vllm), (Some(1.5), Some(11.0), Some(10.0), Some(31.0)));
    let sglang = chunk(REAL[5]);
    assert_eq!((sglang.usage, sglang.may_be_cumulative), (usage(Some(6), Some(2)), true));
    assert_eq!(times(&sglang), (Some(250.0), Some(500.0), None, Some(2000.0)));
    let llama = chunk(REAL[7]);
    assert_eq!((llama.usage, llama.may_be_cumulative), (usage(Some(3), Some(8)), false));
    assert_eq!(times(&llama), (None, Some(4.5), Some(5.0), Some(44.5)));
    assert_eq!(chunk(REAL[8]).usage, usage(Some(3), Some(7)), "llama.cpp's timings stand in for usage");
    let silent = chunk(r#"{"choices":[],"metrics":{"time_to_first_token_ms":null}}"#);
    assert_eq!(times(&silent), (None, None, None, None));
}

#[test]
fn errors_of_the_dialects() {
    let message = |data: &str| decode(data.as_bytes()).unwrap().error;
    assert_eq!(message(REAL[9]).as_deref(), Some("Loading model"));
    assert_eq!(message(REAL[10]).as_deref(), Some("died"));
    assert_eq!(
        message(r#"{"error":"Model is overloaded","error_type":"overloaded"}"#).as_deref(),
        Some("Model is overloaded")
    );
    assert_eq!(message(r#"{"error":{"code":1}}"#).as_deref(), Some(r#"{"code":1}"#));
    assert_eq!(message(r#"{"object":"error"}"#).as_deref(), Some("unspecified error"));
    for none in [r#"{"error":null}"#, r#"{"error":""}"#, r#"{"error":false,"choices":[]}"#] {
        assert_eq!(message(none), None, "{none}");
    }
}

#[test]
fn grammar_is_as_strict_as_serde_json() {
    let long = format!("{{\"a\":{}}}", "9".repeat(400));
    let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    for text in [
        "",
        "{",
        "}",
        "[]",
        "null",
        "{}",
        " {} ",
        "{},",
        "{} x",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":-}",
        "{\"a\":-0}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":1e+5}",
        "{\"a\":1E-400}",
        "{\"a\":1e400}",
        "{\"a\":-1e999}",
        &long,
        "{\"a\":tru}",
        "{\"a\":truex}",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\\ud83d\\ude00\"}",
        "{\"a\":\"\u{7f}\u{80}ü\"}",
        "{\"a\":[1,]}",
        "{\"a\":[,1]}",
        "{\"a\":[1 2]}",
        "{'a':1}",
        "\u{feff}{}",
        &deep(126),
        &deep(127),
        &deep(500),
        "{\"choices\":{}}",
        "{\"choices\":null}",
        "{\"choices\":[1,null,\"x\"]}",
        "{\"ch\\u006fices\":[{\"te\\u0078t\":\"a\"}]}",
        "{\"choices\":[{\"index\":\"0\",\"text\":7,\"token_ids\":[1,2.5]}]}",
        "{\"choices\":[{\"index\":-9223372036854775809}]}",
        "{\"usage\":[],\"id\":7}",
        "{\"usage\":{\"completion_tokens\":1.0}}",
        "{\"meta_info\":null,\"text\":\"a\"}",
        "{\"stop\":null}",
    ] {
        compare(text.as_bytes());
    }
    for bytes in [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":\"\xe2\x82\"}", b"\x00{}", b"{\"a\":\"\x00\"}"] {
        assert!(decode(bytes).is_none());
        compare(bytes);
    }
}

#[test]
fn half_a_surrogate_pair_is_replaced() {
    for (escaped, expected) in [
        (r"a\ud83d", "a\u{fffd}"),
        (r"\ude00b", "\u{fffd}b"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83dA", "\u{fffd}A"),
    ] {
        let data = format!(r#"{{"choices":[{{"text":"{escaped}"}}]}}"#);
        let chunk = decode(data.as_bytes()).unwrap();
        assert_eq!(chunk.first.content.unwrap().text(), expected);
    }
}

/// Any JSON, with the keys that mean something well represented.
fn tree() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 32] = [
        "id",
        "choices",
        "usage",
        "error",
        "metrics",
        "timings",
        "meta_info",
        "object",
        "message",
        "tokens_predicted",
        "tokens_evaluated",
        "stop",
        "stopped_limit",
        "stop_type",
        "index",
        "output_ids",
        "tokens",
        "text",
        "content",
        "reasoning_content",
        "reasoning",
        "delta",
        "finish_reason",
        "token_ids",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "completion_tokens",
        "prompt_tokens",
        "queue_time_ms",
        "type",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..100).prop_map(Value::from),
        (-10.0..10.0).prop_map(Value::from),
        prop::sample::select(vec!["", "error", "limit", "stop", "abort"]).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let key = prop_oneof![4 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned), 1 => ".{0,3}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// One of the native dialects, not a mixture: which of their counts is meant then is nobody's business.
fn is_mixture(value: &Value) -> bool {
    let has = |key| value.get(key).is_some();
    has("meta_info") && (has("tokens_predicted") || has("tokens_evaluated") || has("stop"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn reader_agrees_with_the_oracle_on_any_json(value in tree()) {
        prop_assume!(!is_mixture(&value));
        compare(value.to_string().as_bytes());
        compare(serde_json::to_string_pretty(&value).unwrap().as_bytes());
    }

    #[test]
    fn reader_agrees_on_choices(choices in prop::collection::vec(tree(), 0..4), usage in tree()) {
        compare(json!({"choices": choices, "usage": usage}).to_string().as_bytes());
    }

    #[test]
    fn reader_agrees_after_a_byte_was_changed(at in any::<prop::sample::Index>(), with in any::<u8>(), which in 0..REAL.len()) {
        let mut data = REAL[which].as_bytes().to_vec();
        let at = at.index(data.len());
        data[at] = with;
        compare(&data);
    }

    #[test]
    fn any_text_survives_its_escapes(text in any::<String>(), is_ascii in any::<bool>()) {
        let mut quoted = serde_json::to_string(&text).unwrap();
        if is_ascii {
            quoted = quoted.chars().map(|c| if c.is_ascii() { c.to_string() } else {
                c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }).collect();
        }
        let data = format!(r#"{{"choices":[{{"text":{quoted}}}]}}"#);
        let chunk = decode(data.as_bytes()).unwrap();
        prop_assert_eq!(chunk.first.content.map(|text| text.text().into_owned()).unwrap_or_default(), text);
    }

    #[test]
    fn never_panics(data in prop::collection::vec(any::<u8>(), 0..60)) {
        compare(&data);
    }
}
