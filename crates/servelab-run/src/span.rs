//! Servers that span nodes: what each rank is told beside the planned command line, and how it is started where it belongs.
//! vLLM's own ways, `mp` (tensor and pipeline parallel over nodes) and `dp-rpc` (data-parallel ranks), and Ray, whose workers
//! take the ranks' place (`ray`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use servelab_core::plan::{PlannedPoint, RolePlan};

use crate::launch::quote;
use crate::nodes::{Allocation, Via};

/// How the ranks of a server find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// `--nnodes`, `--node-rank`, `--master-addr`.
    Mp,
    /// `--data-parallel-address`, `--data-parallel-rpc-port`, `--data-parallel-start-rank`.
    DpRpc,
    /// One command line on the first node; Ray starts the rest.
    Ray,
}

/// Nodes that one instance of a role spans.
pub fn nodes_of(role: &RolePlan) -> usize {
    role.placement.first().map_or(1, |place| place.node_gpus.len().max(1))
}

/// How a point's server spans nodes; the error says why this version cannot do it.
pub fn spread_of(point: &PlannedPoint) -> Result<Spread, String> {
    match point.config.pointer("/deploy/launch").and_then(serde_json::Value::as_str) {
        Some("mp") => Ok(Spread::Mp),
        Some("dp-rpc") => Ok(Spread::DpRpc),
        Some("ray") => Ok(Spread::Ray),
        Some(other) => {
            Err(format!("it spans nodes by `launch: {other}`; this version starts `mp`, `dp-rpc` and `ray`"))
        }
        None => Err("it spans nodes and does not say how; write `deploy: {launch: mp}`, `dp-rpc` or `ray`".to_owned()),
    }
}

/// Where the ranks meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// Address of the first node on the fabric.
    pub address: IpAddr,
    /// A port that was free there.
    pub port: u16,
}

/// What a rank is told beside the planned command line.
pub fn rank_arguments(spread: Spread, argv: &[String], n_nodes: usize, rank: usize, meeting: Meeting) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if spread == Spread::Ray {
        // Its workers are told nothing of the server.
        return words;
    }
    let mut push = |parts: &[&str]| words.extend(parts.iter().map(|part| (*part).to_owned()));
    let value_of = |flag: &str| {
        let at = argv.iter().position(|word| word == flag)?;
        argv.get(at + 1)?.parse::<usize>().ok()
    };
    let (address, port) = (meeting.address.to_string(), meeting.port.to_string());
    match spread {
        Spread::Ray => {}
        Spread::Mp => {
            if value_of("--nnodes").is_none() {
                push(&["--nnodes", &n_nodes.to_string()]);
            }
            push(&["--node-rank", &rank.to_string(), "--master-addr", &address, "--master-port", &port]);
        }
        Spread::DpRpc => {
            let all = value_of("--data-parallel-size").unwrap_or(n_nodes);
            let local = value_of("--data-parallel-size-local").unwrap_or_else(|| (all / n_nodes.max(1)).max(1));
            if value_of("--data-parallel-size-local").is_none() {
                push(&["--data-parallel-size-local", &local.to_string()]);
            }
            push(&["--data-parallel-address", &address, "--data-parallel-rpc-port", &port]);
            if rank > 0 {
                push(&["--data-parallel-start-rank", &(rank * local).to_string()]);
            }
        }
    }
    if rank > 0 {
        push(&["--headless"]);
    }
    words
}

/// The command that starts a rank on its node, as this machine runs it.
pub fn remote_command(
    allocation: &Allocation,
    rank: usize,
    program: &Path,
    options: &[(&str, &str)],
    argv: &[String],
) -> Option<Vec<String>> {
    let mut words = allocation.prefix(rank)?;
    let mut remote = vec![program.to_string_lossy().into_owned(), "rank".to_owned()];
    for (name, value) in options {
        remote.extend([format!("--{name}"), (*value).to_owned()]);
    }
    remote.push("--".to_owned());
    remote.extend(argv.iter().cloned());
    if allocation.via == Via::Ssh {
        // ssh joins its arguments for a shell on the other side, which begins in the home folder.
        let folder = std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let quoted: Vec<String> = remote.iter().map(|word| quote(word)).collect();
        words.push(format!("cd {} && exec {}", quote(&folder), quoted.join(" ")));
    } else {
        words.extend(remote);
    }
    Some(words)
}

