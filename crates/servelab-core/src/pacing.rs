//! How load is spread over time, as study files, plans and the command line say it: rates that change (ramps), pauses
//! between requests of one user (think time), and how a closed loop begins. Data, checks and arithmetic only; drawing
//! instants from seeds is `servelab-load`'s business.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

#[cfg(test)]
mod tests;

/// Longest ramp or pause: 100 days.
const MAX_SECONDS: f64 = 100.0 * 86_400.0;

/// Highest rate that can be asked for.
const MAX_RATE_PER_S: f64 = 1e9;

/// An arrival rate that changes with time. The last rate is held after the ramp's end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ramp {
    /// From one rate to another in a straight line.
    Linear(LinearRamp),
    /// Constant rates, one after the other.
    Steps(Vec<RampStep>),
}

/// A straight line between two rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearRamp {
    /// Requests per second at the start; may be 0.
    pub from: f64,
    /// Requests per second at the end and from then on.
    pub to: f64,
    /// Seconds from the first rate to the second.
    pub over_s: f64,
}

/// One step of a ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RampStep {
    /// Requests per second; 0 is a pause.
    pub rate: f64,
    /// Seconds that it lasts.
    pub for_s: f64,
}

/// A piece of a ramp: the rate goes from one value to the other in a straight line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RampSegment {
    /// Requests per second at its start.
    pub from_per_s: f64,
    /// Requests per second at its end.
    pub to_per_s: f64,
    /// Its length.
    pub over_s: f64,
}

