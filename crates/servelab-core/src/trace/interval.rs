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
