//! Many shards' records on one clock. Nothing is averaged: the records are put together and every number is computed
//! from them again.

use std::collections::BTreeMap;

use super::{ShardManifest, ShardMember, ShardSummary};
use crate::record::{EventRecord, RequestRecord};

/// What one shard left.
#[derive(Debug, Clone)]
pub struct ShardRecords {
    /// Its own words.
    pub manifest: ShardManifest,
    /// Its requests.
    pub requests: Vec<RequestRecord>,
    /// Its events.
    pub events: Vec<EventRecord>,
}

/// Everything together, on the clock of the first shard present.
#[derive(Debug, Clone)]
pub struct Merged {
    /// Ordered by phase, then index.
    pub requests: Vec<RequestRecord>,
    /// Ordered by request, then time.
    pub events: Vec<EventRecord>,
    /// Earliest start of a window.
    pub window_start_ns: i64,
    /// Latest end of a window.
    pub window_end_ns: i64,
    /// CPU seconds of all load threads.
    pub cpu_s: f64,
    /// Load threads of all shards.
    pub threads: u32,
    /// Who took part.
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
    /// Two shards sent the same request.
    #[error("merge: request {request_idx} is in shard {first} and in shard {second}")]
    SameRequest {
        /// The request.
        request_idx: i64,
        /// One.
        first: u32,
        /// The other.
        second: u32,
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

/// Lays the shards over each other.
pub fn merge(mut shards: Vec<ShardRecords>) -> Result<Merged, MergeError> {
    shards.sort_by_key(|shard| shard.manifest.shard.index);
    let reference = shards.first().map(|shard| shard.manifest.clone()).ok_or(MergeError::Empty)?;
    let count = reference.shard.count;
    let mut owners: BTreeMap<i64, u32> = BTreeMap::new();
    let mut merged = Merged {
        requests: Vec::new(),
        events: Vec::new(),
        window_start_ns: i64::MAX,
        window_end_ns: i64::MIN,
        cpu_s: 0.0,
        threads: 0,
        summary: ShardSummary {
            count,
            missing: Vec::new(),
            interrupted: Vec::new(),
            start_skew_ms: 0.0,
            members: Vec::new(),
        },
    };
    let mut starts = Vec::new();
    let mut before: Option<u32> = None;
    for ShardRecords { manifest, mut requests, mut events } in shards {
        let index = manifest.shard.index;
        if before == Some(index) {
            return Err(MergeError::Twice(index));
        }
        before = Some(index);
        if manifest.run_id != reference.run_id || manifest.shard.count != count {
            let name = |manifest: &ShardManifest| format!("{} of {} shards", manifest.run_id, manifest.shard.count);
            return Err(MergeError::OtherLoad {
                index,
                found: name(&manifest),
                first: reference.shard.index,
                expected: name(&reference),
            });
        }
        let shift = manifest.shift_to(&reference);
        for request in &mut requests {
            let request_idx = request.request_idx;
            if !u64::try_from(request_idx).is_ok_and(|idx| manifest.shard.owns(idx)) {
                return Err(MergeError::Foreign { request_idx, shard: index });
            }
            if let Some(first) = owners.insert(request_idx, index) {
                return Err(MergeError::SameRequest { request_idx, first, second: index });
            }
            shift_request(request, shift);
        }
        for event in &mut events {
            event.t_ns = event.t_ns.saturating_add(shift);
        }
        starts.push(manifest.window_start_ns.saturating_add(shift));
        merged.window_start_ns = merged.window_start_ns.min(manifest.window_start_ns.saturating_add(shift));
        merged.window_end_ns = merged.window_end_ns.max(manifest.window_end_ns.saturating_add(shift));
        merged.cpu_s += manifest.cpu_s;
        merged.threads += manifest.threads;
        if manifest.interrupted {
            merged.summary.interrupted.push(index);
        }
        merged.summary.members.push(ShardMember {
            index,
            host: manifest.host,
            requests: requests.len() as u64,
            clock_offset_ms: -(manifest.offset.offset_ns as f64) / 1e6,
            clock_uncertainty_ms: manifest.offset.uncertainty_ns.map(|ns| ns as f64 / 1e6),
            clock_method: manifest.offset.method,
            start_after_ms: 0.0,
        });
        merged.requests.append(&mut requests);
        merged.events.append(&mut events);
    }
    for (member, start) in merged.summary.members.iter_mut().zip(&starts) {
        member.start_after_ms = start.saturating_sub(merged.window_start_ns) as f64 / 1e6;
    }
    merged.summary.start_skew_ms =
        merged.summary.members.iter().map(|member| member.start_after_ms).fold(0.0, f64::max);
    let is_present = |index: &u32| merged.summary.members.iter().any(|member| member.index == *index);
    merged.summary.missing = (0..count).filter(|index| !is_present(index)).collect();
    merged.requests.sort_by_key(|request| (request.phase, request.request_idx));
    merged.events.sort_by_key(|event| (event.request_idx, event.t_ns));
    Ok(merged)
}

fn shift_request(request: &mut RequestRecord, shift: i64) {
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
}
