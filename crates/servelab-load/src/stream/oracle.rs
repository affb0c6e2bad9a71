//! The meaning of an event once more, slowly: over a whole `serde_json` tree. Tests and the fuzz target compare it with
//! the pull reader; nothing else uses it. It needs `event` beside it.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::event::{Chunk, ServerTimes, Usage, decode};

/// A choice, owned: index, content, reasoning, tool call, token ids, finish reason.
pub type OwnedChoice = (i64, String, String, bool, Option<Vec<i64>>, Option<String>);

/// What a chunk says, owned.
#[derive(Debug, Clone, PartialEq)]
pub struct Meaning {
    pub id: Option<String>,
    pub choices: Vec<OwnedChoice>,
    pub usage: Option<Usage>,
    pub has_error: bool,
    /// Unknown when several objects of the text hold times: which comes last is lost in the tree.
    pub times: Option<ServerTimes>,
    pub may_be_cumulative: bool,
}

/// The reader's answer in the same form.
pub fn meaning_of(chunk: &Chunk<'_>) -> Meaning {
    let text = |text: Option<super::event::JsonStr<'_>>| text.map(|text| text.text().into_owned());
    let choice = |choice: &super::event::Choice<'_>| {
        (
            choice.index,
            text(choice.content).unwrap_or_default(),
            text(choice.reasoning).unwrap_or_default(),
            choice.has_tool_call,
            choice.ids.map(|ids| ids.iter().collect()),
            text(choice.finish_reason),
        )
    };
    Meaning {
        id: text(chunk.id),
        choices: chunk.choices().map(choice).collect(),
        usage: chunk.usage,
        has_error: chunk.error.is_some(),
        times: Some(chunk.times),
        may_be_cumulative: chunk.may_be_cumulative,
    }
}

/// Panics when reader and oracle differ about `data`.
pub fn compare(data: &[u8]) {
    let reader = decode(data).map(|chunk| meaning_of(&chunk));
    if serde_json::from_slice::<UniqueKeys>(data).is_err() && serde_json::from_slice::<Value>(data).is_ok() {
        return;
    }
    let oracle = meaning(data);
    let shown = || String::from_utf8_lossy(data).into_owned();
    match (reader, oracle) {
        // The one leniency.
        (Some(_), None) => {
            assert!(shown().to_ascii_lowercase().contains("\\ud"), "only the reader accepts {}", shown())
        }
        (Some(mut reader), Some(oracle)) => {
            reader.times = reader.times.filter(|_| oracle.times.is_some());
            assert_eq!(reader, oracle, "{}", shown());
        }
        (None, Some(_)) => panic!("only the oracle accepts {}", shown()),
        (None, None) => {}
    }
}

/// Accepts JSON in which no object has a key twice.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((key, _)) = map.next_entry::<String, Self>()? {
            if !seen.insert(key) {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
}

/// The meaning of a JSON object; `None` for everything else. Objects with the same key twice are outside its promise.
pub fn meaning(data: &[u8]) -> Option<Meaning> {
    let Ok(Value::Object(root)) = serde_json::from_slice::<Value>(data) else { return None };
    let root = &Value::Object(root);
    let mut choices = Vec::new();
    let mut usage = None;
    let mut may_be_cumulative = false;
    let meta = root.get("meta_info").filter(|meta| meta.is_object());
    if let Some(listed) = root.get("choices") {
        for choice in listed.as_array().into_iter().flatten() {
            choices.push(listed_choice(choice));
        }
    } else {
        let (content, reasoning, tool) = part(root);
        let ids = ids(root.get("output_ids")).or_else(|| ids(root.get("tokens")));
        let stop = root.get("stop");
        if root.get("meta_info").is_some() || stop.is_some() || !content.is_empty() || ids.is_some() {
            let limited = truth(root.get("stopped_limit")) || root.get("stop_type").is_some_and(|kind| kind == "limit");
            let said = meta.and_then(|meta| finish_reason(meta.get("finish_reason")));
            let own = truth(stop).then(|| if limited { "length" } else { "stop" }.to_owned());
            let index = root.get("index").and_then(Value::as_i64).unwrap_or(0);
            choices.push((index, content, reasoning, tool, ids, said.or(own)));
            usage = native_usage(root, meta);
            may_be_cumulative = meta.is_some();
        }
    }
    let timings = root.get("timings").filter(|timings| timings.is_object());
    let timings_usage = timings.map(|timings| {
        let count = |key| timings.get(key).and_then(Value::as_i64);
        Usage {
            prompt_tokens: count("prompt_n").map(|n| n.saturating_add(count("cache_n").unwrap_or(0))),
            completion_tokens: count("predicted_n"),
        }
    });
    let mut sources = Vec::new();
    sources.extend(root.get("metrics").map(vllm_times));
    sources.extend(timings.map(llama_times));
    let listed = root.get("choices").and_then(Value::as_array).into_iter().flatten();
    let metas: Vec<&Value> =
        listed.filter_map(|choice| choice.get("meta_info")).chain(meta).filter(|meta| meta.is_object()).collect();
    sources.extend(metas.iter().map(|meta| sglang_times(meta)));
    let times = match sources.as_slice() {
        [] => Some(ServerTimes::default()),
        [one] => Some(*one),
        _ => None,
    };
    let said = root.get("usage").filter(|usage| usage.is_object()).map(|usage| Usage {
        prompt_tokens: usage.get("prompt_tokens").and_then(Value::as_i64),
        completion_tokens: usage.get("completion_tokens").and_then(Value::as_i64),
    });
    let silent = |error: &Value| error.is_null() || *error == Value::Bool(false) || *error == "";
    let has_error =
        root.get("error").is_some_and(|error| !silent(error)) || root.get("object").is_some_and(|o| o == "error");
    Some(Meaning {
        id: string(root.get("id")).or_else(|| metas.into_iter().find_map(|meta| string(meta.get("id")))),
        choices,
        usage: said.or(usage).or(timings_usage),
        has_error,
        times,
        may_be_cumulative,
    })
}

