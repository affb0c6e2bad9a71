//! `scaling_analysis`: speed-up against GPUs beside the ideal, and the share of communication against GPUs.

use servelab_core::trace::scaling::{COLUMNS, Scaling, ScalingRow};

use super::svg::{Anchor, Svg, ticks};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 64.0;
const BLUE: &str = "#1f6fb2";
const ORANGE: &str = "#c8500a";
const GREY: &str = "#8a8a8a";

struct Panel {
    left: f64,
    width: f64,
    most_x: f64,
    most_y: f64,
}

impl Panel {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let height = HEIGHT - TOP - BOTTOM;
        (self.left + x / self.most_x * self.width, TOP + height - y / self.most_y * height)
    }

    fn frame(&self, svg: &mut Svg, title: &str, x_name: &str, gpus: &[f64], suffix: &str) {
        svg.text((self.left, TOP - 18.0), 14.0, Anchor::Start, title);
        for y in ticks(self.most_y, 5) {
            let (_, at) = self.place(0.0, y);
            svg.line((self.left, at), (self.left + self.width, at), "#dddddd", "");
            svg.text((self.left - 8.0, at + 4.0), 11.0, Anchor::End, &format!("{y}{suffix}"));
        }
        for x in gpus {
            let (at, base) = self.place(*x, 0.0);
            svg.line((at, base), (at, base + 5.0), GREY, "");
            svg.text((at, base + 20.0), 11.0, Anchor::Middle, &format!("{x}"));
        }
        let (middle, base) = self.place(self.most_x / 2.0, 0.0);
        svg.text((middle, base + 42.0), 12.0, Anchor::Middle, x_name);
    }
}

/// Points of one curve: GPUs, value, configuration; the best configuration of each GPU count is on the line.
fn points(rows: &[ScalingRow], value: impl Fn(&ScalingRow) -> Option<f64>) -> Vec<(f64, f64, String)> {
    rows.iter().filter_map(|row| Some((f64::from(row.gpus), value(row)?, row.experiment.clone()))).collect()
}

fn curve(svg: &mut Svg, panel: &Panel, points: &[(f64, f64, String)], colour: &str, unit: &str) {
    let line: Vec<(f64, f64)> = points.iter().map(|(x, y, _)| panel.place(*x, *y)).collect();
    svg.path(&line, colour);
    for (x, y, name) in points {
        svg.dot(panel.place(*x, *y), colour, &format!("{name}: {x} GPUs, {y:.3}{unit}"));
    }
}

/// The plot; panels without data say why they are empty.
pub fn scaling_svg(scaling: &Scaling) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT, "Scaling: speed-up and communication share");
    svg.rect((0.0, 0.0), (WIDTH, HEIGHT), "#ffffff", "");
    let gpus: Vec<f64> = {
        let mut list: Vec<u32> = scaling.rows.iter().map(|row| row.gpus).collect();
        list.dedup();
        list.into_iter().map(f64::from).collect()
    };
    let most_x = gpus.iter().copied().fold(1.0, f64::max) * 1.08;
    let first = gpus.first().copied().unwrap_or(1.0);
    let speed = points(&scaling.rows, |row| row.speedup);
    let ideal = gpus.last().map_or(1.0, |last| last / first);
    let tallest = speed.iter().map(|(_, y, _)| *y).fold(ideal, f64::max);
    let top = |most: f64| ticks(most, 5).last().copied().unwrap_or(1.0);
    let panel = Panel { left: 64.0, width: 380.0, most_x, most_y: top(tallest) };
    panel.frame(&mut svg, "Speed-up", "GPUs", &gpus, "×");
    if speed.is_empty() {
        svg.text(panel.place(most_x / 2.0, tallest / 2.0), 12.0, Anchor::Middle, "not measured");
    } else {
        if let Some(last) = gpus.last() {
            svg.line(panel.place(first, 1.0), panel.place(*last, ideal), GREY, "5 4");
            let (x, y) = panel.place(*last, ideal);
            svg.text((x, y - 8.0), 11.0, Anchor::End, "ideal");
        }
        curve(&mut svg, &panel, &speed, BLUE, "×");
    }
    let column = |name: &str| COLUMNS.iter().position(|column| *column == name);
    let share = column("comm_overhead").map(|idx| points(&scaling.rows, |row| row.metrics.get(idx).copied().flatten()));
    let share = share.unwrap_or_default();
    let tallest = share.iter().map(|(_, y, _)| *y).fold(1.0, f64::max);
    let panel = Panel { left: 540.0, width: 380.0, most_x, most_y: top(tallest) };
    panel.frame(&mut svg, "Communication, share of a step", "GPUs", &gpus, " %");
    if share.is_empty() {
        svg.text(panel.place(most_x / 2.0, tallest / 2.0), 12.0, Anchor::Middle, "not measured");
    } else {
        curve(&mut svg, &panel, &share, ORANGE, " %");
    }
    if let Some(basis) = &scaling.basis {
        svg.text((64.0, 26.0), 12.0, Anchor::Start, &format!("Speed-up by {basis}"));
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_their_values_are() {
        let row = |gpus, speedup, comm| ScalingRow {
            experiment: format!("tp{gpus} <a>"),
            gpus,
            speedup,
            metrics: vec![None, None, None, None, comm, None, None],
            ..ScalingRow::default()
        };
        let scaling = Scaling {
            rows: vec![row(1, Some(1.0), Some(0.0)), row(2, Some(1.8), Some(12.0)), row(4, Some(3.0), Some(30.0))],
            basis: Some("throughput_tokens_sec".to_owned()),
            ..Scaling::default()
        };
        let svg = scaling_svg(&scaling);
        assert!(svg.contains("tp4 &lt;a&gt;: 4 GPUs, 3.000×") && svg.contains("4 GPUs, 30.000 %"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(scaling_svg(&Scaling::default()).contains("not measured"));
    }
}
