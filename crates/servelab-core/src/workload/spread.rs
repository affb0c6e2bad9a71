//! A count that varies: always the same, uniform between two bounds, or geometric around a mean. Written as `100`,
//! `{min: 50, max: 150}` or `{mean: 100, max: 1000}`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::WorkloadProblem;

/// How a count is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spread {
    /// Always this.
    Fixed(u32),
    /// Each of these with equal probability.
    Uniform {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// From 1 on, each further one as likely as the one before (geometric), cut at `max`.
    Geometric {
        /// Mean before the cut.
        mean: f64,
        /// Largest.
        max: u32,
    },
}

impl Spread {
    /// Smallest count.
    pub fn min(&self) -> u32 {
        match self {
            Self::Fixed(n) => *n,
            Self::Uniform { min, .. } => *min,
            Self::Geometric { .. } => 1,
        }
    }

    /// Largest count.
    pub fn max(&self) -> u32 {
        match self {
            Self::Fixed(n) => *n,
            Self::Uniform { max, .. } | Self::Geometric { max, .. } => *max,
        }
    }

    /// The count for a number drawn uniformly from (0, 1).
    pub fn at(&self, uniform: f64) -> u32 {
        let uniform = uniform.clamp(0.0, 1.0 - f64::EPSILON);
        match self {
            Self::Fixed(n) => *n,
            Self::Uniform { min, max } => min + (uniform * (f64::from(max - min) + 1.0)) as u32,
            Self::Geometric { mean, max } if *mean > 1.0 => {
                // Inverse of the distribution function; casts saturate.
                let steps = ((1.0 - uniform).ln() / (1.0 - 1.0 / mean).ln()) as u32;
                steps.saturating_add(1).min(*max)
            }
            Self::Geometric { .. } => 1,
        }
    }

    pub(super) fn validate(&self, key: &str, least: u32, most: u32) -> Result<(), WorkloadProblem> {
        let within = |n: u32| (least..=most).contains(&n);
        let problem = |message: String| Err(WorkloadProblem::new(key, message));
        match self {
            Self::Fixed(n) if !within(*n) => problem(format!("is {n}, must be between {least} and {most}")),
            Self::Uniform { min, max } if min > max => problem(format!("has min {min} above max {max}")),
            Self::Uniform { min, max } if !within(*min) || !within(*max) => {
                problem(format!("is {min} to {max}, must be between {least} and {most}"))
            }
            Self::Geometric { mean, max } if !((1.0..=f64::from(*max)).contains(mean) && within(*max)) => {
                problem(format!("has mean {mean} and max {max}; need 1 ≤ mean ≤ max ≤ {most}"))
            }
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpreadVisitor;
        impl<'de> Visitor<'de> for SpreadVisitor {
            type Value = Spread;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a count, {min, max} or {mean, max}")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Spread, E> {
                let too_large = || E::invalid_value(de::Unexpected::Unsigned(value), &self);
                u32::try_from(value).map(Spread::Fixed).map_err(|_| too_large())
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Spread, E> {
                let outside = || E::invalid_value(de::Unexpected::Signed(value), &self);
                u32::try_from(value).map(Spread::Fixed).map_err(|_| outside())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Spread, A::Error> {
                const KEYS: &[&str] = &["min", "max", "mean"];
                let (mut min, mut max, mut mean) = (None, None, None);
                while let Some(key) = access.next_key::<String>()? {
                    match key.as_str() {
                        "min" => min = Some(access.next_value::<u32>()?),
                        "max" => max = Some(access.next_value::<u32>()?),
                        "mean" => mean = Some(access.next_value::<f64>()?),
                        other => return Err(de::Error::unknown_field(other, KEYS)),
                    }
                }
                match (min, mean, max) {
                    (Some(min), None, Some(max)) => Ok(Spread::Uniform { min, max }),
                    (None, Some(mean), Some(max)) => Ok(Spread::Geometric { mean, max }),
                    (_, _, None) => Err(de::Error::missing_field("max")),
                    _ => Err(de::Error::custom("expected exactly one of `min` and `mean` beside `max`")),
                }
            }
        }
        deserializer.deserialize_any(SpreadVisitor)
    }
}

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(n) => serializer.serialize_u32(*n),
            Self::Uniform { min, max } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("min", min)?;
                map.serialize_entry("max", max)?;
                map.end()
            }
            Self::Geometric { mean, max } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("mean", mean)?;
                map.serialize_entry("max", max)?;
                map.end()
            }
        }
    }
}

impl JsonSchema for Spread {
    fn schema_name() -> Cow<'static, str> {
        "Spread".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let count = json_schema!({"type": "integer", "minimum": 0});
        json_schema!({
            "description": "A count: always the same, uniform between `min` and `max`, or geometric around `mean`.",
            "anyOf": [
                count,
                {"type": "object", "additionalProperties": false, "required": ["min", "max"],
                 "properties": {"min": count, "max": count}},
                {"type": "object", "additionalProperties": false, "required": ["mean", "max"],
                 "properties": {"mean": {"type": "number", "minimum": 1}, "max": count}},
            ]
        })
    }
}
