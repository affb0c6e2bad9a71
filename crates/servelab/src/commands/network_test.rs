//! `servelab network-test`: bandwidth, latency and correctness between two nodes, against the thresholds that a study puts
//! in front of its cells. Inside an allocation it finds the second node itself; elsewhere the far end is started by hand.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use servelab_run::network::{Gate, NetworkOptions, NetworkReport, address_of, between, serve, tcp};
use servelab_run::nodes::{Allocation, own_address};

use crate::error::CommandError;
use crate::study_input::{Overrides, StudyInput, site_by_name};
use crate::ui::Ui;

/// Arguments of `servelab network-test`.
#[derive(Debug, Args)]
pub(crate) struct NetworkTestArgs {
    /// A study: its `network` section gives the thresholds, its site the interface
    #[arg(value_name = "STUDY")]
    study: Option<PathBuf>,
    /// The site, for the interface of its fabric
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Be the far end: listen until stopped (port 0 takes a free one)
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["to", "study"])]
    serve: Option<SocketAddr>,
    /// Test against a far end that was started by hand
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// Connections that carry bytes at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    streams: u32,
    /// How long bytes flow
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Fail below this bandwidth (10⁹ bytes per second)
    #[arg(long, value_name = "X")]
    min_gb_per_s: Option<f64>,
    /// Fail above this latency (microseconds)
    #[arg(long, value_name = "X")]
    max_latency_us: Option<f64>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// The near node: listen on the address that leads there, and until standard input ends
    #[arg(long, value_name = "NODE", hide = true)]
    toward: Option<String>,
    /// Network interface to listen on
    #[arg(long, value_name = "NAME", hide = true)]
    interface: Option<String>,
}

pub(crate) fn network_test(args: &NetworkTestArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    if let Some(listen) = args.serve {
        return far_end(listen, args, ui);
    }
    if !(args.seconds > 0.0 && args.seconds <= 60.0) {
        return Err(CommandError::usage(format!("`--seconds {}`: between 0 and 60 is meant", args.seconds)));
    }
    let input = match &args.study {
        Some(path) => {
            let overrides = Overrides { site: args.site.clone(), ..Overrides::default() };
            Some(StudyInput::load(path, &overrides)?)
        }
        None => None,
    };
    let site = match &input {
        Some(input) => input.site.clone(),
        None => site_by_name(args.site.as_deref())?,
    };
    let mut gate = input.as_ref().map(gate_of).unwrap_or_default();
    gate.min_gb_per_s = args.min_gb_per_s.or(gate.min_gb_per_s);
    gate.max_latency_us = args.max_latency_us.or(gate.max_latency_us);
    let options = NetworkOptions { streams: args.streams, seconds: args.seconds };
    let failed = |error: servelab_run::network::NetworkError| CommandError::failed(format!("cannot {error}"));
    let report = match &args.to {
        Some(to) => NetworkReport {
            schema: 1,
            from: servelab_store::hostname(),
            to: to.clone(),
            findings: vec![tcp(address_of(to).map_err(failed)?, &options).map_err(failed)?],
            notes: vec!["UCX is tested inside an allocation, where the far side can be started".to_owned()],
        },
        None => {
            let allocation = Allocation::detect();
            if allocation.nodes.len() < 2 {
                return Err(CommandError::usage("there is one node here, and a network has two ends").hint(
                    "run it inside an allocation of two nodes, or start `servelab network-test --serve 0.0.0.0:7777` on \
                     another node and name it: `--to NODE:7777`",
                ));
            }
            let program = std::env::current_exe()
                .map_err(|error| CommandError::failed(format!("cannot find this program's own file: {error}")))?;
            between(&allocation, &program, site.fabric.interface.as_deref(), &options).map_err(failed)?
        }
    };
    let value_of = |name: &str| site.env.get(name).cloned().or_else(|| std::env::var(name).ok());
    let failing = gate.forbidden(&value_of).or_else(|| gate.failing(&report));
    if args.json {
        let document = serde_json::json!({"report": report, "ok": failing.is_none(), "failing": failing});
        ui.data(&serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&text(&report));
        if let Some(failing) = &failing {
            ui.always(&format!("the network does not do: {failing}"));
        }
    }
    Ok(if failing.is_none() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What a study demands.
pub(crate) fn gate_of(input: &StudyInput) -> Gate {
    let Some(network) = &input.study.network else { return Gate::default() };
    let forbid = network.forbid_env.iter().map(|(name, values)| (name.to_owned(), values.iter().cloned().collect()));
    Gate { min_gb_per_s: network.min_gb_per_s, max_latency_us: network.max_latency_us, forbid_env: forbid.collect() }
}

fn text(report: &NetworkReport) -> String {
    let mut text = format!("{} to {}\n", report.from, report.to);
    for finding in &report.findings {
        let number = |value: Option<f64>, digits: usize, unit: &str| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$} {unit}"))
        };
        let values = match finding.values_ok {
            Some(true) => "every byte as sent",
            Some(false) => "BYTES CHANGED",
            None => "values not checked",
        };
        text.push_str(&format!(
            "  {:<24} {:>12}  {:>11}  p99 {:>11}  {values}  ({}; {})\n",
            finding.transport,
            number(finding.gb_per_s, 3, "GB/s"),
            number(finding.latency_us, 1, "µs"),
            number(finding.latency_p99_us, 1, "µs"),
            finding.tool,
            finding.detail,
        ));
    }
    for note in &report.notes {
        text.push_str(&format!("  {note}\n"));
    }
    text
}

fn far_end(listen: SocketAddr, args: &NetworkTestArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CommandError::failed(format!("cannot watch for signals: {error}")))?;
    }
    let address = match &args.toward {
        None => listen,
        Some(near) => SocketAddr::new(own_address(args.interface.as_deref(), Some(near)), listen.port()),
    };
    let cannot = |error: std::io::Error| CommandError::failed(format!("cannot listen at {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let own = listener.local_addr().map_err(cannot)?;
    let said = format!("servelab network-test listens on {own}");
    if args.toward.is_some() {
        // The near end reads it, and closing our standard input is how it ends us, even when it is killed.
        ui.data(&format!("{said}\n"));
        let stop = Arc::clone(&stop);
        let _ = std::thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
            let mut rest = Vec::new();
            let _ = std::io::stdin().read_to_end(&mut rest);
            stop.store(true, Ordering::SeqCst);
        });
    } else {
        ui.always(&said);
    }
    serve(&listener, &stop).map_err(cannot)?;
    Ok(ExitCode::SUCCESS)
}
