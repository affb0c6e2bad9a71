//! Decides which request is due next and what its scheduled instant and slot are. Sans-IO: the worker tells the time
//! and reports finished requests. One pacer per load thread; the closed loop shares one atomic counter so that requests
//! leave in order and the concurrency is exact over all threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};

use crate::spec::{LoadSpec, Pacing, Stop};

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dispatch {
    /// Position in the order of sending.
    pub(crate) seq: usize,
    pub(crate) t_sched: i64,
    pub(crate) t_slot: Option<i64>,
}

/// What all threads of a run agree on.
#[derive(Debug)]
pub(crate) struct Agreement {
    next_seq: AtomicUsize,
    warmup_len: usize,
    total_len: usize,
    /// Smallest slot instant of a window request; `i64::MAX` before there is one.
    window_start_ns: AtomicI64,
    /// End of the window once known; `i64::MAX` before.
    stop_ns: AtomicI64,
    /// First instant at which a slot found no request left; `i64::MAX` before.
    ran_out_ns: AtomicI64,
    is_steady: AtomicBool,
    duration_ns: Option<i64>,
}

impl Agreement {
    pub(crate) fn new(spec: &LoadSpec) -> Self {
        let duration_ns = match spec.stop {
            Stop::Duration { ns } => Some(ns),
            Stop::AllRequests | Stop::Steady { .. } => None,
        };
        Self {
            next_seq: AtomicUsize::new(0),
            warmup_len: spec.warmup.len(),
            total_len: spec.warmup.len() + spec.window.len(),
            window_start_ns: AtomicI64::new(i64::MAX),
            stop_ns: AtomicI64::new(i64::MAX),
            ran_out_ns: AtomicI64::new(i64::MAX),
            is_steady: AtomicBool::new(false),
            duration_ns,
        }
    }

    pub(crate) fn mark_steady(&self) {
        self.is_steady.store(true, Relaxed);
    }

    pub(crate) fn is_steady(&self) -> bool {
        self.is_steady.load(Relaxed)
    }

    /// The window begins at `t_ns`, unless it began earlier.
    pub(crate) fn begin_window(&self, t_ns: i64) {
        let before = self.window_start_ns.fetch_min(t_ns, Relaxed);
        if let Some(duration) = self.duration_ns {
            self.stop_ns.fetch_min(before.min(t_ns) + duration, Relaxed);
        }
    }

    pub(crate) fn window_start_ns(&self) -> Option<i64> {
        Some(self.window_start_ns.load(Relaxed)).filter(|t| *t != i64::MAX)
    }

    /// Ends the window at `t_ns`, unless it ends earlier.
    pub(crate) fn stop_at(&self, t_ns: i64) {
        self.stop_ns.fetch_min(t_ns, Relaxed);
    }

    pub(crate) fn stop_ns(&self) -> Option<i64> {
        Some(self.stop_ns.load(Relaxed)).filter(|t| *t != i64::MAX)
    }

    pub(crate) fn has_stopped(&self, t_ns: i64) -> bool {
        t_ns >= self.stop_ns.load(Relaxed)
    }

    /// At `t_ns` something was free to send and nothing was left.
    pub(crate) fn run_out(&self, t_ns: i64) {
        self.ran_out_ns.fetch_min(t_ns, Relaxed);
    }

    pub(crate) fn ran_out_ns(&self) -> Option<i64> {
        Some(self.ran_out_ns.load(Relaxed)).filter(|t| *t != i64::MAX)
    }

    /// Takes the next request for a slot that is free since `t_ns`.
    fn claim(&self, t_ns: i64) -> Option<usize> {
        if self.has_stopped(t_ns) {
            return None;
        }
        let seq = self.next_seq.fetch_add(1, Relaxed);
        if seq >= self.total_len {
            self.run_out(t_ns);
            return None;
        }
        if seq >= self.warmup_len {
            self.begin_window(t_ns);
        }
        Some(seq)
    }
}

/// The pacer of one load thread.
#[derive(Debug)]
pub(crate) enum Pacer {
    Closed(ClosedPacer),
    Open(OpenPacer),
    Batches(BatchPacer),
}

#[derive(Debug)]
pub(crate) struct ClosedPacer {
    /// Instants from which slots are free, ascending.
    slots: VecDeque<i64>,
    is_exhausted: bool,
}

#[derive(Debug)]
pub(crate) struct OpenPacer {
    /// This thread's arrivals, ascending.
    arrivals: VecDeque<(i64, usize)>,
    free_slots: Option<u32>,
    /// Arrivals that wait for a slot, in order.
    waiting: VecDeque<(i64, usize)>,
    granted: VecDeque<Dispatch>,
}

