//! One node of an execution trace in either schema: 1.1 keeps inputs in an object and everything else in a list of named
//! attributes, 1.0 keeps all of it side by side.

use serde_json::Value;

use super::ExecutionTrace;

/// A node, borrowed from its JSON.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    json: &'a Value,
    /// Its name.
    pub name: &'a str,
}

/// Communication that an execution trace describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtCollective {
    /// Id of the record function: the `Record function id` of the Kineto trace.
    pub rf_id: Option<u64>,
    /// Name of the node.
    pub operator: String,
    /// all_reduce, all_gather, … as the trace names it.
    pub kind: String,
    /// Process group by name.
    pub group: Option<String>,
    /// Ranks of the group.
    pub group_size: Option<u32>,
    /// Elements in.
    pub in_elements: Option<u64>,
    /// Elements out.
    pub out_elements: Option<u64>,
    /// Type of the elements as the trace names it.
    pub dtype: Option<String>,
    /// How the trace describes it: 0 by its own attributes, 1 by an operator of c10d, 2 by a call of the backend.
    /// Where one collective appears on several levels, the best description is kept.
    pub level: u8,
}

impl<'a> Node<'a> {
    pub(super) fn from_value(json: &'a Value) -> Option<Self> {
        Some(Self { json, name: json.get("name")?.as_str()? })
    }

    /// A named attribute in schema 1.1, a field in schema 1.0.
    fn attribute(&self, name: &str) -> Option<&'a Value> {
        match self.json.get("attrs").and_then(Value::as_array) {
            Some(list) => {
                list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))?.get("value")
            }
            None => self.json.get(name),
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.attribute(name)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        }
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.attribute(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// `values`, `shapes` or `types` of the inputs or outputs.
    fn list(&self, side: &str, part: &str) -> &'a [Value] {
        let found = match self.json.get(side) {
            Some(Value::Object(object)) => object.get(part),
            _ if part == "values" => self.json.get(side),
            _ => self.json.get(format!("{}_{part}", side.trim_end_matches('s'))),
        };
        found.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// False for the observer's bookkeeping and for annotations of people.
    pub fn is_operator(&self) -> bool {
        if self.name.starts_with("[pytorch|") || self.name.starts_with("## ") || self.name.starts_with("ProfilerStep") {
            return false;
        }
        // Scope 7 is a user's annotation; backends announce their calls the same way.
        self.number("scope") != Some(7) || is_backend_call(self.name) || self.name == "record_param_comms"
    }

    /// Shapes of the tensors among the inputs, as one text.
    pub fn shape_text(&self) -> Option<String> {
        let types = self.list("inputs", "types");
        let shapes = self.list("inputs", "shapes");
        let tensors: Vec<String> = types
            .iter()
            .zip(shapes)
            .filter(|(kind, _)| kind.as_str().is_some_and(|kind| kind.starts_with("Tensor(")))
            .map(|(kind, shape)| format!("{shape} {}", dtype_of(kind.as_str().unwrap_or_default())))
            .collect();
        (!tensors.is_empty()).then(|| tensors.join(", "))
    }

    /// The rank that a collective names.
    pub(super) fn rank(&self) -> Option<u32> {
        self.number("rank").and_then(|rank| u32::try_from(rank).ok())
    }

    /// What this node communicates.
    pub fn collective(&self) -> Option<EtCollective> {
        let rf_id = self.number("rf_id");
        if self.name == "record_param_comms" {
            let kind = self.text("collective_name").map(str::to_owned).or_else(|| self.kind_in_values())?;
            return Some(EtCollective {
                rf_id,
                operator: self.name.to_owned(),
                kind,
                group: self.text("pg_name").map(str::to_owned),
                group_size: self.number("pg_size").and_then(|n| u32::try_from(n).ok()),
                in_elements: self.number("in_msg_nelems"),
                out_elements: self.number("out_msg_nelems"),
                dtype: self.text("dtype").map(str::to_lowercase),
                level: 0,
            });
        }
        let (kind, level) = if let Some(rest) = self.name.strip_prefix("c10d::") {
            (rest.trim_matches('_'), 1)
        } else if is_backend_call(self.name) {
            (self.name.split_once(':')?.1, 2)
        } else {
            return None;
        };
        if !is_data_movement(kind) {
            return None;
        }
        let (in_elements, dtype) = self.elements("inputs");
        let (out_elements, _) = self.elements("outputs");
        Some(EtCollective {
            rf_id,
            operator: self.name.to_owned(),
            kind: kind.to_owned(),
            group: None,
            group_size: None,
            in_elements,
            out_elements,
            dtype,
            level,
        })
    }

    /// Older record_param_comms give the kind as one of their inputs.
    fn kind_in_values(&self) -> Option<String> {
        self.list("inputs", "values")
            .iter()
            .filter_map(Value::as_str)
            .find(|text| is_data_movement(text.trim_matches('_')))
            .map(str::to_owned)
    }

    /// Elements of all tensors on one side, and their type.
    fn elements(&self, side: &str) -> (Option<u64>, Option<String>) {
        let mut total: Option<u64> = None;
        let mut dtype = None;
        for (kind, shape) in self.list(side, "types").iter().zip(self.list(side, "shapes")) {
            let Some(kind) = kind.as_str().filter(|kind| kind.contains("Tensor(")) else { continue };
            dtype = dtype.or_else(|| Some(dtype_of(kind).to_owned()));
            total = match (total, count(shape)) {
                (_, None) => return (None, dtype),
                (sum, Some(n)) => sum.unwrap_or(0).checked_add(n),
            };
        }
        (total, dtype)
    }
}

