//! What is simulated: servers, how requests find them, and the links between prefill and decode servers.

use crate::SimError;
use crate::catalog::GpuSpec;
use crate::config::ServerConfig;
use crate::engine::{EngineConfig, Job, Scheduler};
use crate::random::mix;
use crate::step_time::{KvTransferParameters, StepTime};

/// One server: equal data-parallel ranks.
#[derive(Clone)]
pub struct Server<'a> {
    /// Limits and rules of each rank.
    pub engine: EngineConfig,
    /// Data-parallel ranks.
    pub ranks: u32,
    /// Ranks step together, and the slowest sets the pace (experts are spread over them).
    pub lock_step: bool,
    /// How long a step takes.
    pub step_time: &'a dyn StepTime,
}

impl std::fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("engine", &self.engine).field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

impl<'a> Server<'a> {
    /// A server of a resolved configuration.
    pub fn of(config: &ServerConfig, step_time: &'a dyn StepTime) -> Self {
        Self { engine: EngineConfig::of(config), ranks: config.dp, lock_step: config.lock_step(), step_time }
    }
}

/// How a request finds its server; inside a server it goes to the rank with the least load, as in vLLM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Router {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The server with the fewest requests, waiting ones counted four times.
    LeastLoaded,
    /// By the request's session.
    SessionAffinity,
    /// The server that has most of the prompt in its cache, as long as loads are balanced and at least half is there;
    /// else the least loaded one.
    PrefixAware,
}

/// KV transfer from prefill to decode servers. Each server has one link, which carries one transfer after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// Time of a transfer besides its bytes, nanoseconds.
    pub alpha_ns: u64,
    /// Rate of one link, bytes per second.
    pub bytes_per_s: f64,
    /// KV bytes of one token over all ranks of tensor and pipeline parallelism.
    pub kv_bytes_per_token: f64,
}

impl Transfer {
    /// Between two servers of these configurations: every rank of the role that has fewer of them uses its own link, the
    /// device's scale-up link inside a node, its network card between nodes. All layers are sent in full, also those that look
    /// at a window only; what several ranks of the receiver hold alike is sent to each.
    pub fn between(prefill: &ServerConfig, decode: &ServerConfig, same_node: bool, how: &KvTransferParameters) -> Self {
        let ranks = |config: &ServerConfig| f64::from(config.tp * config.pp);
        let links = ranks(prefill).min(ranks(decode)).max(1.0);
        let per_link = |gpu: &GpuSpec| match same_node {
            true => gpu.link_gb_per_s * 1e9 * how.link_efficiency,
            false => gpu.nic_gbit_per_s / 8.0 * 1e9 * how.network_efficiency,
        };
        Self {
            alpha_ns: (how.alpha_us * 1e3) as u64,
            bytes_per_s: links * per_link(&prefill.gpu).min(per_link(&decode.gpu)),
            kv_bytes_per_token: kv_bytes(decode),
        }
    }
}

/// Bytes of one token that the ranks of a server hold together.
fn kv_bytes(config: &ServerConfig) -> f64 {
    let model = &config.model;
    let layers = f64::from(model.layers.saturating_sub(model.linear_layers));
    layers * model.kv_elements_per_layer(config.tp) * f64::from(config.tp) * config.kv_element_bytes()
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Deployment<'a> {
    /// Servers that generate tokens; without `prefill` they also compute the prompts.
    pub servers: Vec<Server<'a>>,
    /// Servers that only compute prompts.
    pub prefill: Vec<Server<'a>>,
    /// How requests find a server (both kinds).
    pub router: Router,
    /// Links, where there are prefill servers.
    pub transfer: Option<Transfer>,
    /// Take steps of unchanged batches many at a time. Results are the same either way.
    pub fast_forward: bool,
}

impl<'a> Deployment<'a> {
    /// Equal servers behind a router.
    pub fn replicas(server: Server<'a>, n: u32, router: Router) -> Self {
        let servers = vec![server; n.max(1) as usize];
        Self { servers, prefill: Vec::new(), router, transfer: None, fast_forward: true }
    }

    /// One server.
    pub fn single(server: Server<'a>) -> Self {
        Self::replicas(server, 1, Router::RoundRobin)
    }

    pub(super) fn check(&self) -> Result<(), SimError> {
        let bad = |name, value: String, rule| Err(SimError::BadSetting { name, value, rule });
        if self.servers.is_empty() {
            return bad("servers", "0".to_owned(), "at least one server that generates tokens");
        }
        match self.transfer {
            None if !self.prefill.is_empty() => {
                bad("transfer", "nothing".to_owned(), "given where there are prefill servers")
            }
            Some(link) if !(link.bytes_per_s.is_finite() && link.bytes_per_s > 0.0) => {
                bad("transfer rate", link.bytes_per_s.to_string(), "a finite number above 0")
            }
            _ => Ok(()),
        }
    }
}

/// Servers of one role, as the router sees them: ranges of ranks.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) servers: Vec<std::ops::Range<usize>>,
    next_server: usize,
    next_rank: Vec<usize>,
}

/// Loads count as balanced up to this difference, or ratio.
const BALANCED_DIFFERENCE: usize = 32;
const BALANCED_RATIO: f64 = 1.5;

