//! Kineto traces: any bytes give a trace or a reason, and every metric a value or a reason.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use servelab_trace::metrics::{analyse, report};
use servelab_trace::{Taxonomy, kineto};

fuzz_target!(|bytes: &[u8]| {
    static TAXONOMY: OnceLock<Option<Taxonomy>> = OnceLock::new();
    let Some(taxonomy) = TAXONOMY.get_or_init(|| Taxonomy::builtin().ok()) else { return };
    match kineto::read_text(bytes, taxonomy) {
        Ok(trace) => {
            for metric in report(&[analyse(&trace, taxonomy)], taxonomy).metrics.values() {
                assert_ne!(metric.value.is_some(), metric.absent.is_some());
            }
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
});
