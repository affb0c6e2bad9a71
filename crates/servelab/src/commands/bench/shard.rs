//! One load from several processes: who this one is, where they meet, which part it sends, and the one result of all.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use servelab_core::pacing::StartMode;
use servelab_core::plan::Load;
use servelab_core::shard::{SHARD_SCHEMA_VERSION, Shard, ShardManifest, detect, fingerprint};
use servelab_load::barrier::{Agreed, BarrierError, BarrierPlace, Meeting, gather, meet};
use servelab_load::{Arrival, Pacing, RequestSource, Work};
use servelab_run::RunControl;
use servelab_store::{read_json, write_json};

use super::args::BenchArgs;
use super::load::Trial;
use super::measure::Measured;
use crate::error::CommandError;
use crate::ui::Ui;

/// Secret that all shards know, when the barrier's port may be reached by others.
const TOKEN_VARIABLE: &str = "SERVELAB_SHARD_TOKEN";
/// Over what time the first sends of a closed loop are spread, and at most.
const SPREAD_PER_SLOT_S: f64 = 0.005;
const LONGEST_SPREAD_S: f64 = 1.0;
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of a load that several processes drive.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShardArgs {
    /// Send only part i of n of the load; `auto` takes i and n from srun or mpiexec
    #[arg(long, value_name = "i/n|auto", requires = "out", conflicts_with_all = ["search", "until"])]
    pub(super) shard: Option<String>,
    /// Where the shards meet before the start: a folder that all see (default: OUT/barrier), or tcp://HOST:PORT of shard 0
    #[arg(long, value_name = "PLACE", requires = "shard")]
    pub(super) barrier: Option<String>,
    /// Seconds to wait for the other shards, at the start and for their records at the end
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, requires = "shard")]
    pub(super) barrier_timeout: f64,
    /// Make one result of the shards' folders (or of the folder that holds them), and measure nothing
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "out", conflicts_with_all = ["shard", "search", "until", "rate", "concurrency"])]
    pub(super) merge: Vec<PathBuf>,
}

/// This process among the shards.
#[derive(Debug, Clone)]
pub(super) struct Membership {
    pub(super) shard: Shard,
    place: BarrierPlace,
    patience: Duration,
    folder: PathBuf,
}

impl ShardArgs {
    /// Who this process is; `None` when it drives the load alone.
    pub(super) fn membership(&self, args: &BenchArgs) -> Result<Option<Membership>, CommandError> {
        let (Some(text), Some(out)) = (&self.shard, &args.out) else { return Ok(None) };
        let usage = |error: &dyn std::fmt::Display| CommandError::usage(format!("`--shard`: {error}"));
        let shard = match text.as_str() {
            "auto" => detect(|name| std::env::var(name).ok()).map_err(|error| usage(&error))?,
            text => text.parse().map_err(|error| usage(&error))?,
        };
        let place = match &self.barrier {
            Some(text) => {
                text.parse().map_err(|error: BarrierError| CommandError::usage(format!("`--barrier`: {error}")))?
            }
            None => BarrierPlace::Folder(out.join("barrier")),
        };
        if !(self.barrier_timeout > 0.0 && self.barrier_timeout < 1e7) {
            return Err(CommandError::usage("`--barrier-timeout` must be a positive number of seconds"));
        }
        let patience = Duration::from_secs_f64(self.barrier_timeout);
        Ok(Some(Membership { shard, place, patience, folder: out.to_path_buf() }))
    }
}

impl Membership {
    /// Where the result of all goes.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where this shard writes.
    pub(super) fn own_folder(&self) -> PathBuf {
        shard_folder(&self.folder, self.shard.index)
    }

    /// The arguments that every shard runs with. The pilot that shows over what time to spread the first sends is left out:
    /// it would be one request more per shard, and the requests must not depend on their number.
    pub(super) fn arguments(&self, args: &BenchArgs) -> BenchArgs {
        let mut args = args.clone();
        if let (StartMode::Spread, Some(slots)) = (args.start, args.concurrency) {
            args.start = StartMode::SpreadS((SPREAD_PER_SLOT_S * f64::from(slots)).min(LONGEST_SPREAD_S));
        }
        args
    }

