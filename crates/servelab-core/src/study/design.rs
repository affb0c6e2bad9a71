//! The `designs:` section: ways of spanning points. Entries whose keys are free settings (`list`, `ablate`) keep a few
//! reserved words and treat the rest as settings.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::load::LoadSection;
use super::policy::{Expect, Repeats};
use super::{DeployMode, Settings};
use crate::ordered::{OneOrMany, OrderedMap};

/// One way of spanning points: exactly one of `grid`, `ablate`, `list`, `topology`; `from` may come with a `grid`.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Design {
    /// What it is for.
    pub purpose: Option<String>,
    /// What the author expects to see.
    pub expect: Option<Expect>,
    /// Full product of factor lists.
    pub grid: Option<OrderedMap<Factor>>,
    /// One factor at a time: group → arm → settings. A label is the group's first word plus the arm.
    pub ablate: Option<OrderedMap<OrderedMap<AblationArm>>>,
    /// Named points; a name may hold `{setting}` placeholders over a `grid`.
    pub list: Option<OrderedMap<ListEntry>>,
    /// Prefill:decode ratios, shapes and placements.
    pub topology: Option<Topology>,
    /// Start from the winners of another design.
    pub from: Option<FromDesign>,
    /// Settings of every point of this design, on top of the study's.
    #[serde(default)]
    pub set: Settings,
    /// Workloads of this design; default: all of the study.
    pub with: Option<OneOrMany<String>>,
    /// Load of this design; default: the study's.
    pub load: Option<LoadSection>,
    /// Repeats of this design; default: the study's.
    pub repeats: Option<Repeats>,
    /// Baseline of this design; default: the study's.
    pub baseline: Option<String>,
    /// Name template of a grid's points, e.g. `batch_{max_num_batched_tokens}`.
    pub label: Option<String>,
}

/// Which kind a design is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Full product.
    Grid,
    /// One factor at a time.
    Ablate,
    /// Named points.
    List,
    /// Roles and placements.
    Topology,
    /// Winners of another design.
    From,
}

impl Design {
    /// The kind, if exactly one is given.
    pub fn kind(&self) -> Option<Kind> {
        let given = [
            (self.from.is_some(), Kind::From),
            (self.grid.is_some() && self.from.is_none(), Kind::Grid),
            (self.ablate.is_some(), Kind::Ablate),
            (self.list.is_some(), Kind::List),
            (self.topology.is_some(), Kind::Topology),
        ];
        let mut kinds = given.into_iter().filter(|(is, _)| *is).map(|(_, kind)| kind);
        match (kinds.next(), kinds.next()) {
            (Some(kind), None) => Some(kind),
            _ => None,
        }
    }
}

impl Kind {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Ablate => "ablate",
            Self::List => "list",
            Self::Topology => "topology",
            Self::From => "from",
        }
    }
}

