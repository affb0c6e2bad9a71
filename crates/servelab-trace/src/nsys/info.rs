//! What an export says about itself and the machine: versions, the clock, GPUs, what the profiler complained about.
//! From the recorded environment only the named versions are taken; the rest may hold secrets.

use std::collections::BTreeMap;

use super::NsysFile;
use super::scan::{Scan, may, must, scan};

/// Number of the process in a serialised global id.
pub fn pid_of(global_id: i64) -> i64 {
    (global_id >> 24) & 0xFF_FFFF
}

/// A GPU as the export describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number on the machine.
    pub id: i64,
    /// Its name.
    pub name: Option<String>,
    /// Its streaming multiprocessors.
    pub n_sms: Option<i64>,
    /// Bytes per second of its memory.
    pub memory_bytes_per_sec: Option<i64>,
    /// Its UUID.
    pub uuid: Option<String>,
}

/// What an export says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Version of the profiler.
    pub product_version: Option<String>,
    /// Version of the tables.
    pub schema_version: Option<String>,
    /// Unix time of the recording's time zero, in nanoseconds.
    pub start_unix_nanos: Option<i64>,
    /// Clock of the recording at that moment.
    pub start_clock_nanos: Option<i64>,
    /// GPU of the machine by process and CUDA's number of the GPU within it.
    pub cuda_devices: BTreeMap<(i64, i64), i64>,
    /// Rank and size of the run, as the environment of the profiled command gave them.
    pub rank: Option<u32>,
    /// Ranks of the run.
    pub world_size: Option<u32>,
    /// The machine.
    pub host: Option<String>,
    /// The GPU driver.
    pub driver_version: Option<String>,
    /// CUDA, of the environment.
    pub cuda_version: Option<String>,
    /// NCCL, of the environment.
    pub nccl_version: Option<String>,
    /// How CUDA graphs were traced: `Graph` (as a whole) or `Node`.
    pub graph_trace_mode: Option<String>,
    /// GPUs, when they were recorded.
    pub gpus: Vec<Gpu>,
    /// Names of processes.
    pub processes: BTreeMap<i64, String>,
    /// Warnings and errors of the profiler, the first of them.
    pub diagnostics: Vec<String>,
    /// Names of sampled hardware counters, by type and metric.
    pub gpu_metrics: BTreeMap<(i64, i64), String>,
}

const MOST_DIAGNOSTICS: usize = 20;
const MOST_ENTRIES: usize = 100_000;

