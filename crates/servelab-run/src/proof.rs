//! Does KV really go from prefill to decode? Before a crew is measured, every pair of servers answers one prompt: first the
//! decode server by itself, then, with emptied prefix caches, through the router. The answers must be the same and the
//! decode server's counters must have moved; a deployment in which decode quietly computes prompts is none.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use servelab_core::metrics::TRANSFER_PROOFS;
use servelab_load::ApiKey;
use servelab_load::http::{get_text, post_json, post_json_with};
use servelab_load::prometheus::parse;

use crate::router::{PIN_PREFILL, PIN_SERVER};

const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// The first transfer between two servers makes connections and may compile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Counters are written a little after the answer.
const COUNTER_WAIT: Duration = Duration::from_secs(8);
/// Pairs that are tried: enough for every shape of two nodes.
const MOST_PAIRS: usize = 64;
const OUTPUT_TOKENS: u32 = 8;
/// Several blocks of every size that engines use.
const MOST_NUMBERS: u64 = 400;

/// What the proof needs to reach.
pub(crate) struct Crewed<'a> {
    pub(crate) router: &'a str,
    pub(crate) prefill: Vec<&'a str>,
    pub(crate) decode: Vec<&'a str>,
    pub(crate) model: &'a str,
    pub(crate) api_key: Option<&'a ApiKey>,
}

/// `transfer.json` of a point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TransferProof {
    schema: u32,
    pub(crate) is_proved: bool,
    /// Why not.
    pub(crate) why: Option<String>,
    /// Prefix caches could be emptied between the two answers.
    caches_emptied: bool,
    pairs: Vec<Pair>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Pair {
    prefill: usize,
    decode: usize,
    /// What the decode server answers by itself.
    alone: String,
    /// What comes through the router.
    routed: String,
}

/// A sequence that any model continues without doubt, another one for each pair.
fn prompt(pair: usize, n_numbers: u64) -> String {
    let first = 1 + 1000 * pair as u64;
    (first..first + n_numbers).map(|n| n.to_string()).collect::<Vec<_>>().join(" ")
}

/// Tries every pair.
pub(crate) fn prove(crew: &Crewed<'_>) -> TransferProof {
    let mut proof = TransferProof { schema: 1, is_proved: false, why: None, caches_emptied: false, pairs: Vec::new() };
    match tried(crew, &mut proof) {
        Ok(()) => proof.is_proved = true,
        Err(why) => proof.why = Some(why),
    }
    proof
}

fn tried(crew: &Crewed<'_>, proof: &mut TransferProof) -> Result<(), String> {
    // A number is a token or several; a quarter of the window leaves room for every tokenizer.
    let room = crew.decode.first().and_then(|url| longest(url, crew.api_key)).unwrap_or(4096);
    let n_numbers = (room / 8).clamp(16, MOST_NUMBERS);
    let pairs: Vec<(usize, usize)> = (0..crew.decode.len())
        .flat_map(|decode| (0..crew.prefill.len()).map(move |prefill| (prefill, decode)))
        .take(MOST_PAIRS)
        .collect();
    for (number, (prefill, decode)) in pairs.iter().copied().enumerate() {
        let url = crew.decode.get(decode).copied().unwrap_or_default();
        let alone = ask(crew, url, &prompt(number, n_numbers), &[])
            .map_err(|why| format!("decode server {decode} alone: {why}"))?;
        proof.pairs.push(Pair { prefill, decode, alone, routed: String::new() });
    }
    let all = || crew.prefill.iter().chain(&crew.decode);
    let reset = |url: &&str| {
        let reply = post_json(&format!("{url}/reset_prefix_cache"), &json!({}), ASK_TIMEOUT, crew.api_key);
        reply.is_ok_and(|reply| reply.is_success())
    };
    proof.caches_emptied = all().filter(|url| reset(url)).count() == all().count();
    for (number, pair) in proof.pairs.iter_mut().enumerate() {
        let url = crew.decode.get(pair.decode).copied().unwrap_or_default();
        let before = counters(url, crew.api_key);
        let pins = [(PIN_PREFILL, pair.prefill.to_string()), (PIN_SERVER, pair.decode.to_string())];
        let names = format!("prefill server {} and decode server {}", pair.prefill, pair.decode);
        pair.routed =
            ask(crew, crew.router, &prompt(number, n_numbers), &pins).map_err(|why| format!("{names}: {why}"))?;
        if pair.routed != pair.alone {
            return Err(format!(
                "{names} together answer {:?}, where the decode server alone answers {:?}: what arrives is not what was \
                 computed",
                pair.routed, pair.alone
            ));
        }
        if !has_moved(url, crew.api_key, before) {
            let hint = if proof.caches_emptied { "" } else { " (its prefix cache could not be emptied beforehand)" };
            return Err(format!(
                "{names} answer, but none of {} moved on the decode server: it computed the prompt itself{hint}",
                TRANSFER_PROOFS.join(", ")
            ));
        }
    }
    Ok(())
}

