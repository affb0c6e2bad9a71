//! Many shards' records on one clock. Nothing is averaged: records are laid over each other one by one, and every number
//! is computed from them again.

use super::{Shard, ShardManifest, ShardMember, ShardSummary};
use crate::record::{EventRecord, RequestRecord};

/// How the shards of one load lie over each other, on the clock of the first one present.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// By shard, each with what is added to its stamps, nanoseconds.
    pub members: Vec<(ShardManifest, i64)>,
    /// Earliest start of a window.
    pub window_start_ns: i64,
    /// Latest end of a window.
    pub window_end_ns: i64,
    /// CPU seconds of all load threads.
    pub cpu_s: f64,
    /// Longest time for which a shard's load threads ran, seconds.
    pub busy_s: f64,
    /// Load threads of all shards.
    pub threads: u32,
    /// Who took part; the numbers of requests are still zero.
    pub summary: ShardSummary,
}

/// Why shards do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Nothing to merge.
    #[error("merge: there is no shard")]
    Empty,
    /// Two folders of one shard.
    #[error("merge: shard {0} is there twice")]
    Twice(u32),
    /// Shards of different loads.
    #[error("merge: shard {index} belongs to load {found}, shard {first} to {expected}; give the folders of one load")]
    OtherLoad {
        /// The one that differs.
        index: u32,
        /// Its load.
        found: String,
        /// The one it was compared with.
        first: u32,
        /// Its load.
        expected: String,
    },
    /// A request that is not the shard's.
    #[error("merge: request {request_idx} is in shard {shard}, whose it is not; the records are of another load")]
    Foreign {
        /// The request.
        request_idx: i64,
        /// Where it was found.
        shard: u32,
    },
}

/// Lays the shards over each other, by what they say of themselves.
pub fn lay_out(mut manifests: Vec<ShardManifest>) -> Result<Layout, MergeError> {
    manifests.sort_by_key(|manifest| manifest.shard.index);
    let reference = manifests.first().cloned().ok_or(MergeError::Empty)?;
    let count = reference.shard.count;
    for pair in manifests.windows(2) {
        if let [first, second] = pair
            && first.shard.index == second.shard.index
        {
            return Err(MergeError::Twice(first.shard.index));
        }
    }
    let name = |manifest: &ShardManifest| format!("{} of {} shards", manifest.run_id, manifest.shard.count);
    if let Some(other) = manifests.iter().find(|other| name(other) != name(&reference)) {
        return Err(MergeError::OtherLoad {
            index: other.shard.index,
            found: name(other),
            first: reference.shard.index,
            expected: name(&reference),
        });
    }
    let members: Vec<(ShardManifest, i64)> = manifests
        .into_iter()
        .map(|manifest| {
            let shift = manifest.shift_to(&reference);
            (manifest, shift)
        })
        .collect();
    let starts = members.iter().map(|(manifest, shift)| manifest.window_start_ns.saturating_add(*shift));
    let ends = members.iter().map(|(manifest, shift)| manifest.window_end_ns.saturating_add(*shift));
    let window_start_ns = starts.clone().min().unwrap_or(0);
    let after = |start: i64| start.saturating_sub(window_start_ns) as f64 / 1e6;
    let summary = ShardSummary {
        count,
        missing: (0..count).filter(|index| !members.iter().any(|(m, _)| m.shard.index == *index)).collect(),
        interrupted: members.iter().filter(|(m, _)| m.interrupted).map(|(m, _)| m.shard.index).collect(),
        start_skew_ms: starts.clone().map(after).fold(0.0, f64::max),
        members: members
            .iter()
            .zip(starts)
            .map(|((manifest, _), start)| ShardMember {
                index: manifest.shard.index,
                host: manifest.host.clone(),
                requests: 0,
                clock_offset_ms: 0.0 - manifest.offset.offset_ns as f64 / 1e6,
                clock_uncertainty_ms: manifest.offset.uncertainty_ns.map(|ns| ns as f64 / 1e6),
                clock_method: manifest.offset.method,
                start_after_ms: after(start),
            })
            .collect(),
    };
    Ok(Layout {
        window_start_ns,
        window_end_ns: ends.max().unwrap_or(0).max(window_start_ns),
        cpu_s: members.iter().map(|(manifest, _)| manifest.cpu_s).sum(),
        busy_s: members.iter().map(|(manifest, _)| manifest.busy_s).fold(0.0, f64::max),
        threads: members.iter().map(|(manifest, _)| manifest.threads).sum(),
        members,
        summary,
    })
}

/// Puts a request of `shard` on the common clock.
pub fn place_request(request: &RequestRecord, shard: Shard, shift: i64) -> Result<RequestRecord, MergeError> {
    let request_idx = request.request_idx;
    if !u64::try_from(request_idx).is_ok_and(|idx| shard.owns(idx)) {
        return Err(MergeError::Foreign { request_idx, shard: shard.index });
    }
    let mut request = request.clone();
    request.t_sched = request.t_sched.saturating_add(shift);
    for stamp in [
        &mut request.t_slot,
        &mut request.t_conn0,
        &mut request.t_conn1,
        &mut request.t_send,
        &mut request.t_hdr,
        &mut request.t_first,
        &mut request.t_out,
        &mut request.t_last,
        &mut request.t_usage,
        &mut request.t_done,
    ]
    .into_iter()
    .flatten()
    {
        *stamp = stamp.saturating_add(shift);
    }
    Ok(request)
}

/// Puts an event on the common clock.
pub fn place_event(event: &EventRecord, shift: i64) -> EventRecord {
    EventRecord { t_ns: event.t_ns.saturating_add(shift), ..*event }
}
