//! The GPUs' own telemetry during a cell: nvidia-smi, left running, one line per GPU and period. A DCGM exporter is scraped
//! like any other page of metrics instead, where one answers. Samples land in the same records under names that begin with
//! `gpu:`; what they mean is decided in core.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use servelab_core::record::{ClockEpoch, PromSample};
use servelab_load::clock;
use servelab_load::prometheus::ScrapeTarget;

/// Where a DCGM exporter listens unless told otherwise.
const DCGM_PORT: u16 = 9400;
/// Ends the name of the node in samples of the exporter; its page also has metrics about itself.
const DCGM_NODE: &str = "/dcgm";

const FIELDS: [(&str, &str); 4] = [
    ("power.draw", "gpu:power_watts"),
    ("utilization.gpu", "gpu:utilization_percent"),
    ("memory.used", "gpu:memory_used_mib"),
    ("clocks.sm", "gpu:sm_clock_mhz"),
];

/// A running nvidia-smi; ends with [`Telemetry::stop`], and when dropped.
pub(crate) struct Telemetry {
    child: Child,
    reader: Option<JoinHandle<Vec<PromSample>>>,
}

impl Telemetry {
    /// `None` when the program cannot be started.
    pub(crate) fn start(program: &Path, node: &str, interval: Duration, epoch: ClockEpoch) -> Option<Self> {
        let fields = FIELDS.map(|(field, _)| field).join(",");
        let mut child = Command::new(program)
            .args([&format!("--query-gpu=index,{fields}"), "--format=csv,noheader,nounits"])
            .args(["-lms", &interval.as_millis().max(100).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let stdout = child.stdout.take()?;
        let node = node.to_owned();
        let reader = thread::Builder::new().name("nvidia-smi".to_owned()).spawn(move || {
            let mut samples = Vec::new();
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                samples.extend(parse(&line, clock::now_ns(epoch), &node));
            }
            samples
        });
        Some(Self { child, reader: reader.ok() })
    }

    /// Everything that was read.
    pub(crate) fn stop(mut self) -> Vec<PromSample> {
        self.end();
        self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.end();
    }
}

/// One line: `0, 312.45, 98, 70123, 1980`. What a device does not show (`[N/A]`) is left out.
fn parse(line: &str, t_ns: i64, node: &str) -> Vec<PromSample> {
    let mut fields = line.split(',').map(str::trim);
    let Some(index) = fields.next().and_then(|text| text.parse::<u32>().ok()) else { return Vec::new() };
    let values = FIELDS.iter().zip(fields).filter_map(|((_, metric), text)| {
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite())?;
        Some(PromSample {
            t_ns,
            node: node.to_owned(),
            engine: String::new(),
            metric: (*metric).to_owned(),
            labels: format!("gpu=\"{index}\""),
            value,
        })
    });
    values.collect()
}

/// A DCGM exporter on this machine, if one listens.
pub(crate) fn dcgm(host: &str) -> Option<ScrapeTarget> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DCGM_PORT));
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()?;
    Some(ScrapeTarget { node: format!("{host}{DCGM_NODE}"), url: format!("http://{address}/metrics") })
}

/// Leaves out what the exporter says about itself: its instants must not pass for scrapes of the engine.
pub(crate) fn without_exporters(samples: &mut Vec<PromSample>) {
    samples.retain(|sample| !sample.node.ends_with(DCGM_NODE) || sample.metric.starts_with("DCGM_"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::executable;

    #[test]
    fn lines_of_nvidia_smi() {
        let got = parse("1, 312.45, 98, [N/A], 1980", 7, "n0");
        let values: Vec<(&str, f64)> = got.iter().map(|sample| (sample.metric.as_str(), sample.value)).collect();
        assert_eq!(
            values,
            [("gpu:power_watts", 312.45), ("gpu:utilization_percent", 98.0), ("gpu:sm_clock_mhz", 1980.0)]
        );
        assert!(got.iter().all(|sample| sample.labels == "gpu=\"1\"" && sample.t_ns == 7 && sample.node == "n0"));
        assert!(parse("No devices were found", 0, "n0").is_empty());
    }

    #[test]
    fn a_running_reader_is_ended_and_keeps_what_it_read() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nvidia-smi");
        let done = folder.path().join("printed");
        let script =
            format!("#!/bin/sh\nprintf '0, 100.0, 5, 10, 900\\n'\ntouch '{}'\nexec sleep 600\n", done.display());
        executable(&program, &script);
        let telemetry = Telemetry::start(&program, "n0", Duration::from_millis(100), clock::new_epoch()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !done.exists() && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(telemetry.stop().len(), 4, "the line was in the pipe before the program was ended");
        assert!(Telemetry::start(Path::new("/no/such"), "n0", Duration::from_secs(1), clock::new_epoch()).is_none());
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in ".{0,80}") {
            let _ = parse(&line, 0, "n0");
        }
    }
}
