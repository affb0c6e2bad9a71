//! The SLO that a search looks for, as typed: limits on single requests with the share that must meet them, and limits
//! on a cell's statistics. Every term but a mean becomes "at least this share is within the limit".

use crate::metrics::RequestSlo;

/// Share of the requests that must meet the request limits when nothing else is said.
const DEFAULT_ATTAINMENT: f64 = 0.99;

/// What one term of an SLO looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TermKind {
    /// All request limits together.
    Request,
    /// Successful requests.
    Success,
    /// A percentile or mean of TTFT.
    Ttft,
    /// Of the TTFT from the schedule.
    TtftSched,
    /// Of the time to the first token that is not reasoning.
    Ttfo,
    /// Of the gaps between token-bearing events.
    Icl,
    /// Of the gaps per token.
    Itl,
    /// Of the TPOT.
    Tpot,
    /// Of the E2E time.
    E2e,
    /// Of the E2E time from the schedule.
    E2eSched,
}

/// One term of an SLO.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// As typed, such as `ttft_p95_ms`.
    pub name: String,
    /// What it looks at.
    pub kind: TermKind,
    /// Limit in milliseconds; not used for requests and success.
    pub limit_ms: f64,
    /// Share of the samples that must be within the limit (0–1); `None` for a mean.
    pub share: Option<f64>,
}

/// Everything a level must meet.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchSlo {
    /// Limits on single requests; also the definition of goodput.
    pub request: Option<RequestSlo>,
    /// Every term, the request limits first.
    pub terms: Vec<Term>,
}

/// Why an SLO cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SloError {
    /// Not `name=value`.
    #[error("`{0}` has no `=`")]
    NoValue(String),
    /// The value is no usable number.
    #[error("`{part}` is no {wanted}")]
    Value {
        /// The part as typed.
        part: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// No such limit.
    #[error("there is no limit `{name}`{}", near.as_ref().map_or(String::new(), |near| format!("; did you mean `{near}`?")))]
    Unknown {
        /// As typed.
        name: String,
        /// The nearest known name.
        near: Option<String>,
    },
    /// The same limit twice.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// An attainment without anything to attain.
    #[error("`attainment` needs a limit on requests, such as ttft_ms=2000")]
    NothingToAttain,
    /// No limit at all.
    #[error("there is no limit in it")]
    Empty,
}

const LATENCIES: [(&str, TermKind); 8] = [
    ("ttft", TermKind::Ttft),
    ("ttft_sched", TermKind::TtftSched),
    ("ttfo", TermKind::Ttfo),
    ("icl", TermKind::Icl),
    ("itl", TermKind::Itl),
    ("tpot", TermKind::Tpot),
    ("e2e", TermKind::E2e),
    ("e2e_sched", TermKind::E2eSched),
];
const STATISTICS: [(&str, Option<f64>); 5] =
    [("mean", None), ("p50", Some(0.50)), ("p90", Some(0.90)), ("p95", Some(0.95)), ("p99", Some(0.99))];
const REQUEST_LIMITS: [&str; 4] = ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"];

impl SearchSlo {
    /// Reads `ttft_ms=2000,tpot_ms=50,attainment=0.95,itl_p95_ms=100,success=0.99`.
    pub fn parse(text: &str) -> Result<Self, SloError> {
        let mut request: Option<RequestSlo> = None;
        let mut attainment = None;
        let mut terms: Vec<Term> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| SloError::NoValue(part.to_owned()))?;
            let name = name.trim();
            if seen.contains(&name) {
                return Err(SloError::Twice(name.to_owned()));
            }
            seen.push(name);
            let bad = |wanted: &'static str| SloError::Value { part: part.to_owned(), wanted };
            let number = value.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            let share = || number.filter(|x| 0.0 < *x && *x < 1.0).ok_or_else(|| bad("fraction between 0 and 1"));
            let millis = || number.filter(|x| *x > 0.0).ok_or_else(|| bad("positive number of milliseconds"));
            match name {
                "attainment" => attainment = Some(share()?),
                "success" => {
                    let term =
                        Term { name: name.to_owned(), kind: TermKind::Success, limit_ms: 0.0, share: Some(share()?) };
                    terms.push(term);
                }
                "ttft_ms" => request.get_or_insert_default().ttft_ms = Some(millis()?),
                "tpot_ms" => request.get_or_insert_default().tpot_ms = Some(millis()?),
                "itl_ms" => request.get_or_insert_default().itl_ms = Some(millis()?),
                "e2e_ms" => request.get_or_insert_default().e2e_ms = Some(millis()?),
                other => {
                    let (kind, share) = statistic(other)?;
                    terms.push(Term { name: name.to_owned(), kind, limit_ms: millis()?, share });
                }
            }
        }
        match (request, attainment) {
            (None, Some(_)) => return Err(SloError::NothingToAttain),
            (Some(_), attainment) => {
                let share = Some(attainment.unwrap_or(DEFAULT_ATTAINMENT));
                terms.insert(0, Term { name: "request".to_owned(), kind: TermKind::Request, limit_ms: 0.0, share });
            }
            (None, None) => {}
        }
        if terms.is_empty() { Err(SloError::Empty) } else { Ok(Self { request, terms }) }
    }

    /// The largest share that any term demands: what decides how many requests a trial needs.
    pub fn strictest_share(&self) -> f64 {
        self.terms.iter().filter_map(|term| term.share).fold(0.5, f64::max)
    }

    /// True when a term speaks about a cell's statistics and not about single requests.
    pub fn has_cell_terms(&self) -> bool {
        self.terms.iter().any(|term| term.kind != TermKind::Request)
    }
}

fn statistic(name: &str) -> Result<(TermKind, Option<f64>), SloError> {
    let known = LATENCIES.iter().flat_map(|(latency, kind)| {
        STATISTICS.iter().map(move |(statistic, share)| (format!("{latency}_{statistic}_ms"), *kind, *share))
    });
    let known: Vec<(String, TermKind, Option<f64>)> = known.collect();
    if let Some((_, kind, share)) = known.iter().find(|(candidate, ..)| candidate == name) {
        return Ok((*kind, *share));
    }
    let names = known.iter().map(|(name, ..)| name.as_str()).chain(REQUEST_LIMITS).chain(["attainment", "success"]);
    let near = crate::source::did_you_mean(name, names);
    Err(SloError::Unknown { name: name.to_owned(), near: near.map(str::to_owned) })
}
