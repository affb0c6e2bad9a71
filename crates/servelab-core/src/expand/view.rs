//! What expressions see of a point: its settings, its resolved deployment, and a few derived facts. Identifiers become
//! slots once, so that judging a million points looks nothing up by name.

use std::collections::HashMap;
use std::rc::Rc;

use super::blocks::ExprView;
use super::names::{DERIVED_NAMES, resolve_name};
use super::shape::Shape;
use super::space::{KeyIdx, Row, Section, Space, ValueIdx};
use crate::expr::Value;

/// Where an identifier's value comes from.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    Setting(KeyIdx),
    Deploy(String),
    Derived(String),
    Nothing,
}

/// Identifiers of all expressions of a study.
#[derive(Debug, Default)]
pub struct Slots {
    sources: Vec<Source>,
    by_name: HashMap<String, usize>,
}

impl Slots {
    /// The slot of an identifier.
    pub fn slot(&mut self, space: &Space, name: &str) -> usize {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let source = if DERIVED_NAMES.contains(&name) {
            Source::Derived(name.to_owned())
        } else {
            match resolve_name(name) {
                Ok(key) if key.section == Section::Deploy => Source::Deploy(key.name),
                Ok(key) => space.position(&key).map_or(Source::Nothing, Source::Setting),
                Err(_) => Source::Nothing,
            }
        };
        self.sources.push(source);
        self.by_name.insert(name.to_owned(), self.sources.len() - 1);
        self.sources.len() - 1
    }

    fn needs_shape(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Deploy(_) | Source::Derived(_)))
    }
}

/// A deployment, or why there is none.
type Resolved = Result<Rc<Shape>, String>;

/// Resolves the deployment of rows, each distinct one once.
pub struct Shapes<'a> {
    space: &'a Space,
    deploy_keys: Vec<KeyIdx>,
    cache: HashMap<Vec<ValueIdx>, Resolved>,
    last: Option<(Vec<ValueIdx>, Resolved)>,
    gpus_per_node: Option<u32>,
    nodes: Option<u32>,
}

impl<'a> Shapes<'a> {
    /// A resolver for one study on one site.
    pub fn new(space: &'a Space, gpus_per_node: Option<u32>, nodes: Option<u32>) -> Self {
        let deploy_keys = space
            .keys()
            .iter()
            .enumerate()
            .filter(|(_, key)| key.section == Section::Deploy)
            .map(|(at, _)| at)
            .collect();
        Self { space, deploy_keys, cache: HashMap::new(), last: None, gpus_per_node, nodes }
    }

    /// The deployment of a row.
    pub fn of(&mut self, row: &Row) -> Resolved {
        if let Some((values, shape)) = &self.last
            && self.deploy_keys.iter().zip(values).all(|(key, value)| row[*key] == *value)
        {
            return shape.clone();
        }
        let values: Vec<ValueIdx> = self.deploy_keys.iter().map(|key| row[*key]).collect();
        let space = self.space;
        let (gpus_per_node, nodes) = (self.gpus_per_node, self.nodes);
        let shape = self.cache.entry(values.clone()).or_insert_with(|| {
            let get = |name: &str| space.get(row, Section::Deploy, name).cloned();
            Shape::resolve(&get, gpus_per_node, nodes).map(Rc::new)
        });
        self.last = Some((values, shape.clone()));
        shape.clone()
    }
}

/// A view of rows for expressions.
pub struct RowView<'a, 's> {
    /// Identifiers.
    pub slots: &'a Slots,
    /// Deployments.
    pub shapes: &'s mut Shapes<'a>,
}

impl ExprView for RowView<'_, '_> {
    fn fill(&mut self, space: &Space, row: &Row, out: &mut Vec<Value>) {
        let shape = if self.slots.needs_shape() { self.shapes.of(row).ok() } else { None };
        out.clear();
        for source in &self.slots.sources {
            out.push(match source {
                Source::Setting(key) => space.expr(row[*key]),
                Source::Deploy(name) => match &shape {
                    Some(shape) => deploy_value(shape, name),
                    None => space.get(row, Section::Deploy, name).map_or(Value::Null, Value::from),
                },
                Source::Derived(name) => match (&shape, name.as_str()) {
                    (Some(shape), "gpus") => Value::Number(f64::from(shape.gpus())),
                    _ => Value::Null,
                },
                Source::Nothing => Value::Null,
            });
        }
    }
}

fn deploy_value(shape: &Shape, name: &str) -> Value {
    let number = |n: u32| Value::Number(f64::from(n));
    match (name, shape.decode) {
        ("mode", None) => Value::text("collocated"),
        ("mode", Some(_)) => Value::text("pd"),
        ("nodes", _) => number(shape.nodes),
        ("gpus_per_node", _) => number(shape.gpus_per_node),
        ("place", _) => Value::text(shape.place.name()),
        ("router", _) => shape.router.map_or(Value::Null, |router| Value::text(router.name())),
        ("dp_local", _) => shape.dp_local.map_or(Value::Null, number),
        ("launch", _) => shape.launch.as_deref().map_or(Value::Null, Value::text),
        ("tp", None) => number(shape.first.tp),
        ("pp", None) => number(shape.first.pp),
        ("dp", None) => number(shape.first.dp),
        ("replicas", None) => number(shape.first.count),
        ("p.count", Some(_)) => number(shape.first.count),
        ("p.tp", Some(_)) => number(shape.first.tp),
        ("p.pp", Some(_)) => number(shape.first.pp),
        ("p.dp", Some(_)) => number(shape.first.dp),
        ("d.count", Some(d)) => number(d.count),
        ("d.tp", Some(d)) => number(d.tp),
        ("d.pp", Some(d)) => number(d.pp),
        ("d.dp", Some(d)) => number(d.dp),
        _ => Value::Null,
    }
}
