//! `config.json` of models: facts or an error; derived sizes are numbers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::model::{MemoryRequest, builtin_gpus, from_hf_config, kv_estimate, weight_bytes_per_gpu};

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = serde_json::from_slice(bytes) else { return };
    let Ok(facts) = from_hf_config("fuzz/model", &config) else { return };
    let request = MemoryRequest::default();
    assert!(!weight_bytes_per_gpu(&facts, &request).is_nan(), "{facts:?}");
    if let Some(gpu) = builtin_gpus().first() {
        kv_estimate(&facts, gpu, &request);
    }
});
