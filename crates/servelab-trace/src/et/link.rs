//! Puts what an execution trace says about collectives (kind, sizes, types, groups) to the times that the Kineto trace of
//! the same rank has: record-function ids join the two, and Kineto's external ids lead from the operator to its kernel.

use std::collections::{BTreeMap, HashMap};

use super::{EtCollective, ExecutionTrace, element_bytes};
use crate::kineto::{RawEvent, Visitor};
use crate::model::{Collective, RankTrace};
use crate::taxonomy::Taxonomy;

/// A span of Kineto time.
type Span = (i64, i64);

/// Finds the events that an execution trace describes; give it to [`crate::kineto::visit_input`].
#[derive(Debug)]
pub struct Finder<'t> {
    wanted: HashMap<u64, &'t EtCollective>,
    taxonomy: &'t Taxonomy,
    /// Times of the operators themselves, by record-function id.
    operators: BTreeMap<u64, Span>,
    /// Record-function id by external id.
    external: HashMap<u64, u64>,
    /// Communication kernels by external id.
    kernels: Vec<(u64, Span)>,
    is_comm: HashMap<Vec<u8>, bool>,
}

impl<'t> Finder<'t> {
    /// Looks for the collectives of `execution`.
    pub fn new(execution: &'t ExecutionTrace, taxonomy: &'t Taxonomy) -> Self {
        let wanted =
            execution.described.iter().filter_map(|collective| Some((collective.rf_id?, collective))).collect();
        Self {
            wanted,
            taxonomy,
            operators: BTreeMap::new(),
            external: HashMap::new(),
            kernels: Vec::new(),
            is_comm: HashMap::new(),
        }
    }

    /// Adds arguments to the kernels and calls of `trace` that have none; says how many found some.
    pub fn apply(self, trace: &mut RankTrace) -> usize {
        let mut at: HashMap<Span, &EtCollective> = HashMap::new();
        for (id, span) in &self.operators {
            if let Some(collective) = self.wanted.get(id) {
                at.insert(*span, collective);
            }
        }
        for (external, span) in &self.kernels {
            if let Some(collective) = self.external.get(external).and_then(|id| self.wanted.get(id)) {
                at.insert(*span, collective);
            }
        }
        let known: std::collections::HashSet<Span> =
            trace.collectives.iter().map(|collective| (collective.start_ns, collective.dur_ns)).collect();
        let events: Vec<(Span, crate::names::NameId)> = trace
            .device
            .iter()
            .map(|event| ((event.start_ns, event.dur_ns), event.name))
            .chain(trace.host_comm.iter().map(|call| ((call.start_ns, call.dur_ns), call.name)))
            .filter(|(span, _)| !known.contains(span))
            .collect();
        let mut n_linked = 0;
        for (span, name) in events {
            let Some(found) = at.get(&span) else { continue };
            n_linked += 1;
            let kind = trace.names.intern(&found.kind);
            let group = found.group.as_ref().map(|group| trace.names.intern(group));
            trace.collectives.push(Collective {
                name,
                kind,
                group,
                group_ranks: None,
                group_size: found.group_size,
                in_elements: found.in_elements,
                out_elements: found.out_elements,
                element_bytes: found.dtype.as_deref().and_then(element_bytes),
                seq: None,
                start_ns: span.0,
                dur_ns: span.1,
            });
        }
        trace.collectives.sort_by_key(|collective| collective.start_ns);
        n_linked
    }
}

/// The whole number after `"key":`.
fn number(args: &[u8], key: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(args, key)? + key.len();
    let rest = args.get(at..)?.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let end = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

impl Visitor for Finder<'_> {
    fn header(&mut self, _: &[u8], _: &[u8]) {}

    fn skips(&mut self, ph: u8, cat: &[u8]) -> bool {
        ph != b'X' || !matches!(cat, b"cpu_op" | b"user_annotation" | b"kernel")
    }

    fn event(&mut self, event: &RawEvent<'_>) {
        let (Some(start), Some(dur)) = (event.ts_ns, event.dur_ns) else { return };
        if event.cat == b"kernel" {
            let taxonomy = self.taxonomy;
            let is_comm = match self.is_comm.get(event.name) {
                Some(known) => *known,
                None => {
                    let class = taxonomy.kernel(&String::from_utf8_lossy(event.name));
                    self.is_comm.insert(event.name.to_vec(), class.class.is_comm());
                    class.class.is_comm()
                }
            };
            if is_comm && let Some(external) = number(event.args, b"\"External id\"") {
                self.kernels.push((external, (start, dur)));
            }
            return;
        }
        let Some(id) = number(event.args, b"\"Record function id\"").filter(|id| self.wanted.contains_key(id)) else {
            return;
        };
        self.operators.insert(id, (start, dur));
        if let Some(external) = number(event.args, b"\"External id\"") {
            self.external.insert(external, id);
        }
    }
}