/// The first line of a rank's standard input: this process's environment, with the server's on top. The far side of `ssh`
/// starts with almost nothing.
pub fn environment_line(env: &[(String, String)]) -> String {
    // Those belong to the node or to the step, not to the job.
    let is_own = |name: &str| {
        name.starts_with("SLURM_STEP")
            || matches!(name, "SLURM_NODEID" | "SLURM_PROCID" | "SLURM_LOCALID" | "HOSTNAME")
            || matches!(name, "CUDA_VISIBLE_DEVICES" | "SLURMD_NODENAME" | "PWD" | "OLDPWD" | "_" | "SHLVL")
    };
    let mut all: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !is_own(name))
        .collect();
    all.extend(env.iter().cloned());
    serde_json::to_string(&all).unwrap_or_else(|_| "{}".to_owned()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn meeting() -> Meeting {
        Meeting { address: "10.0.0.1".parse().unwrap(), port: 29_500 }
    }

    #[test]
    fn what_each_rank_is_told() {
        let check = |spread, argv: &str, rank, expected: &str| {
            assert_eq!(rank_arguments(spread, &words(argv), 2, rank, meeting()).join(" "), expected, "{argv} {rank}");
        };
        let mp = "vllm serve m --tensor-parallel-size 16 --nnodes 2";
        check(Spread::Mp, mp, 0, "--node-rank 0 --master-addr 10.0.0.1 --master-port 29500");
        check(Spread::Mp, mp, 1, "--node-rank 1 --master-addr 10.0.0.1 --master-port 29500 --headless");
        let dp = "vllm serve m --data-parallel-size 16";
        check(
            Spread::DpRpc,
            dp,
            0,
            "--data-parallel-size-local 8 --data-parallel-address 10.0.0.1 --data-parallel-rpc-port 29500",
        );
        check(
            Spread::DpRpc,
            "vllm serve m --data-parallel-size 16 --data-parallel-size-local 4",
            1,
            "--data-parallel-address 10.0.0.1 --data-parallel-rpc-port 29500 --data-parallel-start-rank 4 --headless",
        );
    }

    #[test]
    fn how_a_rank_is_started() {
        let mut allocation = Allocation { nodes: vec!["n1".to_owned(), "n2".to_owned()], via: Via::Srun };
        let start = |allocation: &Allocation| {
            let options = [("log", "/r/serve-1.log")];
            let command =
                remote_command(allocation, 1, Path::new("/bin/servelab"), &options, &words("vllm serve it's"));
            command.unwrap()
        };
        let slurm = start(&allocation);
        assert!(
            slurm.ends_with(&words("-w n2 /bin/servelab rank --log /r/serve-1.log -- vllm serve it's")),
            "{slurm:?}"
        );
        allocation.via = Via::Ssh;
        let ssh = start(&allocation);
        assert!(ssh.last().unwrap().ends_with(r"-- vllm serve 'it'\''s'"), "{ssh:?}");
        assert_eq!(remote_command(&Allocation::here(), 1, Path::new("/b"), &[], &[]), None);
    }

    #[test]
    fn the_environment_travels_without_what_belongs_to_the_node() {
        let line = environment_line(&[("A".to_owned(), "it's\n".to_owned())]);
        let env: BTreeMap<String, String> = serde_json::from_str(&line).unwrap();
        assert_eq!(env.get("A").map(String::as_str), Some("it's\n"));
        assert!(env.contains_key("PATH") && !env.contains_key("PWD") && line.lines().count() == 1);
    }
}
