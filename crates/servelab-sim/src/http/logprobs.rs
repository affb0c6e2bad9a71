//! Log-probabilities in both of OpenAI's shapes. The simulator has no model, so the numbers are seeded draws that only
//! keep the rules: the chosen token first, alternatives in falling order, everything below zero.

use serde_json::{Map, Value, json};

use super::request::Endpoint;
use crate::random::{mix, unit};
use crate::text::OutputText;

/// One token and what could have stood in its place.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    text: String,
    /// `None` for the first token of a prompt: nothing precedes it.
    logprob: Option<f64>,
    others: Vec<(String, f64)>,
}

/// The log-probabilities of some tokens of one choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TokenLogprobs {
    entries: Vec<Entry>,
    /// Characters before the first of them.
    offset: usize,
    /// Alternatives that were asked for.
    n_top: u32,
}

fn drawn(seed: u64, index: u64) -> f64 {
    -(0.01 + 2.5 * unit(mix(seed, mix(index, 0x10C))))
}

impl TokenLogprobs {
    pub(super) fn new(n_top: u32, offset: usize) -> Self {
        Self { entries: Vec::new(), offset, n_top }
    }

    /// Adds generated token `index`.
    pub(super) fn push(&mut self, output: OutputText, index: u32) {
        let logprob = drawn(output.seed(), u64::from(index));
        let others = (1..self.n_top)
            .map(|rank| {
                let other = output.variant(u64::from(rank) + 0xA17).slice(index, index + 1);
                (other, logprob - 0.7 * f64::from(rank))
            })
            .collect();
        self.entries.push(Entry { text: output.slice(index, index + 1), logprob: Some(logprob), others });
    }

    /// Adds a token of the prompt.
    pub(super) fn push_prompt(&mut self, text: String, id: u32, index: usize) {
        let logprob = (index > 0).then(|| drawn(u64::from(id), index as u64));
        self.entries.push(Entry { text, logprob, others: Vec::new() });
    }

    /// Characters after the last token.
    pub(super) fn end(&self) -> usize {
        self.offset + self.entries.iter().map(|entry| entry.text.chars().count()).sum::<usize>()
    }

    /// The object under `logprobs`.
    pub(super) fn to_json(&self, endpoint: Endpoint) -> Value {
        match endpoint {
            Endpoint::Completions => self.completion(),
            Endpoint::Chat => json!({"content": self.chat()}),
        }
    }

    fn completion(&self) -> Value {
        let mut at = self.offset;
        let mut offsets = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            offsets.push(at);
            at += entry.text.chars().count();
        }
        let tops: Vec<Value> = self
            .entries
            .iter()
            .map(|entry| {
                let Some(own) = entry.logprob else { return Value::Null };
                let all = std::iter::once((entry.text.clone(), own)).chain(entry.others.iter().cloned());
                Value::Object(all.map(|(text, logprob)| (text, json!(logprob))).collect::<Map<_, _>>())
            })
            .collect();
        json!({
            "text_offset": offsets,
            "token_logprobs": self.entries.iter().map(|entry| entry.logprob).collect::<Vec<_>>(),
            "tokens": self.entries.iter().map(|entry| entry.text.as_str()).collect::<Vec<_>>(),
            "top_logprobs": tops,
        })
    }

    fn chat(&self) -> Vec<Value> {
        self.entries
            .iter()
            .map(|entry| {
                let own = entry.logprob.unwrap_or(-9999.0);
                let all = std::iter::once((entry.text.as_str(), own))
                    .chain(entry.others.iter().map(|(text, logprob)| (text.as_str(), *logprob)));
                let tops: Vec<Value> = all
                    .take(self.n_top as usize)
                    .map(|(text, logprob)| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()}))
                    .collect();
                json!({"token": entry.text, "logprob": own, "bytes": entry.text.as_bytes(), "top_logprobs": tops})
            })
            .collect()
    }
}

/// The `prompt_logprobs` of an answer: per token a map from its id to what is known about it, null for the first.
pub(super) fn prompt_logprobs(prompt: &[u32], text_of: &dyn Fn(u32) -> String) -> Value {
    let entries = prompt.iter().enumerate().map(|(index, id)| {
        if index == 0 {
            return Value::Null;
        }
        let entry = json!({"logprob": drawn(u64::from(*id), index as u64), "rank": 1, "decoded_token": text_of(*id)});
        Value::Object(Map::from_iter([(id.to_string(), entry)]))
    });
    Value::Array(entries.collect())
}
