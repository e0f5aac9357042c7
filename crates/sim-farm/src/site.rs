//! One engine with its agent, stepped by the virtual clock, and what is wrong with it.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::{EngineProfile, MonoTime, Report};
use aya_sim_engine::{Counters, Engine, StepResult};

use crate::fault::FaultKind;
use crate::telemetry::Agent;
use crate::workload::PREFIX_BLOCK_TOKENS;

/// Requests in one engine's own queue: no engine of the study refuses any.
const ENGINE_QUEUE_MAX: u32 = 10_000_000;

/// An engine of the farm.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) engine: Engine,
    pub(crate) agent: Agent,
    /// Reports on their way, with the time of their arrival.
    pub(crate) under_way: VecDeque<Report>,
    profile: EngineProfile,
    /// Counts starts of the engine: what a former one was doing ends with it.
    pub(crate) life: u32,
    /// Of engines before the last crash.
    before: Counters,
    stepping: bool,
    pub(crate) down: bool,
    wedged: bool,
    slowness: f64,
}

impl Site {
    pub(crate) fn new(profile: EngineProfile, agent: Agent) -> Self {
        Self {
            engine: start(profile),
            agent,
            under_way: VecDeque::new(),
            profile,
            life: 0,
            before: Counters::default(),
            stepping: false,
            down: false,
            wedged: false,
            slowness: 1.0,
        }
    }

    /// Begins an iteration if none runs and there is work; when it will end.
    pub(crate) fn begin(&mut self, now: MonoTime) -> Option<MonoTime> {
        if self.stepping || self.down || self.wedged {
            return None;
        }
        let plan = self.engine.begin_step()?;
        self.stepping = true;
        Some(now.after(Duration::from_secs_f64(plan.duration_s * self.slowness)))
    }

    /// Ends the iteration.
    pub(crate) fn end(&mut self, result: &mut StepResult) {
        self.stepping = false;
        self.engine.end_step(result);
    }

    /// What an agent can read: nothing of a process that is gone.
    pub(crate) fn report(&mut self) -> Report {
        self.agent.report((!self.down).then_some(&self.engine))
    }

    /// A fault begins. A crash empties the engine; those who waited there are for the caller to look after. A wedge
    /// lets the iteration under way end.
    pub(crate) fn suffer(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Crash => {
                let counters = self.engine.counters();
                self.before.preemptions += counters.preemptions;
                self.before.prefix_hits += counters.prefix_hits;
                self.before.prefix_queries += counters.prefix_queries;
                self.engine = start(self.profile);
                self.stepping = false;
                self.life += 1;
                self.down = true;
            }
            FaultKind::Slow { factor } => self.slowness = factor,
            FaultKind::Wedge => self.wedged = true,
        }
    }

    /// The fault is over.
    pub(crate) const fn recover(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Crash => self.down = false,
            FaultKind::Slow { .. } => self.slowness = 1.0,
            FaultKind::Wedge => self.wedged = false,
        }
    }

    /// Preemptions, prefix hits and prefix queries, those before crashes included.
    pub(crate) fn counted(&self) -> (u64, u64, u64) {
        let counters = self.engine.counters();
        (
            self.before.preemptions + counters.preemptions,
            self.before.prefix_hits + counters.prefix_hits,
            self.before.prefix_queries + counters.prefix_queries,
        )
    }
}

fn start(profile: EngineProfile) -> Engine {
    let blocks = PREFIX_BLOCK_TOKENS / aya_sim_engine::BLOCK_TOKENS;
    Engine::with_prefix_blocks(profile, ENGINE_QUEUE_MAX, blocks)
}
