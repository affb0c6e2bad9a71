//! The meaning of one event of a stream (or of one whole JSON answer): which tokens it carries, usage, finish reason,
//! error, the server's own times. One pass over the bytes, nothing allocated for the usual event; text stays borrowed.
//!
//! Dialects: OpenAI completions and chat as vLLM, SGLang, llama.cpp, LMDeploy and TGI speak them; SGLang's `/generate`
//! (text and counts so far, `meta_info`); llama.cpp's `/completion` (`content`, `stop`, `timings`).
//!
//! Token-bearing is what the model produced: content, refusal, reasoning, the name or arguments of a tool call, token
//! ids. A role, an empty delta or the `id` of a tool call come from the server and are not. Log probabilities are not
//! counted: they are no provenance in the metric definitions.

use serde_json::Value;

pub use super::json::JsonStr;
use super::json::{Cursor, Malformed, Scalar};

/// `usage` as the server sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: Option<i64>,
    /// Output tokens so far.
    pub completion_tokens: Option<i64>,
}

/// Times that the server measured itself, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerTimes {
    /// Waiting for the scheduler.
    pub queue_ms: Option<f64>,
    /// From its receipt of the request, its queue included, to the first token. llama.cpp reports prompt processing only.
    pub ttft_ms: Option<f64>,
    /// Mean time per token after the first.
    pub itl_ms: Option<f64>,
    /// From its receipt of the request to the last token.
    pub e2e_ms: Option<f64>,
}

impl ServerTimes {
    /// Later values win, absent ones change nothing.
    pub(super) fn update(&mut self, later: Self) {
        self.queue_ms = later.queue_ms.or(self.queue_ms);
        self.ttft_ms = later.ttft_ms.or(self.ttft_ms);
        self.itl_ms = later.itl_ms.or(self.itl_ms);
        self.e2e_ms = later.e2e_ms.or(self.e2e_ms);
    }
}

/// Token ids as they stand in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenIds<'a> {
    raw: &'a str,
    /// How many there are.
    pub n: i64,
}

impl TokenIds<'_> {
    /// The ids.
    pub fn iter(self) -> impl Iterator<Item = i64> {
        self.raw.trim_matches(['[', ']']).split(',').filter_map(|id| id.trim().parse().ok())
    }
}

/// One choice of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Which answer of several it belongs to.
    pub index: i64,
    /// Text that is not reasoning, when not empty.
    pub content: Option<JsonStr<'a>>,
    /// Reasoning text, when not empty.
    pub reasoning: Option<JsonStr<'a>>,
    /// A tool call's name or arguments.
    pub has_tool_call: bool,
    /// Token ids, where the server sends them.
    pub ids: Option<TokenIds<'a>>,
    /// Why this answer ended.
    pub finish_reason: Option<JsonStr<'a>>,
    content_rank: u8,
    part_rank: u8,
}

impl Choice<'_> {
    /// Text or a tool call that is not reasoning.
    pub fn has_output(&self) -> bool {
        self.content.is_some() || self.has_tool_call
    }
}

/// What one JSON object of a response says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk<'a> {
    /// The server's id of the response.
    pub id: Option<JsonStr<'a>>,
    /// There is at least one choice.
    pub has_choices: bool,
    /// The first choice.
    pub first: Choice<'a>,
    /// Further choices, rare inside one event.
    pub more: Vec<Choice<'a>>,
    /// `usage`, when not null.
    pub usage: Option<Usage>,
    /// The message of an error object.
    pub error: Option<String>,
    /// The server's own times.
    pub times: ServerTimes,
    /// Text and token ids may be those of the whole answer so far (SGLang's `/generate`).
    pub may_be_cumulative: bool,
}

impl<'a> Chunk<'a> {
    /// The choices.
    pub fn choices(&self) -> impl Iterator<Item = &Choice<'a>> {
        self.has_choices.then_some(&self.first).into_iter().chain(&self.more)
    }
}

