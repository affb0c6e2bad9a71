//! Every answer that a real vLLM 0.32 gave to a list of good and bad requests, against the simulator's: refusals must be
//! equal to the letter, answers must have the same status and shape. The capture is ours.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they skip"
)]

use serde_json::{Value, json};
use support::{Server, shape};

#[expect(dead_code, reason = "shared by several test programs")]
mod support;

const CAPTURE: &str = include_str!("fixtures/vllm-0.32-answers.jsonl");

/// The request as it was sent: long prompts are written as their length.
fn body_of(case: &Value) -> Option<String> {
    let mut body = case.get("body")?.clone();
    if let Some(text) = body.as_str() {
        return Some(text.to_owned());
    }
    let words = |n: &Value| "hello ".repeat(usize::try_from(n.as_u64().expect("a count")).expect("fits"));
    if let Some(n) = case.get("prompt_ids") {
        body["prompt"] = json!(vec![5; usize::try_from(n.as_u64().expect("a count")).expect("fits")]);
    }
    if let Some(n) = case.get("prompt_words") {
        body["prompt"] = json!(words(n));
    }
    if let Some(n) = case.get("message_words") {
        body["messages"] = json!([{"role": "user", "content": words(n)}]);
    }
    Some(body.to_string())
}

/// An answer without what depends on the text: how many different alternatives a token has.
fn masked(answer: &Value) -> Value {
    let mut answer = answer.clone();
    for choice in answer["choices"].as_array_mut().into_iter().flatten() {
        if let Some(tops) = choice.pointer_mut("/logprobs/top_logprobs").and_then(Value::as_array_mut) {
            tops.iter_mut().filter(|top| top.is_object()).for_each(|top| *top = json!({}));
        }
    }
    answer
}

#[test]
fn answers_are_those_of_a_real_server() {
    // At the simulated pace: a server that is behind its clock puts several tokens into one event.
    let server = Server::try_start("--max-model-len 2048 --enable-request-id-headers", &[], 1.0).expect("starts");
    let mut differences = Vec::new();
    for line in CAPTURE.lines() {
        let case: Value = serde_json::from_str(line).expect("a line of JSON");
        let name = case["name"].as_str().expect("a name");
        let body = body_of(&case);
        let method = if body.is_some() { "POST" } else { "GET" };
        let answer = server.call(method, case["path"].as_str().expect("a path"), body.as_deref().unwrap_or(""));
        let expected = u16::try_from(case["status"].as_u64().expect("a status")).expect("fits");
        if answer.status != expected {
            differences.push(format!("{name}: status {} for {expected}: {}", answer.status, answer.body));
            continue;
        }
        if let Some(events) = case["events"].as_array() {
            let shapes = |events: &[Value]| {
                let mut shapes: Vec<String> = events.iter().map(|event| shape(&masked(event))).collect();
                shapes.sort();
                shapes.dedup();
                shapes
            };
            let (ours, theirs) = (shapes(&answer.events()), shapes(events));
            // Events may be fewer on a machine that is too busy for the clock, but never of another shape.
            if !ours.iter().all(|shape| theirs.contains(shape)) {
                differences.push(format!("{name}: events\n  {}\n  for\n  {}", ours.join("\n  "), theirs.join("\n  ")));
            }
        } else if let Some(theirs) = case.get("answer") {
            let ours = answer.json();
            let is_equal =
                if expected >= 400 { ours == *theirs } else { shape(&masked(&ours)) == shape(&masked(theirs)) };
            if !is_equal {
                differences.push(format!("{name}:\n  {ours}\n  for\n  {theirs}"));
            }
        } else if !answer.body.is_empty() {
            differences.push(format!("{name}: a body where there is none: {}", answer.body));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
