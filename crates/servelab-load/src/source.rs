//! What a run sends: single requests and conversations, handed over one by one in the order of sending, so that a run of
//! any length needs the memory of its look-ahead only. Prompts, seeds and rates were turned into bodies and instants by
//! the caller; pacing and sockets live in `engine`.

use std::collections::VecDeque;

/// One request, serialised and counted before it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedRequest {
    /// Unique within the attempt, over warm-up and window together.
    pub request_idx: i64,
    /// JSON body.
    pub body: Vec<u8>,
    /// Prompt tokens as counted beforehand; the server's count replaces it.
    pub input_tokens: Option<i64>,
    /// Output tokens asked for.
    pub requested_output_tokens: Option<i64>,
    /// The server was told to ignore end-of-sequence tokens: fewer tokens than asked for are a failure.
    pub ignore_eos: bool,
}

/// One turn of a conversation. Its body is everything said before, `said`, and `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Unique within the attempt.
    pub request_idx: i64,
    /// What the user says, as it stands in the body.
    pub said: Vec<u8>,
    /// The rest of the body, not repeated in the next turn.
    pub tail: Vec<u8>,
    /// Between the end of the turn before and this one; not used for the first.
    pub think_ns: i64,
    /// Prompt tokens as counted beforehand, if that is possible without the answers.
    pub input_tokens: Option<i64>,
    /// Output tokens asked for.
    pub requested_output_tokens: Option<i64>,
    /// As in [`PreparedRequest`].
    pub ignore_eos: bool,
}

/// Turns that follow each other; each carries the server's answers to the turns before, so that a server that kept the
/// session's prefix finds it again. A turn that fails ends the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Beginning of every body, up to where the first turn's words go.
    pub head: Vec<u8>,
    /// At least one.
    pub turns: Vec<Turn>,
    /// Before an answer, where it is repeated in later bodies.
    pub before_answer: Vec<u8>,
    /// After it.
    pub after_answer: Vec<u8>,
}

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A request of its own.
    Request(PreparedRequest),
    /// Several that follow each other.
    Conversation(Conversation),
}

/// Something to send, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Open loops: nanoseconds relative to the start of the window, negative during warm-up, never descending. Other
    /// loops do not look at it.
    pub at_ns: i64,
    /// What to send.
    pub work: Work,
}

impl Arrival {
    /// A request that is due whenever a slot is free.
    pub fn now(request: PreparedRequest) -> Self {
        Self { at_ns: 0, work: Work::Request(request) }
    }

    /// Bytes that waiting for its turn costs.
    pub(crate) fn bytes(&self) -> usize {
        std::mem::size_of::<Self>()
            + match &self.work {
                Work::Request(request) => request.body.len(),
                Work::Conversation(conversation) => {
                    let turns = conversation.turns.iter();
                    conversation.head.len()
                        + turns.map(|turn| turn.said.len() + turn.tail.len() + size_of::<Turn>()).sum::<usize>()
                }
            }
    }
}

/// Makes arrivals, in the order of sending, warm-up first. Called from a thread of its own, ahead of time; `Err` ends the
/// run with that sentence.
pub trait RequestSource: Send {
    /// The next arrival, `None` after the last.
    fn next(&mut self) -> Result<Option<Arrival>, String>;
}

impl<I: Iterator<Item = Result<Arrival, String>> + Send> RequestSource for I {
    fn next(&mut self) -> Result<Option<Arrival>, String> {
        Iterator::next(self).transpose()
    }
}

/// Requests that are all there already.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    arrivals: VecDeque<Arrival>,
}

impl Prepared {
    /// For closed loops and batches.
    pub fn new(warmup: Vec<PreparedRequest>, window: Vec<PreparedRequest>) -> Self {
        Self { arrivals: warmup.into_iter().chain(window).map(Arrival::now).collect() }
    }

    /// For open loops: window requests at `arrivals_ns`, warm-up requests before them at [`warmup_offsets`].
    pub fn open(warmup: Vec<PreparedRequest>, window: Vec<PreparedRequest>, arrivals_ns: &[i64]) -> Self {
        let before = warmup_offsets(arrivals_ns, warmup.len());
        let instants = before.into_iter().chain(arrivals_ns.iter().copied());
        let requests = warmup.into_iter().chain(window);
        let arrive = |(at_ns, request)| Arrival { at_ns, work: Work::Request(request) };
        Self { arrivals: instants.zip(requests).map(arrive).collect() }
    }
}

impl RequestSource for Prepared {
    fn next(&mut self) -> Result<Option<Arrival>, String> {
        Ok(self.arrivals.pop_front())
    }
}

/// Instants of `n` warm-up requests, negative, ascending: the window's own gaps mirrored in front of its start, so that
/// both sides of zero belong to the same process. Repeated where the window is shorter than the warm-up.
pub fn warmup_offsets(arrivals_ns: &[i64], n: usize) -> Vec<i64> {
    let (Some(first), Some(last)) = (arrivals_ns.first(), arrivals_ns.last()) else { return Vec::new() };
    let mean_gap = (last / arrivals_ns.len() as i64).max(1);
    // A schedule that begins at zero would put two arrivals there.
    let shift = if *first == 0 { mean_gap } else { 0 };
    let period = last + mean_gap;
    let mut offsets: Vec<i64> = arrivals_ns
        .iter()
        .cycle()
        .take(n)
        .enumerate()
        .map(|(i, t)| -(t + shift + period * (i / arrivals_ns.len()) as i64))
        .collect();
    offsets.reverse();
    offsets
}

/// Appends `text` as it stands inside a JSON string, without the quotes.
pub(crate) fn push_json_escaped(out: &mut Vec<u8>, text: &str) {
    let quoted = serde_json::Value::from(text).to_string();
    out.extend_from_slice(quoted.as_bytes().get(1..quoted.len() - 1).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warmup_longer_than_the_window_repeats_it() {
        assert_eq!(warmup_offsets(&[10, 30, 60], 2), [-30, -10]);
        assert_eq!(warmup_offsets(&[0, 100], 5), [-350, -300, -200, -150, -50]);
        assert_eq!(warmup_offsets(&[], 3), [0_i64; 0]);
    }

    #[test]
    fn answers_are_escaped() {
        let mut out = b"x".to_vec();
        push_json_escaped(&mut out, "a\"b\\\n\u{1}ü");
        assert_eq!(out, "xa\\\"b\\\\\\n\\u0001ü".as_bytes());
        out.clear();
        push_json_escaped(&mut out, "");
        assert!(out.is_empty());
    }
}
