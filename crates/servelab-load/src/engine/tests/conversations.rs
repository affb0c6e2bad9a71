//! Conversations: turns carry the answers before them, keep their slots, and end when one fails.

use super::*;
use crate::source::{Conversation, Turn};

fn conversation(first_idx: i64, turns: i64, think_ns: i64) -> Conversation {
    let turn = |i: i64| Turn {
        request_idx: first_idx + i,
        said: format!("{}\"u{i}\"", if i == 0 { "" } else { "," }).into_bytes(),
        tail: b"]}".to_vec(),
        think_ns,
        input_tokens: None,
        requested_output_tokens: Some(3),
        ignore_eos: true,
    };
    Conversation {
        head: b"{\"messages\":[".to_vec(),
        turns: (0..turns).map(turn).collect(),
        before_answer: b",\"".to_vec(),
        after_answer: b"\"".to_vec(),
    }
}

fn conversations(server: &Server, n: i64, at_ns: fn(i64) -> i64, pacing: Pacing) -> LoadSpec {
    let arrive = move |i| Arriving { at_ns: at_ns(i), work: Work::Conversation(conversation(i * 3, 3, 15 * MS)) };
    let source = (0..n).map(arrive).map(Ok);
    let mut load = LoadSpec::new(target(server.url()), clock::new_epoch(), source, pacing, Stop::AllRequests);
    load.canary = false;
    load
}

/// Answers the turn it is asked and checks that everything said before is in the body.
fn converse(exchange: &mut Exchange<'_>) -> After {
    let body: serde_json::Value = serde_json::from_str(&exchange.body).unwrap();
    let said = body["messages"].as_array().unwrap();
    let expected = ["u0", "say \"x0\" ab", "u1", "say \"x2\" ab", "u2"];
    if said.iter().zip(expected).any(|(said, expected)| said != expected) {
        return exchange.plain("400 Bad", &exchange.body.clone());
    }
    exchange.stream_head();
    exchange.token(&format!("say \\\"x{}\\\"", said.len() - 1));
    exchange.token(" a");
    exchange.token("b");
    exchange.finish(3);
    After::KeepOpen
}

#[test]
fn conversations_carry_their_answers_and_keep_their_slots() {
    let server = Server::start(converse);
    for (pacing, at_ns) in [
        (Pacing::closed(2), (|_| 0) as fn(i64) -> i64),
        (Pacing::Open { max_concurrency: None }, |i| i * 5 * MS),
        (Pacing::Open { max_concurrency: Some(1) }, |i| i * 5 * MS),
        (Pacing::Batches { size: 2 }, |_| 0),
    ] {
        let load = conversations(&server, 4, at_ns, pacing);
        let outcome = run_load_sorted(load, &LoadControl::new());
        assert_eq!(codes_of(&outcome), counts(&[("ok", 12)]), "{pacing:?}: {:?}", outcome.failure_samples);
        assert!(outcome.outputs.is_empty(), "kept for the next turn only");
        for turns in outcome.requests.chunks(3) {
            for pair in turns.windows(2) {
                // The response may end a little after its end mark.
                let pause = pair[1].t_sched - pair[0].t_done.unwrap();
                assert!((15 * MS..150 * MS).contains(&pause), "{pacing:?}: {pause} ns");
                assert!(pair[1].t_send.unwrap() >= pair[1].t_sched);
            }
        }
        let cap = match pacing {
            Pacing::Closed { .. } | Pacing::Batches { .. } => 2,
            Pacing::Open { max_concurrency } => max_concurrency.map_or(4, i64::from),
        };
        assert!(max_in_flight(&outcome.requests) <= cap);
    }
}

#[test]
fn a_turn_that_fails_ends_its_conversation() {
    let server = Server::start(
        |exchange| {
            if exchange.index == 1 { exchange.plain("503 Busy", "{}") } else { converse(exchange) }
        },
    );
    let load = conversations(&server, 2, |_| 0, Pacing::closed(1));
    let outcome = run_load_sorted(load, &LoadControl::new());
    let expected = [("ok", 4), (codes::HTTP_503, 1), (codes::SESSION_BROKEN, 1)];
    assert_eq!(codes_of(&outcome), counts(&expected), "{:?}", outcome.failure_samples);
    let unsent = &outcome.requests[2];
    assert!(unsent.t_send.is_none() && unsent.request_idx == 2);
}
