//! The built-in models, found by id.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::ModelFacts;

/// All models with checked figures.
pub fn builtin_models() -> &'static [ModelFacts] {
    static MODELS: OnceLock<Vec<ModelFacts>> = OnceLock::new();
    MODELS.get_or_init(|| serde_json::from_str(include_str!("../../data/models.json")).unwrap_or_default())
}

/// Endings that name the same architecture and weight format.
const SAME_SHAPE: [&str; 5] = ["-instruct", "-base", "-chat", "-hf", "-bf16"];

/// The model of this id. Organisation and case do not matter, nor does `-Instruct`; `-FP8` is the same architecture with
/// 8-bit weights. Any other ending is another model.
pub fn builtin_model(id: &str) -> Option<Cow<'static, ModelFacts>> {
    let lower = id.trim().trim_end_matches('/').to_ascii_lowercase();
    let mut name = lower.rsplit('/').next().unwrap_or("");
    let is_fp8 = name.ends_with("-fp8");
    name = name.strip_suffix("-fp8").unwrap_or(name);
    for ending in SAME_SHAPE {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    let facts = builtin_models().iter().find(|model| {
        let own = model.name.rsplit('/').next().unwrap_or("");
        std::iter::once(own)
            .chain(model.aliases.iter().map(String::as_str))
            .any(|known| known.eq_ignore_ascii_case(name))
    })?;
    if !is_fp8 {
        return Some(Cow::Borrowed(facts));
    }
    let name = format!("{}-FP8", facts.name);
    Some(Cow::Owned(ModelFacts { name, weight_bits: 8.0, expert_bits: 8.0, ..facts.clone() }))
}
