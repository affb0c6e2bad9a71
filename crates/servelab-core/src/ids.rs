//! Identifiers that travel between crates. How a point or cell id is *computed* lives in `identity`; here are only the
//! types, so that a job id can never be passed where a cell id is meant.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps an identifier that was computed or read elsewhere.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve characters: enough for people, and what tables print.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id_type!(
    /// Hash of a point's semantic content (lower-case hex).
    PointId
);
id_type!(
    /// Hash of a cell: point, hardware class, workload, load level, repeat (lower-case hex).
    CellId
);
id_type!(
    /// UUID of one job: a scheduler allocation, or one `run` on this machine.
    JobId
);
