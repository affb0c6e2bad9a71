//! The tables as Markdown, printed when they are ready and kept in one file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::judge::{Check, Judged, Many, Step};
use super::run::Bench;
use super::scenario::Load;
use super::stats::Sample;
use super::truth::ServerSide;

/// Collects what is printed.
pub(super) struct Report {
    text: String,
    path: PathBuf,
}

impl Report {
    pub(super) fn new(root: &Path, bench: &Bench, idle: f64, is_quick: bool) -> Self {
        let date = crate::first_line(root, "date", &["-u", "+%Y-%m-%d %H:%M"]);
        let commit = crate::first_line(root, "git", &["rev-parse", "--short=12", "HEAD"]);
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut text = format!(
            "{date} UTC, commit {commit}, {} ({cores} cores), server on core {} (spin {}), client on core {}, {:.0} % idle before",
            cpu.trim_start_matches([' ', '\t', ':']),
            bench.server_core,
            bench.server_spin,
            bench.client_core,
            idle * 100.0
        );
        text.push_str(if is_quick { "; **quick: no figure to quote**\n" } else { "\n" });
        Self { text, path: bench.folder.join("tables.md") }
    }

    /// Progress, not kept.
    pub(super) fn say(&self, line: &str) {
        println!("{line}");
    }

    fn print(&mut self, table: &str) {
        println!("\n{table}");
        self.text.push('\n');
        self.text.push_str(table);
    }

    pub(super) fn scenarios(&mut self, all: &[Judged]) {
        self.print(&reported(all));
        self.print(&errors(all));
        self.print(&costs(all));
    }

    pub(super) fn ceiling(&mut self, steps: &[Step]) {
        let mut table = String::from(
            "| asked tokens/s | bare reader: tokens/s | server's p99 lateness, ms | servelab: tokens/s | p99 of t_k − write, ms | CPU µs per event (bare reader) | `client_limited` |\n|---|---|---|---|---|---|---|\n",
        );
        for step in steps {
            let _ = writeln!(
                table,
                "| {:.0} | {:.0} | {:.2} | {:.0} | {:.3} | {:.2} ({:.2}) | {} |",
                step.asked,
                step.floor_events_per_s,
                step.server_late_p99_ms,
                step.client_events_per_s,
                step.receive_p99_ms,
                step.client_micros,
                step.floor_micros,
                if step.is_client_limited { "yes" } else { "no" }
            );
        }
        self.print(&table);
    }

    pub(super) fn many(&mut self, many: &Many) {
        let seen = &many.own.seen;
        let mut table = String::from(
            "| streams in flight | requests | failed | KiB per stream | peak RSS, MiB (with 100 streams) | mean and p99 of t_k − write, ms | CPU µs per event (bare reader) |\n|---|---|---|---|---|---|---|\n",
        );
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.1} | {:.0} ({:.0}) | {:.3}, {:.3} | {:.2} ({:.2}) |",
            seen.server.max_in_flight,
            seen.scheduled,
            seen.failed,
            many.kib_per_stream,
            many.own.cost.peak_rss_kib as f64 / 1024.0,
            many.base_rss_kib as f64 / 1024.0,
            seen.receive_error.mean(),
            seen.receive_error.quantile(0.99),
            many.own.micros_per_event(),
            many.floor_micros
        );
        self.print(&table);
    }

    pub(super) fn checks(&mut self, checks: &[Check]) {
        let mut table = String::from("| load | target | measured | |\n|---|---|---|---|\n");
        for check in checks {
            let Check { scenario, what, measured, is_met } = check;
            let _ = writeln!(
                table,
                "| {scenario} | {what} | {measured} | {} |",
                if *is_met { "met" } else { "**missed**" }
            );
        }
        self.print(&table);
    }

    pub(super) fn finish(self) -> std::io::Result<()> {
        fs::write(self.path, self.text)
    }
}

/// What one tool says.
struct Reported<'a> {
    tool: &'a str,
    ttft_mean: Option<f64>,
    ttft_p99: Option<f64>,
    itl_p99: Option<f64>,
    latency_mean: Option<f64>,
    server: &'a ServerSide,
}

