//! Study files: any text is a study or one diagnostic that can be drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::source::SourceMap;
use servelab_core::study::{Study, check};
use servelab_core::yaml;

fuzz_target!(|text: &str| {
    let mut sources = SourceMap::default();
    let id = sources.add("study.yaml", text);
    let outcome = yaml::parse(id, text).and_then(|doc| {
        let study: Study = yaml::from_node(&doc)?;
        check::check(&study, &doc)?;
        for (_, workload) in study.workloads.iter() {
            if let Some(spec) = workload.dataset.synth() {
                let bounds = spec.length_bounds();
                assert!(bounds.input.min <= bounds.input.max, "{bounds:?}");
                spec.content_text();
            }
        }
        Ok(())
    });
    if let Err(diagnostic) = outcome {
        assert!(!diagnostic.render(&sources).is_empty());
    }
});
