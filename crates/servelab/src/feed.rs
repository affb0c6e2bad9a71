//! Items of a dataset into arrivals: gives each its instant and its body, one at a time, while the load runs. Which
//! dataset and which arrival process are decided by `requests` and `bench`.

use serde_json::{Map, Value};
use servelab_core::pacing::Think;
use servelab_data::{ConversationScript, DataError, Item, Prompt, PromptBody, TracePrompt};
use servelab_load::arrivals::ThinkTimes;
use servelab_load::{
    Arrival, BodyOptions, Endpoint, PreparedRequest, Prompt as WirePrompt, RequestSource, TurnText, Work, conversation,
    request_body,
};

/// What is the same for all requests of a load.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    /// Name of the served model.
    pub(crate) model: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) ignore_eos: bool,
    /// Where the prompt states none.
    pub(crate) temperature: f64,
    /// Cap on output tokens.
    pub(crate) max_output: Option<u32>,
}

/// When items are sent.
pub(crate) enum Instants {
    /// Whenever a slot is free.
    Now,
    /// At these instants; the load ends with them.
    At(Box<dyn Iterator<Item = i64> + Send>),
    /// As recorded, so many times as fast; `zero_ns` of the record is the window's start.
    Recorded { speed: f64, zero_ns: i64 },
}

/// Items in the order of sending.
pub(crate) type Items = Box<dyn Iterator<Item = Result<Item, DataError>> + Send>;

/// Makes arrivals.
pub(crate) struct Feed {
    items: Items,
    instants: Instants,
    wire: Wire,
    /// Items that still belong to the warm-up.
    warmup: u64,
    /// Requests that the window may still have.
    left: u64,
    next_idx: i64,
    /// Pauses between the turns of conversations.
    think: Option<ThinkTimes>,
}

impl Feed {
    /// The first `warmup` items and behind them `requests` requests, as far as items and instants go. A conversation that
    /// has more turns than requests are left is cut.
    pub(crate) fn new(items: Items, instants: Instants, wire: Wire, warmup: u64, requests: Option<u64>) -> Self {
        let left = requests.unwrap_or(u64::MAX);
        Self { items, instants, wire, warmup, left, next_idx: 0, think: None }
    }

    /// Pauses between the turns of conversations, drawn from `seed`.
    #[must_use]
    pub(crate) fn with_think(mut self, think: Option<Think>, seed: u64) -> Self {
        self.think = think.map(|think| ThinkTimes::new(think, seed));
        self
    }

    fn options(&self, temperature: Option<f64>) -> BodyOptions {
        BodyOptions {
            model: self.wire.model.clone(),
            max_tokens: None,
            ignore_eos: self.wire.ignore_eos,
            temperature: Some(temperature.unwrap_or(self.wire.temperature)),
            stream: true,
            extra: Map::new(),
        }
    }

    fn cap(&self, output_tokens: u32) -> i64 {
        i64::from(self.wire.max_output.map_or(output_tokens, |cap| cap.min(output_tokens)))
    }

    fn request(&mut self, prompt: &Prompt) -> Work {
        let output = self.cap(prompt.output_tokens);
        let options = BodyOptions { max_tokens: Some(output), ..self.options(prompt.temperature) };
        let request_idx = self.next_idx;
        self.next_idx += 1;
        Work::Request(PreparedRequest {
            request_idx,
            body: request_body(self.wire.endpoint, &wire_prompt(&prompt.body), &options),
            input_tokens: Some(i64::from(prompt.input_tokens)),
            requested_output_tokens: Some(output),
            ignore_eos: self.wire.ignore_eos,
        })
    }

