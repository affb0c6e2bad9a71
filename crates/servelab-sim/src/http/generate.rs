//! One generation request from admission to its last byte: what it will say, what its choices have got so far, and the
//! bytes that follow from it. It knows no socket: the loop asks for bytes when tokens are there.

use std::sync::Arc;

use serde_json::Value;

use super::answer::{Choice, ChunkWriter, DONE, Ending, Piece, Usage, WholeFacts, whole};
use super::logprobs::{TokenLogprobs, prompt_logprobs};
use super::refuse::ApiError;
use super::request::{Asked, Endpoint, Prompt};
use super::wire::{LAST_CHUNK, write_chunk};
use crate::engine::{FinishReason, RequestSpec};
use crate::random::mix;
use crate::text::{OutputText, TOKEN_BYTES};

/// What vLLM says when its engine is gone.
pub(super) const ENGINE_DEAD: &str = "EngineCore encountered an issue. See stack trace (above) for the root cause.";

/// What one choice will say, known before the engine has produced any of it.
#[derive(Debug)]
pub(super) struct Script {
    prompt: Prompt,
    output: OutputText,
    n_tokens: u32,
    /// Bytes of the whole text; shorter than its tokens when a stop cuts the end.
    n_bytes: usize,
    /// Bytes that are held back while a stop string could still begin in them.
    held_bytes: usize,
    ending: Ending,
}

impl Script {
    pub(super) fn write(seed: u64, asked: &Asked, prompt: &Prompt, max_tokens: u32, choice: u32) -> Self {
        let variant = mix(asked.request_seed, u64::from(choice));
        let plain = asked.request_seed == 0 && choice == 0;
        let output = OutputText::new(seed, &prompt.ids).variant(if plain { 0 } else { variant });
        let natural = output.natural_length().max(asked.min_tokens).max(1);
        let (mut n_tokens, reason) =
            if asked.ignore_eos || natural >= max_tokens { (max_tokens, "length") } else { (natural, "stop") };
        let mut ending = Ending { reason, stop: None };
        let mut n_bytes = n_tokens as usize * TOKEN_BYTES;
        if let Some((count, id)) = output.find_stop_id(&asked.stop_token_ids, asked.min_tokens, n_tokens) {
            n_tokens = count;
            ending = Ending { reason: "stop", stop: Some(Value::from(id)) };
            n_bytes = (count - u32::from(!asked.include_stop)) as usize * TOKEN_BYTES;
        }
        let mut held_bytes = 0;
        if !asked.stop.is_empty() {
            if !asked.include_stop {
                held_bytes = asked.stop.iter().map(String::len).max().unwrap_or(1) - 1;
            }
            if let Some((count, stop, start)) = output.find_stop(&asked.stop, asked.min_tokens, n_tokens) {
                n_tokens = count;
                n_bytes = if asked.include_stop { start + stop.len() } else { start };
                ending = Ending { reason: "stop", stop: Some(Value::from(stop)) };
            }
        }
        Self { prompt: prompt.clone(), output, n_tokens, n_bytes, held_bytes, ending }
    }

    pub(super) fn spec(&self, id: u64, max_tokens: u32, arrival_ns: u64) -> RequestSpec {
        RequestSpec {
            id,
            prompt: Arc::clone(&self.prompt.ids),
            output: self.output,
            output_tokens: self.n_tokens,
            max_tokens,
            finish: if self.ending.reason == "stop" { FinishReason::Stop } else { FinishReason::Length },
            arrival_ns,
            priority: 0,
            remote_prompt: false,
        }
    }

    /// The bytes of the text that are out when `n_tokens` tokens are.
    fn reach(&self, n_tokens: u32, is_finished: bool) -> usize {
        let bytes = n_tokens as usize * TOKEN_BYTES;
        if is_finished { self.n_bytes.min(bytes) } else { self.n_bytes.min(bytes.saturating_sub(self.held_bytes)) }
    }

    /// Bytes `from..to` of the text.
    fn text(&self, from: usize, to: usize, out: &mut String) {
        let first = from / TOKEN_BYTES;
        let mut text = String::with_capacity(to - from + TOKEN_BYTES);
        for index in first..to.div_ceil(TOKEN_BYTES) {
            self.output.push_token(index as u32, &mut text);
        }
        // One byte is one character here.
        let start = from - first * TOKEN_BYTES;
        out.push_str(text.get(start..start + (to - from)).unwrap_or_default());
    }

