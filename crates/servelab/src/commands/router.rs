//! `servelab router`: the reverse proxy in front of replicas or of prefill and decode servers, as a process. A run starts
//! it by itself; by hand it serves servers that somebody else started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use servelab_run::router::{Handover, Policy, Router, RouterError, RouterOptions};

use crate::error::CommandError;
use crate::ui::Ui;

/// Arguments of `servelab router`.
#[derive(Debug, Args)]
pub(crate) struct RouterArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// A replica, or with --prefill a decode server: http://HOST:PORT (may be repeated)
    #[arg(long, value_name = "URL", required = true, visible_alias = "decode")]
    server: Vec<String>,
    /// A prefill server: it computes prompts, and the others generate (may be repeated)
    #[arg(long, value_name = "URL")]
    prefill: Vec<String>,
    /// How a request finds its servers
    #[arg(long, value_enum, default_value_t = PolicyArg::RoundRobin)]
    policy: PolicyArg,
    /// How decode learns where the prompt's KV lies: from prefill's answer (NIXL), or by itself (shared storage)
    #[arg(long, value_enum, default_value_t = HandoverArg::Params)]
    handover: HandoverArg,
    /// Append a JSON line for each request: when each leg began, answered and ended
    #[arg(long, value_name = "FILE")]
    legs: Option<PathBuf>,
    /// Give a server up that says nothing for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    silence: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyArg {
    RoundRobin,
    LeastLoaded,
    Session,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HandoverArg {
    Params,
    Shared,
}

pub(crate) fn router(args: RouterArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let RouterArgs { listen, server, prefill, policy, handover, legs, silence } = args;
    let silence = Duration::try_from_secs_f64(silence)
        .ok()
        .filter(|silence| !silence.is_zero())
        .ok_or_else(|| CommandError::usage(format!("`--silence {silence}`: a number of seconds above 0 is needed")))?;
    let options = RouterOptions {
        servers: server,
        prefill,
        policy: match policy {
            PolicyArg::RoundRobin => Policy::RoundRobin,
            PolicyArg::LeastLoaded => Policy::LeastLoaded,
            PolicyArg::Session => Policy::Session,
        },
        handover: match handover {
            HandoverArg::Params => Handover::Params,
            HandoverArg::Shared => Handover::Shared,
        },
        legs,
        silence,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    }
    let router = Router::start(listen, &options).map_err(|error| match error {
        RouterError::Options(text) => CommandError::usage(text),
        error @ RouterError::System { .. } => CommandError::failed(format!("cannot {error}")),
    })?;
    let kinds = match options.prefill.len() {
        0 => format!("{} replicas", options.servers.len()),
        n => format!("{n} prefill and {} decode servers", options.servers.len()),
    };
    ui.always(&format!("servelab router listens on http://{} ({kinds}, {})", router.address(), options.policy.name()));
    while !stop.load(Ordering::SeqCst) {
        if let Some(problem) = router.take_problem() {
            ui.always(&format!("cannot write the records of legs: {problem}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(ExitCode::SUCCESS)
}
