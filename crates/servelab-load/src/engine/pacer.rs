//! Decides which request is due next and what its scheduled instant and slot are. Sans-IO: the worker tells the time
//! and reports finished requests. One pacer per load thread; the closed loop shares one queue so that requests leave in
//! order and the concurrency is exact over all threads. What all threads agree on is in `agreement`.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use servelab_core::record::Phase;

use super::agreement::Agreement;
use super::feed::{Item, Next, Supply};
use super::limits::Limits;
use super::session::Session;
use crate::arrivals::ThinkTimes;
use crate::source::{PreparedRequest, Work};
use crate::spec::Pacing;

/// Other threads look for the end of the pilot this often.
const PILOT_HANDOVER_NS: i64 = 40_000_000;

/// A request that is due.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) request: PreparedRequest,
    /// The conversation that it is a turn of.
    pub(crate) session: Option<Box<Session>>,
    pub(crate) phase: Phase,
    pub(crate) t_sched: i64,
    pub(crate) t_slot: Option<i64>,
}

/// The next turn of a conversation.
#[derive(Debug)]
struct FollowUp {
    due_ns: i64,
    order: u64,
    request: PreparedRequest,
    session: Box<Session>,
    phase: Phase,
}

impl PartialEq for FollowUp {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for FollowUp {}

impl PartialOrd for FollowUp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FollowUp {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due_ns, other.order).cmp(&(self.due_ns, self.order))
    }
}

/// The pacer of one load thread.
#[derive(Debug)]
pub(crate) struct Pacer {
    kind: Kind,
    follow_ups: BinaryHeap<FollowUp>,
    order: u64,
}

#[derive(Debug)]
enum Kind {
    Closed(ClosedPacer),
    Open(OpenPacer),
    Batches(BatchPacer),
}

/// Where a closed loop is with its first sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// One request is to show how long one takes; this thread sends it.
    Pilot,
    /// Another thread does.
    AwaitPilot,
    Spread,
}

#[derive(Debug)]
struct ClosedPacer {
    /// Instants from which slots are free.
    slots: BinaryHeap<Reverse<i64>>,
    start: Start,
    start_ns: i64,
    concurrency: u32,
    thread: u32,
    threads: u32,
    think: Option<ThinkTimes>,
    is_exhausted: bool,
    is_starving: bool,
}

#[derive(Debug)]
struct OpenPacer {
    queue: usize,
    zero_ns: i64,
    limit_ns: i64,
    next: Option<Item>,
    is_source_over: bool,
    free_slots: Option<u32>,
    /// Arrivals that wait for a slot, in order.
    waiting: VecDeque<Dispatch>,
    granted: VecDeque<Dispatch>,
}

#[derive(Debug)]
struct BatchPacer {
    size: u32,
    /// The batch being handed out.
    current: VecDeque<Item>,
    /// The batch being filled.
    filling: VecDeque<Item>,
    is_source_over: bool,
    outstanding: u32,
    due_ns: i64,
    is_stopped: bool,
}

impl Pacer {
    /// The pacer of thread `thread` of `threads`, for a run whose first request is due at `start_ns`.
    pub(crate) fn new(limits: &Limits, supply: &Supply, start_ns: i64, thread: u32, threads: u32) -> Self {
        let kind = match limits.pacing {
            Pacing::Closed { concurrency, think, .. } => {
                let own_seed = |seed: u64| seed.wrapping_add(u64::from(thread));
                let mut closed = ClosedPacer {
                    slots: BinaryHeap::new(),
                    start: Start::Spread,
                    start_ns,
                    concurrency,
                    thread,
                    threads,
                    think: think.map(|pauses| ThinkTimes::new(pauses.think, own_seed(pauses.seed))),
                    is_exhausted: false,
                    is_starving: false,
                };
                match limits.first_sends() {
                    Some(ns) => closed.spread(start_ns, ns),
                    None if thread == 0 => {
                        closed.start = Start::Pilot;
                        closed.slots.push(Reverse(start_ns));
                    }
                    None => closed.start = Start::AwaitPilot,
                }
                Kind::Closed(closed)
            }
            Pacing::Open { max_concurrency } => Kind::Open(OpenPacer {
                queue: thread as usize,
                zero_ns: open_window_start_ns(supply, start_ns),
                limit_ns: limits.stop.longest_ns().unwrap_or(i64::MAX),
                next: None,
                is_source_over: false,
                free_slots: max_concurrency,
                waiting: VecDeque::new(),
                granted: VecDeque::new(),
            }),
            Pacing::Batches { size } => Kind::Batches(BatchPacer {
                size,
                current: VecDeque::new(),
                filling: VecDeque::new(),
                is_source_over: false,
                outstanding: 0,
                due_ns: start_ns,
                is_stopped: false,
            }),
        };
        Self { kind, follow_ups: BinaryHeap::new(), order: 0 }
    }

