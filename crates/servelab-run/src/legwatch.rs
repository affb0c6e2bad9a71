//! The router's records of one cell: taken out of the file of the whole server start, on the clock of the cell's own
//! records, and joined with them by `request_idx`.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use servelab_core::record::ClockEpoch;
use servelab_store::{StoreError, write_atomic};

use crate::router::{Leg, LegOutcome, read_legs};

/// What the ids of a cell's requests begin with: no other cell, process or run has the same.
pub(crate) fn request_ids(clock: ClockEpoch) -> String {
    format!("sl-{:x}-{:x}-", std::process::id(), clock.epoch_monotonic_ns)
}

/// A cell's records are those that come after its beginning.
pub(crate) struct LegWatch {
    path: PathBuf,
    from: u64,
    prefix: String,
    clock: ClockEpoch,
    speedup: f64,
}

/// A line of `legs.jsonl`.
#[derive(Debug, Serialize)]
struct AttemptLeg {
    /// As in `requests.parquet`.
    request_idx: i64,
    /// Nanoseconds of the attempt's clock, like all others here.
    t_accept: i64,
    prefill: Option<AttemptSide>,
    decode: Option<AttemptSide>,
    handed_over: Option<bool>,
    outcome: LegOutcome,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct AttemptSide {
    server: usize,
    t_send: i64,
    t_head: Option<i64>,
    t_body: Option<i64>,
    t_end: i64,
    status: Option<u16>,
    bytes: u64,
}

impl LegWatch {
    pub(crate) fn begin(path: PathBuf, prefix: Option<String>, clock: ClockEpoch, speedup: f64) -> Self {
        let from = path.metadata().map_or(0, |meta| meta.len());
        Self { path, from, prefix: prefix.unwrap_or_default(), clock, speedup }
    }

    /// Writes what came since, as far as it belongs to this cell.
    pub(crate) fn write(&self, to: &Path) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        // A router that wrote nothing leaves an empty file: absent would look like an attempt without a router.
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.from)).is_ok()
        {
            let _ = file.read_to_end(&mut bytes);
        }
        let mut text = Vec::new();
        for record in read_legs(&bytes) {
            let Some(idx) = record.id.strip_prefix(&self.prefix).and_then(|idx| idx.parse::<i64>().ok()) else {
                continue;
            };
            let leg = AttemptLeg {
                request_idx: idx,
                t_accept: self.time(record.t_accept_ns),
                prefill: record.prefill.map(|leg| self.side(&leg)),
                decode: record.decode.map(|leg| self.side(&leg)),
                handed_over: record.handed_over,
                outcome: record.outcome,
                error: record.error,
            };
            if serde_json::to_writer(&mut text, &leg).is_ok() {
                text.push(b'\n');
            }
        }
        write_atomic(to, &text)
    }

    /// The client's records are in the server's time, and so are these.
    fn time(&self, monotonic_ns: i64) -> i64 {
        let since = monotonic_ns - self.clock.epoch_monotonic_ns;
        if self.speedup == 1.0 { since } else { (since as f64 * self.speedup).round() as i64 }
    }

    fn side(&self, leg: &Leg) -> AttemptSide {
        AttemptSide {
            server: leg.server,
            t_send: self.time(leg.t_send_ns),
            t_head: leg.t_head_ns.map(|t_ns| self.time(t_ns)),
            t_body: leg.t_body_ns.map(|t_ns| self.time(t_ns)),
            t_end: self.time(leg.t_end_ns),
            status: leg.status,
            bytes: leg.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_records_of_one_cell_on_its_own_clock() {
        let folder = tempfile::tempdir().unwrap();
        let (path, to) = (folder.path().join("all.jsonl"), folder.path().join("legs.jsonl"));
        let clock = ClockEpoch { epoch_monotonic_ns: 1000, epoch_unix_ns: 0 };
        let prefix = request_ids(clock);
        let line = |id: String| {
            let side = json!({"server": 1, "t_send_ns": 1010, "t_head_ns": 1020, "t_body_ns": null, "t_end_ns": 1030,
                              "status": 200, "bytes": 5});
            json!({"id": id, "path": "/v1/completions", "t_accept_ns": 1005, "prefill": null, "decode": side,
                   "handed_over": null, "outcome": "ok", "error": null})
            .to_string()
                + "\n"
        };
        std::fs::write(&path, line(format!("{prefix}1"))).unwrap();
        let watch = LegWatch::begin(path.clone(), Some(prefix.clone()), clock, 2.0);
        let more = line(format!("{prefix}7")) + &line("somebody-1".to_owned()) + "{\"half";
        std::fs::write(&path, line(format!("{prefix}1")) + &more).unwrap();
        watch.write(&to).unwrap();
        let text = std::fs::read_to_string(&to).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let leg: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&leg["request_idx"], &leg["t_accept"]), (&json!(7), &json!(10)));
        assert_eq!((&leg["decode"]["t_send"], &leg["decode"]["t_end"]), (&json!(20), &json!(60)));
    }
}
