//! What `servelab bench --search` prints: the answer, how sure it is, and the levels and trials behind it.

use servelab_core::search::{Ending, ReportEnd, SearchReport};

use crate::text::document::Document;
use crate::text::number::{count, number, optional};
use crate::text::table::{Table, left, right};

/// A search for a terminal.
pub fn search_text(report: &SearchReport, width: Option<usize>) -> String {
    let mut out = Document::default();
    let unit = if report.axis == "rate" { "requests/s" } else { "in flight" };
    let end = |end: Option<ReportEnd>, none: &str| match end {
        Some(end) => format!(
            "{} {unit} ({:.0} % sure, {} {})",
            number(end.level),
            100.0 * end.sure,
            end.trials,
            if end.trials == 1 { "trial" } else { "trials" }
        ),
        None => none.to_owned(),
    };
    out.facts([
        ("SLO", report.slo.clone()),
        ("highest that passes", end(report.passes, "none")),
        ("lowest that fails", end(report.fails, "none found")),
        (
            "edge between them",
            match (report.passes, report.fails) {
                (Some(_), Some(_)) => format!("{:.0} % sure", 100.0 * report.confidence),
                _ => "not bracketed".to_owned(),
            },
        ),
        (
            "goodput there",
            report.goodput_requests_per_s.map_or_else(|| "none".to_owned(), |x| format!("{} requests/s", number(x))),
        ),
        ("one request alone", format!("{} s", number(report.idle_request_s))),
    ]);
    out.paragraph(match report.ending {
        Ending::Found => "Both ends are as close and as sure as asked.".to_owned(),
        Ending::Ambiguous => format!(
            "The ends are as close as asked, but not as sure: the SLO is met by about as many requests as it asks for. \
             `--search-repeats {}` would tell more.",
            report.repeats * 2
        ),
        Ending::PassesEverywhere => "Even the highest level allowed passes; raise `--search-max`.".to_owned(),
        Ending::FailsEverywhere => "Even the lowest level allowed fails.".to_owned(),
        Ending::Unfinished => "The search ended before its ends met.".to_owned(),
    });
    if let Some(problem) = &report.problem {
        out.paragraph(format!("Ended early: {problem}."));
    }
    let mut levels =
        Table::new([right(unit), right("P(pass)"), right("trials"), right("good"), right("of"), right("goodput /s")]);
    for level in &report.levels {
        levels.row(vec![
            number(level.level),
            format!("{:.3}", level.p_pass),
            level.trials.to_string(),
            count(level.good),
            count(level.counted),
            number(level.goodput_requests_per_s),
        ]);
    }
    out.table(levels);
    let mut trials = Table::new([
        right("trial"),
        right(unit),
        right("requests"),
        right("good"),
        right("window s"),
        right("TTFT p50"),
        right("p95"),
        right("TPOT p50"),
        right("p95"),
        right("tok/s"),
        left("remarks"),
    ]);
    for (number_of, trial) in report.trials.iter().enumerate() {
        let mut remarks: Vec<String> = Vec::new();
        if trial.cut_short {
            remarks.push("cut short".to_owned());
        }
        if trial.saturated {
            remarks.push("queue grew".to_owned());
        }
        if trial.discarded {
            remarks.push(format!("left out ({})", trial.verdict.join(", ")));
        }
        trials.row(vec![
            (number_of + 1).to_string(),
            number(trial.level),
            count(trial.scheduled),
            format!("{}/{}", trial.good, trial.counted),
            number(trial.window_s),
            optional(trial.ttft_ms[0]),
            optional(trial.ttft_ms[1]),
            optional(trial.tpot_ms[0]),
            optional(trial.tpot_ms[1]),
            number(trial.output_tokens_per_s),
            remarks.join(", "),
        ]);
    }
    out.table(trials);
    out.to_text(width)
}

#[cfg(test)]
mod tests {
    use servelab_core::search::{ReportLevel, ReportTrial};

    use super::*;

    #[test]
    fn the_answer_comes_first_and_doubts_are_told() {
        let trial = ReportTrial {
            level: 8.0,
            repeat: 0,
            scheduled: 100,
            good: 98,
            counted: 100,
            window_s: 12.5,
            saturated: true,
            cut_short: true,
            discarded: false,
            ttft_ms: [Some(50.0), None],
            tpot_ms: [None, None],
            output_tokens_per_s: 800.0,
            verdict: vec!["saturated".to_owned()],
            idle_after_s: None,
        };
        let left_out = ReportTrial { discarded: true, verdict: vec!["client_limited".to_owned()], ..trial.clone() };
        let level =
            ReportLevel { level: 8.0, p_pass: 0.4, trials: 1, good: 98, counted: 100, goodput_requests_per_s: 7.8 };
        let report = SearchReport {
            schema: 1,
            axis: "rate".to_owned(),
            slo: "ttft_ms=100".to_owned(),
            precision: 0.05,
            repeats: 3,
            ending: Ending::Ambiguous,
            passes: None,
            fails: Some(ReportEnd { level: 8.0, sure: 0.6, trials: 1 }),
            confidence: 0.6,
            goodput_requests_per_s: None,
            idle_request_s: 0.25,
            levels: vec![level],
            trials: vec![trial, left_out],
            problem: Some("the server is gone".to_owned()),
        };
        let text = search_text(&report, Some(120));
        for part in [
            "highest that passes  none",
            "8 requests/s (60 % sure, 1 trial)",
            "not bracketed",
            "--search-repeats 6",
            "Ended early: the server is gone.",
            "cut short, queue grew",
            "left out (client_limited)",
        ] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    }
}
