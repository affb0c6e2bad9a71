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

/// A stretch of y that one curve holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Regime {
    /// The curve.
    pub curve: usize,
    /// From this y,
    pub from_y: f64,
    /// up to this one.
    pub to_y: f64,
    /// Its x where the stretch begins,
    pub from_x: f64,
    /// and where it ends.
    pub to_x: f64,
}

/// Levels of y at which curves are held against each other.
const LEVELS: u32 = 400;

/// For every y that some curve reaches: the curve that reaches it with the least x, between its own spots by linear
/// interpolation. A curve may always do less than its lowest spot, at that spot's x. Spots (x, y) of a curve that another of
/// its spots beats do not count.
pub fn regimes(curves: &[Vec<(f64, f64)>]) -> Vec<Regime> {
    let better = Better { more_x: false, more_y: true };
    let rising: Vec<Vec<(f64, f64)>> = curves
        .iter()
        .map(|spots| pareto_front(spots, better).into_iter().rev().filter_map(|idx| spots.get(idx).copied()).collect())
        .collect();
    let ys = || rising.iter().flatten().map(|(_, y)| *y);
    let (low, high) = (ys().fold(f64::INFINITY, f64::min), ys().fold(f64::NEG_INFINITY, f64::max));
    let mut out: Vec<Regime> = Vec::new();
    if low > high {
        return out;
    }
    for level in 0..=LEVELS {
        let y = if level == LEVELS { high } else { low + (high - low) * f64::from(level) / f64::from(LEVELS) };
        let reached = rising.iter().enumerate().filter_map(|(curve, spots)| Some((curve, needed(spots, y)?)));
        let Some((curve, x)) = reached.min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
        match out.last_mut() {
            Some(last) if last.curve == curve => (last.to_y, last.to_x) = (y, x),
            _ => out.push(Regime { curve, from_y: y, to_y: y, from_x: x, to_x: x }),
        }
    }
    out
}

/// The x at which a curve reaches y; its spots rise in both.
fn needed(spots: &[(f64, f64)], y: f64) -> Option<f64> {
    let above = spots.iter().position(|(_, own)| *own >= y)?;
    let (x1, y1) = *spots.get(above)?;
    let Some((x0, y0)) = above.checked_sub(1).and_then(|below| spots.get(below)).copied() else { return Some(x1) };
    Some(x0 + (x1 - x0) * (y - y0) / (y1 - y0))
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
        assert_eq!(pareto_front(&spots, Better { more_x: true, more_y: true }), [3]);
        assert!(pareto_front(&[], UP_LEFT).is_empty());
    }

    #[test]
    fn who_wins_where_between_the_spots() {
        // (TPOT, throughput): the first is quick and small, the second slow and large; they cross at 150.
        let small = vec![(10.0, 100.0), (30.0, 200.0), (40.0, 190.0)];
        let large = vec![(20.0, 100.0), (20.0, 150.0), (25.0, 400.0), (f64::NAN, 900.0)];
        let found = regimes(&[small, large, Vec::new()]);
        assert_eq!(found.iter().map(|regime| regime.curve).collect::<Vec<_>>(), [0, 1], "{found:?}");
        assert!((found[0].to_y - 150.0).abs() < 1.0 && found[0].from_x == 10.0, "{found:?}");
        assert_eq!((found[1].to_y, found[1].to_x), (400.0, 25.0));
        assert!(regimes(&[]).is_empty() && regimes(&[vec![(f64::NAN, 1.0)]]).is_empty());
        assert_eq!(regimes(&[vec![(5.0, 7.0)]]), [Regime { curve: 0, from_y: 7.0, to_y: 7.0, from_x: 5.0, to_x: 5.0 }]);
    }

    proptest! {
        #[test]
        fn regimes_cover_everything_that_is_reached(curves in prop::collection::vec(prop::collection::vec((1_u8..50, 1_u8..50), 0..8), 0..5)) {
            let curves: Vec<Vec<(f64, f64)>> =
                curves.into_iter().map(|spots| spots.into_iter().map(|(x, y)| (x.into(), y.into())).collect()).collect();
            let found = regimes(&curves);
            let highest = curves.iter().flatten().map(|(_, y)| *y).fold(0.0, f64::max);
            prop_assert_eq!(found.last().map_or(0.0, |last| last.to_y), highest);
            for pair in found.windows(2) {
                prop_assert!(pair[0].to_y < pair[1].from_y && pair[0].curve != pair[1].curve);
            }
        }


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
