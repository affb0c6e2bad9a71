//! What the events of one answer add up to: stamps, token counts with their provenance, the failure if there is one.
//! Kept small, because a run holds one per open stream: what most answers never need sits behind one pointer.

use servelab_core::record::{RequestRecord, TokenSource};

use super::event::{self, Chunk, ServerTimes, Usage};
use super::template::Template;
use super::{End, Expectation};
use crate::codes;
use crate::http1::Head;
use crate::sse::SseEvent;

/// Answers per request that are told apart; a server that numbers more has its last ones counted as one.
const MAX_CHOICES: usize = 1024;
/// Characters of a broken event that are shown.
const SHOWN_CHARS: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Facts {
    keep_text: bool,
    pub(super) t_hdr: Option<i64>,
    pub(super) t_first: Option<i64>,
    t_out: Option<i64>,
    t_last: Option<i64>,
    t_usage: Option<i64>,
    pub(super) t_done: Option<i64>,
    t_finish: Option<i64>,
    pub(super) t_end: Option<i64>,
    n_first: i64,
    n_events: i64,
    n_ids: i64,
    /// Output tokens of a usage that speaks for the whole answer.
    total: Option<i64>,
    prompt_tokens: Option<i64>,
    /// A token-bearing event came without token ids.
    lacks_ids: bool,
    /// A token-bearing event came with neither token ids nor a usage delta.
    lacks_counts: bool,
    is_any_choice_seen: bool,
    is_any_event_decoded: bool,
    /// The only event carries the whole usage count.
    event_counts_are_usage: bool,
    /// Usage comes with every chunk, from the first on.
    is_continuous: bool,
    /// A chunk with a finish reason carried the last continuous count.
    is_continuous_final: bool,
    /// The first answer; the only one nearly always.
    first: Answer,
    template: Template,
    id: Option<Box<str>>,
    finish_reason: Option<Box<str>>,
    rare: Option<Box<Rare>>,
}

/// One of the answers (`n` > 1) to a request.
#[derive(Debug, Default)]
struct Answer {
    index: i64,
    /// Tokens so far, by continuous usage.
    counted: i64,
    n_ids: i64,
    is_seen: bool,
    is_finished: bool,
}

#[derive(Debug, Default)]
struct Rare {
    times: ServerTimes,
    others: Vec<Answer>,
    /// Text and ids per answer, in the order of `first` and `others`.
    kept: Vec<Kept>,
    in_band_error: Option<String>,
    malformed_event: Option<String>,
    malformed_http: Option<String>,
}

#[derive(Debug, Default)]
struct Kept {
    index: i64,
    text: String,
    ids: Vec<i64>,
}

impl Facts {
    pub(super) fn new(keep_text: bool) -> Self {
        Self { keep_text, ..Self::default() }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(super) fn break_http(&mut self, why: String) {
        self.rare().malformed_http.get_or_insert(why);
    }

    pub(super) fn break_events(&mut self, why: String) {
        self.rare().malformed_event.get_or_insert(why);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.malformed_http.is_some() || rare.malformed_event.is_some())
    }

    pub(super) fn on_event(&mut self, t_ns: i64, event: SseEvent<'_>, on_tokens: &mut impl FnMut(i32)) {
        if self.t_done.is_some() || self.is_broken() {
            return;
        }
        let data = event.data;
        if let Some((index, text)) = self.template.text_of(data).filter(|_| event.kind.is_empty()) {
            self.on_text(t_ns, index, text, on_tokens);
        } else if let Some(chunk) = event::decode(data) {
            if event.kind == b"error" && chunk.error.is_none() {
                self.on_error(event::error_detail(data));
            } else {
                self.template.learn(data, &chunk);
                self.on_chunk(t_ns, chunk, on_tokens);
            }
        } else if event::is_done_mark(data) {
            self.t_done = Some(t_ns);
        } else if event.kind == b"error" {
            self.on_error(event::error_detail(data));
        } else if !data.trim_ascii().is_empty() {
            let shown: String = String::from_utf8_lossy(data).chars().take(SHOWN_CHARS).collect();
            self.break_events(format!("not a JSON object: {shown}"));
        }
    }

