//! The sections of a study that judge, limit and describe: rules, SLOs, targets, repeats, budget, compatibility,
//! profiling, report. Plain data; the code that acts on each lives with its subject.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::Settings;
use crate::ordered::{OneOrMany, OrderedMap};

/// A rule that every point must satisfy: an expression, or one with a guard.
#[derive(Debug, Clone, PartialEq)]
pub struct Constraint {
    /// The rule, in the expression language.
    pub rule: String,
    /// Engine versions it is meant for, `vllm < 0.11.1`.
    pub guard: Option<String>,
    /// What a violation means.
    pub otherwise: OnViolation,
    /// Why the rule exists, shown with a violation.
    pub because: Option<String>,
}

/// What a violated rule does to a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// The point is infeasible.
    #[default]
    Infeasible,
    /// The point runs, with a warning.
    Warn,
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            rule: String,
            r#for: Option<String>,
            #[serde(default)]
            r#else: OnViolation,
            because: Option<String>,
        }
        struct ConstraintVisitor;
        impl<'de> Visitor<'de> for ConstraintVisitor {
            type Value = Constraint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or `{rule: …, for: …, else: warn}`")
            }

            fn visit_str<E: de::Error>(self, rule: &str) -> Result<Constraint, E> {
                Ok(Constraint { rule: rule.to_owned(), guard: None, otherwise: OnViolation::Infeasible, because: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Constraint, A::Error> {
                let Full { rule, r#for, r#else, because } =
                    serde::Deserialize::deserialize(de::value::MapAccessDeserializer::new(access))?;
                Ok(Constraint { rule, guard: r#for, otherwise: r#else, because })
            }
        }
        deserializer.deserialize_any(ConstraintVisitor)
    }
}

impl JsonSchema for Constraint {
    fn schema_name() -> Cow<'static, str> {
        "Constraint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let otherwise = generator.subschema_for::<OnViolation>();
        json_schema!({
            "description": "A rule over a point's settings.",
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        "rule": {"type": "string"},
                        "for": {"type": ["string", "null"], "description": "Engine versions, `vllm < 0.11.1`."},
                        "else": otherwise,
                        "because": {"type": ["string", "null"]}
                    },
                    "required": ["rule"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// A setting that is found by a first, short start of the server.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Regular expression over the server's log; its first group is the value.
    pub from_log: String,
    /// Round down to a whole number.
    #[serde(default)]
    pub floor: bool,
    /// Value during the probing start; default 1.
    pub start_with: Option<Value>,
}

/// Limits on a cell's statistics, by metric: `ttft_p95_ms: 2000`, `success: 0.99`, `throughput_tok_s: 800`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CellSlo(pub OrderedMap<f64>);

const LATENCIES: [&str; 8] = ["ttft", "ttft_sched", "ttfo", "icl", "itl", "tpot", "e2e", "e2e_sched"];
const STATISTICS: [&str; 5] = ["mean", "p50", "p90", "p95", "p99"];

impl CellSlo {
    /// Every metric that may be limited.
    pub fn metric_names() -> Vec<String> {
        let mut names = vec!["success".to_owned(), "throughput_tok_s".to_owned(), "throughput_req_s".to_owned()];
        for latency in LATENCIES {
            names.extend(STATISTICS.iter().map(|statistic| format!("{latency}_{statistic}_ms")));
        }
        names
    }

    /// True for metrics of which more is better.
    pub fn is_floor(metric: &str) -> bool {
        metric == "success" || metric.starts_with("throughput")
    }
}

fn check_metric<E: de::Error>(name: &str) -> Result<(), E> {
    let names = CellSlo::metric_names();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let near = crate::source::did_you_mean(name, names.iter().map(String::as_str));
    Err(E::custom(match near {
        Some(near) => format!("unknown metric `{name}`; did you mean `{near}`?"),
        None => format!(
            "unknown metric `{name}`; write LATENCY_STATISTIC_ms (`ttft_p95_ms`), `success` or `throughput_tok_s`"
        ),
    }))
}

impl<'de> Deserialize<'de> for CellSlo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limits = OrderedMap::<f64>::deserialize(deserializer)?;
        for (name, limit) in limits.iter() {
            check_metric(name)?;
            if name == "success" && !(0.0..=1.0).contains(limit) {
                return Err(de::Error::custom(format!("`success` is a fraction from 0 to 1, found {limit}")));
            }
            if *limit < 0.0 {
                return Err(de::Error::custom(format!("`{name}` cannot be negative")));
            }
        }
        Ok(Self(limits))
    }
}

impl JsonSchema for CellSlo {
    fn schema_name() -> Cow<'static, str> {
        "CellSlo".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Self::metric_names();
        json_schema!({
            "description": "Limits on a cell's statistics.",
            "type": "object",
            "propertyNames": {"enum": names},
            "properties": {"success": {"type": "number", "minimum": 0, "maximum": 1}},
            "additionalProperties": {"type": "number", "minimum": 0}
        })
    }
}

/// Limits on every single request.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestSlo {
    /// Time to first token, milliseconds.
    pub ttft_ms: Option<f64>,
    /// Time per output token, milliseconds.
    pub tpot_ms: Option<f64>,
    /// Whole request, milliseconds.
    pub e2e_ms: Option<f64>,
}

/// A named performance target: per metric a bound or a `[from, to]` range.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target(pub OrderedMap<OneOrMany<f64>>);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bounds = OrderedMap::<OneOrMany<f64>>::deserialize(deserializer)?;
        for (name, bound) in bounds.iter() {
            check_metric(name)?;
            match bound.0.as_slice() {
                [_] => {}
                [from, to] if from <= to => {}
                [_, _] => return Err(de::Error::custom(format!("the range of `{name}` ends before it begins"))),
                _ => return Err(de::Error::custom(format!("`{name}` is one number or `[from, to]`"))),
            }
        }
        Ok(Self(bounds))
    }
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = CellSlo::metric_names();
        json_schema!({
            "description": "Per metric a bound or a `[from, to]` range.",
            "type": "object",
            "propertyNames": {"enum": names},
            "additionalProperties": {
                "anyOf": [
                    {"type": "number"},
                    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2}
                ]
            }
        })
    }
}

