//! Programs whose need of a C library is read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    servelab_run::glibc::needed_by(bytes);
});
