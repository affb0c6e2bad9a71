//! Curves for plots: per workload and point, what each load level gave, repeats averaged. `viz_data.json` carries them.

use serde_json::{Map, Value, json};

use crate::rank::{RepeatGroup, group_repeats};
use crate::results::ResultRow;

/// The columns that become curves.
pub const CURVE_METRICS: [&str; 7] = [
    "throughput_tokens_per_sec",
    "throughput_requests_per_sec",
    "goodput_requests_per_s",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "tpot_mean_ms",
    "e2e_latency_p95_ms",
];

/// `{workload: {label: {load_kind: {metric: [{load, mean, min, max, n, simulated}]}}}}`; rows without a rank are left out.
pub fn load_curves(rows: &[ResultRow]) -> Value {
    let mut out = Map::new();
    for metric in CURVE_METRICS {
        for group in group_repeats(rows, &|row| row.metric(metric)) {
            let Some(point) = curve_point(&group) else { continue };
            let label = group.labels.first().cloned().unwrap_or_else(|| group.point.short().to_owned());
            let kind = group.load.split_whitespace().next().unwrap_or_default().to_owned();
            let curve = entry(&mut out, &group.workload)
                .and_then(|workload| entry(workload, &label))
                .and_then(|label| entry(label, &kind))
                .map(|kind| kind.entry(metric).or_insert_with(|| json!([])));
            if let Some(Value::Array(points)) = curve {
                points.push(point);
            }
        }
    }
    Value::Object(out)
}

fn entry<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.entry(key.to_owned()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

fn curve_point(group: &RepeatGroup) -> Option<Value> {
    let stats = group.stats.as_ref()?;
    Some(json!({
        "load": group.load_value, "mean": stats.mean, "min": stats.min, "max": stats.max, "n": stats.n,
        "simulated": group.simulated,
    }))
}
