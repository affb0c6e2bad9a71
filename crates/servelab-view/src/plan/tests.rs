use proptest::prelude::*;
use servelab_core::expand::Summary;
use servelab_core::ids::{CellId, PointId};
use servelab_core::plan::{CellSettings, Load, NodeHours, PlannedCell, StopAt, WallHours};
use servelab_core::site::Scheduler;

use super::*;
use crate::testing::{ABLATION, GRID, PREFILL_DECODE, planned};

fn shown(text: &str, options: &PlanTextOptions<'_>) -> String {
    let (study, plan) = planned(text, 8);
    plan_text(&plan, &study, options)
}

#[test]
fn an_ablation() {
    let options = PlanTextOptions { width: Some(100), ..PlanTextOptions::default() };
    insta::assert_snapshot!(shown(ABLATION, &options));
}

#[test]
fn a_grid_with_more_points_than_fit() {
    let how = HowToRun { study_file: "grid.yaml", scheduler: Scheduler::Slurm, site: "vista", root: None };
    let options = PlanTextOptions { width: Some(90), verbose: false, max_points: 3, how };
    insta::assert_snapshot!(shown(GRID, &options));
}

#[test]
fn roles_and_node_maps() {
    let options = PlanTextOptions { width: Some(100), verbose: true, ..PlanTextOptions::default() };
    let text = shown(PREFILL_DECODE, &options);
    let check = |line: &str| assert!(text.contains(line), "no `{line}` in:\n{text}");
    check("1P-TP2+1D-TP4-pack: 1 × prefill, 2 GPUs + 1 × decode, 4 GPUs + 1 × router");
    check("node 0: prefill[0] gpu 0-1, decode[0] gpu 2-5, router[0]");
    check("node 1: decode[0] gpu 0-3");
    check("# 1P-TP2+1D-TP4-pack prefill");
}

#[test]
fn counts_only() {
    let (_, plan) = planned(GRID, 8);
    let summary = Summary {
        schema: 1,
        study: plan.study,
        counts: PlanCounts { raw_points: 1_000_000, labelled_points: 600_000, ..plan.counts },
        designs: plan.designs,
        infeasible_reasons: [("a rule with N".to_owned(), 12), ("another".to_owned(), 3_000)].into(),
    };
    insta::assert_snapshot!(summary_text(&summary, Some(90)));
}

fn empty_plan() -> Plan {
    Plan {
        schema: 1,
        id_scheme: 1,
        study: "empty".into(),
        points: vec![],
        cells: vec![],
        jobs: 0,
        node_hours: NodeHours::default(),
        wall_hours: WallHours::default(),
        warnings: vec![],
        designs: vec![],
        counts: PlanCounts::default(),
    }
}

#[test]
fn an_empty_plan_says_so() {
    let (study, _) = planned(GRID, 8);
    let text = plan_text(&empty_plan(), &study, &PlanTextOptions::default());
    assert!(text.contains("No point yet.") && text.contains("Nothing here can run."), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn never_panics(
        labels in prop::collection::vec(prop::collection::vec(".{0,12}", 0..3), 0..6),
        reasons in prop::collection::vec(".{0,30}", 0..3),
        width in prop::option::of(0usize..120),
        max_points in 0usize..5,
        verbose: bool,
        hours in -1.0f64..1e9,
    ) {
        let (study, full) = planned(PREFILL_DECODE, 8);
        let mut plan = empty_plan();
        plan.node_hours.sequential = hours;
        plan.warnings = reasons.clone();
        for (number, labels) in labels.into_iter().enumerate() {
            let mut point = full.points[number % full.points.len()].clone();
            point.id = PointId::new(labels.concat());
            point.labels = labels;
            point.reasons = reasons.clone();
            point.status = [PlanStatus::Planned, PlanStatus::Infeasible, PlanStatus::Blocked][number % 3];
            plan.cells.push(PlannedCell {
                id: CellId::new(""),
                point: point.id.clone(),
                workload: reasons.concat(),
                load: Load::closed(1),
                repeat: u32::try_from(number).unwrap(),
                settings: CellSettings {
                    stop: StopAt::DurationS(f64::NAN),
                    warmup_requests: 0,
                    seed: 0,
                    request_timeout_s: 0.0,
                    output_max: None,
                    ignore_eos: true,
                    endpoint: None,
                    temperature: 0.0,
                    reuse_prompts: false,
                },
                status: PlanStatus::Infeasible,
                reasons: reasons.clone(),
            });
            plan.points.push(point);
        }
        let options = PlanTextOptions { width, verbose, max_points, how: HowToRun::default() };
        let text = plan_text(&plan, &study, &options);
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "control characters");
        crate::manifest_md(&plan, &study, &crate::ManifestOptions::default());
    }
}
