//! What was ever compared with a measurement, and so how a prediction is labelled. The list follows docs/src/accuracy.md.

use super::Label;
use crate::config::ServerConfig;
use crate::step_time::Parameters;

/// The label of a configuration's predictions, and what keeps it from a better one.
pub fn label(config: &ServerConfig, parameters: &Parameters) -> (Label, Vec<String>) {
    let mut reasons = Vec::new();
    let mut doubt = |is_so: bool, what: &str| {
        if is_so {
            reasons.push(what.to_owned());
        }
    };
    doubt(!parameters.is_validated, &format!("no measurement on {} was compared", config.gpu.name));
    doubt(config.model.source.starts_with("guessed"), "the architecture is guessed from the model's name");
    doubt(config.pp > 1, "pipeline parallelism was never compared with a measurement");
    doubt(config.dcp > 1, "decode context parallelism was never compared with a measurement");
    doubt(config.dp > 1 && config.model.experts > 0, "data-parallel experts were never compared with a measurement");
    doubt(config.expert_parallel, "expert parallelism was never compared with a measurement");
    doubt(config.model.linear_layers > 0, "recurrent layers were never compared with a measurement");
    doubt(config.model.index_topk > 0, "sparse attention was never compared with a measurement");
    doubt(config.scheduling.speculation.is_some(), "speculative decoding was never compared with a measurement");
    let is_calibrated = parameters.calibration.points > 0;
    let label = match (is_calibrated, reasons.is_empty()) {
        (true, _) => Label::Calibrated,
        (false, true) => Label::Uncalibrated,
        (false, false) => Label::Unvalidated,
    };
    (label, reasons)
}
