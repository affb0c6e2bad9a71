//! The page's tables.

use std::fmt::Write as _;

use servelab_core::trace::TraceReport;

use super::figure::class;
use crate::plot::escape;
use crate::text::number::{count, number};

/// Opens a table that scrolls inside its own box on narrow screens; the box can be focused so that keys scroll it.
pub(super) fn open(out: &mut String, caption: &str, headers: &[&str]) {
    let _ = write!(
        out,
        "<div class=\"box\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
        escape(caption)
    );
    for header in headers {
        // `>` marks columns of numbers.
        let (class, text) = header.strip_prefix('>').map_or(("", *header), |text| (" class=\"n\"", text));
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(text));
    }
    out.push_str("</tr></thead><tbody>\n");
}

fn close(out: &mut String) {
    out.push_str("</tbody></table></div>\n");
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn ms(nanos: i64) -> String {
    number(nanos as f64 / 1e6)
}

fn bar(share: f64, class: &str) -> String {
    let percent = (share * 100.0).clamp(0.0, 100.0);
    format!("<td class=\"bar\"><span class=\"{class}\" style=\"width:{percent:.2}%\"></span><b>{percent:.1} %</b></td>")
}

fn optional_count(value: Option<u64>) -> String {
    value.map_or_else(|| "–".to_owned(), count)
}

pub(super) fn all(out: &mut String, report: &TraceReport) {
    out.push_str("<section id=\"time\">\n<h2>Where time goes</h2>\n");
    if report.kernels.is_empty() {
        out.push_str("<p>No kernels.</p>\n");
    } else {
        open(out, "Kernel families, all ranks", &["family", "share of kernel time", ">ms", ">kernels"]);
        for family in &report.kernels {
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th>{}<td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&family.family),
                bar(family.share, class(&family.family)),
                ms(family.sum_ns),
                count(family.calls)
            );
        }
        close(out);
        open(out, "Kernels that take most time, all ranks", &["kernel", "family", "share", ">ms", ">calls"]);
        for kernel in &report.top_kernels {
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\" class=\"kernel\">{}</th><td>{}</td>{}<td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&kernel.name),
                escape(&kernel.family),
                bar(kernel.share, class(&kernel.family)),
                ms(kernel.sum_ns),
                count(kernel.calls)
            );
        }
        close(out);
    }
    out.push_str("</section>\n");
    communication(out, report);
    ranks(out, report);
}

