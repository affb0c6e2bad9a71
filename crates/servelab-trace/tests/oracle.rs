//! Every sample trace against `scripts/trace-oracle.py`, an independent program whose numbers are kept in `data/oracle`: not one
//! nanosecond may differ. The samples lie beside the checkout; without them the test says that it skips.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use servelab_core::trace::{Place, TraceReport};
use servelab_trace::{Taxonomy, input, load};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A sample, here or beside the checkout.
fn sample(name: &str) -> Option<PathBuf> {
    let own = here().join("tests/data").join(name);
    let beside = ["../../../shared", "../../shared"].into_iter().flat_map(|shared| {
        ["kineto", "et", "nsys"].map(|kind| here().join(shared).join("samples/traces").join(kind).join(name))
    });
    let copied = ["kineto", "et"].map(|kind| here().join("tests/data/samples").join(kind).join(name));
    std::iter::once(own).chain(copied).chain(beside).find(|path| path.is_file())
}

fn whole(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// What the report says in place of each number of the oracle.
fn compare(name: &str, report: &TraceReport, expected: &Value) {
    let ranks = expected["ranks"].as_array().unwrap();
    assert_eq!(report.per_rank.len(), ranks.len(), "{name}: ranks");
    for (rank, expected) in report.per_rank.iter().zip(ranks) {
        let Some(device) = expected.get("device") else {
            assert_eq!((rank.kernels, rank.copies, rank.busy_ns), (0, 0, 0), "{name}: no device");
            continue;
        };
        let copies = whole(&device["copies"]) + whole(&device["memsets"]);
        for (what, ours, theirs) in [
            ("kernels", i64::try_from(rank.kernels).unwrap(), whole(&device["kernels"])),
            ("copies", i64::try_from(rank.copies).unwrap(), copies),
            ("span", rank.span_ns, whole(&device["span_ns"])),
            ("busy", rank.busy_ns, whole(&device["busy_ns"])),
            ("idle", rank.idle_ns, whole(&device["idle_ns"])),
            ("compute", rank.compute_ns, whole(&device["compute_ns"])),
            ("comm", rank.comm_ns, whole(&device["comm_ns"])),
            ("exposed comm", rank.exposed_comm_ns, whole(&device["exposed_comm_ns"])),
            ("memcpy", rank.memcpy_ns, whole(&device["memcpy_ns"])),
            ("exposed memcpy", rank.exposed_memcpy_ns, whole(&device["exposed_memcpy_ns"])),
        ] {
            assert_eq!(ours, theirs, "{name}: {what} of rank {}", rank.rank);
        }
        let mut streams: Vec<Value> = rank.streams.iter().map(|stream| serde_json::to_value(stream).unwrap()).collect();
        streams.sort_by_key(|stream| (whole(&stream["device"]), whole(&stream["stream"])));
        assert_eq!(&Value::Array(streams), &expected["streams"], "{name}: streams");
    }
    let sums = |place: Place, of: &dyn Fn(&Value) -> Value| {
        let key = if place == Place::Device { "comm" } else { "host_comm" };
        for (family, ours) in report.comm.iter().filter(|(_, ours)| ours.place == place) {
            let mut total = [0_i64; 4];
            for expected in ranks.iter().map(|rank| of(&rank[key][family])) {
                for (sum, what) in total.iter_mut().zip(["calls", "sum_ns", "union_ns", "exposed_ns"]) {
                    *sum += expected[what].as_i64().unwrap_or(0);
                }
            }
            // Calls on the host block their caller: all of their union is exposed.
            if place == Place::Host {
                total[3] = total[2];
            }
            let found = [i64::try_from(ours.calls).unwrap(), ours.sum_ns, ours.union_ns, ours.exposed_ns];
            assert_eq!(found, total, "{name}: {family}");
        }
        let theirs = ranks.iter().flat_map(|rank| rank[key].as_object().into_iter().flatten());
        for (family, _) in theirs {
            assert!(report.comm.contains_key(family), "{name}: {family} was not found");
        }
    };
    sums(Place::Device, &Value::clone);
    sums(Place::Host, &Value::clone);
    if let [only] = ranks.as_slice() {
        for expected in only["top_kernels"].as_array().into_iter().flatten() {
            let ours = report.top_kernels.iter().find(|kernel| expected["name"] == kernel.name.as_str());
            let ours = ours.map(|kernel| (i64::try_from(kernel.calls).unwrap(), kernel.sum_ns));
            assert_eq!(ours, Some((whole(&expected["calls"]), whole(&expected["sum_ns"]))), "{name}: {expected}");
        }
    }
    if let Some(events) = expected.get("events") {
        assert_eq!(report.inputs[0].events, events.as_u64().unwrap(), "{name}: events");
    }
}

#[test]
fn every_sample_gives_the_oracles_numbers() {
    let taxonomy = Taxonomy::builtin().unwrap();
    let mut n_compared = 0;
    for entry in std::fs::read_dir(here().join("tests/data/oracle")).unwrap() {
        let path = entry.unwrap().path();
        let expected: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let Some(file) = sample(name) else {
            eprintln!("skipped: the sample {name} is not beside this checkout");
            continue;
        };
        let report = load::measure(&input::discover(&[file]).unwrap(), &taxonomy, 1).unwrap();
        compare(name, &report, &expected);
        n_compared += 1;
    }
    eprintln!("{n_compared} traces compared");
}
