//! Classes of one trace's device events: which bit of a class set each name has, and what its family is. The taxonomy is
//! asked once for each name.

use crate::model::{DeviceEvent, DeviceKind, RankTrace};
use crate::names::NameId;
use crate::taxonomy::{Class, NameClass, Taxonomy};

use super::sweep::{ClassSet, MAX_CLASSES};

/// Computation.
pub const COMPUTE: u32 = 0;
/// Copies.
pub const COPY: u32 = 1;
/// Memsets.
pub const SET: u32 = 2;
/// Whole graphs whose kernels are unknown.
pub const GRAPH: u32 = 3;
/// First communication family.
const FIRST_COMM: u32 = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Classes {
    by_name: Vec<Option<Kernel>>,
    /// Communication families in the order of their bits.
    pub comm: Vec<CommClass>,
}

/// A communication family of this trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommClass {
    /// Its name.
    pub family: String,
    /// First library seen.
    pub library: String,
    /// True when all of it also computes.
    pub is_fused: bool,
}

/// One kernel name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What the taxonomy says.
    pub class: NameClass,
    /// Its bit.
    pub bit: u32,
}

impl Classes {
    /// Classes of everything on the device.
    pub fn of(trace: &RankTrace, taxonomy: &Taxonomy) -> Self {
        let mut out = Self { by_name: vec![None; trace.names.len()], comm: Vec::new() };
        let is_rocm = trace.meta.facts.keys().any(|key| key.starts_with("hip_") || key.starts_with("roctracer"));
        for event in &trace.device {
            if event.kind != DeviceKind::Kernel || out.kernel(event.name).is_some() {
                continue;
            }
            let mut class = taxonomy.kernel(trace.names.get(event.name));
            if is_rocm && class.library == "nccl" {
                "rccl".clone_into(&mut class.library);
            }
            let bit = if class.class.is_comm() { out.comm_bit(&class) } else { COMPUTE };
            if let Some(slot) = out.by_name.get_mut(event.name.0 as usize) {
                *slot = Some(Kernel { class, bit });
            }
        }
        out
    }

    fn comm_bit(&mut self, class: &NameClass) -> u32 {
        let found = self.comm.iter().position(|known| known.family == class.family);
        let idx = found.unwrap_or_else(|| {
            self.comm.push(CommClass {
                family: class.family.clone(),
                library: class.library.clone(),
                is_fused: class.class == Class::FusedComm,
            });
            self.comm.len() - 1
        });
        // More families than bits share the last one; the built-in taxonomy has a dozen.
        (FIRST_COMM + u32::try_from(idx).unwrap_or(MAX_CLASSES)).min(MAX_CLASSES - 1)
    }

    /// What a kernel's name is.
    pub fn kernel(&self, name: NameId) -> Option<&Kernel> {
        self.by_name.get(name.0 as usize)?.as_ref()
    }

    /// The bit of a device event.
    pub fn bit(&self, event: &DeviceEvent) -> u32 {
        match event.kind {
            DeviceKind::Kernel => self.kernel(event.name).map_or(COMPUTE, |kernel| kernel.bit),
            DeviceKind::Copy => COPY,
            DeviceKind::Set => SET,
            DeviceKind::Graph => GRAPH,
        }
    }

    /// Bits of all communication families.
    pub fn comm_set(&self) -> ClassSet {
        !0 << FIRST_COMM
    }

    /// The bit of the family at a place of [`Classes::comm`].
    pub fn family_set(idx: usize) -> ClassSet {
        1 << (FIRST_COMM + u32::try_from(idx).unwrap_or(MAX_CLASSES)).min(MAX_CLASSES - 1)
    }
}

/// Computation, and graphs, which are computation as far as anybody knows.
pub const COMPUTE_SET: ClassSet = 1 << COMPUTE | 1 << GRAPH;
/// Copies.
pub const COPY_SET: ClassSet = 1 << COPY;
