use servelab_core::site::Scheduler;

use super::*;
use crate::testing::{ABLATION, GRID, planned};

#[test]
fn an_ablation() {
    let (study, plan) = planned(ABLATION, 8);
    let how = HowToRun { study_file: "a.yaml", scheduler: Scheduler::Slurm, site: "vista", root: Some("/scratch/out") };
    let mut site = Site::local();
    site.hardware.gpu = Some("H200".to_owned());
    let options = ManifestOptions { how, site: Some(&site), created: Some("2026-01-02"), max_points: 0 };
    insta::assert_snapshot!(manifest_md(&plan, &study, &options));
}

#[test]
fn long_designs_are_cut_and_say_so() {
    let (study, plan) = planned(GRID, 8);
    let text = manifest_md(&plan, &study, &ManifestOptions { max_points: 3, ..ManifestOptions::default() });
    assert!(text.contains("### 1–8. Batch (8 configs)"), "{text}");
    assert!(text.contains("… and 5 configurations more"), "{text}");
    assert!(text.contains("Blocked: "), "{text}");
    assert_eq!(text.matches("| batch/max").count(), 3, "three rows:\n{text}");
}

#[test]
fn every_example_study_has_a_plan_and_a_manifest() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if text.lines().any(|line| line.starts_with("extends:")) {
            continue;
        }
        seen += 1;
        let (study, plan) = planned(&text, 8);
        let manifest = manifest_md(&plan, &study, &ManifestOptions::default());
        for point in &plan.points {
            let named = |word: &String| assert!(manifest.contains(word.as_str()), "{}: no {word}", path.display());
            point.labels.iter().for_each(named);
            point.legacy_hashes.values().for_each(named);
        }
        let text = crate::plan_text(&plan, &study, &crate::PlanTextOptions { width: Some(100), ..Default::default() });
        assert!(text.contains(&plan.study), "{text}");
    }
    assert!(seen > 3, "only {seen} example studies were read");
}
