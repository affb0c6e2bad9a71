use proptest::prelude::*;
use servelab_core::record::ClockEpoch;
use servelab_core::result::{
    BenchResult, ClientQuality, Concurrency, Latencies, Quantiles, RequestCounts, Severity, Throughput, Verdict,
    VerdictReason,
};
use servelab_store::{FailureReport, RowContext, WindowInfo};

use super::*;
use crate::testing::{ABLATION, GRID, planned};

/// What a test says about one cell.
pub(crate) struct Outcome {
    pub(crate) state: CellState,
    pub(crate) tokens_per_s: f64,
    pub(crate) ttft_ms: f64,
    pub(crate) reason: Option<(&'static str, Severity)>,
}

pub(crate) fn done(tokens_per_s: f64, ttft_ms: f64) -> Outcome {
    Outcome { state: CellState::Done, tokens_per_s, ttft_ms, reason: None }
}

fn result(outcome: &Outcome) -> BenchResult {
    let at = |ms: f64| Quantiles {
        mean: Some(ms),
        p50: Some(ms),
        p95: Some(ms * 1.5),
        p99: Some(ms * 2.0),
        n: 100,
        ..Quantiles::default()
    };
    let reasons: Vec<VerdictReason> = outcome
        .reason
        .iter()
        .map(|(code, severity)| VerdictReason {
            code: (*code).into(),
            detail: "evidence: 3 of 100".into(),
            severity: *severity,
        })
        .collect();
    BenchResult {
        schema: 1,
        clock: ClockEpoch { epoch_monotonic_ns: 0, epoch_unix_ns: 0 },
        requests: RequestCounts { scheduled: 100, sent: 100, completed: 99, failed: 1, censored: 0 },
        failures: BTreeMap::new(),
        duration_s: 60.0,
        input_tokens: 10_000,
        output_tokens: 20_000,
        token_source: BTreeMap::new(),
        throughput: Throughput { output_tokens_per_s: outcome.tokens_per_s, requests_per_s: 1.65 },
        goodput_requests_per_s: None,
        concurrency: Concurrency::default(),
        latency_ms: Latencies {
            ttft: at(outcome.ttft_ms),
            tpot: at(outcome.ttft_ms / 50.0),
            e2e: at(58_900.0),
            ..Latencies::default()
        },
        client: ClientQuality::default(),
        steady: None,
        verdict: Verdict { ok: !reasons.iter().any(|reason| reason.severity == Severity::Invalid), reasons },
        server: None,
        shards: None,
        precision: None,
        smoothness: None,
        server_times: None,
        latency_with_failures_ms: None,
        import: None,
    }
}

/// Rows of a plan as the store would read them.
pub(crate) fn rows(plan: &Plan, simulated: bool, outcome: impl Fn(usize) -> Option<Outcome>) -> Vec<ResultRow> {
    let row = |(number, cell): (usize, &servelab_core::plan::PlannedCell)| {
        let point = plan.points.iter().find(|point| point.id == cell.point).unwrap();
        let infeasible = cell.status == servelab_core::plan::PlanStatus::Infeasible;
        let outcome = outcome(number).filter(|_| !infeasible);
        let state =
            if infeasible { CellState::Infeasible } else { outcome.as_ref().map_or(CellState::Planned, |o| o.state) };
        let failed = state == CellState::Failed;
        ResultRow {
            study: plan.study.clone(),
            cell: cell.clone(),
            point: point.clone(),
            attempt: outcome.as_ref().map(|_| 1),
            state,
            code: (!cell.reasons.is_empty()).then(|| cell.reasons.join("; ")),
            result: outcome.as_ref().filter(|_| !failed).map(result),
            failure: failed.then(|| FailureReport {
                code: "gpu_oom".into(),
                detail: "the engine ran out of GPU memory".into(),
                line: Some("\u{1b}[31mtorch.OutOfMemoryError: CUDA out of memory\u{1b}[0m".into()),
                source: Some("server/serve-0.log".into()),
                advice: None,
            }),
            window: WindowInfo {
                simulated: Some(simulated),
                engine_version: Some("0.11.2".into()),
                ..WindowInfo::default()
            },
            context: RowContext::default(),
            accuracy: None,
            problem: None,
        }
    };
    plan.cells.iter().enumerate().map(row).collect()
}

pub(crate) fn input<'a>(
    plan: &'a Plan,
    study: &'a Study,
    rows: &'a [ResultRow],
    objective: &'a Objective,
) -> ReportInput<'a> {
    ReportInput { plan, study, rows, objective, compare: None, mix_simulated: false, tool_version: "0.1.0" }
}

