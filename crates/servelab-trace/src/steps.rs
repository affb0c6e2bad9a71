//! Names of step markers: what engines write into a trace around one forward step, and what the name says about it.

/// Who wrote the marker; a later one is preferred when a trace has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkerKind {
    /// `iteration 7`, `step_12`: what training scripts write.
    Numbered,
    /// `ProfilerStep#N` of the PyTorch profiler.
    ProfilerStep,
    /// A forward step of an engine that names no counts: SGLang's `run_batch`, vLLM's `gpu_model_runner: forward`.
    RunBatch,
    /// A marker of an engine with counts: vLLM's `execute_…`, SGLang's `step[…]`, TensorRT-LLM's `_forward_step …`.
    Engine,
}

/// What a marker's name says. Counts are `None` where it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepName {
    /// Who wrote it.
    pub kind: MarkerKind,
    /// Requests in prefill.
    pub context_requests: Option<u64>,
    /// Tokens they computed.
    pub context_tokens: Option<u64>,
    /// Requests in decode.
    pub generation_requests: Option<u64>,
    /// Tokens they computed.
    pub generation_tokens: Option<u64>,
}

/// What a step does, by its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Only prompt tokens.
    Prefill,
    /// Only generated tokens.
    Decode,
    /// Both (chunked prefill).
    Mixed,
    /// Neither: a step that ran nothing.
    Idle,
    /// The marker names no counts.
    Unknown,
}

impl Phase {
    /// As it stands in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Mixed => "mixed",
            Self::Idle => "idle",
            Self::Unknown => "unknown",
        }
    }
}

impl StepName {
    /// Without counts.
    pub fn bare(kind: MarkerKind) -> Self {
        Self { kind, context_requests: None, context_tokens: None, generation_requests: None, generation_tokens: None }
    }

    /// What the step does.
    pub fn phase(&self) -> Phase {
        let amount = |requests: Option<u64>, tokens: Option<u64>| match (requests, tokens) {
            (None, None) => None,
            (requests, tokens) => Some(requests.unwrap_or(0).max(tokens.unwrap_or(0))),
        };
        let context = amount(self.context_requests, self.context_tokens);
        let generation = amount(self.generation_requests, self.generation_tokens);
        match (context, generation) {
            (None, None) => Phase::Unknown,
            (context, generation) => match (context.unwrap_or(0) > 0, generation.unwrap_or(0) > 0) {
                (true, true) => Phase::Mixed,
                (true, false) => Phase::Prefill,
                (false, true) => Phase::Decode,
                (false, false) => Phase::Idle,
            },
        }
    }
}

/// The step that a marker's name stands for; `None` when it is no step marker.
pub fn parse(name: &str) -> Option<StepName> {
    if let Some(number) = name.strip_prefix("ProfilerStep#") {
        return number.bytes().all(|b| b.is_ascii_digit()).then(|| StepName::bare(MarkerKind::ProfilerStep));
    }
    if let Some(rest) = name.strip_prefix("execute_") {
        return vllm(rest);
    }
    if let Some(rest) = name.strip_prefix("step[") {
        return sglang(rest.strip_suffix(']').unwrap_or(rest));
    }
    // ATOM: `prefill[bs=2 tok=16384]`, `decode[bs=16 tok=16]`.
    if let Some((mode @ ("prefill" | "decode"), rest)) = name.split_once('[')
        && let Some(rest) = rest.strip_suffix(']')
    {
        return sglang(&format!("{mode} {rest}"));
    }
    if let Some((before, counts)) = name.split_once(": ")
        && before.trim_start_matches("[Executor] ").starts_with("_forward_step")
    {
        return tensorrt_llm(counts);
    }
    if BATCHES.contains(&name) {
        return Some(StepName::bare(MarkerKind::RunBatch));
    }
    numbered(name).then(|| StepName::bare(MarkerKind::Numbered))
}

/// Marks around one forward step that name no counts.
const BATCHES: [&str; 4] = ["run_batch", "scheduler.run_batch", "gpu_model_runner: forward", "execute_model"];

