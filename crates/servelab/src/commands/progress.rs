//! What `run` shows while it works: one live line per phase on a terminal, plain lines in a log. Fed only by the run's
//! events; it knows nothing else about the run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use servelab_core::ids::CellId;
use servelab_core::plan::Plan;
use servelab_core::state::CellState;
use servelab_core::units::human_duration;
use servelab_run::{Observer, RunEvent, ServerPhase};

use crate::ui::Ui;

/// Between two lines about the same load in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// Shows a run.
pub(crate) struct Progress {
    ui: Ui,
    names: BTreeMap<CellId, String>,
    bar: Option<ProgressBar>,
    state: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    done: u64,
    total: u64,
    remaining_s: Option<f64>,
    last_load_line: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(ui: Ui, plan: &Plan) -> Self {
        let labels: BTreeMap<&str, &str> = plan
            .points
            .iter()
            .map(|point| (point.id.as_str(), point.labels.first().map_or(point.id.short(), String::as_str)))
            .collect();
        let names = plan
            .cells
            .iter()
            .map(|cell| {
                let label = labels.get(cell.point.as_str()).copied().unwrap_or_else(|| cell.point.short());
                let name =
                    format!("{label} · {} · {} · repeat {}", cell.workload, cell.load.describe(), cell.repeat + 1);
                (cell.id.clone(), name)
            })
            .collect();
        let bar = ui.live().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { ui, names, bar, state: Mutex::new(Shown::default()) }
    }

    /// Takes the live line away.
    pub(crate) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn name(&self, cell: &CellId) -> String {
        self.names.get(cell).cloned().unwrap_or_else(|| cell.short().to_owned())
    }

    /// A line that stays.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.ui.say(text),
        }
    }

    /// The live line; nothing in a log.
    fn live(&self, text: String) {
        if let Some(bar) = &self.bar {
            let shown = self.state.lock().map(|shown| shown.counts()).unwrap_or_default();
            bar.set_message(format!("{shown}{text}"));
        }
    }
}

impl Shown {
    fn counts(&self) -> String {
        let left = self.remaining_s.map_or_else(String::new, |s| format!(", about {} left", human_duration(s)));
        format!("[{}/{}{left}] ", self.done, self.total)
    }
}

impl Observer for Progress {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Started { to_run, finished_before, skipped, .. } => {
                if let Ok(mut shown) = self.state.lock() {
                    shown.total = *to_run;
                }
                let cells = if *to_run == 1 { "cell" } else { "cells" };
                self.line(&format!("{to_run} {cells} to measure, {finished_before} finished earlier"));
                let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
                for cell in skipped {
                    *reasons.entry(&cell.reason).or_default() += 1;
                }
                for (reason, n) in reasons {
                    self.line(&format!("  skipping {n}: {reason}"));
                }
            }
            RunEvent::Notice { text } => self.line(text),
            RunEvent::Start { labels, cells, .. } => {
                let n = cells.len();
                let cells = if n == 1 { "cell" } else { "cells" };
                self.line(&format!("server for {} ({n} {cells})", labels.join(" = ")));
            }
            RunEvent::Server { phase, elapsed_s, detail, .. } => {
                let detail = detail.as_deref().unwrap_or_default();
                match phase {
                    ServerPhase::Ready => self.line(&format!("  ready after {}", human_duration(*elapsed_s))),
                    ServerPhase::Failed => self.line(&format!("  server failed: {detail}")),
                    other => self.live(format!("server {} {} {detail}", other.name(), human_duration(*elapsed_s))),
                }
            }
            RunEvent::Cell { cell, state, code, detail, .. } => {
                if state.is_terminal() {
                    let code = code.as_deref().map_or_else(String::new, |code| format!(" ({code})"));
                    let detail = detail.as_deref().filter(|_| *state != CellState::Done);
                    let detail = detail.map_or_else(String::new, |detail| format!(": {detail}"));
                    self.line(&format!("  {} {}{code}{detail}", state.name(), self.name(cell)));
                } else {
                    self.live(format!("{} {}", self.name(cell), state.name()));
                }
            }
            RunEvent::Load { cell, counts, planned, elapsed_s } => {
                let text = format!(
                    "{}: {}/{planned} requests, {} in flight, {} failed, {} tokens",
                    self.name(cell),
                    counts.done,
                    counts.in_flight,
                    counts.failed,
                    counts.tokens
                );
                if self.bar.is_some() {
                    self.live(text);
                } else if let Ok(mut shown) = self.state.lock()
                    && *elapsed_s >= LOG_INTERVAL.as_secs_f64()
                    && shown.last_load_line.is_none_or(|last| last.elapsed() >= LOG_INTERVAL)
                {
                    shown.last_load_line = Some(Instant::now());
                    let counts = shown.counts();
                    drop(shown);
                    self.line(&format!("  {counts}{text}"));
                }
            }
            RunEvent::Progress { done, total, remaining_s } => {
                if let Ok(mut shown) = self.state.lock() {
                    (shown.done, shown.total, shown.remaining_s) = (*done, *total, *remaining_s);
                }
                if self.bar.is_none()
                    && let Some(remaining_s) = remaining_s
                {
                    self.line(&format!("[{done}/{total}] about {} left", human_duration(*remaining_s)));
                }
            }
            RunEvent::Finished(_) => self.close(),
        }
    }
}
