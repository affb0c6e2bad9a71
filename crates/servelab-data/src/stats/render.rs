//! Dataset statistics as plain text.

use std::fmt::{self, Write};

use super::{DatasetStats, Histogram, LengthStats};

/// Width of the longest bar in characters.
const BAR_WIDTH: usize = 40;

/// The statistics as plain text for a terminal.
pub fn render_stats(stats: &DatasetStats) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_stats(stats, &mut out);
    out
}

fn write_stats(stats: &DatasetStats, out: &mut String) -> fmt::Result {
    writeln!(out, "{} prompts", stats.count)?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<8} {:<7} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10}",
        "tokens", "class", "count", "mean", "min", "p50", "p95", "max", "total"
    )?;
    let all = [("all", stats.count, &stats.input_tokens, &stats.output_tokens)].into_iter();
    let classes = stats.categories.iter().map(|class| {
        let name = class.category.map_or("none", |category| category.as_str());
        (name, class.count, &class.input_tokens, &class.output_tokens)
    });
    for (name, count, input, output) in all.chain(classes) {
        write_row("prompt", name, count, input, out)?;
        write_row("output", name, count, output, out)?;
    }
    for (title, lengths) in [("prompt tokens", &stats.input_tokens), ("output tokens", &stats.output_tokens)] {
        writeln!(out)?;
        writeln!(out, "{title}")?;
        write_histogram(&lengths.histogram, out)?;
    }
    writeln!(out)?;
    writeln!(out, "shared prefix: {:.1} % of the prompt tokens", stats.shared_prefix_fraction * 100.0)?;
    if stats.lints.is_empty() {
        writeln!(out, "lints: none")?;
    }
    for lint in &stats.lints {
        writeln!(out, "lint {}: {}", lint.code, lint.detail)?;
    }
    Ok(())
}

fn write_row(side: &str, class: &str, count: usize, lengths: &LengthStats, out: &mut String) -> fmt::Result {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    writeln!(
        out,
        "{side:<8} {class:<7} {count:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10}",
        number(lengths.mean),
        number(lengths.min.map(f64::from)),
        number(lengths.p50),
        number(lengths.p95),
        number(lengths.max.map(f64::from)),
        lengths.total,
    )
}

fn write_histogram(histogram: &Histogram, out: &mut String) -> fmt::Result {
    let most = histogram.bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    for bin in &histogram.bins {
        let filled = (bin.count * BAR_WIDTH).div_ceil(most);
        let line = format!("{:>9}–{:<9} {:>8} {}", bin.from_tokens, bin.to_tokens, bin.count, "#".repeat(filled));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
