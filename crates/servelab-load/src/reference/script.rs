//! What a request gets and when: pure arithmetic from the script, the request's number and its own wishes. Every instant
//! can be computed again from the recorded seed.

use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultRule};
use super::request::Wishes;

/// When a chat stream's empty role chunk is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleChunk {
    /// With the head, before the first token: shows a client that takes it for a token.
    WithHead,
    /// In one write with the first token, as vLLM does.
    WithFirstToken,
}

/// The whole server stops: it reads nothing and writes nothing, and goes on afterwards as if the time had not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Since the first request was read.
    pub after_ns: i64,
    /// How long.
    pub length_ns: i64,
}

/// What every request gets unless its body's field `reference` says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// From the read of the request to the first token.
    pub first_ns: i64,
    /// Between two events.
    pub gap_ns: i64,
    /// Each of these times is multiplied by 1 + `jitter` × u, u uniform in [−1, 1).
    pub jitter: f64,
    /// Seed of u, which is a hash of it, the request's number and the event's position.
    pub seed: u64,
    /// Tokens of a request that names no `max_tokens`.
    pub tokens: u32,
    /// Tokens in each event.
    pub tokens_per_event: u32,
    /// Events in each write after the first token's, which has a write of its own. A group is written when the last of its
    /// events is due.
    pub events_per_write: u32,
    /// When the role chunk of a chat is sent.
    pub role_chunk: RoleChunk,
    /// When the whole server stops; in order, not overlapping.
    pub stalls: Vec<Stall>,
    /// Which requests fail, and how; the first rule that fits decides.
    pub faults: Vec<FaultRule>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            first_ns: 50_000_000,
            gap_ns: 20_000_000,
            jitter: 0.0,
            seed: 1,
            tokens: 16,
            tokens_per_event: 1,
            events_per_write: 1,
            role_chunk: RoleChunk::WithFirstToken,
            stalls: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl Script {
    pub(super) fn plan(&self, number: u32, wishes: &Wishes) -> Plan {
        let own = &wishes.reference;
        let milliseconds = |own: Option<f64>, default: i64| own.map_or(default, nanos_of_millis);
        let tokens = own.tokens.or(wishes.max_tokens).unwrap_or(self.tokens);
        let tokens_per_event = own.tokens_per_event.unwrap_or(self.tokens_per_event).clamp(1, 1024);
        let fault = own.fault.or_else(|| self.faults.iter().find(|rule| rule.fits(number)).map(|rule| rule.fault));
        Plan {
            number,
            tokens,
            tokens_per_event,
            events_per_write: own.events_per_write.unwrap_or(self.events_per_write).clamp(1, 1024),
            first_ns: milliseconds(own.first_ms, self.first_ns),
            gap_ns: milliseconds(own.gap_ms, self.gap_ns),
            jitter: own.jitter.unwrap_or(self.jitter).clamp(0.0, 1.0),
            seed: self.seed,
            fault,
        }
    }

    /// When a request that names only its token count is due to get its events: nanoseconds since its read.
    pub fn due_offsets_ns(&self, number: u32, tokens: u32) -> Vec<i64> {
        let plan = self.plan(number, &Wishes { max_tokens: Some(tokens), ..Wishes::default() });
        let mut at_ns = 0;
        let mut offsets = Vec::new();
        let mut first = 0;
        while first < plan.n_events() {
            let count = plan.group(first);
            at_ns += plan.group_delay_ns(first, count);
            offsets.extend(std::iter::repeat_n(at_ns, count as usize));
            first += count;
        }
        offsets
    }
}

fn nanos_of_millis(millis: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a day")]
    let nanos = (millis.clamp(0.0, 86_400_000.0) * 1e6) as i64;
    nanos
}

/// One request's answer, decided when it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    pub(super) number: u32,
    pub(super) tokens: u32,
    pub(super) tokens_per_event: u32,
    pub(super) events_per_write: u32,
    pub(super) first_ns: i64,
    pub(super) gap_ns: i64,
    pub(super) jitter: f64,
    pub(super) seed: u64,
    pub(super) fault: Option<Fault>,
}

impl Plan {
    pub(super) fn n_events(&self) -> u32 {
        self.tokens.div_ceil(self.tokens_per_event)
    }

    /// Tokens of one event; the last may have fewer.
    pub(super) fn tokens_of(&self, event: u32) -> u32 {
        self.tokens.saturating_sub(event.saturating_mul(self.tokens_per_event)).min(self.tokens_per_event)
    }