/// True for the stream's end mark.
pub fn is_done_mark(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

/// Decodes one JSON object of a response. `None` when it is not a JSON object.
pub fn decode(data: &[u8]) -> Option<Chunk<'_>> {
    let mut reader = Reader::default();
    let mut cursor = Cursor::new(data).ok()?;
    cursor.members(|cursor, key| reader.root(cursor, key)).ok()?;
    cursor.end().ok()?;
    Some(reader.chunk())
}

/// What has been read of one object so far.
#[derive(Debug, Default)]
struct Reader<'a> {
    chunk: Chunk<'a>,
    has_choices_key: bool,
    /// The object itself as a choice, for servers that have no `choices`.
    root: Choice<'a>,
    is_native: bool,
    native_usage: Option<Usage>,
    timings_usage: Option<Usage>,
    stopped: bool,
    stopped_by_limit: bool,
    is_error_object: bool,
    message: Option<JsonStr<'a>>,
}

impl<'a> Reader<'a> {
    fn root(&mut self, cursor: &mut Cursor<'a>, key: &str) -> Result<(), Malformed> {
        match key {
            "choices" => self.choices(cursor),
            "id" => string(cursor).map(|id| self.chunk.id = id.or(self.chunk.id)),
            "usage" => self.usage(cursor),
            "error" => error(cursor).map(|error| self.chunk.error = error),
            "metrics" => self.vllm_metrics(cursor),
            "timings" => self.llama_timings(cursor),
            "meta_info" => {
                self.is_native = true;
                self.meta_info(cursor)
            }
            "object" => {
                string(cursor).map(|kind| self.is_error_object = kind.is_some_and(|kind| kind.text() == "error"))
            }
            "message" => string(cursor).map(|message| self.message = message),
            "tokens_predicted" => {
                integer(cursor).map(|n| self.native_usage.get_or_insert_default().completion_tokens = n)
            }
            "tokens_evaluated" => integer(cursor).map(|n| self.native_usage.get_or_insert_default().prompt_tokens = n),
            "stop" => truth(cursor).map(|stop| (self.is_native, self.stopped) = (true, stop)),
            "stopped_limit" => truth(cursor).map(|is_limit| self.stopped_by_limit |= is_limit),
            "stop_type" => {
                string(cursor).map(|kind| self.stopped_by_limit |= kind.is_some_and(|kind| kind.text() == "limit"))
            }
            "index" => integer(cursor).map(|index| self.root.index = index.unwrap_or(0)),
            "output_ids" => self.root.ids(cursor, 2),
            "tokens" => self.root.ids(cursor, 1),
            _ => self.root.part(cursor, key),
        }
    }