impl Pool {
    pub(super) fn new(servers: Vec<std::ops::Range<usize>>) -> Self {
        let next_rank = vec![0; servers.len()];
        Self { servers, next_server: 0, next_rank }
    }

    /// Server and rank for a request.
    pub(super) fn route(
        &mut self,
        router: Router,
        ranks: &[Scheduler],
        session: u64,
        job: &Job,
        hashes: &mut Vec<u64>,
    ) -> (usize, usize) {
        let n_servers = self.servers.len().max(1);
        let server = if n_servers == 1 {
            0
        } else {
            match router {
                Router::RoundRobin => {
                    self.next_server = (self.next_server + 1) % n_servers;
                    (self.next_server + n_servers - 1) % n_servers
                }
                Router::LeastLoaded => self.least_loaded(ranks),
                Router::SessionAffinity => (mix(session, 0) % n_servers as u64) as usize,
                Router::PrefixAware => self.most_cached(ranks, job, hashes),
            }
        };
        (server, self.rank_of(server, ranks))
    }

    fn rank_of(&mut self, server: usize, ranks: &[Scheduler]) -> usize {
        let range = self.servers.get(server).cloned().unwrap_or(0..1);
        let n_ranks = range.len().max(1);
        if n_ranks == 1 {
            return range.start;
        }
        let first = self.next_rank.get(server).copied().unwrap_or(0);
        let offset = (0..n_ranks)
            .map(|offset| (first + offset) % n_ranks)
            .min_by_key(|rank| ranks.get(range.start + rank).map_or(usize::MAX, load))
            .unwrap_or(0);
        if let Some(next) = self.next_rank.get_mut(server) {
            *next = (offset + 1) % n_ranks;
        }
        range.start + offset
    }

    fn server_load(&self, server: usize, ranks: &[Scheduler]) -> usize {
        self.servers.get(server).and_then(|range| ranks.get(range.clone())).unwrap_or_default().iter().map(load).sum()
    }

    fn least_loaded(&self, ranks: &[Scheduler]) -> usize {
        (0..self.servers.len()).min_by_key(|server| self.server_load(*server, ranks)).unwrap_or(0)
    }

    fn most_cached(&self, ranks: &[Scheduler], job: &Job, hashes: &mut Vec<u64>) -> usize {
        let loads = || (0..self.servers.len()).map(|server| self.server_load(server, ranks));
        let (least, most) = (loads().min().unwrap_or(0), loads().max().unwrap_or(0));
        if most - least > BALANCED_DIFFERENCE && most as f64 > BALANCED_RATIO * least as f64 {
            return self.least_loaded(ranks);
        }
        let mut best = (0, 0);
        for (server, range) in self.servers.iter().enumerate() {
            let of_ranks = ranks.get(range.clone()).unwrap_or_default();
            let cached = of_ranks.iter().map(|rank| rank.cached_prefix(job, hashes)).max().unwrap_or(0);
            if cached > best.1 {
                best = (server, cached);
            }
        }
        if 2 * best.1 >= job.prompt_tokens { best.0 } else { self.least_loaded(ranks) }
    }
}

fn load(rank: &Scheduler) -> usize {
    4 * rank.n_waiting() + rank.n_running()
}

/// Links in use: when each server's is free again.
#[derive(Debug)]
pub(super) struct Links {
    transfer: Transfer,
    from: Vec<u64>,
    to: Vec<u64>,
    pub(super) bytes: f64,
    pub(super) total_ns: u64,
    pub(super) n: u64,
}

impl Links {
    pub(super) fn new(transfer: Transfer, n_prefill: usize, n_decode: usize) -> Self {
        Self { transfer, from: vec![0; n_prefill], to: vec![0; n_decode], bytes: 0.0, total_ns: 0, n: 0 }
    }

    /// When a transfer that is asked for now is over.
    pub(super) fn send(&mut self, now_ns: u64, from: usize, to: usize, n_tokens: u32) -> u64 {
        let bytes = f64::from(n_tokens) * self.transfer.kv_bytes_per_token;
        let on_wire = (bytes / self.transfer.bytes_per_s * 1e9) as u64;
        let free = |links: &[u64], at: usize| links.get(at).copied().unwrap_or(0);
        let start = now_ns.max(free(&self.from, from)).max(free(&self.to, to));
        let wire_end = start.saturating_add(on_wire);
        for (links, at) in [(&mut self.from, from), (&mut self.to, to)] {
            if let Some(free) = links.get_mut(at) {
                *free = wire_end;
            }
        }
        let end = wire_end.saturating_add(self.transfer.alpha_ns);
        self.bytes += bytes;
        self.total_ns += end - now_ns;
        self.n += 1;
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_one_transfer_after_the_other() {
        let transfer = Transfer { alpha_ns: 5, bytes_per_s: 1e9, kv_bytes_per_token: 2.0 };
        let mut links = Links::new(transfer, 2, 2);
        assert_eq!(links.send(0, 0, 0, 50), 105);
        assert_eq!(links.send(10, 0, 1, 50), 205, "same sender");
        assert_eq!(links.send(10, 1, 0, 50), 205, "same receiver");
        assert_eq!(links.send(1000, 1, 1, 0), 1005);
        assert_eq!((links.bytes, links.n), (300.0, 4));
    }
}