/// A word for a step and its number: `iteration 7`, `train_step#12`.
fn numbered(name: &str) -> bool {
    let digits = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = digits.trim_end_matches([' ', '_', '#', ':', '-']);
    let is_counted = digits.len() < name.len() && digits.len() <= 16;
    is_counted
        && ["iteration", "iter", "step", "train_step", "train step"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
}

/// `2 ctx reqs, 512 ctx tokens, 8 gen reqs`; older versions leave the tokens out.
fn tensorrt_llm(counts: &str) -> Option<StepName> {
    let mut step = StepName::bare(MarkerKind::Engine);
    for part in counts.split(',') {
        let (number, what) = part.trim().split_once(' ')?;
        let number = number.parse().ok()?;
        match what.trim() {
            "ctx reqs" => step.context_requests = Some(number),
            "ctx tokens" => step.context_tokens = Some(number),
            "gen reqs" => step.generation_requests = Some(number),
            "gen tokens" => step.generation_tokens = Some(number),
            _ => {}
        }
    }
    let is_counted = step.context_requests.is_some() && step.generation_requests.is_some();
    if step.context_requests == Some(0) {
        step.context_tokens = Some(0);
    }
    is_counted.then_some(step)
}

/// `context_R(T)_generation_R(T)`; `N_context_R(sq..sk..)_generation_R(sq..sk..)` of patched builds; `(888_788544)` forms.
fn vllm(rest: &str) -> Option<StepName> {
    let (context, generation) = rest.split_once("generation_")?;
    let context = context.rsplit_once("context_")?.1.trim_end_matches('_');
    let (context_requests, context_tokens) = requests_and_tokens(context)?;
    let (generation_requests, generation_tokens) = requests_and_tokens(generation)?;
    Some(StepName {
        kind: MarkerKind::Engine,
        context_requests: Some(context_requests),
        context_tokens,
        generation_requests: Some(generation_requests),
        generation_tokens,
    })
}

/// `R(T)`: T tokens. `R(sqAskB…)`: the queries' total length A is what was computed. `R(A_B)`: the same without letters.
fn requests_and_tokens(text: &str) -> Option<(u64, Option<u64>)> {
    let (requests, inside) = text.split_once('(').unwrap_or((text, ""));
    let requests = leading_number(requests)?;
    let inside = inside.split(')').next().unwrap_or_default();
    let inside = inside.strip_prefix("sq").unwrap_or(inside);
    Some((requests, leading_number(inside)))
}

/// `DECODE bs=8`, `EXTEND bs=2 toks=512`, `MIXED …`, also with sums of lengths behind.
fn sglang(text: &str) -> Option<StepName> {
    let mode = text.split_whitespace().next()?.to_ascii_uppercase();
    let value = |keys: &[&str]| {
        text.split([' ', ','])
            .filter_map(|part| part.split_once('='))
            .find(|(key, _)| keys.contains(&key.trim()))
            .and_then(|(_, value)| leading_number(value.trim()))
    };
    let batch = value(&["bs", "batch_size"]);
    let tokens = value(&["toks", "tok", "tokens", "num_tokens", "extend_tokens", "input_tokens"]);
    let none = StepName::bare(MarkerKind::Engine);
    let is_decode = mode.contains("DECODE") || mode.contains("VERIFY");
    let is_extend = mode.contains("EXTEND") || mode.contains("PREFILL") || mode.contains("SPLIT");
    if mode.contains("DRAFT") {
        // A forward of the draft model is a part of the step in which the target verifies it.
        return None;
    }
    Some(if mode.contains("MIXED") {
        // `c=1 g=4 c_sq=128 … g_sq=4`: requests and tokens of each part, where detailed marks are on.
        StepName {
            context_requests: value(&["c"]).or(batch),
            context_tokens: value(&["c_sq"]).or(tokens),
            generation_requests: value(&["g"]).or(batch),
            generation_tokens: value(&["g_sq"]),
            ..none
        }
    } else if mode.contains("IDLE") {
        StepName {
            context_requests: Some(0),
            context_tokens: Some(0),
            generation_requests: Some(0),
            generation_tokens: Some(0),
            ..none
        }
    } else if is_decode {
        StepName {
            context_requests: Some(0),
            context_tokens: Some(0),
            generation_requests: batch,
            generation_tokens: tokens.or(batch),
            ..none
        }
    } else if is_extend {
        StepName {
            context_requests: batch,
            context_tokens: tokens,
            generation_requests: Some(0),
            generation_tokens: Some(0),
            ..none
        }
    } else {
        none
    })
}

fn leading_number(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    text.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, phase: Phase, counts: [Option<u64>; 4]) {
        let step = parse(name).unwrap_or_else(|| panic!("{name} is no marker"));
        assert_eq!(step.phase(), phase, "{name}");
        let found = [step.context_requests, step.context_tokens, step.generation_requests, step.generation_tokens];
        assert_eq!(found, counts, "{name}");
    }

    #[test]
    fn engines_say_what_a_step_does() {
        let n = Some;
        check("execute_context_1(17)_generation_0(0)", Phase::Prefill, [n(1), n(17), n(0), n(0)]);
        check("execute_context_0(0)_generation_3(3)", Phase::Decode, [n(0), n(0), n(3), n(3)]);
        check("execute_context_1(5)_generation_2(2)", Phase::Mixed, [n(1), n(5), n(2), n(2)]);
        check("execute_context_0(0)_generation_0(0)", Phase::Idle, [n(0), n(0), n(0), n(0)]);
        check(
            "execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32sk55086sqsq32sqsk55086)",
            Phase::Decode,
            [n(0), n(0), n(32), n(32)],
        );
        check("execute_3_context_1(888_788544)_generation_2(2_1030)", Phase::Mixed, [n(1), n(888), n(2), n(2)]);
        check("execute_context_2(888_788544)_generation_0(0_0)", Phase::Prefill, [n(2), n(888), n(0), n(0)]);
        check("step[DECODE bs=64]", Phase::Decode, [n(0), n(0), n(64), n(64)]);
        check("step[EXTEND bs=2 toks=512]", Phase::Prefill, [n(2), n(512), n(0), n(0)]);
        check("step[MIXED bs=4 toks=99]", Phase::Mixed, [n(4), n(99), n(4), None]);
        check("step[DECODE bs=2 g_sqsq=2 g_sqsk=30 g_sk=30]", Phase::Decode, [n(0), n(0), n(2), n(2)]);
        check("step[EXTEND bs=2 toks=12 c_sqsq=80 c_sqsk=120 c_sk=20]", Phase::Prefill, [n(2), n(12), n(0), n(0)]);
        check(
            "step[MIXED bs=2 c=1 g=1 c_sq=5 c_sk=8 c_sqsq=25 g_sq=1 g_sk=12]",
            Phase::Mixed,
            [n(1), n(5), n(1), n(1)],
        );
        check("step[MIXED bs=1 c=1 g=0 c_sq=3 c_sk=3 g_sq=0 g_sk=0]", Phase::Prefill, [n(1), n(3), n(0), n(0)]);
        check("step[TARGET_VERIFY bs=8]", Phase::Decode, [n(0), n(0), n(8), n(8)]);
        check("prefill[bs=2 tok=16384]", Phase::Prefill, [n(2), n(16384), n(0), n(0)]);
        check("decode[bs=16 tok=16]", Phase::Decode, [n(0), n(0), n(16), n(16)]);
        check(
            "execute_3_context_3(sq128sk256sqsq1sqsk1)_generation_2(sq2sk300sqsq1sqsk1)",
            Phase::Mixed,
            [n(3), n(128), n(2), n(2)],
        );
        check("[Executor] _forward_step 12: 0 ctx reqs, 8 gen reqs", Phase::Decode, [n(0), n(0), n(8), None]);
        check(
            "[Executor] _forward_step 3: 2 ctx reqs, 512 ctx tokens, 8 gen reqs",
            Phase::Mixed,
            [n(2), n(512), n(8), None],
        );
        check("gpu_model_runner: forward", Phase::Unknown, [None; 4]);
        check("iteration 12", Phase::Unknown, [None; 4]);
        check("train_step#3", Phase::Unknown, [None; 4]);
        check("step[IDLE]", Phase::Idle, [n(0), n(0), n(0), n(0)]);
        check("ProfilerStep#12", Phase::Unknown, [None; 4]);
        check("run_batch", Phase::Unknown, [None; 4]);
        for name in [
            "ProfilerStep#x",
            "execute_model_1",
            "step",
            "Optimizer.step#Adam.step",
            "prefill",
            "decode[",
            "_forward_step",
            "step: 4 x",
            "step[DRAFT_EXTEND bs=8]",
        ] {
            assert!(parse(name).is_none(), "{name}");
        }
    }
}
