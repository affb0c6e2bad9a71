//! From parallel sizes to roles, GPUs and nodes: the deployment of one point, its canonical form, and its placement.
//! Pure arithmetic; what a role's command line looks like is `flags`' business.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::plan::Placement;
use crate::study::{DeployMode, PlaceMode, RouterPolicy};

/// Sizes of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoleSize {
    /// Server instances.
    pub count: u32,
    /// Tensor parallel size of each.
    pub tp: u32,
    /// Pipeline parallel size of each.
    pub pp: u32,
    /// Data parallel size of each.
    pub dp: u32,
}

impl RoleSize {
    /// GPUs of one instance.
    pub fn gpus_each(self) -> u32 {
        self.tp.saturating_mul(self.pp).saturating_mul(self.dp)
    }

    /// GPUs of all instances.
    pub fn gpus(self) -> u32 {
        self.gpus_each().saturating_mul(self.count)
    }
}

/// A point's deployment, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// One server, or prefill and decode apart.
    pub mode: DeployMode,
    /// The serving role (collocated) or the prefill role.
    pub first: RoleSize,
    /// The decode role (`pd`).
    pub decode: Option<RoleSize>,
    /// Nodes of one job.
    pub nodes: u32,
    /// GPUs used on each node.
    pub gpus_per_node: u32,
    /// Data parallel ranks per node, when given.
    pub dp_local: Option<u32>,
    /// How several nodes are joined, when there are several.
    pub launch: Option<String>,
    /// Placement of roles.
    pub place: PlaceMode,
    /// How requests find a server, when the study says.
    pub router: Option<RouterPolicy>,
    /// Why it cannot be placed.
    pub problem: Option<String>,
    /// Where each instance goes, per role name.
    pub placement: Vec<(&'static str, Vec<Placement>)>,
}

/// Reads deploy settings by name: `tp`, `p.tp`, `mode`, …
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<Value>;

impl Shape {
    /// Resolves deploy settings against what the site offers.
    ///
    /// # Errors
    /// A sentence about a value that makes no sense.
    pub fn resolve(get: Lookup<'_>, site_gpus_per_node: Option<u32>, site_nodes: Option<u32>) -> Result<Self, String> {
        let mode = match text(get, "mode")?.as_deref() {
            None | Some("collocated") => DeployMode::Collocated,
            Some("pd") => DeployMode::Pd,
            Some(other) => return Err(format!("`mode` is `collocated` or `pd`, not `{other}`")),
        };
        let place = match text(get, "place")?.as_deref() {
            None | Some("pack") => PlaceMode::Pack,
            Some("spread") => PlaceMode::Spread,
            Some(other) => return Err(format!("`place` is `pack` or `spread`, not `{other}`")),
        };
        let router = match text(get, "router")? {
            None => None,
            Some(name) => Some(
                RouterPolicy::of_name(&name)
                    .ok_or_else(|| format!("`router` is `round-robin`, `least-loaded` or `session`, not `{name}`"))?,
            ),
        };
        let size = |name: &str| number(get, name);
        let (first, decode) = match mode {
            DeployMode::Collocated => {
                let role = RoleSize {
                    count: size("replicas")?.unwrap_or(1),
                    tp: size("tp")?.unwrap_or(1),
                    pp: size("pp")?.unwrap_or(1),
                    dp: size("dp")?.unwrap_or(1),
                };
                (role, None)
            }
            DeployMode::Pd => {
                let role = |prefix: &str| -> Result<RoleSize, String> {
                    Ok(RoleSize {
                        count: size(&format!("{prefix}.count"))?.unwrap_or(1),
                        tp: size(&format!("{prefix}.tp"))?.or(size("tp")?).unwrap_or(1),
                        pp: size(&format!("{prefix}.pp"))?.unwrap_or(1),
                        dp: size(&format!("{prefix}.dp"))?.unwrap_or(1),
                    })
                };
                (role("p")?, Some(role("d")?))
            }
        };
        let total = first.gpus().saturating_add(decode.map_or(0, RoleSize::gpus));
        let asked_nodes = size("nodes")?;
        let per_node = size("gpus_per_node")?.or(site_gpus_per_node).unwrap_or_else(|| match asked_nodes {
            Some(nodes) => total.div_ceil(nodes.max(1)),
            None => total,
        });
        let mut shape = Self {
            mode,
            first,
            decode,
            nodes: 0,
            gpus_per_node: per_node.max(1),
            dp_local: size("dp_local")?,
            launch: text(get, "launch")?,
            place,
            router,
            problem: None,
            placement: Vec::new(),
        };
        shape.place_roles(asked_nodes, asked_nodes.or(site_nodes));
        if shape.nodes <= 1 {
            shape.launch = None;
        }
        Ok(shape)
    }

