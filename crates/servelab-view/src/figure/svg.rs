//! A figure as SVG for papers: white ground, axes with round ticks, whiskers, a legend, markers that differ in shape as
//! well as in colour.

use servelab_core::stats::{Better, pareto_front};

use super::{Axis, Figure, Good, Kind, Series};
use crate::plot::{Anchor, Svg};
use crate::text::number::number;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 70.0;
/// Room for the legend.
const LEGEND: f64 = 220.0;
const MOST_LEGEND: usize = 18;

/// Colours that people with any kind of colour vision can tell apart (Okabe and Ito's, and two more).
pub(crate) const COLOURS: [&str; 10] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a3d9a", "#6b6b6b", "#8c510a", "#1a7f37"];

/// From low to high.
const FIELD: [(f64, f64, f64); 5] =
    [(68.0, 1.0, 84.0), (59.0, 82.0, 139.0), (33.0, 145.0, 140.0), (94.0, 201.0, 98.0), (253.0, 231.0, 37.0)];

/// Where values stand on one axis.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: &Axis, values: &[f64], (from, to): (f64, f64)) -> Self {
        if !axis.categories.is_empty() {
            let n = axis.categories.len() as f64;
            return Self {
                low: -0.5,
                high: n - 0.5,
                log: false,
                from,
                to,
                ticks: (0..axis.categories.len()).map(|i| i as f64).collect(),
            };
        }
        let usable = || values.iter().copied().filter(|x| x.is_finite() && (!axis.log || *x > 0.0));
        let (mut low, mut high) = (usable().fold(f64::INFINITY, f64::min), usable().fold(f64::NEG_INFINITY, f64::max));
        if low > high {
            (low, high) = if axis.log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if axis.log {
            let pad = ((high / low).log10() * 0.05).max(0.02);
            let (low, high) = (low * 10_f64.powf(-pad), high * 10_f64.powf(pad));
            return Self { low, high, log: true, from, to, ticks: log_ticks(low, high) };
        }
        if low >= 0.0 {
            low = 0.0;
        }
        if high <= low {
            high = low + 1.0;
        }
        let ticks = linear_ticks(low, high, 6);
        let (first, last) = (ticks.first().copied().unwrap_or(low), ticks.last().copied().unwrap_or(high));
        Self { low: first.min(low), high: last.max(high), log: false, from, to, ticks }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    fn holds(&self, value: f64) -> bool {
        value.is_finite() && value >= self.low && value <= self.high
    }
}

/// Round numbers from below `low` to above `high`.
fn linear_ticks(low: f64, high: f64, n: u32) -> Vec<f64> {
    let rough = (high - low) / f64::from(n);
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999).unwrap_or(rough);
    let first = (low / step).floor();
    (0..40).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick < high + step * 0.999).collect()
}

/// 1, 2 and 5 in every decade; only powers of ten over many.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let steps: &[f64] = if decades > 4.0 {
        &[1.0]
    } else if decades > 0.7 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    };
    let first = low.log10().floor();
    let all = (0..40_u32).flat_map(|i| steps.iter().map(move |step| step * 10_f64.powf(first + f64::from(i))));
    all.take_while(|tick| *tick <= high * 1e3).filter(|tick| *tick >= low && *tick <= high).collect()
}

