//! PyTorch execution traces (Chakra schemas 1.0 and 1.1): what every operator got, without times. Read node by node, so
//! that a file of any size fits; a file that ends early gives what came before. Times come from the Kineto trace of the
//! same run, whose record-function ids are the `rf_id` here.

mod link;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

pub use link::Finder;
pub use node::{EtCollective, Node, element_bytes};

use crate::error::TraceError;

/// Every execution trace names its schema first.
pub const SCHEMA_KEY: &str = "\"schema\"";

/// What an execution trace says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecutionTrace {
    /// Version of the format, as written: `1.1.1-chakra.0.0.4`.
    pub schema: String,
    /// The process.
    pub pid: Option<i64>,
    /// All nodes.
    pub n_nodes: u64,
    /// Nodes that could not be understood.
    pub n_bad_nodes: u64,
    /// Operators (nodes that computed or moved something) by name.
    pub operators: BTreeMap<String, u64>,
    /// Communication, in file order.
    pub collectives: Vec<EtCollective>,
    /// All descriptions of communication, also of the same one on several levels.
    pub described: Vec<EtCollective>,
    /// Process groups: name, description and size.
    pub groups: BTreeMap<String, (String, u32)>,
    /// Ranks of the run, as its default process group says.
    pub world_size: Option<u32>,
    /// The rank, where a collective names it.
    pub rank: Option<u32>,
    /// Distinct shapes of inputs of each operator that works on tensors, the most frequent first, at most
    /// [`MOST_SHAPES`] each.
    pub shapes: BTreeMap<String, Vec<(String, u64)>>,
    /// Why reading stopped early.
    pub broke_off: Option<String>,
}

/// Shapes kept for one operator.
pub const MOST_SHAPES: usize = 8;
/// Distinct shapes counted for one operator before further ones are left out.
const MOST_COUNTED_SHAPES: usize = 256;
/// Distinct operator names counted.
const MOST_OPERATORS: usize = 20_000;

impl ExecutionTrace {
    /// Operators in all.
    pub fn n_operators(&self) -> u64 {
        self.operators.values().sum()
    }

    /// True when the observer was registered but saw nothing: only its own bookkeeping is in the file. Happens when
    /// observation starts after the last step, or when the work ran in another process.
    pub fn is_hollow(&self) -> bool {
        self.operators.is_empty()
    }

    /// What a reader of this file must know.
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        let mut notes = Vec::new();
        if let Some(reason) = &self.broke_off {
            notes.push(("truncated", format!("the execution trace breaks off after {} nodes: {reason}", self.n_nodes)));
        }
        if self.n_bad_nodes > 0 {
            notes.push(("malformed", format!("{} nodes of the execution trace make no sense", self.n_bad_nodes)));
        }
        if self.is_hollow() {
            notes.push((
                "hollow",
                format!(
                    "the execution trace is hollow: {} nodes and no operator in them; the observer was started, but the work \
                     ran before, after, or in another process",
                    self.n_nodes
                ),
            ));
        }
        notes
    }
}

/// Reads a file, plain or gzip.
///
/// # Errors
/// Where it cannot be opened or is no execution trace.
pub fn read(path: &Path) -> Result<ExecutionTrace, TraceError> {
    let io = |source| TraceError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut buffered = BufReader::with_capacity(1 << 16, file);
    let is_gzip = {
        use std::io::BufRead as _;
        buffered.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b])
    };
    let parsed = if is_gzip {
        from_reader(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(buffered)))
    } else {
        from_reader(buffered)
    };
    parsed.map_err(|reason| TraceError::NotATrace { path: path.to_owned(), reason })
}

/// Reads a stream.
///
/// # Errors
/// The reason why it is no execution trace.
pub fn from_reader(reader: impl Read) -> Result<ExecutionTrace, String> {
    let mut trace = ExecutionTrace::default();
    let mut shapes: Shapes = BTreeMap::new();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let outcome = deserializer.deserialize_map(Top { trace: &mut trace, shapes: &mut shapes });
    if let Err(error) = outcome {
        if trace.schema.is_empty() && trace.n_nodes == 0 {
            return Err(format!("it is no execution trace: {error}"));
        }
        trace.broke_off = Some(error.to_string());
    } else if trace.schema.is_empty() {
        return Err("it is no execution trace: it names no `schema`".to_owned());
    }
    for (name, counted) in shapes {
        let mut list: Vec<(String, u64)> = counted.into_iter().collect();
        list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        list.truncate(MOST_SHAPES);
        trace.shapes.insert(name, list);
    }
    trace.described = trace.collectives.clone();
    node::drop_shadowed(&mut trace.collectives);
    Ok(trace)
}

type Shapes = BTreeMap<String, BTreeMap<String, u64>>;

struct Top<'a> {
    trace: &'a mut ExecutionTrace,
    shapes: &'a mut Shapes,
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an execution trace")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schema" => {
                    if let Value::String(schema) = map.next_value()? {
                        self.trace.schema = schema;
                    }
                }
                "pid" => self.trace.pid = map.next_value::<Value>()?.as_i64(),
                "nodes" => map.next_value_seed(Nodes { trace: &mut *self.trace, shapes: &mut *self.shapes })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Nodes<'a> {
    trace: &'a mut ExecutionTrace,
    shapes: &'a mut Shapes,
}

impl<'de> DeserializeSeed<'de> for Nodes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Nodes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of nodes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<Value>()? {
            self.trace.n_nodes += 1;
            match Node::from_value(&value) {
                Some(node) => take(self.trace, self.shapes, &node),
                None => self.trace.n_bad_nodes += 1,
            }
        }
        Ok(())
    }
}

fn take(trace: &mut ExecutionTrace, shapes: &mut Shapes, node: &Node<'_>) {
    if node.name.starts_with("## process_group:init") {
        node::process_groups(node, trace);
        return;
    }
    if !node.is_operator() {
        return;
    }
    if trace.operators.len() < MOST_OPERATORS || trace.operators.contains_key(node.name) {
        *trace.operators.entry(node.name.to_owned()).or_default() += 1;
        if let Some(shape) = node.shape_text() {
            let counted = shapes.entry(node.name.to_owned()).or_default();
            if counted.len() < MOST_COUNTED_SHAPES || counted.contains_key(&shape) {
                *counted.entry(shape).or_default() += 1;
            }
        }
    }
    if let Some(collective) = node.collective() {
        trace.rank = trace.rank.or(node.rank());
        trace.collectives.push(collective);
    }
}