    /// GPUs of all roles.
    pub fn gpus(&self) -> u32 {
        self.first.gpus().saturating_add(self.decode.map_or(0, RoleSize::gpus))
    }

    /// The roles with their names.
    pub fn roles(&self) -> Vec<(&'static str, RoleSize)> {
        match (self.mode, self.decode) {
            (DeployMode::Pd, Some(decode)) => vec![("prefill", self.first), ("decode", decode)],
            _ => vec![("serve", self.first)],
        }
    }

    /// True when something has to spread requests over instances.
    pub fn needs_router(&self) -> bool {
        self.decode.is_some() || self.first.count > 1
    }

    /// The semantic content: two spellings of one deployment give one value.
    pub fn canonical(&self) -> Value {
        let mut out = Map::new();
        let role = |size: RoleSize| json!({"count": size.count, "tp": size.tp, "pp": size.pp, "dp": size.dp});
        match self.decode {
            Some(decode) => {
                out.insert("mode".into(), "pd".into());
                out.insert("p".into(), role(self.first));
                out.insert("d".into(), role(decode));
            }
            None => {
                out.insert("mode".into(), "collocated".into());
                out.insert("replicas".into(), self.first.count.into());
                out.insert("tp".into(), self.first.tp.into());
                out.insert("pp".into(), self.first.pp.into());
                out.insert("dp".into(), self.first.dp.into());
            }
        }
        out.insert("nodes".into(), self.nodes.into());
        if self.needs_router() {
            out.insert("place".into(), self.place.name().into());
            // The usual policy is not written, so that studies from before there was a choice keep their ids.
            if let Some(router) = self.router.filter(|router| *router != RouterPolicy::default()) {
                out.insert("router".into(), router.name().into());
            }
        }
        if let Some(dp_local) = self.dp_local {
            out.insert("dp_local".into(), dp_local.into());
        }
        if let Some(launch) = &self.launch {
            out.insert("launch".into(), launch.as_str().into());
        }
        Value::Object(out)
    }

