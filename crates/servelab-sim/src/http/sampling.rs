//! Sampling parameters: their types, vLLM's checks before and after the request model, in its words. The simulator draws
//! its own text; what is checked here changes lengths, stops and the shape of the answer, or is only refused properly.

use serde_json::Value;

use super::fields::Fields;
use super::refuse::{ApiError, python};
use super::request::Endpoint;
use crate::config::ServerConfig;

/// What a request says about sampling.
#[derive(Debug)]
pub(super) struct Sampling {
    pub(super) n: u32,
    pub(super) min_tokens: i64,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    /// Alternatives per token.
    pub(super) logprobs: Option<u32>,
    pub(super) prompt_logprobs: bool,
    n_given: i64,
    logprobs_given: Option<i64>,
    prompt_logprobs_given: Option<i64>,
    temperature: f64,
    top_p: f64,
    top_k: i64,
    min_p: f64,
    presence_penalty: f64,
    frequency_penalty: f64,
    repetition_penalty: f64,
}

/// Checks that vLLM makes on the raw body, before any field has a type.
pub(super) fn check_before_types(fields: &Fields, endpoint: Endpoint) -> Result<(), ApiError> {
    let truthy = |name: &str| match fields.present(name) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(_) => true,
    };
    if truthy("stream_options") && !truthy("stream") {
        return Err(ApiError::parameter("stream_options", "Stream options can only be defined when `stream=True`."));
    }
    let own = if endpoint == Endpoint::Chat { "top_logprobs" } else { "logprobs" };
    let mut numbers = [None, None];
    for (slot, name) in numbers.iter_mut().zip(["prompt_logprobs", own]) {
        let Some(value) = fields.present(name) else { continue };
        *slot = match value {
            Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
            other => other.as_f64(),
        };
        if slot.is_none() {
            return Err(ApiError::value(name, &python(value), &format!("`{name}` must be an integer.")));
        }
    }
    let [prompt, own_number] = numbers;
    let shown = |name: &str| fields.present(name).map(python).unwrap_or_default();
    if let Some(number) = prompt {
        if truthy("stream") && (number > 0.0 || number == -1.0) {
            let text = "`prompt_logprobs` are not available when `stream=True`.";
            return Err(ApiError::parameter("prompt_logprobs", text));
        }
        if number < 0.0 && number != -1.0 {
            let text = "`prompt_logprobs` must be a positive value or -1.";
            return Err(ApiError::value("prompt_logprobs", &shown("prompt_logprobs"), text));
        }
    }
    if let Some(number) = own_number {
        if number < 0.0 && number != -1.0 {
            return Err(ApiError::value(own, &shown(own), &format!("`{own}` must be a positive value or -1.")));
        }
        if endpoint == Endpoint::Chat && number != 0.0 && !truthy("logprobs") {
            let text = "when using `top_logprobs`, `logprobs` must be set to true.";
            return Err(ApiError::parameter("top_logprobs", text));
        }
    }
    Ok(())
}

/// Reads the fields with their types.
pub(super) fn read(fields: &Fields, endpoint: Endpoint) -> Result<Sampling, ApiError> {
    let logprobs_given = match endpoint {
        Endpoint::Completions => fields.integer("logprobs")?,
        Endpoint::Chat if fields.is_set("logprobs")? => Some(fields.integer("top_logprobs")?.unwrap_or(0)),
        Endpoint::Chat => None,
    };
    let prompt_logprobs_given = fields.integer("prompt_logprobs")?;
    let n_given = fields.integer("n")?.unwrap_or(1);
    let top_k = fields.integer("top_k")?.unwrap_or(0);
    fields.integer("seed")?;
    Ok(Sampling {
        n: u32::try_from(n_given).unwrap_or(0),
        min_tokens: fields.integer("min_tokens")?.unwrap_or(0),
        stop: fields.texts("stop", MOST_STOPS)?,
        stop_token_ids: fields.ids("stop_token_ids")?,
        logprobs: logprobs_given.map(|n| u32::try_from(n).unwrap_or(MOST_LOGPROBS)),
        prompt_logprobs: prompt_logprobs_given.is_some(),
        n_given,
        logprobs_given,
        prompt_logprobs_given,
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_p: fields.number("top_p")?.unwrap_or(1.0),
        top_k,
        min_p: fields.number("min_p")?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty")?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty")?.unwrap_or(0.0),
        repetition_penalty: fields.number("repetition_penalty")?.unwrap_or(1.0),
    })
}

/// vLLM's limits on log-probabilities, on `n` and on stop strings.
const MOST_LOGPROBS: u32 = 20;
const MOST_CHOICES: i64 = 16_384;
const MOST_STOPS: usize = 4;

impl Sampling {
    /// vLLM's checks of the finished parameters, in its order. `limit` is the largest output limit.
    pub(super) fn check(&self, limit: Option<u32>, config: &ServerConfig) -> Result<(), ApiError> {
        let refuse = |text: String| Err(ApiError::bad_request(text));
        let named = |name: &str, value: f64, text: String| Err(ApiError::value(name, &format!("{value:?}"), &text));
        if self.n_given < 1 {
            return refuse(format!("n must be at least 1, got {}.", self.n_given));
        }
        if self.n_given > MOST_CHOICES {
            return refuse(format!(
                "n must be at most {MOST_CHOICES}, got {}. To increase this limit, set the VLLM_MAX_N_SEQUENCES \
                 environment variable.",
                self.n_given
            ));
        }
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !(-2.0..=2.0).contains(&value) {
                return refuse(format!("{name} must be in [-2, 2], got {value:?}."));
            }
        }
        if self.repetition_penalty <= 0.0 {
            return refuse(format!("repetition_penalty must be greater than zero, got {:?}.", self.repetition_penalty));
        }
        let temperature = self.temperature;
        if temperature < 0.0 {
            return named(
                "temperature",
                temperature,
                format!("temperature must be non-negative, got {temperature:?}."),
            );
        }
        if temperature > 2.0 {
            return named("temperature", temperature, format!("temperature must be in [0, 2], got {temperature:?}."));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return named("top_p", self.top_p, format!("top_p must be in (0, 1], got {:?}.", self.top_p));
        }
        if self.top_k < -1 {
            return refuse(format!("top_k must be 0 (disable), or at least 1, got {}.", self.top_k));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse(format!("min_p must be in [0, 1], got {:?}.", self.min_p));
        }
        if self.min_tokens < 0 {
            return refuse(format!("min_tokens must be greater than or equal to 0, got {}.", self.min_tokens));
        }
        if let Some(limit) = limit
            && self.min_tokens > i64::from(limit)
        {
            return refuse(format!(
                "min_tokens must be less than or equal to max_tokens={limit}, got {}.",
                self.min_tokens
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("stop cannot contain an empty string.".to_owned());
        }
        if temperature == 0.0 && self.n_given > 1 {
            return refuse(format!("n must be 1 when using greedy sampling, got {}.", self.n_given));
        }
        let most = config.max_logprobs;
        for (name, words, given) in
            [("logprobs", "sample", self.logprobs_given), ("prompt_logprobs", "prompt", self.prompt_logprobs_given)]
        {
            if let Some(given) = given.filter(|given| most >= 0 && (*given > most || *given == -1)) {
                let text = format!("Requested {words} logprobs of {given}, which is greater than max allowed: {most}");
                return Err(ApiError::value(name, &given.to_string(), &text));
            }
        }
        Ok(())
    }
}
