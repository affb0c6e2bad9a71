//! `--until`: the window ends when the watched means are known well enough.

use clap::Args;
use servelab_core::plan::Load;
use servelab_core::precision::{PrecisionWatch, UntilSpec};
use servelab_load::Stop;

use super::args::{BenchArgs, nanos};
use super::load::Trial;
use super::observe::Precision;
use crate::error::CommandError;

/// Upper bound when nobody gives one.
const LONGEST_S: f64 = 3_600.0;
/// With a number of requests as the bound, time is none.
const FOR_EVER_NS: i64 = 100 * 86_400 * 1_000_000_000;

/// Arguments of a load that ends by itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct UntilArgs {
    /// End when the 95 % interval of mean TTFT (closed loop: and output throughput) is this narrow: ci=5%[,metric=NAME]…;
    /// --requests or --duration become upper bounds
    #[arg(long, value_name = "RULE", conflicts_with_all = ["search", "ramp", "replay"])]
    pub(super) until: Option<UntilSpec>,
    /// Shortest window of --until
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, requires = "until")]
    pub(super) min_duration: f64,
}

impl UntilArgs {
    /// The arguments with an upper bound.
    pub(super) fn bounded(args: &BenchArgs) -> BenchArgs {
        let mut args = args.clone();
        if args.until.until.is_some() && args.requests.is_none() && args.duration.is_none() {
            args.duration = Some(LONGEST_S);
        }
        args
    }

    /// Has the trial end upon the rule; `None` when there is none.
    pub(super) fn watch(args: &BenchArgs, trial: &mut Trial) -> Result<Option<Precision>, CommandError> {
        let Some(rule) = &args.until.until else { return Ok(None) };
        let min_ns = nanos(args.until.min_duration, "--min-duration")?;
        let max_ns = match args.duration {
            Some(seconds) => nanos(seconds, "--duration")?,
            None => FOR_EVER_NS,
        };
        if min_ns > max_ns {
            return Err(CommandError::usage(format!(
                "`--min-duration {}` is longer than `--duration {}`",
                args.until.min_duration,
                args.duration.unwrap_or(0.0)
            )));
        }
        trial.spec.stop = Stop::WhenEnough { min_ns, max_ns };
        let is_closed = matches!(trial.load, Load::Closed { .. });
        Ok(Some(Precision::new(PrecisionWatch::new(rule.ci, &rule.metrics(is_closed)))))
    }
}
