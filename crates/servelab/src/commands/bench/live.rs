//! What `servelab bench` shows while it measures: one live line on a terminal, a plain line every ten seconds in a log.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use servelab_core::units::human_duration;
use servelab_load::{LiveCounts, LiveLatency, LivePhase};

use crate::ui::Ui;

const LOG_INTERVAL: Duration = Duration::from_secs(10);
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// The rates shown are those of the last so many seconds.
const RATE_SPAN: Duration = Duration::from_secs(3);

/// Shows one load.
pub(super) struct LiveView {
    ui: Ui,
    planned: Option<u64>,
    bar: Option<ProgressBar>,
    started: Instant,
    next: Instant,
    history: VecDeque<(Instant, LiveCounts)>,
}

impl LiveView {
    pub(super) fn new(ui: Ui, planned: Option<u64>) -> Self {
        let bar = ui.live().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        let next = if bar.is_some() { now } else { now + LOG_INTERVAL };
        Self { ui, planned, bar, started: now, next, history: VecDeque::new() }
    }

    /// Shows the counters, when it is time to.
    pub(super) fn show(&mut self, counts: &LiveCounts, latency: &LiveLatency) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.history.push_back((now, *counts));
        while self.history.len() > 2 && self.history.get(1).is_some_and(|(t, _)| now.duration_since(*t) > RATE_SPAN) {
            self.history.pop_front();
        }
        let line = self.line(now, counts, latency);
        match &self.bar {
            Some(bar) => {
                self.next = now + DRAW_INTERVAL;
                bar.set_message(line);
                bar.tick();
            }
            None => {
                self.next = now + LOG_INTERVAL;
                self.ui.say(&line);
            }
        }
    }

    fn line(&self, now: Instant, counts: &LiveCounts, latency: &LiveLatency) -> String {
        let phase = match counts.phase {
            LivePhase::Connecting => "connecting",
            LivePhase::Warming => "warming up",
            LivePhase::Measuring => "measuring",
            LivePhase::Draining => "draining",
            LivePhase::Finished => "finished",
        };
        let over = counts.done + counts.failed;
        let elapsed = now.duration_since(self.started).as_secs_f64();
        let mut parts = vec![match self.planned {
            Some(planned) => format!("{phase} {over}/{planned} requests"),
            None => format!("{phase} {over} requests"),
        }];
        parts.push(human_duration(elapsed));
        if let Some((then, before)) = self.history.front() {
            let seconds = now.duration_since(*then).as_secs_f64();
            if seconds > 0.0 {
                let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                let ended = rate(over, before.done + before.failed);
                parts.push(format!("{:.0} tok/s", rate(counts.tokens, before.tokens)));
                parts.push(format!("{ended:.1} req/s"));
                if let Some(planned) = self.planned.filter(|planned| *planned > over && ended > 0.0) {
                    parts.push(format!("about {} left", human_duration((planned - over) as f64 / ended)));
                }
            }
        }
        parts.push(format!("{} in flight", counts.in_flight));
        let pair = |p50: Option<i64>, p99: Option<i64>| {
            p50.zip(p99).map(|(p50, p99)| format!("{:.1}/{:.1} ms", p50 as f64 / 1e6, p99 as f64 / 1e6))
        };
        if let Some(ttft) = pair(latency.ttft_p50_ns, latency.ttft_p99_ns) {
            parts.push(format!("TTFT p50/p99 {ttft}"));
        }
        if let Some(itl) = pair(latency.itl_p50_ns, latency.itl_p99_ns) {
            parts.push(format!("ITL {itl}"));
        }
        if counts.failed > 0 {
            parts.push(format!("{} failed", counts.failed));
        }
        parts.join(" · ")
    }

    /// Clears the live line.
    pub(super) fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
