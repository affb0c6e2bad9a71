//! Checks that need more than one key, each reported at its line: ranges, references, unused definitions, contradictions.
//! What a single key may hold is checked while reading; what a combination of settings means is `feasibility`'s business.

use crate::expand::parse_expression;
use crate::source::{Diagnostic, did_you_mean};
use crate::version::VersionSpec;
use crate::yaml::Node;

use super::{Budget, Design, EngineKind, LoadSection, STUDY_SCHEMA_VERSION, Study};

/// Checks a study.
///
/// # Errors
/// The first problem.
pub fn check(study: &Study, doc: &Node) -> Result<(), Diagnostic> {
    let checker = Checker { study, doc };
    checker.header()?;
    checker.engine()?;
    checker.workloads()?;
    checker.load(&study.load, &["load"])?;
    checker.designs()?;
    checker.policies()?;
    checker.unused()
}

struct Checker<'a> {
    study: &'a Study,
    doc: &'a Node,
}

impl Checker<'_> {
    fn at(&self, path: &[&str], message: impl Into<String>) -> Diagnostic {
        // A scalar value is the better place; a block is best named by its key.
        let span = match self.doc.at(path) {
            Some(node) if node.as_map().is_none() && node.as_seq().is_none() => node.span,
            _ => self.doc.span_at(path),
        };
        Diagnostic::at(span, message)
    }

    fn header(&self) -> Result<(), Diagnostic> {
        let study = self.study;
        if study.schema != STUDY_SCHEMA_VERSION {
            return Err(self
                .at(&["schema"], format!("study format {} is not known to this version", study.schema))
                .with_hint(if study.schema > STUDY_SCHEMA_VERSION {
                    "use a newer servelab".to_owned()
                } else {
                    format!("write `schema: {STUDY_SCHEMA_VERSION}`")
                }));
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if study.study.is_empty() || study.study.starts_with('.') || !study.study.chars().all(fine) {
            return Err(self
                .at(&["study"], format!("`{}` cannot name a folder", study.study))
                .with_hint("use letters, digits, `.`, `_` and `-`, and do not start with a dot"));
        }
        if study.designs.is_empty() {
            return Err(self
                .at(&["designs"], "a study needs at least one design")
                .with_hint("for a single point write `designs: {one: {list: {only: {}}}}`"));
        }
        Ok(())
    }

    fn engine(&self) -> Result<(), Diagnostic> {
        let engine = &self.study.engine;
        if let Some(version) = &engine.version {
            VersionSpec::parse(version).map_err(|error| {
                self.at(&["engine", "version"], error.to_string())
                    .with_hint("write `\"0.11.*\"`, `\"0.32.0\"` or `\">=0.11,<0.12\"`")
            })?;
        }
        match engine.kind {
            EngineKind::External if engine.url.is_none() => {
                return Err(self
                    .at(&["engine", "kind"], "an external engine needs `url`")
                    .with_hint("e.g. `engine: {kind: external, url: \"http://127.0.0.1:8000\"}`"));
            }
            EngineKind::External => {}
            _ if engine.url.is_some() => {
                return Err(self.at(&["engine", "url"], "`url` is for `kind: external` only"));
            }
            _ => {}
        }
        if let Some(url) = &engine.url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return Err(self.at(&["engine", "url"], format!("`{url}` is no http address")));
        }
        if engine.kind != EngineKind::Sim {
            if engine.speedup.is_some() {
                return Err(self.at(&["engine", "speedup"], "`speedup` is for `kind: sim` only"));
            }
            if !engine.fail.is_empty() {
                return Err(self.at(&["engine", "fail"], "`fail` is for `kind: sim` only"));
            }
        }
        self.positive(&["engine", "speedup"], engine.speedup)?;
        self.positive(&["engine", "start_timeout_s"], engine.start_timeout_s)?;
        if let Some(name) = &engine.api_key_env
            && (name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        {
            return Err(
                self.at(&["engine", "api_key_env"], "this is the *name* of an environment variable, not the key")
            );
        }
        Ok(())
    }

    fn positive(&self, path: &[&str], value: Option<f64>) -> Result<(), Diagnostic> {
        match value {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                let name = path.last().copied().unwrap_or_default();
                Err(self.at(path, format!("`{name}` must be greater than 0, found {value}")))
            }
            _ => Ok(()),
        }
    }

    fn fraction(&self, path: &[&str], value: f64) -> Result<(), Diagnostic> {
        if (0.0..=1.0).contains(&value) {
            return Ok(());
        }
        let name = path.last().copied().unwrap_or_default();
        Err(self.at(path, format!("`{name}` is a fraction from 0 to 1, found {value}")))
    }

    fn workloads(&self) -> Result<(), Diagnostic> {
        for (name, workload) in self.study.workloads.iter() {
            if name == crate::expand::OFFLINE_WORKLOAD {
                return Err(self
                    .at(&["workloads", name], format!("`{name}` is the name of the workload of offline loads"))
                    .with_hint("choose another name"));
            }
            if let Err(problem) = workload.dataset.validate() {
                let mut path = vec!["workloads", name, "dataset"];
                path.extend(problem.key.split('.'));
                return Err(self.at(&path, problem.message));
            }
            if workload.output.max == Some(0) {
                return Err(self.at(&["workloads", name, "output", "max"], "`max` must be at least 1 token"));
            }
            if let Some(temperature) = workload.temperature
                && !(0.0..=2.0).contains(&temperature)
            {
                return Err(self.at(
                    &["workloads", name, "temperature"],
                    format!("a temperature is from 0 to 2, found {temperature}"),
                ));
            }
        }
        Ok(())
    }

    fn load(&self, load: &LoadSection, path: &[&str]) -> Result<(), Diagnostic> {
        let under = |rest: &[&'static str]| -> Vec<String> {
            path.iter().copied().chain(rest.iter().copied()).map(str::to_owned).collect()
        };
        let err = |rest: &[&'static str], message: String| {
            let full = under(rest);
            let full: Vec<&str> = full.iter().map(String::as_str).collect();
            self.at(&full, message)
        };
        if load.open.is_none() && load.closed.is_none() && load.offline.is_none() && load.replay.is_none() {
            return Err(err(&[], "a load needs `open`, `closed`, `replay` or `offline`".into()));
        }
        if let Some(open) = &load.open {
            if open.rate.is_empty() && open.ramp.is_none() {
                return Err(err(&["open", "rate"], "no rate is given".into())
                    .with_hint("write `rate: [1, 2, 5]`, or `ramp: {linear: {from: 1, to: 50, over_s: 60}}`"));
            }
            if let Some(ramp) = &open.ramp {
                ramp.validate().map_err(|problem| self.pacing(path, "open.ramp", &problem))?;
            }
            if let Some(rate) = open.rate.iter().find(|rate| !is_positive(**rate)) {
                return Err(err(
                    &["open", "rate"],
                    format!("a rate must be greater than 0 requests per second, found {rate}"),
                ));
            }
            if let Some(arrival) = &open.arrival {
                check_arrival(arrival).map_err(|message| err(&["open", "arrival"], message))?;
            }
            if open.max_concurrency == Some(0) {
                return Err(err(&["open", "max_concurrency"], "`max_concurrency` must be at least 1".into()));
            }
        }
        if let Some(closed) = &load.closed {
            if closed.concurrency.is_empty() || closed.concurrency.iter().any(|n| *n == 0) {
                return Err(err(&["closed", "concurrency"], "`concurrency` must be at least 1".into()));
            }
            if let Some(think) = &closed.think_s {
                think.validate().map_err(|problem| self.pacing(path, "closed.think_s", &problem))?;
            }
            if let Some(start) = &closed.start {
                start.validate().map_err(|problem| self.pacing(path, "closed.start", &problem))?;
            }
        }
        if let Some(replay) = &load.replay {
            if let Some(speed) = replay.speed.iter().find(|speed| !is_positive(**speed) || **speed > MAX_SPEED) {
                return Err(err(
                    &["replay", "speed"],
                    format!("a speed must be greater than 0 and at most {MAX_SPEED}, found {speed}"),
                )
                .with_hint("1 is as recorded, 2 twice as fast"));
            }
            if replay.max_concurrency == Some(0) {
                return Err(err(&["replay", "max_concurrency"], "`max_concurrency` must be at least 1".into()));
            }
        }
        if let Some(offline) = &load.offline {
            for (key, values) in [
                ("batch_size", &offline.batch_size),
                ("seq_len", &offline.seq_len),
                ("max_tokens", &offline.max_tokens),
            ] {
                if values.is_empty() || values.iter().any(|n| *n == 0) {
                    return Err(err(&["offline", key], format!("`{key}` must be at least 1")));
                }
            }
        }
        let stop = &load.stop;
        let given = usize::from(stop.requests.is_some())
            + usize::from(stop.requests_per_slot.is_some())
            + usize::from(stop.duration_s.is_some())
            + usize::from(stop.steady.is_some());
        // A ramp and a trace have an end of their own.
        let ends_itself = load.closed.is_none()
            && load.offline.is_none()
            && load.open.as_ref().is_none_or(|open| open.rate.is_empty());
        if given != 1 && !(given == 0 && ends_itself) {
            return Err(err(
                &["stop"],
                format!(
                    "`stop` is exactly one of `requests`, `requests_per_slot`, `duration_s`, `steady`, found {given}"
                ),
            ));
        }
        if stop.requests == Some(0) || stop.requests_per_slot == Some(0) {
            return Err(err(&["stop"], "a level needs at least one request".into()));
        }
        if stop.requests_per_slot.is_some() && (load.open.is_some() || load.replay.is_some()) {
            return Err(err(
                &["stop", "requests_per_slot"],
                "an open loop has no slots; use `requests` or `duration_s`".into(),
            ));
        }
        if stop.duration_s.is_some_and(|seconds| !is_positive(seconds)) {
            return Err(err(&["stop", "duration_s"], "`duration_s` must be greater than 0".into()));
        }
        if let Some(steady) = stop.steady
            && !(steady.min_s > 0.0 && steady.max_s >= steady.min_s)
        {
            return Err(err(&["stop", "steady"], "`steady` needs 0 < min_s ≤ max_s".into()));
        }
        if load.request_timeout_s.is_some_and(|seconds| !is_positive(seconds)) {
            return Err(err(&["request_timeout_s"], "`request_timeout_s` must be greater than 0".into()));
        }
        Ok(())
    }

    fn designs(&self) -> Result<(), Diagnostic> {
        for (name, design) in self.study.designs.iter() {
            if let Some(load) = &design.load {
                self.load(load, &["designs", name, "load"])?;
            }
            if design.repeats.is_some_and(|repeats| repeats.n == 0) {
                return Err(self.at(&["designs", name, "repeats", "n"], "`n` must be at least 1"));
            }
            self.empty_design(name, design)?;
            let load = design.load.as_ref().unwrap_or(&self.study.load);
            let needs_workload = load.open.is_some() || load.closed.is_some() || load.replay.is_some();
            let has_workload =
                !self.study.workloads.is_empty() && design.with.as_ref().is_none_or(|with| !with.is_empty());
            if needs_workload && !has_workload {
                return Err(self
                    .at(&["designs", name], format!("design `{name}` has a load but no workload"))
                    .with_hint("define `workloads:`, or use an `offline` load"));
            }
            if load.replay.is_some() {
                self.replays_traces(name, design)?;
            }
            if let Some(from) = &design.from {
                self.source_design(name, &from.design)?;
                let picked = usize::from(from.pick.maximise.is_some()) + usize::from(from.pick.minimise.is_some());
                if picked != 1 {
                    return Err(self
                        .at(&["designs", name, "from", "pick"], "`pick` needs exactly one of `maximise`, `minimise`"));
                }
                for (key, text) in [("maximise", &from.pick.maximise), ("minimise", &from.pick.minimise)] {
                    if let Some(text) = text {
                        let path = ["designs", name, "from", "pick", key];
                        let span = self.doc.at(&path).map_or(self.doc.span, |node| node.span);
                        parse_expression(text, span)?;
                    }
                }
                if from.pick.n == Some(0) {
                    return Err(self.at(&["designs", name, "from", "pick", "n"], "`n` must be at least 1"));
                }
            }
        }
        Ok(())
    }

    /// A replay needs instants, and only a trace has them.
    fn replays_traces(&self, name: &str, design: &Design) -> Result<(), Diagnostic> {
        let used = |workload: &str| design.with.as_ref().is_none_or(|with| with.iter().any(|one| one == workload));
        let other = self.study.workloads.iter().find(|(workload, content)| {
            used(workload) && !matches!(content.dataset, crate::workload::DatasetSpec::Trace(_))
        });
        match other {
            Some((workload, _)) => Err(self
                .at(
                    &["workloads", workload, "dataset"],
                    format!("design `{name}` replays a trace, but workload `{workload}` is none"),
                )
                .with_hint("give it `dataset: {trace: {path: …}}`, or leave it out of the design's `with:`")),
            None => Ok(()),
        }
    }

    /// A problem of a value under `load`, at its own key.
    fn pacing(&self, load: &[&str], key: &str, problem: &crate::pacing::PacingProblem) -> Diagnostic {
        let full: Vec<&str> = load.iter().copied().chain(key.split('.')).chain(problem.key.split('.')).collect();
        self.at(&full, problem.to_string())
    }

    fn empty_design(&self, name: &str, design: &Design) -> Result<(), Diagnostic> {
        let empty = design.list.as_ref().is_some_and(crate::ordered::OrderedMap::is_empty)
            || design.ablate.as_ref().is_some_and(|groups| groups.iter().all(|(_, arms)| arms.is_empty()));
        if empty {
            return Err(self.at(&["designs", name], format!("design `{name}` has no points")));
        }
        if design.label.is_some() && design.grid.is_none() {
            return Err(self.at(&["designs", name, "label"], "`label` names the points of a `grid`; here is none"));
        }
        Ok(())
    }

    fn source_design(&self, name: &str, source: &str) -> Result<(), Diagnostic> {
        let path = ["designs", name, "from", "design"];
        let designs = &self.study.designs;
        if !designs.contains_key(source) {
            let near = did_you_mean(source, designs.keys());
            return Err(self.at(&path, format!("unknown design `{source}`")).with_hint(near.map_or_else(
                || format!("defined: {}", designs.keys().collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean `{near}`?"),
            )));
        }
        let mut step = source;
        let mut chain = vec![name];
        loop {
            if chain.contains(&step) {
                chain.push(step);
                return Err(self.at(&path, format!("designs wait for each other: {}", chain.join(" → "))));
            }
            chain.push(step);
            match designs.get(step).and_then(|design| design.from.as_ref()) {
                Some(from) => step = &from.design,
                None => break,
            }
        }
        let before = |wanted: &str| designs.keys().position(|key| key == wanted);
        if before(source) > before(name) {
            return Err(self
                .at(&path, format!("design `{source}` stands after `{name}`"))
                .with_hint("write the source first: points are expanded in the order of the file"));
        }
        Ok(())
    }

    fn policies(&self) -> Result<(), Diagnostic> {
        let study = self.study;
        if study.repeats.n == 0 {
            return Err(self.at(&["repeats", "n"], "`n` must be at least 1"));
        }
        if let Some(request) = &study.slo.request {
            self.positive(&["slo", "request", "ttft_ms"], request.ttft_ms)?;
            self.positive(&["slo", "request", "tpot_ms"], request.tpot_ms)?;
            self.positive(&["slo", "request", "e2e_ms"], request.e2e_ms)?;
        }
        if let Some(accuracy) = &study.accuracy {
            self.fraction(&["accuracy", "max_mismatch"], accuracy.max_mismatch)?;
            if accuracy.prompts == 0 || accuracy.max_tokens == 0 {
                return Err(self.at(&["accuracy"], "`prompts` and `max_tokens` must be at least 1"));
            }
        }
        for (name, probe) in study.probe.iter() {
            let path = ["probe", name, "from_log"];
            let regex = regex::Regex::new(&probe.from_log).map_err(|error| {
                self.at(&path, format!("not a regular expression: {}", last_line(&error.to_string())))
            })?;
            if regex.captures_len() < 2 {
                return Err(self
                    .at(&path, "this expression has no group to take the value from")
                    .with_hint("put the number in parentheses, `concurrency: ([\\d.]+)x`"));
            }
            if study.serve.contains_key(name) {
                return Err(self
                    .at(&["serve", name], format!("`{name}` is set here and probed below"))
                    .with_hint("take one of the two out"));
            }
        }
        self.budget(&study.budget)?;
        if let Some(network) = &study.network {
            self.positive(&["network", "min_gb_per_s"], network.min_gb_per_s)?;
            self.positive(&["network", "max_latency_us"], network.max_latency_us)?;
        }
        if let Some(objective) = &study.report.objective {
            let span = self.doc.at(&["report", "objective"]).map_or(self.doc.span, |node| node.span);
            parse_expression(objective, span)?;
        }
        Ok(())
    }

    fn budget(&self, budget: &Budget) -> Result<(), Diagnostic> {
        self.positive(&["budget", "node_hours"], budget.node_hours)?;
        if budget.max_jobs == Some(0) {
            return Err(self.at(&["budget", "max_jobs"], "`max_jobs` must be at least 1"));
        }
        if let Some(walltime) = &budget.walltime
            && crate::units::parse_walltime_s(walltime).is_none()
        {
            return Err(self
                .at(&["budget", "walltime"], format!("`{walltime}` is no time limit"))
                .with_hint("write `HH:MM:SS` or `D-HH:MM:SS`"));
        }
        for (name, value) in [
            ("startup_minutes", budget.estimate.startup_minutes),
            ("cell_minutes", budget.estimate.cell_minutes),
            ("job_minutes", budget.estimate.job_minutes),
        ] {
            self.positive(&["budget", "estimate", name], value)?;
        }
        Ok(())
    }

    /// Definitions that nothing uses are mistakes more often than not.
    fn unused(&self) -> Result<(), Diagnostic> {
        let study = self.study;
        let mut everything = false;
        let mut used: Vec<&str> = Vec::new();
        for (_, design) in study.designs.iter() {
            let arms = design.ablate.iter().flat_map(|groups| groups.iter()).flat_map(|(_, arms)| arms.iter());
            let own: Vec<_> = arms
                .map(|(_, arm)| arm.with.as_ref())
                .chain(design.list.iter().flat_map(|list| list.iter()).map(|(_, entry)| entry.with.as_ref()))
                .collect();
            let inherits = own.is_empty() || own.iter().any(Option::is_none);
            used.extend(own.into_iter().flatten().flat_map(|with| with.iter().map(String::as_str)));
            match &design.with {
                Some(with) => used.extend(with.iter().map(String::as_str)),
                None => everything |= inherits,
            }
        }
        // A name that does not exist is the clearer mistake; expansion reports it.
        everything |= used.iter().any(|name| !study.workloads.contains_key(name));
        if !everything && let Some(name) = study.workloads.keys().find(|name| !used.contains(name)) {
            return Err(self
                .at(&["workloads", name], format!("workload `{name}` is not used by any design"))
                .with_hint("name it in a design's `with:`, or take it out"));
        }
        if let Some(compat) = &study.compat
            && compat.legacy_hash.is_none()
            && !compat.fields.is_empty()
        {
            return Err(self
                .at(&["compat", "fields"], "`fields` enter only a legacy hash, and none is asked for")
                .with_hint("add `legacy_hash: md5-8-sorted-json`, or take the fields out"));
        }
        let pd = study.deploy.mode == Some(super::DeployMode::Pd)
            || study.designs.iter().any(|(_, design)| design.topology.is_some() || mentions_mode(design));
        for (key, role) in [("p", study.deploy.p), ("d", study.deploy.d)] {
            if role.is_some() && !pd {
                return Err(self.at(&["deploy", key], format!("the role `{key}` is not used: no point has `mode: pd`")));
            }
        }
        Ok(())
    }
}

/// Fastest replay.
const MAX_SPEED: f64 = 1e6;

fn is_positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

fn mentions_mode(design: &Design) -> bool {
    design.grid.as_ref().is_some_and(|grid| grid.contains_key("mode"))
        || design.set.contains_key("mode")
        || design.list.iter().flat_map(|list| list.iter()).any(|(_, entry)| entry.settings.contains_key("mode"))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

/// `poisson`, `constant`, or `gamma:SHAPE`.
pub fn check_arrival(text: &str) -> Result<(), String> {
    let shape = |digits: &str| digits.parse::<f64>().ok().filter(|shape| *shape > 0.0 && shape.is_finite());
    match text.split_once(':') {
        None if matches!(text, "poisson" | "constant") => Ok(()),
        Some(("gamma", digits)) if shape(digits).is_some() => Ok(()),
        _ => Err(format!(
            "`{text}` is no arrival process: write `poisson`, `constant` or `gamma:SHAPE` (e.g. `gamma:0.5`)"
        )),
    }
}
