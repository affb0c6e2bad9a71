//! Waiting for something to become true, with a deadline. Nothing in the tests sleeps for a fixed time in the hope that
//! it is enough.

use std::time::{Duration, Instant};

/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// An instant after which waiting is a failure.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So many seconds from now.
    pub fn in_s(seconds: u64) -> Self {
        Self(Instant::now() + Duration::from_secs(seconds))
    }

    /// So many milliseconds from now.
    pub fn in_ms(millis: u64) -> Self {
        Self(Instant::now() + Duration::from_millis(millis))
    }

    /// It is over.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }
}

/// Looks again and again until `look` finds something; panics with `what` at the deadline.
#[track_caller]
pub fn poll<T>(what: &str, deadline: Deadline, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(!deadline.has_passed(), "waited in vain for {what}");
        std::thread::sleep(STEP);
    }
}
