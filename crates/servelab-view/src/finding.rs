//! Findings: the text that `finding new` begins with, its numbers bound to cells, and what a check found.

use std::fmt::Write as _;

use servelab_core::finding::{Binding, PLACEHOLDER, binding_comment};
use servelab_store::finding::{Checked, Standing};

use crate::names::{is_fraction, metric_title};
use crate::text::document::Document;
use crate::text::number::{number, optional, percent};
use crate::text::table::{Table, left, right};

/// A point under one workload and load, with the values that the text shows.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftPoint {
    /// Label.
    pub point: String,
    /// Workload.
    pub workload: String,
    /// Load in words.
    pub load: String,
    /// Metric and mean.
    pub values: Vec<(String, f64)>,
    /// Cells behind them.
    pub cells: Vec<String>,
}

/// What a new finding is about.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingDraft<'a> {
    /// Title.
    pub title: &'a str,
    /// The question, if it is known.
    pub question: Option<&'a str>,
    /// The points compared, the one of interest first; differences are between the first and the second of a workload.
    pub points: &'a [DraftPoint],
    /// The study's file.
    pub study_file: &'a str,
    /// The finding's own file.
    pub file: &'a str,
}

/// A number as text that reads back to itself within its last digit.
fn written(metric: &str, value: f64) -> String {
    if is_fraction(metric) {
        return percent(value);
    }
    let short = number(value);
    if short.contains('e') { format!("{value}") } else { short }
}

fn bound(metric: &str, value: f64, of: &DraftPoint) -> String {
    let binding = Binding {
        metric: metric.to_owned(),
        point: of.point.clone(),
        load: Some(of.load.clone()),
        workload: Some(of.workload.clone()),
        ..Binding::default()
    };
    format!("{} {}", written(metric, value), binding_comment(&binding))
}

/// The Markdown of a new finding. What a person has to write is marked.
pub fn finding_template(draft: &FindingDraft<'_>) -> String {
    let mut out = String::new();
    let todo = |words: &str| format!("{PLACEHOLDER} {words}");
    let question = draft.question.map_or_else(|| todo("what did you want to know?"), str::to_owned);
    let _ = write!(
        out,
        "# {}\n\n## Question\n\n{question}\n\n## Observation\n\n{}\n",
        draft.title,
        todo("the answer, in a sentence or two.")
    );
    let mut details = String::new();
    for (idx, first) in draft.points.iter().enumerate() {
        let is_first = draft.points.iter().position(|other| other.workload == first.workload) == Some(idx);
        let rival = draft
            .points
            .iter()
            .find(|other| other.workload == first.workload && other.load == first.load && other.point != first.point);
        for (metric, value) in &first.values {
            let other = rival.and_then(|rival| Some((rival, rival.values.iter().find(|(name, _)| name == metric)?.1)));
            let Some((rival, other)) = other.filter(|(_, other)| is_first && *other != 0.0) else { continue };
            let binding = Binding {
                metric: metric.clone(),
                point: first.point.clone(),
                versus: Some(rival.point.clone()),
                load: Some(first.load.clone()),
                workload: Some(first.workload.clone()),
                within: 0.0,
            };
            let _ = write!(
                out,
                "\n- {} of `{}` against `{}` at {} on {}: {:+.1} % {}",
                metric_title(metric),
                first.point,
                rival.point,
                first.load,
                first.workload,
                100.0 * (value - other) / other.abs(),
                binding_comment(&binding)
            );
        }
        let _ = writeln!(details, "\n`{}` at {} on {}:\n", first.point, first.load, first.workload);
        for (metric, value) in &first.values {
            let _ = writeln!(details, "- {}: {}", metric_title(metric), bound(metric, *value, first));
        }
    }
    let cells: Vec<String> = draft
        .points
        .iter()
        .map(|point| {
            format!("- `{}` at {} on {}: cells {}", point.point, point.load, point.workload, point.cells.join(", "))
        })
        .collect();
    let _ = write!(
        out,
        "\n\n## Details\n{details}\n## Reproduce\n\n```bash\nservelab run {study}\nservelab finding check {study} {file}\n```\n\n\
         ## Data\n\n{}\n\n## Implications\n\n{}\n",
        if cells.is_empty() { todo("which cells?") } else { cells.join("\n") },
        todo("what follows from it, and what does not?"),
        study = draft.study_file,
        file = draft.file,
    );
    out
}

/// One line of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingLine {
    /// File.
    pub file: String,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What was bound: metric, point, and what it is compared with.
    pub what: String,
    /// As it was written.
    pub written: String,
    /// What became of it; `Err` for what cannot be checked.
    pub outcome: Result<Checked, String>,
}

