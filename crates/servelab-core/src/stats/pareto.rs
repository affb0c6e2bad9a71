//! Trade-offs between two metrics: which candidates no other beats in both, and who wins in which range. Geometry over
//! means; whether two neighbours can be told apart is a question for `ranking`.

/// Is more of each axis better?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Better {
    /// Along x.
    pub more_x: bool,
    /// Along y.
    pub more_y: bool,
}

/// Indices of the spots that no other beats: better in one and no worse in the other. Ordered from the best y to the best
/// x; of equal spots the first stays. Spots that are not finite are never on the front.
pub fn pareto_front(spots: &[(f64, f64)], better: Better) -> Vec<usize> {
    let towards = |value: f64, more: bool| if more { value } else { -value };
    let mut order: Vec<(usize, f64, f64)> = spots
        .iter()
        .enumerate()
        .filter(|(_, (x, y))| x.is_finite() && y.is_finite())
        .map(|(idx, (x, y))| (idx, towards(*x, better.more_x), towards(*y, better.more_y)))
        .collect();
    order.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.total_cmp(&a.1)).then(a.0.cmp(&b.0)));
    let mut best_x = f64::NEG_INFINITY;
    let mut front = Vec::new();
    for (idx, x, _) in order {
        if x > best_x {
            best_x = x;
            front.push(idx);
        }
    }
    front
}

/// A stretch of a front that one contender holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Regime {
    /// Whose: the key of its spots.
    pub key: usize,
    /// Its spots, from the best y to the best x.
    pub spots: Vec<usize>,
}

/// Neighbours on the front that have the same key, joined.
pub fn regimes(front: &[usize], key: &dyn Fn(usize) -> usize) -> Vec<Regime> {
    let mut out: Vec<Regime> = Vec::new();
    for &spot in front {
        match out.last_mut() {
            Some(last) if last.key == key(spot) => last.spots.push(spot),
            _ => out.push(Regime { key: key(spot), spots: vec![spot] }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP_LEFT: Better = Better { more_x: false, more_y: true };

    #[test]
    fn throughput_against_latency() {
        // (TPOT, throughput): the third is beaten by the second, the fifth equals the fourth, the last is no number.
        let spots = [(10.0, 100.0), (20.0, 180.0), (25.0, 170.0), (40.0, 200.0), (40.0, 200.0), (f64::NAN, 900.0)];
        let front = pareto_front(&spots, UP_LEFT);
        assert_eq!(front, [3, 1, 0]);
        let owners = [7, 7, 8, 9, 9, 9];
        let found = regimes(&front, &|idx| owners[idx]);
        assert_eq!(found, [Regime { key: 9, spots: vec![3] }, Regime { key: 7, spots: vec![1, 0] }]);
        assert_eq!(pareto_front(&spots, Better { more_x: true, more_y: true }), [3]);
        assert!(pareto_front(&[], UP_LEFT).is_empty());
    }

    proptest! {
        #[test]
        fn a_front_is_what_nobody_beats(spots in prop::collection::vec((0_u8..20, 0_u8..20), 0..60)) {
            let spots: Vec<(f64, f64)> = spots.into_iter().map(|(x, y)| (x.into(), y.into())).collect();
            let front = pareto_front(&spots, UP_LEFT);
            let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 >= b.1 && a != b;
            for (idx, spot) in spots.iter().enumerate() {
                let beaten = spots.iter().any(|other| beats(*other, *spot));
                let is_there = front.iter().any(|member| spots[*member] == *spot);
                prop_assert_eq!(is_there, !beaten, "spot {} {:?}", idx, spot);
            }
        }
    }
}
