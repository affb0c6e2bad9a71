//! HTTP responses: any chunking gives the same head, body and verdict. The first byte chooses the split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_fuzz::pieces;
use servelab_load::http1::{Head, HttpError, ResponseParser};

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Option<Head>, Vec<u8>, usize, Result<(), HttpError>) {
    let mut parser = ResponseParser::new();
    let mut body = Vec::new();
    let mut used = 0;
    for part in parts {
        match parser.feed(part, |_, data| body.extend_from_slice(data)) {
            Ok(n) => used += n,
            // How far a broken response was read depends on the chunking; that it is broken does not.
            Err(error) => return (None, Vec::new(), 0, Err(error)),
        }
        if parser.is_complete() {
            break;
        }
    }
    let end = parser.finish();
    (parser.head(), body, used, end)
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else { return };
    let whole = read(std::iter::once(bytes));
    assert_eq!(whole, read(pieces(*seed, bytes)));
    assert_eq!(whole, read(bytes.chunks(1)));
});
