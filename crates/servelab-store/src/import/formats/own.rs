//! This tool's own `result.json`: taken as it is. The file in vLLM's schema beside it is the same run.

use servelab_core::result::BenchResult;

use super::{Doc, Format, Parsed};

pub(super) const FORMAT: Format =
    Format { name: "servelab", tool: "servelab bench, servelab run", is_tested: true, detect, parse };

fn detect(doc: &Doc<'_>) -> bool {
    doc.root().is_some_and(|root| root.at("clock.epoch_monotonic_ns").is_some() && root.get("latency_ms").is_some())
}

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let result: BenchResult = serde_json::from_str(doc.text).map_err(|error| error.to_string())?;
    Ok(Parsed::Own(Box::new(result)))
}