impl FindingLine {
    /// True when nothing speaks against it.
    pub fn holds(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|checked| checked.standing == Standing::Holds)
    }

    /// `holds`, `changed`, `unsupported`, `no_data`, `problem`.
    pub fn status(&self) -> &'static str {
        match self.outcome.as_ref().map(|checked| &checked.standing) {
            Ok(Standing::Holds) => "holds",
            Ok(Standing::Changed) => "changed",
            Ok(Standing::Unsupported(_)) => "unsupported",
            Ok(Standing::NoData(_)) => "no_data",
            Err(_) => "problem",
        }
    }

    /// Why, where there is more to say.
    pub fn reason(&self) -> &str {
        match &self.outcome {
            Ok(Checked { standing: Standing::Unsupported(reason) | Standing::NoData(reason), .. }) => reason,
            Ok(_) => "",
            Err(message) => message,
        }
    }
}

/// The text of a check.
pub fn finding_check_text(lines: &[FindingLine], width: Option<usize>) -> String {
    let mut out = Document::default();
    let mut table = Table::new([
        left("Where"),
        left("What"),
        right("Written"),
        right("Now"),
        right("n"),
        left("Status"),
        left("Why"),
    ]);
    for line in lines {
        let checked = line.outcome.as_ref().ok();
        let sign = if line.holds() { "✅" } else { "❌" };
        let place = if line.line > 0 { format!("{}:{}", line.file, line.line) } else { line.file.clone() };
        table.row([
            place,
            line.what.clone(),
            line.written.clone(),
            optional(checked.and_then(|checked| checked.now)),
            checked.filter(|checked| checked.n > 0).map(|checked| checked.n.to_string()).unwrap_or_default(),
            format!("{sign} {}", line.status().replace('_', " ")),
            line.reason().to_owned(),
        ]);
    }
    out.table(table.without_empty_columns());
    let wrong = lines.iter().filter(|line| !line.holds()).count();
    out.paragraph(if wrong == 0 {
        format!("All {} numbers are what the data say.", lines.len())
    } else {
        format!("{wrong} of {} do not stand as they are written.", lines.len())
    });
    out.to_text(width)
}

#[cfg(test)]
mod tests {
    use servelab_core::finding::read_finding;

    use super::*;

    #[test]
    fn what_is_written_first_can_be_read_and_names_what_is_missing() {
        let point = |name: &str, tokens: f64| DraftPoint {
            point: name.into(),
            workload: "chat".into(),
            load: "closed 16".into(),
            values: vec![
                ("throughput_tokens_per_sec".into(), tokens),
                ("success_rate".into(), 0.995),
                ("prom_cache_usage".into(), 0.000_012_3),
                ("ttft_p95_ms".into(), 0.000_012_3),
            ],
            cells: vec!["c1".into(), "c2".into()],
        };
        let points = [point("fast", 1882.44), point("slow", 1500.0)];
        let draft = FindingDraft {
            title: "Batching",
            question: Some("Does it?"),
            points: &points,
            study_file: "s.yaml",
            file: "f.md",
        };
        let text = finding_template(&draft);
        let found = read_finding(&text);
        assert_eq!(found.problems.len(), 2, "observation and implications: {:?}", found.problems);
        assert_eq!(found.numbers.len(), 12);
        assert!(text.contains("+25.5 % <!-- = throughput_tokens_per_sec; point: fast; versus: slow;"), "{text}");
        let of = |metric: &'static str| {
            found.numbers.iter().filter(move |n| n.binding.metric == metric && n.binding.versus.is_none())
        };
        assert!(of("throughput_tokens_per_sec").next().unwrap().agrees_with(1882.44));
        assert!(of("success_rate").all(|n| n.agrees_with(0.995)));
        assert!(of("ttft_p95_ms").all(|n| n.agrees_with(0.000_012_3)), "{text}");
    }

    #[test]
    fn a_check_in_words() {
        let line = |standing| FindingLine {
            file: "f.md".into(),
            line: 3,
            what: "x of y".into(),
            written: "12".into(),
            outcome: Ok(Checked { now: Some(13.0), n: 2, standing }),
        };
        let good = finding_check_text(&[line(Standing::Holds)], None);
        assert!(good.contains("f.md:3") && good.contains("All 1 numbers"), "{good}");
        let bad = finding_check_text(&[line(Standing::Holds), line(Standing::Unsupported("noise".into()))], None);
        assert!(
            bad.contains("❌ unsupported") && bad.contains("noise") && bad.contains("1 of 2 do not stand"),
            "{bad}"
        );
    }
}
