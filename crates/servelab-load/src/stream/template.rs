//! A stream's usual event differs from the one before only in its text. Such an event needs no decode: same bytes before
//! and after, and between them a whole JSON string, give the same meaning with another text. Whatever differs elsewhere (a
//! second has passed, another answer, a finish reason) is decoded, and the next events are compared with that one.

use super::event::{Chunk, ServerTimes};
use super::json::is_plain_text;

/// The last decoded event that was one piece of ordinary text and nothing else, without that text.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// What stands before and after the text, joined; empty before the first such event.
    around: Vec<u8>,
    before: usize,
    /// Answer that the text belongs to.
    index: i64,
}

impl Template {
    /// The text of an event that has the shape, and its answer. The text has no escapes, so it is what it stands for.
    pub(super) fn text_of<'a>(&self, data: &'a [u8]) -> Option<(i64, &'a str)> {
        let (before, after) = self.around.split_at_checked(self.before)?;
        let text = data.strip_prefix(before)?.strip_suffix(after)?;
        if before.is_empty() || text.is_empty() || !is_plain_text(text) {
            return None;
        }
        Some((self.index, std::str::from_utf8(text).ok()?))
    }

    /// Takes the shape of an event that was just decoded.
    pub(super) fn learn(&mut self, data: &[u8], chunk: &Chunk<'_>) {
        let choice = &chunk.first;
        let is_plain = chunk.has_choices
            && chunk.more.is_empty()
            && chunk.usage.is_none()
            && chunk.times == ServerTimes::default()
            && !chunk.may_be_cumulative
            && !choice.has_tool_call
            && choice.reasoning.is_none()
            && choice.ids.is_none()
            && choice.finish_reason.is_none();
        let Some(text) = choice.content.filter(|_| is_plain) else { return };
        let Some((before, after)) = text.around(data) else { return };
        self.around.clear();
        self.around.reserve_exact(before.len() + after.len());
        self.around.extend_from_slice(before);
        self.around.extend_from_slice(after);
        self.before = before.len();
        self.index = choice.index;
    }
}
