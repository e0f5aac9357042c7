//! The event loop: arrivals, ends of iterations, reports and the scheduler's own notes, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use aya_domain::{IdError, ModelId, MonoTime, Outcome as Decided, OwnLoad, Tokens, splitmix64};
use aya_placement::Policy;
use aya_sim_engine::{BLOCK_TOKENS, Emission, Engine, SimRequest, StepResult};

use crate::config::SimConfig;
use crate::conservation::{self, Violation};
use crate::progress::Progress;
use crate::scheduler::{Scheduler, blank_request};
use crate::site::Site;
use crate::summary::{Outcome, Results};
use crate::telemetry::Agent;
use crate::workload::{PREFIX_BLOCK_TOKENS, Workload};

/// How often a scheduler notes its ledger for the fleet, as live.
const NOTE_EVERY: Duration = Duration::from_millis(50);
/// The head of the waiting requests is tried again at least this often, as live.
const RECHECK: Duration = Duration::from_millis(50);
/// Requests in one engine's own queue: no engine of the study refuses any.
const ENGINE_QUEUE_MAX: u32 = 10_000_000;

/// What happens; the order of the variants decides between events of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    StepEnds { at: usize },
    Report { at: usize },
    Note,
    Recheck,
    Arrival { request: usize },
}

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Farm<'a> {
    config: &'a SimConfig,
    workload: &'a Workload,
    policy: Policy,
    now: MonoTime,
    events: BinaryHeap<Reverse<(MonoTime, Event)>>,
    pub(crate) sites: Vec<Site>,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) requests: Vec<Progress>,
    ended: usize,
    decisions: u64,
    rechecking: bool,
}

/// Runs a workload on a farm.
///
/// # Errors
/// [`Violation`] if the run loses or invents anything.
pub fn simulate(config: &SimConfig, workload: &Workload) -> Result<Results, Violation> {
    let mut farm = Farm::new(config, workload).map_err(|_| Violation::Names)?;
    farm.run();
    conservation::check(&farm)?;
    Ok(farm.results())
}

impl<'a> Farm<'a> {
    fn new(config: &'a SimConfig, workload: &'a Workload) -> Result<Self, IdError> {
        let model = ModelId::parse("simulated")?;
        let holds = config.hold_at_most.is_some();
        let mut policy = config.policy.clone();
        if !holds {
            policy.hold.max_backlog_s = f64::INFINITY;
        }
        let mut sites = Vec::with_capacity(config.fleet.len());
        for (at, named) in config.fleet.iter().enumerate() {
            let agent = Agent::new(at, named, &model, config.report_period, holds)?;
            let blocks = PREFIX_BLOCK_TOKENS / BLOCK_TOKENS;
            let engine = Engine::with_prefix_blocks(named.profile, ENGINE_QUEUE_MAX, blocks);
            sites.push(Site::new(engine, agent));
        }
        let pools: Vec<Tokens> = config.fleet.iter().map(|named| named.profile.kv_capacity).collect();
        let request = blank_request(model)?;
        let schedulers = (0..config.schedulers.max(1)).map(|_| Scheduler::new(&pools, request.clone()));
        let schedulers: Vec<Scheduler> = schedulers.collect();
        let count = schedulers.len() as u64;
        let progress = |(at, arrival): (usize, &crate::Arrival)| Progress {
            scheduler: pick(splitmix64(config.seed ^ splitmix64(at as u64)), count),
            place: None,
            endpoint: None,
            arrived: MonoTime::ZERO.after(Duration::from_secs_f64(arrival.at_s)),
            first_token: None,
            ended: MonoTime::ZERO,
            outcome: Outcome::Rejected,
            generated: 0,
            outcomes: 0,
        };
        let requests = workload.arrivals.iter().enumerate().map(progress).collect();
        Ok(Self {
            config,
            workload,
            policy,
            now: MonoTime::ZERO,
            events: BinaryHeap::new(),
            sites,
            schedulers,
            requests,
            ended: 0,
            decisions: 0,
            rechecking: false,
        })
    }

    fn run(&mut self) {
        // Before the first arrival every agent has introduced its engine.
        for at in 0..self.sites.len() {
            self.report(at);
            self.at(self.offset(at), Event::Report { at });
        }
        self.at(MonoTime::ZERO.after(NOTE_EVERY), Event::Note);
        self.expect_arrival(0);
        let mut result = StepResult::default();
        while self.ended < self.requests.len() {
            let Some(Reverse((time, event))) = self.events.pop() else { break };
            debug_assert!(time >= self.now, "time runs backwards");
            self.now = time;
            match event {
                Event::StepEnds { at } => self.step_ends(at, &mut result),
                Event::Report { at } => self.report_due(at),
                Event::Note => self.note(),
                Event::Recheck => self.recheck(),
                Event::Arrival { request } => self.arrival(request),
            }
        }
    }