fn ask(crew: &Crewed<'_>, url: &str, prompt: &str, headers: &[(&str, String)]) -> Result<String, String> {
    let body = json!({
        "model": crew.model, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "ignore_eos": true,
    });
    let url = format!("{url}/v1/completions");
    let reply =
        post_json_with(&url, &body, ANSWER_TIMEOUT, crew.api_key, headers).map_err(|error| error.to_string())?;
    let value: Option<Value> = serde_json::from_str(&reply.body).ok();
    let text = value.as_ref().and_then(|value| value.pointer("/choices/0/text")?.as_str());
    match text.filter(|_| reply.is_success()) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("status {}: {}", reply.status, reply.body.chars().take(300).collect::<String>().trim())),
    }
}

/// The longest sequence that a server takes.
fn longest(url: &str, api_key: Option<&ApiKey>) -> Option<u64> {
    let reply = get_text(&format!("{url}/v1/models"), ASK_TIMEOUT, api_key).ok()?;
    serde_json::from_str::<Value>(&reply.body).ok()?.pointer("/data/0/max_model_len")?.as_u64()
}

fn counters(url: &str, api_key: Option<&ApiKey>) -> f64 {
    let Ok(reply) = get_text(&format!("{url}/metrics"), ASK_TIMEOUT, api_key) else { return 0.0 };
    let samples = parse(&reply.body).samples;
    samples.iter().filter(|sample| TRANSFER_PROOFS.contains(&sample.name.as_str())).map(|sample| sample.value).sum()
}

fn has_moved(url: &str, api_key: Option<&ApiKey>, before: f64) -> bool {
    let deadline = Instant::now() + COUNTER_WAIT;
    loop {
        if counters(url, api_key) > before {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;
    use crate::fixtures::{FakeServer, Reply as Canned};

    /// A decode server and a router: what they answer, and whether the counter moves when the router is asked.
    fn check(alone: &'static str, routed: (u16, &'static str), moves: bool) -> TransferProof {
        let count = Arc::new(AtomicU32::new(0));
        let (counted, counting) = (Arc::clone(&count), count);
        let decode = FakeServer::start(move |request| match request.path.as_str() {
            "/metrics" => Canned::text(&format!("vllm:nixl_xfer_time_seconds_count {}\n", counted.load(SeqCst))),
            "/v1/models" => Canned::json(200, r#"{"data": [{"id": "m", "max_model_len": 512}]}"#),
            "/v1/completions" => Canned::json(200, &json!({"choices": [{"text": alone}]}).to_string()),
            _ => Canned::text(""),
        });
        let router = FakeServer::start(move |_| {
            counting.fetch_add(u32::from(moves), SeqCst);
            Canned::json(routed.0, &json!({"choices": [{"text": routed.1}]}).to_string())
        });
        let (decode, router) = (decode.url(), router.url());
        let crew = Crewed { router: &router, prefill: vec![&decode], decode: vec![&decode], model: "m", api_key: None };
        prove(&crew)
    }

    #[test]
    fn equal_answers_and_a_counter_that_moves() {
        let proof = check(" 5 6", (200, " 5 6"), true);
        assert!(proof.is_proved && proof.why.is_none() && proof.caches_emptied, "{proof:?}");
        assert_eq!(proof.pairs.len(), 1);
    }

    #[test]
    fn what_proves_nothing() {
        let proof = check(" 5 6", (200, " 7"), true);
        assert!(!proof.is_proved && proof.why.unwrap().contains("not what was computed"));
        let proof = check(" 5 6", (500, "failed"), true);
        assert!(proof.why.unwrap().contains("status 500"));
    }

    #[test]
    fn prompts_differ_between_pairs() {
        assert_eq!(prompt(0, 3), "1 2 3");
        assert_eq!(prompt(2, 2), "2001 2002");
    }
}