/// What is wrong, and under which key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {message}")]
pub struct PacingProblem {
    /// Dotted key below the value that was checked, such as `steps.2.for_s`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

fn check(key: &str, value: f64, least: f64, most: f64, what: &str) -> Result<(), PacingProblem> {
    let fits = if least > 0.0 { value > 0.0 && value <= most } else { (0.0..=most).contains(&value) };
    if fits {
        return Ok(());
    }
    let bound = if least > 0.0 { "greater than 0".to_owned() } else { "0 or more".to_owned() };
    Err(PacingProblem {
        key: key.to_owned(),
        message: format!("is {value}; {what} must be {bound} and at most {most:e}"),
    })
}

/// A bound that excludes zero; only its sign counts.
const ABOVE_ZERO: f64 = f64::MIN_POSITIVE;

impl Ramp {
    /// Its pieces in order.
    pub fn segments(&self) -> Vec<RampSegment> {
        match self {
            Self::Linear(line) => {
                vec![RampSegment { from_per_s: line.from, to_per_s: line.to, over_s: line.over_s }]
            }
            Self::Steps(steps) => steps
                .iter()
                .map(|step| RampSegment { from_per_s: step.rate, to_per_s: step.rate, over_s: step.for_s })
                .collect(),
        }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first problem with its key.
    pub fn validate(&self) -> Result<(), PacingProblem> {
        match self {
            Self::Linear(line) => {
                check("linear.from", line.from, 0.0, MAX_RATE_PER_S, "a rate per second")?;
                check("linear.to", line.to, ABOVE_ZERO, MAX_RATE_PER_S, "the last rate, which is held,")?;
                check("linear.over_s", line.over_s, ABOVE_ZERO, MAX_SECONDS, "a time in seconds")
            }
            Self::Steps(steps) => {
                let Some(last) = steps.len().checked_sub(1) else {
                    return Err(PacingProblem {
                        key: "steps".to_owned(),
                        message: "is empty; write `[{rate: 1, for_s: 30}, {rate: 5, for_s: 30}]`".to_owned(),
                    });
                };
                for (number, step) in steps.iter().enumerate() {
                    let (least, what) = if number == last {
                        (ABOVE_ZERO, "the last rate, which is held,")
                    } else {
                        (0.0, "a rate per second")
                    };
                    check(&format!("steps.{number}.rate"), step.rate, least, MAX_RATE_PER_S, what)?;
                    check(&format!("steps.{number}.for_s"), step.for_s, ABOVE_ZERO, MAX_SECONDS, "a time in seconds")?;
                }
                Ok(())
            }
        }
    }

    /// Seconds until the last rate is reached and, with steps, has lasted its time.
    pub fn duration_s(&self) -> f64 {
        self.segments().iter().map(|segment| segment.over_s).sum()
    }

    /// Expected number of arrivals in the first `seconds`.
    pub fn expected_arrivals(&self, seconds: f64) -> f64 {
        let mut left_s = seconds.max(0.0);
        let mut sum = 0.0;
        let mut last_per_s = 0.0;
        for segment in self.segments() {
            let part_s = left_s.min(segment.over_s);
            let slope = (segment.to_per_s - segment.from_per_s) / segment.over_s;
            sum += segment.from_per_s * part_s + 0.5 * slope * part_s * part_s;
            left_s -= part_s;
            last_per_s = segment.to_per_s;
        }
        sum + left_s * last_per_s
    }

    /// Highest rate on the way.
    pub fn peak_per_s(&self) -> f64 {
        self.segments().iter().map(|segment| segment.from_per_s.max(segment.to_per_s)).fold(0.0, f64::max)
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(line) => write!(f, "{}..{}/{}s", line.from, line.to, line.over_s),
            Self::Steps(steps) => {
                for (number, step) in steps.iter().enumerate() {
                    let comma = if number == 0 { "" } else { "," };
                    write!(f, "{comma}{}x{}s", step.rate, step.for_s)?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Ramp {
    type Err = String;

    /// `1..50/60s` (linear) or `1x30s,5x30s` (steps); the `s` may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            |why: String| format!("{why}; write FROM..TO/SECONDS (`1..50/60s`) or RATExSECONDS,… (`1x30s,5x30s`)");
        let number = |digits: &str| {
            let digits = digits.trim();
            digits.parse::<f64>().map_err(|_| bad(format!("`{digits}` is no number")))
        };
        let seconds = |digits: &str| {
            let digits = digits.trim();
            number(digits.strip_suffix('s').unwrap_or(digits))
        };
        let ramp = if let Some((from, rest)) = text.split_once("..") {
            let (to, over) = rest.split_once('/').ok_or_else(|| bad(format!("`{text}` has no `/SECONDS`")))?;
            Self::Linear(LinearRamp { from: number(from)?, to: number(to)?, over_s: seconds(over)? })
        } else {
            let steps = text.split(',').map(|step| {
                let (rate, time) = step.split_once('x').ok_or_else(|| bad(format!("the step `{step}` has no `x`")))?;
                Ok(RampStep { rate: number(rate)?, for_s: seconds(time)? })
            });
            Self::Steps(steps.collect::<Result<_, String>>()?)
        };
        ramp.validate().map_err(|problem| bad(problem.to_string()))?;
        Ok(ramp)
    }
}

/// Pause between the end of one answer and the next request of the same user. Files may write a constant one as a plain
/// number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Think {
    /// Always so many seconds; 0 is no pause.
    Constant(f64),
    /// Exponentially distributed with this mean in seconds.
    Exponential(f64),
}

impl Think {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The problem with its key.
    pub fn validate(&self) -> Result<(), PacingProblem> {
        match self {
            Self::Constant(seconds) => check("constant", *seconds, 0.0, MAX_SECONDS, "a time in seconds"),
            Self::Exponential(mean) => check("exponential", *mean, ABOVE_ZERO, MAX_SECONDS, "a mean in seconds"),
        }
    }

    /// Mean pause in seconds.
    pub fn mean_s(&self) -> f64 {
        match self {
            Self::Constant(seconds) | Self::Exponential(seconds) => *seconds,
        }
    }
}

impl<'de> Deserialize<'de> for Think {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ThinkVisitor;
        impl<'de> Visitor<'de> for ThinkVisitor {
            type Value = Think;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds, or `{exponential: SECONDS}`")
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Think, E> {
                Ok(Think::Constant(seconds))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Think, E> {
                Ok(Think::Constant(seconds as f64))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Think, E> {
                Ok(Think::Constant(seconds as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Think, A::Error> {
                let mut found = None;
                while let Some(key) = access.next_key::<String>()? {
                    let think = match key.as_str() {
                        "constant" => Think::Constant(access.next_value()?),
                        "exponential" => Think::Exponential(access.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["constant", "exponential"])),
                    };
                    if found.replace(think).is_some() {
                        return Err(de::Error::custom("expected one of `constant` and `exponential`, found both"));
                    }
                }
                found.ok_or_else(|| de::Error::missing_field("exponential"))
            }
        }
        deserializer.deserialize_any(ThinkVisitor)
    }
}

impl JsonSchema for Think {
    fn schema_name() -> Cow<'static, str> {
        "Think".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |key: &str| {
            json_schema!({
                "type": "object", "additionalProperties": false, "required": [key],
                "properties": {key: {"type": "number", "minimum": 0}}
            })
        };
        json_schema!({
            "description": "Pause in seconds: always the same, or exponentially distributed around a mean.",
            "anyOf": [{"type": "number", "minimum": 0}, one("constant"), one("exponential")]
        })
    }
}

impl fmt::Display for Think {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(seconds) => write!(f, "{seconds}s"),
            Self::Exponential(mean) => write!(f, "exp:{mean}s"),
        }
    }
}

impl FromStr for Think {
    type Err = String;

    /// `2s` (constant) or `exp:2s` (exponential with that mean); the `s` may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, exponential) = match text.split_once(':') {
            None => (text, false),
            Some(("exp" | "exponential", digits)) => (digits, true),
            Some((other, _)) => {
                return Err(format!("`{other}` is no kind of pause; write `2s` or `exp:2s`"));
            }
        };
        let seconds = digits
            .strip_suffix('s')
            .unwrap_or(digits)
            .parse::<f64>()
            .map_err(|_| format!("`{digits}` is no number of seconds; write `2s` or `exp:2s`"))?;
        let think = if exponential { Self::Exponential(seconds) } else { Self::Constant(seconds) };
        think.validate().map_err(|problem| problem.to_string())?;
        Ok(think)
    }
}

/// How the first requests of a closed loop are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartMode {
    /// Spread evenly over one mean request time, as a loop that has run for long would send them.
    #[default]
    Spread,
    /// All at once.
    Burst,
    /// Spread evenly over so many seconds.
    SpreadS(f64),
}

impl StartMode {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The problem with its key.
    pub fn validate(&self) -> Result<(), PacingProblem> {
        match self {
            Self::SpreadS(seconds) => check("spread_s", *seconds, ABOVE_ZERO, MAX_SECONDS, "a time in seconds"),
            Self::Spread | Self::Burst => Ok(()),
        }
    }
}

impl fmt::Display for StartMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spread => f.write_str("spread"),
            Self::Burst => f.write_str("burst"),
            Self::SpreadS(seconds) => write!(f, "spread:{seconds}s"),
        }
    }
}

impl FromStr for StartMode {
    type Err = String;

    /// `spread`, `burst` or `spread:5s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let start = match text.split_once(':') {
            None if text == "spread" => Self::Spread,
            None if text == "burst" => Self::Burst,
            Some(("spread", digits)) => Self::SpreadS(
                digits
                    .strip_suffix('s')
                    .unwrap_or(digits)
                    .parse()
                    .map_err(|_| format!("`{digits}` is no number of seconds; write `spread:5s`"))?,
            ),
            _ => return Err(format!("`{text}` is no way to start; write `spread`, `burst` or `spread:5s`")),
        };
        start.validate().map_err(|problem| problem.to_string())?;
        Ok(start)
    }
}
