//! Figures as data: what is drawn, on which axes, with which words. The page draws them with a plotting library, `svg` as
//! files for papers, both from the same description. Numbers come from the store and the core.

mod build;
mod cells;
mod design;
mod svg;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use build::{FigureInput, PredictedPair, figures};
pub(crate) use svg::COLOURS;
pub use svg::{figure_svg, four_panels_svg};

/// How the series of a figure are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Markers joined by lines.
    Lines,
    /// Lines alone: many points.
    Curves,
    /// Values that hold until the next.
    Steps,
    /// Markers alone.
    Dots,
    /// Lines, and the front that nobody beats.
    Front,
    /// A value with its interval per category of the y axis.
    Intervals,
    /// Coloured fields over the categories of both axes.
    Heat,
}

/// Which end of an axis is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Good {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// Neither.
    Neither,
}

/// An axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Axis {
    /// Title with unit.
    pub title: String,
    /// Logarithmic; otherwise linear, from zero where values are not negative.
    pub log: bool,
    /// A rate of the whole deployment, which may be shown per GPU.
    pub rate: bool,
    /// Which end is better.
    pub good: Good,
    /// Names of the places of an axis without numbers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

impl Axis {
    pub(crate) fn new(title: impl Into<String>, good: Good) -> Self {
        Self { title: title.into(), log: false, rate: false, good, categories: Vec::new() }
    }

    pub(crate) fn log(self, log: bool) -> Self {
        Self { log, ..self }
    }

    pub(crate) fn rate(self) -> Self {
        Self { rate: true, ..self }
    }
}

/// Values that belong together; all lists that are not empty are equally long.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Number of the configuration: gives it the same colour and marker in every figure.
    pub hue: usize,
    /// GPUs of the deployment.
    pub gpus: u32,
    /// The numbers come from a simulator.
    pub simulated: bool,
    /// Horizontal places.
    pub x: Vec<f64>,
    /// Vertical places.
    pub y: Vec<f64>,
    /// Lower ends of the values' ranges or intervals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub low: Vec<Option<f64>>,
    /// Upper ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub high: Vec<Option<f64>>,
    /// What a reader should know about each value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

/// A line that values should not cross.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limit {
    /// On the x axis; otherwise on y.
    pub on_x: bool,
    /// Where.
    pub value: f64,
    /// Words beside it.
    pub text: String,
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Name, also of its file; unique.
    pub id: String,
    /// Figures of one set share a frame and are chosen by their tabs.
    pub set: &'static str,
    /// Words on the tab.
    pub tab: String,
    /// Workload it is about.
    pub workload: String,
    /// Title.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// How it is drawn.
    pub kind: Kind,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Limits of the SLO.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// Series shown at first; the others wait in the legend.
    pub shown: usize,
}

/// Five significant digits: enough for a picture, and half the size.
pub(crate) fn short(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    format!("{x:.4e}").parse().unwrap_or(x)
}

/// The figure with rates shown per so many GPUs.
pub fn normalised(figure: &Figure, per: Option<f64>) -> Figure {
    let mut out = figure.clone();
    let Some(per) = per else { return out };
    for (axis, is_x) in [(&figure.x, true), (&figure.y, false)] {
        if !axis.rate {
            continue;
        }
        let of = if per == 1.0 { "GPU".to_owned() } else { format!("{per} GPUs") };
        let target = if is_x { &mut out.x } else { &mut out.y };
        target.title = format!("{} per {of}", axis.title);
        for series in out.series.iter_mut().filter(|series| series.gpus > 0) {
            let scale = per / f64::from(series.gpus);
            let values = if is_x { &mut series.x } else { &mut series.y };
            values.iter_mut().for_each(|value| *value = short(*value * scale));
            if !is_x {
                series
                    .low
                    .iter_mut()
                    .chain(&mut series.high)
                    .flatten()
                    .for_each(|value| *value = short(*value * scale));
            }
        }
    }
    out
}
