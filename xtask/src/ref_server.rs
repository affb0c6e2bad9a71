//! The reference server as a process of its own, pinned to a core. Ends when its standard input is closed or on SIGINT
//! or SIGTERM, and then writes what it stamped.

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use clap::{Args, ValueEnum};
use servelab_load::reference::{FaultRule, ReferenceConfig, ReferenceServer, RoleChunk, Script, Spin, Stall};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the server does and where.
#[derive(Debug, Args)]
pub(crate) struct RefServerArgs {
    /// Address to listen on; may be given several times (127.0.0.1:0, 127.0.0.2:0, 0.0.0.0:8000)
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Core that the server's thread stays on
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// How it waits: `always` polls without end and wants a core for itself
    #[arg(long, value_enum, default_value = "near")]
    spin: SpinArg,
    /// Name of the model
    #[arg(long, default_value = "reference")]
    model: String,
    /// From the read of a request to its first token
    #[arg(long, default_value_t = 50.0, value_name = "MS")]
    first_ms: f64,
    /// Between two events
    #[arg(long, default_value_t = 20.0, value_name = "MS")]
    gap_ms: f64,
    /// Both times vary uniformly by this fraction, each way
    #[arg(long, default_value_t = 0.1, value_name = "FRACTION")]
    jitter: f64,
    /// Seed of the variation
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens of a request that does not say how many it wants
    #[arg(long, default_value_t = 100)]
    tokens: u32,
    /// Tokens in each event
    #[arg(long, default_value_t = 1)]
    tokens_per_event: u32,
    /// Events in each write after the first token's
    #[arg(long, default_value_t = 1)]
    events_per_write: u32,
    /// Send the empty role chunk of a chat with the head instead of with the first token
    #[arg(long)]
    role_with_head: bool,
    /// The whole server stops: `AFTER+LENGTH` in seconds since its first request; may be given several times, in order
    #[arg(long, value_name = "AFTER+LENGTH", value_parser = parse_stall)]
    stall: Vec<Stall>,
    /// Requests that fail: `KIND[@EVENTS][:EVERY[+OFFSET]]`; may be given several times
    #[arg(long, value_name = "RULE")]
    fault: Vec<FaultRule>,
    /// File for the stamps
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Writes that the log has room for
    #[arg(long, default_value_t = 4_000_000)]
    log_writes: usize,
    /// Requests that the log has room for
    #[arg(long, default_value_t = 200_000)]
    log_requests: usize,
    /// Go on when standard input is closed; only a signal ends it
    #[arg(long)]
    until_signal: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SpinArg {
    Never,
    Near,
    Always,
}

fn parse_stall(text: &str) -> Result<Stall, String> {
    let nanos = |seconds: &str| {
        let seconds: f64 = seconds.parse().map_err(|_| format!("`{seconds}` is no number of seconds"))?;
        // A day: keeps the conversion exact and the sum of two in range.
        if (0.0..=86_400.0).contains(&seconds) {
            Ok((seconds * 1e9) as i64)
        } else {
            Err(format!("{seconds} s is out of range"))
        }
    };
    let (after, length) = text.split_once('+').ok_or("write AFTER+LENGTH, such as 10+2")?;
    Ok(Stall { after_ns: nanos(after)?, length_ns: nanos(length)? })
}

/// Prints its addresses, serves, writes the log.
pub(crate) fn serve(args: RefServerArgs) -> Result<(), Box<dyn Error>> {
    let nanos = |millis: f64| (millis.clamp(0.0, 86_400_000.0) * 1e6) as i64;
    let script = Script {
        first_ns: nanos(args.first_ms),
        gap_ns: nanos(args.gap_ms),
        jitter: args.jitter,
        seed: args.seed,
        tokens: args.tokens,
        tokens_per_event: args.tokens_per_event,
        events_per_write: args.events_per_write,
        role_chunk: if args.role_with_head { RoleChunk::WithHead } else { RoleChunk::WithFirstToken },
        stalls: args.stall,
        faults: args.fault,
    };
    let spin = match args.spin {
        SpinArg::Never => Spin::Never,
        SpinArg::Near => Spin::Near,
        SpinArg::Always => Spin::Always,
    };
    crate::system::raise_descriptor_limit()?;
    let server = ReferenceServer::start(ReferenceConfig {
        listen: args.listen,
        model: args.model,
        script,
        spin,
        core: args.core,
        max_writes: args.log_writes,
        max_requests: args.log_requests,
        prefault: true,
    })?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    std::io::stdout().flush()?;
    wait_for_the_end(args.until_signal)?;
    let log = server.stop()?;
    if log.dropped_writes + log.dropped_requests > 0 {
        println!(
            "the log was too small: {} writes and {} requests are missing (--log-writes, --log-requests)",
            log.dropped_writes, log.dropped_requests
        );
    }
    println!(
        "{} requests, {} token events in {} writes, {:.2} s CPU",
        log.requests.len(),
        log.n_events(),
        log.writes.len(),
        log.cpu_ns as f64 / 1e9
    );
    if let Some(path) = args.log {
        log.write_file(&path)?;
    }
    Ok(())
}

fn wait_for_the_end(until_signal: bool) -> Result<(), Box<dyn Error>> {
    let (ended_tx, ended) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let by_signal = ended_tx.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // The receiver is gone when the other reason came first.
            let _ = by_signal.send(());
        }
    });
    if until_signal {
        return ended.recv().map_err(Into::into);
    }
    std::thread::spawn(move || at_end_of_input(&ended_tx));
    ended.recv().map_err(Into::into)
}

fn at_end_of_input(ended: &Sender<()>) {
    let mut buffer = [0; 256];
    while std::io::stdin().read(&mut buffer).is_ok_and(|length| length > 0) {}
    let _ = ended.send(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls() {
        assert_eq!(parse_stall("10+2.5").unwrap(), Stall { after_ns: 10_000_000_000, length_ns: 2_500_000_000 });
        for wrong in ["10", "a+1", "1+b", "-1+1", "1+nan"] {
            assert!(parse_stall(wrong).is_err(), "{wrong}");
        }
    }
}