    /// The instant of the next request, as far as the schedule knows it; the past means "now".
    pub(crate) fn next_due_ns(&mut self, supply: &Supply) -> Option<i64> {
        let own = match &mut self.kind {
            Kind::Closed(closed) if closed.is_exhausted => None,
            Kind::Closed(closed) => closed.slots.peek().map(|slot| slot.0),
            Kind::Open(open) if !open.granted.is_empty() => Some(i64::MIN),
            Kind::Open(open) => {
                open.fill(supply);
                open.next.as_ref().map(|item| open.zero_ns.saturating_add(item.at_ns))
            }
            Kind::Batches(batch) if batch.is_exhausted() => None,
            Kind::Batches(batch) if !batch.current.is_empty() => Some(i64::MIN),
            Kind::Batches(batch) => (batch.outstanding == 0).then_some(batch.due_ns),
        };
        let follow_up = self.follow_ups.peek().map(|next| next.due_ns);
        own.into_iter().chain(follow_up).min()
    }

    /// Something is due, or will be, but the source has not made it yet.
    pub(crate) fn is_starving(&self) -> bool {
        match &self.kind {
            Kind::Closed(closed) => closed.is_starving,
            Kind::Open(open) => open.next.is_none() && !open.is_source_over,
            Kind::Batches(batch) => batch.outstanding == 0 && batch.current.is_empty() && !batch.is_exhausted(),
        }
    }

    /// An open loop: its end is a matter of time.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Open(_))
    }

    /// Hands out the next request that is due at `now_ns`.
    pub(crate) fn take(&mut self, now_ns: i64, agreement: &Agreement, supply: &Supply) -> Option<Dispatch> {
        if self.follow_ups.peek().is_some_and(|next| next.due_ns <= now_ns)
            && let Some(FollowUp { due_ns, request, session, phase, .. }) = self.follow_ups.pop()
        {
            let has_slot = !matches!(self.kind, Kind::Open(_));
            let t_slot = has_slot.then_some(due_ns);
            let dispatch = Dispatch { request, session: Some(session), phase, t_sched: due_ns, t_slot };
            match &mut self.kind {
                Kind::Open(open) => {
                    if let Some(dispatch) = open.arrive(dispatch) {
                        return Some(dispatch);
                    }
                }
                Kind::Closed(_) | Kind::Batches(_) => return Some(dispatch),
            }
        }
        match &mut self.kind {
            Kind::Closed(closed) => closed.take(now_ns, agreement, supply),
            Kind::Open(open) => open.take(now_ns, supply),
            Kind::Batches(batch) => batch.take(now_ns, agreement, supply),
        }
    }

    /// A conversation goes on at `due_ns`; it keeps its slot, if it has one, except under the cap of an open loop.
    pub(crate) fn follow(&mut self, due_ns: i64, ended_ns: i64, phase: Phase, next: (PreparedRequest, Box<Session>)) {
        let (request, session) = next;
        self.order += 1;
        self.follow_ups.push(FollowUp { due_ns, order: self.order, request, session, phase });
        if let Kind::Open(open) = &mut self.kind {
            open.finished(ended_ns);
        }
    }

    /// A request that was handed out has ended at `t_ns`, and its conversation with it.
    pub(crate) fn finished(&mut self, t_ns: i64, agreement: &Agreement) {
        match &mut self.kind {
            Kind::Closed(closed) => closed.finished(t_ns, agreement),
            Kind::Open(open) => open.finished(t_ns),
            Kind::Batches(batch) => {
                batch.outstanding = batch.outstanding.saturating_sub(1);
                batch.due_ns = t_ns;
            }
        }
    }

    /// Hands out nothing from now on. Returns what was scheduled before and still waits for a slot.
    pub(crate) fn stop(&mut self, stop_ns: i64, supply: &Supply) -> Vec<Dispatch> {
        let has_slot = !matches!(self.kind, Kind::Open(_));
        let follow_ups = std::mem::take(&mut self.follow_ups).into_vec();
        let mut left: Vec<Dispatch> = match &mut self.kind {
            Kind::Closed(closed) => {
                closed.is_exhausted = true;
                Vec::new()
            }
            Kind::Open(open) => open.stop(stop_ns, supply),
            Kind::Batches(batch) => {
                batch.is_stopped = true;
                let due_ns = batch.due_ns;
                batch.current.drain(..).filter_map(|item| item.dispatch(due_ns, Some(due_ns))).collect()
            }
        };
        left.extend(follow_ups.into_iter().filter(|next| next.due_ns < stop_ns).map(|next| {
            let FollowUp { due_ns, request, session, phase, .. } = next;
            Dispatch { request, session: Some(session), phase, t_sched: due_ns, t_slot: has_slot.then_some(due_ns) }
        }));
        left
    }

    /// Nothing will ever be due again, unless a conversation in flight goes on.
    pub(crate) fn is_exhausted(&mut self, supply: &Supply) -> bool {
        self.follow_ups.is_empty()
            && match &mut self.kind {
                Kind::Closed(closed) => closed.is_exhausted,
                Kind::Open(open) => {
                    open.fill(supply);
                    open.is_source_over && open.next.is_none() && open.waiting.is_empty() && open.granted.is_empty()
                }
                Kind::Batches(batch) => batch.is_exhausted(),
            }
    }
}

