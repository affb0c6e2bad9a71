//! MANIFEST.md: what a study will do, for the people who will run it and read it later. In the manner of a hand-written
//! experiment manifest: configurations by group, metrics, data, how to run, what is expected, cost, next steps.
//! Deterministic: the same plan gives the same bytes.

mod configurations;
mod sections;
#[cfg(test)]
mod tests;

use servelab_core::plan::Plan;
use servelab_core::site::Site;
use servelab_core::study::Study;

use crate::commands::HowToRun;
use crate::limits::targets_table;
use crate::text::document::Document;
use crate::text::number::{count, plural};

/// What the manifest depends on besides plan and study.
#[derive(Debug, Clone, Copy, Default)]
pub struct ManifestOptions<'a> {
    /// For the commands.
    pub how: HowToRun<'a>,
    /// The site, for hardware in words.
    pub site: Option<&'a Site>,
    /// Shown at the end as the day of creation; left out when `None`.
    pub created: Option<&'a str>,
    /// Points per design before the rest is only counted; 0 shows them all.
    pub max_points: usize,
}

/// MANIFEST.md.
pub fn manifest_md(plan: &Plan, study: &Study, options: &ManifestOptions<'_>) -> String {
    let mut out = Document::default();
    out.heading(1, "Experiment Manifest");
    overview(&mut out, plan, study, options);
    configurations::section(&mut out, plan, study, options.max_points);
    sections::metrics(&mut out, study);
    sections::workloads(&mut out, plan, study);
    sections::how_to_run(&mut out, plan, study, &options.how);
    out.heading(2, "Expected Results");
    sections::expectations(&mut out, plan, study);
    let targets = targets_table(study);
    if !targets.is_empty() {
        out.heading(3, format!("Performance Targets ({})", hardware_words(plan, options)));
        out.table(targets);
    }
    sections::output_files(&mut out, plan, options);
    sections::troubleshooting(&mut out, plan, &options.how);
    sections::cost(&mut out, plan, study);
    sections::next_steps(&mut out, study, &options.how);
    let mut end = vec![("Study".to_owned(), format!("{} (ids of scheme {})", plan.study, plan.id_scheme))];
    end.extend(options.created.map(|created| ("Created".to_owned(), created.to_owned())));
    end.push((
        "Status".to_owned(),
        if plan.counts.runnable_cells > 0 { "Ready to run" } else { "Nothing can run" }.to_owned(),
    ));
    out.heading(2, "About this file");
    out.facts(end);
    out.to_markdown()
}

fn overview(out: &mut Document, plan: &Plan, study: &Study, options: &ManifestOptions<'_>) {
    out.heading(2, "Overview");
    out.paragraph(study.description.clone().unwrap_or_default());
    let labels: usize = plan.points.iter().map(|point| point.labels.len()).sum();
    let counts = &plan.counts;
    out.paragraph(format!(
        "{} named, {} distinct, {} can run; {} to measure with {} on {}.",
        plural(labels as u64, "configuration"),
        count(counts.points),
        count(counts.feasible_points),
        plural(counts.runnable_cells, "cell"),
        crate::plan::engine_words(study),
        hardware_words(plan, options)
    ));
}

/// `8 nodes, 64 GPUs (H200)`: what the largest point occupies.
fn hardware_words(plan: &Plan, options: &ManifestOptions<'_>) -> String {
    let nodes = plan.points.iter().map(|point| point.nodes).max().unwrap_or(0);
    let gpus = plan.points.iter().map(|point| point.gpus).max().unwrap_or(0);
    let model = options.site.and_then(|site| site.hardware.gpu.as_ref());
    let model = model.map(|model| format!(" ({model})")).unwrap_or_default();
    format!("{}, {}{model}", plural(nodes.into(), "node"), plural(gpus.into(), "GPU"))
}
