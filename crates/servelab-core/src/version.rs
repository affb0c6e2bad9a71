//! Engine versions: one version (`0.11.0rc1`), a declared range (`0.11.*`, `>=0.11,<0.12`) and the guards that rules carry
//! (`vllm < 0.11.1`). The order is that of Python packages (PEP 440) as far as engines use it; a local part (`+cpu`) is
//! kept for printing and ignored in comparisons.

use std::cmp::Ordering;
use std::fmt;

/// Why a text is not a version, a range or a guard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not a version.
    #[error("read `{0}` as a version; write it like 0.11.0, 0.11.0rc1 or 0.32.0+cpu")]
    Version(String),
    /// Not a range.
    #[error("read `{0}` as versions; write 0.11.0, 0.11.*, or comparisons like >=0.11,<0.12")]
    Spec(String),
    /// Not a guard.
    #[error("read `{0}` as a guard; write an engine and versions, like `vllm < 0.11.1`")]
    Guard(String),
}

/// Where a pre-release, release or post-release stands among versions with equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Dev(u32),
    Alpha(u32),
    Beta(u32),
    Candidate(u32),
    Final,
    Post(u32),
}

/// One version. Equality and order ignore the local part and trailing zeros: `0.11` equals `0.11.0+cpu`.
#[derive(Debug, Clone)]
pub struct Version {
    numbers: Vec<u32>,
    stage: Stage,
    text: String,
}

impl Version {
    /// Reads a version; a leading `v` is allowed.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError::Version(text.to_owned());
        let trimmed = text.trim();
        let plain = trimmed.strip_prefix('v').unwrap_or(trimmed);
        // Local and development parts are free text, but never a comma or star: those belong to ranges.
        if !plain.chars().all(|c| c.is_ascii_alphanumeric() || ".-_+".contains(c)) {
            return Err(wrong());
        }
        let public = plain.split_once('+').map_or(plain, |(public, _)| public);
        let digits_end = public.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(public.len());
        let (release, rest) = public.split_at(digits_end);
        let numbers = release
            .trim_end_matches('.')
            .split('.')
            .map(|number| number.parse::<u32>().map_err(|_| wrong()))
            .collect::<Result<Vec<_>, _>>()?;
        let stage = parse_stage(rest).ok_or_else(wrong)?;
        Ok(Self { numbers, stage, text: plain.to_owned() })
    }

    fn from_numbers(numbers: Vec<u32>, stage: Stage) -> Self {
        let mut text = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        if stage == Stage::Dev(0) {
            text.push_str(".dev0");
        }
        Self { numbers, stage, text }
    }

    fn number(&self, idx: usize) -> u32 {
        self.numbers.get(idx).copied().unwrap_or(0)
    }

    fn starts_with(&self, prefix: &[u32]) -> bool {
        prefix.iter().enumerate().all(|(idx, number)| self.number(idx) == *number)
    }
}

/// Reads what follows the release numbers; the longest known stage wins (`rc1.dev5` counts as `rc1`).
fn parse_stage(rest: &str) -> Option<Stage> {
    let rest = rest.trim_start_matches(['.', '-', '_']);
    if rest.is_empty() {
        return Some(Stage::Final);
    }
    type MakeStage = fn(u32) -> Stage;
    let kinds: [(&str, MakeStage); 7] = [
        ("dev", Stage::Dev),
        ("alpha", Stage::Alpha),
        ("beta", Stage::Beta),
        ("post", Stage::Post),
        ("rc", Stage::Candidate),
        ("a", Stage::Alpha),
        ("b", Stage::Beta),
    ];
    let (after, stage) =
        kinds.into_iter().find_map(|(name, stage)| rest.strip_prefix(name).map(|after| (after, stage)))?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let tail = after.get(digits.len()..).unwrap_or("");
    let plausible = tail.is_empty() || tail.starts_with(".dev") || tail.starts_with(".post");
    plausible.then(|| digits.parse().unwrap_or(0)).map(stage)
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let length = self.numbers.len().max(other.numbers.len());
        (0..length)
            .map(|idx| self.number(idx).cmp(&other.number(idx)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| self.stage.cmp(&other.stage))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An answer that may not be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Holds for every version in question.
    Yes,
    /// Holds for none.
    No,
    /// Holds for some, or the version is not known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Clause {
    Equal(Version),
    NotEqual(Version),
    Less(Version),
    LessEqual(Version),
    Greater(Version),
    GreaterEqual(Version),
    /// `0.11.*`, pre-releases included.
    Prefix(Vec<u32>),
}

impl Clause {
    fn contains(&self, version: &Version) -> bool {
        match self {
            Self::Equal(v) => version == v,
            Self::NotEqual(v) => version != v,
            Self::Less(v) => version < v,
            Self::LessEqual(v) => version <= v,
            Self::Greater(v) => version > v,
            Self::GreaterEqual(v) => version >= v,
            Self::Prefix(prefix) => version.starts_with(prefix),
        }
    }
}

/// Versions that a study declares: all clauses must hold. No clause means any version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSpec {
    clauses: Vec<Clause>,
    text: String,
}