/// What the author expects: free text, or a claim that the report can judge.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// The claim in words.
    pub text: String,
    /// Metric that the claim is about.
    pub metric: Option<String>,
    /// Change against the baseline in percent, `[from, to]`.
    pub change_percent: Option<[f64; 2]>,
}

impl<'de> Deserialize<'de> for Expect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            text: String,
            metric: Option<String>,
            change_percent: Option<[f64; 2]>,
        }
        struct ExpectVisitor;
        impl<'de> Visitor<'de> for ExpectVisitor {
            type Value = Expect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or `{text: …, metric: …, change_percent: [from, to]}`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expect, E> {
                Ok(Expect { text: text.to_owned(), metric: None, change_percent: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Expect, A::Error> {
                let Full { text, metric, change_percent } =
                    serde::Deserialize::deserialize(de::value::MapAccessDeserializer::new(access))?;
                if let Some(metric) = &metric {
                    check_metric(metric)?;
                }
                Ok(Expect { text, metric, change_percent })
            }
        }
        deserializer.deserialize_any(ExpectVisitor)
    }
}

impl JsonSchema for Expect {
    fn schema_name() -> Cow<'static, str> {
        "Expect".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = CellSlo::metric_names();
        json_schema!({
            "description": "What the author expects: text, or a claim that the report can judge.",
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "metric": {"anyOf": [{"enum": names}, {"type": "null"}]},
                        "change_percent": {
                            "anyOf": [
                                {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                                {"type": "null"}
                            ]
                        }
                    },
                    "required": ["text"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// Greedy answers compared with the baseline point's.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// Prompts asked.
    pub prompts: u32,
    /// Output tokens of each.
    pub max_tokens: u32,
    /// Share of answers (0–1) that may differ.
    pub max_mismatch: f64,
    /// Tasks to hand over to lm-evaluation-harness, where it is installed.
    pub lm_eval: Option<LmEval>,
}

/// What lm-evaluation-harness (`lm_eval`) is asked, against the server's completions.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LmEval {
    /// Names of its tasks.
    pub tasks: OneOrMany<String>,
    /// Documents per task; default: all.
    pub limit: Option<u32>,
}

/// A rule that ends a cell or skips the rest of a ladder.
#[derive(Debug, Clone, PartialEq)]
pub enum StopRule {
    /// End the cell when the share of successes falls below `below` after `after` requests.
    SuccessBelow {
        /// Fraction, 0–1.
        below: f64,
        /// Requests to wait for.
        after: u32,
    },
    /// End the cell when the share of requests that the server failed (5xx, reset, error inside an answer) exceeds `above`
    /// after `after` requests.
    ServerErrorsAbove {
        /// Fraction, 0–1.
        above: f64,
        /// Requests to wait for.
        after: u32,
    },
    /// Skip higher rates once a lower one saturated the server.
    SaturatedAtLowerRate,
}

impl<'de> Deserialize<'de> for StopRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Full {
            success_below: Option<f64>,
            server_errors_above: Option<f64>,
            after: u32,
        }
        struct RuleVisitor;
        impl<'de> Visitor<'de> for RuleVisitor {
            type Value = StopRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "`saturated_at_lower_rate`, `{success_below: 0.5, after: 50}` or `{server_errors_above: 0.1, after: 50}`",
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<StopRule, E> {
                match name {
                    "saturated_at_lower_rate" => Ok(StopRule::SaturatedAtLowerRate),
                    _ => Err(E::unknown_variant(
                        name,
                        &["saturated_at_lower_rate", "success_below", "server_errors_above"],
                    )),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<StopRule, A::Error> {
                let Full { success_below, server_errors_above, after } =
                    serde::Deserialize::deserialize(de::value::MapAccessDeserializer::new(access))?;
                let (key, share, rule) = match (success_below, server_errors_above) {
                    (Some(below), None) => ("success_below", below, StopRule::SuccessBelow { below, after }),
                    (None, Some(above)) => ("server_errors_above", above, StopRule::ServerErrorsAbove { above, after }),
                    _ => return Err(de::Error::custom("a rule is one of `success_below` and `server_errors_above`")),
                };
                if !(0.0..=1.0).contains(&share) {
                    return Err(de::Error::custom(format!("`{key}` is a fraction from 0 to 1, found {share}")));
                }
                Ok(rule)
            }
        }
        deserializer.deserialize_any(RuleVisitor)
    }
}

impl JsonSchema for StopRule {
    fn schema_name() -> Cow<'static, str> {
        "StopRule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"const": "saturated_at_lower_rate"},
                {
                    "type": "object",
                    "properties": {
                        "success_below": {"type": "number", "minimum": 0, "maximum": 1},
                        "after": {"type": "integer", "minimum": 0}
                    },
                    "required": ["success_below", "after"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "properties": {
                        "server_errors_above": {"type": "number", "minimum": 0, "maximum": 1},
                        "after": {"type": "integer", "minimum": 0}
                    },
                    "required": ["server_errors_above", "after"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// How often each cell is measured, and in which order.
#[derive(Debug, Clone, Copy, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repeats {
    /// Measurements of each cell; default 1.
    #[serde(default = "one")]
    pub n: u32,
    /// Order of points within each repeat.
    #[serde(default)]
    pub order: Order,
    /// Repeat on one server start: cheap, but only within-start variance is seen.
    #[serde(default)]
    pub same_server: bool,
    /// Seed of the order; default 42.
    pub seed: Option<u64>,
}

fn one() -> u32 {
    1
}

impl Default for Repeats {
    fn default() -> Self {
        Self { n: 1, order: Order::RandomBlocks, same_server: false, seed: None }
    }
}

/// Order of points within each repeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Each repeat is a block in which points are shuffled.
    #[default]
    RandomBlocks,
    /// The order of the plan.
    AsWritten,
}

/// Limits on what may be spent.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Node-hours of the whole study.
    pub node_hours: Option<f64>,
    /// Jobs at a time.
    pub max_jobs: Option<u32>,
    /// Time limit of one job, `HH:MM:SS` or `D-HH:MM:SS`.
    pub walltime: Option<String>,
    /// What costs are estimated from until something was measured.
    #[serde(default)]
    pub estimate: Estimate,
}

/// What costs are estimated from until something was measured.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Minutes from the start of a job to a ready server; default 10 (0.1 for the simulator).
    pub startup_minutes: Option<f64>,
    /// Minutes of one cell whose length does not follow from its stop rule; default 10.
    pub cell_minutes: Option<f64>,
    /// Minutes of a whole job, start-up included; overrides the two others.
    pub job_minutes: Option<f64>,
}

/// Conditions on the network between nodes, tested before cells that need it.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkGate {
    /// Least bandwidth between two nodes, gigabytes per second.
    pub min_gb_per_s: Option<f64>,
    /// Largest latency, microseconds.
    pub max_latency_us: Option<f64>,
    /// Environment values that must not be set.
    #[serde(default)]
    pub forbid_env: OrderedMap<OneOrMany<String>>,
}

/// Older names and hashes.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compat {
    /// The older hash to print per label: `md5-8-sorted-json`.
    pub legacy_hash: Option<LegacyHash>,
    /// Values that enter only the older hash, never a point or a command line.
    #[serde(default)]
    pub fields: Settings,
}

/// Older hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
pub enum LegacyHash {
    /// `md5(json.dumps(config, sort_keys=True))[:8]`, the name included.
    #[serde(rename = "md5-8-sorted-json")]
    Md5SortedJson,
}

/// A separate profiling run.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Profile in a run of its own, so that measurements stay clean; default true.
    pub separate_run: Option<bool>,
    /// Iterations before the profiler starts.
    pub warmup_iterations: Option<u32>,
    /// Profiled iterations.
    pub profile_iterations: Option<u32>,
    /// PyTorch profiler.
    pub torch: Option<TorchProfile>,
    /// Nsight Systems.
    pub nsys: Option<NsysProfile>,
}

