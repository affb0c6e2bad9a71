//! One generation request from admission to its last byte: its fate under injected failures, its choices in the engine,
//! and its answer, streamed or whole.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;

use super::answer::{Choice, ChunkWriter, DONE, Ending, Piece, Usage, whole};
use super::refuse::ApiError;
use super::request::{Asked, Endpoint, parse};
use super::{App, json_response};
use crate::engine::{FinishReason, RequestSpec};
use crate::fail::Fate;
use crate::live::{FeedView, SubmitError, TokenFeed};
use crate::random::mix;
use crate::startup::unix_seconds;
use crate::text::{OutputText, TOKEN_BYTES};

const INJECTED: &str = "EngineCore encountered an issue. See stack trace (above) for the root cause.";

/// What one choice will say, known before the engine has produced any of it.
struct Script {
    prompt: Arc<[u32]>,
    output: OutputText,
    n_tokens: u32,
    /// Bytes of the whole text; shorter than its tokens when a stop string cuts the end.
    n_bytes: usize,
    ending: Ending,
}

impl Script {
    fn write(app: &App, asked: &Asked, prompt: &Arc<[u32]>, max_tokens: u32, choice: u32) -> Self {
        let variant = mix(asked.request_seed, u64::from(choice));
        let plain = asked.request_seed == 0 && choice == 0;
        let output = OutputText::new(app.seed, prompt).variant(if plain { 0 } else { variant });
        let natural = output.natural_length().max(asked.min_tokens).max(1);
        let (n_tokens, reason) =
            if asked.ignore_eos || natural >= max_tokens { (max_tokens, "length") } else { (natural, "stop") };
        if !asked.stop.is_empty()
            && let Some((n_tokens, stop, n_bytes)) = output.find_stop(&asked.stop, n_tokens)
            && n_tokens > asked.min_tokens
        {
            return Self {
                prompt: Arc::clone(prompt),
                output,
                n_tokens,
                n_bytes,
                ending: Ending { reason: "stop", stop: Some(stop) },
            };
        }
        let n_bytes = n_tokens as usize * TOKEN_BYTES;
        Self { prompt: Arc::clone(prompt), output, n_tokens, n_bytes, ending: Ending { reason, stop: None } }
    }

    /// The text of tokens `from..to`, cut at the end of the text.
    fn text(&self, from: u32, to: u32) -> String {
        let mut text = self.output.slice(from, to);
        let start = from as usize * TOKEN_BYTES;
        text.truncate(self.n_bytes.saturating_sub(start));
        text
    }

    fn ids(&self, from: u32, to: u32) -> Vec<u32> {
        (from..to).map(|index| self.output.token_id(index)).collect()
    }
}

/// Answers a request.
pub(super) async fn generate(app: Arc<App>, endpoint: Endpoint, headers: HeaderMap, body: Bytes) -> Response {
    let number = app.n_requests.fetch_add(1, Ordering::Relaxed) + 1;
    let fate = app.fail.fate(number);
    match fate {
        Fate::Crash => {
            app.crashed.store(number, Ordering::Relaxed);
            app.crash.notify_one();
            // The server ends before this request does.
            return std::future::pending::<Response>().await;
        }
        Fate::Unavailable => return ApiError::unavailable("Injected: the server is overloaded.").into_response(),
        Fate::Hang => app.live.hang(),
        _ => {}
    }
    let asked = match parse(&app, endpoint, &body) {
        Ok(asked) => asked,
        Err(error) => return error.into_response(),
    };
    let id = answer_id(&app, &asked, &headers, number);
    let created = unix_seconds() as u64;
    let version = app.config().version.clone();
    let writer = ChunkWriter::new(endpoint, &id, created, &asked.model, &version);
    let n_prompt: u64 = asked.prompts.iter().map(|prompt| prompt.len() as u64).sum();
    match fate {
        Fate::InBand if asked.stream => return in_band_error(),
        Fate::InBand => return ApiError::internal(INJECTED).into_response(),
        Fate::Zero => return zero_tokens(&asked, &writer, &id, created, &version, n_prompt),
        _ => {}
    }
    let scripts: Vec<Script> = asked
        .prompts
        .iter()
        .zip(&asked.max_tokens)
        .flat_map(|(prompt, limit)| (0..asked.n).map(move |choice| (prompt, *limit, choice)))
        .map(|(prompt, limit, choice)| Script::write(&app, &asked, prompt, limit, choice))
        .collect();
    let arrival_ns = app.live.now_ns();
    let specs = scripts
        .iter()
        .enumerate()
        .map(|(index, script)| RequestSpec {
            id: number << 20 | index as u64,
            prompt: Arc::clone(&script.prompt),
            output: script.output,
            output_tokens: script.n_tokens,
            max_tokens: asked.max_tokens.get(index / asked.n as usize).copied().unwrap_or(0),
            finish: if script.ending.reason == "stop" { FinishReason::Stop } else { FinishReason::Length },
            arrival_ns,
        })
        .collect();
    let feeds = match app.live.submit(specs) {
        Ok(feeds) => feeds,
        Err(error) => return refused(error).into_response(),
    };
    let cut_after = (fate == Fate::Truncate).then(|| scripts.first().map_or(0, |script| script.n_tokens / 2));
    if asked.stream {
        let stream = AnswerStream::new(&app, &asked, writer, scripts, feeds, n_prompt, cut_after);
        return event_stream(Body::from_stream(stream));
    }
    let mut completion = 0;
    for feed in &feeds {
        match feed.finished().await {
            Ok(view) => completion += u64::from(view.n_output),
            Err(_) => return ApiError::internal(INJECTED).into_response(),
        }
    }
    let choices: Vec<Choice> = scripts
        .iter()
        .map(|script| Choice {
            text: script.text(0, script.n_tokens),
            ending: script.ending.clone(),
            token_ids: asked.return_token_ids.then(|| script.ids(0, script.n_tokens)),
            prompt_token_ids: asked.return_token_ids.then(|| script.prompt.to_vec()),
        })
        .collect();
    let answer =
        whole(endpoint, &id, created, &asked.model, &version, &choices, Usage { prompt: n_prompt, completion });
    if cut_after.is_some() {
        let text = answer.to_string();
        let mut half = Bytes::from(text);
        half.truncate(half.len() / 2);
        return ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(Cut { half: Some(half) }))
            .into_response();
    }
    json_response(&answer)
}

