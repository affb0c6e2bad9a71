//! Small languages of the command line: SLOs, stopping rules, shards, meeting places.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::precision::UntilSpec;
use servelab_core::search::SearchSlo;
use servelab_core::shard::Shard;
use servelab_load::barrier::BarrierPlace;

fuzz_target!(|text: &str| {
    let _ = SearchSlo::parse(text);
    let _ = text.parse::<UntilSpec>();
    let _ = text.parse::<Shard>();
    let _ = text.parse::<BarrierPlace>();
});