/// One end of a range: the version and whether it belongs to the range.
type End = Option<(Version, bool)>;

impl VersionSpec {
    /// Reads `0.11.*`, `0.32.0`, `>=0.11,<0.12`, `~=0.11.1`, or `*` for any version.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError::Spec(text.to_owned());
        let mut clauses = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part == "*" {
                continue;
            }
            let (operator, version) = part.split_at(part.find(|c: char| !"=<>!~".contains(c)).ok_or_else(wrong)?);
            let version = version.trim();
            if let Some(prefix) = version.strip_suffix(".*") {
                if !matches!(operator, "" | "==" | "=") {
                    return Err(wrong());
                }
                clauses.push(Clause::Prefix(Version::parse(prefix).map_err(|_| wrong())?.numbers));
                continue;
            }
            let version = Version::parse(version).map_err(|_| wrong())?;
            let clause = match operator {
                "" | "=" | "==" => Clause::Equal(version),
                "!=" => Clause::NotEqual(version),
                "<" => Clause::Less(version),
                "<=" => Clause::LessEqual(version),
                ">" => Clause::Greater(version),
                ">=" => Clause::GreaterEqual(version),
                "~=" if version.numbers.len() >= 2 => {
                    let prefix = version.numbers.iter().copied().take(version.numbers.len() - 1).collect();
                    clauses.push(Clause::Prefix(prefix));
                    Clause::GreaterEqual(version)
                }
                _ => return Err(wrong()),
            };
            clauses.push(clause);
        }
        Ok(Self { clauses, text: text.trim().to_owned() })
    }

    /// Exactly one version.
    pub fn exact(version: Version) -> Self {
        let text = version.to_string();
        Self { clauses: vec![Clause::Equal(version)], text }
    }

    /// The declared version, if the range is a single one.
    pub fn as_exact(&self) -> Option<&Version> {
        self.clauses.iter().find_map(|clause| match clause {
            Clause::Equal(version) => Some(version),
            _ => None,
        })
    }

    /// Does this version belong to the range?
    pub fn contains(&self, version: &Version) -> bool {
        self.clauses.iter().all(|clause| clause.contains(version))
    }

    /// The oldest version of the range, as far as it has one.
    pub fn min(&self) -> Option<Version> {
        self.lower().map(|(version, _)| version)
    }

    /// The version that ends the range, as far as it has one; `0.11.*` ends before `0.12`.
    pub fn max(&self) -> Option<Version> {
        self.upper().map(|(version, _)| version)
    }

    fn lower(&self) -> End {
        let ends = self.clauses.iter().filter_map(|clause| match clause {
            Clause::Equal(v) | Clause::GreaterEqual(v) => Some((v.clone(), true)),
            Clause::Greater(v) => Some((v.clone(), false)),
            Clause::Prefix(prefix) => Some((Version::from_numbers(prefix.clone(), Stage::Final), true)),
            _ => None,
        });
        // At equal versions the open end is the narrower one.
        ends.max_by(|(a, a_in), (b, b_in)| a.cmp(b).then(b_in.cmp(a_in)))
    }

    fn upper(&self) -> End {
        let ends = self.clauses.iter().filter_map(|clause| match clause {
            Clause::Equal(v) | Clause::LessEqual(v) => Some((v.clone(), true)),
            Clause::Less(v) => Some((v.clone(), false)),
            Clause::Prefix(prefix) => {
                let mut next = prefix.clone();
                if let Some(last) = next.last_mut() {
                    *last = last.saturating_add(1);
                }
                Some((Version::from_numbers(next, Stage::Dev(0)), false))
            }
            _ => None,
        });
        ends.min_by(|(a, a_in), (b, b_in)| a.cmp(b).then(a_in.cmp(b_in)))
    }

    /// Do all versions of this range belong to `other`?
    pub fn within(&self, other: &Self) -> Answer {
        if let Some(version) = self.as_exact() {
            return if other.contains(version) { Answer::Yes } else { Answer::No };
        }
        let (low, high) = (self.lower(), self.upper());
        if is_before(&high, &other.lower()) || is_before(&other.upper(), &low) {
            return Answer::No;
        }
        let low_fits = other.lower().is_none_or(|(bound, bound_in)| {
            low.as_ref().is_some_and(|(v, v_in)| *v > bound || (*v == bound && (bound_in || !v_in)))
        });
        let high_fits = other.upper().is_none_or(|(bound, bound_in)| {
            high.as_ref().is_some_and(|(v, v_in)| *v < bound || (*v == bound && (bound_in || !v_in)))
        });
        let has_holes = other.clauses.iter().any(|clause| matches!(clause, Clause::NotEqual(_)));
        if low_fits && high_fits && !has_holes { Answer::Yes } else { Answer::Unknown }
    }

    /// Is every version of this range at or above `version`?
    pub fn is_at_least(&self, version: &Version) -> Answer {
        let clauses = vec![Clause::GreaterEqual(version.clone())];
        self.within(&Self { clauses, text: String::new() })
    }
}