/// The figure with the series that it shows at first.
pub fn figure_svg(figure: &Figure) -> String {
    let series: Vec<&Series> = figure.series.iter().take(figure.shown).filter(|series| !series.x.is_empty()).collect();
    let has_legend = figure.kind == Kind::Heat || (series.len() > 1 && figure.kind != Kind::Intervals);
    let longest = figure.y.categories.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
    let left = if longest > 0.0 { (longest * 6.6 + 34.0).clamp(84.0, 380.0) } else { 84.0 };
    let right = WIDTH - if has_legend { LEGEND } else { 24.0 };
    let rows = figure.y.categories.len() as f64;
    let height = if figure.kind == Kind::Intervals { (rows * 20.0 + TOP + BOTTOM).max(200.0) } else { HEIGHT };
    let mut xs: Vec<f64> = series.iter().flat_map(|series| series.x.iter().copied()).collect();
    let mut ys: Vec<f64> = series.iter().flat_map(|series| series.y.iter().copied()).collect();
    if figure.kind != Kind::Heat {
        let ends = series.iter().flat_map(|series| series.low.iter().chain(&series.high)).flatten().copied();
        if figure.kind == Kind::Intervals { xs.extend(ends) } else { ys.extend(ends) }
    }
    let x = Scale::new(&figure.x, &xs, (left, right));
    // Categories are read from the top.
    let ends = if figure.y.categories.is_empty() { (height - BOTTOM, TOP) } else { (TOP, height - BOTTOM) };
    let y = Scale::new(&figure.y, &ys, ends);
    let mut svg = Svg::new(WIDTH, height, &figure.title);
    svg.rect((0.0, 0.0), (WIDTH, height), "#ffffff", "");
    let simulated = if series.iter().any(|series| series.simulated) { " (simulated)" } else { "" };
    svg.text((left, 24.0), 15.0, Anchor::Start, &format!("{}{simulated}", figure.title));
    svg.text((left, 42.0), 11.0, Anchor::Start, &figure.workload);
    let frame = Frame { figure, x: &x, y: &y, left, right, height };
    frame.axes(&mut svg);
    match figure.kind {
        Kind::Heat => frame.field(&mut svg, &series),
        Kind::Intervals => frame.intervals(&mut svg, &series),
        _ => frame.plot(&mut svg, &series),
    }
    if has_legend && figure.kind != Kind::Heat {
        legend(&mut svg, figure, &series, right + 18.0);
    }
    svg.finish()
}

/// The four panels that a prefill/decode study is read by, in one picture: throughput against TPOT, TTFT, chunk latency and
/// interactivity. `None` unless all four are there.
pub fn four_panels_svg(figures: &[&Figure]) -> Option<String> {
    let panel = |start: &str| figures.iter().find(|figure| figure.id.starts_with(start)).copied();
    let wanted =
        ["tpot_mean", "ttft_mean", "chunk_latency", "interactivity"].map(|name| format!("throughput_vs_{name}"));
    let panels = wanted.iter().map(|start| panel(start)).collect::<Option<Vec<&Figure>>>()?;
    let mut svg = Svg::new(2.0 * WIDTH, 2.0 * HEIGHT, "Throughput against TPOT, TTFT, chunk latency and interactivity");
    for (idx, figure) in panels.into_iter().enumerate() {
        let (x, y) = ((idx % 2) as f64 * WIDTH, (idx / 2) as f64 * HEIGHT);
        svg.raw(&figure_svg(figure).replacen("<svg ", &format!("<svg x=\"{x}\" y=\"{y}\" "), 1));
    }
    Some(svg.finish())
}

struct Frame<'a> {
    figure: &'a Figure,
    x: &'a Scale,
    y: &'a Scale,
    left: f64,
    right: f64,
    height: f64,
}

