//! Rules about sequence lengths, batch limits and what a workload asks for.

use serde_json::Value;

use super::{Findings, PointView, RoleView, Settings, WorkloadView, count, grouped};

pub(super) fn check_role(point: &PointView<'_>, role: &RoleView<'_>, out: &mut Findings<'_>) {
    let settings = role.settings;
    let max_len = count(settings, "max_model_len");
    let batch = count(settings, "max_num_batched_tokens");
    if let (Some(len), Some(model)) = (max_len, point.model)
        && let Some(limit) = model.max_position_embeddings
        && len > limit
        && settings.get("hf_overrides").is_none()
    {
        let (len, limit) = (grouped(len), grouped(limit));
        let text = format!("max_model_len {len} is more than the {limit} positions of {}", model.name);
        out.infeasible("max_len_over_model", text);
    }
    let is_unchunked = settings.get("enable_chunked_prefill").and_then(Value::as_bool) == Some(false);
    if let (true, Some(len), Some(batch)) = (is_unchunked, max_len, batch)
        && batch < len
    {
        let (len, batch) = (grouped(len), grouped(batch));
        let text = format!(
            "without chunked prefill a prompt must fit one batch: max_num_batched_tokens {batch} < max_model_len {len}"
        );
        out.infeasible("batch_below_model_len", text);
    }
    if let (Some(batch), Some(seqs)) = (batch, count(settings, "max_num_seqs"))
        && batch < seqs
    {
        let (batch, seqs) = (grouped(batch), grouped(seqs));
        let text =
            format!("max_num_batched_tokens {batch} < max_num_seqs {seqs}: a step could not serve every sequence");
        out.infeasible("batch_below_seqs", text);
    }
}

/// The longest prompt and answer against the window. A prefill server produces one token only.
pub(super) fn check_workload(
    point: &PointView<'_>,
    role: &RoleView<'_>,
    workload: &WorkloadView,
    out: &mut Findings<'_>,
) {
    let Some((limit, source)) = window(point, role.settings) else {
        return;
    };
    let input = workload.max_input_tokens;
    let shown = grouped(limit);
    if input >= limit {
        let input = grouped(input);
        let text = format!("the prompt does not fit: the longest has {input} tokens, {source} is {shown}");
        return out.infeasible("prompt_too_long", text);
    }
    let Some(output) = workload.max_output_tokens.filter(|_| role.name != "prefill") else {
        return;
    };
    let total = input.saturating_add(output);
    if total > limit {
        let (total, input, output) = (grouped(total), grouped(input), grouped(output));
        let text =
            format!("the prompt fits, the answer does not: {input} + {output} tokens are {total}, {source} is {shown}");
        out.infeasible("answer_too_long", text);
    }
}

/// The longest sequence that the server takes, and where that comes from.
fn window(point: &PointView<'_>, settings: &dyn Settings) -> Option<(u64, &'static str)> {
    match settings.get("max_model_len") {
        Some(_) => count(settings, "max_model_len").map(|len| (len, "max_model_len")),
        None => point.model?.max_position_embeddings.map(|limit| (limit, "the model's window")),
    }
}