    /// First fit: an instance stays on one node where it can, else takes whole nodes. `spread` starts the decode role on
    /// a node of its own.
    fn place_roles(&mut self, asked_nodes: Option<u32>, limit: Option<u32>) {
        let per_node = self.gpus_per_node;
        let mut used: Vec<u32> = Vec::new();
        let mut first_node_of_role = 0usize;
        let mut placement = Vec::new();
        let mut problem = None;
        for (number, (name, size)) in self.roles().into_iter().enumerate() {
            if number > 0 && self.place == PlaceMode::Spread {
                first_node_of_role = used.len();
            }
            let each = size.gpus_each();
            if each == 0 || size.count == 0 {
                problem = Some(format!("role `{name}` has no GPU: counts and sizes start at 1"));
                break;
            }
            let mut instances = Vec::new();
            for instance in 0..size.count {
                let nodes_needed = each.div_ceil(per_node);
                if each > per_node && each % per_node != 0 {
                    problem.get_or_insert(format!(
                        "an instance of `{name}` needs {each} GPUs, which is no multiple of {per_node} GPUs per node"
                    ));
                }
                let mut node_gpus = BTreeMap::new();
                if each <= per_node {
                    let at = (first_node_of_role..used.len()).find(|node| used[*node] + each <= per_node);
                    let at = at.unwrap_or_else(|| {
                        used.push(0);
                        used.len() - 1
                    });
                    let start = used[at];
                    used[at] += each;
                    node_gpus.insert(u32::try_from(at).unwrap_or(u32::MAX), (start..start + each).collect());
                } else {
                    let mut left = each;
                    for _ in 0..nodes_needed.min(4096) {
                        let here = left.min(per_node);
                        node_gpus.insert(u32::try_from(used.len()).unwrap_or(u32::MAX), (0..here).collect());
                        used.push(here);
                        left -= here;
                    }
                }
                instances.push(Placement { instance, node_gpus });
                if used.len() > 4096 {
                    problem.get_or_insert(format!("role `{name}` needs more than 4096 nodes"));
                    break;
                }
            }
            placement.push((name, instances));
        }
        let needed = u32::try_from(used.len()).unwrap_or(u32::MAX);
        // Data parallel ranks may be told to use fewer GPUs per node than there are.
        let needed = match (self.dp_local, self.decode) {
            (Some(local), None) if local > 0 => needed.max(self.first.dp.div_ceil(local)),
            _ => needed,
        };
        if let Some(limit) = limit
            && needed > limit
        {
            problem.get_or_insert(format!(
                "needs {needed} nodes ({} GPUs, placed `{}`, {per_node} GPUs per node), but there {} {limit}",
                self.gpus(),
                self.place.name(),
                if limit == 1 { "is" } else { "are" },
            ));
        }
        self.nodes = asked_nodes.unwrap_or(needed).max(needed);
        self.problem = problem;
        self.placement = placement;
    }
}

fn number(get: Lookup<'_>, name: &str) -> Result<Option<u32>, String> {
    match get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if n >= 1 => Ok(Some(n)),
            _ => Err(format!("`{name}` must be a whole number ≥ 1, found {value}")),
        },
    }
}

fn text(get: Lookup<'_>, name: &str) -> Result<Option<String>, String> {
    match get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value) => Err(format!("`{name}` must be a name, found {value}")),
    }
}

/// Parses a shape: `1P-TP2+1D-TP4` (prefill and decode) or `4xTP2` (collocated replicas).
///
/// # Errors
/// A sentence that shows the two forms.
pub fn parse_shape(text: &str) -> Result<(DeployMode, RoleSize, Option<RoleSize>), String> {
    let bad = || format!("`{text}` is no shape: write `1P-TP2+1D-TP4` (prefill + decode) or `4xTP2` (replicas)");
    let count = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n >= 1);
    let upper = text.replace(' ', "").to_uppercase();
    let role = |part: &str, letter: &str| -> Option<RoleSize> {
        let (n, tp) = part.split_once(&format!("{letter}-TP")).or_else(|| part.split_once(&format!("{letter}TP")))?;
        Some(RoleSize { count: count(n)?, tp: count(tp)?, pp: 1, dp: 1 })
    };
    if let Some((p, d)) = upper.split_once('+') {
        let p = role(p, "P").ok_or_else(bad)?;
        let d = role(d, "D").ok_or_else(bad)?;
        return Ok((DeployMode::Pd, p, Some(d)));
    }
    let (n, tp) = upper.split_once("XTP").ok_or_else(bad)?;
    let size = RoleSize { count: count(n).ok_or_else(bad)?, tp: count(tp).ok_or_else(bad)?, pp: 1, dp: 1 };
    Ok((DeployMode::Collocated, size, None))
}

/// Parses `"3:1"`.
///
/// # Errors
/// A sentence that shows the form.
pub fn parse_ratio(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(':').and_then(|(p, d)| Some((p.trim().parse().ok()?, d.trim().parse().ok()?)));
    match parts {
        Some((p, d)) if p >= 1 && d >= 1 => Ok((p, d)),
        _ => Err(format!("`{text}` is no ratio: write prefill:decode instances in quotes, `\"3:1\"`")),
    }
}