impl Frame<'_> {
    fn axes(&self, svg: &mut Svg) {
        let floor = self.height - BOTTOM;
        for tick in &self.x.ticks {
            let at = self.x.at(*tick);
            svg.line((at, TOP), (at, floor), "#e6e6e6", "");
            let label = self.figure.x.categories.get(*tick as usize).cloned().unwrap_or_else(|| number(*tick));
            svg.text((at, floor + 18.0), 11.0, Anchor::Middle, &label);
        }
        for tick in &self.y.ticks {
            let at = self.y.at(*tick);
            svg.line((self.left, at), (self.right, at), "#e6e6e6", "");
            let label = self.figure.y.categories.get(*tick as usize).cloned().unwrap_or_else(|| number(*tick));
            svg.text((self.left - 8.0, at + 4.0), 11.0, Anchor::End, &label);
        }
        svg.line((self.left, floor), (self.right, floor), "#444444", "");
        svg.line((self.left, TOP), (self.left, floor), "#444444", "");
        svg.text((f64::midpoint(self.left, self.right), floor + 44.0), 12.5, Anchor::Middle, &self.figure.x.title);
        if !self.figure.y.title.is_empty() {
            svg.turned_text((20.0, f64::midpoint(TOP, floor)), 12.5, &self.figure.y.title);
        }
        for limit in &self.figure.limits {
            let colour = "#b00020";
            if limit.on_x && self.x.holds(limit.value) {
                let at = self.x.at(limit.value);
                svg.line((at, TOP), (at, floor), colour, "6 4");
                svg.text((at - 4.0, TOP + 12.0), 10.5, Anchor::End, &limit.text);
            } else if !limit.on_x && self.y.holds(limit.value) {
                let at = self.y.at(limit.value);
                svg.line((self.left, at), (self.right, at), colour, "6 4");
                svg.text((self.right - 4.0, at - 5.0), 10.5, Anchor::End, &limit.text);
            }
        }
    }

    fn plot(&self, svg: &mut Svg, series: &[&Series]) {
        let kind = self.figure.kind;
        if kind == Kind::Front {
            self.front(svg, series);
        }
        for series in series {
            let colour = colour(series.hue);
            let places: Vec<(f64, f64)> = series
                .x
                .iter()
                .zip(&series.y)
                .filter(|(x, y)| {
                    x.is_finite() && y.is_finite() && (!self.x.log || **x > 0.0) && (!self.y.log || **y > 0.0)
                })
                .map(|(x, y)| (self.x.at(*x), self.y.at(*y)))
                .collect();
            for ((x, low), high) in series.x.iter().zip(&series.low).zip(&series.high) {
                if let (Some(low), Some(high)) = (low, high) {
                    let at = self.x.at(*x);
                    svg.line((at, self.y.at(*low)), (at, self.y.at(*high)), colour, "");
                }
            }
            match kind {
                Kind::Steps => svg.path(&stairs(&places), colour),
                Kind::Dots if series.text.is_empty() && places.len() > 2 => {
                    places.iter().for_each(|place| svg.small_dot(*place, colour));
                }
                Kind::Dots if series.text.is_empty() => svg.path(&places, colour),
                Kind::Dots => {}
                _ => svg.path(&places, colour),
            }
            if matches!(kind, Kind::Lines | Kind::Front) || (kind == Kind::Dots && !series.text.is_empty()) {
                for (place, text) in
                    places.iter().zip(series.text.iter().map(String::as_str).chain(std::iter::repeat("")))
                {
                    svg.marker(*place, series.hue, colour, &format!("{}: {text}", series.name));
                }
            }
        }
    }

    fn front(&self, svg: &mut Svg, series: &[&Series]) {
        let spots: Vec<(f64, f64)> =
            series.iter().flat_map(|series| series.x.iter().copied().zip(series.y.iter().copied())).collect();
        let better = Better { more_x: self.figure.x.good == Good::More, more_y: self.figure.y.good != Good::Less };
        let front: Vec<(f64, f64)> = pareto_front(&spots, better)
            .into_iter()
            .filter_map(|idx| spots.get(idx))
            .map(|(x, y)| (self.x.at(*x), self.y.at(*y)))
            .collect();
        for pair in front.windows(2) {
            if let [a, b] = pair {
                svg.line(*a, *b, "#222222", "2 4");
            }
        }
    }

    fn intervals(&self, svg: &mut Svg, series: &[&Series]) {
        let zero = self.x.at(0.0);
        svg.line((zero, TOP), (zero, self.height - BOTTOM), "#666666", "4 3");
        for series in series {
            for (idx, (x, y)) in series.x.iter().zip(&series.y).enumerate() {
                let at = self.y.at(*y);
                let end = |ends: &[Option<f64>]| ends.get(idx).copied().flatten();
                let crosses = match (end(&series.low), end(&series.high)) {
                    (Some(low), Some(high)) => {
                        let colour = if low <= 0.0 && high >= 0.0 { "#9a9a9a" } else { "#0072b2" };
                        svg.line((self.x.at(low), at), (self.x.at(high), at), colour, "");
                        colour
                    }
                    _ => "#9a9a9a",
                };
                let text = series.text.get(idx).map_or("", String::as_str);
                svg.dot((self.x.at(*x), at), crosses, &format!("{}: {text}", number(*x)));
            }
        }
    }

    fn field(&self, svg: &mut Svg, series: &[&Series]) {
        let values: Vec<f64> = series.iter().flat_map(|series| series.low.iter().flatten().copied()).collect();
        let (low, high) = (
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        );
        let share = |value: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
        let width = (self.x.at(1.0) - self.x.at(0.0)).abs() - 3.0;
        let height = (self.y.at(1.0) - self.y.at(0.0)).abs() - 3.0;
        for series in series {
            for (idx, (x, y)) in series.x.iter().zip(&series.y).enumerate() {
                let Some(value) = series.low.get(idx).copied().flatten() else { continue };
                let (cx, cy) = (self.x.at(*x), self.y.at(*y));
                let text = series.text.get(idx).map_or("", String::as_str);
                svg.rect((cx - width / 2.0, cy - height / 2.0), (width, height), &field_colour(share(value)), text);
                let ink = if share(value) > 0.55 { "#111111" } else { "#ffffff" };
                svg.inked_text((cx, cy + 4.0), 11.0, Anchor::Middle, ink, &number(value));
            }
        }
        let (left, step) = (self.right + 24.0, 4.0);
        for i in 0..50 {
            let share = f64::from(i) / 49.0;
            let at = self.height - BOTTOM - (f64::from(i) + 1.0) * step;
            svg.rect((left, at), (16.0, step + 0.5), &field_colour(share), "");
        }
        svg.text((left + 22.0, self.height - BOTTOM), 11.0, Anchor::Start, &number(low));
        svg.text((left + 22.0, self.height - BOTTOM - 50.0 * step + 8.0), 11.0, Anchor::Start, &number(high));
        let name = series.first().map_or("", |series| series.name.as_str());
        svg.text((left, self.height - BOTTOM - 50.0 * step - 12.0), 11.0, Anchor::Start, name);
    }
}