fn answer_id(app: &App, asked: &Asked, headers: &HeaderMap, number: u64) -> String {
    let prefix = if asked.endpoint == Endpoint::Chat { "chatcmpl" } else { "cmpl" };
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    match given.or_else(|| asked.request_id.clone()) {
        Some(own) => format!("{prefix}-{own}"),
        None => format!("{prefix}-{:016x}", mix(mix(app.seed, app.created_unix_s), number)),
    }
}

fn refused(error: SubmitError) -> ApiError {
    match error {
        SubmitError::QueueFull { limit } => ApiError::unavailable(format!(
            "The server is overloaded: the number of in-flight requests has reached max_num_queued_reqs={limit}. Please \
             retry later."
        )),
        SubmitError::TooLarge => ApiError::bad_value(
            "input_tokens",
            "The request does not fit into the KV cache or token budget of this server.",
        ),
        SubmitError::Stopped => ApiError::internal(INJECTED),
    }
}

fn event_stream(body: Body) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
}

fn in_band_error() -> Response {
    let text = format!("data: {}\n\n{DONE}", ApiError::internal(INJECTED).body());
    event_stream(Body::from_stream(Once { bytes: Some(Bytes::from(text)) }))
}

fn zero_tokens(asked: &Asked, writer: &ChunkWriter, id: &str, created: u64, version: &str, n_prompt: u64) -> Response {
    let usage = Usage { prompt: n_prompt, completion: 0 };
    let ending = Ending { reason: "stop", stop: None };
    if !asked.stream {
        let choice = Choice { text: String::new(), ending, token_ids: None, prompt_token_ids: None };
        return json_response(&whole(asked.endpoint, id, created, &asked.model, version, &[choice], usage));
    }
    let mut text = String::new();
    if asked.endpoint == Endpoint::Chat {
        text.push_str(&writer.role(0, None, None));
    }
    text.push_str(&writer.piece(&Piece {
        index: 0,
        text: "",
        token_ids: None,
        prompt_token_ids: None,
        ending: Some(&ending),
        usage: None,
        last: !asked.include_usage,
    }));
    if asked.include_usage {
        text.push_str(&writer.usage(usage));
    }
    text.push_str(DONE);
    event_stream(Body::from_stream(Once { bytes: Some(Bytes::from(text)) }))
}

struct Line {
    script: Script,
    feed: TokenFeed,
    sent: u32,
    done: bool,
}

/// A streamed answer: one chunk per choice and wake-up, as its tokens appear.
struct AnswerStream {
    writer: ChunkWriter,
    lines: Vec<Line>,
    ready: VecDeque<Bytes>,
    interval: u32,
    include_usage: bool,
    continuous_usage: bool,
    return_token_ids: bool,
    n_prompt: u64,
    cut_after: Option<u32>,
    ended: bool,
}