/// True when everything up to `end` lies before everything from `start` on.
fn is_before(end: &End, start: &End) -> bool {
    match (end, start) {
        (Some((end, end_in)), Some((start, start_in))) => end < start || (end == start && !(*end_in && *start_in)),
        _ => false,
    }
}

impl fmt::Display for VersionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// When a rule counts: for one engine, perhaps only for some of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineGuard {
    engine: String,
    versions: VersionSpec,
}

impl EngineGuard {
    /// Reads `vllm`, `vllm < 0.11.1`, `vllm >=0.11, <0.12`, `vllm 0.11.*`.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let wrong = || VersionError::Guard(text.to_owned());
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').unwrap_or(text.len());
        let (engine, versions) = text.split_at(end);
        if !engine.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(wrong());
        }
        let versions = versions.trim();
        let versions = VersionSpec::parse(if versions.is_empty() { "*" } else { versions }).map_err(|_| wrong())?;
        Ok(Self { engine: engine.to_owned(), versions })
    }

    /// Does the rule count for this engine and declared version? The simulator stands for vLLM.
    pub fn applies(&self, engine: &str, declared: Option<&VersionSpec>) -> Answer {
        let engine = if engine == "sim" && self.engine == "vllm" { "vllm" } else { engine };
        if engine != self.engine {
            return Answer::No;
        }
        match declared {
            _ if self.versions.clauses.is_empty() => Answer::Yes,
            None => Answer::Unknown,
            Some(declared) => declared.within(&self.versions),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_like_python_packages() {
        let ascending = [
            "0.9.2",
            "0.10.0",
            "0.11.0.dev5",
            "0.11.0a1",
            "0.11.0b2",
            "0.11.0rc1",
            "0.11.0rc2",
            "0.11.0",
            "0.11.0.post1",
            "0.11.1",
            "0.32.0+cpu",
            "1",
        ];
        for pair in ascending.windows(2) {
            let (a, b) = (Version::parse(pair[0]).expect(pair[0]), Version::parse(pair[1]).expect(pair[1]));
            assert!(a < b, "{a} < {b}");
        }
        for (a, b) in [("0.11", "0.11.0"), ("v0.32.0", "0.32.0+cpu"), ("0.11.0rc1", "0.11.0rc1.dev7")] {
            assert_eq!(Version::parse(a), Version::parse(b));
        }
        for wrong in ["", "abc", "0.11.x", "1.2.3foo", "0..1", "99999999999", "-1", "0.11+a,b", "0.11.0rc1.dev*"] {
            assert!(Version::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_contain() {
        for (spec, version, expected) in [
            ("0.11.*", "0.11.0", true),
            ("0.11.*", "0.11.2", true),
            ("0.11.*", "0.11.0rc1", true),
            ("0.11.*", "0.12.0", false),
            (">=0.11,<0.12", "0.11.9", true),
            (">=0.11,<0.12", "0.12", false),
            ("0.32.0", "0.32.0+cpu", true),
            ("0.32.0", "0.32.1", false),
            ("!=0.11.1", "0.11.1", false),
            ("~=0.11.1", "0.11.3", true),
            ("~=0.11.1", "0.12.0", false),
            ("*", "0.1", true),
        ] {
            let parsed = VersionSpec::parse(spec).expect(spec);
            assert_eq!(parsed.contains(&Version::parse(version).expect(version)), expected, "{version} in {spec}");
        }
        for wrong in ["", "foo", ">0.11.*", "=>1", "0.11.*.*", ">=,1"] {
            assert!(VersionSpec::parse(wrong).is_err(), "{wrong}");
        }
        let spec = VersionSpec::parse("0.11.*").expect("valid");
        assert_eq!(spec.min(), Version::parse("0.11").ok());
        assert!(spec.max().expect("has an end") < Version::parse("0.12.0").expect("valid"));
        assert_eq!(VersionSpec::parse("0.32.0").expect("valid").as_exact(), Version::parse("0.32.0").ok().as_ref());
    }

    #[test]
    fn guards_apply() {
        use Answer::{No, Unknown, Yes};
        for (guard, engine, declared, expected) in [
            ("vllm < 0.11.1", "vllm", Some("0.11.0"), Yes),
            ("vllm < 0.11.1", "vllm", Some("0.11.1"), No),
            ("vllm < 0.11.1", "vllm", Some("0.11.*"), Unknown),
            ("vllm < 0.11.1", "vllm", Some("0.10.*"), Yes),
            ("vllm < 0.11.1", "vllm", Some(">=0.12"), No),
            ("vllm < 0.12", "vllm", Some("0.11.*"), Yes),
            ("vllm >= 0.12", "vllm", Some("0.11.*"), No),
            ("vllm >=0.11, <0.12", "vllm", Some("0.11.*"), Yes),
            ("vllm 0.11.*", "vllm", Some("0.11.*"), Yes),
            ("vllm 0.11.*", "vllm", Some("0.11.0rc1"), Yes),
            ("vllm != 0.11.1", "vllm", Some("0.11.*"), Unknown),
            ("vllm < 0.11.1", "vllm", None, Unknown),
            ("vllm", "vllm", None, Yes),
            ("vllm < 0.11.1", "sglang", Some("0.5"), No),
            ("vllm < 0.11.1", "sim", Some("0.11.0"), Yes),
            ("sim", "vllm", None, No),
        ] {
            let declared = declared.map(|text| VersionSpec::parse(text).expect(text));
            let parsed = EngineGuard::parse(guard).expect(guard);
            assert_eq!(parsed.applies(engine, declared.as_ref()), expected, "{guard} for {engine} {declared:?}");
        }
        for wrong in ["", "< 0.11", "vllm < x", "vllm <"] {
            assert!(EngineGuard::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,30}") {
            let _ = Version::parse(&text);
            let _ = VersionSpec::parse(&text);
            let _ = EngineGuard::parse(&text);
        }

        #[test]
        fn within_agrees_with_membership(a in 0u32..4, b in 0u32..4, c in 0u32..4, op in prop::sample::select(vec!["<", "<=", ">", ">=", "=="])) {
            let declared = VersionSpec::parse(&format!(">=0.{}.1,<=0.{}.3", a.min(b), a.max(b))).expect("valid");
            let guard = VersionSpec::parse(&format!("{op}0.{c}.2")).expect("valid");
            let members: Vec<Version> = (0..5)
                .flat_map(|minor| (0..5).map(move |patch| Version::from_numbers(vec![0, minor, patch], Stage::Final)))
                .filter(|version| declared.contains(version))
                .collect();
            let inside = members.iter().filter(|version| guard.contains(version)).count();
            match declared.within(&guard) {
                Answer::Yes => prop_assert_eq!(inside, members.len()),
                Answer::No => prop_assert_eq!(inside, 0),
                Answer::Unknown => prop_assert!(inside < members.len() || members.len() <= 1),
            }
        }
    }
}
