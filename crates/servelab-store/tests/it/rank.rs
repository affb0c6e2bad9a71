//! Rankings and marginals over rows.

use serde_json::json;
use servelab_core::ids::PointId;
use servelab_core::metrics::Told;
use servelab_core::result::{BenchResult, Severity};
use servelab_core::state::CellState;
use servelab_store::baseline::against_baseline;
use servelab_store::design::study_change;
use servelab_store::rank::{Direction, RankRequest, Ranking, Scope, marginals, rank};
use servelab_store::{ResultRow, RowContext, WindowInfo};

use crate::scene;

fn row(
    point: &str,
    factors: serde_json::Value,
    repeat: u32,
    concurrency: u32,
    result: Option<BenchResult>,
) -> ResultRow {
    let is_ok = result.as_ref().is_some_and(|result| result.verdict.ok);
    let invalid = if result.is_some() { CellState::Invalid } else { CellState::Failed };
    ResultRow {
        study: "demo".into(),
        cell: scene::cell(&format!("{point}-{repeat}-{concurrency}"), point, concurrency, repeat),
        point: scene::point(point, factors),
        attempt: Some(1),
        state: if is_ok { CellState::Done } else { invalid },
        code: None,
        result,
        failure: None,
        window: WindowInfo { simulated: Some(false), ..WindowInfo::default() },
        context: RowContext::default(),
        accuracy: None,
        problem: None,
    }
}

fn good(point: &str, repeat: u32, tokens_per_s: f64) -> ResultRow {
    row(point, json!({}), repeat, 8, Some(scene::with_throughput(scene::result(), tokens_per_s)))
}

fn throughput(row: &ResultRow) -> Option<f64> {
    row.metric("throughput_tokens_per_sec")
}

fn by_throughput(rows: &[ResultRow], direction: Direction, scope: Scope) -> Ranking {
    rank(rows, &RankRequest { value: &throughput, direction, scope, mix_simulated: false })
}

fn order(ranking: &Ranking) -> Vec<(u64, &str)> {
    ranking.ranked.iter().map(|entry| (entry.rank, entry.group.point.as_str())).collect()
}

#[test]
fn repeats_are_averaged_and_noise_is_named() {
    let rows = [
        good("slow", 0, 100.0),
        good("fast", 0, 210.0),
        good("fast", 1, 190.0),
        good("slow", 1, 104.0),
        good("near", 0, 205.0),
        good("near", 1, 180.0),
    ];
    let ranking = by_throughput(&rows, Direction::Maximise, Scope::Overall);
    assert_eq!(order(&ranking), [(1, "fast"), (2, "near"), (3, "slow")]);
    let stats = ranking.ranked[0].group.stats.unwrap();
    assert_eq!((stats.n, stats.mean, stats.min, stats.max), (2, 200.0, 190.0, 210.0));
    let told: Vec<Option<Told>> = ranking.ranked.iter().map(|entry| entry.versus_best).collect();
    assert_eq!(told, [None, Some(Told::WithinNoise), Some(Told::Apart)]);
    let single = by_throughput(&[good("a", 0, 2.0), good("b", 0, 1.0)], Direction::Maximise, Scope::Overall);
    assert_eq!(single.ranked[1].versus_best, Some(Told::Unknown), "nothing was repeated");
    assert_eq!(order(&by_throughput(&rows, Direction::Minimise, Scope::Overall))[0], (1, "slow"));
    assert!(ranking.warnings.is_empty());
}

#[test]
fn what_must_not_be_believed_gets_no_rank() {
    let mut empty = scene::result();
    empty.requests.completed = 0;
    let mut no_value = good("novalue", 0, 0.0);
    no_value.result.as_mut().unwrap().throughput.output_tokens_per_s = f64::NAN;
    let rows = [
        good("good", 0, 10.0),
        row(
            "invalid",
            json!({}),
            0,
            8,
            Some(scene::with_verdict(scene::result(), "zero_token_successes", Severity::Invalid)),
        ),
        row(
            "missing",
            json!({}),
            0,
            8,
            Some(scene::with_verdict(scene::result(), "metrics_missing", Severity::Invalid)),
        ),
        row("empty", json!({}), 0, 8, Some(empty)),
        row("failed", json!({}), 0, 8, None),
        no_value,
        row("warned", json!({}), 0, 8, Some(scene::with_verdict(scene::result(), "preemptions", Severity::Warning))),
        row("good", json!({}), 1, 8, None),
    ];
    let ranking = by_throughput(&rows, Direction::Maximise, Scope::Overall);
    assert_eq!(order(&ranking), [(1, "warned"), (2, "good")]);
    assert_eq!(ranking.ranked[1].group.excluded.len(), 1, "a failed repeat is remembered beside the good one");
    let reasons: Vec<(&str, &str)> =
        ranking.unranked.iter().map(|group| (group.point.as_str(), group.excluded[0].reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            ("invalid", "invalid (zero_token_successes)"),
            ("missing", "invalid (metrics_missing)"),
            ("empty", "no request succeeded"),
            ("failed", "failed"),
            ("novalue", "the objective has no value here"),
        ]
    );
    assert!(ranking.warnings[0].contains("2 of 2 entries rest on one repeat"), "{:?}", ranking.warnings);
}

