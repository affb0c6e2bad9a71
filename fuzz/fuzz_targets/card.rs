//! Workload cards: any text is refused with a place or becomes a card that reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::source::SourceMap;
use servelab_core::trace::{TraceReport, card};

fuzz_target!(|text: &str| {
    let mut sources = SourceMap::default();
    let id = sources.add("card.yaml", text);
    if let Ok((read, _)) = card::read(id, text) {
        card::check(Some(&read), None, &TraceReport::default());
        let written = card::to_yaml(&read);
        let id = sources.add("again.yaml", written.as_str());
        let (again, _) = card::read(id, &written).expect("what was written is read");
        assert_eq!(card::to_yaml(&again), written);
    }
});
