//! The event loop of a simulated run: arrivals, ends of steps, ends of transfers, in order of time. At the same instant
//! arrivals come first, so that a step planned then can take them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::fleet::{Deployment, Links, Pool, Router};
use super::load::{Arrival, Arrivals, Window};
use super::observe::{Phase, RunSummary, Served};
use super::watch::{Card, Ended, Gaps, Growth, Open, PoolWatch};
use crate::engine::{Glide, Job, Scheduler, Slot};
use crate::step_time::{StepShape, StepTime};
use crate::timeline::Timeline;

mod steps;

/// Ranks that step together.
struct Unit<'a> {
    ranks: std::ops::Range<usize>,
    role: Role,
    line: Timeline,
    /// The next plan is due at this instant.
    plan_at: Option<u64>,
    n_steps: u64,
    prefill_interval: u64,
    seen_ns: u64,
    step_time: &'a dyn StepTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Generate,
    Prefill,
}

/// A transfer under way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    end_ns: u64,
    number: u64,
    to_rank: usize,
    to_slot: Slot,
    from_rank: usize,
    from_slot: Slot,
}

/// A closed-loop client's next request.
struct Later {
    number: u64,
    arrival: Arrival,
}

impl Later {
    fn key(&self) -> (u64, u64) {
        (self.arrival.at_ns, self.number)
    }
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Later {}
impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Transfer,
    Unit(usize),
}

pub(super) struct Run<'a, A> {
    arrivals: A,
    window: Window,
    sink: &'a mut dyn FnMut(&Served),
    router: Router,
    fast_forward: bool,
    ranks: Vec<Scheduler>,
    unit_of: Vec<usize>,
    server_of: Vec<usize>,
    units: Vec<Unit<'a>>,
    main: Pool,
    prefill: Pool,
    n_main_ranks: usize,
    links: Option<Links>,
    transfers: BinaryHeap<Reverse<Load>>,
    upcoming: Option<Arrival>,
    later: BinaryHeap<Reverse<Later>>,
    exhausted: bool,
    numbers: u64,
    cards: Vec<Vec<Card>>,
    open: Open,
    n_arrivals: u64,
    measured_left: u64,
    outstanding_measured: u64,
    gaps: Gaps,
    growth: Growth,
    watches: [PoolWatch; 2],
    shapes: Vec<Option<StepShape>>,
    glides: Vec<Option<Glide>>,
    ended: Vec<Ended>,
    loading: Vec<(usize, Slot, u32)>,
    hashes: Vec<u64>,
    closed: bool,
    summary: RunSummary,
    n_steps: u64,
}

impl<'a, A: Arrivals> Run<'a, A> {
    pub(super) fn new(
        deployment: &'a Deployment<'a>,
        mut arrivals: A,
        window: Window,
        sink: &'a mut dyn FnMut(&Served),
    ) -> Self {
        let (mut ranks, mut units, mut unit_of, mut server_of) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut pools = Vec::new();
        let mut n_main_ranks = 0;
        for (role, servers) in [(Role::Generate, &deployment.servers), (Role::Prefill, &deployment.prefill)] {
            let mut ranges = Vec::new();
            for (index, server) in servers.iter().enumerate() {
                let first = ranks.len();
                let n_ranks = server.ranks.max(1) as usize;
                let span = if server.lock_step { n_ranks } else { 1 };
                for at in 0..n_ranks {
                    ranks.push(Scheduler::new(server.engine.clone()));
                    unit_of.push(units.len() + at / span);
                    server_of.push(index);
                }
                for at in 0..n_ranks / span {
                    units.push(Unit {
                        ranks: first + at * span..first + (at + 1) * span,
                        role,
                        line: Timeline::new(server.engine.concurrent_batches, server.engine.pipeline_stages),
                        plan_at: None,
                        n_steps: 0,
                        prefill_interval: u64::from(server.engine.prefill_schedule_interval.max(1)),
                        seen_ns: 0,
                        step_time: server.step_time,
                    });
                }
                ranges.push(first..first + n_ranks);
            }
            if role == Role::Generate {
                n_main_ranks = ranks.len();
            }
            pools.push(Pool::new(ranges));
        }
        let prefill = pools.pop().unwrap_or_else(|| Pool::new(Vec::new()));
        let main = pools.pop().unwrap_or_else(|| Pool::new(Vec::new()));
        let links = deployment.transfer.map(|transfer| Links::new(transfer, prefill.servers.len(), main.servers.len()));
        let upcoming = arrivals.next();
        Self {
            exhausted: upcoming.is_none(),
            upcoming,
            arrivals,
            measured_left: window.requests.unwrap_or(u64::MAX),
            window,
            sink,
            router: deployment.router,
            fast_forward: deployment.fast_forward,
            cards: ranks.iter().map(|_| Vec::new()).collect(),
            ranks,
            unit_of,
            server_of,
            units,
            main,
            prefill,
            n_main_ranks,
            links,
            transfers: BinaryHeap::new(),
            later: BinaryHeap::new(),
            numbers: 0,
            open: Open::CLOSED,
            n_arrivals: 0,
            outstanding_measured: 0,
            gaps: Gaps::default(),
            growth: Growth::default(),
            watches: <[PoolWatch; 2]>::default(),
            shapes: Vec::new(),
            glides: Vec::new(),
            ended: Vec::new(),
            loading: Vec::new(),
            hashes: Vec::new(),
            closed: false,
            summary: RunSummary::default(),
            n_steps: 0,
        }
    }