/// `Tensor(float)` and `GenericList[Tensor(c10::BFloat16),…]` → the first element type.
fn dtype_of(kind: &str) -> &str {
    kind.split_once("Tensor(").and_then(|(_, rest)| rest.split(')').next()).unwrap_or(kind)
}

/// Elements of a shape, or of a list of shapes.
fn count(shape: &Value) -> Option<u64> {
    let list = shape.as_array()?;
    if list.iter().any(Value::is_array) {
        return list.iter().map(count).try_fold(0_u64, |sum, n| sum.checked_add(n?));
    }
    list.iter().map(Value::as_u64).try_fold(1_u64, |product, n| product.checked_mul(n?))
}

fn is_backend_call(name: &str) -> bool {
    ["nccl:", "gloo:", "mpi:", "ucc:", "xccl:", "hccl:"].iter().any(|backend| name.starts_with(backend))
}

/// Barriers and waits move nothing.
fn is_data_movement(kind: &str) -> bool {
    let plain: String = kind.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_lowercase();
    ["allreduce", "allgather", "reducescatter", "broadcast", "alltoall", "reduce", "gather", "scatter", "send", "recv"]
        .iter()
        .any(|known| plain.starts_with(known))
}

/// Bytes of one element.
pub fn element_bytes(dtype: &str) -> Option<u32> {
    let name = dtype.rsplit("::").next().unwrap_or(dtype).to_ascii_lowercase();
    Some(match name.as_str() {
        "float" | "float32" | "int" | "int32" | "uint32" => 4,
        "bfloat16" | "half" | "float16" | "short" | "int16" | "short int" | "uint16" => 2,
        "double" | "float64" | "long" | "int64" | "long int" | "uint64" => 8,
        "byte" | "char" | "signed char" | "unsigned char" | "bool" | "int8" | "uint8" => 1,
        other if other.starts_with("float8") => 1,
        _ => return None,
    })
}

/// Sizes and names of process groups from the node that lists them.
pub(super) fn process_groups(node: &Node<'_>, trace: &mut ExecutionTrace) {
    for value in node.list("inputs", "values") {
        let parsed = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        for group in parsed.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| group.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let Some(size) = group.get("group_size").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()) else {
                continue;
            };
            if text("pg_desc") == "default_pg" {
                trace.world_size = Some(size);
            }
            trace.groups.insert(text("pg_name"), (text("pg_desc"), size));
        }
    }
}

/// One collective appears as c10d operator, as record_param_comms inside it and as call of the backend: the level with the
/// best description stays, for each trace as a whole.
pub(super) fn drop_shadowed(collectives: &mut Vec<EtCollective>) {
    if let Some(best) = collectives.iter().map(|collective| collective.level).min() {
        collectives.retain(|collective| collective.level == best);
    }
}