    fn at(&mut self, time: MonoTime, event: Event) {
        self.events.push(Reverse((time, event)));
    }

    fn expect_arrival(&mut self, request: usize) {
        if let Some(progress) = self.requests.get(request) {
            self.at(progress.arrived, Event::Arrival { request });
        }
    }

    /// When the agent at this position first reports.
    fn offset(&self, at: usize) -> MonoTime {
        let share = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let period = self.config.report_period;
        MonoTime::ZERO.after(period + period * share(at) / share(self.sites.len()).max(1))
    }

    fn report_due(&mut self, at: usize) {
        let lost = self.config.reports_until.is_some_and(|until| self.now.since(MonoTime::ZERO) > until);
        if !lost {
            self.report(at);
            self.at(self.now.after(self.config.report_period), Event::Report { at });
        }
    }

    fn report(&mut self, at: usize) {
        let Some(site) = self.sites.get_mut(at) else { return };
        let report = site.agent.report(&site.engine);
        for scheduler in &mut self.schedulers {
            scheduler.hear(report.clone(), self.now);
        }
    }

    fn note(&mut self) {
        if self.config.share_ledgers {
            self.exchange();
        }
        for scheduler in &mut self.schedulers {
            scheduler.note(self.now);
            scheduler.tick(self.now);
        }
        self.at(self.now.after(NOTE_EVERY), Event::Note);
    }

