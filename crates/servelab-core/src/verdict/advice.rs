//! What to try next, from what the server itself reported: small rules, each citing its evidence and naming a setting, a
//! direction and a value. A rule whose evidence is missing says nothing.

use super::catalogue::Thresholds;
use crate::result::{BenchResult, ServerSummary};

const LIMITS: Thresholds = Thresholds::DEFAULT;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// Throughput is below what was hoped for.
    LowThroughput,
    /// The first token comes too late.
    HighTtft,
    /// Tokens come too slowly.
    HighItl,
}

/// What a rule looks at; an unknown stays `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AdviceEvidence<'a> {
    /// The server's own numbers.
    pub server: Option<&'a ServerSummary>,
    /// Limit on running requests, all engines together.
    pub max_num_seqs: Option<f64>,
    /// Token budget of a step.
    pub max_num_batched_tokens: Option<f64>,
    /// Share of the GPU memory that the engine may use.
    pub gpu_memory_utilization: Option<f64>,
    /// The KV cache is kept in eight bits.
    pub kv_cache_is_fp8: Option<bool>,
    /// Requests per second offered, minus sustained: true when the load outruns the server.
    pub is_saturated: bool,
    /// Mean prompt tokens.
    pub prompt_tokens: Option<f64>,
}

impl<'a> AdviceEvidence<'a> {
    /// What a result says by itself.
    pub fn of(result: &'a BenchResult) -> Self {
        let n = result.requests.completed;
        Self {
            server: result.server.as_ref(),
            is_saturated: result.verdict.reasons.iter().any(|reason| reason.code == "saturated"),
            prompt_tokens: (n > 0 && !result.is_unknown("input_tokens")).then(|| result.input_tokens as f64 / n as f64),
            ..Self::default()
        }
    }
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The setting, or `load`.
    pub setting: String,
    /// What to set it to, in words.
    pub change: String,
    /// The evidence with its numbers.
    pub because: String,
}

/// Everything that the evidence supports, most telling first.
pub fn advise(complaint: Complaint, evidence: &AdviceEvidence<'_>) -> Vec<Advice> {
    let rules: &[Rule] = match complaint {
        Complaint::LowThroughput => &[preempting, cache_is_full, sequences_bind, budget_binds, load_is_small],
        Complaint::HighTtft => &[overloaded, preempting, cache_is_full, sequences_bind, budget_binds],
        Complaint::HighItl => &[preempting, batch_is_large, prefill_interrupts],
    };
    rules.iter().filter_map(|rule| rule(evidence)).collect()
}