/// The values of one setting in a grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    /// The values tried.
    pub values: Vec<Value>,
    /// Tried only where this holds; elsewhere the setting keeps its base value.
    pub when: Option<String>,
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Conditional {
            when: String,
            r#in: Vec<Value>,
        }
        struct FactorVisitor;
        impl<'de> Visitor<'de> for FactorVisitor {
            type Value = Factor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of values, or `{when: …, in: […]}`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Factor, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = access.next_element()? {
                    values.push(value);
                }
                Ok(Factor { values, when: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Factor, A::Error> {
                let Conditional { when, r#in } =
                    serde::Deserialize::deserialize(de::value::MapAccessDeserializer::new(access))?;
                Ok(Factor { values: r#in, when: Some(when) })
            }
        }
        deserializer.deserialize_any(FactorVisitor)
    }
}

impl JsonSchema for Factor {
    fn schema_name() -> Cow<'static, str> {
        "Factor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The values of one setting: a list, or `{when, in}` for a setting that matters only under a condition.",
            "anyOf": [
                {"type": "array", "minItems": 1},
                {
                    "type": "object",
                    "properties": {
                        "when": {"type": "string", "description": "An expression over the point's settings."},
                        "in": {"type": "array", "minItems": 1}
                    },
                    "required": ["when", "in"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// One arm of an ablation: settings that differ from the base, plus `with`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AblationArm {
    /// Workloads of this arm; default: the design's.
    pub with: Option<OneOrMany<String>>,
    /// What it is for.
    pub purpose: Option<String>,
    /// Settings that differ from the base.
    pub settings: Settings,
}

/// One entry of a list: settings, plus `grid`, `with`, `purpose`, `expect`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListEntry {
    /// Factors that the name template runs over.
    pub grid: OrderedMap<Factor>,
    /// Workloads of this entry; default: the design's.
    pub with: Option<OneOrMany<String>>,
    /// What it is for.
    pub purpose: Option<String>,
    /// What the author expects to see.
    pub expect: Option<Expect>,
    /// Settings that differ from the base.
    pub settings: Settings,
}

/// Reads a mapping whose reserved keys go to `$field` and whose other keys are settings.
macro_rules! settings_with {
    ($type:ident, $what:literal, { $($key:literal => $field:ident),* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct EntryVisitor;
                impl<'de> Visitor<'de> for EntryVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }

                    fn visit_unit<E: de::Error>(self) -> Result<$type, E> {
                        Ok($type::default())
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<$type, A::Error> {
                        let mut entry = $type::default();
                        while let Some(key) = access.next_key::<String>()? {
                            match key.as_str() {
                                $($key => entry.$field = access.next_value()?,)*
                                _ => entry.settings.insert(key, access.next_value()?),
                            }
                        }
                        Ok(entry)
                    }
                }
                deserializer.deserialize_any(EntryVisitor)
            }
        }
    };
}

settings_with!(AblationArm, "a mapping of settings", { "with" => with, "purpose" => purpose });
settings_with!(ListEntry, "a mapping of settings", {
    "grid" => grid, "with" => with, "purpose" => purpose, "expect" => expect
});

impl JsonSchema for AblationArm {
    fn schema_name() -> Cow<'static, str> {
        "AblationArm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let with = generator.subschema_for::<Option<OneOrMany<String>>>();
        json_schema!({
            "description": "Settings that differ from the base; `with` names the workloads of this arm.",
            "type": ["object", "null"],
            "properties": {"with": with, "purpose": {"type": ["string", "null"]}}
        })
    }
}

impl JsonSchema for ListEntry {
    fn schema_name() -> Cow<'static, str> {
        "ListEntry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let with = generator.subschema_for::<Option<OneOrMany<String>>>();
        let grid = generator.subschema_for::<OrderedMap<Factor>>();
        let expect = generator.subschema_for::<Option<Expect>>();
        json_schema!({
            "description": "Settings that differ from the base; `grid` fills the `{placeholders}` of the name.",
            "type": ["object", "null"],
            "properties": {"with": with, "grid": grid, "purpose": {"type": ["string", "null"]}, "expect": expect}
        })
    }
}

/// Roles, ratios and placements.
#[derive(Debug, Clone, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// `collocated` or `pd`.
    pub mode: Option<DeployMode>,
    /// Placements tried; default `pack`.
    #[serde(default)]
    pub place: OneOrMany<PlaceMode>,
    /// Prefill : decode instance counts, `"3:1"`.
    #[serde(default, rename = "p:d")]
    pub ratios: OneOrMany<String>,
    /// Whole shapes: `1P-TP2+1D-TP4` or, collocated, `4xTP2`.
    #[serde(default)]
    pub shapes: OneOrMany<String>,
    /// Prefill role of `p:d`.
    #[serde(default)]
    pub p: TopologyRole,
    /// Decode role of `p:d`.
    #[serde(default)]
    pub d: TopologyRole,
    /// Tensor parallel sizes of a collocated sweep.
    #[serde(default)]
    pub tp: OneOrMany<u32>,
    /// GPUs that a collocated sweep fills with replicas.
    pub gpus: Option<u32>,
}

/// Parallel sizes of one role.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopologyRole {
    /// Tensor parallel size.
    pub tp: Option<u32>,
    /// Data parallel size.
    pub dp: Option<u32>,
}

/// Placement of roles on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaceMode {
    /// All roles on the fewest nodes.
    Pack,
    /// Prefill and decode on disjoint nodes.
    Spread,
}

impl PlaceMode {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Spread => "spread",
        }
    }
}

/// The winners of another design.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FromDesign {
    /// The design whose results decide.
    pub design: String,
    /// Which of its points.
    pub pick: Pick,
}

/// Which points of a design win.
#[derive(Debug, Clone, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    /// Metric or expression to make large.
    pub maximise: Option<String>,
    /// Metric or expression to make small.
    pub minimise: Option<String>,
    /// How many points; default 1.
    pub n: Option<u32>,
}
