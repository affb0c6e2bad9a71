//! Site files: any text is a site or one diagnostic that can be drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::site::Site;
use servelab_core::source::SourceMap;
use servelab_core::yaml;

fuzz_target!(|text: &str| {
    let mut sources = SourceMap::default();
    let id = sources.add("site.yaml", text);
    match yaml::parse(id, text).and_then(|doc| yaml::from_node::<Site>(&doc)) {
        Ok(site) => drop(site.hardware_class()),
        Err(diagnostic) => assert!(!diagnostic.render(&sources).is_empty()),
    }
});