#[derive(Debug)]
pub(crate) struct BatchPacer {
    size: u32,
    warmup_len: usize,
    total_len: usize,
    next_seq: usize,
    /// Requests of the current batch not yet handed out.
    to_issue: u32,
    outstanding: u32,
    due_ns: i64,
    is_exhausted: bool,
}

impl Pacer {
    /// The pacer of thread `thread` of `threads`, for a run whose first request is due at `start_ns`.
    pub(crate) fn new(spec: &LoadSpec, start_ns: i64, thread: u32, threads: u32) -> Self {
        match &spec.pacing {
            Pacing::Closed { concurrency, stagger_ns } => {
                let step = |slot: u32| start_ns + (stagger_ns / i64::from(*concurrency)) * i64::from(slot);
                let slots = (thread..*concurrency).step_by(threads as usize).map(step).collect();
                Self::Closed(ClosedPacer { slots, is_exhausted: false })
            }
            Pacing::Open { arrivals_ns, max_concurrency } => {
                let limit = match spec.stop {
                    Stop::Duration { ns } => ns,
                    Stop::AllRequests | Stop::Steady { .. } => i64::MAX,
                };
                let warmup = warmup_offsets(arrivals_ns, spec.warmup.len());
                let zero = start_ns + warmup.first().map_or(0, |t| -t);
                let window = arrivals_ns.iter().copied().filter(|t| *t < limit);
                let arrivals = warmup
                    .iter()
                    .copied()
                    .chain(window)
                    .enumerate()
                    .filter(|(seq, _)| seq % threads as usize == thread as usize)
                    .map(|(seq, offset)| (zero.saturating_add(offset), seq))
                    .collect();
                Self::Open(OpenPacer {
                    arrivals,
                    free_slots: *max_concurrency,
                    waiting: VecDeque::new(),
                    granted: VecDeque::new(),
                })
            }
            Pacing::Batches { size } => Self::Batches(BatchPacer {
                size: *size,
                warmup_len: spec.warmup.len(),
                total_len: spec.warmup.len() + spec.window.len(),
                next_seq: 0,
                to_issue: 0,
                outstanding: 0,
                due_ns: start_ns,
                is_exhausted: false,
            }),
        }
    }

    /// The instant of the next request, as far as the schedule knows it; the past means "now".
    pub(crate) fn next_due_ns(&self) -> Option<i64> {
        match self {
            Self::Closed(closed) if closed.is_exhausted => None,
            Self::Closed(closed) => closed.slots.front().copied(),
            Self::Open(open) if !open.granted.is_empty() => Some(i64::MIN),
            Self::Open(open) => open.arrivals.front().map(|(t, _)| *t),
            Self::Batches(batch) if batch.is_exhausted => None,
            Self::Batches(batch) if batch.to_issue > 0 => Some(i64::MIN),
            Self::Batches(batch) => (batch.outstanding == 0).then_some(batch.due_ns),
        }
    }

    /// Hands out the next request that is due at `now_ns`.
    pub(crate) fn take(&mut self, now_ns: i64, agreement: &Agreement) -> Option<Dispatch> {
        match self {
            Self::Closed(closed) => closed.take(now_ns, agreement),
            Self::Open(open) => open.take(now_ns),
            Self::Batches(batch) => batch.take(now_ns, agreement),
        }
    }

    /// A request that was handed out has ended at `t_ns`.
    pub(crate) fn finished(&mut self, t_ns: i64) {
        match self {
            Self::Closed(closed) => closed.slots.push_back(t_ns),
            Self::Open(open) => open.finished(t_ns),
            Self::Batches(batch) => {
                batch.outstanding = batch.outstanding.saturating_sub(1);
                batch.due_ns = t_ns;
            }
        }
    }

    /// Hands out nothing from now on. Returns what was scheduled before and still waits for a slot.
    pub(crate) fn stop(&mut self, stop_ns: i64) -> Vec<Dispatch> {
        match self {
            Self::Closed(closed) => {
                closed.is_exhausted = true;
                Vec::new()
            }
            Self::Open(open) => {
                let late = open.arrivals.drain(..).take_while(|(t, _)| *t < stop_ns);
                let waiting = open.waiting.drain(..);
                let mut left: Vec<Dispatch> = open.granted.drain(..).collect();
                left.extend(waiting.chain(late).map(|(t_sched, seq)| Dispatch { seq, t_sched, t_slot: None }));
                left
            }
            Self::Batches(batch) => {
                batch.is_exhausted = true;
                let first = batch.next_seq;
                let due = batch.due_ns;
                let left = (first..first + batch.to_issue as usize).map(|seq| Dispatch {
                    seq,
                    t_sched: due,
                    t_slot: Some(due),
                });
                let left = left.collect();
                batch.to_issue = 0;
                left
            }
        }
    }

