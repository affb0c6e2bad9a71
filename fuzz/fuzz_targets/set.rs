//! `--set KEY=YAML` over a study, and merging of any two documents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::source::SourceMap;
use servelab_core::study::compose::{merge, set};
use servelab_core::yaml;

const BASE: &str = "schema: 1\nserve: {a: 1}\nload: {closed: {concurrency: [1]}, stop: {requests: 1}}\n";

fuzz_target!(|text: &str| {
    let mut sources = SourceMap::default();
    let base_id = sources.add("base.yaml", BASE);
    let Ok(mut base) = yaml::parse(base_id, BASE) else { return };
    if let Err(diagnostic) = set(&mut base, text, &mut sources) {
        diagnostic.render(&sources);
    }
    let id = sources.add("over.yaml", text);
    if let Ok(over) = yaml::parse(id, text) {
        merge(base, over).to_json();
    }
});
