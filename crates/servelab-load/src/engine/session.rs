//! A conversation under way: what was said so far, and the body of the next turn. Pure; when a turn is due is decided in
//! `pacer`.

use crate::source::{Conversation, PreparedRequest, Turn, push_json_escaped};

/// A conversation whose turns up to `next` (exclusive) were sent.
#[derive(Debug)]
pub(crate) struct Session {
    conversation: Conversation,
    next: usize,
    /// Head and everything said, as it stands in a body.
    history: Vec<u8>,
}

impl Session {
    /// The first turn, and the session that goes on with its answer. `None` for a conversation without turns.
    pub(crate) fn begin(conversation: Conversation) -> Option<(PreparedRequest, Box<Self>)> {
        let history = conversation.head.clone();
        let mut session = Box::new(Self { conversation, next: 0, history });
        let request = session.advance()?;
        Some((request, session))
    }

    /// The pause before the next turn and its request, after `answer` to the turn before; `None` after the last turn.
    pub(crate) fn follow(&mut self, answer: &str) -> Option<(i64, PreparedRequest)> {
        let think_ns = self.conversation.turns.get(self.next)?.think_ns;
        self.history.extend_from_slice(&self.conversation.before_answer);
        push_json_escaped(&mut self.history, answer);
        self.history.extend_from_slice(&self.conversation.after_answer);
        Some((think_ns, self.advance()?))
    }

    /// Turns that were not sent.
    pub(crate) fn unsent(&self) -> &[Turn] {
        self.conversation.turns.get(self.next..).unwrap_or_default()
    }

    fn advance(&mut self) -> Option<PreparedRequest> {
        let turn = self.conversation.turns.get(self.next)?;
        self.next += 1;
        self.history.extend_from_slice(&turn.said);
        let mut body = Vec::with_capacity(self.history.len() + turn.tail.len());
        body.extend_from_slice(&self.history);
        body.extend_from_slice(&turn.tail);
        Some(PreparedRequest {
            request_idx: turn.request_idx,
            body,
            input_tokens: turn.input_tokens,
            requested_output_tokens: turn.requested_output_tokens,
            ignore_eos: turn.ignore_eos,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(request_idx: i64, said: &str, think_ns: i64) -> Turn {
        Turn {
            request_idx,
            said: said.into(),
            tail: b"],\"n\":1}".to_vec(),
            think_ns,
            input_tokens: None,
            requested_output_tokens: None,
            ignore_eos: false,
        }
    }

    #[test]
    fn later_turns_carry_the_answers() {
        let conversation = Conversation {
            head: b"{\"messages\":[".to_vec(),
            turns: vec![turn(4, "\"u1\"", 0), turn(5, ",\"u2\"", 9)],
            before_answer: b",\"".to_vec(),
            after_answer: b"\"".to_vec(),
        };
        let (first, mut session) = Session::begin(conversation).unwrap();
        assert_eq!((first.request_idx, first.body), (4, b"{\"messages\":[\"u1\"],\"n\":1}".to_vec()));
        assert_eq!(session.unsent().len(), 1);
        let (think_ns, second) = session.follow("say \"a\"\n").unwrap();
        let body = String::from_utf8(second.body).unwrap();
        assert_eq!((think_ns, body.as_str()), (9, r#"{"messages":["u1","say \"a\"\n","u2"],"n":1}"#));
        assert!(session.follow("x").is_none() && session.unsent().is_empty());
    }
}
