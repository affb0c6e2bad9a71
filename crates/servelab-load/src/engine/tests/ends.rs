//! Sources that give up, sinks that have enough or no room.

use super::*;

#[test]
fn a_source_that_gives_up_ends_the_run_with_its_words() {
    let server = Server::start(|exchange| exchange.answer(3, 0));
    let first = Arriving::now(requests(0, 1, 0).remove(0));
    let source = vec![Ok(first), Err("line 2 of trace.jsonl is no JSON".to_owned())].into_iter();
    let load = LoadSpec::new(target(server.url()), clock::new_epoch(), source, closed(1), Stop::AllRequests);
    let error = run_load(load, &mut MemoryRecords::default(), &LoadControl::new()).unwrap_err();
    assert!(error.to_string().contains("line 2 of trace.jsonl"), "{error}");
}

/// Has enough after some requests, or a full disk.
struct Few {
    seen: u64,
    enough: u64,
    full: u64,
}

impl crate::sink::RecordSink for Few {
    fn finished(&mut self, _: &crate::sink::FinishedRequest) -> Result<(), String> {
        self.seen += 1;
        if self.seen >= self.full { Err("no space left".to_owned()) } else { Ok(()) }
    }

    fn is_enough(&mut self) -> bool {
        self.seen >= self.enough
    }
}

#[test]
fn the_sink_may_end_the_window() {
    let server = Server::start(|exchange| exchange.answer(3, 1));
    let stop = Stop::WhenEnough { min_ns: 50 * MS, max_ns: 60 * SECOND };
    let trial = |stop| {
        let mut load = spec(&server, 0, closed(2), stop).load;
        load.source = Box::new(requests(0, 1_000_000, 0).into_iter().map(Arriving::now).map(Ok));
        load
    };
    let mut few = Few { seen: 0, enough: 40, full: u64::MAX };
    let outcome = run_load(trial(stop), &mut few, &LoadControl::new()).unwrap();
    assert_eq!(outcome.is_satisfied, Some(true));
    assert!(outcome.recorded >= 40 && outcome.recorded == few.seen);
    let length = outcome.window_end_ns - outcome.window_start_ns;
    assert!((50 * MS..60 * SECOND).contains(&length), "{length}");

    let mut full = Few { seen: 0, enough: u64::MAX, full: 10 };
    let error = run_load(trial(Stop::AllRequests), &mut full, &LoadControl::new()).unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");
}
