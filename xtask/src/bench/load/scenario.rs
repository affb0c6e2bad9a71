//! What is measured: the loads of the table, with the server's script for each.

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answers {
    pub(super) first_ms: f64,
    pub(super) gap_ms: f64,
    pub(super) jitter: f64,
    pub(super) tokens: u32,
    pub(super) events_per_write: u32,
}

impl Answers {
    /// First token after 50 ms, 20 ms between tokens, 10 % jitter, 100 tokens.
    const USUAL: Self = Self { first_ms: 50.0, gap_ms: 20.0, jitter: 0.1, tokens: 100, events_per_write: 1 };

    /// Mean length of an answer.
    pub(super) fn seconds(&self) -> f64 {
        (self.first_ms + f64::from(self.tokens.saturating_sub(1)) * self.gap_ms) / 1e3
    }
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Load {
    /// Poisson arrivals.
    Open { rate: f64 },
    /// So many streams at a time.
    Closed { streams: u32, start: Start },
}

/// How a closed loop begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// As the client does by itself.
    Default,
    /// All at once.
    Burst,
}

/// One load of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) load: Load,
    pub(super) answers: Answers,
    /// How long requests come, seconds; and with `--quick`.
    pub(super) seconds: f64,
    pub(super) quick_seconds: f64,
    /// Streams of the bare reader that is run for comparison.
    pub(super) floor_streams: Option<usize>,
    /// Which of the targets apply.
    pub(super) targets: &'static [Target],
    /// Whether other tools get the same load.
    pub(super) has_peers: bool,
}

impl Scenario {
    /// Requests that fill the time.
    pub(super) fn requests(&self, is_quick: bool) -> u32 {
        let seconds = if is_quick { self.quick_seconds } else { self.seconds };
        let rate = match self.load {
            Load::Open { rate } => rate,
            Load::Closed { streams, .. } => f64::from(streams) / self.answers.seconds(),
        };
        (rate * seconds).round() as u32
    }
}

/// What the project promises of itself; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// |client's mean TTFT − server's|
    TtftMean(f64),
    /// |client's p99 of TTFT − server's|
    TtftP99(f64),
    /// |client's p99 of ITL − server's|
    ItlP99(f64),
    /// Mean and p99 of t_k − write.
    Receive { mean: f64, p99: f64 },
    /// Coefficient of variation of arrival gaps within so much of 1, and a Kolmogorov–Smirnov test at 1 %.
    Poisson(f64),
    /// p99 of t_send − t_sched.
    Lateness(f64),
    /// All arrivals sent, over the scheduled time; relative.
    Rate(f64),
    /// CPU time per token event: at most so many times the bare reader's, and so many µs unless that floor is higher.
    Cpu { times_floor: f64, micros: f64 },
}

const OPEN: &[Target] = &[
    Target::TtftMean(0.15),
    Target::TtftP99(0.5),
    Target::ItlP99(0.2),
    Target::Receive { mean: 0.1, p99: 0.5 },
    Target::Poisson(0.03),
    Target::Rate(0.001),
    Target::Cpu { times_floor: 1.2, micros: 4.0 },
];

/// Few streams leave the core asleep between events: what a wake-up costs says nothing about the reader.
const OPEN_FEW: &[Target] = &[
    Target::TtftMean(0.15),
    Target::TtftP99(0.5),
    Target::ItlP99(0.2),
    Target::Receive { mean: 0.1, p99: 0.5 },
    Target::Poisson(0.03),
    Target::Rate(0.001),
];

/// No judgement of the gaps here: one send takes some 15 µs on one core, so that the gaps of a millisecond that are shorter
/// (1.5 %) cannot be kept by one thread. The table shows the test all the same.
const PACING: &[Target] = &[Target::Lateness(0.5), Target::Rate(0.001)];

const CLOSED: &[Target] = &[
    Target::TtftMean(0.3),
    Target::TtftP99(1.0),
    Target::Receive { mean: 0.1, p99: 0.5 },
    Target::Cpu { times_floor: 1.2, micros: 4.0 },
];

