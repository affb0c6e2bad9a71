//! The far end of a server that spans nodes: started on another node by `srun` or `ssh`, it runs one rank of the server as a
//! process group of its own and ends it when its standard input ends or it is asked to. Whatever becomes of the run on the
//! first node, nothing stays behind here.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::control::RunControl;
use crate::nodes::own_address;
use crate::process::{ProcessError, ServerCommand, ServerProcess};

const POLL: Duration = Duration::from_millis(50);
const GRACE: Duration = Duration::from_secs(15);

/// One rank.
#[derive(Debug, Clone)]
pub struct Rank {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where its output goes; on the shared file system.
    pub log: PathBuf,
    /// Where its start is recorded.
    pub record: PathBuf,
    /// Names this start.
    pub token: String,
    /// Interface of the fabric, if the site names one.
    pub interface: Option<String>,
    /// The first node, for finding the way to it.
    pub toward: String,
    /// Somebody has to listen here before the rank is started.
    pub wait_for: Option<SocketAddr>,
    /// A folder of this start on this node, removed at its end.
    pub scratch: Option<PathBuf>,
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankEnd {
    /// By itself, with this status (128 + n after signal n).
    Exited(i32),
    /// Because it was to.
    Stopped,
}

/// Runs a rank to its end. The first line of standard input is its environment as a JSON object: secrets travel by no
/// file and no command line.
pub fn run_rank(rank: Rank, control: &Arc<RunControl>) -> Result<(RankEnd, IpAddr), ProcessError> {
    let address = own_address(rank.interface.as_deref(), Some(&rank.toward));
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    let _ = input.read_line(&mut line);
    let env: std::collections::BTreeMap<String, String> = serde_json::from_str(&line).unwrap_or_default();
    let mut env: Vec<(String, String)> = env.into_iter().collect();
    env.retain(|(name, _)| name != "VLLM_HOST_IP");
    env.push(("VLLM_HOST_IP".to_owned(), address.to_string()));
    let own = address.to_string();
    let argv = rank.argv.iter().map(|word| word.replace(crate::ray::OWN_ADDRESS, &own)).collect();
    // A flag of its own: the end of the input and a signal, both at once, are one wish to end and no hurry.
    let is_cut = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&is_cut);
    // It ends with this process, which does not wait for it.
    let _ = thread::Builder::new().name("lifeline".to_owned()).spawn(move || {
        let mut rest = Vec::new();
        let _ = input.read_to_end(&mut rest);
        cut.store(true, Relaxed);
    });
    let is_over = || control.is_stopping() || is_cut.load(Relaxed);
    if let Some(place) = rank.wait_for {
        // For ever: the first node knows how long, and ends this one then.
        while TcpStream::connect_timeout(&place, Duration::from_secs(2)).is_err() {
            if is_over() {
                return Ok((RankEnd::Stopped, address));
            }
            thread::sleep(4 * POLL);
        }
    }
    let command = ServerCommand { argv, env, log: rank.log, record: rank.record, token: rank.token };
    let mut process = ServerProcess::spawn(&command)?;
    let scratch = Scratch(rank.scratch);
    loop {
        if let Some(exit) = process.exit() {
            // What the server's main process left behind ends too.
            process.stop(GRACE)?;
            drop(scratch);
            let status = exit.status.unwrap_or_else(|| 128 + exit.signal.unwrap_or(0));
            return Ok((RankEnd::Exited(status), address));
        }
        if is_over() {
            process.stop_unless_hurried(GRACE, &|| control.is_forced())?;
            return Ok((RankEnd::Stopped, address));
        }
        thread::sleep(POLL);
    }
}

/// A folder that goes when its use is over.
struct Scratch(Option<PathBuf>);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