/// What each tool says, beside what its server saw.
fn reported(all: &[Judged]) -> String {
    let mut table = String::from(
        "| load | tool | requests | TTFT ms: mean (p99) | the server itself | error | ITL ms: p99 | the server itself | error | mean latency ms: error |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for judged in all {
        let latency = &judged.own.result.latency_ms;
        let own = Reported {
            tool: "servelab",
            ttft_mean: latency.ttft.mean,
            ttft_p99: latency.ttft.p99,
            itl_p99: latency.itl.p99,
            // Both from the request to its last token.
            latency_mean: latency.e2e.mean,
            server: &judged.own.seen.server,
        };
        let peers = judged.peers.iter().map(|peer| Reported {
            tool: peer.name,
            ttft_mean: peer.ttft_mean_ms,
            ttft_p99: peer.ttft_p99_ms,
            itl_p99: peer.itl_p99_ms,
            latency_mean: peer.latency_mean_ms,
            server: &peer.server,
        });
        for Reported { tool, ttft_mean, ttft_p99, itl_p99, latency_mean, server } in std::iter::once(own).chain(peers) {
            let (mean, p99, itl) = (server.ttft.mean(), server.ttft.quantile(0.99), server.itl.quantile(0.99));
            let _ = writeln!(
                table,
                "| {} | {tool} | {} | {} ({}) | {mean:.2} ({p99:.2}) | {} ({}) | {} | {itl:.2} | {} | {} |",
                judged.scenario.title,
                server.ttft.n(),
                shown(ttft_mean, 2),
                shown(ttft_p99, 2),
                signed(ttft_mean, mean),
                signed(ttft_p99, p99),
                shown(itl_p99, 2),
                signed(itl_p99, itl),
                signed(latency_mean, server.e2e.mean()),
            );
        }
    }
    table
}

/// Errors of each request and event.
fn errors(all: &[Judged]) -> String {
    let mut table = String::from(
        "| load | TTFT error per request, ms: mean, p99 | t_first − write, ms: mean, p99 | t_k − write, ms: mean, p99, max | the bare reader's, ms: mean, p99, max | server's read − t_send, ms: mean, p99 | t_send − t_sched, ms: p99, max | server's own lateness, ms: p99, max | writes that the socket did not take at once |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for judged in all {
        let seen = &judged.own.seen;
        let two = |sample: &Sample| format!("{:.3}, {:.3}", sample.mean(), sample.quantile(0.99));
        let three = |sample: &Sample| format!("{}, {:.3}", two(sample), sample.max());
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {:.3}, {:.3} | {:.3}, {:.3} | {} |",
            judged.scenario.title,
            two(&seen.ttft_error),
            two(&seen.first_error),
            three(&seen.receive_error),
            judged.floor.as_ref().map_or_else(|| "–".to_owned(), |floor| three(&floor.receive_error)),
            two(&seen.pick_up),
            seen.behind_schedule.quantile(0.99),
            seen.behind_schedule.max(),
            seen.server.late.quantile(0.99),
            seen.server.late.max(),
            seen.server.partial_writes,
        );
    }
    table
}

/// Arrivals and costs.
fn costs(all: &[Judged]) -> String {
    let mut table = String::from(
        "| load | tool | req/s: asked, reached | gaps at the server: variation, KS p | CPU µs per event | bare reader | times | CPU of the load threads | verdict |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for judged in all {
        let arrivals = |server: &ServerSide| {
            let reached = server.gaps_s.n() as f64 / server.span_s;
            match judged.scenario.load {
                Load::Open { rate } => {
                    let (distance, p) = server.gaps_s.against_exponential(rate);
                    format!("{rate}, {reached:.2} | {:.3}, {p:.2} (D {distance:.4})", server.gaps_s.variation())
                }
                Load::Closed { .. } => format!("–, {reached:.2} | –"),
            }
        };
        let own = &judged.own;
        let floor = judged.floor.as_ref().map(|floor| floor.micros_per_event);
        let micros = own.micros_per_event();
        let codes: Vec<&str> = own.result.verdict.reasons.iter().map(|reason| reason.code.as_str()).collect();
        let _ = writeln!(
            table,
            "| {} | servelab | {} | {micros:.2} | {} | {} | {:.2} s | {} |",
            judged.scenario.title,
            arrivals(&own.seen.server),
            shown(floor, 2),
            shown(floor.map(|floor| micros / floor), 2),
            own.result.client.cpu_s,
            if codes.is_empty() { "ok".to_owned() } else { codes.join(", ") }
        );
        for peer in &judged.peers {
            let micros = peer.micros_per_event;
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {} | {} | – | – |",
                judged.scenario.title,
                peer.name,
                arrivals(&peer.server),
                shown(micros, 2),
                shown(floor, 2),
                shown(micros.zip(floor).map(|(micros, floor)| micros / floor), 2)
            );
        }
    }
    table
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

fn signed(value: Option<f64>, truth: f64) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:+.3}", value - truth))
}
