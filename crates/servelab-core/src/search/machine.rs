//! Which trial comes next. The whole state is the table of levels with their evidence; every decision is a function of
//! it. Bracketing goes in factors of two, bisection on a grid whose steps are the wanted precision, and a level that later
//! evidence contradicts is reopened: the place of the edge is always the one that explains all trials best, so one bad
//! trial early on cannot lead the search astray for good. Its error is measured in the tests.

use super::certainty::{LevelTable, LevelView};
use super::evidence::TrialEvidence;
use super::slo::SearchSlo;

/// A level whose side is less sure than this gets another trial before the search builds on it.
const SURE_ENOUGH_TO_MOVE: f64 = 0.80;
/// A level may get this many times `repeats` trials while it is ambiguous.
const EXTRA_REPEATS: u32 = 2;
/// Probabilities are kept this far from 0 and 1 when levels are weighed against each other: models are not exact.
const MODEL_ERROR: f64 = 0.005;
/// Without an upper bound the search gives up this many doublings above its start.
const MAX_DOUBLINGS: i64 = 24;
/// And this many halvings below.
const MAX_HALVINGS: i64 = 12;

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Requests per second of an open loop; steps of equal ratio.
    Rate,
    /// Requests in flight of a closed loop; whole numbers.
    Concurrency,
}

/// Bounds and patience of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchSettings {
    /// What is searched.
    pub axis: Axis,
    /// First level.
    pub start: f64,
    /// Lowest level to try.
    pub min: Option<f64>,
    /// Highest level to try.
    pub max: Option<f64>,
    /// Wanted width of the answer, relative (0.05 is 5 %).
    pub precision: f64,
    /// Trials at each end of the answer; an ambiguous end gets up to twice as many.
    pub repeats: u32,
    /// Trials in all, after which the answer so far is given.
    pub max_trials: u32,
    /// How sure both ends must be to need no further trial (0–1).
    pub confidence: f64,
}

/// Why a search cannot begin.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// Not between 0.1 % and 100 %.
    #[error("a precision of {0} is not between 0.001 and 1")]
    Precision(f64),
    /// Not a level.
    #[error("{name} of {value} is no level; rates are above 0, concurrencies at least 1")]
    Level {
        /// Which.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Nothing lies between the bounds.
    #[error("the lowest level {min} is above the highest {max}")]
    Bounds {
        /// Lowest.
        min: f64,
        /// Highest.
        max: f64,
    },
    /// No trial allowed.
    #[error("a search needs at least one trial per level")]
    Repeats,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Run a trial at this level.
    Trial {
        /// Rate per second, or requests in flight.
        level: f64,
        /// Trials of this level before it.
        repeat: u32,
    },
    /// Nothing more to learn.
    Done,
}

/// Why the search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Both ends found, as close as wanted, each as sure as wanted.
    Found,
    /// Both ends found; at least one could not be made as sure as wanted within its trials.
    Ambiguous,
    /// Even the highest level allowed passes.
    PassesEverywhere,
    /// Even the lowest level allowed fails.
    FailsEverywhere,
    /// The trials were used up, or the search was ended, before the ends met.
    Unfinished,
}

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Highest level that passes.
    pub passes: Option<LevelView>,
    /// Lowest level above it that fails.
    pub fails: Option<LevelView>,
    /// Probability that the edge lies between the two, weighed against every other place (0–1).
    pub confidence: f64,
    /// Why it ended, when it has.
    pub ending: Ending,
}

/// A search under way.
#[derive(Debug, Clone)]
pub struct Search {
    settings: SearchSettings,
    slo: SearchSlo,
    /// Ascending by step.
    levels: Vec<LevelTable>,
    trials: u32,
    min_step: i64,
    max_step: i64,
    start_step: i64,
}