    fn on_error(&mut self, message: String) {
        self.is_any_event_decoded = true;
        self.rare().in_band_error.get_or_insert(message);
    }

    /// As [`Facts::on_chunk`] for an event that is like an earlier one but for its text.
    fn on_text(&mut self, t_ns: i64, index: i64, text: &str, on_tokens: &mut impl FnMut(i32)) {
        (self.lacks_ids, self.lacks_counts) = (true, true);
        if self.keep_text
            && let Some(kept) = self.kept(index)
        {
            kept.text.push_str(text);
        }
        self.on_token_event(t_ns, 1, true, on_tokens);
    }

    fn on_chunk(&mut self, t_ns: i64, mut chunk: Chunk<'_>, on_tokens: &mut impl FnMut(i32)) {
        self.is_any_event_decoded = true;
        if let Some(error) = chunk.error.take() {
            return self.on_error(error);
        }
        self.note(&chunk);
        let usage_tokens = chunk.usage.and_then(|usage| usage.completion_tokens);
        // Only a server that counts from its first chunk on counts continuously. Others attach the total to the last
        // chunk, which must not look like one event with all tokens.
        if chunk.has_choices && !self.is_any_choice_seen {
            self.is_continuous = usage_tokens.is_some();
            self.is_any_choice_seen = true;
        }
        let (mut delta, mut n_ids, mut pieces) = (0, 0, 0);
        let (mut has_output, mut has_reasoning, mut is_finish) = (false, false, false);
        for choice in chunk.choices() {
            let counted = usage_tokens.filter(|_| self.is_continuous);
            let answer = self.answer(choice.index);
            let before = answer.n_ids;
            if let Some(now) = counted {
                // Chunks with several choices carry one usage; it can only be given to the first.
                delta += (now - answer.counted).max(0);
                answer.counted = now.max(answer.counted);
            }
            answer.is_finished |= choice.finish_reason.is_some();
            is_finish |= choice.finish_reason.is_some();
            if let Some(ids) = choice.ids {
                let is_cumulative = chunk.may_be_cumulative && before > 0 && counted == Some(ids.n);
                answer.n_ids = if is_cumulative { ids.n.max(before) } else { before + ids.n };
                n_ids += answer.n_ids - before;
            }
            // What is the whole text so far says nothing about this event; its count does.
            let is_repeat = chunk.may_be_cumulative && counted.is_some();
            pieces += i64::from(!is_repeat && (choice.has_output() || choice.reasoning.is_some()));
            has_output |= choice.has_output();
            has_reasoning |= choice.reasoning.is_some();
            if self.keep_text {
                self.keep(choice, before, chunk.may_be_cumulative);
            }
        }
        if let Some(usage) = chunk.usage {
            self.on_usage(t_ns, usage, chunk.has_choices, is_finish);
        }
        if pieces > 0 || n_ids > 0 || delta > 0 {
            self.n_ids += n_ids;
            self.lacks_ids |= n_ids == 0;
            self.lacks_counts |= n_ids == 0 && delta == 0;
            let n = [n_ids, delta, pieces].into_iter().find(|n| *n > 0).unwrap_or(1);
            self.on_token_event(t_ns, n, has_output || !has_reasoning, on_tokens);
        }
        if is_finish {
            self.t_finish.get_or_insert(t_ns);
            if self.finish_reason.is_none() {
                let reason = chunk.choices().find_map(|choice| choice.finish_reason);
                self.finish_reason = reason.map(|reason| reason.text().into());
            }
        }
    }

    /// The answer's id and the server's own times.
    fn note(&mut self, chunk: &Chunk<'_>) {
        if self.id.is_none() {
            self.id = chunk.id.map(|id| id.text().into());
        }
        if chunk.times != ServerTimes::default() {
            self.rare().times.update(chunk.times);
        }
    }

