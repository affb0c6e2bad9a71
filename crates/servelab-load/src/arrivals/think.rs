//! Think time: pauses between the end of one answer and the next request of the same user, drawn from a seed.

use servelab_core::pacing::Think;

use super::draw::Draw;

/// An endless stream of pauses in nanoseconds. The same seed gives the same pauses.
#[derive(Debug, Clone)]
pub struct ThinkTimes {
    think: Think,
    draw: Draw,
}

impl ThinkTimes {
    /// Pauses of this kind.
    pub fn new(think: Think, seed: u64) -> Self {
        Self { think, draw: Draw::new(seed) }
    }

    /// The next pause.
    pub fn next_ns(&mut self) -> i64 {
        let seconds = match self.think {
            Think::Constant(seconds) => seconds,
            Think::Exponential(mean) => mean * self.draw.exponential(),
        };
        (seconds * 1e9) as i64
    }
}

impl Iterator for ThinkTimes {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        Some(self.next_ns())
    }
}
