//! One seed: its farm, its plan, and the end, when everything is healed and the scheduler has to know it.

use std::rc::Rc;
use std::time::Duration;

use aya_domain::splitmix64;
use turmoil::{Builder, Sim};

use crate::hosts::{AgentHost, SCHEDULER, agent, scheduler};
use crate::plan::{Act, Fault, Plan};
use crate::rules::{FRESH_AFTER, SUSPECT_AFTER};
use crate::truth::{Host, Shared, Truth};

/// Steps of the simulation: nothing is delivered in between.
const TICK: Duration = Duration::from_millis(10);
const LATENCY_MAX: Duration = Duration::from_millis(40);
/// Segments of one connection that may wait on a link.
const SEGMENTS_MAX: usize = 256;

/// A simulated farm and what is wrong with it.
struct Farm {
    sim: Sim<'static>,
    truth: Shared,
    faults: Vec<Option<Fault>>,
    twin: usize,
    loud: bool,
}

/// Runs a seed; what it showed, as a digest.
pub(crate) fn run(seed: u64, loud: bool) -> Result<u64, String> {
    let failed = |why: String| format!("seed {seed}: {why}");
    let mut farm = Farm::new(seed, loud);
    let plan = Plan::draw(seed, farm.twin);
    for (at, act) in &plan.acts {
        farm.run_until(*at).map_err(failed)?;
        farm.act(*act);
    }
    farm.run_until(plan.ends_at()).map_err(failed)?;
    farm.heal();
    farm.run_until(plan.ends_at() + FRESH_AFTER - Duration::from_secs(3)).map_err(failed)?;
    farm.truth.borrow_mut().quiet = true;
    // The twin may have been the last that was heard: then the first one is heard when it has been silent for long.
    farm.run_until(plan.ends_at() + SUSPECT_AFTER.max(FRESH_AFTER) + Duration::from_secs(2))
        .map_err(failed)?;
    farm.truth.borrow_mut().at_rest = true;
    farm.run_until(plan.ends_at() + FRESH_AFTER + Duration::from_secs(3)).map_err(failed)?;
    let truth = farm.truth.borrow();
    if !truth.was_held_at_rest {
        return Err(failed("nobody looked at the end".to_owned()));
    }
    Ok(truth.history)
}

impl Farm {
    fn new(seed: u64, loud: bool) -> Self {
        let agents = 2 + usize::try_from(splitmix64(seed) % 3).unwrap();
        let mut names: Vec<String> = (0..agents).map(|at| format!("n{at}")).collect();
        names.push("n0".to_owned());
        let mut sim = Builder::new()
            .rng_seed(seed)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(SEGMENTS_MAX)
            .enable_random_order()
            .build();
        let truth = Truth::new(names.clone());
        let twin = agents;
        truth.borrow_mut().hosts[twin] = Host::DOWN;
        let shared = Rc::clone(&truth);
        sim.host(SCHEDULER, move || scheduler(seed, Rc::clone(&shared)));
        for (at, node) in names.into_iter().enumerate() {
            // From 2 % too slow to 2 % too fast.
            let drift = u32::try_from(splitmix64(seed ^ at as u64) % 41).unwrap();
            let rate = 0.98 + 0.001 * f64::from(drift);
            let host = AgentHost { at, node, rate, seed: splitmix64(seed ^ (at as u64) << 32) };
            let shared = Rc::clone(&truth);
            sim.host(name(at), move || agent(host.clone(), Rc::clone(&shared)));
        }
        Self { sim, truth, faults: vec![None; agents + 1], twin, loud }
    }

