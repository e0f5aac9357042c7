//! What goes wrong, and when: drawn from a seed before anything runs.

use std::time::Duration;

use aya_domain::splitmix64;

/// Until every agent has reported.
const SETTLE_MS: u64 = 4_000;
const ROUNDS: u64 = 3;

/// What may be wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Everything waits, in order, until it is released.
    Held,
    /// Everything is lost.
    Cut,
    /// What the agent says is lost.
    Mute,
    /// What the scheduler says is lost.
    Deaf,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Fault(usize, Fault),
    /// The link of a host is as new.
    Heal(usize),
    /// The process of an agent ends; its machine goes on.
    Kill(usize),
    /// A machine disappears without a word.
    PowerOff(usize),
    Start(usize),
    KillScheduler,
    PowerOffScheduler,
    StartScheduler,
}

/// A plan: when what happens, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) acts: Vec<(Duration, Act)>,
    at_ms: u64,
    draw: u64,
}

impl Plan {
    /// For so many agents, and one more whose node is the first one's.
    pub(crate) fn draw(seed: u64, agents: usize) -> Self {
        let mut plan = Self { at_ms: SETTLE_MS, draw: splitmix64(!seed), ..Self::default() };
        for _ in 0..ROUNDS {
            match plan.below(8) {
                0 | 1 => plan.swizzle(agents, |_| Fault::Held),
                2 => plan.swizzle(agents, |_| Fault::Cut),
                3 => plan.swizzle(agents, |draw| {
                    [Fault::Held, Fault::Cut, Fault::Mute, Fault::Deaf][usize::try_from(draw % 4).unwrap()]
                }),
                4 => plan.agents_come_and_go(agents),
                5 => plan.scheduler_restarts(Act::KillScheduler),
                6 => plan.scheduler_restarts(Act::PowerOffScheduler),
                _ => plan.twin(agents),
            }
            plan.wait(100, 3_000);
        }
        plan
    }

    pub(crate) fn ends_at(&self) -> Duration {
        Duration::from_millis(self.at_ms)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.draw = splitmix64(self.draw);
        self.draw % limit
    }

    fn wait(&mut self, from_ms: u64, to_ms: u64) {
        self.at_ms += from_ms + self.below(to_ms - from_ms);
    }

    fn act(&mut self, act: Act) {
        self.acts.push((Duration::from_millis(self.at_ms), act));
    }

    /// A random part of the agents, at least one, in random order.
    fn some(&mut self, agents: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..agents).collect();
        let count = 1 + self.below(agents as u64);
        let mut take = || left.swap_remove(usize::try_from(self.below(left.len() as u64)).unwrap());
        (0..count).map(|_| take()).collect()
    }

    /// Links fail one after the other, and heal one after the other in another order.
    fn swizzle(&mut self, agents: usize, fault: impl Fn(u64) -> Fault) {
        let mut failed = self.some(agents);
        for host in &failed {
            let fault = fault(self.below(u64::MAX));
            self.act(Act::Fault(*host, fault));
            self.wait(10, 1_500);
        }
        self.wait(10, 11_000);
        while !failed.is_empty() {
            let host = failed.swap_remove(usize::try_from(self.below(failed.len() as u64)).unwrap());
            self.act(Act::Heal(host));
            self.wait(10, 1_500);
        }
    }

    fn agents_come_and_go(&mut self, agents: usize) {
        for host in self.some(agents) {
            let power = self.below(2) == 0;
            // Some of what it said last is still on its way when it goes.
            let held = self.below(2) == 0;
            if held && !power {
                self.act(Act::Fault(host, Fault::Held));
                self.wait(10, 2_000);
            }
            self.act(if power { Act::PowerOff(host) } else { Act::Kill(host) });
            self.wait(10, 6_000);
            if held && !power {
                self.act(Act::Heal(host));
                self.wait(10, 2_000);
            }
            self.act(Act::Start(host));
            self.wait(10, 1_000);
        }
    }

    fn scheduler_restarts(&mut self, ends: Act) {
        self.act(ends);
        self.wait(10, 8_000);
        self.act(Act::StartScheduler);
        self.wait(500, 3_000);
    }

    /// Another machine calls itself like the first.
    fn twin(&mut self, at: usize) {
        self.act(Act::Start(at));
        self.wait(500, 9_000);
        self.act(Act::Kill(at));
        self.wait(10, 2_000);
    }
}
