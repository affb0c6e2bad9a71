//! Requests as the router reads them: any bytes, split anywhere, give the same requests or the same refusal.

#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_run::router::{Request, RequestReader, WireError};

fn read(parts: &[&[u8]]) -> Result<Vec<Request>, WireError> {
    let mut reader = RequestReader::default();
    let mut out = Vec::new();
    for part in parts {
        reader.push(part);
        while let Some(request) = reader.next_request()? {
            out.push(request);
        }
    }
    Ok(out)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (head, tail) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let whole = read(&[bytes]);
    assert_eq!(read(&[head, tail]).is_ok(), whole.is_ok());
    if let (Ok(parts), Ok(whole)) = (read(&[head, tail]), whole) {
        assert_eq!(parts, whole);
    }
});
