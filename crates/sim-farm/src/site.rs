//! One engine with its agent, stepped by the virtual clock.

use std::time::Duration;

use aya_domain::MonoTime;
use aya_sim_engine::{Engine, StepResult};

use crate::telemetry::Agent;

/// An engine of the farm.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) engine: Engine,
    pub(crate) agent: Agent,
    stepping: bool,
}

impl Site {
    pub(crate) const fn new(engine: Engine, agent: Agent) -> Self {
        Self { engine, agent, stepping: false }
    }

    /// Begins an iteration if none runs and there is work; when it will end.
    pub(crate) fn begin(&mut self, now: MonoTime) -> Option<MonoTime> {
        if self.stepping {
            return None;
        }
        let plan = self.engine.begin_step()?;
        self.stepping = true;
        Some(now.after(Duration::from_secs_f64(plan.duration_s)))
    }

    /// Ends the iteration.
    pub(crate) fn end(&mut self, result: &mut StepResult) {
        self.stepping = false;
        self.engine.end_step(result);
    }
}