impl Search {
    /// Checks the settings.
    pub fn new(settings: SearchSettings, slo: SearchSlo) -> Result<Self, SearchError> {
        let SearchSettings { axis, start, min, max, precision, repeats, .. } = settings;
        if !(0.001..=1.0).contains(&precision) {
            return Err(SearchError::Precision(precision));
        }
        if repeats == 0 {
            return Err(SearchError::Repeats);
        }
        let lowest = if axis == Axis::Concurrency { 1.0 } else { f64::MIN_POSITIVE };
        for (name, value) in [("a start", Some(start)), ("a lowest level", min), ("a highest level", max)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= lowest)) {
                return Err(SearchError::Level { name, value });
            }
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(SearchError::Bounds { min, max });
        }
        let start = start.clamp(min.unwrap_or(lowest), max.unwrap_or(f64::MAX));
        let mut search = Self {
            settings,
            slo,
            levels: Vec::new(),
            trials: 0,
            min_step: i64::MIN,
            max_step: i64::MAX,
            start_step: 0,
        };
        search.settings.start = start;
        let doubling = search.doubling();
        match axis {
            Axis::Concurrency => {
                search.start_step = start.round() as i64;
                search.min_step = min.map_or(1, |min| min.ceil() as i64);
                search.max_step = max.map_or(1 << MAX_DOUBLINGS, |max| max.floor() as i64).max(search.min_step);
                search.start_step = search.start_step.clamp(search.min_step, search.max_step);
            }
            Axis::Rate => {
                let steps = |level: f64| (level / start).ln() / precision.ln_1p();
                search.min_step = min.map_or(-doubling * MAX_HALVINGS, |min| (steps(min) - 1e-9).floor() as i64);
                search.max_step = max.map_or(doubling * MAX_DOUBLINGS, |max| (steps(max) + 1e-9).ceil() as i64);
            }
        }
        Ok(search)
    }

    /// The SLO it looks for.
    pub fn slo(&self) -> &SearchSlo {
        &self.slo
    }

    /// Its settings, the start moved between the bounds.
    pub fn settings(&self) -> SearchSettings {
        self.settings
    }

    /// Every level tried, ascending.
    pub fn levels(&self) -> &[LevelTable] {
        &self.levels
    }

    /// The level at a step of the grid; bounds are exact.
    fn level(&self, step: i64) -> f64 {
        match self.settings.axis {
            Axis::Concurrency => step as f64,
            Axis::Rate => {
                let level = self.settings.start * (step as f64 * self.settings.precision.ln_1p()).exp();
                level.clamp(self.settings.min.unwrap_or(0.0), self.settings.max.unwrap_or(f64::MAX))
            }
        }
    }

    /// Grid steps of a factor of two.
    fn doubling(&self) -> i64 {
        (std::f64::consts::LN_2 / self.settings.precision.ln_1p()).round().max(1.0) as i64
    }

    /// Adds what a trial at `level` (as given by [`Step::Trial`]) showed.
    pub fn record(&mut self, level: f64, evidence: TrialEvidence) {
        self.trials += 1;
        let step = match self.settings.axis {
            Axis::Concurrency => level.round() as i64,
            Axis::Rate => {
                let nearest = ((level / self.settings.start).ln() / self.settings.precision.ln_1p()).round() as i64;
                // The bounds are exact and may lie between two steps.
                if Some(level) == self.settings.min {
                    self.min_step
                } else if Some(level) == self.settings.max {
                    self.max_step
                } else {
                    nearest
                }
            }
        };
        match self.levels.binary_search_by_key(&step, |table| table.step) {
            Ok(at) => self.levels.get_mut(at).into_iter().for_each(|table| table.trials.push(evidence.clone())),
            Err(at) => self.levels.insert(at, LevelTable { step, level, trials: vec![evidence] }),
        }
    }

    /// What to do next.
    pub fn next_step(&self) -> Step {
        match self.decide() {
            Decision::Trial(step) => {
                let before = self.levels.iter().find(|table| table.step == step);
                let repeat = before.map_or(0, |table| u32::try_from(table.trials.len()).unwrap_or(u32::MAX));
                Step::Trial { level: self.level(step), repeat }
            }
            Decision::End(_) => Step::Done,
        }
    }

    /// What is known so far, and when [`Search::next_step`] says so, the final answer.
    pub fn answer(&self) -> Answer {
        let ending = match self.decide() {
            Decision::End(ending) => ending,
            Decision::Trial(_) => Ending::Unfinished,
        };
        let Edge { passes, fails, confidence } = self.edge();
        Answer { passes, fails, confidence, ending }
    }

    fn edge(&self) -> Edge {
        let views: Vec<LevelView> = self.levels.iter().map(|table| table.view(&self.slo)).collect();
        // Score of "the first `cut` levels pass, the others fail", for every cut.
        let soft = |p: f64| p.clamp(MODEL_ERROR, 1.0 - MODEL_ERROR).ln();
        let mut score: f64 = views.iter().map(|view| soft(1.0 - view.p_pass)).sum();
        let mut scores = vec![score];
        for view in &views {
            score += soft(view.p_pass) - soft(1.0 - view.p_pass);
            scores.push(score);
        }
        let mut cut = 0;
        let mut best = f64::NEG_INFINITY;
        for (at, score) in scores.iter().enumerate() {
            if *score > best {
                (cut, best) = (at, *score);
            }
        }
        let total: f64 = scores.iter().map(|score| (score - best).exp()).sum();
        Edge {
            passes: cut.checked_sub(1).and_then(|at| views.get(at).copied()),
            fails: views.get(cut).copied(),
            confidence: if total > 0.0 { 1.0 / total } else { 0.0 },
        }
    }

    fn decide(&self) -> Decision {
        if self.levels.is_empty() {
            return Decision::Trial(self.start_step);
        }
        let Edge { passes, fails, .. } = self.edge();
        let out_of_trials = self.trials >= self.settings.max_trials;
        let sure = |view: LevelView, is_pass: bool| if is_pass { view.p_pass } else { 1.0 - view.p_pass };
        let most = self.settings.repeats.saturating_mul(EXTRA_REPEATS);
        // Before building on a level that is hardly more than a guess, look again.
        let doubtful = [passes.map(|view| (view, true)), fails.map(|view| (view, false))]
            .into_iter()
            .flatten()
            .filter(|(view, is_pass)| sure(*view, *is_pass) < SURE_ENOUGH_TO_MOVE && view.trials < most)
            .min_by(|a, b| sure(a.0, a.1).total_cmp(&sure(b.0, b.1)));
        let next = match (passes, fails) {
            (None, None) => None,
            (Some(low), None) if low.step < self.max_step => Some(self.up(low.step)),
            (None, Some(high)) if high.step > self.min_step => Some(self.down(high.step)),
            (Some(low), Some(high)) if high.step - low.step > self.finest(low.step) => {
                Some(low.step + (high.step - low.step) / 2)
            }
            _ => None,
        };
        if let Some(next) = next {
            return match doubtful {
                _ if out_of_trials => Decision::End(Ending::Unfinished),
                Some((view, _)) => Decision::Trial(view.step),
                None => Decision::Trial(next),
            };
        }
        let mut ends: Vec<(LevelView, bool)> = Vec::new();
        ends.extend(passes.map(|view| (view, true)));
        ends.extend(fails.map(|view| (view, false)));
        let is_settled = |(view, is_pass): &(LevelView, bool)| sure(*view, *is_pass) >= self.settings.confidence;
        let wants_more = |end: &&(LevelView, bool)| {
            end.0.trials < self.settings.repeats || (!is_settled(end) && end.0.trials < most)
        };
        let weakest = ends.iter().filter(wants_more).min_by(|a, b| sure(a.0, a.1).total_cmp(&sure(b.0, b.1)));
        match weakest {
            Some((view, _)) if !out_of_trials => Decision::Trial(view.step),
            _ => Decision::End(match (passes, fails) {
                (Some(_), None) => Ending::PassesEverywhere,
                (None, _) => Ending::FailsEverywhere,
                _ if ends.iter().all(is_settled) => Ending::Found,
                _ => Ending::Ambiguous,
            }),
        }
    }

    /// Grid steps between the ends that need no further division.
    fn finest(&self, low: i64) -> i64 {
        match self.settings.axis {
            Axis::Rate => 1,
            Axis::Concurrency => ((low as f64 * self.settings.precision).floor() as i64).max(1),
        }
    }

    fn up(&self, step: i64) -> i64 {
        match self.settings.axis {
            Axis::Rate => step + self.doubling(),
            Axis::Concurrency => step.saturating_mul(2),
        }
        .min(self.max_step)
    }

    fn down(&self, step: i64) -> i64 {
        match self.settings.axis {
            Axis::Rate => step - self.doubling(),
            Axis::Concurrency => step / 2,
        }
        .max(self.min_step)
    }
}

struct Edge {
    passes: Option<LevelView>,
    fails: Option<LevelView>,
    confidence: f64,
}

enum Decision {
    Trial(i64),
    End(Ending),
}