    /// Leaves this shard's part in the load.
    pub(super) fn take_part(&self, trial: &mut Trial) -> Result<(), CommandError> {
        let (shard, spec) = (self.shard, &mut trial.spec);
        let part = |name: &str, whole: u32| match shard.slots_of(whole) {
            0 => Err(CommandError::usage(format!("`{name} {whole}` leaves nothing for shard {shard}"))
                .hint("use no more shards than slots")),
            part => Ok(part),
        };
        match &mut spec.pacing {
            Pacing::Closed { concurrency, .. } => *concurrency = part("--concurrency", *concurrency)?,
            Pacing::Open { max_concurrency: Some(cap) } => *cap = part("--max-concurrency", *cap)?,
            Pacing::Open { max_concurrency: None } | Pacing::Batches { .. } => {}
        }
        spec.warmup = shard.part_of(spec.warmup);
        trial.planned = trial.planned.map(|planned| shard.part_of(planned));
        Ok(())
    }

    /// Waits for the others, then has the load start together with theirs: at one absolute instant, once all are ready.
    /// Returns where the agreement will be.
    pub(super) fn meet(
        &self,
        args: &BenchArgs,
        trial: &mut Trial,
        switch: &Arc<RunControl>,
        ui: Ui,
    ) -> Result<Arc<OnceLock<Agreed>>, CommandError> {
        let spec = &mut trial.spec;
        let nothing: std::iter::Empty<Result<Arrival, String>> = std::iter::empty();
        let whole = std::mem::replace(&mut spec.source, Box::new(nothing));
        let part = Part::begin(whole, self.shard).map_err(CommandError::failed)?;
        // The window begins at one instant for all: after the whole load's warm-up. The engine counts from this shard's own
        // first arrival.
        let own_ns = part.own_first_ns().min(0).saturating_sub(part.first_ns.min(0));
        let first_ns = own_ns.saturating_add(self.first_send_ns(args));
        spec.source = Box::new(part);
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
        let meeting = Meeting::new(self.shard, load_fingerprint(args), self.patience, token);
        ui.say(&format!("shard {} waits for the others", self.shard));
        gather(&self.place, &meeting, &|| switch.is_stopping()).map_err(|error| match error {
            BarrierError::Stranger { .. } => CommandError::usage(error.to_string()),
            error => CommandError::failed(error.to_string()),
        })?;
        let agreed = Arc::new(OnceLock::new());
        let (place, clock, shard) = (self.place.clone(), spec.clock, self.shard);
        let (switch, told) = (Arc::clone(switch), Arc::clone(&agreed));
        spec.start = Some(Box::new(move || {
            let agreed = meet(&place, &meeting, &|| switch.is_stopping()).map_err(|error| error.to_string())?;
            ui.say(&format!("shard {shard} starts"));
            let start_ns = agreed.start_monotonic_ns.saturating_sub(clock.epoch_monotonic_ns);
            let _ = told.set(agreed);
            Ok(start_ns.saturating_add(first_ns))
        }));
        Ok(agreed)
    }

    /// The first sends of a closed loop interleave with those of the other shards.
    fn first_send_ns(&self, args: &BenchArgs) -> i64 {
        match (args.start, args.concurrency) {
            #[expect(clippy::cast_possible_truncation, reason = "checked when it was read")]
            (StartMode::SpreadS(seconds), Some(slots)) => {
                (seconds * 1e9 * f64::from(self.shard.index) / f64::from(slots)) as i64
            }
            _ => 0,
        }
    }