impl NsysFile {
    /// Reads what the export says about itself; the scans say what could not be read.
    pub fn info(&self) -> (Info, Vec<Scan>) {
        let mut info = Info::default();
        let mut scans = Vec::new();
        let connection = &self.connection;
        let pair = [must(&["name"]), must(&["value"])];
        scans.extend(scan(connection, "META_DATA_EXPORT", &pair, |cells| {
            let value = cells.text(1).map(str::to_owned);
            match cells.text(0)? {
                "EXPORT_PRODUCT_VERSION" => info.product_version = value,
                "EXPORT_SCHEMA_VERSION" => info.schema_version = value,
                _ => {}
            }
            Some(())
        }));
        scans.extend(scan(connection, "META_DATA_CAPTURE", &pair, |cells| {
            match cells.text(0)? {
                "CUDA_GRAPH_TRACE_OPTIONS:MODE" => info.graph_trace_mode = cells.text(1).map(str::to_owned),
                "PROCESS_0:ENVIRONMENT_VARIABLE" => {
                    let (name, value) = cells.text(1)?.split_once('=')?;
                    let number = value.trim_matches('"').parse().ok();
                    // torchrun's names, then those of srun and mpirun, which also start what is no distributed run.
                    match name {
                        "RANK" => info.rank = number,
                        "WORLD_SIZE" => info.world_size = number,
                        "SLURM_PROCID" | "OMPI_COMM_WORLD_RANK" | "PMI_RANK" => info.rank = info.rank.or(number),
                        "SLURM_NTASKS" | "OMPI_COMM_WORLD_SIZE" | "PMI_SIZE" => {
                            info.world_size = info.world_size.or(number);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
            Some(())
        }));
        scans.extend(scan(connection, "TARGET_INFO_SYSTEM_ENV", &pair, |cells| {
            let value = cells.text(1).filter(|value| !value.is_empty());
            match cells.text(0)? {
                "NvDriverVersion" => info.driver_version = value.map(str::to_owned),
                "Hostname" => info.host = value.map(str::to_owned),
                "DeviceEnvironment" => {
                    let named = |name: &str| {
                        let found = value?.split(';').find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))?;
                        (!found.is_empty()).then(|| found.to_owned())
                    };
                    info.cuda_version = named("CUDA_VERSION");
                    info.nccl_version = named("NCCL_VERSION");
                }
                _ => {}
            }
            Some(())
        }));
        scans.extend(scan(connection, "TARGET_INFO_SESSION_START_TIME", &[must(&["utcEpochNs"])], |cells| {
            info.start_unix_nanos = cells.maybe_int(0)?;
            Some(())
        }));
        scans.extend(scan(connection, "ANALYSIS_DETAILS", &[must(&["startTime"])], |cells| {
            info.start_clock_nanos = cells.maybe_int(0)?;
            Some(())
        }));
        let devices = [must(&["pid"]), must(&["cudaId"]), must(&["gpuId"])];
        scans.extend(scan(connection, "TARGET_INFO_CUDA_DEVICE", &devices, |cells| {
            if info.cuda_devices.len() < MOST_ENTRIES {
                info.cuda_devices.insert((cells.int(0)?, cells.int(1)?), cells.int(2)?);
            }
            Some(())
        }));
        scans.extend(self.gpus(&mut info.gpus));
        let processes = [must(&["pid"]), must(&["name"])];
        scans.extend(scan(connection, "PROCESSES", &processes, |cells| {
            if info.processes.len() < MOST_ENTRIES
                && let (Some(pid), Some(name)) = (cells.maybe_int(0)?, cells.text(1))
            {
                info.processes.insert(pid, name.to_owned());
            }
            Some(())
        }));
        let diagnostics = [must(&["severity"]), must(&["text"])];
        scans.extend(scan(connection, "DIAGNOSTIC_EVENT", &diagnostics, |cells| {
            let severity = match cells.int(0)? {
                2 => "warning",
                3 => "error",
                _ => return Some(()),
            };
            let text = format!("Nsight Systems {severity}: {}", cells.text(1)?.trim());
            if info.diagnostics.len() < MOST_DIAGNOSTICS && !info.diagnostics.contains(&text) {
                info.diagnostics.push(text);
            }
            Some(())
        }));
        let metrics = [must(&["typeId"]), must(&["metricId"]), must(&["metricName"])];
        scans.extend(scan(connection, "TARGET_INFO_GPU_METRICS", &metrics, |cells| {
            if info.gpu_metrics.len() < MOST_ENTRIES {
                info.gpu_metrics.insert((cells.int(0)?, cells.int(1)?), cells.text(2)?.to_owned());
            }
            Some(())
        }));
        (info, scans)
    }

    fn gpus(&self, gpus: &mut Vec<Gpu>) -> Option<Scan> {
        let columns = [
            must(&["id"]),
            may(&["name"]),
            may(&["smCount", "numMultiprocessors"]),
            may(&["memoryBandwidth"]),
            may(&["uuid"]),
        ];
        scan(&self.connection, "TARGET_INFO_GPU", &columns, |cells| {
            if gpus.len() < 1024 {
                gpus.push(Gpu {
                    id: cells.int(0)?,
                    name: cells.text(1).map(str::to_owned),
                    n_sms: cells.maybe_int(2)?.filter(|n| *n > 0),
                    memory_bytes_per_sec: cells.maybe_int(3)?.filter(|n| *n > 0),
                    uuid: cells.text(4).map(str::to_owned),
                });
            }
            Some(())
        })
    }
}
