//! Comparisons, the best point, claims and effects over rows of a whole root.

use serde_json::json;
use servelab_core::stats::Comparison;
use servelab_core::verdict::{Call, Judgement};
use servelab_store::best::{BestRequest, best};
use servelab_store::claims::judge_claims;
use servelab_store::design::{design_effects, odd_repeats, study_drift};
use servelab_store::rank::Direction;
use servelab_store::versus::{Versus, VersusRequest, versus};
use servelab_store::{ResultRow, Root, RowContext, collect_rows};

use crate::scene::{cell, finish, plan, point, result, root, with_throughput};

const TOKENS: &str = "throughput_tokens_per_sec";

/// Points with the throughputs of their repeats, each a factor level.
fn rows(points: &[(&str, &[f64])]) -> Vec<ResultRow> {
    let (_dir, root) = root();
    stored(&root, points)
}

fn stored(root: &Root, points: &[(&str, &[f64])]) -> Vec<ResultRow> {
    let mut cells = Vec::new();
    for (name, values) in points {
        for (repeat, value) in values.iter().enumerate() {
            let id = format!("{name}r{repeat}");
            cells.push(cell(&id, name, 8, repeat as u32));
            finish(root, &id, &with_throughput(result(), *value));
        }
    }
    let planned = points.iter().enumerate().map(|(idx, (name, _))| point(name, json!({"max_num_seqs": idx}))).collect();
    collect_rows(root, &plan(planned, cells), &RowContext::default()).unwrap()
}

fn of(rows: &[ResultRow], name: &str) -> Vec<ResultRow> {
    rows.iter().filter(|row| row.point.id.as_str() == name).cloned().collect()
}

fn tokens(row: &ResultRow) -> Option<f64> {
    row.metric(TOKENS)
}

fn compared(a: &[ResultRow], b: &[ResultRow], share_inputs: bool) -> Versus {
    let metrics = [TOKENS.to_owned()];
    let request = VersusRequest {
        metrics: &metrics,
        value: &|row, metric| row.metric(metric),
        is_higher_better: &|_| true,
        share_inputs,
        mix_simulated: false,
        margin: 0.02,
    };
    versus(a, b, &request)
}

fn only(found: &Versus) -> (Call, Comparison, Option<u64>) {
    let metric = &found.conditions[0].metrics[0];
    (metric.call, metric.comparison, metric.repeats_needed)
}

#[test]
fn repeats_of_one_study_are_paired() {
    let rows = rows(&[("aaaa", &[100.0, 120.0, 80.0]), ("bbbb", &[105.0, 126.0, 84.5])]);
    let (a, b) = (of(&rows, "aaaa"), of(&rows, "bbbb"));
    let (call, comparison, _) = only(&compared(&a, &b, true));
    assert!(call == Call::Better && comparison.is_paired, "{comparison:?}");
    // Without the pairs, the scatter of the repeats hides the difference.
    let (call, comparison, needed) = only(&compared(&a, &b, false));
    assert!(call == Call::WithinNoise && !comparison.is_paired && needed.unwrap() > 50, "{comparison:?} {needed:?}");
}

#[test]
fn comparisons_say_why_they_mean_nothing() {
    let rows = rows(&[("aaaa", &[100.0]), ("bbbb", &[140.0])]);
    let codes = |found: &Versus| found.verdict.reasons.iter().map(|reason| reason.code.clone()).collect::<Vec<_>>();
    let (a, mut b) = (of(&rows, "aaaa"), of(&rows, "bbbb"));
    assert_eq!(
        (codes(&compared(&a, &b, true)), only(&compared(&a, &b, true)).0),
        (vec!["one_repeat".to_owned()], Call::Unknown)
    );
    assert_eq!(codes(&compared(&a, &a, true)), ["duplicate_data", "one_repeat"]);
    b[0].cell.workload = "other".into();
    assert!(codes(&compared(&a, &b, true)).contains(&"conditions_differ".to_owned()));
    b[0].window.simulated = Some(true);
    assert!(!compared(&a, &b, true).verdict.ok);
    assert!(codes(&compared(&a, &[], true)).contains(&"nothing_comparable".to_owned()));
}