    fn on_usage(&mut self, t_ns: i64, usage: Usage, has_choices: bool, is_finish: bool) {
        self.prompt_tokens = usage.prompt_tokens.or(self.prompt_tokens);
        if has_choices && !is_finish {
            return;
        }
        self.t_usage = Some(t_ns);
        if has_choices && self.is_continuous {
            // The last count of one answer.
            self.is_continuous_final |= usage.completion_tokens.is_some();
        } else {
            self.total = usage.completion_tokens;
        }
    }

    fn answer(&mut self, index: i64) -> &mut Answer {
        if !self.first.is_seen {
            self.first = Answer { index, is_seen: true, ..Answer::default() };
        }
        if self.first.index == index {
            return &mut self.first;
        }
        let others = &mut self.rare.get_or_insert_default().others;
        let at = others.iter().position(|answer| answer.index == index);
        let at = at.unwrap_or_else(|| {
            if others.len() < MAX_CHOICES {
                others.push(Answer { index, is_seen: true, ..Answer::default() });
            }
            others.len() - 1
        });
        others.get_mut(at).unwrap_or(&mut self.first)
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        let others = self.rare.as_ref().map(|rare| rare.others.as_slice()).unwrap_or_default();
        self.first.is_seen.then_some(&self.first).into_iter().chain(others)
    }

    /// Where text and ids of an answer go.
    fn kept(&mut self, index: i64) -> Option<&mut Kept> {
        let kept = &mut self.rare().kept;
        let at = kept.iter().position(|kept| kept.index == index).unwrap_or_else(|| {
            if kept.len() <= MAX_CHOICES {
                kept.push(Kept { index, ..Kept::default() });
            }
            kept.len() - 1
        });
        kept.get_mut(at)
    }

    fn keep(&mut self, choice: &event::Choice<'_>, ids_before: i64, may_be_cumulative: bool) {
        let Some(kept) = self.kept(choice.index) else { return };
        let before = kept.text.len();
        for text in [choice.reasoning, choice.content].into_iter().flatten() {
            text.push_to(&mut kept.text);
        }
        // The text so far, once more and longer: SGLang's way unless it was told to send increments.
        if may_be_cumulative && kept.text.len() >= 2 * before {
            let (old, new) = kept.text.split_at(before);
            if new.starts_with(old) {
                kept.text.drain(..before);
            }
        }
        if let Some(ids) = choice.ids {
            let is_cumulative = may_be_cumulative && ids_before > 0 && ids.n >= ids_before && {
                let mut again = ids.iter();
                kept.ids.iter().all(|id| again.next() == Some(*id))
            };
            if is_cumulative {
                kept.ids.clear();
            }
            kept.ids.extend(ids.iter());
        }
    }

    fn on_token_event(&mut self, t_ns: i64, n: i64, is_output: bool, on_tokens: &mut impl FnMut(i32)) {
        if self.t_first.is_none() {
            self.t_first = Some(t_ns);
            self.n_first = n;
        }
        if is_output {
            self.t_out.get_or_insert(t_ns);
        }
        self.t_last = Some(t_ns);
        self.n_events += n;
        on_tokens(i32::try_from(n).unwrap_or(i32::MAX));
    }

    /// A JSON answer instead of a stream: everything arrives at its last byte, as one event with all tokens.
    pub(super) fn on_whole_answer(&mut self, t_ns: i64, body: &[u8], on_tokens: &mut impl FnMut(i32)) {
        let Some(mut chunk) = event::decode(body) else {
            let shown: String = String::from_utf8_lossy(body).chars().take(SHOWN_CHARS).collect();
            return self.break_http(format!("the body is neither an event stream nor JSON: {shown}"));
        };
        self.t_done = Some(t_ns);
        // Taken out, so that it is not mistaken for the count of one chunk.
        let usage = chunk.usage.take();
        let mut counted = 0;
        self.on_chunk(t_ns, chunk, &mut |n| counted += i64::from(n));
        let Some(usage) = usage else {
            return if counted > 0 {
                on_tokens(i32::try_from(counted).unwrap_or(i32::MAX))
            };
        };
        self.on_usage(t_ns, usage, false, true);
        let has_error = self.rare.as_ref().is_some_and(|rare| rare.in_band_error.is_some());
        match usage.completion_tokens.filter(|total| *total > 0 && !has_error && self.is_any_choice_seen) {
            Some(total) => {
                self.t_out = self.t_out.or(if self.t_first.is_none() { Some(t_ns) } else { None });
                (self.t_first, self.t_last) = (Some(t_ns), Some(t_ns));
                (self.n_first, self.n_events) = (total, total);
                self.event_counts_are_usage = true;
                on_tokens(i32::try_from(total).unwrap_or(i32::MAX));
            }
            None if counted > 0 => on_tokens(i32::try_from(counted).unwrap_or(i32::MAX)),
            None => {}
        }
    }