/// PyTorch profiler.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TorchProfile {
    /// `all`, or the ranks to profile.
    pub ranks: Option<Ranks>,
    /// Also record execution traces.
    #[serde(default)]
    pub execution_trace: bool,
}

/// Which ranks are profiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ranks {
    /// Every rank.
    All,
    /// These.
    Some(Vec<u32>),
}

impl<'de> Deserialize<'de> for Ranks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RanksVisitor;
        impl<'de> Visitor<'de> for RanksVisitor {
            type Value = Ranks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all` or a list of ranks")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Ranks, E> {
                if name == "all" { Ok(Ranks::All) } else { Err(E::unknown_variant(name, &["all"])) }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Ranks, A::Error> {
                let mut ranks = Vec::new();
                while let Some(rank) = access.next_element()? {
                    ranks.push(rank);
                }
                Ok(Ranks::Some(ranks))
            }
        }
        deserializer.deserialize_any(RanksVisitor)
    }
}

impl JsonSchema for Ranks {
    fn schema_name() -> Cow<'static, str> {
        "Ranks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]})
    }
}

/// Nsight Systems.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NsysProfile {
    /// APIs traced: `cuda`, `nvtx`, `osrt`, …
    #[serde(default)]
    pub trace: OneOrMany<String>,
}

/// What the report shows.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Also show rates per this many GPUs: `per_node(8)`.
    pub normalise: Option<String>,
    /// What the ranking makes large; default `throughput_tokens_per_sec`.
    pub objective: Option<String>,
    /// Price of one GPU for one hour, in any currency: the report then says what a million tokens cost.
    pub price_per_gpu_hour: Option<f64>,
    /// Plots wanted.
    #[serde(default)]
    pub plots: OneOrMany<String>,
}
