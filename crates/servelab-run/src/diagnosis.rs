//! From a server that did not start, or died, to a code with its evidence: the log line that gave it away, where it
//! stands, and what to do. The signatures live in `servelab_core::failures`; here are the file and the fallbacks.

use std::io;
use std::path::Path;

use servelab_core::failures::scan_log_lines;
use servelab_core::state::CellState;
use servelab_store::FailureReport;

use crate::process::ProcessError;
use crate::ready::NotReady;
use crate::serverlog::tail;

/// Logs are read from the end up to this size.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// What becomes of the cells of a server that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerFailure {
    /// `Failed`, or `Infeasible` where the engine itself says that the configuration cannot be served.
    pub(crate) state: CellState,
    pub(crate) report: FailureReport,
}

impl ServerFailure {
    pub(crate) fn new(code: &str, detail: impl Into<String>, advice: Option<&str>) -> Self {
        let report = FailureReport {
            code: code.to_owned(),
            detail: detail.into(),
            line: None,
            source: None,
            advice: advice.map(str::to_owned),
        };
        Self { state: CellState::Failed, report }
    }

    /// A server that could not be waited for.
    pub(crate) fn not_ready(error: &NotReady, is_external: bool, log: Option<&Path>) -> Self {
        let (code, advice) = match error {
            NotReady::PortTaken { .. } => {
                // Nothing that the server says in its log has to do with it.
                return Self::new(
                    "port_in_use",
                    error.to_string(),
                    Some("end the other program, or set the site's `port_base`"),
                );
            }
            NotReady::Exited { .. } | NotReady::Cancelled => ("server_exited", "read the server's log"),
            NotReady::TimedOut { .. } if is_external => {
                ("endpoint_unreachable", "check the URL and that the server is up")
            }
            NotReady::TimedOut { .. } => {
                ("server_start_timeout", "read the server's log; give it more time if it was still loading")
            }
            NotReady::OtherModel { .. } => {
                ("model_not_found", "set `model.id` (or `model.served_name`) to a name that the server lists")
            }
        };
        Self::with_log(code, error.to_string(), advice, log)
    }

    /// A server that ended or fell ill while it was used.
    pub(crate) fn died(code: &str, detail: String, log: Option<&Path>) -> Self {
        Self::with_log(code, detail, "read the server's log; the remaining cells go on with a new server", log)
    }

    pub(crate) fn spawn(error: &ProcessError) -> Self {
        let (code, advice) = match error {
            ProcessError::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ("engine_not_found", "install the engine, or name its program with --engine-bin")
            }
            ProcessError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ("disk_full", "free some space, then run the same command again")
            }
            _ => ("server_exited", "see the message"),
        };
        Self::new(code, error.to_string(), Some(advice))
    }

    /// The log's own words win over `code`, which says only what could be seen from outside.
    fn with_log(code: &str, detail: String, advice: &str, log: Option<&Path>) -> Self {
        let text = log.and_then(|path| tail(path, MAX_LOG_BYTES).ok()).unwrap_or_default();
        let logs = log.map(|path| with_other_ranks(path, &text)).unwrap_or_default();
        let Some(found) = scan_log_lines(in_order_of_time(&logs)) else {
            let mut failure = Self::new(code, detail, Some(advice));
            failure.report.line = text.lines().rev().find(|line| !line.trim().is_empty()).map(shorten);
            failure.report.source = log.map(|path| path.display().to_string());
            return failure;
        };
        let numbers: Vec<String> = found.numbers.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let numbers = if numbers.is_empty() { String::new() } else { format!(" ({})", numbers.join(", ")) };
        Self {
            state: if found.infeasible { CellState::Infeasible } else { CellState::Failed },
            report: FailureReport {
                code: found.code,
                detail: format!("{detail}{numbers}"),
                line: Some(shorten(&found.line)),
                source: log
                    .map(|path| format!("{}:{}", path.with_file_name(&found.source).display(), found.line_number)),
                advice: Some(found.advice),
            },
        }
    }
}

/// Logs of all ranks of a server, by name: they lie beside each other.
fn with_other_ranks(log: &Path, text: &str) -> Vec<(String, String)> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut logs = vec![(name(log), text.to_owned())];
    let entries = log.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut others: Vec<_> = entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    others.sort();
    for path in others.iter().filter(|path| *path != log && path.extension().is_some_and(|end| end == "log")) {
        logs.extend(tail(path, MAX_LOG_BYTES).ok().map(|text| (name(path), text)));
    }
    logs
}

