//! The accuracy guard: greedy answers of a point to a fixed set of prompts, compared with the baseline point's. Asking is
//! the runner's business; here are the answers as they are kept, and what a comparison says.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of `answers.json`.
pub const ANSWERS_SCHEMA: u32 = 1;

/// The most probable tokens at one position: natural logarithms of their probabilities.
pub type TopLogprobs = BTreeMap<String, f64>;

/// One greedy answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The whole text.
    pub text: String,
    /// Its tokens as the server spells them; empty when the server gave none.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// The most probable tokens at each position; empty when the server gave none.
    #[serde(default)]
    pub top: Vec<TopLogprobs>,
    /// Why it ended.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// `answers.json`: everything that one server answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerSet {
    /// Always [`ANSWERS_SCHEMA`] when written by this version.
    pub schema: u32,
    /// Hash over prompts and limits: only equal sets are compared.
    pub set: String,
    /// Version that the engine reported.
    pub engine_version: Option<String>,
    /// Why there are no log-probabilities, if there are none.
    #[serde(default)]
    pub no_logprobs: Option<String>,
    /// One per prompt, in their order; `None` for a prompt that the server did not answer.
    pub answers: Vec<Option<Answer>>,
    /// Instant of the last answer, nanoseconds since 1970.
    pub t_unix_ns: i64,
}

/// What a comparison with the baseline says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AccuracyReport {
    /// Prompts that both answered.
    pub compared: u64,
    /// Prompts that one of the two did not answer.
    pub unanswered: u64,
    /// Share of the compared answers that are the baseline's to the letter (0–1).
    pub exact_match_rate: Option<f64>,
    /// Median position, in tokens from 0, at which differing answers part; `None` without differing ones.
    pub first_divergence_median: Option<f64>,
    /// Earliest such position.
    pub first_divergence_min: Option<u64>,
    /// Mean of the Kullback–Leibler divergence from the baseline's distribution over the next token, nats, over all
    /// positions with the same text before them. A lower bound: only the most probable tokens are shown, the others
    /// count as one.
    pub token_kl_mean: Option<f64>,
    /// Largest of these.
    pub token_kl_max: Option<f64>,
    /// Positions over which they were taken.
    pub kl_positions: u64,
    /// Why there is no token-level number, if there is none.
    pub no_kl: Option<String>,
}

/// Why two sets cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// Other prompts or limits.
    #[error("the answers belong to other prompts or limits")]
    OtherSet,
    /// Nothing was answered by both.
    #[error("no prompt was answered by both")]
    NothingInCommon,
}

/// Compares answers with the baseline's.
pub fn compare_answers(baseline: &AnswerSet, candidate: &AnswerSet) -> Result<AccuracyReport, Incomparable> {
    if baseline.set != candidate.set {
        return Err(Incomparable::OtherSet);
    }
    let n = baseline.answers.len().max(candidate.answers.len());
    let pairs: Vec<(&Answer, &Answer)> = baseline
        .answers
        .iter()
        .zip(&candidate.answers)
        .filter_map(|(baseline, candidate)| baseline.as_ref().zip(candidate.as_ref()))
        .collect();
    if pairs.is_empty() {
        return Err(Incomparable::NothingInCommon);
    }
    let exact = pairs.iter().filter(|(baseline, candidate)| baseline.text == candidate.text).count();
    let mut divergences: Vec<u64> = pairs.iter().filter_map(|(a, b)| divergence(a, b)).collect();
    divergences.sort_unstable();
    let kl: Vec<f64> =
        pairs.iter().flat_map(|(baseline, candidate)| divergences_by_token(baseline, candidate)).collect();
    let compared = pairs.len() as u64;
    Ok(AccuracyReport {
        compared,
        unanswered: n as u64 - compared,
        exact_match_rate: Some(exact as f64 / pairs.len() as f64),
        first_divergence_median: median(&divergences),
        first_divergence_min: divergences.first().copied(),
        token_kl_mean: (!kl.is_empty()).then(|| kl.iter().sum::<f64>() / kl.len() as f64),
        token_kl_max: kl.iter().copied().reduce(f64::max),
        kl_positions: kl.len() as u64,
        no_kl: kl.is_empty().then(|| {
            let said = baseline.no_logprobs.clone().or_else(|| candidate.no_logprobs.clone());
            said.unwrap_or_else(|| "the servers gave no log-probabilities".to_owned())
        }),
    })
}

/// Position at which two answers part; `None` for equal ones. In tokens where both have some, else in characters of the
/// text divided by four, which is about a token.
fn divergence(a: &Answer, b: &Answer) -> Option<u64> {
    if a.text == b.text {
        return None;
    }
    if !a.tokens.is_empty() && !b.tokens.is_empty() {
        return Some(common(&a.tokens, &b.tokens) as u64);
    }
    let same = a.text.chars().zip(b.text.chars()).take_while(|(a, b)| a == b).count();
    Some(same as u64 / 4)
}