    /// Tokens without visible text (special tokens, half a character) may leave no event behind. The client first
    /// knows of them at the finish reason, or at the usage.
    pub(super) fn on_end(&mut self, on_tokens: &mut impl FnMut(i32)) {
        let total = self.usage_count().unwrap_or(0);
        let has_error = self.rare.as_ref().is_some_and(|rare| rare.in_band_error.is_some());
        if self.t_first.is_none()
            && total > 0
            && !has_error
            && let Some(t_ns) = self.t_finish.or(self.t_usage)
        {
            self.on_token_event(t_ns, total, true, on_tokens);
            self.event_counts_are_usage = true;
        }
    }

    /// Where the token counts of the events come from.
    fn event_source(&self) -> Option<TokenSource> {
        self.t_first?;
        Some(if self.event_counts_are_usage {
            TokenSource::ServerUsage
        } else if !self.lacks_ids {
            TokenSource::ServerTokenIds
        } else if !self.lacks_counts {
            TokenSource::ContinuousUsage
        } else {
            TokenSource::EventCount
        })
    }

    fn continuous_sum(&self) -> i64 {
        self.answers().map(|answer| answer.counted).fold(0, i64::saturating_add)
    }

    /// The server's last word on the output tokens.
    fn usage_count(&self) -> Option<i64> {
        self.total.or_else(|| self.is_continuous_final.then(|| self.continuous_sum()))
    }

    fn count(&self) -> Option<(i64, TokenSource)> {
        let usage = self.usage_count().filter(|n| *n > 0);
        let ids = Some(self.n_ids).filter(|n| !self.lacks_ids && *n > 0);
        let continuous = Some(self.continuous_sum()).filter(|n| *n > 0);
        let events = Some(self.n_events).filter(|n| *n > 0);
        usage
            .map(|n| (n, TokenSource::ServerUsage))
            .or(ids.map(|n| (n, TokenSource::ServerTokenIds)))
            .or(continuous.map(|n| (n, TokenSource::ContinuousUsage)))
            .or(events.map(|n| (n, TokenSource::EventCount)))
    }

    pub(super) fn fill(&mut self, record: &mut RequestRecord) {
        record.t_hdr = self.t_hdr;
        record.t_first = self.t_first;
        record.t_out = self.t_out;
        record.t_last = self.t_last;
        record.t_usage = self.t_usage;
        record.t_done = self.t_done;
        record.event_token_source = self.event_source();
        record.n_first = self.t_first.map(|_| self.n_first);
        record.response_id = self.id.take().map(String::from);
        record.finish_reason = self.finish_reason.as_deref().map(str::to_owned);
        if let Some(rare) = &self.rare {
            record.server_queue_ms = rare.times.queue_ms;
            record.server_ttft_ms = rare.times.ttft_ms;
            record.server_itl_ms = rare.times.itl_ms;
            record.server_e2e_ms = rare.times.e2e_ms;
        }
        record.input_tokens = self.prompt_tokens.or(record.input_tokens);
        match self.count() {
            Some((n, source)) => {
                record.output_tokens = Some(n);
                record.token_source = Some(source);
            }
            None => {
                // A server that says zero is believed; silence stays unknown.
                record.output_tokens = self.usage_count();
                record.token_source = record.output_tokens.map(|_| TokenSource::ServerUsage);
            }
        }
    }

