//! Inverts the integral of a piecewise linear rate: from "so many arrivals are expected until then" to the instant. A
//! process of unit rate mapped through it is the process of the changing rate, exactly: nothing is thinned out, nothing
//! rescaled.

use servelab_core::pacing::{Ramp, RampSegment};

/// Where the inversion stands. Areas must be asked for in ascending order.
#[derive(Debug, Clone)]
pub(super) struct RampClock {
    segments: Vec<RampSegment>,
    at: usize,
    /// Start of the segment, in seconds.
    start_s: f64,
    /// Arrivals expected before it.
    before: f64,
}

impl RampClock {
    pub(super) fn new(ramp: &Ramp) -> Self {
        Self { segments: ramp.segments(), at: 0, start_s: 0.0, before: 0.0 }
    }

    /// Seconds until `area` arrivals are expected; infinite if that never happens.
    pub(super) fn instant_s(&mut self, area: f64) -> f64 {
        while let Some(segment) = self.segments.get(self.at) {
            let whole = 0.5 * (segment.from_per_s + segment.to_per_s) * segment.over_s;
            if area <= self.before + whole && whole > 0.0 {
                return self.start_s + within_s(segment, area - self.before);
            }
            self.before += whole;
            self.start_s += segment.over_s;
            self.at += 1;
        }
        // The last rate is held for ever.
        let rate_per_s = self.segments.last().map_or(0.0, |segment| segment.to_per_s);
        self.start_s + (area - self.before) / rate_per_s
    }
}

/// Seconds into a segment until `area` arrivals are expected in it.
fn within_s(segment: &RampSegment, area: f64) -> f64 {
    let from = segment.from_per_s;
    let slope = (segment.to_per_s - from) / segment.over_s;
    // The root of from·x + slope·x²/2 = area in the form that loses no digits for small slopes. Rounding must not make
    // the discriminant negative at the end of a slope down to zero.
    let root = (from * from + 2.0 * slope * area).max(0.0).sqrt();
    let denominator = from + root;
    if denominator > 0.0 { (2.0 * area / denominator).min(segment.over_s) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants() {
        let check = |ramp: &str, area: f64, expected_s: f64| {
            let got = RampClock::new(&ramp.parse().unwrap()).instant_s(area);
            assert!((got - expected_s).abs() < 1e-9, "{ramp} at {area}: {got}");
        };
        check("0..10/10s", 0.0, 0.0);
        check("0..10/10s", 50.0, 10.0);
        check("0..10/10s", 12.5, 5.0);
        check("0..10/10s", 70.0, 12.0);
        check("10..2/4s", 24.0, 4.0);
        // Nothing arrives during a pause.
        check("1x10s,0x5s,4x2s", 10.0, 10.0);
        check("1x10s,0x5s,4x2s", 10.4, 15.1);
        check("0x5s,2x1s", 0.0, 5.0);
    }

    proptest! {
        #[test]
        fn is_the_inverse_of_the_expected_arrivals(
            steps in prop::collection::vec((0.0..50.0_f64, 0.01..20.0_f64), 1..6),
            last in 0.1..50.0_f64,
            mut areas in prop::collection::vec(0.0..2000.0_f64, 1..50),
            line in (0.0..50.0_f64, 0.1..50.0_f64, 0.01..50.0_f64),
        ) {
            let mut text: Vec<String> = steps.iter().map(|(rate, time)| format!("{rate}x{time}")).collect();
            text.push(format!("{last}x1"));
            areas.sort_by(f64::total_cmp);
            for text in [text.join(","), format!("{}..{}/{}", line.0, line.1, line.2)] {
                let ramp: Ramp = text.parse().unwrap();
                let mut clock = RampClock::new(&ramp);
                let mut before = 0.0;
                for area in &areas {
                    let t = clock.instant_s(*area);
                    prop_assert!(t >= before);
                    before = t;
                    let back = ramp.expected_arrivals(t);
                    prop_assert!((back - area).abs() < 1e-6 * area.max(1.0), "{} {} {}", text, area, back);
                }
            }
        }
    }
}
