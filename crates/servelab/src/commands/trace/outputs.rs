//! Files beside a summary: the page for browsers, the export for Perfetto, `timing_stats_RANK.json`.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use servelab_core::trace::timing::TimingStats;
use servelab_trace::input::{self, rank_by_name};
use servelab_trace::load::{Loaded, read_file};
use servelab_trace::perfetto::Export;
use servelab_view::trace_page;

use super::measure::SourceOptions;
use crate::error::CommandError;
use crate::ui::Ui;

/// Bins of a stream in the page; a rank's streams are drawn from them.
const BINS: u32 = 1200;

/// Further outputs.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Write a page with everything and an overview of steps and streams; needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write what was understood as Chrome-trace JSON, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
}

impl OutputArgs {
    pub(crate) fn n_bins(&self) -> Option<u32> {
        self.html.as_ref().map(|_| BINS)
    }

    pub(crate) fn write(
        &self,
        loaded: &Loaded,
        paths: &[PathBuf],
        options: &SourceOptions,
        ui: Ui,
    ) -> Result<(), CommandError> {
        if let Some(path) = &self.html {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let page = trace_page(&loaded.report, &loaded.timelines, &names.join(", "), env!("CARGO_PKG_VERSION"));
            servelab_store::write_atomic(path, page.as_bytes())?;
            ui.say(&format!("wrote {}", path.display()));
        }
        if let Some(path) = &self.perfetto {
            export(path, paths, options)?;
            ui.say(&format!("wrote {}; open it at https://ui.perfetto.dev", path.display()));
        }
        Ok(())
    }
}

/// One trace at a time is in memory.
fn export(to: &Path, paths: &[PathBuf], options: &SourceOptions) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::failed(format!("cannot write `{}`: {error}", to.display()));
    let taxonomy = options.taxonomy()?;
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut export = Export::begin(BufWriter::new(File::create(&partial).map_err(failed)?)).map_err(failed)?;
    let mut taken: Vec<u32> = Vec::new();
    for input in input::discover(paths)? {
        for mut trace in read_file(&input, &taxonomy)? {
            let named = trace.meta.rank.or_else(|| rank_by_name(&input.path)).filter(|rank| !taken.contains(rank));
            let free = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
            let rank = named.unwrap_or(free);
            taken.push(rank);
            trace.meta.rank = Some(rank);
            export.rank(&trace, &taxonomy).map_err(failed)?;
        }
    }
    export.finish().map_err(failed)?;
    std::fs::rename(&partial, to).map_err(failed)
}

pub(crate) fn write_timings(folder: &Path, timings: &[(u32, TimingStats)], ui: Ui) -> Result<(), CommandError> {
    std::fs::create_dir_all(folder)
        .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
    for (rank, stats) in timings {
        let path = folder.join(format!("timing_stats_{rank}.json"));
        servelab_store::write_atomic(&path, super::json(stats)?.as_bytes())?;
    }
    ui.say(&format!("wrote {} timing_stats_RANK.json file(s) to {}", timings.len(), folder.display()));
    Ok(())
}