#[test]
fn the_best_and_who_ties_with_it() {
    let rows = rows(&[
        ("aaaa", &[100.0, 101.0, 99.0]),
        ("bbbb", &[101.0, 99.5, 100.0]),
        ("cccc", &[80.0, 81.0, 79.0]),
        ("dddd", &[150.0, 151.0, 152.0]),
    ]);
    let request = |meets: &dyn Fn(&ResultRow) -> bool| {
        let answers = best(&rows, &BestRequest { value: &tokens, direction: Direction::Maximise, meets });
        assert_eq!(answers.len(), 1);
        answers.into_iter().next().unwrap()
    };
    let all = request(&|_| true);
    assert_eq!((all.entries[0].group.point.as_str(), all.tied_points.len(), all.entries.len()), ("dddd", 1, 4));
    assert!(all.versus_next.unwrap().is_distinguished() && all.repeats_to_settle.is_none());
    let limited = request(&|row| tokens(row).is_some_and(|x| x < 120.0));
    let tied: Vec<&str> = limited.tied_points.iter().map(|id| id.as_str()).collect();
    assert_eq!((limited.broke_limits, tied), (1, vec!["bbbb", "aaaa"]));
    assert!(limited.ranking.in_blocks && limited.repeats_to_settle.is_some());
    let none = request(&|_| false);
    assert!(none.entries.is_empty() && none.broke_limits == 4);
}

#[test]
fn effects_oddities_and_drift() {
    let rows = rows(&[("aaaa", &[100.0, 101.0, 99.0]), ("bbbb", &[200.0, 203.0, 198.0])]);
    let found = design_effects(&rows, &["max_num_seqs".to_owned()], &tokens);
    assert_eq!((found.len(), found[0].factors.as_slice(), found[0].n), (1, &["max_num_seqs".to_owned()][..], 6));
    let (low, _) = found[0].model.main[0].levels[0];
    assert!(
        (low - 0.5_f64.sqrt().ln()).abs() < 0.01 && found[0].p_main[0].unwrap() < 1e-6 && found[0].model.is_balanced
    );

    let (_dir, root) = root();
    let mut rows = stored(&root, &[("aaaa", &[100.0, 100.5, 99.5, 100.2, 140.0, 99.9])]);
    let odd = odd_repeats(&rows, &tokens);
    assert_eq!((odd.len(), odd[0].repeat), (1, 4));
    assert_eq!(study_drift(&rows, &tokens), None, "the order is not known");
    for (order, row) in rows.iter_mut().enumerate() {
        row.window.order = Some(order as u32);
        row.result.as_mut().unwrap().throughput.output_tokens_per_s = 100.0 + order as f64;
    }
    assert!(study_drift(&rows, &tokens).unwrap().relative_change > 0.04);
}

#[test]
fn claims_are_judged() {
    let text = "schema: 1\nstudy: demo\nengine: {kind: external, url: \"http://127.0.0.1:1\"}\nmodel: {id: m}\n\
        baseline: label_aaaa\nworkloads: {medium: {dataset: {synth: {input_tokens: 1, output_tokens: 1}}}}\n\
        load: {closed: {concurrency: [8]}, stop: {requests: 1}}\n\
        designs: {memory: {expect: {text: faster, metric: throughput_tok_s, change_percent: [CLAIM]}, list: {a: {}}}}\n";
    let rows = rows(&[("aaaa", &[100.0, 101.0, 99.0]), ("bbbb", &[120.0, 122.0, 119.0])]);
    let planned = plan(vec![rows[0].point.clone(), rows[3].point.clone()], Vec::new());
    let judged = |claim: &str| {
        let text = text.replace("CLAIM", claim);
        let mut sources = servelab_core::source::SourceMap::default();
        let id = sources.add("study", text.as_str());
        let doc = servelab_core::yaml::parse(id, &text).unwrap();
        let study =
            servelab_core::yaml::from_node(&doc).unwrap_or_else(|problem| panic!("{}", problem.render(&sources)));
        let found = judge_claims(&rows, &planned, &study, &|row, _| tokens(row), &|_| true);
        assert_eq!((found.len(), found[0].point.as_str()), (1, "label_bbbb"));
        found[0].judgement
    };
    assert_eq!(judged("10, 30"), Judgement::Supported);
    assert_eq!(judged("-5, 5"), Judgement::Contradicted);
    assert_eq!(judged("21, 40"), Judgement::Undecided);
}
