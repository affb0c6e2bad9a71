//! Measures one load: drives it, shows it live, scrapes the server meanwhile, keeps the records in a folder and judges the
//! numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use servelab_core::metrics::counter_resets;
use servelab_core::result::BenchResult;
use servelab_core::verdict::{CellEvidence, judge};
use servelab_load::prometheus::{ScrapeOptions, ScrapeOutcome, ScrapeTarget, Scraper};
use servelab_load::simtime::slow_samples;
use servelab_load::{
    Endpoint, FinishedRequest, LiveCounts, LoadControl, LoadError, LoadOutcome, LoadSpec, RecordSink, http, run_load,
};
use servelab_run::{FileSink, RunControl, StoredRecords, SummaryOptions};

use super::live::LiveView;
use super::load::Trial;
use super::observe::{Company, Observed};
use crate::error::CommandError;
use crate::ui::Ui;

const SCRAPE_INTERVAL_NS: i64 = 200_000_000;
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// What came of a load.
pub(super) struct Measured {
    pub(super) result: BenchResult,
    pub(super) outcome: LoadOutcome,
    pub(super) records: StoredRecords,
    /// Endpoint that was driven.
    pub(super) endpoint: Endpoint,
    /// The answers by request index, when they were to be kept.
    pub(super) texts: Option<BTreeMap<i64, String>>,
    pub(super) scraped: Option<ScrapeOutcome>,
}

/// Measures `trial`; the records are written into `folder`.
pub(super) fn measure(
    trial: Trial,
    folder: &Path,
    keep_events: bool,
    company: Company<'_>,
    switch: &RunControl,
    ui: Ui,
) -> Result<Measured, CommandError> {
    let Company { observer, is_lost, scrapes } = company;
    let Trial { mut spec, load, slo, ignore_eos, slots_pause, planned, api_key } = trial;
    std::fs::create_dir_all(folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    let metrics_url = format!("{}/metrics", root_url(&spec.target.base_url));
    let page = http::get_text(&metrics_url, METRICS_TIMEOUT, api_key.as_ref());
    // Shards are put together by their clocks, which only agree in wall time.
    let is_alone = spec.start.is_none();
    if let Some(speedup) = page.as_ref().ok().and_then(|reply| reply.speedup).filter(|_| is_alone) {
        spec.speedup = speedup;
        if speedup != 1.0 {
            ui.say(&format!("simulated server: its time runs {speedup} times as fast; results are in its time"));
        }
    }
    let is_simulated = page.as_ref().is_ok_and(|reply| reply.speedup.is_some());
    let speedup = spec.speedup;
    let has_metrics = scrapes && page.is_ok_and(|reply| reply.is_success());
    let scraper = if has_metrics {
        let target = ScrapeTarget { node: "server".to_owned(), url: metrics_url };
        let options = ScrapeOptions { interval_ns: SCRAPE_INTERVAL_NS, api_key, ..ScrapeOptions::default() };
        let scraper = Scraper::start(vec![target], &options, spec.clock);
        Some(scraper.map_err(|error| CommandError::failed(format!("cannot start the metrics scraper: {error}")))?)
    } else {
        None
    };
    let endpoint = spec.target.endpoint;
    let texts = spec.keep_text.then(BTreeMap::new);
    let mut sink = BenchSink { files: FileSink::create(folder, keep_events)?, texts };
    let mut observed = Observed { sink: &mut sink, observer };
    let loaded = drive(spec, &mut observed, planned, is_lost, switch, ui)?;
    let precision = observed.observer.precision();
    let BenchSink { files: sink, texts } = sink;
    let mut scraped = scraper.map(Scraper::stop);
    if let Some(scraped) = &mut scraped {
        slow_samples(&mut scraped.samples, speedup);
    }
    let outcome = match loaded {
        Ok(outcome) => outcome,
        Err(error) => {
            return Err(match sink.into_problem() {
                Some(problem) => problem.into(),
                None => CommandError::failed(error.to_string()),
            });
        }
    };
    let records = sink.finish()?;
    let prom = scraped.as_ref().map(|scraped| scraped.samples.as_slice()).unwrap_or_default();
    let closed_loop_slots = load.busy_slots().filter(|_| !slots_pause);
    let (mut result, requests) = records.summarise(&outcome, SummaryOptions { prom, slo, closed_loop_slots })?;
    result.precision = precision;
    let mut evidence = CellEvidence::new(&result, &load, requests);
    evidence.metrics_expected = scraped.is_some();
    evidence.simulated = is_simulated;
    evidence.ignore_eos = ignore_eos;
    evidence.slots_pause = slots_pause;
    evidence.server_resets = counter_resets(prom, outcome.window_start_ns, outcome.window_end_ns);
    let verdict = judge(&evidence);
    result.verdict = verdict;
    Ok(Measured { result, outcome, records, endpoint, texts, scraped })
}

/// Records into files, texts into memory.
struct BenchSink {
    files: FileSink,
    texts: Option<BTreeMap<i64, String>>,
}

impl RecordSink for BenchSink {
    fn finished(&mut self, request: &FinishedRequest) -> Result<(), String> {
        if let (Some(texts), Some(output)) = (&mut self.texts, &request.output) {
            texts.insert(output.request_idx, output.text.clone());
        }
        self.files.finished(request)
    }

    fn is_enough(&mut self) -> bool {
        self.files.is_enough()
    }
}

/// Runs the load; the switch ends it in order, with what was measured.
fn drive(
    spec: LoadSpec,
    sink: &mut dyn RecordSink,
    planned: Option<u64>,
    is_lost: &mut dyn FnMut(&LiveCounts) -> bool,
    switch: &RunControl,
    ui: Ui,
) -> Result<Result<LoadOutcome, LoadError>, CommandError> {
    let control = LoadControl::new();
    let mut view = LiveView::new(ui, planned);
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| run_load(spec, sink, &control));
        while !load.is_finished() {
            let counts = control.counts();
            if switch.is_stopping() || is_lost(&counts) {
                control.cancel();
            }
            view.show(&counts, &control.latency());
            std::thread::park_timeout(WATCH_INTERVAL);
        }
        load.join()
    });
    view.end();
    loaded.map_err(|_| CommandError::failed("the load thread ended unexpectedly"))
}

/// The server's address without the API prefix.
pub(super) fn root_url(url: &str) -> &str {
    url.trim_end_matches('/').trim_end_matches("/v1")
}
