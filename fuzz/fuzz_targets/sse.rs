//! Event streams: any chunking gives the same events. The first byte chooses the split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_fuzz::pieces;
use servelab_load::sse::Scanner;

type Events = Vec<(Vec<u8>, Vec<u8>)>;

fn scan<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Events, u64, bool) {
    let mut events = Vec::new();
    let mut scanner = Scanner::new();
    let mut is_good = true;
    for part in parts {
        is_good &= scanner.feed(part, |event| events.push((event.kind.to_vec(), event.data.to_vec()))).is_ok();
    }
    scanner.finish(|event| events.push((event.kind.to_vec(), event.data.to_vec())));
    (events, scanner.ignored_lines(), is_good)
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else { return };
    let whole = scan(std::iter::once(bytes));
    assert_eq!(whole, scan(pieces(*seed, bytes)));
    assert_eq!(whole, scan(bytes.chunks(1)));
});