    fn chunk(mut self) -> Chunk<'a> {
        if self.is_error_object && self.chunk.error.is_none() {
            let message = self.message.map_or("unspecified error".into(), JsonStr::text);
            self.chunk.error = Some(message.into_owned());
        }
        let root = &mut self.root;
        if !self.has_choices_key && (self.is_native || root.content.is_some() || root.ids.is_some()) {
            if self.stopped {
                let reason = JsonStr::plain(if self.stopped_by_limit { "length" } else { "stop" });
                root.finish_reason = root.finish_reason.or(Some(reason));
            }
            (self.chunk.has_choices, self.chunk.first) = (true, self.root);
        } else {
            self.native_usage = None;
            self.chunk.may_be_cumulative = false;
        }
        self.chunk.usage = self.chunk.usage.or(self.native_usage).or(self.timings_usage);
        self.chunk
    }

    fn choices(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        self.has_choices_key = true;
        self.chunk.has_choices = false;
        self.chunk.more.clear();
        if cursor.peek() != b'[' {
            return cursor.value().map(drop);
        }
        cursor.items(|cursor| {
            let mut choice = Choice::default();
            object(cursor, |cursor, key| match key {
                "meta_info" => self.meta_info(cursor),
                _ => choice.member(cursor, key),
            })?;
            if self.chunk.has_choices {
                self.chunk.more.push(choice);
            } else {
                (self.chunk.has_choices, self.chunk.first) = (true, choice);
            }
            Ok(())
        })
    }

    fn usage(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let mut usage = Usage::default();
        let is_object = object(cursor, |cursor, key| match key {
            "prompt_tokens" => integer(cursor).map(|n| usage.prompt_tokens = n),
            "completion_tokens" => integer(cursor).map(|n| usage.completion_tokens = n),
            _ => cursor.value().map(drop),
        })?;
        self.chunk.usage = is_object.then_some(usage);
        Ok(())
    }

    /// vLLM with `--enable-per-request-metrics`. Its TTFT runs from the first scheduling, so the queue is added.
    fn vllm_metrics(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let (mut queue, mut ttft, mut generation, mut itl) = (None, None, None, None);
        object(cursor, |cursor, key| match key {
            "queue_time_ms" => float(cursor).map(|ms| queue = ms),
            "time_to_first_token_ms" => float(cursor).map(|ms| ttft = ms),
            "generation_time_ms" => float(cursor).map(|ms| generation = ms),
            "mean_itl_ms" => float(cursor).map(|ms| itl = ms),
            _ => cursor.value().map(drop),
        })?;
        let ttft: Option<f64> = ttft.map(|ttft: f64| ttft + queue.unwrap_or(0.0));
        let e2e_ms = ttft.zip(generation).map(|(ttft, generation): (f64, f64)| ttft + generation);
        self.chunk.times.update(ServerTimes { queue_ms: queue, ttft_ms: ttft, itl_ms: itl, e2e_ms });
        Ok(())
    }

    /// llama.cpp: token counts and times, with the last event or with every one.
    fn llama_timings(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let (mut cached, mut prompt, mut predicted) = (None, None, None);
        let (mut prompt_ms, mut predicted_ms, mut itl_ms) = (None, None, None);
        let is_object = object(cursor, |cursor, key| match key {
            "cache_n" => integer(cursor).map(|n| cached = n),
            "prompt_n" => integer(cursor).map(|n| prompt = n),
            "predicted_n" => integer(cursor).map(|n| predicted = n),
            "prompt_ms" => float(cursor).map(|ms| prompt_ms = ms),
            "predicted_ms" => float(cursor).map(|ms| predicted_ms = ms),
            "predicted_per_token_ms" => float(cursor).map(|ms| itl_ms = ms),
            _ => cursor.value().map(drop),
        })?;
        if is_object {
            let prompt_tokens = prompt.map(|n: i64| n.saturating_add(cached.unwrap_or(0)));
            self.timings_usage = Some(Usage { prompt_tokens, completion_tokens: predicted });
            let e2e_ms = prompt_ms.zip(predicted_ms).map(|(a, b): (f64, f64)| a + b);
            self.chunk.times.update(ServerTimes { queue_ms: None, ttft_ms: prompt_ms, itl_ms, e2e_ms });
        }
        Ok(())
    }

    /// SGLang: of the whole answer in `/generate`, of a choice with `return_meta_info`. Times are in seconds.
    fn meta_info(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        let (mut queue, mut e2e, mut received, mut prefilled) = (None, None, None, None);
        let mut usage = Usage::default();
        let is_object = object(cursor, |cursor, key| match key {
            "id" => string(cursor).map(|id| self.chunk.id = self.chunk.id.or(id)),
            "prompt_tokens" => integer(cursor).map(|n| usage.prompt_tokens = n),
            "completion_tokens" => integer(cursor).map(|n| usage.completion_tokens = n),
            "finish_reason" => finish_reason(cursor).map(|reason| self.root.finish_reason = reason),
            "queue_time" => float(cursor).map(|s| queue = s),
            "e2e_latency" => float(cursor).map(|s| e2e = s),
            "request_received_ts" => float(cursor).map(|s| received = s),
            "prefill_finished_ts" | "prefill_finished_time" => float(cursor).map(|s| prefilled = s),
            _ => cursor.value().map(drop),
        })?;
        if is_object {
            self.native_usage = Some(usage);
            self.chunk.may_be_cumulative = true;
            let ms = |seconds: f64| seconds * 1e3;
            let ttft = prefilled.zip(received).map(|(end, start): (f64, f64)| end - start);
            let times =
                ServerTimes { queue_ms: queue.map(ms), ttft_ms: ttft.map(ms), itl_ms: None, e2e_ms: e2e.map(ms) };
            self.chunk.times.update(times);
        }
        Ok(())
    }
}

