use super::*;

fn figure(kind: Kind, series: Vec<Series>) -> Figure {
    Figure {
        id: "a".into(),
        set: "trade",
        tab: "A".into(),
        workload: "w <&>".into(),
        title: "Throughput against TPOT".into(),
        caption: String::new(),
        kind,
        x: Axis::new("TPOT (ms)", Good::Less).log(true),
        y: Axis::new("tok/s", Good::More).rate(),
        series,
        limits: vec![Limit { on_x: true, value: 20.0, text: "SLO".into() }],
        shown: usize::MAX,
    }
}

fn line(name: &str, hue: usize) -> Series {
    Series {
        name: name.into(),
        hue,
        gpus: 8,
        x: vec![10.0, 20.0, 40.0],
        y: vec![100.0, 180.0, 200.0 + hue as f64],
        low: vec![Some(90.0), None, Some(195.0)],
        high: vec![Some(110.0), None, Some(205.0)],
        text: vec!["closed 1".into(), "closed 2".into(), "closed 4".into()],
        ..Series::default()
    }
}

#[test]
fn every_kind_is_drawn() {
    let front = figure_svg(&figure(Kind::Front, vec![line("a<b", 0), line("c", 1)]));
    assert!(front.contains("a&lt;b: closed 4") && front.contains("stroke-dasharray=\"2 4\""), "{front}");
    assert!(front.contains("rotate(-90)") && front.contains("w &lt;&amp;&gt;"));
    for kind in [Kind::Lines, Kind::Curves, Kind::Steps, Kind::Dots] {
        let svg = figure_svg(&figure(kind, vec![line("a", 0), line("c", 9)]));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{kind:?}: {svg}");
        crate::plot::svg_to_png(&svg, 1.0).unwrap();
    }
    let mut effects = figure(Kind::Intervals, vec![line("e", 0)]);
    (effects.x.log, effects.y.categories) = (false, ["a = 1", "a = 2", "b = 1"].map(str::to_owned).into());
    effects.series[0].y = vec![0.0, 1.0, 2.0];
    let svg = figure_svg(&effects);
    assert!(svg.contains("a = 2") && !svg.contains("NaN"));
    let mut heat = figure(Kind::Heat, vec![line("h", 0)]);
    (heat.x, heat.y) = (effects.y.clone(), effects.y);
    (heat.series[0].x, heat.series[0].y) = (vec![0.0, 1.0, 2.0], vec![0.0, 1.0, 2.0]);
    assert_eq!(figure_svg(&heat).matches("#fde725").count(), 2, "the largest value and the end of its scale");
}

#[test]
fn a_figure_without_values_is_empty_but_whole() {
    let nothing = Series { x: vec![f64::NAN], y: vec![-1.0], ..Series::default() };
    let mut figure = figure(Kind::Lines, vec![nothing]);
    figure.y.log = true;
    let svg = figure_svg(&figure);
    assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
}

#[test]
fn numbers_are_kept_short() {
    assert_eq!([short(1234.567), short(0.000_123_456), short(0.0)], [1234.6, 0.000_123_46, 0.0]);
    assert!(short(f64::NAN).is_nan());
}

#[test]
fn four_panels_in_one_picture() {
    let panel = |name: &str| {
        let mut panel = figure(Kind::Front, vec![line("a", 0), line("c", 1)]);
        panel.id = format!("throughput_vs_{name}");
        panel
    };
    let panels = ["interactivity", "tpot_mean", "ttft_mean", "chunk_latency"].map(panel);
    let all: Vec<&Figure> = panels.iter().collect();
    let svg = four_panels_svg(&all).unwrap();
    assert_eq!((svg.matches("<svg ").count(), svg.matches("</svg>").count()), (5, 5));
    let (one, four) =
        (crate::plot::svg_to_png(&figure_svg(&panels[0]), 1.0).unwrap(), crate::plot::svg_to_png(&svg, 1.0).unwrap());
    assert!(four.len() > 2 * one.len(), "{} against {}", four.len(), one.len());
    assert!(four_panels_svg(&all[..3]).is_none());
}
