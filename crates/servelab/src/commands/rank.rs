//! `servelab rank`, hidden: one rank of a server that spans nodes, started on its node by a run on another one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use servelab_run::rank::{Rank, RankEnd, run_rank};
use servelab_run::{RunControl, SignalGuard};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab rank`.
#[derive(Debug, Args)]
pub(crate) struct RankArgs {
    /// File for the rank's output
    #[arg(long)]
    log: PathBuf,
    /// File that records the start
    #[arg(long)]
    record: PathBuf,
    /// Name of the start
    #[arg(long)]
    token: String,
    /// Network interface of the fabric
    #[arg(long)]
    interface: Option<String>,
    /// The first node
    #[arg(long)]
    toward: String,
    /// Wait until somebody listens here
    #[arg(long)]
    wait_for: Option<std::net::SocketAddr>,
    /// Folder of this start on this node, removed at its end
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// The server's command line
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

pub(crate) fn rank(args: RankArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let RankArgs { log, record, token, interface, toward, wait_for, scratch, argv } = args;
    let control = Arc::new(RunControl::new());
    let _signals = SignalGuard::install(Arc::clone(&control))
        .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    let rank = Rank { argv, log, record, token, interface, toward, wait_for, scratch };
    let (end, address) = run_rank(rank, &control).map_err(|error| CommandError::failed(format!("cannot {error}")))?;
    match end {
        RankEnd::Stopped => Ok(ExitCode::SUCCESS),
        RankEnd::Exited(status) => {
            ui.always(&format!("the rank at {address} ended by itself with status {status}"));
            // A rank is not to end before it is asked to, whatever its status.
            Ok(ExitCode::from(u8::try_from(status).ok().filter(|status| *status > 0).unwrap_or(1)))
        }
    }
}
