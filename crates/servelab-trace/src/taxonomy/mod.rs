//! What kernels are for: versioned rules as data (`data/taxonomy.yaml`), with the user's own in front of them. A name is
//! claimed by the first rule that matches; names that sound like communication and are not claimed as such are suspects.

#[cfg(test)]
mod tests;

use regex::RegexSet;
use serde::Deserialize;
use servelab_core::source::SourceMap;
use servelab_core::trace::Place;
use servelab_core::yaml;

use crate::error::TraceError;

/// Its patterns are compiled together only; one by one they would cost every start.
const BUILTIN_NAME: &str = "built-in";
const BUILTIN: &str = include_str!("../../data/taxonomy.yaml");

/// Family of kernels that no rule claims.
pub const OTHER: &str = "other";

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Computation, and moving data within the device.
    Compute,
    /// Communication with other devices.
    Comm,
    /// Communication that also computes; counted as communication.
    FusedComm,
}

impl Class {
    /// True for both kinds of communication.
    pub fn is_comm(self) -> bool {
        self != Self::Compute
    }
}

/// What the taxonomy says about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameClass {
    /// Family; [`OTHER`] when no rule claims the name.
    pub family: String,
    /// Computation or communication.
    pub class: Class,
    /// Library of a communication family.
    pub library: String,
    /// Kind of communication; empty for computation or when the name does not say.
    pub kind: String,
    /// True when it sounds like communication and is not claimed as such.
    pub is_suspect: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    kinds: Vec<KindRule>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    suspects: Option<Patterns>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindRule {
    kind: String,
    any: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    family: String,
    class: Class,
    #[serde(default)]
    library: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    on: Place,
    any: Vec<String>,
    #[serde(default)]
    none: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patterns {
    any: Vec<String>,
    #[serde(default)]
    none: Vec<String>,
}

#[derive(Debug)]
struct Compiled {
    family: String,
    class: Class,
    library: String,
    kind: Option<String>,
    place: Place,
}

/// Rules, ready to use.
#[derive(Debug)]
pub struct Taxonomy {
    version: String,
    rules: Vec<Compiled>,
    /// Patterns of all rules at once; `owners` says whose each is and whether it claims or forbids.
    patterns: RegexSet,
    owners: Vec<(usize, bool)>,
    kinds: Vec<String>,
    kind_patterns: RegexSet,
    suspects: RegexSet,
    innocent: RegexSet,
}

impl Taxonomy {
    /// The built-in rules.
    pub fn builtin() -> Result<Self, TraceError> {
        Self::build(&parse(BUILTIN_NAME, BUILTIN)?, None)
    }

    /// The user's rules, given as text with the name of their file, in front of the built-in ones.
    pub fn with_user_rules(name: &str, text: &str) -> Result<Self, TraceError> {
        let user = parse(name, text)?;
        Self::build(&parse(BUILTIN_NAME, BUILTIN)?, Some((name, &user)))
    }

    /// Version of the built-in rules, and what was put in front of them.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn build(builtin: &File, user: Option<(&str, &File)>) -> Result<Self, TraceError> {
        let mut version = builtin.version.unwrap_or_default().to_string();
        let mut files = Vec::new();
        if let Some((name, file)) = user {
            let own = file.version.map(|n| format!(" version {n}")).unwrap_or_default();
            version = format!("{version} with {name}{own} in front");
            files.push((name, file));
        }
        files.push((BUILTIN_NAME, builtin));
        let (mut rules, mut patterns, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        let (mut kinds, mut kind_patterns) = (Vec::new(), Vec::new());
        let mut suspects = Patterns::default();
        for (name, file) in files {
            for rule in &file.rules {
                if rule.any.is_empty() {
                    let reason = format!("the rule for `{}` has no pattern under `any`", rule.family);
                    return Err(TraceError::Taxonomy { name: name.to_owned(), reason });
                }
                if name != BUILTIN_NAME {
                    rule.any.iter().chain(&rule.none).try_for_each(|pattern| check_pattern(name, pattern))?;
                }
                owners.extend(rule.any.iter().map(|_| (rules.len(), true)));
                owners.extend(rule.none.iter().map(|_| (rules.len(), false)));
                patterns.extend(rule.any.iter().chain(&rule.none).cloned());
                rules.push(Compiled {
                    family: rule.family.clone(),
                    class: rule.class,
                    library: rule.library.clone().unwrap_or_else(|| rule.family.clone()),
                    kind: rule.kind.clone(),
                    place: rule.on,
                });
            }
            for rule in &file.kinds {
                if name != BUILTIN_NAME {
                    check_pattern(name, &rule.any)?;
                }
                kinds.push(rule.kind.clone());
                kind_patterns.push(rule.any.clone());
            }
            if let Some(more) = &file.suspects {
                if name != BUILTIN_NAME {
                    more.any.iter().chain(&more.none).try_for_each(|pattern| check_pattern(name, pattern))?;
                }
                suspects.any.extend(more.any.iter().cloned());
                suspects.none.extend(more.none.iter().cloned());
            }
        }
        let set = |patterns: &[String]| {
            regex::RegexSetBuilder::new(patterns)
                .size_limit(64 << 20)
                .build()
                .map_err(|error| TraceError::Taxonomy { name: version.clone(), reason: error.to_string() })
        };
        Ok(Self {
            patterns: set(&patterns)?,
            kind_patterns: set(&kind_patterns)?,
            suspects: set(&suspects.any)?,
            innocent: set(&suspects.none)?,
            version,
            rules,
            owners,
            kinds,
        })
    }

    fn rule(&self, name: &str, place: Place) -> Option<&Compiled> {
        let mut best: Option<usize> = None;
        let mut forbidden: Vec<usize> = Vec::new();
        let mut claims: Vec<usize> = Vec::new();
        for idx in self.patterns.matches(name) {
            match self.owners.get(idx) {
                Some(&(rule, true)) => claims.push(rule),
                Some(&(rule, false)) => forbidden.push(rule),
                None => {}
            }
        }
        for rule in claims {
            let fits = self.rules.get(rule).is_some_and(|rule| rule.place == place);
            if fits && !forbidden.contains(&rule) && best.is_none_or(|known| rule < known) {
                best = Some(rule);
            }
        }
        self.rules.get(best?)
    }

    /// What a kernel is.
    pub fn kernel(&self, name: &str) -> NameClass {
        match self.rule(name, Place::Device) {
            Some(rule) => self.describe(rule, name),
            None => NameClass {
                family: OTHER.to_owned(),
                class: Class::Compute,
                library: String::new(),
                kind: String::new(),
                is_suspect: self.is_suspect(name),
            },
        }
    }

    /// What a CPU-side call is; `None` unless it is communication.
    pub fn host_call(&self, name: &str) -> Option<NameClass> {
        let rule = self.rule(name, Place::Host)?;
        Some(self.describe(rule, name))
    }

    fn describe(&self, rule: &Compiled, name: &str) -> NameClass {
        let is_comm = rule.class.is_comm();
        NameClass {
            family: rule.family.clone(),
            class: rule.class,
            library: if is_comm { rule.library.clone() } else { String::new() },
            kind: match &rule.kind {
                Some(kind) => kind.clone(),
                None if is_comm => self.kind(name).unwrap_or_default().to_owned(),
                None => String::new(),
            },
            is_suspect: !is_comm && self.is_suspect(name),
        }
    }

    fn is_suspect(&self, name: &str) -> bool {
        self.suspects.is_match(name) && !self.innocent.is_match(name)
    }

    /// Kind of a collective by the name of a kernel, a call or an argument.
    pub fn kind(&self, name: &str) -> Option<&str> {
        let first = self.kind_patterns.matches(name).into_iter().next()?;
        self.kinds.get(first).map(String::as_str)
    }
}

fn parse(name: &str, text: &str) -> Result<File, TraceError> {
    let mut sources = SourceMap::default();
    let id = sources.add(name, text);
    yaml::parse(id, text).and_then(|node| yaml::from_node(&node)).map_err(|problem| TraceError::Taxonomy {
        name: name.to_owned(),
        reason: problem.render(&sources).trim_end().to_owned(),
    })
}

fn check_pattern(name: &str, pattern: &str) -> Result<(), TraceError> {
    regex::Regex::new(pattern).map(|_| ()).map_err(|error| TraceError::Taxonomy {
        name: name.to_owned(),
        reason: format!("`{pattern}` is no regular expression: {error}"),
    })
}