    /// Events in the write that begins with `first`: one for the first token, later ones in groups.
    pub(super) fn group(&self, first: u32) -> u32 {
        let wanted = if first == 0 { 1 } else { self.events_per_write };
        wanted.min(self.n_events().saturating_sub(first))
    }

    /// From the previous event to the last event of the group.
    pub(super) fn group_delay_ns(&self, first: u32, count: u32) -> i64 {
        (first..first + count.max(1)).map(|event| self.delay_ns(event)).sum()
    }

    /// From the read (event 0) or the previous event.
    pub(super) fn delay_ns(&self, event: u32) -> i64 {
        let base = if event == 0 { self.first_ns } else { self.gap_ns };
        if self.jitter == 0.0 {
            return base;
        }
        let bits = mix(self.seed ^ mix(u64::from(self.number) << 32 | u64::from(event)));
        // 53 bits make every value exact in a double.
        let unit = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "at most twice the base")]
        let delay = (base as f64 * (1.0 + self.jitter * (2.0 * unit - 1.0))) as i64;
        delay
    }
}

/// The finaliser of splitmix64: neighbouring inputs give unrelated outputs.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn instants_follow_the_script() {
        let script = Script { first_ns: 500, gap_ns: 10, ..Script::default() };
        assert_eq!(script.due_offsets_ns(3, 4), [500, 510, 520, 530]);
        // Groups are written when their last event is due; the first token never waits.
        let grouped = Script { events_per_write: 2, ..script.clone() };
        assert_eq!(grouped.due_offsets_ns(3, 4), [500, 520, 520, 530]);
        // Seven tokens in events of three.
        let packed = Script { tokens_per_event: 3, ..script };
        assert_eq!(packed.due_offsets_ns(3, 7), [500, 510, 520]);
        let plan = packed.plan(3, &Wishes { max_tokens: Some(7), ..Wishes::default() });
        assert_eq!([0, 1, 2, 3].map(|event| plan.tokens_of(event)), [3, 3, 1, 0]);
    }

    #[test]
    fn jitter_is_uniform_and_repeatable() {
        let script = Script { first_ns: 1_000_000, gap_ns: 1_000_000, jitter: 0.1, ..Script::default() };
        let mut delays = Vec::new();
        for number in 0..200 {
            let offsets = script.due_offsets_ns(number, 100);
            assert_eq!(offsets, script.due_offsets_ns(number, 100));
            delays.extend(offsets.windows(2).map(|pair| (pair[1] - pair[0]) as f64));
        }
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let (low, high) =
            delays.iter().fold((f64::MAX, 0.0_f64), |(low, high), &delay| (low.min(delay), high.max(delay)));
        // 19,800 draws of a uniform with deviation 57,735: the mean is good to 410; five of those are allowed.
        assert!((mean - 1e6).abs() < 2_050.0, "{mean}");
        assert!((900_000.0..901_000.0).contains(&low) && (1_099_000.0..1_100_000.0).contains(&high), "{low} {high}");
        let other = Script { seed: 2, ..script.clone() };
        assert_ne!(other.due_offsets_ns(0, 100), script.due_offsets_ns(0, 100));
    }

    #[test]
    fn the_request_wins_over_the_script() {
        let body =
            br#"{"max_tokens":9,"reference":{"first_ms":1.5,"gap_ms":0.25,"events_per_write":4,"fault":"reset@3"}}"#;
        let wishes = Wishes::parse(body).unwrap();
        let plan = Script { jitter: 0.5, ..Script::default() }.plan(7, &wishes);
        assert_eq!((plan.tokens, plan.first_ns, plan.gap_ns, plan.events_per_write), (9, 1_500_000, 250_000, 4));
        assert_eq!(plan.fault, Some("reset@3".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn every_token_is_in_one_event_of_one_write(tokens in 0_u32..500, per_event in 1_u32..9, per_write in 1_u32..9) {
            let script = Script { tokens_per_event: per_event, events_per_write: per_write, ..Script::default() };
            let plan = script.plan(0, &Wishes { max_tokens: Some(tokens), ..Wishes::default() });
            let total: u32 = (0..plan.n_events()).map(|event| plan.tokens_of(event)).sum();
            prop_assert_eq!(total, tokens);
            prop_assert_eq!(script.due_offsets_ns(0, tokens).len() as u32, plan.n_events());
        }
    }
}