    fn conversation(&mut self, script: ConversationScript, most_turns: u64) -> (Work, u64) {
        let expected: Vec<u32> = (0..script.turns.len()).map(|turn| script.expected_input_tokens(turn)).collect();
        let most = usize::try_from(most_turns).unwrap_or(usize::MAX);
        let mut turns = Vec::with_capacity(script.turns.len().min(most));
        for (turn, input_tokens) in script.turns.into_iter().zip(expected).take(most) {
            let is_first = turns.is_empty();
            turns.push(TurnText {
                request_idx: self.next_idx,
                max_tokens: self.cap(turn.output_tokens),
                user: turn.user,
                think_ns: self.think.as_mut().filter(|_| !is_first).map_or(0, ThinkTimes::next_ns),
                // Later prompts hold the server's own answers, whose length is not known beforehand.
                input_tokens: is_first.then_some(i64::from(input_tokens)),
            });
            self.next_idx += 1;
        }
        let n = turns.len() as u64;
        let options = self.options(None);
        (Work::Conversation(conversation(self.wire.endpoint, script.system.as_deref(), turns, &options)), n)
    }

    fn advance(&mut self) -> Result<Option<Arrival>, DataError> {
        if self.warmup == 0 && self.left == 0 {
            return Ok(None);
        }
        // Before the item, which costs time to make and would be thrown away.
        let planned_ns = match &mut self.instants {
            Instants::At(instants) => match instants.next() {
                None => return Ok(None),
                next => next,
            },
            Instants::Now | Instants::Recorded { .. } => None,
        };
        let Some(item) = self.items.next().transpose()? else { return Ok(None) };
        let at_ns = match (&self.instants, &item) {
            (Instants::Recorded { speed, zero_ns }, Item::Traced(traced)) => {
                scaled_ns(traced.at_ns.saturating_sub(*zero_ns), *speed)
            }
            _ => planned_ns.unwrap_or(0),
        };
        let is_warmup = self.warmup > 0;
        let most_turns = if is_warmup { u64::MAX } else { self.left };
        let (work, n) = match item {
            Item::Prompt(prompt) | Item::Traced(TracePrompt { prompt, .. }) => (self.request(&prompt), 1),
            Item::Conversation(script) => self.conversation(script, most_turns),
        };
        if is_warmup {
            self.warmup -= 1;
        } else {
            self.left = self.left.saturating_sub(n);
        }
        Ok(Some(Arrival { at_ns, work }))
    }
}

impl RequestSource for Feed {
    fn next(&mut self) -> Result<Option<Arrival>, String> {
        self.advance().map_err(|error| format!("cannot {error}"))
    }
}

fn scaled_ns(recorded_ns: i64, speed: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "float casts saturate; speeds are checked when read")]
    let ns = (recorded_ns as f64 / speed) as i64;
    // Exact where nothing is scaled: a float has no nanoseconds after 104 days.
    if speed == 1.0 { recorded_ns } else { ns }
}

