//! What a thread asks of the kernel's scheduler: to be woken at its instant and at once, or to give way. All of it is a
//! request; where it is refused, or the kernel is too old, the run's own lateness and receive error tell.

use std::num::NonZeroU64;

use rustix::thread::set_current_timer_slack;

/// How long a prompt thread computes before the kernel looks whether another one should. A sleeper with a shorter slice
/// than the thread on the core takes the core at its wake-up (Linux 6.12 and later); with equal slices it may wait for
/// the end of the other's, 3 to 4 ms.
const SLICE_NS: u64 = 100_000;

/// Background work competes for a core only with what is left.
const BACKGROUND_NICE: i32 = 19;

/// Timers of the calling thread end at their instant instead of up to 50 µs later, and it takes a core when it wakes.
pub(crate) fn wake_promptly() {
    let _ = set_current_timer_slack(Some(NonZeroU64::MIN));
    ask_for_slice(SLICE_NS);
}

/// The calling thread leaves the core to the load threads.
pub(crate) fn give_way() {
    let _ = rustix::process::setpriority_process(None, BACKGROUND_NICE);
}

/// `struct sched_attr` of Linux, first version (48 bytes).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

fn ask_for_slice(slice_ns: u64) {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let attributes =
        SchedAttr { size: size_of::<SchedAttr>() as u32, nice, runtime_ns: slice_ns, ..SchedAttr::default() };
    #[expect(unsafe_code, reason = "no library wraps sched_setattr; the kernel reads `size` bytes of a live struct")]
    // SAFETY: the pointer is valid for the call and `size` is the size of what it points to; nothing is written.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_keeps_policy_and_niceness() {
        let ask = || {
            give_way();
            wake_promptly();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
            // Fields 19 (nice) and 41 (policy) of proc(5), counted from the third.
            (fields[16].to_owned(), fields[38].to_owned())
        };
        assert_eq!(std::thread::spawn(ask).join().unwrap(), ("19".to_owned(), "0".to_owned()));
    }
}
