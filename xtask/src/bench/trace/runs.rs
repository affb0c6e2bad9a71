//! One run of a command: CPU time of the whole process with its children, wall time, peak resident memory.

use std::error::Error;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::system;

/// What a run took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
    pub(crate) peak_mib: f64,
    /// What it printed, cut to a line's length.
    pub(crate) said: String,
}

/// Runs it to its end.
pub(crate) fn measure(command: &mut Command) -> Result<Figures, Box<dyn Error>> {
    let mut output = tempfile::tempfile()?;
    let before = system::cpu_seconds_of_children().unwrap_or_default();
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(output.try_clone()?).spawn()?;
    let mut peak_mib = 0.0_f64;
    // The kernel keeps the high-water mark: what is missed is the growth of the last two milliseconds.
    let status = loop {
        peak_mib = system::peak_rss_kib(child.id()).map_or(peak_mib, |kib| peak_mib.max(kib as f64 / 1024.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let wall_s = start.elapsed().as_secs_f64();
    let cpu_s = system::cpu_seconds_of_children().unwrap_or_default() - before;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    output.rewind()?;
    let mut said = String::new();
    output.take(200).read_to_string(&mut said)?;
    Ok(Figures { cpu_s, wall_s, peak_mib, said })
}

/// The run with the median CPU time.
pub(crate) fn median(
    count: usize,
    run: impl Fn() -> Result<Figures, Box<dyn Error>>,
) -> Result<Figures, Box<dyn Error>> {
    let mut all = (0..count.max(1)).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|a, b| a.cpu_s.total_cmp(&b.cpu_s));
    Ok(all.swap_remove(all.len() / 2))
}