fn communication(out: &mut String, report: &TraceReport) {
    out.push_str("<section id=\"comm\">\n<h2>Communication</h2>\n");
    if report.comm.is_empty() {
        out.push_str("<p>No communication was recognised. The metrics below say whether there was none or whether it could not be seen.</p>\n");
    } else {
        open(
            out,
            "Communication by family, summed over ranks",
            &["family", "library", "where", ">calls", ">sum, ms", ">union, ms", ">exposed, ms", "kinds"],
        );
        for (name, family) in &report.comm {
            let kinds: Vec<String> =
                family.kinds.iter().map(|(kind, time)| format!("{} {}", time.calls, escape(kind))).collect();
            let place = match family.place {
                servelab_core::trace::Place::Device => "GPU",
                servelab_core::trace::Place::Host => "CPU",
            };
            let fused = if family.is_fused { " (also computes)" } else { "" };
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}{fused}</th><td>{}</td><td>{place}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
                escape(name),
                escape(&family.library),
                count(family.calls),
                ms(family.sum_ns),
                ms(family.union_ns),
                ms(family.exposed_ns),
                kinds.join(", ")
            );
        }
        close(out);
    }
    if !report.collectives.is_empty() {
        open(
            out,
            "Collectives by size",
            &[
                "family",
                "kind",
                "group",
                ">ranks",
                ">calls",
                ">bytes",
                ">mean, ms",
                ">shortest",
                ">longest",
                ">algorithm GB/s",
                ">bus GB/s",
            ],
        );
        for collective in &report.collectives {
            let mean = i64::try_from(collective.calls)
                .ok()
                .and_then(|calls| collective.sum_ns.checked_div(calls))
                .unwrap_or(0);
            let rate = |rate: Option<f64>| rate.map_or_else(|| "–".to_owned(), number);
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&collective.family),
                escape(&collective.kind),
                escape(collective.group.as_deref().unwrap_or("–")),
                optional_count(collective.group_size.map(u64::from)),
                count(collective.calls),
                optional_count(collective.message_bytes),
                ms(mean),
                ms(collective.min_ns),
                ms(collective.max_ns),
                rate(collective.algorithm_gb_per_s),
                rate(collective.bus_gb_per_s)
            );
        }
        close(out);
    }
    if !report.suspects.is_empty() {
        out.push_str("<h3>Kernels that sound like communication and that no rule claims</h3>\n<ul>\n");
        for name in &report.suspects {
            let _ = writeln!(out, "<li class=\"kernel\">{}</li>", escape(name));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
}

fn ranks(out: &mut String, report: &TraceReport) {
    out.push_str("<section id=\"ranks\">\n<h2>Ranks and steps</h2>\n");
    open(
        out,
        "Parts of each rank's time, ms",
        &[
            "rank",
            ">span",
            ">computing",
            ">exposed communication",
            ">exposed copies",
            ">idle",
            ">waiting for others",
            ">steps",
            ">kernels",
        ],
    );
    for rank in &report.per_rank {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            rank.rank,
            ms(rank.span_ns),
            ms(rank.compute_ns),
            ms(rank.exposed_comm_ns),
            ms(rank.exposed_memcpy_ns),
            ms(rank.idle_ns),
            rank.comm_wait_ns.map_or_else(|| "–".to_owned(), ms),
            count(rank.steps),
            count(rank.kernels)
        );
    }
    close(out);
    if !report.step_kinds.is_empty() {
        open(
            out,
            "Steps by kind, summed over ranks",
            &["kind", ">steps", ">mean, ms", ">context tokens", ">generated tokens"],
        );
        for kind in &report.step_kinds {
            let mean = i64::try_from(kind.steps).ok().and_then(|steps| kind.sum_ns.checked_div(steps)).unwrap_or(0);
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\"><span class=\"swatch s-{0}\" aria-hidden=\"true\"></span> {0}</th><td class=\"n\">{1}</td><td class=\"n\">{2}</td><td class=\"n\">{3}</td><td class=\"n\">{4}</td></tr>",
                escape(&kind.kind),
                count(kind.steps),
                ms(mean),
                optional_count(kind.context_tokens),
                optional_count(kind.generation_tokens)
            );
        }
        close(out);
    }
    for execution in &report.executions {
        let caption =
            format!("Operators of {} ({} operators in {} nodes)", execution.path, execution.operators, execution.nodes);
        open(out, &caption, &["operator", ">calls", "most frequent shapes"]);
        for operator in execution.by_name.iter().take(20) {
            let shapes: Vec<String> =
                operator.shapes.iter().take(3).map(|(shape, calls)| format!("{} × {}", calls, escape(shape))).collect();
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td>{}</td></tr>",
                escape(&operator.name),
                count(operator.calls),
                shapes.join("; ")
            );
        }
        close(out);
    }
    out.push_str("</section>\n");
}

pub(super) fn inputs(out: &mut String, report: &TraceReport) {
    out.push_str("<section id=\"inputs\">\n<h2>Inputs</h2>\n");
    open(out, "What was read", &["file", "format", ">rank", "from", ">events", ">bytes", "facts"]);
    for input in &report.inputs {
        let facts: Vec<String> =
            input.facts.iter().map(|(name, value)| format!("{} {}", escape(name), escape(value))).collect();
        let truncated = if input.is_truncated { " (breaks off)" } else { "" };
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\" class=\"kernel\">{}{truncated}</th><td>{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"wide\">{}</td></tr>",
            escape(&input.path),
            escape(&input.format),
            input.rank.map_or_else(|| "–".to_owned(), |rank| rank.to_string()),
            escape(input.rank_source.as_deref().unwrap_or("–")),
            count(input.events),
            count(input.bytes),
            facts.join(", ")
        );
    }
    close(out);
    out.push_str("</section>\n");
}