    /// Nothing will ever be due again.
    pub(crate) fn is_exhausted(&self) -> bool {
        match self {
            Self::Closed(closed) => closed.is_exhausted,
            Self::Open(open) => open.arrivals.is_empty() && open.waiting.is_empty() && open.granted.is_empty(),
            Self::Batches(batch) => batch.is_exhausted,
        }
    }
}

impl ClosedPacer {
    fn take(&mut self, now_ns: i64, agreement: &Agreement) -> Option<Dispatch> {
        let due = self.slots.front().copied().filter(|due| *due <= now_ns && !self.is_exhausted)?;
        self.slots.pop_front();
        match agreement.claim(due) {
            Some(seq) => Some(Dispatch { seq, t_sched: due, t_slot: Some(due) }),
            None => {
                self.is_exhausted = true;
                None
            }
        }
    }
}

impl OpenPacer {
    fn take(&mut self, now_ns: i64) -> Option<Dispatch> {
        if let Some(granted) = self.granted.pop_front() {
            return Some(granted);
        }
        while let Some((t_sched, seq)) = self.arrivals.pop_front_if(|(t, _)| *t <= now_ns) {
            match &mut self.free_slots {
                None => return Some(Dispatch { seq, t_sched, t_slot: None }),
                Some(0) => self.waiting.push_back((t_sched, seq)),
                Some(free) => {
                    *free -= 1;
                    return Some(Dispatch { seq, t_sched, t_slot: Some(t_sched) });
                }
            }
        }
        None
    }

    fn finished(&mut self, t_ns: i64) {
        let Some(free) = &mut self.free_slots else { return };
        match self.waiting.pop_front() {
            Some((t_sched, seq)) => self.granted.push_back(Dispatch { seq, t_sched, t_slot: Some(t_ns.max(t_sched)) }),
            None => *free += 1,
        }
    }
}

impl BatchPacer {
    fn take(&mut self, now_ns: i64, agreement: &Agreement) -> Option<Dispatch> {
        if self.is_exhausted {
            return None;
        }
        if self.to_issue == 0 {
            if self.outstanding > 0 || self.due_ns > now_ns {
                return None;
            }
            self.begin(agreement);
        }
        if self.to_issue == 0 {
            self.is_exhausted = true;
            return None;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.to_issue -= 1;
        self.outstanding += 1;
        Some(Dispatch { seq, t_sched: self.due_ns, t_slot: Some(self.due_ns) })
    }

    /// A batch never mixes warm-up and window.
    fn begin(&mut self, agreement: &Agreement) {
        if agreement.has_stopped(self.due_ns) {
            return;
        }
        let end = if self.next_seq < self.warmup_len { self.warmup_len } else { self.total_len };
        let left = u32::try_from(end - self.next_seq).unwrap_or(u32::MAX);
        if left == 0 {
            agreement.run_out(self.due_ns);
        } else if self.next_seq >= self.warmup_len {
            agreement.begin_window(self.due_ns);
        }
        self.to_issue = self.size.min(left);
    }
}

/// Instants of `n` warm-up requests, negative, ascending: the window's own gaps mirrored in front of its start, so that
/// both sides of zero belong to the same process. Repeated where the window is shorter than the warm-up.
fn warmup_offsets(arrivals_ns: &[i64], n: usize) -> Vec<i64> {
    let (Some(first), Some(last)) = (arrivals_ns.first(), arrivals_ns.last()) else { return Vec::new() };
    let mean_gap = (last / arrivals_ns.len() as i64).max(1);
    // A schedule that begins at zero would put two arrivals there.
    let shift = if *first == 0 { mean_gap } else { 0 };
    let period = last + mean_gap;
    let mut offsets: Vec<i64> = arrivals_ns
        .iter()
        .cycle()
        .take(n)
        .enumerate()
        .map(|(i, t)| -(t + shift + period * (i / arrivals_ns.len()) as i64))
        .collect();
    offsets.reverse();
    offsets
}

/// The instant of the window's start in an open loop whose first request is due at `start_ns`.
pub(crate) fn open_window_start_ns(spec: &LoadSpec, start_ns: i64) -> Option<i64> {
    let Pacing::Open { arrivals_ns, .. } = &spec.pacing else { return None };
    let warmup = warmup_offsets(arrivals_ns, spec.warmup.len());
    Some(start_ns + warmup.first().map_or(0, |t| -t))
}
