//! Captured `--help` texts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::flags::HelpFlags;

fuzz_target!(|text: &str| {
    let flags = HelpFlags::parse(text);
    assert_eq!(flags.is_empty(), flags.len() == 0);
    flags.has("max_num_seqs");
});
