//! Everything that tells a run how to run; what to run is the plan. Plain data with usual values as defaults.

use std::path::PathBuf;
use std::time::Duration;

use servelab_core::metrics::RequestSlo;
use servelab_core::study::{Order, StopRule};
use servelab_load::ApiKey;

use crate::answers::AccuracyPlan;
use crate::network::Gate;
use crate::profile::ProfilePlan;
use crate::resume::RetryPolicy;
use crate::schedule::Ordering;

/// How servers are started and ended.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// The site's environment, on top of the inherited one.
    pub env: Vec<(String, String)>,
    /// Names of environment variables that must not be written down.
    pub secrets: Vec<String>,
    /// Appended to every engine command line.
    pub extra_args: Vec<String>,
    /// Put in front of every engine command line (a profiler).
    pub wrapper: Vec<String>,
    /// First port to try.
    pub port_base: u16,
    /// From the start of the process to the first token.
    pub ready_timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// For engines that want one.
    pub api_key: Option<ApiKey>,
    /// Network interface of the fabric between nodes, if the site names one.
    pub fabric_interface: Option<String>,
    /// This program as other nodes find it; starts ranks there. Without it no server spans nodes.
    pub program: Option<PathBuf>,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        Self {
            env: Vec::new(),
            secrets: Vec::new(),
            extra_args: Vec::new(),
            wrapper: Vec::new(),
            port_base: 20_000,
            ready_timeout: Duration::from_secs(1800),
            stop_grace: Duration::from_secs(20),
            api_key: None,
            fabric_interface: None,
            program: None,
        }
    }
}

/// How a run goes about its cells.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Servers.
    pub launch: LaunchOptions,
    /// Order of starts and cells.
    pub ordering: Ordering,
    /// What to take up again.
    pub retry: RetryPolicy,
    /// Most cells that this run tries; finished ones do not count.
    pub max_cells: Option<usize>,
    /// Limits on single requests, for goodput.
    pub slo: Option<RequestSlo>,
    /// Success rate (0–1) below which a cell is invalid, if the study demands one.
    pub success_required: Option<f64>,
    /// Settings that the study varies.
    pub varied: Vec<String>,
    /// Rules that end cells or skip others.
    pub stop_early: Vec<StopRule>,
    /// Write `events.parquet` (one row per token-bearing event).
    pub keep_events: bool,
    /// Threads that generate load.
    pub load_threads: u32,
    /// Between two scrapes of the server's metrics.
    pub scrape_interval: Duration,
    /// What the study demands of the network between nodes.
    pub gate: Gate,
    /// GPU model, when the site knows it better than nvidia-smi.
    pub gpu_model: Option<String>,
    /// Greedy answers to ask every point for, after its cells.
    pub accuracy: Option<AccuracyPlan>,
    /// How to profile every point, after its cells.
    pub profile: Option<ProfilePlan>,
    /// Folder of the study file, whose git commit is recorded.
    pub study_folder: Option<PathBuf>,
    /// The site's container image, as it is named there.
    pub container_image: Option<String>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            launch: LaunchOptions::default(),
            ordering: Ordering { order: Order::RandomBlocks, seed: 42, same_server: false },
            retry: RetryPolicy::Default,
            max_cells: None,
            slo: None,
            success_required: None,
            varied: Vec::new(),
            stop_early: Vec::new(),
            keep_events: true,
            load_threads: 1,
            scrape_interval: Duration::from_millis(500),
            gate: Gate::default(),
            gpu_model: None,
            accuracy: None,
            profile: None,
            study_folder: None,
            container_image: None,
        }
    }
}
