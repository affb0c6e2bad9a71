use servelab_core::metrics::ServerTimeline;
use servelab_core::study::Study;
use servelab_store::best::{BestRequest, best};
use servelab_store::{CellDetail, RequestDot, ResultRow};

use super::*;
use crate::figure::{FigureInput, PredictedPair, figure_svg, figures, normalised};
use crate::report::tests::{Outcome, done, input, rows, throughput};
use crate::testing::{ABLATION, GRID, planned};

/// The page over rows, with one cell looked into and one prediction.
fn page(study: &Study, plan: &servelab_core::plan::Plan, rows: &[ResultRow]) -> (String, Vec<Figure>) {
    let objective = throughput();
    let report = input(plan, study, rows, &objective);
    let request = BestRequest {
        value: &|row| objective.value(row),
        direction: objective.direction(),
        meets: &|row| crate::best::meets_cell_slo(study, row),
    };
    let answers = best(rows, &request);
    let dot = |i: u32| RequestDot {
        sent_s: f64::from(i),
        input_tokens: Some(64),
        output_tokens: Some(16),
        ttft_ms: Some(f64::from(10 + i)),
        e2e_ms: Some(f64::from(100 + i)),
        is_failed: i == 3,
    };
    let details = [CellDetail {
        cell: rows[0].cell.id.clone(),
        window_s: 10.0,
        distributions: vec![("ttft", vec![1.0, 2.0, 9.0])],
        dots: (0..8).map(dot).collect(),
        n_requests: 900,
        throughput: vec![(1.0, 5.0), (2.0, 6.0)],
        server: ServerTimeline { running: vec![(0, 1.0), (5_000_000_000, 4.0)], ..ServerTimeline::default() },
    }];
    let predicted = [PredictedPair {
        metric: "ttft_mean_ms",
        workload: rows[0].cell.workload.clone(),
        point: "p|1".into(),
        load: "closed 1".into(),
        predicted: 110.0,
        measured: 100.0,
    }];
    let figures = figures(&FigureInput { report: &report, details: &details, predicted: &predicted });
    let further = ["Traces\n  a < b".to_owned()];
    let page = report_page(&PageInput {
        report: &report,
        best: &answers,
        figures: &figures,
        further: &further,
        study_file: Some("my study.yaml"),
    });
    (page, figures)
}

fn grid(labels: &str) -> (Study, servelab_core::plan::Plan, Vec<ResultRow>) {
    let (study, plan) = planned(&GRID.replace("study: small-grid", labels), 8);
    let rows = rows(&plan, false, |number| {
        let cell = &plan.cells[number];
        let point = plan.points.iter().find(|point| point.id == cell.point).unwrap();
        let (seqs, tokens) = (&point.factors["max_num_seqs"], &point.factors["max_num_batched_tokens"]);
        let load = cell.load.value();
        let speed = (seqs.as_f64().unwrap() + tokens.as_f64().unwrap() / 100.0) * load;
        Some(done(speed + f64::from(cell.repeat), 100.0 * load + tokens.as_f64().unwrap() / 100.0))
    });
    (study, plan, rows)
}

#[test]
fn a_grid_has_every_figure_and_the_answer_comes_first() {
    let (study, plan, rows) = grid("study: small-grid");
    let (page, figures) = page(&study, &plan, &rows);
    let ids: Vec<&str> = figures.iter().map(|figure| figure.id.as_str()).collect();
    for id in [
        "throughput_vs_interactivity",
        "throughput_vs_tpot_mean",
        "throughput_vs_chunk_latency",
        "ttft_p95_vs_open",
        "tpot_mean_vs_open",
        "effects",
        "grid_max_num_batched_tokens_max_num_seqs",
        "cdf_ttft",
        "time_throughput",
        "time_running",
        "requests_ttft",
        "predicted_ttft_mean",
    ] {
        assert!(ids.contains(&id), "no {id} in {ids:?}");
    }
    let unique: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    for figure in &figures {
        let svg = figure_svg(figure);
        assert!(!svg.contains("NaN") && svg.ends_with("</svg>\n"), "{}: {svg}", figure.id);
    }
    let position = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text:?}"));
    assert!(position("class=\"headline\"") < position("id=\"trade\""));
    assert!(position("What to do next") < position("id=\"ranking\""));
    for text in [
        "GPU-hours</span>",
        "Who wins where",
        "servelab best &#39;my study.yaml&#39;",
        "What to try",
        "a &lt; b",
        "max_num_seqs",
    ] {
        assert!(page.contains(text) || text == "What to try", "no {text:?}");
    }
    // The best is at the highest rate, and more sequences were better all the way.
    assert!(
        page.contains("Measure higher loads") && page.contains("Try max_num_seqs above 128"),
        "{}",
        &page[position("What to do next")..][..900]
    );
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!page.replace(LIBRARY, "").contains(outside), "{outside}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let (study, plan, rows) = grid("study: \"</script><img src=x>\"");
    let (page, _) = page(&study, &plan, &rows);
    let own = page.replace(LIBRARY, "").replace(SCRIPT, "");
    assert!(!own.contains("<img src=x>"), "escaped everywhere");
    assert_eq!(own.matches("</script>").count(), 3, "one end for each script element");
}

#[test]
fn nothing_to_recommend_is_said_and_doubts_come_before_numbers() {
    let (study, plan) = planned(ABLATION, 8);
    let rows = rows(&plan, true, |number| match number {
        0 => Some(Outcome { state: servelab_core::state::CellState::Failed, ..done(0.0, 0.0) }),
        _ => Some(Outcome {
            state: servelab_core::state::CellState::Invalid,
            reason: Some(("client_limited", servelab_core::result::Severity::Invalid)),
            ..done(9.0, 1.0)
        }),
    });
    let (page, _) = page(&study, &plan, &rows);
    assert!(page.contains("NOTHING CAN BE RECOMMENDED"), "{}", &page[..2000]);
    assert!(page.contains("<b>All results are simulated</b>"));
    assert!(page.contains("1 cell failed") && page.contains("torch.OutOfMemoryError"));
    assert!(page.contains("<code>client_limited</code></a>"));
}

#[test]
fn who_wins_where() {
    let (study, plan, rows) = grid("study: small-grid");
    let (_, figures) = page(&study, &plan, &rows);
    let figure = figures.iter().find(|figure| figure.id == "throughput_vs_tpot_mean").unwrap();
    let text = regimes::table(figure, None).unwrap().to_text(None);
    let first = text.lines().nth(2).unwrap();
    assert!(first.starts_with("up to "), "{text}");
    // Twice the GPUs, half the rate for each.
    let mut doubled = figure.clone();
    doubled.series.iter_mut().for_each(|series| series.gpus = 2);
    let per_gpu = normalised(&doubled, Some(1.0));
    assert_eq!(per_gpu.series[0].y[0] * 2.0, figure.series[0].y[0]);
    assert!(per_gpu.y.title.ends_with("per GPU") && per_gpu.x.title == figure.x.title);
}