/// Lines of several logs by the clock that they print; a line without a time belongs to the one before it. Logs without
/// any time follow each other.
fn in_order_of_time(logs: &[(String, String)]) -> Vec<(&str, &str)> {
    let mut lines: Vec<(Option<&str>, &str, &str)> = Vec::new();
    for (name, text) in logs {
        let mut now: Option<&str> = None;
        for line in text.lines() {
            // Clocks of one log only go forward: what was printed late is not moved before its neighbours.
            now = clock_of(line).filter(|clock| now.is_none_or(|before| *clock > before)).or(now);
            lines.push((now, name, line));
        }
    }
    lines.sort_by_key(|(clock, ..)| *clock);
    lines.into_iter().map(|(_, name, line)| (name, line)).collect()
}

/// `MM-DD HH:MM:SS` as vLLM prints it, within the first part of a line.
fn clock_of(line: &str) -> Option<&str> {
    const SHAPE: &[u8] = b"00-00 00:00:00";
    let bytes = line.as_bytes();
    let is_clock = |window: &[u8]| {
        window.iter().zip(SHAPE).all(|(byte, shape)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape })
    };
    let at = bytes.get(..bytes.len().min(80))?.windows(SHAPE.len()).position(is_clock)?;
    line.get(at..at + SHAPE.len())
}

fn shorten(line: &str) -> String {
    line.trim().chars().take(2000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::ServerExit;

    fn exited(log: &str) -> ServerFailure {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serve-0.log");
        std::fs::write(&path, log).unwrap();
        let exit = ServerExit { status: Some(1), signal: None };
        ServerFailure::not_ready(&NotReady::Exited { exit }, false, Some(&path))
    }

    #[test]
    fn the_engines_own_numbers_make_a_point_infeasible() {
        let failure = exited(
            "INFO loading\nValueError: To serve at least one request with the models's max seq len (262144), (24.0 GiB KV \
             cache is needed, which is larger than the available KV cache memory (3.18 GiB). Based on the available \
             memory, the estimated maximum model length is 34736.\nRuntimeError: Engine core initialization failed.\n",
        );
        assert_eq!((failure.state, failure.report.code.as_str()), (CellState::Infeasible, "kv_too_small"));
        assert!(failure.report.detail.contains("estimated_max_len 34736"), "{}", failure.report.detail);
        assert!(failure.report.source.unwrap().ends_with("serve-0.log:2"));
    }

    #[test]
    fn the_rank_that_failed_first_is_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let head = folder.path().join("serve-0.log");
        let log = "INFO 11-25 10:00:01 [a.py] starting\nINFO 11-25 10:00:02 [a.py] ready\n";
        let late =
            "ERROR 11-25 10:00:09 [b.py] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.74 GiB.\n";
        std::fs::write(&head, format!("{log}{late}")).unwrap();
        let flag = "ERROR 11-25 10:00:05 [c.py] vllm: error: unrecognized arguments: --all2all-backend x\n";
        std::fs::write(folder.path().join("serve-1.log"), format!("{log}{flag}")).unwrap();
        let exit = ServerExit { status: Some(1), signal: None };
        let failure = ServerFailure::not_ready(&NotReady::Exited { exit }, false, Some(&head));
        assert_eq!(failure.report.code, "bad_flag");
        assert!(failure.report.source.unwrap().ends_with("serve-1.log:3"));
        assert_eq!(clock_of("(EngineCore pid=1) INFO 11-25 10:00:01 x"), Some("11-25 10:00:01"));
        assert_eq!(clock_of("no é clock"), None);
    }

    #[test]
    fn known_and_unknown_failures() {
        let failure = exited("vllm: error: unrecognized arguments: --swap-space-gb\n");
        assert_eq!((failure.state, failure.report.code.as_str()), (CellState::Failed, "bad_flag"));
        let failure = exited("all is well\nthe end\n\n");
        assert_eq!((failure.state, failure.report.code.as_str()), (CellState::Failed, "server_exited"));
        assert_eq!(failure.report.line.as_deref(), Some("the end"));
        assert!(failure.report.detail.contains("exited with status 1"));
    }
}
