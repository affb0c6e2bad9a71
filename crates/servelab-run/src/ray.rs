//! Servers that span nodes by Ray. On the first node a small supervisor starts Ray's head, waits until the expected nodes and
//! GPUs are there, and only then starts the server; on the others `rank` runs Ray's worker. What is missing at the deadline
//! is said by name. Nothing is waited for by guessing a time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::launch::find_program;

const POLL: Duration = Duration::from_millis(100);

/// Stands for the node's own address in a rank's command line: only the node knows it.
pub const OWN_ADDRESS: &str = "{address}";

/// Sockets below Ray's folder have names of 60 bytes, and the kernel takes 107.
const LONGEST_FOLDER: usize = 40;

/// Prints, once a second, the nodes that are alive. Ray's own command line knows no addresses without its dashboard.
const LIST_NODES: &str = "\
import json, sys, time
import ray
while True:
    try:
        ray.init(address=sys.argv[1], _node_ip_address=sys.argv[2], log_to_driver=False, logging_level='ERROR')
        break
    except Exception as error:
        print(json.dumps({'nodes': [], 'error': str(error)[:300]}), flush=True)
        time.sleep(1)
while True:
    alive = [node for node in ray.nodes() if node['Alive']]
    print(json.dumps({'nodes': [{'ip': node['NodeManagerAddress'], 'name': node['NodeManagerHostname'],
                                 'gpus': node['Resources'].get('GPU', 0)} for node in alive]}), flush=True)
    time.sleep(1)
";

