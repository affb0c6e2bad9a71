//! From a trace to its overview: streams in bins, steps above them.

use std::collections::BTreeMap;

use servelab_core::trace::timeline::{Bins, LaneTimeline, RankTimeline, StepSpan};

use crate::metrics::{StepMarker, step_markers};
use crate::model::{DeviceKind, RankTrace};
use crate::names::NameId;
use crate::taxonomy::Taxonomy;

/// Streams that are shown.
const MOST_LANES: usize = 12;
/// Steps that are shown.
const MOST_STEPS: usize = 4000;

/// Families of names, asked once each.
#[derive(Debug, Default)]
pub struct Families {
    by_name: BTreeMap<NameId, u16>,
    names: Vec<String>,
}

impl Families {
    /// Number of the family of an event.
    pub fn of(&mut self, trace: &RankTrace, taxonomy: &Taxonomy, name: NameId, kind: DeviceKind) -> u16 {
        if let Some(known) = self.by_name.get(&name) {
            return *known;
        }
        let family = match kind {
            DeviceKind::Kernel => {
                let class = taxonomy.kernel(trace.names.get(name));
                if class.class.is_comm() { format!("comm: {}", class.family) } else { class.family }
            }
            DeviceKind::Copy => "copy".to_owned(),
            DeviceKind::Set => "memset".to_owned(),
            DeviceKind::Graph => "graph".to_owned(),
        };
        let number = self.number(&family);
        self.by_name.insert(name, number);
        number
    }

    fn number(&mut self, family: &str) -> u16 {
        let idx = self.names.iter().position(|known| known == family).unwrap_or_else(|| {
            self.names.push(family.to_owned());
            self.names.len() - 1
        });
        u16::try_from(idx).unwrap_or(u16::MAX)
    }

    /// Name of a family.
    pub fn name(&self, number: u16) -> &str {
        self.names.get(usize::from(number)).map_or("other", String::as_str)
    }
}

/// The overview of one trace in `n_bins` bins; its rank is filled in when it is known.
pub fn overview(trace: &RankTrace, taxonomy: &Taxonomy, n_bins: u32) -> RankTimeline {
    let starts =
        trace.device.iter().map(|event| event.start_ns).chain(trace.host_comm.iter().map(|call| call.start_ns));
    let ends = trace
        .device
        .iter()
        .map(crate::model::DeviceEvent::end_ns)
        .chain(trace.host_comm.iter().map(|call| call.start_ns.saturating_add(call.dur_ns)));
    let markers = step_markers(trace);
    let start = starts.chain(markers.iter().map(|marker| marker.start_ns)).min().unwrap_or(0);
    let end = ends.chain(markers.iter().map(|marker| marker.end_ns)).max().unwrap_or(start);
    let span_ns = end.saturating_sub(start).max(1);
    let mut out = RankTimeline {
        rank: trace.meta.rank.unwrap_or_default(),
        start_ns: start,
        span_ns,
        n_bins,
        steps: markers.iter().take(MOST_STEPS).map(|marker| step(trace, marker, start)).collect(),
        ..RankTimeline::default()
    };
    let mut families = Families::default();
    let mut lanes: Vec<(LaneTimeline, Bins)> = trace
        .lanes
        .iter()
        .map(|lane| {
            let name = format!("GPU {} stream {}", lane.device, lane.stream);
            (LaneTimeline { name, ..LaneTimeline::default() }, Bins::new(start, span_ns, n_bins))
        })
        .collect();
    for event in &trace.device {
        let family = families.of(trace, taxonomy, event.name, event.kind);
        if let Some((lane, bins)) = lanes.get_mut(usize::from(event.lane)) {
            lane.events += 1;
            lane.sum_ns = lane.sum_ns.saturating_add(event.dur_ns);
            bins.add(event.start_ns, event.dur_ns, family);
        }
    }
    let mut host = (
        LaneTimeline { name: "host communication".to_owned(), ..LaneTimeline::default() },
        Bins::new(start, span_ns, n_bins),
    );
    for call in &trace.host_comm {
        let Some(class) = taxonomy.host_call(trace.names.get(call.name)) else { continue };
        let family = families.number(&format!("comm: {}", class.family));
        host.0.events += 1;
        host.0.sum_ns = host.0.sum_ns.saturating_add(call.dur_ns);
        host.1.add(call.start_ns, call.dur_ns, family);
    }
    lanes.push(host);
    lanes.retain(|(lane, _)| lane.events > 0);
    lanes.sort_by_key(|(lane, _)| std::cmp::Reverse(lane.sum_ns));
    out.n_lanes_left_out = lanes.len().saturating_sub(MOST_LANES);
    lanes.truncate(MOST_LANES);
    out.lanes =
        lanes.into_iter().map(|(lane, bins)| LaneTimeline { runs: bins.runs(&families.names), ..lane }).collect();
    out
}

fn step(trace: &RankTrace, marker: &StepMarker, start: i64) -> StepSpan {
    StepSpan {
        name: trace.names.get(marker.name).to_owned(),
        kind: marker.step.phase().name().to_owned(),
        start_ns: marker.start_ns.saturating_sub(start),
        dur_ns: marker.end_ns.saturating_sub(marker.start_ns),
    }
}