type Rule = fn(&AdviceEvidence<'_>) -> Option<Advice>;

fn advice(setting: &str, change: String, because: String) -> Option<Advice> {
    Some(Advice { setting: setting.to_owned(), change, because })
}

fn overloaded(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let waiting = evidence.server?.waiting_mean.filter(|waiting| *waiting > LIMITS.advice_queue)?;
    evidence.is_saturated.then_some(())?;
    advice(
        "load",
        "lower the rate until completions keep up: `bench --search` finds it".to_owned(),
        format!("the load outruns the server, {waiting:.1} requests waited on average"),
    )
}

fn preempting(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let n = server.preemptions.filter(|n| *n > 0.0)?;
    let running = server.running_mean.filter(|running| *running >= 2.0)?;
    let limit = evidence.max_num_seqs.filter(|limit| running < *limit)?;
    let value = running.floor().min(limit - 1.0);
    advice(
        "max_num_seqs",
        format!("lower it from {limit:.0} to {value:.0}"),
        format!("{n:.0} preemptions: the KV cache did not hold what was started; {running:.1} ran on average"),
    )
}

fn cache_is_full(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let usage = server.kv_usage_max.filter(|usage| *usage >= LIMITS.advice_kv_full)?;
    let waiting = server.waiting_mean.filter(|waiting| *waiting > LIMITS.advice_queue)?;
    let because = format!("KV-cache usage reached {:.0} % while {waiting:.1} requests waited", 100.0 * usage);
    if evidence.kv_cache_is_fp8 == Some(false) {
        return advice(
            "kv_cache_dtype",
            "try fp8: twice the tokens in the same memory; check the answers".to_owned(),
            because,
        );
    }
    let share = evidence.gpu_memory_utilization.filter(|share| *share < 0.95)?;
    advice("gpu_memory_utilization", format!("raise it from {share} to {}", (share + 0.03).min(0.95)), because)
}

fn sequences_bind(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let limit = evidence.max_num_seqs?;
    let running = server.running_max.filter(|running| *running >= LIMITS.advice_binds * limit)?;
    let usage = server.kv_usage_max.filter(|usage| *usage < LIMITS.advice_kv_room)?;
    let waiting = server.waiting_mean.filter(|waiting| *waiting > LIMITS.advice_queue)?;
    advice(
        "max_num_seqs",
        format!("raise it from {limit:.0} to {:.0}", 2.0 * limit),
        format!(
            "{running:.0} of {limit:.0} slots ran, {waiting:.1} requests waited, and the KV cache was at most {:.0} % full",
            100.0 * usage
        ),
    )
}

/// A queue although neither slots nor cache are full: the step's token budget admits prompts too slowly.
fn budget_binds(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let (limit, budget) = (evidence.max_num_seqs?, evidence.max_num_batched_tokens?);
    let running = server.running_max.filter(|running| *running < LIMITS.advice_binds * limit)?;
    server.kv_usage_max.filter(|usage| *usage < LIMITS.advice_kv_room)?;
    let waiting = server.waiting_mean.filter(|waiting| *waiting > LIMITS.advice_queue)?;
    let prompt = evidence.prompt_tokens?;
    advice(
        "max_num_batched_tokens",
        format!("raise it from {budget:.0} to {:.0}", 2.0 * budget),
        format!(
            "{waiting:.1} requests waited while {running:.0} of {limit:.0} slots ran: prompts of {prompt:.0} tokens wait for the step's \
             {budget:.0} tokens"
        ),
    )
}

fn load_is_small(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let limit = evidence.max_num_seqs?;
    let running = server.running_mean.filter(|running| *running < LIMITS.advice_idle * limit)?;
    let waiting = server.waiting_mean.filter(|waiting| *waiting < 0.1)?;
    advice(
        "load",
        "raise concurrency or rate: this load does not show what the server can do".to_owned(),
        format!("{running:.1} of {limit:.0} slots ran on average and {waiting:.2} requests waited"),
    )
}

fn batch_is_large(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let server = evidence.server?;
    let limit = evidence.max_num_seqs?;
    let running = server.running_mean.filter(|running| *running >= 8.0 && *running > LIMITS.advice_idle * limit)?;
    advice(
        "max_num_seqs",
        format!("lower it from {limit:.0} to {:.0}", (limit / 2.0).floor()),
        format!("{running:.1} requests shared every step on average"),
    )
}

/// Long prompts in the same steps as decoding.
fn prefill_interrupts(evidence: &AdviceEvidence<'_>) -> Option<Advice> {
    let budget = evidence.max_num_batched_tokens.filter(|budget| *budget > 2048.0)?;
    let prompt = evidence.prompt_tokens.filter(|prompt| *prompt >= 1024.0)?;
    let running = evidence.server?.running_mean?;
    advice(
        "max_num_batched_tokens",
        format!("lower it from {budget:.0} to {:.0}", (budget / 2.0).max(2048.0)),
        format!(
            "prompts of {prompt:.0} tokens share steps of up to {budget:.0} tokens with {running:.1} running requests"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerSummary {
        ServerSummary {
            preemptions: Some(0.0),
            kv_usage_max: Some(0.5),
            running_mean: Some(100.0),
            running_max: Some(128.0),
            waiting_mean: Some(20.0),
            ..ServerSummary::default()
        }
    }

    fn evidence(server: &ServerSummary) -> AdviceEvidence<'_> {
        AdviceEvidence {
            server: Some(server),
            max_num_seqs: Some(128.0),
            max_num_batched_tokens: Some(8192.0),
            gpu_memory_utilization: Some(0.90),
            kv_cache_is_fp8: Some(true),
            is_saturated: false,
            prompt_tokens: Some(2000.0),
        }
    }

    fn settings(complaint: Complaint, evidence: &AdviceEvidence<'_>) -> Vec<String> {
        advise(complaint, evidence).into_iter().map(|advice| format!("{}: {}", advice.setting, advice.change)).collect()
    }

    #[test]
    fn each_rule_speaks_on_its_evidence() {
        use Complaint::{HighItl, HighTtft, LowThroughput};
        let base = server();
        assert_eq!(settings(LowThroughput, &evidence(&base)), ["max_num_seqs: raise it from 128 to 256"]);
        let full = ServerSummary { kv_usage_max: Some(0.99), ..server() };
        assert_eq!(settings(LowThroughput, &evidence(&full)), ["gpu_memory_utilization: raise it from 0.9 to 0.93"]);
        let bf16 = AdviceEvidence { kv_cache_is_fp8: Some(false), ..evidence(&full) };
        assert!(settings(LowThroughput, &bf16)[0].starts_with("kv_cache_dtype: try fp8"));
        let preempting = ServerSummary { preemptions: Some(7.0), kv_usage_max: Some(0.9), ..server() };
        assert_eq!(settings(HighTtft, &evidence(&preempting)), ["max_num_seqs: lower it from 128 to 100"]);
        let budget = ServerSummary { running_max: Some(40.0), ..server() };
        assert_eq!(settings(HighTtft, &evidence(&budget)), ["max_num_batched_tokens: raise it from 8192 to 16384"]);
        let idle =
            ServerSummary { running_mean: Some(3.0), running_max: Some(5.0), waiting_mean: Some(0.0), ..server() };
        assert!(settings(LowThroughput, &evidence(&idle))[0].starts_with("load: raise"));
        let saturated = AdviceEvidence { is_saturated: true, ..evidence(&base) };
        assert!(settings(HighTtft, &saturated)[0].starts_with("load: lower"));
        assert_eq!(
            settings(HighItl, &evidence(&base)),
            ["max_num_seqs: lower it from 128 to 64", "max_num_batched_tokens: lower it from 8192 to 4096"]
        );
    }

    #[test]
    fn without_evidence_nothing_is_said() {
        for complaint in [Complaint::LowThroughput, Complaint::HighTtft, Complaint::HighItl] {
            assert_eq!(advise(complaint, &AdviceEvidence::default()), []);
            let nothing = ServerSummary::default();
            assert_eq!(advise(complaint, &evidence(&nothing)), []);
            let base = server();
            let no_settings = AdviceEvidence { server: Some(&base), ..AdviceEvidence::default() };
            assert_eq!(advise(complaint, &no_settings), []);
        }
    }
}
