//! What was understood of traces as Chrome-trace JSON, which Perfetto and chrome://tracing open: ranks as processes,
//! streams as threads, kernels with their family as category, steps and CPU-side communication on tracks of their own.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::metrics::step_markers;
use crate::model::{DeviceKind, RankTrace};
use crate::overview::Families;
use crate::taxonomy::Taxonomy;

/// Threads of a rank's own tracks; streams follow.
const STEPS: u32 = 1;
const HOST: u32 = 2;
const FIRST_STREAM: u32 = 10;

/// Writes a document, rank by rank.
pub struct Export<W: Write> {
    out: W,
    is_first: bool,
}

impl<W: Write> Export<W> {
    /// Begins the document.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        Ok(Self { out, is_first: true })
    }

    fn event(&mut self, event: &Value) -> io::Result<()> {
        let separator: &[u8] = if self.is_first { b"\n" } else { b",\n" };
        self.is_first = false;
        self.out.write_all(separator)?;
        serde_json::to_writer(&mut self.out, event)?;
        Ok(())
    }

    fn span(&mut self, (rank, thread): (u32, u32), name: &str, category: &str, start: i64, dur: i64) -> io::Result<()> {
        // Chrome's unit is microseconds; three digits keep every nanosecond. Written by hand: a float would not.
        let separator = if self.is_first { "\n" } else { ",\n" };
        self.is_first = false;
        let name = Value::from(name);
        let category = Value::from(category);
        write!(
            self.out,
            "{separator}{{\"ph\":\"X\",\"pid\":{rank},\"tid\":{thread},\"name\":{name},\"cat\":{category},\"ts\":{},\"dur\":{}}}",
            micros(start),
            micros(dur)
        )
    }

    fn thread(&mut self, (rank, thread): (u32, u32), name: &str) -> io::Result<()> {
        self.event(&json!({"ph": "M", "name": "thread_name", "pid": rank, "tid": thread, "args": {"name": name}}))?;
        self.event(&json!({"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": thread, "args": {"sort_index": thread}}))
    }

    /// Adds a rank.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn rank(&mut self, trace: &RankTrace, taxonomy: &Taxonomy) -> io::Result<()> {
        let rank = trace.meta.rank.unwrap_or_default();
        let host = trace.meta.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
        self.event(
            &json!({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": format!("rank {rank}{host}")}}),
        )?;
        self.event(&json!({"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}))?;
        let markers = step_markers(trace);
        if !markers.is_empty() {
            self.thread((rank, STEPS), "steps")?;
        }
        for marker in &markers {
            let kind = marker.step.phase().name();
            let dur = marker.end_ns.saturating_sub(marker.start_ns);
            self.span((rank, STEPS), trace.names.get(marker.name), kind, marker.start_ns, dur)?;
        }
        if !trace.host_comm.is_empty() {
            self.thread((rank, HOST), "host communication")?;
        }
        for call in &trace.host_comm {
            let name = trace.names.get(call.name);
            let family = taxonomy.host_call(name).map_or_else(|| "other".to_owned(), |class| class.family);
            self.span((rank, HOST), name, &format!("comm: {family}"), call.start_ns, call.dur_ns)?;
        }
        for (number, lane) in (FIRST_STREAM..).zip(&trace.lanes) {
            self.thread((rank, number), &format!("GPU {} stream {}", lane.device, lane.stream))?;
        }
        let mut families = Families::default();
        for event in &trace.device {
            let family = families.of(trace, taxonomy, event.name, event.kind);
            let name = if event.kind == DeviceKind::Graph { "CUDA graph" } else { trace.names.get(event.name) };
            let thread = FIRST_STREAM + u32::from(event.lane);
            self.span((rank, thread), name, families.name(family), event.start_ns, event.dur_ns)?;
        }
        Ok(())
    }

    /// Ends the document.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()
    }
}

fn micros(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:03}", nanos / 1000, nanos % 1000)
}
