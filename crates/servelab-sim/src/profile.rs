//! The torch profiler of a simulated server: which steps are recorded between `/start_profile` and `/stop_profile`, and
//! where their traces go. The traces themselves are made in `kineto`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::ServerConfig;
use crate::live::Live;
use crate::settings::SimSettings;
use crate::startup::{StartupLog, unix_seconds};

mod kineto;

/// Steps that one session keeps at most.
const MOST_STEPS: usize = 5_000;

/// A profiler that can be started and stopped.
#[derive(Debug)]
pub(crate) struct Profiler {
    directory: PathBuf,
    is_gzipped: bool,
    delay_steps: usize,
    most_steps: usize,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    prefix: Option<String>,
    began_ns: u64,
}

impl Profiler {
    /// From `--profiler-config`, or the environment variable of older versions; `None` when there is neither.
    pub(crate) fn of(settings: &SimSettings, config: &ServerConfig) -> Option<Self> {
        let given = settings.serving.get("profiler_config");
        let is_old = crate::flags::version_key(&config.version) < (0, 12);
        let text = |name: &str| given.and_then(|given| given.get(name)).and_then(Value::as_str);
        let count = |name: &str| given.and_then(|given| given.get(name)).and_then(Value::as_u64).unwrap_or(0) as usize;
        let directory = match text("profiler") {
            Some("torch") => PathBuf::from(text("torch_profiler_dir")?),
            _ if is_old => settings.env.torch_profiler_dir.clone()?,
            _ => return None,
        };
        let use_gzip = given.and_then(|given| given.get("torch_profiler_use_gzip")).and_then(Value::as_bool);
        let most = count("max_iterations");
        Some(Self {
            directory,
            is_gzipped: use_gzip.unwrap_or(true),
            delay_steps: count("delay_iterations"),
            most_steps: if most == 0 { MOST_STEPS } else { most.min(MOST_STEPS) },
            session: None,
        })
    }

    /// Begins a session; false when there is one already.
    pub(crate) fn start(&mut self, live: &mut Live, prefix: Option<String>) -> bool {
        if self.session.is_some() {
            return false;
        }
        self.session = Some(Session { prefix, began_ns: live.now_ns() });
        live.record_steps(true);
        true
    }

    /// Ends the session, if there is one, and writes one trace for each worker.
    pub(crate) fn stop(&mut self, live: &mut Live, log: &StartupLog) {
        let Some(session) = self.session.take() else { return };
        let mut steps = live.take_steps();
        live.record_steps(false);
        let config = live.config();
        let first = self.delay_steps.min(steps.len());
        steps.drain(..first);
        steps.truncate(self.most_steps.saturating_mul(config.dp.max(1) as usize));
        let workers_per_rank = config.tp * config.pp;
        let world = workers_per_rank * config.dp;
        let unix_ns = (unix_seconds() * 1e9) as u64;
        for worker in 0..world {
            let rank = (worker / workers_per_rank) as usize;
            let trace = kineto::Trace { config, worker, world, began_ns: session.began_ns };
            let own = steps.iter().filter(|step| step.rank == rank);
            let bytes = trace.render(own);
            let path = self.path(session.prefix.as_deref(), worker, unix_ns + u64::from(worker));
            match self.write(&path, &bytes) {
                Ok(()) => log.line("Worker", "INFO", "wrapper.py:98", "Profiler stopped successfully."),
                Err(error) => {
                    let text = format!("cannot write the trace {}: {error}", path.display());
                    log.line("Worker", "ERROR", "servelab_sim", &text);
                }
            }
        }
    }

    fn path(&self, prefix: Option<&str>, worker: u32, unix_ns: u64) -> PathBuf {
        let prefix = prefix.map(|prefix| format!("{prefix}_")).unwrap_or_default();
        let end = if self.is_gzipped { ".gz" } else { "" };
        self.directory.join(format!("{prefix}rank{worker}.{unix_ns}.pt.trace.json{end}"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let file = std::fs::File::create(path)?;
        if self.is_gzipped {
            let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()?.sync_data()
        } else {
            let mut file = file;
            file.write_all(bytes)
        }
    }
}
