//! Trace files in every format: requests in the order of time, or an error that names the line.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use servelab_core::workload::{TraceFormat, TraceSpec};
use servelab_data::TraceReader;

const FORMATS: [TraceFormat; 4] =
    [TraceFormat::Auto, TraceFormat::Mooncake, TraceFormat::Azure, TraceFormat::Burstgpt];

fuzz_target!(|bytes: &[u8]| {
    for format in FORMATS {
        let spec = TraceSpec { format, to_s: Some(1e6), ..TraceSpec::new("trace") };
        let reader = match TraceReader::new(Cursor::new(bytes), Path::new("trace"), &spec) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        assert!(reader.format() != TraceFormat::Auto);
        let mut last_ns = 0;
        for record in reader {
            let Ok(record) = record else { break };
            assert!(record.at_ns >= last_ns && record.input_tokens > 0 && record.output_tokens > 0);
            last_ns = record.at_ns;
        }
    }
});