/// Where a choice's text stands; the nearer one counts.
const IN_MESSAGE: u8 = 1;
const IN_DELTA: u8 = 2;

impl<'a> Choice<'a> {
    fn member(&mut self, cursor: &mut Cursor<'a>, key: &str) -> Result<(), Malformed> {
        match key {
            "index" => integer(cursor).map(|index| self.index = index.unwrap_or(0)),
            "finish_reason" => finish_reason(cursor).map(|reason| self.finish_reason = reason),
            "token_ids" => self.ids(cursor, 2),
            // A stream has `delta`, a whole chat answer `message`, completions neither.
            "delta" => self.inner(cursor, IN_DELTA),
            "message" => self.inner(cursor, IN_MESSAGE),
            _ if self.part_rank == 0 => self.part(cursor, key),
            _ => cursor.value().map(drop),
        }
    }

    fn inner(&mut self, cursor: &mut Cursor<'a>, rank: u8) -> Result<(), Malformed> {
        if cursor.peek() != b'{' || rank < self.part_rank {
            return cursor.value().map(drop);
        }
        self.part_rank = rank;
        self.content_rank = 0;
        (self.content, self.reasoning, self.has_tool_call) = (None, None, false);
        cursor.members(|cursor, key| match key {
            "token_ids" => self.ids(cursor, 1),
            _ => self.part(cursor, key),
        })
    }

    /// A key of the innermost object, which holds the text.
    fn part(&mut self, cursor: &mut Cursor<'a>, key: &str) -> Result<(), Malformed> {
        let rank = match key {
            "content" => 3,
            "text" => 2,
            "refusal" => 1,
            "reasoning_content" => return text(cursor).map(|text| self.reasoning = text.or(self.reasoning)),
            "reasoning" => return text(cursor).map(|text| self.reasoning = self.reasoning.or(text)),
            "function_call" => return function(cursor).map(|is_call| self.has_tool_call |= is_call),
            "tool_calls" => return self.tool_calls(cursor),
            _ => return cursor.value().map(drop),
        };
        let text = text(cursor)?;
        if text.is_some() && rank >= self.content_rank {
            (self.content, self.content_rank) = (text, rank);
        }
        Ok(())
    }

    fn tool_calls(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        if cursor.peek() != b'[' {
            return cursor.value().map(drop);
        }
        cursor.items(|cursor| {
            object(cursor, |cursor, key| match key {
                "function" | "custom" => function(cursor).map(|is_call| self.has_tool_call |= is_call),
                _ => cursor.value().map(drop),
            })
            .map(drop)
        })
    }

    /// Ids of the choice itself come before those of its inner object.
    fn ids(&mut self, cursor: &mut Cursor<'a>, rank: u8) -> Result<(), Malformed> {
        if cursor.peek() != b'[' {
            return cursor.value().map(drop);
        }
        let start = cursor.mark();
        let mut n = 0;
        let mut is_flat = true;
        cursor.items(|cursor| {
            match cursor.value()? {
                Scalar::Number(number) if number.as_i64().is_some() => n += 1,
                _ => is_flat = false,
            }
            Ok(())
        })?;
        if is_flat && (rank > 1 || self.ids.is_none()) {
            self.ids = Some(TokenIds { raw: cursor.since(start), n });
        }
        Ok(())
    }
}

