//! When steps end: batches under way on one rank (or on lock-step ranks together), through one or several pipeline stages.
//! Each stage takes one batch at a time, in order; what a stage waits for is the pipeline's bubble.

use std::collections::VecDeque;

/// Batches under way, in order.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    depth: usize,
    /// When each stage is free again.
    stages: Vec<u64>,
    ends: VecDeque<u64>,
    busy_ns: u64,
}

impl Timeline {
    /// Room for `depth` batches, computed by `stages` pipeline stages.
    pub(crate) fn new(depth: u32, stages: u32) -> Self {
        let depth = depth.max(1) as usize;
        Self { depth, stages: vec![0; stages.max(1) as usize], ends: VecDeque::with_capacity(depth), busy_ns: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ends.len() >= self.depth
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.ends.is_empty()
    }

    /// End of the oldest batch under way.
    pub(crate) fn next_end_ns(&self) -> Option<u64> {
        self.ends.front().copied()
    }

    /// End of the newest batch under way.
    pub(crate) fn last_end_ns(&self) -> Option<u64> {
        self.ends.back().copied()
    }

    /// Time that the first stage has spent computing.
    pub(crate) fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    /// Starts a batch that takes `nanos` through all stages together, when they are free.
    pub(crate) fn push(&mut self, now_ns: u64, nanos: u64) {
        let n_stages = self.stages.len() as u64;
        let per_stage = (nanos / n_stages).max(1);
        let mut at = now_ns;
        for free in &mut self.stages {
            at = at.max(*free).saturating_add(per_stage);
            *free = at;
        }
        self.busy_ns += per_stage;
        self.ends.push_back(at);
    }

    /// Takes the oldest batch off.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.ends.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stage_computes_batches_one_after_the_other() {
        let mut line = Timeline::new(2, 1);
        line.push(10, 100);
        line.push(10, 50);
        assert!(line.is_full() && !line.is_idle());
        assert_eq!((line.pop(), line.pop(), line.pop()), (Some(110), Some(160), None));
        line.push(200, 5);
        assert_eq!((line.next_end_ns(), line.busy_ns()), (Some(205), 155));
    }

    #[test]
    fn stages_overlap_and_wait_for_the_slowest() {
        let mut line = Timeline::new(2, 2);
        line.push(0, 100);
        line.push(0, 20);
        // The short batch leaves the first stage at 60 and waits for the second until 100.
        assert_eq!((line.pop(), line.pop()), (Some(100), Some(110)));
    }
}
