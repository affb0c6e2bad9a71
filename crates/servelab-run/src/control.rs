//! The stop switch of a run. One request to stop ends it in order, a second one at once. Signals are only another finger
//! on the same switch.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// Shared between a run and whoever may end it.
#[derive(Debug, Default)]
pub struct RunControl {
    presses: AtomicU8,
    deadline: OnceLock<Deadline>,
}

#[derive(Debug)]
struct Deadline {
    at: Instant,
    /// A request to stop that comes at most so long before is the scheduler's warning of the same.
    slack: Duration,
}

impl RunControl {
    /// A switch that nobody has pressed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to end: the first time in order, after that at once.
    pub fn stop(&self) {
        // Saturating: 256 signals must not mean "go on".
        let _ = self.presses.try_update(Relaxed, Relaxed, |presses| presses.checked_add(1));
    }

    /// The run ends in order at this instant, because its allocation ends soon after. The first call counts.
    pub fn stop_at(&self, at: Instant) {
        // Slurm may warn up to a minute earlier than it was asked to.
        let slack = Duration::from_secs(60).min(at.saturating_duration_since(Instant::now()));
        let _ = self.deadline.set(Deadline { at, slack });
    }

    /// The run was asked to end, or its time is over.
    pub fn is_stopping(&self) -> bool {
        self.presses.load(Relaxed) > 0 || self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline.at)
    }

    /// It is the end of the allocation that stops the run.
    pub fn is_out_of_time(&self) -> bool {
        self.deadline.get().is_some_and(|deadline| Instant::now() + deadline.slack >= deadline.at)
    }

    /// The run was asked more than once: servers get no time to end in order.
    pub fn is_forced(&self) -> bool {
        self.presses.load(Relaxed) > 1
    }
}

/// Turns SIGINT and SIGTERM into [`RunControl::stop`] until dropped. SIGHUP is left alone: `nohup` must keep working, and
/// without it a hangup is one more kill that the next run recovers from.
#[derive(Debug)]
pub struct SignalGuard {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalGuard {
    /// Takes the signals over.
    pub fn install(control: Arc<RunControl>) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let handle = signals.handle();
        let watch = move || signals.forever().for_each(|_| control.stop());
        let thread = thread::Builder::new().name("signals".to_owned()).spawn(watch)?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn signals_press_the_switch() {
        let control = Arc::new(RunControl::new());
        let guard = SignalGuard::install(Arc::clone(&control)).unwrap();
        assert!(!control.is_stopping());
        for (is_pressed, name) in
            [(RunControl::is_stopping as fn(&RunControl) -> bool, "first"), (RunControl::is_forced, "second")]
        {
            signal_hook::low_level::raise(SIGTERM).unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while !is_pressed(&control) {
                assert!(Instant::now() < deadline, "{name} signal was not seen");
                std::thread::yield_now();
            }
        }
        drop(guard);
    }

    #[test]
    fn the_end_of_the_allocation_stops_too() {
        let control = RunControl::new();
        assert!(!control.is_out_of_time());
        control.stop_at(Instant::now() + Duration::from_secs(3600));
        control.stop();
        assert!(control.is_stopping() && !control.is_out_of_time(), "a person's wish, an hour before");
        let control = RunControl::new();
        control.stop_at(Instant::now());
        assert!(control.is_stopping() && control.is_out_of_time() && !control.is_forced());
    }

    #[test]
    fn many_presses_stay_pressed() {
        let control = RunControl::new();
        (0..1000).for_each(|_| control.stop());
        assert!(control.is_stopping() && control.is_forced());
    }
}
