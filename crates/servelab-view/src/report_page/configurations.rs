//! Full configurations: settings in which points differ as a table, the common ones folded away.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use servelab_core::plan::PlannedPoint;

use crate::report::ReportInput;
use crate::report::rows::names;
use crate::text::document::Document;
use crate::text::number::{ABSENT, setting};
use crate::text::table::{Table, left};

/// Points in the table: more make it unreadable, and results.csv has them all.
const MOST_POINTS: usize = 200;

pub(super) fn section(out: &mut String, report: &ReportInput<'_>, nav: &mut Vec<(String, String)>) {
    let points: Vec<&PlannedPoint> = report.plan.points.iter().collect();
    if points.is_empty() {
        return;
    }
    let all: Vec<BTreeMap<String, String>> = points.iter().map(|point| leaves(&point.config)).collect();
    let mut differing: Vec<&String> = Vec::new();
    let mut common: BTreeMap<&String, &String> = BTreeMap::new();
    for name in all.iter().flat_map(BTreeMap::keys) {
        if differing.contains(&name) || common.contains_key(name) {
            continue;
        }
        let first = all.first().and_then(|leaves| leaves.get(name));
        match first {
            Some(value) if all.iter().all(|leaves| leaves.get(name) == Some(value)) => {
                common.insert(name, value);
            }
            _ => differing.push(name),
        }
    }
    nav.push(("configurations".into(), "Configurations".into()));
    out.push_str("<section id=\"configurations\">\n<h2>Configurations</h2>\n");
    let mut document = Document::default();
    if !differing.is_empty() {
        let short: Vec<&str> = differing.iter().map(|name| name.rsplit('.').next().unwrap_or(name)).collect();
        let header = |(idx, name): (usize, &&String)| {
            let last = short.get(idx).copied().unwrap_or_default();
            let is_unique = short.iter().filter(|other| **other == last).count() == 1;
            left(if is_unique { last } else { name.as_str() })
        };
        let mut table =
            Table::new([left("Configuration"), left("Id")].into_iter().chain(differing.iter().enumerate().map(header)));
        for (point, leaves) in points.iter().zip(&all).take(MOST_POINTS) {
            let values = differing.iter().map(|name| leaves.get(*name).cloned().unwrap_or_else(|| ABSENT.to_owned()));
            table.row([names(&point.labels, point.id.short()), point.id.short().to_owned()].into_iter().chain(values));
        }
        document.paragraph("Settings in which the configurations differ; a dash is unset.");
        document.table(table);
        if points.len() > MOST_POINTS {
            document.paragraph(format!("… and {} more, in results.csv.", points.len() - MOST_POINTS));
        }
    }
    out.push_str(&document.to_html("configurations-"));
    let mut same = Document::default();
    same.facts(common.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let _ = write!(
        out,
        "<details class=\"more\"><summary>{} settings that all have in common</summary>\n{}</details>\n</section>\n",
        common.len(),
        same.to_html("common-")
    );
}

fn leaves(config: &Value) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: &Value, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    walk(&path, inner, out);
                }
            }
            leaf => {
                out.insert(prefix.to_owned(), setting(leaf));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", config, &mut out);
    out
}