    /// Writes `shard.json`: from now on this shard's records are complete.
    pub(super) fn finish(
        &self,
        agreed: &Agreed,
        args: &BenchArgs,
        (load, slots): (Load, Option<u32>),
        measured: &Measured,
    ) -> Result<(), CommandError> {
        let outcome = &measured.outcome;
        let manifest = ShardManifest {
            schema: SHARD_SCHEMA_VERSION,
            run_id: agreed.run_id.clone(),
            shard: self.shard,
            host: servelab_store::hostname(),
            clock: outcome.clock,
            offset: agreed.offset,
            start_monotonic_ns: agreed.start_monotonic_ns,
            window_start_ns: outcome.window_start_ns,
            window_end_ns: outcome.window_end_ns,
            closed_loop_slots: slots,
            cpu_s: outcome.cpu_s,
            busy_s: outcome.busy_s,
            threads: outcome.threads,
            interrupted: outcome.interrupted,
            load,
            ignore_eos: args.ignore_eos,
            slo: args.slo.clone(),
            model: args.model.clone(),
        };
        write_json(&self.own_folder().join("shard.json"), &manifest)?;
        Ok(())
    }

    /// Waits until all shards of this load have written their records, or the time is up; then those that are there are
    /// merged and the others named.
    pub(super) fn wait_for_records(
        &self,
        agreed: &Agreed,
        own: &Measured,
        switch: &RunControl,
        ui: Ui,
    ) -> Vec<PathBuf> {
        // Parts of a load that ends by requests do not end together; none should take twice as long as another.
        let until = Instant::now() + self.patience + Duration::from_secs_f64(own.outcome.busy_s.max(0.0));
        ui.say("waiting for the records of the other shards");
        loop {
            let folders = (0..self.shard.count).map(|index| shard_folder(&self.folder, index));
            let is_done = |folder: &PathBuf| {
                read_json::<ShardManifest>(&folder.join("shard.json"))
                    .is_ok_and(|manifest| manifest.run_id == agreed.run_id)
            };
            let done: Vec<PathBuf> = folders.filter(is_done).collect();
            if done.len() == self.shard.count as usize || Instant::now() >= until || switch.is_stopping() {
                return done;
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn shard_folder(out: &Path, index: u32) -> PathBuf {
    out.join(format!("shard-{index}"))
}

/// What all shards must have been started with: everything but where they run and write.
fn load_fingerprint(args: &BenchArgs) -> String {
    let mut common = args.clone();
    (common.out, common.json, common.events) = (None, false, false);
    (common.threads, common.source_ip, common.ca_file) = (1, Vec::new(), None);
    (common.shards.shard, common.shards.barrier) = (None, None);
    fingerprint(&format!("{} {common:?}", env!("CARGO_PKG_VERSION")))
}

/// The part of a source that is one shard's: every n-th arrival. All shards go through the same source, so that the
/// schedule and the prompts do not depend on their number.
struct Part {
    whole: Box<dyn RequestSource>,
    shard: Shard,
    /// Arrivals seen.
    seen: u64,
    /// Instant of the whole load's first arrival.
    first_ns: i64,
    own_first: Option<Arrival>,
}

impl Part {
    /// Goes as far as the shard's first arrival.
    fn begin(whole: Box<dyn RequestSource>, shard: Shard) -> Result<Self, String> {
        let mut part = Self { whole, shard, seen: 0, first_ns: 0, own_first: None };
        part.own_first = part.advance()?;
        Ok(part)
    }

    fn own_first_ns(&self) -> i64 {
        self.own_first.as_ref().map_or(0, |arrival| arrival.at_ns)
    }

    fn advance(&mut self) -> Result<Option<Arrival>, String> {
        while let Some(arrival) = self.whole.next()? {
            if matches!(arrival.work, Work::Conversation(_)) {
                return Err("conversations cannot be spread over shards: their turns follow each other".to_owned());
            }
            if self.seen == 0 {
                self.first_ns = arrival.at_ns;
            }
            let is_own = self.shard.owns(self.seen);
            self.seen += 1;
            if is_own {
                return Ok(Some(arrival));
            }
        }
        Ok(None)
    }
}

impl RequestSource for Part {
    fn next(&mut self) -> Result<Option<Arrival>, String> {
        match self.own_first.take() {
            Some(first) => Ok(Some(first)),
            None => self.advance(),
        }
    }
}