impl AnswerStream {
    fn new(
        app: &App,
        asked: &Asked,
        writer: ChunkWriter,
        scripts: Vec<Script>,
        feeds: Vec<TokenFeed>,
        n_prompt: u64,
        cut_after: Option<u32>,
    ) -> Self {
        let lines =
            scripts.into_iter().zip(feeds).map(|(script, feed)| Line { script, feed, sent: 0, done: false }).collect();
        let mut stream = Self {
            writer,
            lines,
            ready: VecDeque::new(),
            interval: app.config().stream_interval,
            include_usage: asked.include_usage,
            continuous_usage: asked.include_usage && asked.continuous_usage,
            return_token_ids: asked.return_token_ids,
            n_prompt,
            cut_after,
            ended: false,
        };
        stream.roles_pending(asked.endpoint);
        stream
    }

    /// vLLM sends the role together with the first token's wake-up; it is queued here and let out then.
    fn roles_pending(&mut self, endpoint: Endpoint) {
        if endpoint != Endpoint::Chat {
            return;
        }
        let usage = self.continuous_usage.then_some(Usage { prompt: self.n_prompt, completion: 0 });
        for (index, line) in self.lines.iter().enumerate() {
            let ids = self.return_token_ids.then_some(&*line.script.prompt);
            self.ready.push_back(Bytes::from(self.writer.role(index, ids, usage)));
        }
    }

    fn emit(&mut self, index: usize, view: FeedView) {
        let only_line_left = self.lines.iter().filter(|line| !line.done).count() == 1;
        let Some(line) = self.lines.get_mut(index) else { return };
        let finished = view.finish.is_some();
        let text = line.script.text(line.sent, view.n_output);
        let token_ids = self.return_token_ids.then(|| line.script.ids(line.sent, view.n_output));
        let usage = Usage { prompt: line.script.prompt.len() as u64, completion: u64::from(view.n_output) };
        let chunk = self.writer.piece(&Piece {
            index,
            text: &text,
            token_ids: token_ids.as_deref(),
            prompt_token_ids: (self.return_token_ids && line.sent == 0).then_some(&*line.script.prompt),
            ending: finished.then_some(&line.script.ending),
            usage: self.continuous_usage.then_some(usage),
            last: finished && only_line_left && !self.include_usage,
        });
        line.sent = view.n_output;
        line.done = finished;
        self.ready.push_back(Bytes::from(chunk));
    }

    fn end(&mut self) {
        if self.include_usage {
            let completion = self.lines.iter().map(|line| u64::from(line.sent)).sum();
            let usage = self.writer.usage(Usage { prompt: self.n_prompt, completion });
            self.ready.push_back(Bytes::from(usage));
        }
        self.ready.push_back(Bytes::from_static(DONE.as_bytes()));
        self.ended = true;
    }
}

impl Stream for AnswerStream {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let started = this.lines.iter().any(|line| line.sent > 0);
        if started && let Some(bytes) = this.ready.pop_front() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        if this.ended {
            return Poll::Ready(this.ready.pop_front().map(Ok));
        }
        for index in 0..this.lines.len() {
            let Some(line) = this.lines.get(index).filter(|line| !line.done) else { continue };
            // The first token goes out at once; later ones in groups of the stream interval.
            let beyond = if line.sent == 0 { 0 } else { line.sent + this.interval - 1 };
            match line.feed.poll_beyond(beyond, ctx) {
                Poll::Ready(Ok(view)) => {
                    if this.cut_after.is_some_and(|limit| view.n_output > limit) {
                        return Poll::Ready(Some(Err(io::Error::other("injected truncation"))));
                    }
                    this.emit(index, view);
                }
                Poll::Ready(Err(_)) => {
                    return Poll::Ready(Some(Err(io::Error::other("the simulated engine has stopped"))));
                }
                Poll::Pending => {}
            }
        }
        if this.lines.iter().all(|line| line.done) {
            this.end();
        }
        let started = this.lines.iter().any(|line| line.sent > 0);
        match this.ready.front() {
            Some(_) if started => Poll::Ready(this.ready.pop_front().map(Ok)),
            _ => Poll::Pending,
        }
    }
}

/// A body of one piece, sent chunked like every stream.
struct Once {
    bytes: Option<Bytes>,
}

impl Stream for Once {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.bytes.take().map(Ok))
    }
}

/// A body that breaks off.
struct Cut {
    half: Option<Bytes>,
}

impl Stream for Cut {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(self.half.take().ok_or_else(|| io::Error::other("injected truncation"))))
    }
}
