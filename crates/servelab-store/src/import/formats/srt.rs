//! srt-slurm's `{jobid}.json`: what ran where. The results below it are in vLLM's format and read as such.

use std::collections::BTreeMap;

use super::super::FolderFacts;
use super::{Doc, Format, Parsed, count, text};

pub(super) const FORMAT: Format = Format {
    name: "srt-slurm-metadata",
    tool: "srt-slurm",
    is_tested: false,
    detect: |doc| {
        doc.root().is_some_and(|root| root.get("run_metadata").is_some_and(|meta| meta.get("slurm_job_id").is_some()))
    },
    parse,
};

fn parse(doc: &Doc<'_>) -> Result<Parsed, String> {
    let meta = doc.root().and_then(|root| root.get("run_metadata")).ok_or("it has no run_metadata")?;
    let nodes = count(meta, &["prefill_nodes"]).unwrap_or(0)
        + count(meta, &["decode_nodes"]).unwrap_or(0)
        + count(meta, &["agg_nodes"]).unwrap_or(0);
    let gpus = count(meta, &["gpus_per_node"]).map(|per_node| per_node * nodes).filter(|gpus| *gpus > 0);
    let keys = [
        "slurm_job_id",
        "run_date",
        "container",
        "mode",
        "model_dir",
        "prefill_workers",
        "decode_workers",
        "prefill_nodes",
        "decode_nodes",
    ];
    let label = |key: &&str| Some(((*key).to_owned(), meta.get(key)?.label()?));
    let labels: BTreeMap<String, String> = keys.iter().filter_map(label).collect();
    Ok(Parsed::Facts(FolderFacts {
        gpu_model: text(meta, "gpu_type"),
        gpus: gpus.and_then(|n| u32::try_from(n).ok()),
        labels,
    }))
}