    /// What went wrong, worst first; `None` for an answer that is whole and worth counting.
    pub(super) fn failure(
        &self,
        head: Option<Head>,
        end: End,
        body: &[u8],
        ignored_lines: u64,
    ) -> Option<(&'static str, Option<String>)> {
        if let Some(head) = head
            && let Some(code) = codes::of_status(head.status)
        {
            let detail = if head.is_encoded { "a compressed body".into() } else { event::error_detail(body) };
            return Some((code, Some(format!("{}: {detail}", head.status))));
        }
        let text = |message: &str| Some(message.to_owned());
        if head.is_some_and(|head| head.is_encoded) {
            return Some((
                codes::UNSUPPORTED_ENCODING,
                text("the body is compressed, although that was not asked for"),
            ));
        }
        if let Some(rare) = &self.rare {
            let findings = [
                (codes::IN_BAND_ERROR, &rare.in_band_error),
                (codes::MALFORMED_HTTP, &rare.malformed_http),
                (codes::MALFORMED_SSE, &rare.malformed_event),
            ];
            if let Some((code, message)) = findings.into_iter().find(|(_, message)| message.is_some()) {
                return Some((code, message.clone()));
            }
        }
        if let Some(reason @ ("abort" | "error")) = self.finish_reason.as_deref() {
            return Some((codes::SERVER_ABORTED, Some(format!("finish reason `{reason}`"))));
        }
        if self.t_done.is_some() {
            return None;
        }
        match end {
            End::TimedOut => Some((codes::REQUEST_TIMEOUT, None)),
            End::Cancelled => Some((codes::CANCELLED, None)),
            End::Censored => Some((codes::CENSORED, None)),
            End::Reset => Some((codes::CONNECTION_RESET, text("connection reset"))),
            End::Closed if self.t_hdr.is_none() => {
                Some((codes::CONNECTION_RESET, text("closed before the first response byte")))
            }
            End::Closed => Some((codes::TRUNCATED_STREAM, text("closed inside the response"))),
            End::Complete if self.first.is_seen && self.answers().all(|answer| answer.is_finished) => None,
            End::Complete if !self.is_any_event_decoded && ignored_lines > 0 => {
                Some((codes::MALFORMED_SSE, text("the body holds lines that are no events")))
            }
            End::Complete if self.t_first.is_none() => None,
            End::Complete => Some((codes::TRUNCATED_STREAM, text("ended without [DONE] or a finish reason"))),
        }
    }

    /// Failures of a response that is otherwise whole. Several answers were asked for as many tokens each.
    pub(super) fn shortfall(&self, expect: Expectation, record: &RequestRecord) -> Option<(&'static str, String)> {
        let got = record.output_tokens.unwrap_or(0);
        if got == 0 || record.t_last.is_none() {
            return Some((codes::ZERO_TOKENS, "the response carried no token".to_owned()));
        }
        let answers = i64::try_from(self.answers().count()).unwrap_or(1).max(1);
        let asked = expect.requested_output_tokens.filter(|_| expect.ignore_eos)?.saturating_mul(answers);
        if got < asked {
            return Some((codes::EARLY_STOP, format!("{got} of {asked} output tokens")));
        }
        // A guess from the number of events can be too high (an event without a token of its own); a count cannot.
        let is_counted = record.token_source.is_some_and(|source| source != TokenSource::EventCount);
        (got > asked && is_counted).then(|| (codes::OVER_DELIVERY, format!("{got} output tokens instead of {asked}")))
    }

    /// Text and token ids of all answers, in the order of their index.
    pub(super) fn into_output(self) -> (Option<String>, Vec<i64>) {
        let mut kept = self.rare.map(|rare| rare.kept).unwrap_or_default();
        kept.sort_by_key(|kept| kept.index);
        let ids = kept.iter_mut().flat_map(|kept| std::mem::take(&mut kept.ids)).collect();
        let text = self.keep_text.then(|| kept.into_iter().map(|kept| kept.text).collect());
        (text, ids)
    }
}