#[test]
fn simulated_rows_never_compete_with_measured_ones_unasked() {
    let mut simulated = good("sim", 0, 999.0);
    simulated.window.simulated = Some(true);
    let rows = [good("real", 0, 10.0), simulated];
    let ranking = by_throughput(&rows, Direction::Maximise, Scope::Overall);
    assert_eq!(order(&ranking), [(1, "real")]);
    assert!(ranking.unranked[0].excluded[0].reason.starts_with("simulated"));
    let request =
        RankRequest { value: &throughput, direction: Direction::Maximise, scope: Scope::Overall, mix_simulated: true };
    let mixed = rank(&rows, &request);
    assert_eq!(order(&mixed), [(1, "sim"), (2, "real")]);
    assert!(mixed.warnings.iter().any(|warning| warning.contains("simulated")));
    assert_eq!(order(&by_throughput(&rows[1..], Direction::Maximise, Scope::Overall)), [(1, "sim")]);
}

#[test]
fn ties_share_a_rank_and_versions_are_not_mixed_silently() {
    let mut rows = vec![good("a", 0, 5.0), good("b", 0, 5.0), good("c", 0, 4.0)];
    assert_eq!(order(&by_throughput(&rows, Direction::Maximise, Scope::Overall)), [(1, "a"), (1, "b"), (3, "c")]);
    rows[1].window.engine_version = Some("0.12.0".into());
    let ranking = by_throughput(&rows, Direction::Maximise, Scope::Overall);
    assert!(ranking.warnings[0].contains("0.11.0, 0.12.0"), "{:?}", ranking.warnings);
}

#[test]
fn each_condition_can_have_its_own_ranking() {
    let at = |point: &str, concurrency, value| {
        row(point, json!({}), 0, concurrency, Some(scene::with_throughput(scene::result(), value)))
    };
    let rows = [at("a", 1, 1.0), at("b", 1, 2.0), at("a", 64, 9.0), at("b", 64, 8.0)];
    let ranking = by_throughput(&rows, Direction::Maximise, Scope::PerCondition);
    assert_eq!(order(&ranking), [(1, "b"), (2, "a"), (1, "a"), (2, "b")]);
    assert_eq!(order(&by_throughput(&rows, Direction::Maximise, Scope::Overall))[0], (1, "a"));
}

#[test]
fn marginals_average_over_the_rest_and_say_when_they_are_unbalanced() {
    let at = |batch: u32, seqs: u32, value| {
        let factors = json!({"batch": batch, "seqs": seqs, "constant": 1});
        row(&format!("{batch}-{seqs}"), factors, 0, 8, Some(scene::with_throughput(scene::result(), value)))
    };
    let names = ["batch".to_owned(), "seqs".to_owned(), "constant".to_owned()];
    let mut rows = vec![at(8192, 64, 10.0), at(8192, 128, 20.0), at(16384, 64, 30.0), at(16384, 128, 50.0)];
    let got = marginals(&rows, &names, &throughput);
    assert_eq!(got.len(), 2, "a constant has no marginal");
    let means: Vec<(u64, f64, u64)> =
        got[0].levels.iter().map(|level| (level.value.as_u64().unwrap(), level.stats.mean, level.stats.n)).collect();
    assert_eq!((means, got[0].is_balanced), (vec![(8192, 15.0, 2), (16384, 40.0, 2)], true));
    rows.pop();
    let got = marginals(&rows, &names, &throughput);
    assert!(!got[0].is_balanced && !got[1].is_balanced);
    rows[0].state = CellState::Failed;
    assert_eq!(marginals(&rows, &names, &throughput)[0].levels[0].stats.n, 1);
}

#[test]
fn points_against_the_baseline_with_the_family_allowed_for() {
    let mut rows = Vec::new();
    for repeat in 0..3 {
        let jitter = f64::from(repeat);
        rows.push(good("base", repeat, 100.0 + jitter));
        rows.push(good("faster", repeat, 130.0 + 1.5 * jitter));
        rows.push(good("same", repeat, [101.5, 100.0, 102.5][repeat as usize]));
    }
    rows.push(row("failed", json!({}), 0, 8, None));
    rows.push(good("once", 0, 500.0));
    let found = against_baseline(&rows, &PointId::new("base"), &throughput);
    let of = |point: &str| found.iter().find(|one| one.point.as_str() == point).unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!((of("faster").comparison.relative.unwrap() - 0.302).abs() < 0.01);
    assert!(of("faster").p_adjusted.unwrap() < 0.05 && of("same").p_adjusted.unwrap() > 0.05, "{found:?}");
    assert!(of("faster").p_adjusted.unwrap() >= of("faster").comparison.p.unwrap());
    assert!(against_baseline(&rows, &PointId::new("missing"), &throughput).is_empty());
}

#[test]
fn a_change_between_two_runs_is_found_in_the_order_of_the_clock() {
    let mut rows = Vec::new();
    for point in 0..6 {
        for repeat in 0..4 {
            let level = if repeat < 2 { 1.0 } else { 0.8 };
            let mut row = good(
                &format!("p{point}"),
                repeat,
                f64::from(100 * (point + 1)) * level * (1.0 + 0.001 * f64::from(point)),
            );
            row.window.order = Some(point as u32);
            let clock = servelab_core::record::ClockEpoch {
                epoch_monotonic_ns: 0,
                epoch_unix_ns: i64::from(repeat * 10 + point as u32),
            };
            row.window.clock = Some(clock);
            rows.push(row);
        }
    }
    let change = study_change(&rows, &throughput).unwrap();
    assert!(change.at == 12 && change.p < 0.01 && change.before > change.after, "{change:?}");
}