impl Item {
    fn dispatch(self, t_sched: i64, t_slot: Option<i64>) -> Option<Dispatch> {
        let phase = self.phase;
        let (request, session) = match self.work {
            Work::Request(request) => (request, None),
            Work::Conversation(conversation) => {
                let (request, session) = Session::begin(conversation)?;
                (request, Some(session))
            }
        };
        Some(Dispatch { request, session, phase, t_sched, t_slot })
    }
}

impl ClosedPacer {
    /// Gives this thread's slots their first instants.
    fn spread(&mut self, start_ns: i64, ns: i64) {
        self.start = Start::Spread;
        self.slots.clear();
        let concurrency = i128::from(self.concurrency.max(1));
        let offset = |slot: u32| (i128::from(ns) * i128::from(slot) / concurrency) as i64;
        let own = (self.thread..self.concurrency).step_by(self.threads.max(1) as usize);
        self.slots.extend(own.map(|slot| Reverse(start_ns + offset(slot))));
    }

    fn take(&mut self, now_ns: i64, agreement: &Agreement, supply: &Supply) -> Option<Dispatch> {
        if self.start != Start::Spread
            && let Some((start_ns, ns)) = agreement.spread()
        {
            self.spread(start_ns, ns);
        }
        while let Some(Reverse(due)) = self.slots.peek().copied().filter(|slot| slot.0 <= now_ns && !self.is_exhausted)
        {
            if agreement.has_stopped(due) {
                self.is_exhausted = true;
                return None;
            }
            self.is_starving = false;
            match supply.take(0) {
                Next::NotYet => {
                    self.is_starving = true;
                    return None;
                }
                Next::End => {
                    self.is_exhausted = true;
                    agreement.run_out(due);
                    // A pilot that finds nothing to send must not keep the others waiting.
                    agreement.set_spread(due, 0);
                    return None;
                }
                Next::Item(item) => {
                    self.slots.pop();
                    if item.phase == Phase::Window {
                        agreement.begin_window(due);
                    }
                    if let Some(dispatch) = item.dispatch(due, Some(due)) {
                        return Some(dispatch);
                    }
                    self.slots.push(Reverse(due));
                }
            }
        }
        None
    }

    fn finished(&mut self, t_ns: i64, agreement: &Agreement) {
        if self.start == Start::Pilot {
            let handover_ns = if self.threads > 1 { PILOT_HANDOVER_NS } else { 0 };
            agreement.set_spread(t_ns + handover_ns, (t_ns - self.start_ns).max(0));
            self.slots.push(Reverse(t_ns));
            return;
        }
        let pause_ns = self.think.as_mut().map_or(0, ThinkTimes::next_ns);
        self.slots.push(Reverse(t_ns.saturating_add(pause_ns)));
    }
}

