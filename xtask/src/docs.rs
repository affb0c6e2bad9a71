//! Pages that are generated from tables in the code, so that the two cannot drift apart: metric definitions and the
//! catalogue of codes. `--check` is what CI runs.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use servelab_core::codes::{CodeKind, Weight, all_codes};
use servelab_core::metrics::metrics_markdown;
use servelab_core::trace::catalogue::trace_metrics_markdown;
use servelab_core::verdict::Thresholds;

use crate::links;

const FOLDER: &str = "docs/src/reference";

fn pages() -> [(&'static str, String); 3] {
    [
        ("trace-metrics.md", trace_metrics_markdown()),
        ("metrics.md", metrics_markdown()),
        ("verdicts.md", codes_markdown()),
    ]
}

/// Writes every page.
pub(crate) fn write(root: &Path) -> Result<(), Box<dyn Error>> {
    for (name, text) in pages() {
        let path = root.join(FOLDER).join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            println!("{FOLDER}/{name} is up to date");
        } else {
            fs::write(&path, text)?;
            println!("wrote {FOLDER}/{name}");
        }
    }
    Ok(())
}

/// Fails when a page on disk is not what the code says, or a link leads nowhere.
pub(crate) fn check(root: &Path) -> Result<(), Box<dyn Error>> {
    let stale: Vec<String> = pages()
        .into_iter()
        .filter(|(name, text)| fs::read_to_string(root.join(FOLDER).join(name)).ok().as_deref() != Some(text.as_str()))
        .map(|(name, _)| format!("{FOLDER}/{name}"))
        .collect();
    if !stale.is_empty() {
        return Err(format!("not what the code says: {}; run `cargo xtask docs` and commit", stale.join(", ")).into());
    }
    let broken = links::broken(root)?;
    if !broken.is_empty() {
        return Err(broken.join("\n").into());
    }
    println!("generated pages are up to date, links lead somewhere");
    Ok(())
}

/// The catalogue that `servelab explain` prints, as a page.
fn codes_markdown() -> String {
    let mut page = String::from(
        "# Verdicts and other codes\n\nGenerated from the catalogue that `servelab explain CODE` reads. *Invalid* keeps a result out of every \
         ranking and comparison; a *warning* lets it stand, with the remark beside it.\n",
    );
    for (kind, title, about) in [
        (CodeKind::Verdict, "Verdicts", "What may be wrong with a result or a comparison."),
        (CodeKind::Plan, "Plan", "Rules that speak before anything is started."),
        (CodeKind::Failure, "Failures", "Why a server, a job or a run ended without a result."),
        (CodeKind::RequestFailure, "Request failures", "Why one request did not count as a success."),
    ] {
        let _ =
            write!(page, "\n## {title}\n\n{about}\n\n| code | weight | meaning | what to do |\n|---|---|---|---|\n");
        for code in all_codes().filter(|code| code.kind == kind) {
            let cell = |text: &str| text.replace('|', "\\|").replace('<', "\\<").replace('\n', " ");
            let _ = writeln!(
                page,
                "| `{}` | {} | **{}.** {} | {} |",
                code.code,
                weight_name(code.weight),
                cell(code.title.trim_end_matches('.')),
                cell(&code.meaning),
                cell(&code.advice)
            );
        }
    }
    page.push_str("\n## Thresholds\n\nWhere each rule begins to speak. Times are in the unit of the name, shares are fractions.\n\n| threshold | value | meaning |\n|---|---|---|\n");
    for (name, value, words) in Thresholds::table() {
        let _ = writeln!(page, "| `{name}` | {value} | {words} |");
    }
    page
}

fn weight_name(weight: Weight) -> &'static str {
    match weight {
        Weight::Invalid => "invalid",
        Weight::Warning => "warning",
        Weight::Infeasible => "infeasible",
        Weight::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_on_disk_are_what_the_code_says() {
        check(&crate::root()).unwrap();
    }

    #[test]
    fn every_code_is_on_its_page() {
        let page = codes_markdown();
        for code in all_codes() {
            assert!(page.contains(&format!("| `{}` |", code.code)), "{} is missing", code.code);
        }
    }
}