/// A prompt as the load generator writes it.
fn wire_prompt(body: &PromptBody) -> WirePrompt {
    match body {
        PromptBody::Text(text) => WirePrompt::Text(text.clone()),
        PromptBody::Messages(messages) => WirePrompt::Messages(
            messages.iter().map(|message| serde_json::to_value(message).unwrap_or(Value::Null)).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use servelab_data::ScriptTurn;

    use super::*;

    fn wire(endpoint: Endpoint) -> Wire {
        Wire { model: "m".to_owned(), endpoint, ignore_eos: true, temperature: 0.0, max_output: Some(50) }
    }

    fn prompt(text: &str) -> Prompt {
        Prompt {
            id: text.to_owned(),
            body: PromptBody::Text(text.to_owned()),
            input_tokens: 3,
            output_tokens: 80,
            temperature: None,
            category: None,
            group: None,
            stated_input_tokens: None,
        }
    }

    fn items(all: Vec<Item>) -> Items {
        Box::new(all.into_iter().map(Ok))
    }

    fn all(mut feed: Feed) -> Vec<Arrival> {
        std::iter::from_fn(|| RequestSource::next(&mut feed).unwrap()).collect()
    }

    fn talk(turns: usize) -> Item {
        let turn = |n: usize| ScriptTurn { user: format!("q{n}"), user_tokens: 2, output_tokens: 10 };
        Item::Conversation(ConversationScript {
            id: "c".to_owned(),
            system: None,
            system_tokens: 0,
            turns: (0..turns).map(turn).collect(),
        })
    }

    #[test]
    fn the_shorter_of_items_instants_and_requests_ends_it() {
        let feed = |n: usize, instants: usize, requests: Option<u64>| {
            let at = Box::new((0..instants).map(|i| i as i64 * 10));
            let prompts = (0..n).map(|i| Item::Prompt(prompt(&format!("p{i}")))).collect();
            all(Feed::new(items(prompts), Instants::At(at), wire(Endpoint::Completions), 1, requests))
        };
        assert_eq!(feed(3, 9, None).len(), 3);
        assert_eq!(feed(9, 4, None).len(), 4);
        assert_eq!(feed(9, 9, Some(2)).len(), 3, "warm-up comes on top");
        let arrivals = feed(9, 9, Some(2));
        assert_eq!(arrivals.iter().map(|a| a.at_ns).collect::<Vec<_>>(), [0, 10, 20]);
        let Work::Request(last) = &arrivals[2].work else { panic!("is a request") };
        assert_eq!((last.request_idx, last.requested_output_tokens, last.input_tokens), (2, Some(50), Some(3)));
        let body: Value = serde_json::from_slice(&last.body).unwrap();
        assert_eq!((body["prompt"].as_str(), body["max_tokens"].as_i64()), (Some("p2"), Some(50)));
    }

    #[test]
    fn replays_scale_around_the_start_of_the_window() {
        let traced = |at_ns| Item::Traced(TracePrompt { at_ns, prompt: prompt("t") });
        let at = |speed| {
            let records = vec![traced(0), traced(3_000), traced(4_000), traced(9_001)];
            let instants = Instants::Recorded { speed, zero_ns: 3_000 };
            let feed = Feed::new(items(records), instants, wire(Endpoint::Completions), 1, None);
            all(feed).iter().map(|arrival| arrival.at_ns).collect::<Vec<_>>()
        };
        assert_eq!(at(1.0), [-3_000, 0, 1_000, 6_001]);
        assert_eq!(at(2.0), [-1_500, 0, 500, 3_000]);
        assert_eq!(at(0.5), [-6_000, 0, 2_000, 12_002]);
    }

    #[test]
    fn conversations_are_cut_to_the_number_of_requests_and_pause_between_turns() {
        let feed = Feed::new(items(vec![talk(2), talk(3), talk(3)]), Instants::Now, wire(Endpoint::Chat), 1, Some(5))
            .with_think(Some(Think::Constant(2.0)), 1);
        let arrivals = all(feed);
        let turns: Vec<Vec<(i64, i64, Option<i64>)>> = arrivals
            .iter()
            .map(|arrival| match &arrival.work {
                Work::Conversation(conversation) => {
                    conversation.turns.iter().map(|t| (t.request_idx, t.think_ns, t.input_tokens)).collect()
                }
                Work::Request(_) => panic!("is a conversation"),
            })
            .collect();
        let pause = 2_000_000_000;
        assert_eq!(
            turns,
            [
                vec![(0, 0, Some(2)), (1, pause, None)],
                vec![(2, 0, Some(2)), (3, pause, None), (4, pause, None)],
                vec![(5, 0, Some(2)), (6, pause, None)],
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_an_item_ends_the_load() {
        let broken: Items = Box::new([Ok(Item::Prompt(prompt("p"))), Err(DataError::NotSingle)].into_iter());
        let mut feed = Feed::new(broken, Instants::Now, wire(Endpoint::Completions), 0, None);
        assert!(RequestSource::next(&mut feed).unwrap().is_some());
        assert!(RequestSource::next(&mut feed).unwrap_err().starts_with("cannot draw prompts"));
    }
}
