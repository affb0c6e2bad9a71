//! `servelab ray-head`, hidden: the first node of a server that spans nodes by Ray. Started by a run, like a server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use servelab_run::ray::{RayHead, run_head};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab ray-head`.
#[derive(Debug, Args)]
pub(crate) struct RayHeadArgs {
    /// Address of this node on the fabric
    #[arg(long)]
    address: IpAddr,
    /// Port of Ray's head
    #[arg(long)]
    port: u16,
    /// GPUs on each node
    #[arg(long)]
    gpus: u32,
    /// Ray's folder
    #[arg(long)]
    folder: PathBuf,
    /// Seconds that nodes may take to join
    #[arg(long)]
    patience: u64,
    /// Name of a node, this one first (repeated)
    #[arg(long)]
    node: Vec<String>,
    /// The server's command line
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

pub(crate) fn ray_head(args: RayHeadArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let RayHeadArgs { address, port, gpus, folder, patience, node, argv } = args;
    let head = RayHead {
        address,
        port,
        gpus_per_node: gpus,
        nodes: node,
        folder,
        patience: Duration::from_secs(patience),
        argv,
    };
    let status =
        run_head(&head, &mut |text| ui.always(text)).map_err(|error| CommandError::failed(error.to_string()))?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