    pub(super) fn go(mut self) -> RunSummary {
        while let Some((now_ns, event)) = self.next_event() {
            if self.n_steps >= self.window.max_steps {
                self.summary.cut_off = true;
                break;
            }
            if self.is_over(now_ns) {
                break;
            }
            match event {
                Event::Arrival => self.arrive(now_ns),
                Event::Transfer => self.transferred(now_ns),
                Event::Unit(unit) => self.turn(unit, now_ns),
            }
        }
        self.finish()
    }

    /// Nothing that is measured will happen any more.
    fn is_over(&self, now_ns: u64) -> bool {
        if self.open.from_ns == u64::MAX {
            return false;
        }
        let closing = self.measured_left == 0 || now_ns > self.open.to_ns;
        // Clients of the warm-up still send measured requests; arrivals of an open loop do not wait for anybody.
        let no_more = closing || (self.exhausted && !self.closed);
        no_more && (!self.window.drain || self.outstanding_measured == 0)
    }

    fn next_arrival_ns(&self) -> Option<u64> {
        let later = self.later.peek().map(|Reverse(later)| later.arrival.at_ns);
        let upcoming = self.upcoming.as_ref().map(|arrival| arrival.at_ns);
        match (upcoming, later) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn next_event(&self) -> Option<(u64, Event)> {
        let arrival = self.next_arrival_ns().map(|at| (at, Event::Arrival));
        let transfer = self.transfers.peek().map(|Reverse(load)| (load.end_ns, Event::Transfer));
        let unit = self
            .units
            .iter()
            .enumerate()
            .filter_map(|(index, unit)| unit.plan_at.or(unit.line.next_end_ns()).map(|at| (at, Event::Unit(index))))
            .min();
        [arrival, transfer, unit].into_iter().flatten().min()
    }

    /// Takes one arrival; the units that it wakes plan at this instant, after all arrivals of it.
    fn arrive(&mut self, now_ns: u64) {
        let from_upcoming = self.upcoming.as_ref().is_some_and(|arrival| arrival.at_ns <= now_ns);
        let arrival = if from_upcoming {
            let taken = self.upcoming.take();
            self.upcoming = self.arrivals.next();
            taken
        } else {
            self.later.pop().map(|Reverse(later)| later.arrival)
        };
        let Some(Arrival { request, slot: client, .. }) = arrival else { return };
        let index = self.n_arrivals;
        let phase = if index >= self.window.warmup_requests && now_ns >= self.window.warmup_ns {
            Phase::Measured
        } else {
            Phase::Warmup
        };
        if phase == Phase::Measured && !self.begin_or_end_window(now_ns) {
            self.upcoming = None;
            self.later.clear();
            self.exhausted = true;
            return;
        }
        self.n_arrivals += 1;
        let job = Job {
            tag: index,
            prompt_tokens: request.prompt_tokens,
            output_tokens: if self.links.is_some() { 1 } else { request.output_tokens },
            max_tokens: request.max_tokens,
            content: request.content,
            priority: request.priority,
            arrival_ns: now_ns,
            remote_prompt: false,
            keep_blocks: self.links.is_some(),
        };
        let card = Card {
            index,
            client,
            phase,
            arrival_ns: now_ns,
            output_tokens: request.output_tokens,
            session: request.session,
            prefill: None,
        };
        self.closed |= client.is_some();
        if phase == Phase::Measured {
            self.measured_left -= 1;
            self.summary.arrived += 1;
            self.outstanding_measured += 1;
            if client.is_none() {
                let waiting = self.ranks.iter().map(|rank| rank.n_waiting() as u64).sum();
                self.growth.add(waiting);
            }
        }
        let pool = if self.links.is_some() { &mut self.prefill } else { &mut self.main };
        let (_, rank) = pool.route(self.router, &self.ranks, request.session, &job, &mut self.hashes);
        self.submit(rank, job, card, now_ns);
        self.exhausted = self.upcoming.is_none() && self.later.is_empty();
    }

    /// Opens the window with its first arrival; false when it is over.
    fn begin_or_end_window(&mut self, now_ns: u64) -> bool {
        if self.open.from_ns == u64::MAX {
            let to_ns = self.window.duration_ns.map_or(u64::MAX, |duration| now_ns.saturating_add(duration));
            self.open = Open { from_ns: now_ns, to_ns };
            for unit in 0..self.units.len() {
                self.see(unit, now_ns);
            }
            let (main, prefill) = self.ranks.split_at(self.n_main_ranks);
            let [of_main, of_prefill] = &mut self.watches;
            of_main.start(main);
            of_prefill.start(prefill);
        }
        self.measured_left > 0 && now_ns <= self.open.to_ns
    }

    fn submit(&mut self, rank: usize, job: Job, card: Card, now_ns: u64) {
        let prompt_tokens = job.prompt_tokens;
        let unit = self.unit_of.get(rank).copied().unwrap_or(0);
        self.see(unit, now_ns);
        let Some(slot) = self.ranks.get_mut(rank).and_then(|scheduler| scheduler.add(job)) else {
            if let Some(prefilled) = card.prefill {
                self.release(prefilled, now_ns);
            }
            self.refuse(rank, prompt_tokens, &card, now_ns);
            return;
        };
        if let Some(cards) = self.cards.get_mut(rank) {
            match cards.get_mut(slot as usize) {
                Some(place) => *place = card,
                None => cards.resize(slot as usize + 1, card),
            }
        }
        self.wake(unit, now_ns);
    }

    /// An idle unit plans now; a busy one sees what is new when its next step ends.
    fn wake(&mut self, unit: usize, now_ns: u64) {
        if let Some(unit) = self.units.get_mut(unit)
            && unit.line.is_idle()
            && unit.plan_at.is_none()
        {
            unit.plan_at = Some(now_ns);
        }
    }

    fn refuse(&mut self, rank: usize, prompt_tokens: u32, card: &Card, now_ns: u64) {
        let served = Served {
            index: card.index,
            slot: card.client,
            phase: card.phase,
            server: self.server_of.get(rank).copied().unwrap_or(0) as u32,
            rank: 0,
            prompt_tokens,
            output_tokens: 0,
            cached_tokens: 0,
            preemptions: 0,
            arrival_ns: card.arrival_ns,
            scheduled_ns: now_ns,
            first_token_ns: now_ns,
            done_ns: now_ns,
        };
        self.report(&served);
    }

    fn report(&mut self, served: &Served) {
        if served.phase == Phase::Measured {
            self.outstanding_measured -= 1;
            if served.refused() {
                self.summary.refused += 1;
            } else {
                self.summary.completed += 1;
                self.summary.prompt_tokens += u64::from(served.prompt_tokens);
                self.summary.output_tokens += u64::from(served.output_tokens);
            }
        }
        (self.sink)(served);
        let Some(client) = served.slot else { return };
        let over = self.measured_left == 0 || served.done_ns > self.open.to_ns;
        if over && self.open.from_ns != u64::MAX {
            self.exhausted = self.upcoming.is_none() && self.later.is_empty();
            return;
        }
        if let Some(arrival) = self.arrivals.after(client, served.done_ns) {
            self.numbers += 1;
            self.later.push(Reverse(Later { number: self.numbers, arrival }));
            self.exhausted = false;
        }
    }

    /// Brings the observation of a unit up to date, before its state changes.
    fn see(&mut self, unit: usize, now_ns: u64) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        let ranks = self.ranks.get(unit.ranks.clone()).unwrap_or_default();
        let [of_main, of_prefill] = &mut self.watches;
        let watch = if unit.role == Role::Generate { of_main } else { of_prefill };
        watch.integrate(&self.open, unit.seen_ns, now_ns, ranks);
        unit.seen_ns = unit.seen_ns.max(now_ns);
    }