/// The loads that are judged request by request.
pub(super) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "open-50",
        title: "open loop, Poisson 50 req/s",
        load: Load::Open { rate: 50.0 },
        answers: Answers::USUAL,
        // The variation of n gaps of a Poisson process is good to 1/√n by itself.
        seconds: 120.0,
        quick_seconds: 6.0,
        floor_streams: Some(101),
        targets: OPEN_FEW,
        has_peers: true,
    },
    Scenario {
        name: "open-230",
        title: "open loop, Poisson 230 req/s",
        load: Load::Open { rate: 230.0 },
        answers: Answers::USUAL,
        seconds: 60.0,
        quick_seconds: 6.0,
        floor_streams: Some(467),
        targets: OPEN,
        has_peers: true,
    },
    Scenario {
        name: "open-450",
        title: "open loop, Poisson 450 req/s",
        load: Load::Open { rate: 450.0 },
        answers: Answers::USUAL,
        seconds: 60.0,
        quick_seconds: 6.0,
        floor_streams: Some(914),
        targets: OPEN,
        has_peers: true,
    },
    Scenario {
        name: "pace-1000",
        title: "open loop, Poisson 1000 req/s, 4 tokens",
        load: Load::Open { rate: 1000.0 },
        answers: Answers { first_ms: 5.0, gap_ms: 2.0, tokens: 4, ..Answers::USUAL },
        seconds: 30.0,
        quick_seconds: 5.0,
        floor_streams: None,
        targets: PACING,
        has_peers: true,
    },
    Scenario {
        name: "closed-1000",
        title: "closed loop, 1000 streams",
        load: Load::Closed { streams: 1000, start: Start::Default },
        answers: Answers::USUAL,
        seconds: 30.0,
        quick_seconds: 6.0,
        floor_streams: Some(1000),
        targets: CLOSED,
        has_peers: true,
    },
    Scenario {
        name: "closed-1000-burst",
        title: "closed loop, 1000 streams started at once",
        load: Load::Closed { streams: 1000, start: Start::Burst },
        answers: Answers::USUAL,
        seconds: 30.0,
        quick_seconds: 6.0,
        floor_streams: None,
        targets: &[],
        has_peers: false,
    },
];

/// Steps of the search for the highest token rate: 400 streams, eight events in each write.
pub(super) const CEILING: &str = "ceiling";
pub(super) const CEILING_STREAMS: u32 = 400;
pub(super) const CEILING_EVENTS_PER_WRITE: u32 = 8;
pub(super) const CEILING_TOKENS: u32 = 1000;
pub(super) const CEILING_RATES: [f64; 6] = [50e3, 100e3, 150e3, 200e3, 250e3, 300e3];
pub(super) const CEILING_QUICK_RATES: [f64; 2] = [100e3, 200e3];

/// What the client must reach before it says `client_limited`.
pub(super) const CEILING_TARGET: f64 = 150e3;

/// Answers at one step.
pub(super) fn ceiling_answers(tokens_per_s: f64) -> Answers {
    Answers {
        first_ms: 50.0,
        gap_ms: f64::from(CEILING_STREAMS) / tokens_per_s * 1e3,
        jitter: 0.1,
        tokens: CEILING_TOKENS,
        events_per_write: CEILING_EVENTS_PER_WRITE,
    }
}

/// Ten thousand streams at a time, each with a token every half second.
pub(super) const MANY: &str = "streams-10000";
pub(super) const MANY_STREAMS: u32 = 10_000;
pub(super) const MANY_ANSWERS: Answers =
    Answers { first_ms: 50.0, gap_ms: 500.0, jitter: 0.1, tokens: 20, events_per_write: 1 };
/// Resident memory per stream.
pub(super) const MANY_KIB_PER_STREAM: f64 = 10.0;

/// Every name that `--only` knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).chain([CEILING, MANY])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_reader_has_as_many_streams_as_the_load() {
        for scenario in SCENARIOS {
            let Some(streams) = scenario.floor_streams else { continue };
            let mean = match scenario.load {
                Load::Open { rate } => rate * scenario.answers.seconds(),
                Load::Closed { streams, .. } => f64::from(streams),
            };
            assert!((streams as f64 - mean).abs() <= 1.0, "{}: {mean}", scenario.name);
        }
    }

    #[test]
    fn a_step_asks_for_its_rate() {
        let answers = ceiling_answers(200e3);
        assert!((f64::from(CEILING_STREAMS) / (answers.gap_ms / 1e3) - 200e3).abs() < 1e-6);
        assert_eq!(SCENARIOS[2].requests(false), 27_000);
    }
}