    fn ids(&self, from: u32, to: u32) -> Vec<u32> {
        (from..to).map(|index| self.output.token_id(index)).collect()
    }
}

/// One choice of an answer.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: u64,
    /// The data-parallel rank that computes it.
    pub(super) rank: usize,
    script: Script,
    /// Tokens that the engine has produced.
    n_output: u32,
    is_finished: bool,
    /// Tokens and bytes that are written.
    sent: u32,
    sent_bytes: usize,
    text_offset: usize,
    has_echoed: bool,
    is_done: bool,
}

impl Line {
    pub(super) fn new(id: u64, script: Script) -> Self {
        Self {
            id,
            rank: 0,
            script,
            n_output: 0,
            is_finished: false,
            sent: 0,
            sent_bytes: 0,
            text_offset: 0,
            has_echoed: false,
            is_done: false,
        }
    }
}

/// What an injected failure does in the middle of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breakage {
    /// The connection closes.
    Truncate,
    /// The connection is reset.
    Reset,
    /// An error event, then a proper end.
    InBand,
}

/// What is left to do after bytes were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// More follows.
    Wait,
    /// The answer is complete.
    Complete,
    /// Break the connection.
    Break(Breakage),
}

/// Text of prompt tokens, for `echo` and log-probabilities.
pub(super) type TextOf<'a> = &'a dyn Fn(&[u32]) -> String;

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Job {
    /// The connection that it goes to.
    pub(super) conn: usize,
    pub(super) asked: Asked,
    pub(super) id: String,
    pub(super) lines: Vec<Line>,
    /// Waits in the queue of jobs with something to write.
    pub(super) is_queued: bool,
    /// `kv_transfer_params` of the answer.
    pub(super) kv_offer: Value,
    created: u64,
    version: String,
    writer: ChunkWriter,
    n_prompt: u64,
    breakage: Option<(Breakage, u32)>,
}

/// What a job is made of.
pub(super) struct JobFacts<'a> {
    pub(super) conn: usize,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) version: &'a str,
    /// Tokens of the first choice before it breaks; `None`: half of them.
    pub(super) breakage: Option<(Breakage, Option<u32>)>,
}

impl Job {
    pub(super) fn new(facts: JobFacts<'_>, asked: Asked, lines: Vec<Line>) -> Self {
        let JobFacts { conn, id, created, version, breakage } = facts;
        let writer = ChunkWriter::new(asked.endpoint, &id, created, &asked.model, version);
        let half = lines.first().map_or(0, |line| line.script.n_tokens / 2);
        let n_prompt = asked.prompts.iter().map(|prompt| prompt.ids.len() as u64).sum();
        Self {
            conn,
            asked,
            id,
            lines,
            is_queued: false,
            kv_offer: Value::Null,
            created,
            version: version.to_owned(),
            writer,
            n_prompt,
            breakage: breakage.map(|(what, after)| (what, after.unwrap_or(half))),
        }
    }

    /// Notes tokens of a choice.
    pub(super) fn progress(&mut self, line: usize, n_output: u32, is_finished: bool) {
        if let Some(line) = self.lines.get_mut(line) {
            line.n_output = n_output;
            line.is_finished = is_finished;
        }
    }

    /// Prompt tokens, while no choice has a token.
    pub(super) fn waiting_tokens(&self) -> u64 {
        if self.lines.iter().all(|line| line.n_output == 0) { self.n_prompt } else { 0 }
    }

    /// True when a call of [`Job::stream`] or [`Job::whole`] would write something.
    pub(super) fn has_news(&self) -> bool {
        let interval = self.asked.stream_interval.max(1);
        let is_due = |line: &Line| {
            // The first token goes out at once; later ones in groups of the stream interval.
            let beyond = if line.sent == 0 { 0 } else { line.sent + interval - 1 };
            !line.is_done && (line.is_finished || line.n_output > beyond)
        };
        if self.asked.stream {
            self.lines.iter().any(is_due)
        } else {
            self.lines.iter().all(|line| line.is_finished)
                || self.breakage.is_some_and(|(_, after)| self.lines.iter().any(|line| line.n_output > after))
        }
    }