/// The members of an object; false, and the value skipped, when it is something else.
fn object<'a>(
    cursor: &mut Cursor<'a>,
    each: impl FnMut(&mut Cursor<'a>, &str) -> Result<(), Malformed>,
) -> Result<bool, Malformed> {
    if cursor.peek() == b'{' { cursor.members(each).map(|()| true) } else { cursor.value().map(|_| false) }
}

fn string<'a>(cursor: &mut Cursor<'a>) -> Result<Option<JsonStr<'a>>, Malformed> {
    Ok(if let Scalar::String(text) = cursor.value()? { Some(text) } else { None })
}

/// A string that says something.
fn text<'a>(cursor: &mut Cursor<'a>) -> Result<Option<JsonStr<'a>>, Malformed> {
    Ok(string(cursor)?.filter(|text| !text.is_empty()))
}

fn integer(cursor: &mut Cursor<'_>) -> Result<Option<i64>, Malformed> {
    Ok(if let Scalar::Number(number) = cursor.value()? { number.as_i64() } else { None })
}

fn float(cursor: &mut Cursor<'_>) -> Result<Option<f64>, Malformed> {
    Ok(if let Scalar::Number(number) = cursor.value()? { number.as_f64() } else { None })
}

fn truth(cursor: &mut Cursor<'_>) -> Result<bool, Malformed> {
    Ok(cursor.value()? == Scalar::Bool(true))
}

/// A word, or SGLang's object with a `type`.
fn finish_reason<'a>(cursor: &mut Cursor<'a>) -> Result<Option<JsonStr<'a>>, Malformed> {
    if cursor.peek() != b'{' {
        return string(cursor);
    }
    let mut reason = None;
    cursor.members(|cursor, key| match key {
        "type" => string(cursor).map(|kind| reason = kind),
        _ => cursor.value().map(drop),
    })?;
    Ok(reason)
}

/// True when a tool call's function has a name or arguments: the model wrote those, the call's id the server.
fn function(cursor: &mut Cursor<'_>) -> Result<bool, Malformed> {
    let mut is_call = false;
    object(cursor, |cursor, key| {
        let value = cursor.value()?;
        if matches!(key, "name" | "arguments" | "input") {
            is_call |= match value {
                Scalar::String(text) => !text.is_empty(),
                Scalar::Object | Scalar::Array => true,
                _ => false,
            };
        }
        Ok(())
    })?;
    Ok(is_call)
}

/// The message of an error, or the error as it stands. Null, false and "" are none.
fn error(cursor: &mut Cursor<'_>) -> Result<Option<String>, Malformed> {
    let start = cursor.mark();
    let mut message = None;
    if cursor.peek() == b'{' {
        cursor.members(|cursor, key| match key {
            "message" => string(cursor).map(|text| message = text),
            _ => cursor.value().map(drop),
        })?;
    } else {
        match cursor.value()? {
            Scalar::Null | Scalar::Bool(false) => return Ok(None),
            Scalar::String(text) if text.is_empty() => return Ok(None),
            Scalar::String(text) => message = Some(text),
            _ => {}
        }
    }
    Ok(Some(message.map_or_else(|| cursor.since(start).to_owned(), |text| text.text().into_owned())))
}

/// The message inside an error body, or its beginning as it is.
pub(crate) fn error_detail(body: &[u8]) -> String {
    let text = match decode(body).and_then(|chunk| chunk.error) {
        Some(message) => message,
        None => match serde_json::from_slice::<Value>(body) {
            // FastAPI's own errors.
            Ok(value) => value
                .get("detail")
                .and_then(Value::as_str)
                .map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned),
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        },
    };
    text.trim().chars().take(500).collect()
}
