//! Finds the initiating line of a failed start or run.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::{Regex, RegexSet};
use serde::{Deserialize, Serialize};

use super::catalogue::{Failure, failure, taxonomy};
use super::{Domain, RetryOutlook, Role};

/// What a log says about a failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Failure code.
    pub code: String,
    /// Cause, or only the first known consequence.
    pub role: Role,
    /// Whose problem.
    pub domain: Domain,
    /// Worth another try?
    pub retry: RetryOutlook,
    /// True when this proves the configuration infeasible.
    pub infeasible: bool,
    /// The log that the line is from.
    pub source: String,
    /// The line.
    pub line: String,
    /// Its number within its log, from 1.
    pub line_number: u64,
    /// Lines that say the same (other ranks, stack traces), this one included.
    pub occurrences: u64,
    /// Numbers in the line, by name with unit: `max_seq_len`, `needed_gib`, …
    pub numbers: BTreeMap<String, f64>,
    /// What to do.
    pub advice: String,
}

/// Messages wrap: numbers may stand on the lines that follow.
const WRAPPED_LINES: usize = 3;

/// Looks for the cause in log lines given as (log, line) in the order of time, as far as that is known. The earliest
/// initiating line wins; without one, the earliest consequence.
pub fn scan_log_lines<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Diagnosis> {
    let patterns = patterns();
    let mut scan = Scan::default();
    for (source, line) in lines {
        scan.take(patterns, source, line);
    }
    scan.finish()
}

struct Patterns {
    /// One set over all signatures, with the failure that each belongs to.
    signatures: RegexSet,
    owners: Vec<&'static Failure>,
    never: RegexSet,
    phases: Vec<(&'static str, Regex)>,
    quiet_level: Option<Regex>,
}

/// A pattern that does not compile is left out; a test compiles them all.
fn patterns() -> &'static Patterns {
    static PATTERNS: OnceLock<Patterns> = OnceLock::new();
    PATTERNS.get_or_init(|| {
        let taxonomy = taxonomy();
        let pairs = || taxonomy.failures.iter().flat_map(|f| f.signatures.iter().map(move |s| (f, s)));
        let never = taxonomy.teardown.iter().chain(&taxonomy.benign);
        let phases = taxonomy.phases.iter();
        Patterns {
            signatures: RegexSet::new(pairs().map(|(_, signature)| signature)).unwrap_or_default(),
            owners: pairs().map(|(failure, _)| failure).collect(),
            never: RegexSet::new(never).unwrap_or_default(),
            phases: phases.filter_map(|mark| Some((mark.phase.as_str(), Regex::new(&mark.signature).ok()?))).collect(),
            quiet_level: Regex::new(r"\b(DEBUG|INFO|WARNING) \d\d-\d\d \d\d:\d\d:\d\d").ok(),
        }
    })
}

#[derive(Default)]
struct Scan {
    line_numbers: BTreeMap<String, u64>,
    phase: Option<&'static str>,
    initiating: Option<Candidate>,
    cascade: Option<Candidate>,
}

struct Candidate {
    failure: &'static Failure,
    source: String,
    line: String,
    line_number: u64,
    occurrences: u64,
    /// The line and those after it in the same log.
    text: String,
    lines_wanted: usize,
}

impl Scan {
    fn take(&mut self, patterns: &Patterns, source: &str, line: &str) {
        let line = line.trim_end();
        let line_number = match self.line_numbers.get_mut(source) {
            Some(number) => {
                *number += 1;
                *number
            }
            None => {
                self.line_numbers.insert(source.to_owned(), 1);
                1
            }
        };
        for candidate in [&mut self.initiating, &mut self.cascade].into_iter().flatten() {
            if candidate.lines_wanted > 0 && candidate.source == source {
                candidate.lines_wanted -= 1;
                candidate.text.push(' ');
                candidate.text.push_str(line.trim_start());
            }
        }
        if let Some((phase, _)) = patterns.phases.iter().find(|(_, signature)| signature.is_match(line)) {
            self.phase = Some(phase);
        }
        let Some(failure) = self.recognise(patterns, line) else {
            return;
        };
        let slot = match failure.role {
            Role::Initiating => &mut self.initiating,
            Role::Cascade => &mut self.cascade,
        };
        match slot {
            Some(first) if first.failure.code == failure.code => first.occurrences += 1,
            Some(_) => {}
            None => {
                *slot = Some(Candidate {
                    failure,
                    source: source.to_owned(),
                    line: line.trim_start().to_owned(),
                    line_number,
                    occurrences: 1,
                    text: line.to_owned(),
                    lines_wanted: WRAPPED_LINES,
                });
            }
        }
    }

    fn recognise(&self, patterns: &Patterns, line: &str) -> Option<&'static Failure> {
        let matches = patterns.signatures.matches(line);
        if !matches.matched_any() || patterns.never.is_match(line) {
            return None;
        }
        let is_quiet = patterns.quiet_level.as_ref().is_some_and(|level| level.is_match(line));
        let mut owners = matches.iter().filter_map(|idx| patterns.owners.get(idx).copied());
        let found = owners.find(|failure| failure.any_level || !is_quiet)?;
        // Running out of GPU memory means different things at different times.
        match (found.code.as_str(), self.phase) {
            ("cuda_oom_load", Some("graph")) => failure("cuda_oom_graph").or(Some(found)),
            ("cuda_oom_load", Some("serving")) => failure("cuda_oom_serving").or(Some(found)),
            _ => Some(found),
        }
    }

    fn finish(self) -> Option<Diagnosis> {
        let found = self.initiating.or(self.cascade)?;
        let failure = found.failure;
        Some(Diagnosis {
            code: failure.code.clone(),
            role: failure.role,
            domain: failure.domain,
            retry: failure.retry,
            infeasible: failure.infeasible,
            numbers: numbers(failure, &found.text),
            source: found.source,
            line: found.line,
            line_number: found.line_number,
            occurrences: found.occurrences,
            advice: failure.advice.clone(),
        })
    }
}

fn numbers(failure: &Failure, text: &str) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    for pattern in failure.numbers.iter().filter_map(|pattern| Regex::new(pattern).ok()) {
        let Some(captures) = pattern.captures(text) else { continue };
        for name in pattern.capture_names().flatten() {
            let value = captures.name(name).and_then(|found| found.as_str().trim_end_matches('.').parse::<f64>().ok());
            if let Some(value) = value {
                out.entry(name.to_owned()).or_insert(value);
            }
        }
    }
    out
}