fn stairs(places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(places.len() * 2);
    for (x, y) in places {
        if let Some((_, before)) = out.last().copied() {
            out.push((*x, before));
        }
        out.push((*x, *y));
    }
    out
}

/// Bytes that all names begin with, up to a sign between words: they say nothing in a legend.
fn shared(names: &[&str]) -> usize {
    let (Some(first), true) = (names.first(), names.len() > 1) else { return 0 };
    let is_same =
        |length: &usize| names.iter().all(|name| name.as_bytes().get(*length) == first.as_bytes().get(*length));
    let length = (0..first.len()).take_while(is_same).count();
    let head = first.as_bytes().get(..length).unwrap_or_default();
    let cut = head.iter().rposition(|byte| matches!(byte, b'_' | b'-' | b'/')).map_or(0, |idx| idx + 1);
    if cut >= 8 { cut } else { 0 }
}

fn legend(svg: &mut Svg, figure: &Figure, series: &[&Series], left: f64) {
    let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
    let skip = shared(&names);
    for (idx, series) in series.iter().take(MOST_LEGEND).enumerate() {
        let at = TOP + 10.0 + idx as f64 * 20.0;
        let colour = colour(series.hue);
        if matches!(figure.kind, Kind::Lines | Kind::Front | Kind::Dots) {
            svg.marker((left, at), series.hue, colour, "");
        } else {
            svg.path(&[(left - 7.0, at), (left + 7.0, at)], colour);
        }
        let name: String = series.name.get(skip..).unwrap_or(&series.name).chars().take(30).collect();
        svg.text((left + 14.0, at + 4.0), 11.0, Anchor::Start, &name);
    }
    let rest = figure.series.len().saturating_sub(series.len().min(MOST_LEGEND));
    if rest > 0 {
        let at = TOP + 14.0 + series.len().min(MOST_LEGEND) as f64 * 20.0;
        svg.text((left - 6.0, at), 11.0, Anchor::Start, &format!("and {rest} more"));
    }
}

fn colour(hue: usize) -> &'static str {
    COLOURS.get(hue % COLOURS.len()).copied().unwrap_or("#000000")
}

fn field_colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (FIELD.len() - 1) as f64;
    let idx = (place as usize).min(FIELD.len() - 2);
    let part = place - idx as f64;
    let (Some(a), Some(b)) = (FIELD.get(idx), FIELD.get(idx + 1)) else { return "#888888".to_owned() };
    let mix = |a: f64, b: f64| (a + (b - a) * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn names_without_what_they_share() {
        assert_eq!(shared(&["model_itl5000_4xtp2", "model_itl5000_2xtp2-1xtp2"]), "model_itl5000_".len());
        assert_eq!((shared(&["seqs_4", "seqs_16"]), shared(&["alone_in_the_world"]), shared(&[])), (0, 0, 0));
        assert_eq!(shared(&["größer_ä_1", "größer_ö_1"]), "größer_".len());
    }

    #[test]
    fn ticks() {
        assert_eq!(linear_ticks(-12.0, 31.0, 6), [-20.0, -10.0, 0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(log_ticks(0.9, 60.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(log_ticks(1e-3, 1e4).len(), 8);
        assert_eq!((field_colour(0.0), field_colour(2.0)), ("#440154".to_owned(), "#fde725".to_owned()));
    }
}
