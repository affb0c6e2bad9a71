//! Asks a server for greedy answers to the accuracy guard's prompts: one at a time, because what a batch holds besides a
//! request may change its last bits, and after the measured cells, so that no load is touched. Kept with the point.

use std::time::Duration;

use serde_json::{Value, json};
use servelab_core::accuracy::{ANSWERS_SCHEMA, Answer, AnswerSet, TopLogprobs};
use servelab_core::identity::sha256_hex;
use servelab_load::http::post_json;
use servelab_load::{ApiKey, Endpoint};

use crate::control::RunControl;
use crate::harness::HarnessPlan;
use crate::job::unix_ns;

/// Most probable tokens asked for at each position.
const TOP: u32 = 5;
/// A first answer with log-probabilities compiles kernels: 23 s seen on two cores.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// So many failures in a row, and the server is not asked on.
const MOST_FAILURES: u32 = 3;

/// What the guard asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccuracyPlan {
    /// The prompts.
    pub prompts: Vec<String>,
    /// Output tokens of each.
    pub max_tokens: u32,
    /// Tasks for lm-evaluation-harness.
    pub lm_eval: Option<HarnessPlan>,
}

impl AccuracyPlan {
    /// Name of the set: only answers to the same prompts under the same limit are compared.
    pub fn set(&self) -> String {
        let text = json!({"prompts": self.prompts, "max_tokens": self.max_tokens}).to_string();
        sha256_hex(text.as_bytes()).chars().take(16).collect()
    }
}

/// Where to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) base_url: &'a str,
    pub(crate) api_key: Option<&'a ApiKey>,
    pub(crate) endpoint: Endpoint,
    pub(crate) model: &'a str,
    pub(crate) engine_version: Option<&'a str>,
}