/// What the supervisor is told.
#[derive(Debug, Clone)]
pub struct RayHead {
    /// Address of this node on the fabric.
    pub address: IpAddr,
    /// Port of Ray's head.
    pub port: u16,
    /// GPUs that the server uses on one node.
    pub gpus_per_node: u32,
    /// Names of the nodes, this one first.
    pub nodes: Vec<String>,
    /// Ray's folder, a different one for each start.
    pub folder: PathBuf,
    /// How long nodes may take to join.
    pub patience: Duration,
    /// The server's command line.
    pub argv: Vec<String>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum RayError {
    /// A program is not there.
    #[error("Ray: `{program}` was not found beside the engine or on the PATH")]
    NotFound {
        /// `ray` or `python3`.
        program: &'static str,
    },
    /// A program could not be started.
    #[error("Ray: start `{program}`: {source}")]
    Spawn {
        /// Which one.
        program: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The head ended.
    #[error("Ray: the head ended with {status} before every node had joined")]
    HeadEnded {
        /// How.
        status: String,
    },
    /// Python could not ask.
    #[error("Ray: the nodes cannot be listed: {why}")]
    CannotAsk {
        /// What is known.
        why: String,
    },
    /// Not all came.
    #[error("Ray: {text}")]
    Missing {
        /// Who is missing.
        text: String,
    },
}

/// Ray's folder for a start: short, and this job's own.
pub fn folder_for(token: &str, scratch: Option<&Path>) -> PathBuf {
    let word: String = servelab_core::identity::sha256_hex(token.as_bytes()).chars().take(8).collect();
    let inside = scratch.map(|scratch| scratch.join(format!("ray-{word}")));
    let is_short = |path: &PathBuf| path.is_absolute() && path.as_os_str().len() <= LONGEST_FOLDER;
    inside.filter(is_short).unwrap_or_else(|| PathBuf::from(format!("/tmp/sl-ray-{word}")))
}

/// What a worker's node runs.
pub fn worker_command(engine: &str, head: IpAddr, port: u16, gpus_per_node: u32) -> Vec<String> {
    let ray = beside(engine, &["ray"]).map_or_else(|| "ray".to_owned(), |path| path.to_string_lossy().into_owned());
    let mut words = vec![ray, "start".to_owned(), format!("--address={}", place(head, port))];
    words.extend([
        format!("--node-ip-address={OWN_ADDRESS}"),
        format!("--num-gpus={gpus_per_node}"),
        "--disable-usage-stats".to_owned(),
        "--block".to_owned(),
    ]);
    words
}

/// Variables that let the nodes of this start, and nobody else on their network, into the cluster. Newer versions of Ray would
/// otherwise share one file in the home folder between all clusters of a user, and a node that reads it too early is refused;
/// older ones know no such thing. Who has set one of these knows better.
pub fn access(env: &[(String, String)]) -> Vec<(String, String)> {
    const NAMES: [&str; 3] = ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"];
    let is_set = |name: &&str| env.iter().any(|(known, _)| known == name) || std::env::var_os(name).is_some();
    if NAMES.iter().any(is_set) {
        return Vec::new();
    }
    let (Ok(first), Ok(second)) = (crate::new_job_id(), crate::new_job_id()) else { return Vec::new() };
    let token = format!("{first}{second}").replace('-', "");
    vec![("RAY_AUTH_MODE".to_owned(), "token".to_owned()), ("RAY_AUTH_TOKEN".to_owned(), token)]
}

fn place(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// A program of the engine's own environment, when the engine is named by a path.
fn beside(engine: &str, names: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(engine).parent().filter(|folder| !folder.as_os_str().is_empty())?;
    names.iter().map(|name| folder.join(name)).find(|path| path.exists())
}

fn program(engine: &str, names: &[&str], what: &'static str) -> Result<PathBuf, RayError> {
    let path = std::env::var_os("PATH");
    beside(engine, names)
        .or_else(|| names.iter().find_map(|name| find_program(Path::new(name), path.as_deref())))
        .ok_or(RayError::NotFound { program: what })
}

/// A node that joined.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Joined {
    ip: String,
    name: String,
    #[serde(default)]
    gpus: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
struct Listing {
    nodes: Vec<Joined>,
    #[serde(default)]
    error: Option<String>,
}

/// Runs head and server to the server's end; the status is the server's.
pub fn run_head(head: &RayHead, say: &mut dyn FnMut(&str)) -> Result<i32, RayError> {
    let engine = head.argv.first().map_or("", String::as_str);
    let ray = program(engine, &["ray"], "ray")?;
    let python = program(engine, &["python3", "python"], "python3")?;
    let own = head.address.to_string();
    let mut start = Command::new(&ray);
    start.args(["start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"]);
    start.args([format!("--node-ip-address={own}"), format!("--port={}", head.port)]);
    start.args([format!("--num-gpus={}", head.gpus_per_node), format!("--temp-dir={}", head.folder.display())]);
    let mut ray_head = Ended(spawn(start.stdin(Stdio::null()), &ray)?);
    let at = place(head.address, head.port);
    let mut ask = Command::new(&python);
    ask.args(["-c", LIST_NODES, &at, &own]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut asking = Ended(spawn(&mut ask, &python)?);
    let listings = listings(&mut asking.0);
    wait_for_nodes(head, &mut ray_head.0, &mut asking.0, &listings, say)?;
    drop(asking);
    let Some((program, args)) = head.argv.split_first() else {
        return Err(RayError::CannotAsk { why: "there is no server to start".to_owned() });
    };
    let mut command = Command::new(program);
    // Both that the engine finds this cluster and no other on the node, and that it meets it under the same address.
    command.args(args).env("RAY_ADDRESS", &at).env("VLLM_HOST_IP", &own).stdin(Stdio::null());
    let mut server = Ended(spawn(&mut command, Path::new(program))?);
    loop {
        if let Ok(Some(status)) = server.0.try_wait() {
            return Ok(status_of(status));
        }
        if let Ok(Some(status)) = ray_head.0.try_wait() {
            say(&format!("Ray: the head ended with {status} under the server"));
            return Ok(1);
        }
        thread::sleep(POLL);
    }
}

fn status_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn spawn(command: &mut Command, program: &Path) -> Result<Child, RayError> {
    command.spawn().map_err(|source| RayError::Spawn { program: program.display().to_string(), source })
}

/// A child that does not outlive its use. The process group takes along whatever it started itself.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ =
                rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(POLL);
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Lines of the listing program as they come; the channel closes with it.
fn listings(asking: &mut Child) -> Receiver<String> {
    let (tx, rx) = sync_channel(64);
    let output = asking.stdout.take();
    // It ends with the program that it reads from.
    let _ = thread::Builder::new().name("ray-nodes".to_owned()).spawn(move || {
        for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    rx
}

fn wait_for_nodes(
    head: &RayHead,
    ray_head: &mut Child,
    asking: &mut Child,
    listings: &Receiver<String>,
    say: &mut dyn FnMut(&str),
) -> Result<(), RayError> {
    let began = Instant::now();
    let mut seen = Listing::default();
    let mut said = String::new();
    say(&format!("Ray: waiting up to {} s for {}", head.patience.as_secs(), wanted(head)));
    loop {
        if let Ok(Some(status)) = ray_head.try_wait() {
            return Err(RayError::HeadEnded { status: status.to_string() });
        }
        match listings.recv_timeout(POLL) {
            Ok(line) => {
                // Warnings of libraries come on the same stream.
                if let Ok(listing) = serde_json::from_str::<Listing>(&line) {
                    seen = listing;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let status = asking.wait().map(|status| status.to_string()).unwrap_or_default();
                return Err(RayError::CannotAsk { why: format!("python ended with {status}") });
            }
        }
        let text = state(head, &seen);
        if text != said {
            say(&format!("Ray: {text}"));
            said = text;
        }
        if is_complete(head, &seen) {
            return Ok(());
        }
        if began.elapsed() >= head.patience {
            let waited = head.patience.as_secs();
            return Err(RayError::Missing { text: format!("after {waited} s {}", state(head, &seen)) });
        }
    }
}

fn wanted(head: &RayHead) -> String {
    let n = head.nodes.len();
    format!("{n} nodes with {} GPUs each", head.gpus_per_node)
}

/// Short host names: Slurm's, Ray's and the kernel's may differ in the domain.
fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn is_complete(head: &RayHead, seen: &Listing) -> bool {
    let gpus: f64 = seen.nodes.iter().map(|node| node.gpus).sum();
    seen.nodes.len() >= head.nodes.len() && gpus >= (head.nodes.len() as u32 * head.gpus_per_node).into()
}

/// How far the cluster is, with who is missing and who came under which address.
fn state(head: &RayHead, seen: &Listing) -> String {
    // The sum of nothing is -0.
    let gpus = seen.nodes.iter().fold(0.0, |sum, node| sum + node.gpus);
    let all = head.nodes.len() as u32 * head.gpus_per_node;
    let mut text = format!("{} of {} nodes and {gpus} of {all} GPUs have joined", seen.nodes.len(), head.nodes.len());
    let names: BTreeSet<&str> = seen.nodes.iter().map(|node| short(&node.name)).collect();
    let missing: Vec<&str> =
        head.nodes.iter().map(String::as_str).filter(|name| !names.contains(short(name))).collect();
    if !is_complete(head, seen) {
        let few = seen.nodes.iter().filter(|node| node.gpus < f64::from(head.gpus_per_node));
        let few: Vec<String> = few.map(|node| format!("{} has {} GPUs", node.name, node.gpus)).collect();
        if !missing.is_empty() {
            text.push_str(&format!("; missing: {}", missing.join(", ")));
        }
        if !few.is_empty() {
            text.push_str(&format!("; {}", few.join(", ")));
        }
        if let Some(error) = seen.error.as_ref().and_then(|error| error.lines().next()) {
            text.push_str(&format!(" ({error})"));
        }
    }
    if !seen.nodes.is_empty() {
        let addresses: Vec<String> = seen.nodes.iter().map(|node| format!("{} at {}", node.name, node.ip)).collect();
        text.push_str(&format!("; there: {}", addresses.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn head(folder: &Path, argv: &[&str]) -> RayHead {
        RayHead {
            address: "127.0.0.1".parse().unwrap(),
            port: 6379,
            gpus_per_node: 8,
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
            folder: folder.join("ray"),
            patience: Duration::from_secs(20),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    fn program(folder: &Path, name: &str, script: &str) {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    const BOTH: &str = r#"echo '{"nodes": [{"ip": "10.0.0.1", "name": "n1.park", "gpus": 8}]}'
echo 'a warning'
echo '{"nodes": [{"ip": "10.0.0.1", "name": "n1.park", "gpus": 8}, {"ip": "10.0.0.2", "name": "n2", "gpus": 8.0}]}'
exec sleep 60"#;
    const ONE: &str = r#"echo '{"nodes": [{"ip": "10.0.0.1", "name": "n1", "gpus": 4}]}'
exec sleep 60"#;

    #[test]
    fn the_server_starts_when_all_have_joined() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "ray", "echo \"$@\" > \"$(dirname \"$0\")/ray-args\"; exec sleep 60");
        program(folder.path(), "python3", BOTH);
        program(folder.path(), "vllm", "echo \"$RAY_ADDRESS $VLLM_HOST_IP $*\" > \"$(dirname \"$0\")/ran\"; exit 7");
        let vllm = folder.path().join("vllm").to_string_lossy().into_owned();
        let mut said = Vec::new();
        let status = run_head(&head(folder.path(), &[&vllm, "serve", "m"]), &mut |text| said.push(text.to_owned()));
        assert_eq!(status.unwrap(), 7, "the server's own");
        assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap(), "127.0.0.1:6379 127.0.0.1 serve m\n");
        let args = fs::read_to_string(folder.path().join("ray-args")).unwrap();
        assert!(args.starts_with("start --head --block") && args.contains("--num-gpus=8 --temp-dir="), "{args}");
        assert!(said.last().unwrap().starts_with("Ray: 2 of 2 nodes and 16 of 16 GPUs"), "{said:?}");
    }

    #[test]
    fn who_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "ray", "exec sleep 60");
        program(folder.path(), "python3", ONE);
        program(folder.path(), "vllm", "touch \"$(dirname \"$0\")/ran\"");
        let vllm = folder.path().join("vllm").to_string_lossy().into_owned();
        let mut one = head(folder.path(), &[&vllm]);
        one.patience = Duration::from_millis(1500);
        let error = run_head(&one, &mut |_| ()).unwrap_err().to_string();
        assert!(
            error.starts_with("Ray: after 1 s 1 of 2 nodes and 4 of 16 GPUs have joined; missing: n2; n1 has 4 GPUs"),
            "{error}"
        );
        assert!(!folder.path().join("ran").exists());
        let found = servelab_core::failures::scan_log_lines([("serve-0.log", error.as_str())]).unwrap();
        assert_eq!(found.code, "ray_cluster");
    }

    #[test]
    fn a_head_or_a_python_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let vllm = folder.path().join("vllm").to_string_lossy().into_owned();
        program(folder.path(), "ray", "exit 3");
        program(folder.path(), "python3", "exec sleep 60");
        let error = run_head(&head(folder.path(), &[&vllm]), &mut |_| ()).unwrap_err();
        assert!(matches!(error, RayError::HeadEnded { .. }), "{error}");
        program(folder.path(), "ray", "exec sleep 60");
        program(folder.path(), "python3", "exit 1");
        let error = run_head(&head(folder.path(), &[&vllm]), &mut |_| ()).unwrap_err();
        assert!(matches!(error, RayError::CannotAsk { .. }), "{error}");
    }

    #[test]
    fn each_start_has_a_key_of_its_own() {
        let (first, second) = (access(&[]), access(&[]));
        assert!(first != second && first[1].1.len() == 64 && first[1].1.chars().all(|c| c.is_ascii_hexdigit()));
        assert!(access(&[("RAY_AUTH_MODE".to_owned(), "disabled".to_owned())]).is_empty());
        let text = crate::launch::command_text(&["ray".to_owned()], &first, &[]);
        assert!(!text.contains(&first[1].1), "{text}");
    }

    #[test]
    fn folders_are_short_and_differ() {
        let (a, b) = (folder_for("job/1", None), folder_for("job/2", None));
        assert!(a != b && a.as_os_str().len() < LONGEST_FOLDER);
        assert!(folder_for("x", Some(Path::new("/tmp/sl-6f1c0000-77"))).starts_with("/tmp/sl-6f1c0000-77"));
        let long = format!("/scratch/{}", "long/".repeat(10));
        assert!(folder_for("x", Some(Path::new(&long))).starts_with("/tmp"));
    }

    #[test]
    fn what_a_worker_runs() {
        let words = worker_command("vllm", "10.0.0.1".parse().unwrap(), 6379, 8).join(" ");
        assert_eq!(
            words,
            "ray start --address=10.0.0.1:6379 --node-ip-address={address} --num-gpus=8 --disable-usage-stats --block"
        );
    }
}
