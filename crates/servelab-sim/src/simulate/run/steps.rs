//! Steps of a run: what happens when one ends, what is planned next, and the fast-forward over unchanged batches.

use std::cmp::Reverse;

use super::{Load, Role, Run};
use crate::cluster::join_ranks;
use crate::engine::Job;
use crate::simulate::load::Arrivals;
use crate::simulate::observe::{Phase, Served};
use crate::simulate::watch::{Card, Collector, Ended, Prefilled};

impl<A: Arrivals> Run<'_, A> {
    /// A unit's step is over, or its next plan is due.
    pub(super) fn turn(&mut self, index: usize, now_ns: u64) {
        self.see(index, now_ns);
        let Some(unit) = self.units.get_mut(index) else { return };
        if unit.plan_at.take().is_some() {
            self.plan(index, now_ns);
            return;
        }
        unit.line.pop();
        self.summary.end_ns = self.summary.end_ns.max(now_ns);
        let (ranks, role) = (unit.ranks.clone(), unit.role);
        for rank in ranks {
            let Some(scheduler) = self.ranks.get_mut(rank) else { continue };
            let cards = self.cards.get(rank).map_or(&[][..], Vec::as_slice);
            let mut collector = Collector {
                cards,
                gaps: &mut self.gaps,
                ended: &mut self.ended,
                n_tokens: 0,
                now_ns,
                visible: role == Role::Generate,
            };
            scheduler.complete(now_ns, &mut collector);
            if self.open.covers(now_ns) {
                self.summary.window_output_tokens += collector.n_tokens;
            }
            let mut ended = std::mem::take(&mut self.ended);
            for one in ended.drain(..) {
                self.end(rank, role, &one, now_ns);
            }
            self.ended = ended;
        }
        // What the clients send in answer comes after this step's plan, as it does on a wire.
        match self.glide(index, now_ns) {
            Some(later_ns) => {
                if let Some(unit) = self.units.get_mut(index) {
                    unit.plan_at = Some(later_ns);
                }
            }
            None => self.plan(index, now_ns),
        }
    }

    fn end(&mut self, rank: usize, role: Role, ended: &Ended, now_ns: u64) {
        let Some(card) = self.cards.get(rank).and_then(|cards| cards.get(ended.slot as usize)).copied() else { return };
        let (scheduled_ns, cached_tokens, preemptions) = match card.prefill {
            Some(prefilled) => {
                (prefilled.started_ns, prefilled.cached_tokens, prefilled.preemptions + ended.preemptions)
            }
            None => (ended.started_ns, ended.cached_tokens, ended.preemptions),
        };
        if role == Role::Prefill {
            self.hand_over(rank, &card, ended, now_ns);
            return;
        }
        let server = self.server_of.get(rank).copied().unwrap_or(0);
        let first_rank = self.main.servers.get(server).map_or(0, |ranks| ranks.start);
        let served = Served {
            index: card.index,
            slot: card.client,
            phase: card.phase,
            server: server as u32,
            rank: (rank - first_rank) as u32,
            prompt_tokens: ended.prompt_tokens,
            output_tokens: ended.generated,
            cached_tokens,
            preemptions,
            arrival_ns: card.arrival_ns,
            scheduled_ns,
            first_token_ns: ended.first_token_ns,
            done_ns: now_ns,
        };
        self.report(&served);
    }

    /// A prompt is computed: the request goes to a decode server, which will fetch the blocks.
    fn hand_over(&mut self, rank: usize, card: &Card, ended: &Ended, now_ns: u64) {
        let Some(job) = self.ranks.get(rank).and_then(|scheduler| scheduler.seq(ended.slot)).map(|seq| &seq.job) else {
            return;
        };
        let job = Job {
            output_tokens: card.output_tokens,
            max_tokens: job.max_tokens,
            arrival_ns: now_ns,
            remote_prompt: true,
            keep_blocks: false,
            ..job.clone()
        };
        let prefilled = Prefilled {
            rank,
            slot: ended.slot,
            started_ns: ended.started_ns,
            cached_tokens: ended.cached_tokens,
            preemptions: ended.preemptions,
        };
        let (_, to) = self.main.route(self.router, &self.ranks, card.session, &job, &mut self.hashes);
        self.submit(to, job, Card { prefill: Some(prefilled), ..*card }, now_ns);
    }

    pub(super) fn release(&mut self, prefilled: Prefilled, now_ns: u64) {
        let unit = self.unit_of.get(prefilled.rank).copied().unwrap_or(0);
        self.see(unit, now_ns);
        if let Some(scheduler) = self.ranks.get_mut(prefilled.rank) {
            scheduler.release(prefilled.slot);
        }
        self.wake(unit, now_ns);
    }

    pub(super) fn transferred(&mut self, now_ns: u64) {
        let Some(Reverse(load)) = self.transfers.pop() else { return };
        let unit = self.unit_of.get(load.to_rank).copied().unwrap_or(0);
        self.see(unit, now_ns);
        if let Some(scheduler) = self.ranks.get_mut(load.to_rank) {
            scheduler.loaded(load.to_slot);
        }
        self.wake(unit, now_ns);
        let from =
            Prefilled { rank: load.from_rank, slot: load.from_slot, started_ns: 0, cached_tokens: 0, preemptions: 0 };
        self.release(from, now_ns);
    }

    /// Plans steps until as many are under way as may be, or nothing is left to plan.
    fn plan(&mut self, index: usize, now_ns: u64) {
        let Some(unit) = self.units.get_mut(index) else { return };
        while !unit.line.is_full() {
            let first = unit.ranks.start;
            let ranks = self.ranks.get_mut(unit.ranks.clone()).unwrap_or_default();
            let throttled = unit.prefill_interval > 1 && !unit.n_steps.is_multiple_of(unit.prefill_interval);
            self.shapes.clear();
            for (at, rank) in ranks.iter_mut().enumerate() {
                self.shapes.push(rank.plan(now_ns, throttled));
                let loading = &mut self.loading;
                rank.take_loads(&mut |slot, seq| {
                    loading.push((first + at, slot, seq.job.prompt_tokens.saturating_sub(seq.cached_tokens)));
                });
            }
            if self.shapes.iter().all(Option::is_none) {
                break;
            }
            for (rank, shape) in ranks.iter_mut().zip(&self.shapes) {
                if shape.is_none() {
                    rank.push_dummy();
                }
            }
            join_ranks(&mut self.shapes);
            let nanos = self.shapes.iter().flatten().map(|shape| unit.step_time.step_nanos(shape)).max();
            unit.line.push(now_ns, nanos.unwrap_or(1).max(1));
            unit.n_steps += 1;
            self.n_steps += 1;
            if self.open.covers(now_ns) {
                let [of_main, of_prefill] = &mut self.watches;
                let watch = if unit.role == Role::Generate { of_main } else { of_prefill };
                watch.step(&self.shapes);
            }
        }
        self.start_transfers(now_ns);
    }

    /// Blocks for remote prompts have been taken: their transfers queue for the links.
    fn start_transfers(&mut self, now_ns: u64) {
        let Some(links) = &mut self.links else { return };
        for (to_rank, to_slot, n_tokens) in self.loading.drain(..) {
            let card = self.cards.get(to_rank).and_then(|cards| cards.get(to_slot as usize));
            let Some(from) = card.and_then(|card| card.prefill) else { continue };
            let server = |rank: usize| self.server_of.get(rank).copied().unwrap_or(0);
            let end_ns = links.send(now_ns, server(from.rank), server(to_rank), n_tokens);
            self.numbers += 1;
            self.transfers.push(Reverse(Load {
                end_ns,
                number: self.numbers,
                to_rank,
                to_slot,
                from_rank: from.rank,
                from_slot: from.slot,
            }));
        }
    }

    /// Takes steps of a unit whose batches do not change, up to the next event that could change them. Returns when the
    /// next plan is due; `None`: nothing was taken.
    fn glide(&mut self, index: usize, now_ns: u64) -> Option<u64> {
        if !self.fast_forward {
            return None;
        }
        let ranks = self.units.get(index)?.ranks.clone();
        self.glides.clear();
        let mut n_measured = 0;
        for rank in ranks.clone() {
            let scheduler = self.ranks.get_mut(rank)?;
            if scheduler.n_running() == 0 && scheduler.n_waiting() == 0 {
                self.glides.push(None);
                continue;
            }
            self.glides.push(Some(scheduler.glide_start(now_ns)?));
            let cards = self.cards.get(rank)?;
            let measured = |slot: &u32| cards.get(*slot as usize).is_some_and(|card| card.phase == Phase::Measured);
            n_measured += scheduler.running().iter().filter(|slot| measured(slot)).count() as u64;
        }
        if self.glides.iter().all(Option::is_none) {
            return None;
        }
        let horizon_ns = self.horizon_ns(index);
        let n_running: u64 = self.glides.iter().flatten().map(|glide| u64::from(glide.n_requests)).sum();
        let mut at_ns = now_ns;
        while self.n_steps < self.window.max_steps && self.glide_once(index, at_ns) {
            let unit = self.units.get_mut(index)?;
            let end_ns = unit.line.pop()?;
            // What happens from the horizon on is still to come: the next plan looks at that part.
            self.see(index, end_ns.min(horizon_ns));
            self.gaps.add(end_ns - at_ns, n_measured);
            if self.open.covers(end_ns) {
                self.summary.window_output_tokens += n_running;
            }
            at_ns = end_ns;
            if horizon_ns <= at_ns {
                break;
            }
        }
        if at_ns == now_ns {
            return None;
        }
        for (rank, glide) in self.ranks.get_mut(ranks)?.iter_mut().zip(&self.glides) {
            if let Some(glide) = glide {
                rank.glide_end(glide, at_ns);
            }
        }
        self.summary.end_ns = self.summary.end_ns.max(at_ns);
        Some(at_ns)
    }

    /// The next instant at which anything from outside may reach a unit.
    fn horizon_ns(&self, index: usize) -> u64 {
        let mut horizon_ns = self.next_arrival_ns().unwrap_or(u64::MAX);
        if let Some(Reverse(load)) = self.transfers.peek() {
            horizon_ns = horizon_ns.min(load.end_ns);
        }
        if self.closed || self.links.is_some() {
            // Requests that end elsewhere may come back here.
            let others = self.units.iter().enumerate().filter(|(other, _)| *other != index);
            let next = others.filter_map(|(_, unit)| unit.plan_at.or(unit.line.next_end_ns())).min();
            horizon_ns = horizon_ns.min(next.unwrap_or(u64::MAX));
        }
        horizon_ns
    }

    /// Plans one step of the fast-forward; false when a rank cannot take it.
    fn glide_once(&mut self, index: usize, at_ns: u64) -> bool {
        let Some(unit) = self.units.get_mut(index) else { return false };
        let ranks = self.ranks.get_mut(unit.ranks.clone()).unwrap_or_default();
        let fits = |(rank, glide): (&crate::engine::Scheduler, &Option<crate::engine::Glide>)| {
            glide.as_ref().is_none_or(|glide| rank.glide_fits(glide))
        };
        if !ranks.iter().zip(&self.glides).all(|(rank, glide)| fits((rank, glide))) {
            return false;
        }
        self.shapes.clear();
        for (rank, glide) in ranks.iter_mut().zip(&mut self.glides) {
            self.shapes.push(glide.as_mut().map(|glide| rank.glide_step(glide)));
        }
        join_ranks(&mut self.shapes);
        let nanos = self.shapes.iter().flatten().map(|shape| unit.step_time.step_nanos(shape)).max();
        unit.line.push(at_ns, nanos.unwrap_or(1).max(1));
        unit.n_steps += 1;
        self.n_steps += 1;
        if self.open.covers(at_ns) {
            let [of_main, of_prefill] = &mut self.watches;
            let watch = if unit.role == Role::Generate { of_main } else { of_prefill };
            watch.step(&self.shapes);
        }
        true
    }
}