/// Asks; `None` when the run was asked to end meanwhile.
pub(crate) fn ask_all(
    plan: &AccuracyPlan,
    asked: Asked<'_>,
    control: &RunControl,
) -> Option<Result<AnswerSet, String>> {
    let mut set = AnswerSet {
        schema: ANSWERS_SCHEMA,
        set: plan.set(),
        engine_version: asked.engine_version.map(str::to_owned),
        ..AnswerSet::default()
    };
    let mut failures = 0;
    for prompt in &plan.prompts {
        if control.is_stopping() {
            return None;
        }
        let with_logprobs = set.no_logprobs.is_none();
        let answer = match ask(plan, asked, prompt, with_logprobs) {
            // Some servers refuse the parameter, others do not keep what it asks for.
            Err(reason) if with_logprobs => {
                let plain = ask(plan, asked, prompt, false);
                if plain.is_ok() {
                    set.no_logprobs = Some(format!("the server gives none: {reason}"));
                }
                plain
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => {
                failures = 0;
                if answer.top.is_empty() && set.no_logprobs.is_none() {
                    set.no_logprobs = Some("the server's answers carry none".to_owned());
                }
                set.answers.push(Some(answer));
            }
            Err(reason) => {
                failures += 1;
                if failures >= MOST_FAILURES {
                    return Some(Err(format!("{failures} prompts in a row were not answered: {reason}")));
                }
                set.answers.push(None);
            }
        }
    }
    set.t_unix_ns = unix_ns();
    Some(Ok(set))
}

fn ask(plan: &AccuracyPlan, asked: Asked<'_>, prompt: &str, with_logprobs: bool) -> Result<Answer, String> {
    let is_chat = asked.endpoint == Endpoint::Chat;
    let mut body = json!({"model": asked.model, "max_tokens": plan.max_tokens, "temperature": 0, "seed": 0});
    let mut set = |key: &str, value: Value| body.as_object_mut().map(|body| body.insert(key.to_owned(), value));
    if is_chat {
        set("messages", json!([{"role": "user", "content": prompt}]));
    } else {
        set("prompt", json!(prompt));
    }
    if with_logprobs && is_chat {
        set("logprobs", json!(true));
        set("top_logprobs", json!(TOP));
    } else if with_logprobs {
        set("logprobs", json!(TOP));
    }
    let url = format!("{}{}", asked.base_url, asked.endpoint.path());
    let reply = post_json(&url, &body, ANSWER_LIMIT, asked.api_key).map_err(|error| error.to_string())?;
    let excerpt = || reply.body.chars().take(200).collect::<String>();
    if !reply.is_success() {
        return Err(format!("HTTP status {}: {}", reply.status, excerpt()));
    }
    let value: Value = serde_json::from_str(&reply.body).map_err(|_| format!("no JSON: {}", excerpt()))?;
    read_answer(&value).ok_or_else(|| format!("no choice in the answer: {}", excerpt()))
}

/// Both dialects of completions and of chat; whatever is missing is empty.
fn read_answer(reply: &Value) -> Option<Answer> {
    let choice = reply.pointer("/choices/0")?;
    let text = choice.get("text").or_else(|| choice.pointer("/message/content"))?.as_str().unwrap_or_default();
    let logprobs = choice.get("logprobs");
    let mut answer = Answer {
        text: text.to_owned(),
        finish_reason: choice.get("finish_reason").and_then(Value::as_str).map(str::to_owned),
        ..Answer::default()
    };
    let list = |name: &str| logprobs.and_then(|all| all.get(name)).and_then(Value::as_array);
    if let Some(tokens) = list("tokens") {
        answer.tokens = tokens.iter().filter_map(|token| token.as_str().map(str::to_owned)).collect();
        let top = list("top_logprobs").into_iter().flatten().map(|at| {
            let pairs = at.as_object().into_iter().flatten();
            pairs.filter_map(|(token, value)| Some((token.clone(), value.as_f64()?))).collect::<TopLogprobs>()
        });
        answer.top = top.collect();
    } else if let Some(content) = list("content") {
        for at in content {
            let token = |at: &Value| at.get("token").and_then(Value::as_str).map(str::to_owned);
            answer.tokens.extend(token(at));
            let top = at.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
            let pairs = top.filter_map(|one| Some((token(one)?, one.get("logprob")?.as_f64()?)));
            answer.top.push(pairs.collect());
        }
    }
    // A list of another length belongs to other tokens.
    if answer.top.len() != answer.tokens.len() || answer.top.iter().all(TopLogprobs::is_empty) {
        answer.top.clear();
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{FakeServer, Reply as Canned};

    fn asked(url: &str) -> Asked<'_> {
        Asked { base_url: url, api_key: None, endpoint: Endpoint::Completions, model: "m", engine_version: Some("1") }
    }

    fn plan(n: usize) -> AccuracyPlan {
        AccuracyPlan { prompts: (0..n).map(|n| format!("prompt {n}")).collect(), max_tokens: 4, lm_eval: None }
    }

    #[test]
    fn both_dialects() {
        let completion = json!({"choices": [{"text": " a b", "finish_reason": "length", "logprobs": {
            "tokens": [" a", " b"], "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{" a": -0.1, " x": -3.0}, {" b": -0.2}]}}]});
        let chat = json!({"choices": [{"message": {"content": " a b"}, "logprobs": {"content": [
            {"token": " a", "logprob": -0.1, "top_logprobs": [{"token": " a", "logprob": -0.1}, {"token": " x", "logprob": -3.0}]},
            {"token": " b", "logprob": -0.2, "top_logprobs": [{"token": " b", "logprob": -0.2}]}]}}]});
        let (by_completion, by_chat) = (read_answer(&completion).unwrap(), read_answer(&chat).unwrap());
        assert_eq!((&by_completion.tokens, &by_completion.top), (&by_chat.tokens, &by_chat.top));
        assert_eq!(by_completion.top[0].get(" x"), Some(&-3.0));
        let plain = read_answer(&json!({"choices": [{"text": "x", "logprobs": null}]})).unwrap();
        assert!(plain.tokens.is_empty() && plain.top.is_empty());
        assert_eq!(read_answer(&json!({"error": "full"})), None);
    }

    #[test]
    fn servers_without_log_probabilities_are_asked_without_them() {
        let refused = AtomicU32::new(0);
        let server = FakeServer::start(move |request| {
            if request.body.contains("logprobs") {
                assert_eq!(refused.fetch_add(1, SeqCst), 0, "asked for once only");
                return Canned::json(400, r#"{"error": "unknown field"}"#);
            }
            Canned::json(200, r#"{"choices": [{"text": "same"}]}"#)
        });
        let url = server.url();
        let set = ask_all(&plan(3), asked(&url), &RunControl::new()).unwrap().unwrap();
        assert_eq!((set.answers.len(), set.set.len()), (3, 16));
        assert!(set.no_logprobs.is_some_and(|reason| reason.contains("400")));
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up_on() {
        let server = FakeServer::start(|_| Canned::json(500, "{}"));
        let url = server.url();
        let failed = ask_all(&plan(9), asked(&url), &RunControl::new()).unwrap().unwrap_err();
        assert!(failed.contains("3 prompts in a row"), "{failed}");
        let control = RunControl::new();
        control.stop();
        assert!(ask_all(&plan(9), asked(&url), &control).is_none());
    }

    proptest! {
        #[test]
        fn any_answer_is_read(text in "[{}\\[\\]\":,a-z0-9.]{0,80}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = read_answer(&value);
                let _ = read_answer(&json!({"choices": [{"text": "x", "logprobs": value}]}));
            }
        }
    }
}