fn common(a: &[String], b: &[String]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// At each position up to and including the first that differs: there the text before is still the same.
fn divergences_by_token(baseline: &Answer, candidate: &Answer) -> Vec<f64> {
    let positions = common(&baseline.tokens, &candidate.tokens) + 1;
    let pairs = baseline.top.iter().zip(&candidate.top).take(positions);
    pairs.filter_map(|(p, q)| token_kl(p, q)).collect()
}

/// KL(p‖q) over the tokens that both show, and everything else as one more token. Merging tokens never makes a
/// Kullback–Leibler divergence larger, so this is a lower bound of the true one.
fn token_kl(p: &TopLogprobs, q: &TopLogprobs) -> Option<f64> {
    const LEAST: f64 = 1e-12;
    let shared: Vec<(f64, f64)> = p.iter().filter_map(|(token, p)| Some((p.exp(), q.get(token)?.exp()))).collect();
    if p.is_empty() || q.is_empty() {
        return None;
    }
    let rest = |sum: f64| (1.0 - sum).max(0.0);
    let rest_p = rest(shared.iter().map(|(p, _)| p).sum());
    let rest_q = rest(shared.iter().map(|(_, q)| q).sum());
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q.max(LEAST)).ln() } else { 0.0 };
    let sum: f64 = shared.iter().map(|(p, q)| term(*p, *q)).sum::<f64>() + term(rest_p, rest_q);
    sum.is_finite().then(|| sum.max(0.0))
}

fn median(sorted: &[u64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)? as f64;
    let lower = *sorted.get((sorted.len() - 1) / 2)? as f64;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn top(pairs: &[(&str, f64)]) -> TopLogprobs {
        pairs.iter().map(|(token, p)| ((*token).to_owned(), p.ln())).collect()
    }

    fn answer(tokens: &str, top: Vec<TopLogprobs>) -> Option<Answer> {
        let tokens: Vec<String> = tokens.split(' ').map(str::to_owned).collect();
        Some(Answer { text: tokens.join(""), tokens, top, finish_reason: None })
    }

    fn set(answers: Vec<Option<Answer>>) -> AnswerSet {
        AnswerSet { schema: 1, set: "s".to_owned(), answers, ..AnswerSet::default() }
    }

    #[test]
    fn rates_and_positions() {
        let baseline = set(vec![answer("a b c d", vec![]), answer("a b c d", vec![]), answer("x y", vec![]), None]);
        let other =
            set(vec![answer("a b c d", vec![]), answer("a b x d", vec![]), answer("z y", vec![]), answer("q", vec![])]);
        let got = compare_answers(&baseline, &other).unwrap();
        assert_eq!((got.compared, got.unanswered, got.exact_match_rate), (3, 1, Some(1.0 / 3.0)));
        assert_eq!((got.first_divergence_median, got.first_divergence_min), (Some(1.0), Some(0)));
        assert!(got.token_kl_mean.is_none() && got.no_kl.is_some());
        let same = compare_answers(&baseline, &baseline).unwrap();
        assert_eq!((same.exact_match_rate, same.first_divergence_min), (Some(1.0), None));
    }

    #[test]
    fn sets_that_do_not_belong_together() {
        let baseline = set(vec![answer("a", vec![]), None]);
        let mut other = baseline.clone();
        other.set = "t".to_owned();
        assert_eq!(compare_answers(&baseline, &other), Err(Incomparable::OtherSet));
        assert_eq!(
            compare_answers(&baseline, &set(vec![None, answer("a", vec![])])),
            Err(Incomparable::NothingInCommon)
        );
    }

    #[test]
    fn divergence_of_distributions_by_hand() {
        // p = (0.8, 0.1, rest 0.1), q = (0.4, 0.4, rest 0.2).
        let p = top(&[("a", 0.8), ("b", 0.1)]);
        let q = top(&[("a", 0.4), ("b", 0.4)]);
        let expected = 0.8 * 2f64.ln() + 0.1 * 0.25f64.ln() + 0.1 * 0.5f64.ln();
        assert!((token_kl(&p, &q).unwrap() - expected).abs() < 1e-9);
        assert!(token_kl(&p, &p).unwrap() < 1e-12);
        // Only the position at which answers part still has the same text before it.
        let baseline = set(vec![answer("a b c", vec![p.clone(), p.clone(), p.clone()])]);
        let candidate = set(vec![answer("a x c", vec![p.clone(), q.clone(), q])]);
        let got = compare_answers(&baseline, &candidate).unwrap();
        assert_eq!(got.kl_positions, 2);
        assert!((got.token_kl_mean.unwrap() - expected / 2.0).abs() < 1e-9);
        assert!((got.token_kl_max.unwrap() - expected).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn never_negative_and_never_more_than_the_whole(
            p in prop::collection::vec(0.01f64..1.0, 3..8),
            q in prop::collection::vec(0.01f64..1.0, 3..8),
            shown in 1usize..8,
        ) {
            let n = p.len().min(q.len());
            let share = |weights: &[f64]| -> Vec<f64> {
                let sum: f64 = weights[..n].iter().sum();
                weights[..n].iter().map(|weight| weight / sum).collect()
            };
            let (p, q) = (share(&p), share(&q));
            let whole: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            let shown_of = |shares: &[f64]| -> TopLogprobs {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|a, b| shares[*b].total_cmp(&shares[*a]));
                order.into_iter().take(shown).map(|i| (i.to_string(), shares[i].ln())).collect()
            };
            let bound = token_kl(&shown_of(&p), &shown_of(&q)).unwrap();
            prop_assert!(bound >= 0.0 && bound <= whole + 1e-9, "{bound} of {whole}");
        }
    }
}
