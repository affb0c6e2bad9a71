//! Algebra of half-open intervals `[start, end)` in integer nanoseconds: union, intersection, subtraction, and what part
//! of a time line each set of classes covers. Exact: no floating point, no tolerance.

/// One half-open interval. Empty when `end <= start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// First nanosecond inside.
    pub start: i64,
    /// First nanosecond after.
    pub end: i64,
}

impl Interval {
    /// `[start, end)`.
    pub fn new(start: i64, end: i64) -> Self {
        Self { start, end }
    }

    /// Its length; 0 when empty.
    pub fn length(self) -> i64 {
        self.end.saturating_sub(self.start).max(0)
    }

    /// True when nothing is inside.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// What both hold.
    pub fn intersect(self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }
}

/// A set of nanoseconds as sorted, disjoint, non-adjacent intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntervalSet {
    parts: Vec<Interval>,
}

impl FromIterator<Interval> for IntervalSet {
    fn from_iter<I: IntoIterator<Item = Interval>>(intervals: I) -> Self {
        let mut parts: Vec<Interval> = intervals.into_iter().filter(|part| !part.is_empty()).collect();
        parts.sort_unstable();
        let mut merged: Vec<Interval> = Vec::with_capacity(parts.len());
        for part in parts {
            match merged.last_mut() {
                Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
                _ => merged.push(part),
            }
        }
        merged.shrink_to_fit();
        Self { parts: merged }
    }
}

impl IntervalSet {
    /// Its parts, ascending.
    pub fn parts(&self) -> &[Interval] {
        &self.parts
    }

    /// Number of nanoseconds inside.
    pub fn length(&self) -> i64 {
        self.parts.iter().map(|part| part.length()).sum()
    }

    /// True when nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What either holds.
    pub fn union(&self, other: &Self) -> Self {
        self.parts.iter().chain(&other.parts).copied().collect()
    }

    /// What both hold.
    pub fn intersect(&self, other: &Self) -> Self {
        let mut parts = Vec::new();
        let (mut a, mut b) = (self.parts.iter().peekable(), other.parts.iter().peekable());
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            let both = x.intersect(**y);
            if !both.is_empty() {
                parts.push(both);
            }
            if x.end <= y.end {
                a.next();
            } else {
                b.next();
            }
        }
        Self { parts }
    }

    /// What this holds and the other does not.
    pub fn subtract(&self, other: &Self) -> Self {
        let mut parts = Vec::new();
        let mut holes = other.parts.iter().peekable();
        for part in &self.parts {
            let mut from = part.start;
            while let Some(hole) = holes.peek() {
                if hole.start >= part.end {
                    break;
                }
                if hole.start > from {
                    parts.push(Interval::new(from, hole.start));
                }
                from = from.max(hole.end);
                if hole.end >= part.end {
                    break;
                }
                holes.next();
            }
            if from < part.end {
                parts.push(Interval::new(from, part.end));
            }
        }
        Self { parts }
    }

    /// First start and last end.
    pub fn hull(&self) -> Option<Interval> {
        Some(Interval::new(self.parts.first()?.start, self.parts.last()?.end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(parts: &[(i64, i64)]) -> IntervalSet {
        parts.iter().map(|(start, length)| Interval::new(*start, start + length)).collect()
    }

    /// The brute force: one element a nanosecond.
    fn points(parts: &[(i64, i64)]) -> BTreeSet<i64> {
        parts.iter().flat_map(|(start, length)| *start..start + length).collect()
    }

    fn points_of(set: &IntervalSet) -> BTreeSet<i64> {
        set.parts().iter().flat_map(|part| part.start..part.end).collect()
    }

    fn is_tidy(set: &IntervalSet) -> bool {
        set.parts().iter().all(|part| !part.is_empty())
            && set.parts().windows(2).all(|pair| pair[0].end < pair[1].start)
    }

    fn parts() -> impl Strategy<Value = Vec<(i64, i64)>> {
        prop::collection::vec((-40_i64..40, -2_i64..12), 0..12)
    }

    proptest! {
        #[test]
        fn algebra_is_what_counting_nanoseconds_says(a in parts(), b in parts()) {
            let (x, y) = (set(&a), set(&b));
            let (px, py) = (points(&a), points(&b));
            for (found, expected) in [
                (x.union(&y), px.union(&py).copied().collect::<BTreeSet<_>>()),
                (x.intersect(&y), px.intersection(&py).copied().collect()),
                (x.subtract(&y), px.difference(&py).copied().collect()),
            ] {
                prop_assert!(is_tidy(&found), "{:?}", found);
                prop_assert_eq!(found.length(), i64::try_from(expected.len()).unwrap());
                prop_assert_eq!(points_of(&found), expected);
            }
            prop_assert_eq!(x.hull().map(|hull| (hull.start, hull.end - 1)), px.first().copied().zip(px.last().copied()));
            prop_assert_eq!(x.is_empty(), px.is_empty());
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let all = IntervalSet::from_iter([Interval::new(i64::MIN, i64::MAX)]);
        assert_eq!(Interval::new(i64::MIN, i64::MAX).length(), i64::MAX);
        assert_eq!(all.subtract(&all).length(), 0);
    }
}
