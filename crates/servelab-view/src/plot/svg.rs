//! A small SVG writer and axis arithmetic.

use std::fmt::Write as _;

/// An SVG under construction.
#[derive(Debug)]
pub(crate) struct Svg {
    out: String,
}

/// Text that may stand in XML and HTML; characters that XML forbids are replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate without needless digits.
pub(crate) fn at(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Where a text is held.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut out = String::new();
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" \
             font-family=\"DejaVu Sans, Verdana, sans-serif\"><title>{}</title>",
            escape(title),
            w = at(width),
            h = at(height)
        );
        Self { out }
    }

    pub(crate) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, title: &str) {
        let _ = write!(
            self.out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\"",
            at(x),
            at(y),
            at(width),
            at(height)
        );
        if title.is_empty() {
            self.out.push_str("/>");
        } else {
            let _ = write!(self.out, "><title>{}</title></rect>", escape(title));
        }
    }

    pub(crate) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str, dash: &str) {
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let _ = write!(
            self.out,
            "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{stroke}\"{dash}/>",
            at(x1),
            at(y1),
            at(x2),
            at(y2)
        );
    }

    pub(crate) fn path(&mut self, points: &[(f64, f64)], stroke: &str) {
        let joined: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", at(*x), at(*y))).collect();
        let _ = write!(
            self.out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"/>",
            joined.join(" ")
        );
    }

    pub(crate) fn dot(&mut self, (x, y): (f64, f64), fill: &str, title: &str) {
        let _ = write!(
            self.out,
            "<circle cx=\"{}\" cy=\"{}\" r=\"4\" fill=\"{fill}\"><title>{}</title></circle>",
            at(x),
            at(y),
            escape(title)
        );
    }

    pub(crate) fn text(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.out,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" text-anchor=\"{anchor}\" fill=\"#333\">{}</text>",
            at(x),
            at(y),
            at(size),
            escape(text)
        );
    }

    pub(crate) fn inked_text(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, ink: &str, text: &str) {
        let before = self.out.len();
        self.text((x, y), size, anchor, text);
        let written = self.out.split_off(before).replacen("fill=\"#333\"", &format!("fill=\"{ink}\""), 1);
        self.out.push_str(&written);
    }

    /// A whole drawing inside this one.
    pub(crate) fn raw(&mut self, svg: &str) {
        self.out.push_str(svg.trim_end());
    }

    /// Text that reads from below to above, held in its middle.
    pub(crate) fn turned_text(&mut self, (x, y): (f64, f64), size: f64, text: &str) {
        let _ = write!(
            self.out,
            "<text transform=\"translate({} {}) rotate(-90)\" font-size=\"{}\" text-anchor=\"middle\" fill=\"#333\">{}</text>",
            at(x),
            at(y),
            at(size),
            escape(text)
        );
    }

    pub(crate) fn small_dot(&mut self, (x, y): (f64, f64), fill: &str) {
        let _ = write!(
            self.out,
            "<circle cx=\"{}\" cy=\"{}\" r=\"1.8\" fill=\"{fill}\" fill-opacity=\"0.55\"/>",
            at(x),
            at(y)
        );
    }

    /// One of six shapes, by number.
    pub(crate) fn marker(&mut self, (x, y): (f64, f64), shape: usize, fill: &str, title: &str) {
        let r = 4.2;
        let polygon = |corners: &[(f64, f64)]| {
            let corners: Vec<String> =
                corners.iter().map(|(dx, dy)| format!("{},{}", at(x + dx * r), at(y + dy * r))).collect();
            format!("<polygon points=\"{}\"", corners.join(" "))
        };
        let body = match shape % 6 {
            0 => format!("<circle cx=\"{}\" cy=\"{}\" r=\"{}\"", at(x), at(y), at(r)),
            1 => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            2 => polygon(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
            3 => polygon(&[(0.0, -1.3), (1.1, 0.0), (0.0, 1.3), (-1.1, 0.0)]),
            4 => polygon(&[(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)]),
            _ => polygon(&[
                (-0.4, -1.2),
                (0.4, -1.2),
                (0.4, -0.4),
                (1.2, -0.4),
                (1.2, 0.4),
                (0.4, 0.4),
                (0.4, 1.2),
                (-0.4, 1.2),
                (-0.4, 0.4),
                (-1.2, 0.4),
                (-1.2, -0.4),
                (-0.4, -0.4),
            ]),
        };
        let _ = write!(
            self.out,
            "{body} fill=\"{fill}\" stroke=\"#ffffff\" stroke-width=\"0.8\"><title>{}</title>{}",
            escape(title),
            if shape.is_multiple_of(6) { "</circle>" } else { "</polygon>" }
        );
    }

    pub(crate) fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }
}

/// Round numbers from 0 to at least `most`, about `n` of them.
pub(crate) fn ticks(most: f64, n: u32) -> Vec<f64> {
    if !(most.is_finite() && most > 0.0) {
        return vec![0.0, 1.0];
    }
    let rough = most / f64::from(n.max(1));
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999).unwrap_or(rough);
    let mut list = vec![0.0];
    let mut idx = 1.0;
    while list.last().is_some_and(|last| *last < most * 0.999) && list.len() < 64 {
        list.push(step * idx);
        idx += 1.0;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        assert_eq!(ticks(4.0, 4), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(97.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(f64::NAN, 5), [0.0, 1.0]);
        assert!(ticks(1e300, 5).len() < 10);
    }

    #[test]
    fn text_cannot_break_out() {
        assert_eq!(escape("<a href=\"x\">&\u{1}"), "&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}");
        assert_eq!((at(1.0), at(0.126)), ("1".to_owned(), "0.13".to_owned()));
    }
}
