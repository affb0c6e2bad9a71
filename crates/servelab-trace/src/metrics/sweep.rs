//! One walk along a time line of overlapping events: for every set of classes, how long exactly that set was active. All
//! unions, intersections and differences of classes are sums over it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use servelab_core::trace::interval::Interval;

/// Classes active at the same time; bit i is class i.
pub type ClassSet = u32;

/// How many classes a [`ClassSet`] can tell apart.
pub const MAX_CLASSES: u32 = ClassSet::BITS;

/// Nanoseconds by set of active classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    by_set: Vec<(ClassSet, i64)>,
    /// First start and last end.
    pub hull: Option<Interval>,
}

impl Coverage {
    /// Walks events, given as interval and class, ascending by start.
    pub fn of(events: impl IntoIterator<Item = (Interval, u32)>) -> Self {
        let mut walk = Walk::default();
        for (interval, class) in events {
            walk.add(interval, class);
        }
        walk.finish()
    }

    fn sum(&self, wanted: impl Fn(ClassSet) -> bool) -> i64 {
        self.by_set.iter().filter(|(set, _)| wanted(*set)).map(|(_, ns)| *ns).fold(0, i64::saturating_add)
    }

    /// Length of the union of these classes.
    pub fn any_of(&self, classes: ClassSet) -> i64 {
        self.sum(|set| set & classes != 0)
    }

    /// Length of the union of these classes without the union of others.
    pub fn any_without(&self, classes: ClassSet, others: ClassSet) -> i64 {
        self.sum(|set| set & classes != 0 && set & others == 0)
    }

    /// Length of the intersection of two unions.
    pub fn both(&self, classes: ClassSet, others: ClassSet) -> i64 {
        self.sum(|set| set & classes != 0 && set & others != 0)
    }

    /// First start to last end.
    pub fn span(&self) -> i64 {
        self.hull.map_or(0, Interval::length)
    }
}

#[derive(Default)]
struct Walk {
    out: Coverage,
    /// Ends of active events with their classes, next end on top.
    active: BinaryHeap<Reverse<(i64, u32)>>,
    counts: [u32; MAX_CLASSES as usize],
    set: ClassSet,
    at: i64,
}

impl Walk {
    fn add(&mut self, interval: Interval, class: u32) {
        self.out.hull = Some(match self.out.hull {
            Some(hull) => Interval::new(hull.start.min(interval.start), hull.end.max(interval.end)),
            None => interval,
        });
        if interval.is_empty() {
            return;
        }
        self.advance(interval.start);
        if let Some(count) = self.counts.get_mut(class as usize) {
            *count += 1;
            self.set |= 1 << class;
            self.active.push(Reverse((interval.end, class)));
        }
    }

    /// Moves to an instant, ending what ends before it.
    fn advance(&mut self, to: i64) {
        while let Some(&Reverse((end, class))) = self.active.peek() {
            if end > to {
                break;
            }
            self.active.pop();
            self.move_to(end);
            if let Some(count) = self.counts.get_mut(class as usize) {
                *count -= 1;
                if *count == 0 {
                    self.set &= !(1 << class);
                }
            }
        }
        self.move_to(to);
    }

    fn move_to(&mut self, to: i64) {
        let length = to.saturating_sub(self.at);
        self.at = to;
        if self.set == 0 || length <= 0 {
            return;
        }
        match self.out.by_set.iter_mut().find(|(set, _)| *set == self.set) {
            Some((_, ns)) => *ns = ns.saturating_add(length),
            None => self.out.by_set.push((self.set, length)),
        }
    }

    fn finish(mut self) -> Coverage {
        self.advance(i64::MAX);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use servelab_core::trace::interval::IntervalSet;

    use super::*;

    proptest! {
        #[test]
        fn sums_over_sets_are_what_interval_algebra_says(mut events in prop::collection::vec((0_i64..60, 0_i64..15, 0_u32..4), 0..25)) {
            events.sort_unstable();
            let class = |wanted: ClassSet| -> IntervalSet {
                events.iter().filter(|(_, _, class)| wanted & (1 << class) != 0).map(|(start, length, _)| Interval::new(*start, start + length)).collect()
            };
            let coverage = Coverage::of(events.iter().map(|(start, length, class)| (Interval::new(*start, start + length), *class)));
            for (a, b) in [(1, 2), (1, 14), (3, 12), (15, 0), (4, 8), (2, 2)] {
                prop_assert_eq!(coverage.any_of(a), class(a).length());
                prop_assert_eq!(coverage.any_without(a, b), class(a).subtract(&class(b)).length());
                prop_assert_eq!(coverage.both(a, b), class(a).intersect(&class(b)).length());
            }
            prop_assert_eq!(coverage.hull.map(|hull| hull.start), events.first().map(|event| event.0));
        }
    }
}
