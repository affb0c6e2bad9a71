//! Ways in which an answer goes wrong on purpose, and which requests they hit. The text forms are what the command line
//! and a request's `reference.fault` field take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The connection is reset in the middle of the stream.
    Reset,
    /// Status 200, then an error event, `[DONE]` and a proper end.
    InBandError,
    /// The connection is closed in the middle of the stream.
    Truncate,
    /// Every token, but neither usage nor `[DONE]`; the chunked body ends properly.
    NoDone,
    /// A proper stream with no token.
    ZeroTokens,
    /// A chunk size that is no number.
    BadChunk,
    /// An event that is no JSON.
    BadEvent,
    /// 503 with an error body.
    Http503,
    /// The status line stops in the middle until the first token is due.
    SlowHeader,
    /// No answer at all; the connection stays open.
    Silence,
    /// The stream stops for good in the middle; the connection stays open.
    Hang,
    /// Finish reason `stop` before all tokens were sent.
    EarlyStop,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Reset,
        Self::InBandError,
        Self::Truncate,
        Self::NoDone,
        Self::ZeroTokens,
        Self::BadChunk,
        Self::BadEvent,
        Self::Http503,
        Self::SlowHeader,
        Self::Silence,
        Self::Hang,
        Self::EarlyStop,
    ];

    /// Name on the command line and in bodies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::InBandError => "in_band_error",
            Self::Truncate => "truncate",
            Self::NoDone => "no_done",
            Self::ZeroTokens => "zero_tokens",
            Self::BadChunk => "bad_chunk",
            Self::BadEvent => "bad_event",
            Self::Http503 => "http_503",
            Self::SlowHeader => "slow_header",
            Self::Silence => "silence",
            Self::Hang => "hang",
            Self::EarlyStop => "early_stop",
        }
    }

    /// Happens after some tokens, not in place of the whole answer.
    pub(super) fn is_in_the_middle(self) -> bool {
        matches!(
            self,
            Self::Reset
                | Self::InBandError
                | Self::Truncate
                | Self::BadChunk
                | Self::BadEvent
                | Self::Hang
                | Self::EarlyStop
        )
    }
}

/// A kind and where in the stream it happens: `reset`, `reset@10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Events before it; half of them when `None`. Only for what happens in the middle of a stream.
    pub after_events: Option<u32>,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, after) = text.split_once('@').map_or((text, None), |(name, after)| (name, Some(after)));
        let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            format!("there is no fault `{name}`; there are {}", FaultKind::ALL.map(FaultKind::name).join(", "))
        })?;
        let after_events = match after {
            None => None,
            Some(_) if !kind.is_in_the_middle() => {
                return Err(format!("`{name}` concerns the whole answer, so `@` has no meaning"));
            }
            Some(count) => Some(count.parse().map_err(|_| format!("`{count}` is no number of events"))?),
        };
        Ok(Self { kind, after_events })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kind.name())?;
        self.after_events.map_or(Ok(()), |after| write!(out, "@{after}"))
    }
}

/// Hits every `every`-th request, counted from number `offset`: `reset@10:100+7` hits 7, 107, 207, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRule {
    /// What happens to them.
    pub fault: Fault,
    /// Distance between the requests that it hits.
    pub every: u32,
    /// Remainder of their numbers.
    pub offset: u32,
}

impl FaultRule {
    pub(super) fn fits(&self, number: u32) -> bool {
        number % self.every == self.offset
    }
}

impl FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (fault, which) = text.split_once(':').unwrap_or((text, "1"));
        let (every, offset) = which.split_once('+').unwrap_or((which, "0"));
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("`{text}` is no number of requests"));
        let (every, offset) = (number(every)?, number(offset)?);
        if offset >= every {
            return Err(format!("`{which}`: the distance must be greater than the offset"));
        }
        Ok(Self { fault: fault.parse()?, every, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let rule: FaultRule = "reset@10:100+7".parse().unwrap();
        assert_eq!(rule.fault.to_string(), "reset@10");
        assert_eq!((0..300).filter(|number| rule.fits(*number)).collect::<Vec<_>>(), [7, 107, 207]);
        assert!("silence".parse::<FaultRule>().unwrap().fits(12));
        for kind in FaultKind::ALL {
            assert_eq!(kind.name().parse::<Fault>().unwrap(), Fault { kind, after_events: None });
        }
        for (wrong, says) in [
            ("reste", "there is no fault `reste`; there are reset, in_band_error"),
            ("silence@3", "concerns the whole answer"),
            ("reset@x", "`x` is no number of events"),
            ("reset:0", "must be greater than the offset"),
            ("reset:4+4", "must be greater than the offset"),
            ("reset:4+", "`` is no number"),
        ] {
            let message = wrong.parse::<FaultRule>().unwrap_err();
            assert!(message.contains(says), "{wrong}: {message}");
        }
    }
}