pub(crate) fn throughput() -> Objective {
    Objective::parse(DEFAULT_OBJECTIVE).unwrap()
}

#[test]
fn a_simulated_ablation_in_both_forms() {
    let (study, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, true, |number| match number {
        0 => Some(done(870.0, 900.0)),
        1 => Some(Outcome { reason: Some(("preemptions", Severity::Warning)), ..done(1234.56, 1800.0) }),
        4 => Some(Outcome { state: CellState::Failed, ..done(0.0, 0.0) }),
        _ => Some(Outcome {
            state: CellState::Invalid,
            reason: Some(("client_limited", Severity::Invalid)),
            ..done(9_999.0, 1.0)
        }),
    });
    let objective = throughput();
    let input = input(&plan, &study, &rows, &objective);
    insta::assert_snapshot!("ablation_txt", report_txt(&input));
    insta::assert_snapshot!("ablation_md", report_md(&input));
}

/// Throughput by cell number for [`GRID`]: two repeats of every cell, the spread given.
fn grid_report(spread: f64, compare: Option<CompareRequest<'_>>) -> String {
    let (study, plan) = planned(GRID, 8);
    let rows = rows(&plan, false, |number| {
        let cell = &plan.cells[number];
        let point = plan.points.iter().find(|point| point.id == cell.point).unwrap();
        let seqs = point.factors["max_num_seqs"].as_f64().unwrap();
        let tokens = point.factors["max_num_batched_tokens"].as_f64().unwrap();
        Some(done(seqs + tokens / 100.0 + f64::from(cell.repeat) * spread, 100.0))
    });
    let objective = throughput();
    flat(&report_txt(&ReportInput { compare, ..input(&plan, &study, &rows, &objective) }))
}

/// Without line breaks, so that wrapping does not hide sentences.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn repeats_decide_what_can_be_said() {
    let ahead = grid_report(0.5, None);
    assert!(ahead.contains("by more than the spread of the repeats"), "{ahead}");
    assert!(ahead.contains("209.9..210.4"), "{ahead}");
    assert!(!ahead.contains("simulated"), "{ahead}");
    assert!(!ahead.contains("SLO"), "no SLO, no word about it: {ahead}");
    let noisy = grid_report(500.0, None);
    assert!(noisy.contains("cannot be told apart from the next point"), "{noisy}");
    assert!(noisy.contains("within noise"), "{noisy}");
}

