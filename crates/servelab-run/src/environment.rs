//! What this machine is. Everything is optional; what cannot be found out is left out.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::process::host;

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// CPU model.
    pub cpu: Option<String>,
    /// Logical CPUs.
    pub cpus: Option<usize>,
    /// Memory in GiB.
    pub memory_gib: Option<f64>,
    /// Kernel release.
    pub kernel: String,
    /// GPUs, by index.
    pub gpus: Vec<Gpu>,
}

/// One GPU as nvidia-smi shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// Memory as printed, with its unit.
    pub memory: String,
    /// Highest SM clock as printed, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sm_clock: Option<String>,
    /// SM clock that applications get, as printed, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_clock: Option<String>,
    /// Power limit as printed, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit: Option<String>,
}

impl Machine {
    /// Looks around.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        Self {
            host: host(),
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            memory_gib: memory_kib.map(|kib| (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            gpus: nvidia_gpus(),
        }
    }
}

fn nvidia_gpus() -> Vec<Gpu> {
    let mut command = Command::new("nvidia-smi");
    let fields = "name,driver_version,memory.total,clocks.max.sm,clocks.applications.graphics,power.limit";
    command.args([&format!("--query-gpu={fields}"), "--format=csv,noheader"]);
    // On a machine with a broken driver nvidia-smi hangs rather than fails.
    output_within(&mut command, Duration::from_secs(10)).map(|text| parse_gpus(&text)).unwrap_or_default()
}

fn parse_gpus(csv: &str) -> Vec<Gpu> {
    let parse = |line: &str| {
        let mut fields = line.split(',').map(|field| field.trim().to_owned());
        let (name, driver, memory) = (fields.next()?, fields.next()?, fields.next()?);
        // `[N/A]`, `[Not Supported]`: the device does not say.
        let mut optional = || fields.next().filter(|text| !text.is_empty() && !text.starts_with('['));
        let (max_sm_clock, application_clock, power_limit) = (optional(), optional(), optional());
        Some(Gpu { name, driver, memory, max_sm_clock, application_clock, power_limit })
    };
    csv.lines().filter_map(parse).collect()
}

/// Standard output of a command that succeeds in time; the command is killed otherwise. Meant for short outputs.
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_and_memory() {
        let machine = Machine::detect();
        assert!(!machine.host.is_empty() && !machine.kernel.is_empty());
        assert!(machine.memory_gib.is_some_and(|gib| gib > 0.1) && machine.cpus.is_some_and(|n| n > 0));
    }

    #[test]
    fn gpu_lists() {
        let text =
            "NVIDIA H200, 570.86.15, 143771 MiB, 1980 MHz, [N/A], 700.00 W\nNVIDIA H200, 570.86.15, 143771 MiB\n";
        let gpus = parse_gpus(text);
        assert_eq!(gpus.len(), 2);
        assert_eq!((gpus[0].name.as_str(), gpus[0].memory.as_str()), ("NVIDIA H200", "143771 MiB"));
        assert_eq!((gpus[0].max_sm_clock.as_deref(), gpus[0].application_clock.as_deref()), (Some("1980 MHz"), None));
        assert_eq!((gpus[0].power_limit.as_deref(), gpus[1].power_limit.as_deref()), (Some("700.00 W"), None));
        assert!(parse_gpus("No devices were found\n").is_empty());
    }

    #[test]
    fn commands_have_a_limit() {
        let limit = Duration::from_millis(100);
        assert_eq!(output_within(Command::new("echo").arg("x"), Duration::from_secs(10)).as_deref(), Some("x\n"));
        assert_eq!(output_within(Command::new("sleep").arg("60"), limit), None);
        assert_eq!(output_within(&mut Command::new("/no/such"), limit), None);
        assert_eq!(output_within(&mut Command::new("false"), Duration::from_secs(10)), None);
    }
}
