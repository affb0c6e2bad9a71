//! Engine versions, ranges and guards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_core::version::{EngineGuard, Version, VersionSpec};

fuzz_target!(|text: &str| {
    let version = Version::parse(text).ok();
    let spec = VersionSpec::parse(text).ok();
    if let (Some(version), Some(spec)) = (&version, &spec) {
        assert!(spec.contains(version), "{text:?} does not contain itself");
    }
    if let Some(spec) = &spec {
        let _ = (spec.min(), spec.max(), spec.within(spec));
    }
    if let Ok(guard) = EngineGuard::parse(text) {
        guard.applies("vllm", spec.as_ref());
    }
});
