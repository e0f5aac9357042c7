//! The event loop: arrivals, ends of iterations, reports and the scheduler's own notes, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use aya_admission::{Forecast, PoolForecast, ShedRules};
use aya_domain::{
    Decision, IdError, ModelId, MonoTime, Outcome as Decided, SchedulerId, Tokens, Verdict, splitmix64,
};
use aya_placement::Policy;
use aya_sim_engine::{Emission, SimRequest, StepResult};

use crate::config::SimConfig;
use crate::conservation::{self, Violation};
use crate::progress::Progress;
use crate::scheduler::{Foreseen, Scheduler, blank_request};
use crate::site::Site;
use crate::summary::{Outcome, Results};
use crate::telemetry::Agent;
use crate::workload::Workload;

mod conditions;
mod waiting;

/// How often a scheduler notes its ledger for the fleet, as live.
const NOTE_EVERY: Duration = Duration::from_millis(50);
/// Endpoints that one request is sent to, the first included; as live.
const ATTEMPTS_MAX: usize = 3;

/// What happens; the order of the variants decides between events of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    StepEnds { at: usize, life: u32 },
    FaultBegins { fault: usize },
    FaultEnds { fault: usize },
    Report { at: usize },
    ReportArrives { at: usize },
    Exchange,
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
        let mut sites: Vec<Site> = Vec::with_capacity(config.fleet.len());
        for (at, spec) in config.fleet.iter().enumerate() {
            let told = conditions::mistaken(spec.profile, config.model_error, config.seed, at);
            let agent = Agent::new(at, spec, told, &model, config.telemetry.period, holds)?;
            policy.speeds.insert(agent.endpoint.clone(), spec.weight);
            sites.push(Site::new(spec.profile, agent));
        }
        let pools: Vec<Tokens> = config.fleet.iter().map(|spec| spec.profile.kv_capacity).collect();
        let request = blank_request(model)?;
        let scheduler = |at: u32| {
            let id = SchedulerId::parse(&format!("scheduler-{at}"))?;
            Ok(Scheduler::new(id, &pools, request.clone(), config.breaker))
        };
        let schedulers: Result<Vec<Scheduler>, IdError> =
            (0..config.schedulers.max(1)).map(scheduler).collect();
        let schedulers = schedulers?;
        let count = schedulers.len() as u64;
        let progress = |(at, arrival): (usize, &crate::Arrival)| Progress {
            scheduler: pick(splitmix64(config.seed ^ splitmix64(at as u64)), count),
            place: None,
            endpoint: None,
            arrived: MonoTime::ZERO.after(Duration::from_secs_f64(arrival.at_s)),
            sent: None,
            tried: Vec::new(),
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
            self.introduce(at);
            self.at(self.offset(at), Event::Report { at });
        }
        self.expect_conditions();
        self.at(MonoTime::ZERO.after(NOTE_EVERY), Event::Note);
        self.expect_arrival(0);
        let mut result = StepResult::default();
        while self.ended < self.requests.len() {
            let Some(Reverse((time, event))) = self.events.pop() else { break };
            debug_assert!(time >= self.now, "time runs backwards");
            self.now = time;
            match event {
                Event::StepEnds { at, life } => self.step_ends(at, life, &mut result),
                Event::FaultEnds { fault } => self.fault_ends(fault),
                Event::FaultBegins { fault } => self.fault_begins(fault),
                Event::Report { at } => self.report_due(at),
                Event::ReportArrives { at } => self.report_arrives(at),
                Event::Exchange => self.exchange(),
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

    fn note(&mut self) {
        for scheduler in &mut self.schedulers {
            scheduler.note(self.now);
            scheduler.tick(self.now);
        }
        self.at(self.now.after(NOTE_EVERY), Event::Note);
    }

    fn arrival(&mut self, request: usize) {
        self.expect_arrival(request + 1);
        let scheduler = self.requests.get(request).map_or(0, |r| r.scheduler);
        let Some(state) = self.schedulers.get_mut(scheduler) else { return };
        if !state.held.is_empty() {
            self.hold(request, scheduler);
            self.look(scheduler);
        } else if !self.place(request, true) {
            self.hold(request, scheduler);
            self.passed(request, scheduler);
        }
    }

    /// Whether a newcomer is refused for what it would lose to others, by the rules of the live scheduler.
    fn shed(&mut self, request: usize, foreseen: Foreseen, predicted_ttft_s: f64) -> bool {
        let (above_s, misses_ratio) = (self.config.shed_above_s, self.config.shed_misses_ratio);
        if above_s.is_none() && misses_ratio.is_none() {
            return false;
        }
        let scheduler = self.requests.get(request).map_or(0, |r| r.scheduler);
        let Some(state) = self.schedulers.get_mut(scheduler) else { return false };
        let own_misses = foreseen.misses.unwrap_or(0.0);
        state.strain.note(own_misses, predicted_ttft_s, self.now);
        let (strained, slo_ttft_s) = (state.strain.read(self.now), self.policy.slo_ttft_s);
        let forecast = Forecast {
            queueing_s: foreseen.queueing_s,
            queue_s: Some(0.0),
            patience_s: f64::INFINITY,
            pool: Some(PoolForecast { strained, slo_ttft_s, own_misses }),
        };
        let drawn = splitmix64(self.config.seed ^ splitmix64(request as u64));
        let rules = above_s.map_or(ShedRules::PATIENT, ShedRules::above);
        ShedRules { allowed_misses_ratio: misses_ratio, ..rules }.shed(&forecast, drawn).is_some()
    }

    /// Decides and dispatches, or ends the request; false if it has to wait.
    fn place(&mut self, request: usize, newcomer: bool) -> bool {
        let (Some(arrival), Some(progress)) =
            (self.workload.arrivals.get(request), self.requests.get(request))
        else {
            return true;
        };
        let Some(scheduler) = self.schedulers.get_mut(progress.scheduler) else { return true };
        let (requests, policy, now, seed) = (&self.requests, &self.policy, self.now, self.config.seed);
        self.decisions += 1;
        let (mut decision, mut foreseen) =
            scheduler.decide(arrival, &progress.tried, requests, policy, now, seed);
        if matches!(decision.outcome, Decided::Hold(_)) && !progress.tried.is_empty() {
            // Endpoints that failed it are avoided, not banned; as live.
            (decision, foreseen) = scheduler.decide(arrival, &[], requests, policy, now, seed);
        }
        let due_s = decision.chosen().map_or(0.0, |chosen| scheduler.due_s(&decision, chosen.endpoint.get()));
        match decision.outcome {
            Decided::Placed(_) if newcomer && self.shed(request, foreseen, predicted_ttft_s(&decision)) => {
                self.end(request, Outcome::Rejected);
            }
            Decided::Placed(chosen) => {
                self.dispatch(request, chosen.endpoint.get(), due_s);
            }
            Decided::Refused(_) => self.end(request, Outcome::Rejected),
            // Without a queue of our own, "not now" is "no".
            Decided::Hold(_) if self.config.hold_at_most.is_none() => self.end(request, Outcome::Rejected),
            Decided::Hold(_) => return false,
        }
        true
    }

    fn dispatch(&mut self, request: usize, at: usize, due_s: f64) {
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
        progress.endpoint = Some(at);
        progress.sent = Some(self.now);
        let prompt = arrival.prompt_tokens;
        let uncached = prompt - scheduler.cached(arrival, at);
        if site.down {
            return self.refused(request, at);
        }
        if let Some(index) = scheduler.prefixes.get(at) {
            index.insert(&arrival.blocks);
        }
        let Some(cell) = scheduler.cells.get_mut(at) else { return };
        progress.place = Some((at, cell.claim(request, (prompt, uncached), due_s, self.now)));
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
        let Some(site) = self.sites.get_mut(at) else { return };
        let life = site.life;
        if let Some(ends) = site.begin(self.now) {
            self.at(ends, Event::StepEnds { at, life });
        }
    }

    fn step_ends(&mut self, at: usize, life: u32, result: &mut StepResult) {
        let Some(site) = self.sites.get_mut(at).filter(|site| site.life == life) else { return };
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
            cell.first_token(lease, request, arrival.prompt_tokens, self.now);
        }
        cell.token(lease, self.now);
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
            if outcome == Outcome::Completed {
                cell.answered(self.now, progress.sent.map_or(0.0, |at| self.now.since(at).as_secs_f64()));
            }
        }
        if outcome == Outcome::Completed {
            scheduler.output.observe(progress.generated);
            scheduler.lengths.observe(progress.generated);
        }
    }

    fn results(&self) -> Results {
        let (mut preemptions, mut prefix_hits, mut prefix_queries) = (0, 0, 0);
        for (preempted, hits, queries) in self.sites.iter().map(Site::counted) {
            preemptions += preempted;
            prefix_hits += hits;
            prefix_queries += queries;
        }
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
            preemptions,
            prefix_hits,
            prefix_queries: if has_prefixes { prefix_queries } else { 0 },
        }
    }
}

/// Seconds to the first token where the request goes; 0 if it goes nowhere.
fn predicted_ttft_s(decision: &Decision) -> f64 {
    let chosen = decision.chosen().and_then(|chosen| decision.candidates.get(chosen.endpoint.get()));
    match chosen.map(|candidate| candidate.verdict) {
        Some(Verdict::Scored { terms, .. }) => terms.predicted_ttft_s,
        Some(Verdict::Rejected(_)) | None => 0.0,
    }
}

/// A position from 0 to `count - 1` by a drawn number.
fn pick(drawn: u64, count: u64) -> usize {
    usize::try_from(drawn.checked_rem(count).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