    fn run_until(&mut self, at: Duration) -> Result<(), String> {
        while self.sim.elapsed() < at {
            self.sim.step().map_err(|error| format!("at {:?}: {error}", self.sim.elapsed()))?;
            if let Some(broken) = &self.truth.borrow().broken {
                return Err(broken.clone());
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) {
        if self.loud {
            eprintln!("{:>9.3?}  {act:?}", self.sim.elapsed());
        }
        match act {
            Act::Fault(host, fault) => self.fault(host, fault),
            Act::Heal(host) => self.heal_link(host),
            Act::Kill(host) => {
                self.truth.borrow_mut().hosts[host].up = false;
                self.sim.crash(name(host));
                self.sim.bounce(name(host));
            }
            Act::PowerOff(host) => {
                self.truth.borrow_mut().hosts[host].up = false;
                self.fault(host, Fault::Cut);
                self.sim.crash(name(host));
            }
            Act::Start(host) => {
                self.truth.borrow_mut().hosts[host].up = true;
                if !self.sim.is_host_running(name(host)) {
                    self.heal_link(host);
                    self.sim.bounce(name(host));
                }
            }
            Act::KillScheduler => {
                self.truth.borrow_mut().scheduler_up = false;
                self.sim.crash(SCHEDULER);
                self.sim.bounce(SCHEDULER);
            }
            Act::PowerOffScheduler => {
                self.truth.borrow_mut().scheduler_up = false;
                for host in 0..=self.twin {
                    self.fault(host, Fault::Cut);
                }
                self.sim.crash(SCHEDULER);
            }
            Act::StartScheduler => {
                self.truth.borrow_mut().scheduler_up = true;
                if !self.sim.is_host_running(SCHEDULER) {
                    for host in 0..=self.twin {
                        self.heal_link(host);
                    }
                    self.sim.bounce(SCHEDULER);
                }
            }
        }
        self.note_what_is_well();
    }

    fn fault(&mut self, host: usize, fault: Fault) {
        self.heal_link(host);
        let link = name(host);
        match fault {
            Fault::Held => self.sim.hold(link, SCHEDULER),
            Fault::Cut => self.sim.partition(link, SCHEDULER),
            Fault::Mute => self.sim.partition_oneway(link, SCHEDULER),
            Fault::Deaf => self.sim.partition_oneway(SCHEDULER, link),
        }
        self.faults[host] = Some(fault);
    }

    fn heal_link(&mut self, host: usize) {
        let link = name(host);
        match self.faults[host].take() {
            None => {}
            Some(Fault::Held) => self.sim.release(link, SCHEDULER),
            Some(Fault::Cut) => self.sim.repair(link, SCHEDULER),
            Some(Fault::Mute) => self.sim.repair_oneway(link, SCHEDULER),
            Some(Fault::Deaf) => self.sim.repair_oneway(SCHEDULER, link),
        }
    }

    /// Everything runs, nothing is in the way, and there is no twin.
    fn heal(&mut self) {
        self.act(Act::StartScheduler);
        for host in 0..self.twin {
            self.act(Act::Heal(host));
            self.act(Act::Start(host));
        }
    }

    /// Since when each agent cannot be heard, and since when nothing keeps it from being heard.
    fn note_what_is_well(&mut self) {
        let now = self.sim.elapsed();
        let mut truth = self.truth.borrow_mut();
        let scheduler_up = truth.scheduler_up;
        for (host, fault) in truth.hosts.iter_mut().zip(&self.faults) {
            let passes = scheduler_up && matches!(fault, None | Some(Fault::Deaf));
            let heard = host.up && passes;
            host.down_since = if host.up { None } else { host.down_since.or(Some(now)) };
            // What waited on its link while it lived may come when it is gone.
            let silent_since = if passes { host.down_since } else { host.silent_since.or(Some(now)) };
            host.silent_since = silent_since;
            let well = heard && fault.is_none();
            host.well_since = if well { host.well_since.or(Some(now)) } else { None };
        }
        // While two agents have one name, either may be the one that is heard; and the first comes back when the other
        // has been silent for long.
        if truth.hosts[self.twin].up {
            truth.hosts[0].well_since = Some(now + SUSPECT_AFTER);
            truth.hosts[self.twin].well_since = None;
        } else if let Some(since) =
            truth.hosts[self.twin].silent_since.filter(|since| *since > Duration::ZERO)
        {
            let first = &mut truth.hosts[0].well_since;
            *first = first.map(|at| at.max(since + SUSPECT_AFTER));
        }
    }
}

fn name(host: usize) -> String {
    format!("host{host}")
}