#[test]
fn a_winner_that_breaks_the_slo_is_no_answer() {
    let (study, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, false, |number| Some(if number == 0 { done(500.0, 1000.0) } else { done(900.0, 5000.0) }));
    let objective = throughput();
    let text = flat(&report_txt(&input(&plan, &study, &rows, &objective)));
    let expected = "It does not meet the SLO; the first that does is 1A, 2A at closed 1 with 500 (n=1, measured).";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn one_repeat_claims_nothing() {
    let (study, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, false, |number| Some(done(100.0 + number as f64, 10.0)));
    let objective = throughput();
    let text = flat(&report_txt(&input(&plan, &study, &rows, &objective)));
    assert!(text.contains("with n=1 no spread is known"), "{text}");
    assert!(text.contains("Against the baseline 1A") && text.contains("enforce_eager=no"), "{text}");
    assert!(text.contains("unknown (n=1)"), "{text}");
}

#[test]
fn a_parameter_compared() {
    let asked = |parameter| grid_report(0.5, Some(CompareRequest { parameter, metric: "throughput_tokens_per_sec" }));
    let text = asked("max_num_seqs");
    assert!(text.contains("Throughput (tok/s) by max_num_seqs"), "{text}");
    let text = asked("enable_eplb");
    assert!(text.contains("`enable_eplb` is no in every cell that may be compared"), "{text}");
}

#[test]
fn nothing_measured_is_said_first() {
    let (study, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, false, |_| None);
    let objective = throughput();
    let text = report_txt(&input(&plan, &study, &rows, &objective));
    let expected = "NOTHING CAN BE RANKED: 4 cells planned";
    assert!(text.lines().take(9).any(|line| line.starts_with(expected)), "{text}");
}

#[test]
fn simulated_results_stay_out_of_a_measured_ranking() {
    let (study, plan) = planned(ABLATION, 8);
    let mut rows = rows(&plan, false, |_| Some(done(100.0, 10.0)));
    let fastest = rows.iter_mut().find(|row| row.result.is_some()).unwrap();
    fastest.window.simulated = Some(true);
    fastest.result.as_mut().unwrap().throughput.output_tokens_per_s = 1e6;
    let objective = throughput();
    let text = flat(&report_txt(&input(&plan, &study, &rows, &objective)));
    assert!(text.contains("1 OF 4 RESULTS ARE SIMULATED"), "{text}");
    assert!(text.contains("simulated, and measured results are ranked"), "{text}");
    assert!(text.contains("the highest Throughput (tok/s) is 100 (n=1, measured)"), "{text}");
}

#[test]
fn objectives() {
    let (_, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, false, |_| Some(done(800.0, 100.0)));
    let value = |text: &str| Objective::parse(text).unwrap().value(&rows[0]);
    assert_eq!(value("throughput_tok_s / gpus"), Some(100.0));
    assert_eq!(value("ttft_p95_ms"), Some(150.0));
    assert_eq!(value("goodput"), None, "no request SLO was judged");
    assert_eq!(value("throughput_tok_s > 3"), None, "a truth value is no objective");
    assert_eq!(value("no_such_metric + 1"), None);
    let smallest = Objective::parse("-ttft_p95_ms").unwrap();
    assert_eq!(smallest.direction(), servelab_store::rank::Direction::Minimise);
    assert_eq!((smallest.value(&rows[0]), smallest.title().as_str()), (Some(150.0), "TTFT P95 (ms)"));
    assert!(Objective::parse("1 +").is_err());
}

#[test]
fn a_status() {
    let (_, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, false, |number| match number {
        0 => Some(done(870.0, 900.0)),
        1 => Some(Outcome { state: CellState::Measuring, ..done(0.0, 0.0) }),
        4 => Some(Outcome { state: CellState::Failed, ..done(0.0, 0.0) }),
        _ => None,
    });
    let jobs = [
        crate::JobLine { uuid: "6f1c", scheduler_id: Some("123"), state: "running", reason: None },
        crate::JobLine { uuid: "77aa", scheduler_id: None, state: "failed", reason: Some("node lost") },
    ];
    let input = crate::StatusInput {
        plan: &plan,
        rows: &rows,
        jobs: &jobs,
        node_hours: Some("Node-hours: 1.20 used, 0.00 reserved."),
        how: crate::HowToRun::default(),
        width: Some(90),
    };
    insta::assert_snapshot!(crate::status_text(&input));
    let empty = crate::StatusInput { rows: &[], jobs: &[], ..input };
    assert!(crate::status_text(&empty).contains("0 of 0 cells are over."));
}

fn any_state() -> impl Strategy<Value = CellState> {
    prop::sample::select(CellState::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn never_panics(
        states in prop::collection::vec((any_state(), prop::num::f64::ANY, any::<bool>()), 0..32),
        label in ".{0,20}",
        objective in prop::sample::select(vec!["throughput_tok_s", "-itl_p95_ms", "1 / (ttft_p95_ms - 100)"]),
    ) {
        let (study, plan) = planned(GRID, 8);
        let mut rows = rows(&plan, false, |number| {
            states.get(number).map(|(state, value, _)| Outcome { state: *state, ..done(*value, value.abs()) })
        });
        rows.truncate(states.len());
        for (row, (state, _, simulated)) in rows.iter_mut().zip(&states) {
            row.point.labels = vec![label.clone()];
            row.window.simulated = Some(*simulated);
            row.state = *state;
        }
        let objective = Objective::parse(objective).unwrap();
        let compare = Some(CompareRequest { parameter: &label, metric: "success" });
        let input = ReportInput { compare, ..input(&plan, &study, &rows, &objective) };
        let text = report_txt(&input);
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "control characters");
        report_md(&input);
        let status = crate::StatusInput { plan: &plan, rows: &rows, jobs: &[], node_hours: None, how: crate::HowToRun::default(), width: Some(40) };
        crate::status_text(&status);
    }
}
