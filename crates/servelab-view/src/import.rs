//! What `servelab import` prints: one line per result, then what speaks against each, then what was assumed.

use std::collections::BTreeMap;

use servelab_core::result::{BenchResult, Severity};

use crate::text::document::Document;
use crate::text::number::{ABSENT, count, number, optional, plural};
use crate::text::table::{Table, left, right};

/// One imported result.
#[derive(Debug)]
pub struct ImportRow<'a> {
    /// Its file.
    pub path: &'a str,
    /// Name of its format.
    pub format: &'a str,
    /// Its load in words.
    pub load: String,
    /// The numbers.
    pub result: &'a BenchResult,
}

/// Results that are listed one by one; of more, only the sum is told.
const MOST_LISTED: usize = 200;

/// The text.
pub fn import_text(rows: &[ImportRow<'_>], width: Option<usize>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("{} imported", plural(rows.len() as u64, "result")));
    let mut table = Table::new([
        left("File"),
        left("Format"),
        left("Load"),
        right("ok/all"),
        right("tok/s"),
        right("req/s"),
        right("TTFT p50 ms"),
        right("p99"),
        right("TPOT p50 ms"),
        left("Numbers"),
        left("Verdict"),
    ]);
    for row in rows.iter().take(MOST_LISTED) {
        table.row(line(row));
    }
    out.table(table);
    if rows.len() > MOST_LISTED {
        out.paragraph(format!("… and {} more (--json has all).", count((rows.len() - MOST_LISTED) as u64)));
    }
    reasons(&mut out, rows);
    notes(&mut out, rows);
    let believed = rows.iter().filter(|row| row.result.verdict.ok).count();
    out.paragraph(match believed {
        0 => "NOTHING HERE CAN BE RANKED: every result is invalid, for the reasons above.".to_owned(),
        n if n == rows.len() => format!("{} may be ranked and compared.", plural(n as u64, "result")),
        n => format!("{} of {} may be ranked and compared.", count(n as u64), plural(rows.len() as u64, "result")),
    });
    out.to_text(width)
}

fn line(row: &ImportRow<'_>) -> Vec<String> {
    let result = row.result;
    let known = |key: &str, value: f64| if result.is_unknown(key) { ABSENT.to_owned() } else { number(value) };
    let invalid: Vec<&str> =
        result.verdict.reasons.iter().filter(|r| r.severity == Severity::Invalid).map(|r| r.code.as_str()).collect();
    let recomputed = result.import.as_ref().is_none_or(|import| import.recomputed);
    vec![
        row.path.to_owned(),
        row.format.to_owned(),
        row.load.clone(),
        format!("{}/{}", count(result.requests.completed), count(result.requests.scheduled)),
        known("throughput.output_tokens_per_s", result.throughput.output_tokens_per_s),
        known("throughput.requests_per_s", result.throughput.requests_per_s),
        optional(result.latency_ms.ttft.p50),
        optional(result.latency_ms.ttft.p99),
        optional(result.latency_ms.tpot.p50),
        if recomputed { "recomputed" } else { "the tool's" }.to_owned(),
        if invalid.is_empty() { "ok".to_owned() } else { invalid.join(", ") },
    ]
}

fn reasons(out: &mut Document, rows: &[ImportRow<'_>]) {
    let mut table = Table::new([left("File"), left("What was found"), left("Evidence")]);
    for row in rows.iter().take(MOST_LISTED) {
        for reason in &row.result.verdict.reasons {
            let weight = if reason.severity == Severity::Invalid { "INVALID" } else { "note" };
            table.row([row.path.to_owned(), format!("{weight} {}", reason.code), reason.detail.clone()]);
        }
    }
    if !table.is_empty() {
        out.heading(2, "Verdicts");
        out.table(table);
    }
}

fn notes(out: &mut Document, rows: &[ImportRow<'_>]) {
    let mut notes: BTreeMap<&str, u64> = BTreeMap::new();
    for note in rows.iter().filter_map(|row| row.result.import.as_ref()).flat_map(|import| &import.notes) {
        *notes.entry(note).or_default() += 1;
    }
    if !notes.is_empty() {
        out.heading(2, "What was assumed, and how definitions differ");
        out.bullets(notes.into_iter().map(|(note, n)| format!("{note} ({})", plural(n, "result"))));
    }
}