    /// Every scheduler learns what the others have in flight now.
    fn exchange(&mut self) {
        let now = self.now;
        let read =
            |scheduler: &Scheduler| scheduler.cells.iter().map(|cell| cell.read(now)).collect::<Vec<_>>();
        let told: Vec<Vec<OwnLoad>> = self.schedulers.iter().map(read).collect();
        for (at, scheduler) in self.schedulers.iter_mut().enumerate() {
            let others = told.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, loads)| loads);
            scheduler.hear_ledgers(others);
        }
    }

    fn arrival(&mut self, request: usize) {
        self.expect_arrival(request + 1);
        let scheduler = self.requests.get(request).map_or(0, |r| r.scheduler);
        let Some(state) = self.schedulers.get_mut(scheduler) else { return };
        if !state.held.is_empty() {
            state.held.push_back(request);
        } else if !self.place(request) {
            self.hold(request, scheduler);
        }
    }

    fn hold(&mut self, request: usize, scheduler: usize) {
        if let Some(state) = self.schedulers.get_mut(scheduler) {
            state.held.push_back(request);
        }
        if !self.rechecking {
            self.rechecking = true;
            self.at(self.now.after(RECHECK), Event::Recheck);
        }
    }

    /// Places the head of the waiting requests for as long as that works.
    fn admit_held(&mut self, scheduler: usize) {
        while let Some(request) = self.schedulers.get(scheduler).and_then(|s| s.held.front().copied()) {
            let waited = self.requests.get(request).map_or(Duration::ZERO, |r| self.now.since(r.arrived));
            let expired = self.config.hold_at_most.is_some_and(|most| waited > most);
            if expired {
                self.end(request, Outcome::Rejected);
            } else if !self.place(request) {
                break;
            }
            if let Some(state) = self.schedulers.get_mut(scheduler) {
                state.held.pop_front();
            }
        }
    }

    fn recheck(&mut self) {
        for scheduler in 0..self.schedulers.len() {
            self.admit_held(scheduler);
        }
        self.rechecking = self.schedulers.iter().any(|s| !s.held.is_empty());
        if self.rechecking {
            self.at(self.now.after(RECHECK), Event::Recheck);
        }
    }

    /// Decides and dispatches, or ends the request; false if it has to wait.
    fn place(&mut self, request: usize) -> bool {
        let (Some(arrival), Some(progress)) =
            (self.workload.arrivals.get(request), self.requests.get(request))
        else {
            return true;
        };
        let Some(scheduler) = self.schedulers.get_mut(progress.scheduler) else { return true };
        self.decisions += 1;
        let (decision, queueing_s) =
            scheduler.decide(arrival, &self.requests, &self.policy, self.now, self.config.seed);
        let shed = self.config.shed_above_s.is_some_and(|limit| queueing_s > limit);
        match decision.outcome {
            Decided::Placed(_) if shed => self.end(request, Outcome::Rejected),
            Decided::Placed(chosen) => self.dispatch(request, chosen.endpoint.get()),
            Decided::Refused(_) => self.end(request, Outcome::Rejected),
            // Without a queue of our own, "not now" is "no".
            Decided::Hold(_) if self.config.hold_at_most.is_none() => self.end(request, Outcome::Rejected),
            Decided::Hold(_) => return false,
        }
        true
    }

    fn dispatch(&mut self, request: usize, at: usize) {
        let (Some(arrival), Some(progress)) =
            (self.workload.arrivals.get(request), self.requests.get_mut(request))
        else {
            return;
        };
        let (Some(scheduler), Some(site)) =
            (self.schedulers.get_mut(progress.scheduler), self.sites.get_mut(at))
        else {
            return;
        };
        let prompt = arrival.prompt_tokens;
        let uncached = prompt - scheduler.cached(arrival, at);
        if let Some(index) = scheduler.prefixes.get_mut(at) {
            index.insert(&arrival.blocks);
        }
        let Some(cell) = scheduler.cells.get_mut(at) else { return };
        progress.place = Some((at, cell.claim(request, prompt, uncached, self.now)));
        progress.endpoint = Some(at);
        let submitted = site.engine.submit(SimRequest {
            id: request as u64,
            prompt_tokens: arrival.prompt_tokens,
            prefix: arrival.blocks.clone(),
            output_tokens: arrival.output_tokens,
        });
        match submitted {
            Ok(()) => self.begin_step(at),
            Err(_) => self.end(request, Outcome::Failed),
        }
    }

    fn begin_step(&mut self, at: usize) {
        if let Some(ends) = self.sites.get_mut(at).and_then(|site| site.begin(self.now)) {
            self.at(ends, Event::StepEnds { at });
        }
    }

    fn step_ends(&mut self, at: usize, result: &mut StepResult) {
        let Some(site) = self.sites.get_mut(at) else { return };
        site.end(result);
        let mut room = false;
        for emission in &result.emissions {
            room |= self.token(emission);
        }
        self.begin_step(at);
        if room && self.rechecking {
            for scheduler in 0..self.schedulers.len() {
                self.admit_held(scheduler);
            }
        }
    }

    /// Accounts for a token; true if it made room somewhere.
    fn token(&mut self, emission: &Emission) -> bool {
        let Ok(request) = usize::try_from(emission.id) else { return false };
        let Some(progress) = self.requests.get_mut(request) else { return false };
        let (Some((at, lease)), Some(arrival)) =
            (progress.place.as_mut(), self.workload.arrivals.get(request))
        else {
            debug_assert!(false, "a token for request {request}, which is nowhere");
            return false;
        };
        let scheduler = self.schedulers.get_mut(progress.scheduler);
        let Some(cell) = scheduler.and_then(|s| s.cells.get_mut(*at)) else { return false };
        progress.generated = emission.token;
        let first = progress.first_token.is_none();
        if first {
            progress.first_token = Some(self.now);
            cell.first_token(lease, request, arrival.prompt_tokens);
        }
        cell.token(lease, 1);
        if emission.finished {
            self.end(request, Outcome::Completed);
        }
        first || emission.finished
    }

    /// The one way out: releases the lease, teaches the prior, counts the outcome.
    fn end(&mut self, request: usize, outcome: Outcome) {
        let prompt = self.workload.arrivals.get(request).map_or(0, |arrival| arrival.prompt_tokens);
        let Some(progress) = self.requests.get_mut(request) else { return };
        progress.outcome = outcome;
        progress.ended = self.now;
        progress.outcomes += 1;
        self.ended += 1;
        let Some(scheduler) = self.schedulers.get_mut(progress.scheduler) else { return };
        if let Some((at, lease)) = progress.place.take()
            && let Some(cell) = scheduler.cells.get_mut(at)
        {
            cell.release(lease, request, prompt);
        }
        if outcome == Outcome::Completed {
            scheduler.output.observe(progress.generated);
            scheduler.lengths.observe(progress.generated);
        }
    }

    fn results(&self) -> Results {
        let counters = || self.sites.iter().map(|site| site.engine.counters());
        let has_prefixes = self.workload.has_prefixes();
        Results {
            requests: self
                .requests
                .iter()
                .zip(&self.workload.arrivals)
                .map(|(request, arrival)| request.record(arrival))
                .collect(),
            duration_s: self.now.as_secs_f64(),
            decisions: self.decisions,
            preemptions: counters().map(|c| c.preemptions).sum(),
            prefix_hits: counters().map(|c| c.prefix_hits).sum(),
            prefix_queries: if has_prefixes { counters().map(|c| c.prefix_queries).sum() } else { 0 },
        }
    }
}

/// A position from 0 to `count - 1` by a drawn number.
fn pick(drawn: u64, count: u64) -> usize {
    usize::try_from(drawn.checked_rem(count).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