impl OpenPacer {
    fn fill(&mut self, supply: &Supply) {
        if self.next.is_some() || self.is_source_over {
            return;
        }
        match supply.take(self.queue) {
            Next::Item(item) if item.at_ns < self.limit_ns => self.next = Some(item),
            Next::Item(_) | Next::End => self.is_source_over = true,
            Next::NotYet => {}
        }
    }

    fn take(&mut self, now_ns: i64, supply: &Supply) -> Option<Dispatch> {
        if let Some(granted) = self.granted.pop_front() {
            return Some(granted);
        }
        loop {
            self.fill(supply);
            let zero_ns = self.zero_ns;
            let item = self.next.take_if(|item| zero_ns.saturating_add(item.at_ns) <= now_ns)?;
            let t_sched = zero_ns.saturating_add(item.at_ns);
            if let Some(dispatch) = item.dispatch(t_sched, None).and_then(|dispatch| self.arrive(dispatch)) {
                return Some(dispatch);
            }
        }
    }

    /// Gives it a slot, or lets it wait for one.
    fn arrive(&mut self, mut dispatch: Dispatch) -> Option<Dispatch> {
        match &mut self.free_slots {
            None => Some(dispatch),
            Some(0) => {
                self.waiting.push_back(dispatch);
                None
            }
            Some(free) => {
                *free -= 1;
                dispatch.t_slot = Some(dispatch.t_sched);
                Some(dispatch)
            }
        }
    }

    fn finished(&mut self, t_ns: i64) {
        let Some(free) = &mut self.free_slots else { return };
        match self.waiting.pop_front() {
            Some(mut dispatch) => {
                dispatch.t_slot = Some(t_ns.max(dispatch.t_sched));
                self.granted.push_back(dispatch);
            }
            None => *free += 1,
        }
    }

    fn stop(&mut self, stop_ns: i64, supply: &Supply) -> Vec<Dispatch> {
        let mut left: Vec<Dispatch> = self.granted.drain(..).chain(self.waiting.drain(..)).collect();
        loop {
            self.fill(supply);
            let zero_ns = self.zero_ns;
            let Some(item) = self.next.take_if(|item| zero_ns.saturating_add(item.at_ns) < stop_ns) else { break };
            let t_sched = zero_ns.saturating_add(item.at_ns);
            left.extend(item.dispatch(t_sched, None));
        }
        self.next = None;
        self.is_source_over = true;
        left
    }
}

impl BatchPacer {
    fn is_exhausted(&self) -> bool {
        self.is_stopped || self.is_source_over && self.current.is_empty() && self.filling.is_empty()
    }

    fn take(&mut self, now_ns: i64, agreement: &Agreement, supply: &Supply) -> Option<Dispatch> {
        while !self.is_stopped {
            if let Some(item) = self.current.pop_front() {
                if let Some(dispatch) = item.dispatch(self.due_ns, Some(self.due_ns)) {
                    self.outstanding += 1;
                    return Some(dispatch);
                }
                continue;
            }
            if self.outstanding > 0 || self.due_ns > now_ns {
                return None;
            }
            if agreement.has_stopped(self.due_ns) {
                self.is_stopped = true;
                return None;
            }
            if !self.begin(agreement, supply) {
                return None;
            }
        }
        None
    }

    /// Fills the next batch; false when it is not complete yet, or there is none. A batch never mixes warm-up and window.
    fn begin(&mut self, agreement: &Agreement, supply: &Supply) -> bool {
        let mut after = None;
        while (self.filling.len() as u64) < u64::from(self.size) && !self.is_source_over {
            match supply.take(0) {
                Next::NotYet => return false,
                Next::End => self.is_source_over = true,
                Next::Item(item) if self.filling.front().is_some_and(|first| first.phase != item.phase) => {
                    after = Some(item);
                    break;
                }
                Next::Item(item) => self.filling.push_back(item),
            }
        }
        self.current = std::mem::take(&mut self.filling);
        self.filling.extend(after);
        match self.current.front().map(|item| item.phase) {
            None => {
                agreement.run_out(self.due_ns);
                false
            }
            Some(phase) => {
                if phase == Phase::Window {
                    agreement.begin_window(self.due_ns);
                }
                true
            }
        }
    }
}

/// The instant of the window's start in an open loop whose first request is due at `start_ns`, as far as that arrival
/// lies before the window.
pub(crate) fn open_window_start_ns(supply: &Supply, start_ns: i64) -> i64 {
    start_ns.saturating_add(supply.first_at_ns().min(0).saturating_neg())
}
