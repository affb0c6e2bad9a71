//! Telemetry of GPUs over the window. Two sources write it into the same records: a DCGM exporter under its own names, and
//! the runner's nvidia-smi reader under names that begin with `gpu:`. Units differ between them; this is where they meet.

use std::collections::BTreeSet;

use super::{Aliases, Scrapes, mean};
use crate::record::PromSample;
use crate::result::GpuSummary;

const POWER_W: Aliases = &["DCGM_FI_DEV_POWER_USAGE", "gpu:power_watts"];
const ENERGY_MJ: Aliases = &["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"];
const BUSY_PERCENT: Aliases = &["DCGM_FI_DEV_GPU_UTIL", "gpu:utilization_percent"];
const SM_ACTIVE: Aliases = &["DCGM_FI_PROF_SM_ACTIVE"];
const MEMORY_MIB: Aliases = &["DCGM_FI_DEV_FB_USED", "gpu:memory_used_mib"];
const SM_CLOCK_MHZ: Aliases = &["DCGM_FI_DEV_SM_CLOCK", "gpu:sm_clock_mhz"];

/// Telemetry of a GPU rather than a metric of an engine.
pub(super) fn is_telemetry(metric: &str) -> bool {
    metric.starts_with("gpu:") || metric.starts_with("DCGM_")
}

/// `None` when there is no telemetry.
pub(super) fn summary(samples: &[PromSample], start_ns: i64, end_ns: i64) -> Option<GpuSummary> {
    let telemetry = || samples.iter().filter(|sample| is_telemetry(&sample.metric));
    telemetry().next()?;
    let scrapes = Scrapes::new(telemetry(), start_ns, end_ns);
    let seen = scrapes.aliased(POWER_W).into_iter().chain(scrapes.aliased(MEMORY_MIB));
    let gpus: BTreeSet<(&str, &str)> = seen.map(|(key, _)| (key.node, key.labels)).collect();
    let power = scrapes.summed_gauge(POWER_W);
    let length_s = end_ns.saturating_sub(start_ns).max(0) as f64 / 1e9;
    let means = |aliases| mean(scrapes.gauges(aliases).iter().map(|gauge| gauge.mean));
    Some(GpuSummary {
        gpus: u32::try_from(gpus.len()).unwrap_or(u32::MAX),
        power_mean_w: power.map(|gauge| gauge.mean),
        power_max_w: power.map(|gauge| gauge.max),
        energy_j: scrapes.increase(ENERGY_MJ).map(|mj| mj / 1e3).or(power.map(|gauge| gauge.mean * length_s)),
        busy_mean: means(BUSY_PERCENT).map(|percent| percent / 100.0),
        sm_active_mean: means(SM_ACTIVE),
        memory_used_max_mib: scrapes.gauges(MEMORY_MIB).iter().map(|gauge| gauge.max).reduce(f64::max),
        sm_clock_mean_mhz: means(SM_CLOCK_MHZ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::server_summary;
    use super::*;

    fn sample(t_s: i64, gpu: u32, metric: &str, value: f64) -> PromSample {
        PromSample {
            t_ns: t_s * 1_000_000_000,
            node: "n0".into(),
            engine: String::new(),
            metric: metric.into(),
            labels: format!("gpu=\"{gpu}\""),
            value,
        }
    }

    #[test]
    fn power_is_summed_over_gpus_and_becomes_energy() {
        let samples = [
            sample(10, 0, "gpu:power_watts", 300.0),
            sample(15, 0, "gpu:power_watts", 500.0),
            sample(10, 1, "gpu:power_watts", 100.0),
            sample(10, 0, "gpu:utilization_percent", 50.0),
            sample(10, 1, "gpu:utilization_percent", 100.0),
            sample(10, 0, "gpu:memory_used_mib", 7.0),
            sample(12, 0, "gpu:memory_used_mib", 9.0),
        ];
        let got = summary(&samples, 10_000_000_000, 20_000_000_000).unwrap();
        assert_eq!((got.gpus, got.power_mean_w, got.power_max_w), (2, Some(500.0), Some(600.0)));
        assert_eq!((got.energy_j, got.busy_mean, got.memory_used_max_mib), (Some(5000.0), Some(0.75), Some(9.0)));
        assert_eq!((got.sm_active_mean, got.sm_clock_mean_mhz), (None, None));
        let dcgm = [
            sample(9, 0, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1_000_000.0),
            sample(21, 0, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 4_000_000.0),
        ];
        let got = summary(&dcgm, 10_000_000_000, 20_000_000_000).unwrap();
        assert_eq!((got.energy_j, got.power_mean_w), (Some(3000.0), None));
    }

    #[test]
    fn telemetry_does_not_pass_for_scrapes_of_the_engine() {
        let engine = |t_s, value| PromSample {
            engine: "0".into(),
            labels: String::new(),
            ..sample(t_s, 0, "vllm:generation_tokens_total", value)
        };
        let samples = [
            engine(8, 0.0),
            sample(9, 0, "gpu:power_watts", 300.0),
            engine(15, 5.0),
            sample(16, 0, "gpu:power_watts", 300.0),
            sample(20, 0, "gpu:power_watts", 300.0),
            engine(21, 9.0),
        ];
        let got = server_summary(&samples, 10_000_000_000, 20_000_000_000);
        assert_eq!((got.generation_tokens, got.scrapes), (Some(9.0), 1));
        assert_eq!(got.gpu.and_then(|gpu| gpu.power_mean_w), Some(300.0));
    }
}