    /// Ids of the choices that the engine is not done with.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = u64> + '_ {
        self.lines.iter().filter(|line| !line.is_finished).map(|line| line.id)
    }

    /// Tokens of the longest choice.
    pub(super) fn longest_output(&self) -> u32 {
        self.lines.iter().map(|line| line.n_output).max().unwrap_or(0)
    }

    /// How a whole answer is to break.
    pub(super) fn breaks_whole(&self) -> Option<Breakage> {
        self.breakage.map(|(what, _)| what)
    }

    /// Appends the chunks of all tokens that are there and not yet written.
    pub(super) fn stream(&mut self, out: &mut Vec<u8>, text_of: TextOf<'_>) -> Next {
        let interval = self.asked.stream_interval.max(1);
        let is_first = self.lines.iter().all(|line| line.sent == 0);
        if is_first && self.asked.endpoint == Endpoint::Chat && self.lines.iter().any(|line| line.n_output > 0) {
            // vLLM sends the role with the first token's wake-up.
            self.roles(out);
        }
        for index in 0..self.lines.len() {
            let Some(line) = self.lines.get(index) else { continue };
            let beyond = if line.sent == 0 { 0 } else { line.sent + interval - 1 };
            if line.is_done || (!line.is_finished && line.n_output <= beyond) {
                continue;
            }
            if let Some((what, after)) = self.breakage
                && line.n_output > after
            {
                if after > line.sent {
                    self.emit(index, after, false, out, text_of);
                }
                if what == Breakage::InBand {
                    self.fail(out);
                    return Next::Complete;
                }
                return Next::Break(what);
            }
            let (n_output, is_finished) = (line.n_output, line.is_finished);
            self.emit(index, n_output, is_finished, out, text_of);
        }
        if !self.lines.iter().all(|line| line.is_done) {
            return Next::Wait;
        }
        if self.asked.include_usage {
            let completion = self.lines.iter().map(|line| u64::from(line.sent)).sum();
            let usage = Usage { prompt: self.n_prompt, completion, cached: None };
            write_chunk(out, |out| self.writer.usage(out, usage));
        }
        write_chunk(out, |out| out.extend_from_slice(DONE));
        out.extend_from_slice(LAST_CHUNK);
        Next::Complete
    }

    /// Ends a stream with an error inside, as vLLM does when its engine fails under it.
    pub(super) fn fail(&self, out: &mut Vec<u8>) {
        let body = ApiError::internal(ENGINE_DEAD).body();
        write_chunk(out, |out| {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(body.as_bytes());
            out.extend_from_slice(b"\n\n");
        });
        write_chunk(out, |out| out.extend_from_slice(DONE));
        out.extend_from_slice(LAST_CHUNK);
    }

    /// A stream without a single token.
    pub(super) fn empty_stream(&mut self, out: &mut Vec<u8>) {
        if self.asked.endpoint == Endpoint::Chat {
            self.roles(out);
        }
        let ending = Ending { reason: "stop", stop: None };
        let include_usage = self.asked.include_usage;
        for index in 0..self.lines.len() {
            let piece = Piece {
                index,
                text: "",
                logprobs: None,
                token_ids: None,
                prompt_token_ids: None,
                ending: Some(&ending),
                usage: None,
                has_fingerprint: !include_usage,
            };
            write_chunk(out, |out| self.writer.piece(out, &piece));
        }
        if include_usage {
            let usage = Usage { prompt: self.n_prompt, ..Usage::default() };
            write_chunk(out, |out| self.writer.usage(out, usage));
        }
        write_chunk(out, |out| out.extend_from_slice(DONE));
        out.extend_from_slice(LAST_CHUNK);
    }

    fn roles(&self, out: &mut Vec<u8>) {
        let usage = (self.asked.continuous_usage).then_some(Usage { prompt: self.n_prompt, ..Usage::default() });
        for (index, line) in self.lines.iter().enumerate() {
            let ids = self.asked.return_token_ids.then_some(&*line.script.prompt.ids);
            write_chunk(out, |out| self.writer.role(out, index, ids, usage));
        }
    }

    /// Writes tokens `sent..n_output` of a choice as one chunk.
    fn emit(&mut self, index: usize, n_output: u32, is_finished: bool, out: &mut Vec<u8>, text_of: TextOf<'_>) {
        let Some(line) = self.lines.get_mut(index) else { return };
        let asked = &self.asked;
        let script = &line.script;
        let begins_with_prompt = asked.echo && !line.has_echoed;
        let mut text = String::new();
        if begins_with_prompt && !asked.return_token_ids {
            text.push_str(&prompt_text(&script.prompt, text_of));
        }
        let reach = script.reach(n_output, is_finished);
        if !asked.echo_only {
            script.text(line.sent_bytes.min(reach), reach, &mut text);
        }
        let logprobs = asked.logprobs.map(|n_top| {
            let mut logprobs = TokenLogprobs::new(n_top, line.text_offset);
            if begins_with_prompt {
                push_prompt(&mut logprobs, &script.prompt, text_of);
            }
            if !asked.echo_only {
                (line.sent..n_output).for_each(|token| logprobs.push(script.output, token));
            }
            logprobs
        });
        let token_ids = asked.return_token_ids.then(|| script.ids(line.sent, n_output));
        let has_ids = begins_with_prompt || (asked.return_token_ids && line.sent == 0);
        let usage = Usage { prompt: script.prompt.ids.len() as u64, completion: u64::from(n_output), cached: None };
        let piece = Piece {
            index,
            text: &text,
            logprobs: logprobs.as_ref(),
            token_ids: token_ids.as_deref(),
            prompt_token_ids: has_ids.then_some(&*script.prompt.ids),
            ending: is_finished.then_some(&script.ending),
            usage: asked.continuous_usage.then_some(usage),
            has_fingerprint: is_finished && !asked.include_usage,
        };
        write_chunk(out, |out| self.writer.piece(out, &piece));
        line.text_offset = logprobs.map_or(0, |logprobs| logprobs.end());
        line.sent = n_output;
        line.sent_bytes = reach;
        line.has_echoed = true;
        line.is_done = is_finished;
    }

    /// The whole answer.
    pub(super) fn whole(&self, text_of: TextOf<'_>) -> Value {
        let choices: Vec<Choice> = self.lines.iter().map(|line| self.choice(&line.script, text_of)).collect();
        let completion = self.lines.iter().map(|line| u64::from(line.n_output)).sum();
        self.whole_of(&choices, Usage { prompt: self.n_prompt, completion, cached: None })
    }

    /// A whole answer without a single token.
    pub(super) fn empty_whole(&self) -> Value {
        let empty = |_: &Line| Choice {
            text: String::new(),
            ending: Ending { reason: "stop", stop: None },
            logprobs: None,
            prompt_logprobs: Value::Null,
            token_ids: None,
            prompt_token_ids: None,
        };
        let choices: Vec<Choice> = self.lines.iter().map(empty).collect();
        self.whole_of(&choices, Usage { prompt: self.n_prompt, ..Usage::default() })
    }

    fn whole_of(&self, choices: &[Choice], usage: Usage) -> Value {
        let facts = WholeFacts {
            endpoint: self.asked.endpoint,
            id: &self.id,
            created: self.created,
            model: &self.asked.model,
            version: &self.version,
            usage,
            kv_transfer_params: self.kv_offer.clone(),
        };
        whole(&facts, choices)
    }

    fn choice(&self, script: &Script, text_of: TextOf<'_>) -> Choice {
        let asked = &self.asked;
        let mut text = String::new();
        if asked.echo && !asked.return_token_ids {
            text.push_str(&prompt_text(&script.prompt, text_of));
        }
        if !asked.echo_only {
            script.text(0, script.reach(script.n_tokens, true), &mut text);
        }
        let logprobs = asked.logprobs.map(|n_top| {
            let mut logprobs = TokenLogprobs::new(n_top, 0);
            if asked.echo {
                push_prompt(&mut logprobs, &script.prompt, text_of);
            }
            if !asked.echo_only {
                (0..script.n_tokens).for_each(|token| logprobs.push(script.output, token));
            }
            logprobs
        });
        let wants_prompt = asked.prompt_logprobs || (asked.echo && asked.logprobs.is_some());
        Choice {
            text,
            ending: script.ending.clone(),
            logprobs,
            prompt_logprobs: if wants_prompt {
                prompt_logprobs(&script.prompt.ids, &|id| text_of(&[id]))
            } else {
                Value::Null
            },
            token_ids: asked.return_token_ids.then(|| script.ids(0, script.n_tokens)),
            prompt_token_ids: asked.return_token_ids.then(|| script.prompt.ids.to_vec()),
        }
    }
}

fn prompt_text(prompt: &Prompt, text_of: TextOf<'_>) -> String {
    prompt.text.clone().unwrap_or_else(|| text_of(&prompt.ids))
}

fn push_prompt(logprobs: &mut TokenLogprobs, prompt: &Prompt, text_of: TextOf<'_>) {
    for (index, id) in prompt.ids.iter().enumerate() {
        logprobs.push_prompt(text_of(&[*id]), *id, index);
    }
}