    fn finish(mut self) -> RunSummary {
        self.gaps.flush();
        let end_ns = self.summary.end_ns;
        for unit in 0..self.units.len() {
            self.see(unit, end_ns);
        }
        let from_ns = self.open.from_ns.min(end_ns);
        let to_ns = self.open.to_ns.min(end_ns).max(from_ns);
        let (slope, saturated) = self.growth.judge();
        let busy_ns = |role| -> (u64, u64) {
            let units = || self.units.iter().filter(move |unit| unit.role == role);
            (units().map(|unit| unit.line.busy_ns()).sum(), end_ns * units().count() as u64)
        };
        let ((main_busy, main_total), (prefill_busy, prefill_total)) =
            (busy_ns(Role::Generate), busy_ns(Role::Prefill));
        let (main, prefill) = self.ranks.split_at(self.n_main_ranks);
        let [of_main, of_prefill] = self.watches;
        let mut summary = self.summary;
        summary.window_from_ns = from_ns;
        summary.window_to_ns = to_ns;
        summary.waiting_first = self.growth.first;
        summary.waiting_last = self.growth.last;
        summary.overload_share = slope;
        summary.saturated = saturated;
        summary.pool = of_main.finish(main, to_ns - from_ns, main_busy, main_total);
        if let Some(links) = &self.links {
            summary.prefill_pool = Some(of_prefill.finish(prefill, to_ns - from_ns, prefill_busy, prefill_total));
            summary.transferred_bytes = links.bytes;
            summary.transfer_mean_ns = if links.n == 0 { 0.0 } else { links.total_ns as f64 / links.n as f64 };
        }
        summary.gaps = self.gaps.histogram;
        summary
    }
}