fn vllm_times(metrics: &Value) -> ServerTimes {
    let queue_ms = number(metrics.get("queue_time_ms"));
    let ttft_ms = number(metrics.get("time_to_first_token_ms")).map(|ms| ms + queue_ms.unwrap_or(0.0));
    let e2e_ms = ttft_ms.zip(number(metrics.get("generation_time_ms"))).map(|(a, b)| a + b);
    ServerTimes { queue_ms, ttft_ms, itl_ms: number(metrics.get("mean_itl_ms")), e2e_ms }
}

fn llama_times(timings: &Value) -> ServerTimes {
    let ttft_ms = number(timings.get("prompt_ms"));
    let e2e_ms = ttft_ms.zip(number(timings.get("predicted_ms"))).map(|(a, b)| a + b);
    ServerTimes { queue_ms: None, ttft_ms, itl_ms: number(timings.get("predicted_per_token_ms")), e2e_ms }
}

fn sglang_times(meta: &Value) -> ServerTimes {
    let ms = |key| number(meta.get(key)).map(|seconds| seconds * 1e3);
    let stamp = |key| number(meta.get(key));
    let prefilled = stamp("prefill_finished_ts").or_else(|| stamp("prefill_finished_time"));
    let ttft = prefilled.zip(stamp("request_received_ts")).map(|(end, start)| (end - start) * 1e3);
    ServerTimes { queue_ms: ms("queue_time"), ttft_ms: ttft, itl_ms: None, e2e_ms: ms("e2e_latency") }
}

fn listed_choice(choice: &Value) -> OwnedChoice {
    let inner = ["delta", "message"].into_iter().find_map(|key| choice.get(key).filter(|inner| inner.is_object()));
    let (content, reasoning, tool) = part(inner.unwrap_or(choice));
    let ids = ids(choice.get("token_ids")).or_else(|| ids(inner.and_then(|inner| inner.get("token_ids"))));
    let index = choice.get("index").and_then(Value::as_i64).unwrap_or(0);
    (index, content, reasoning, tool, ids, finish_reason(choice.get("finish_reason")))
}

fn part(part: &Value) -> (String, String, bool) {
    let text = |key| string(part.get(key)).filter(|text| !text.is_empty());
    let content = text("content").or_else(|| text("text")).or_else(|| text("refusal"));
    let reasoning = text("reasoning_content").or_else(|| text("reasoning"));
    let calls = part.get("tool_calls").and_then(Value::as_array).into_iter().flatten();
    let calls = calls.flat_map(|call| [call.get("function"), call.get("custom")]).chain([part.get("function_call")]);
    let is_call = calls.flatten().any(|function| {
        ["name", "arguments", "input"].into_iter().filter_map(|key| function.get(key)).any(|value| match value {
            Value::String(text) => !text.is_empty(),
            value => value.is_object() || value.is_array(),
        })
    });
    (content.unwrap_or_default(), reasoning.unwrap_or_default(), is_call)
}

fn native_usage(root: &Value, meta: Option<&Value>) -> Option<Usage> {
    let count = |value: Option<&Value>, key| value.and_then(|value| value.get(key)).and_then(Value::as_i64);
    let llama = ["tokens_predicted", "tokens_evaluated"].into_iter().any(|key| root.get(key).is_some());
    match meta {
        Some(_) => Some(Usage {
            prompt_tokens: count(meta, "prompt_tokens"),
            completion_tokens: count(meta, "completion_tokens"),
        }),
        None if llama => Some(Usage {
            prompt_tokens: count(Some(root), "tokens_evaluated"),
            completion_tokens: count(Some(root), "tokens_predicted"),
        }),
        None => None,
    }
}

fn finish_reason(reason: Option<&Value>) -> Option<String> {
    string(reason).or_else(|| string(reason.and_then(|reason| reason.get("type"))))
}

fn ids(ids: Option<&Value>) -> Option<Vec<i64>> {
    ids?.as_array()?.iter().map(Value::as_i64).collect()
}

fn string(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

fn number(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64)
}

fn truth(value: Option<&Value>) -> bool {
    value == Some(&Value::Bool(true))
}
