//! A thousand agents whose scheduler goes away and comes back: how they come back is counted where they knock.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use aya_agent::simulation::{Dial, SimulatedAgent};
use aya_domain::{BootId, EngineHealth, Freshness, splitmix64};
use aya_observe::Clock;
use futures_util::StreamExt as _;
use turmoil::net::TcpStream;
use turmoil::{Builder, Sim};

use crate::hosts::{SCHEDULER, accepted, agent_config, gpu_of, readings, start_scheduler};

/// Machines of the simulation, which costs the square of them, and agents on each.
const RACKS: usize = 10;
const AGENTS_PER_RACK: usize = 100;
const AGENTS: usize = RACKS * AGENTS_PER_RACK;
const PERIOD: Duration = Duration::from_secs(1);
const SETTLE: Duration = Duration::from_secs(5);
const FRESH_WITHIN: Duration = Duration::from_secs(10);
const SLICE: Duration = Duration::from_millis(100);

/// What was seen of the agents.
#[derive(Debug, Default)]
struct Knocks {
    up: bool,
    /// Attempts to connect, and those that were accepted.
    tried: Vec<Duration>,
    accepted: Vec<Duration>,
    /// Nodes that are fresh in the scheduler's view, and streams that it holds open.
    fresh: usize,
    streams: usize,
}

type Shared = Rc<RefCell<Knocks>>;

async fn scheduler(knocks: Shared) -> turmoil::Result {
    while !knocks.borrow().up {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let scheduler = start_scheduler(1)?;
    let incoming = accepted().await?.inspect(|_| {
        knocks.borrow_mut().accepted.push(turmoil::sim_elapsed().unwrap());
    });
    let watching = async {
        loop {
            tokio::time::sleep(SLICE).await;
            let mut knocks = knocks.borrow_mut();
            knocks.streams = scheduler.streams();
            knocks.fresh = scheduler.look(|snapshot| {
                let nodes = snapshot.nodes.iter();
                nodes.filter(|node| node.freshness == Freshness::Fresh && node.connected).count()
            });
        }
    };
    tokio::select! {
        biased;
        ended = scheduler.serve(incoming) => Ok(ended?),
        () = watching => Ok(()),
    }
}

/// A machine with many agents.
async fn rack(at: usize, knocks: Shared) -> turmoil::Result {
    let (tried, mut told) = tokio::sync::mpsc::channel(AGENTS * 16);
    let mut agents = Vec::new();
    for agent in 0..AGENTS_PER_RACK {
        let node = format!("n{at}-{agent}");
        let mut config = agent_config(&node);
        (config.gpu.period, config.polling.period) = (PERIOD, PERIOD);
        let began = tokio::time::Instant::now();
        let tried = tried.clone();
        let dial = Dial::by(move |authority: String| {
            let _ = tried.try_send(());
            TcpStream::connect(authority)
        });
        let boot = BootId(splitmix64((at * AGENTS_PER_RACK + agent) as u64));
        let agent = SimulatedAgent::start(config, boot, Clock::told_by(move || began.elapsed()), dial)?;
        agent.gpus(vec![gpu_of(&node)]).await;
        agents.push(agent);
    }
    let mut next = 0;
    loop {
        for agent in &agents {
            next += 1;
            for id in agent.engines() {
                agent.read(id, EngineHealth::Ready, readings(agent, next, 1)).await;
            }
        }
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            while told.try_recv().is_ok() {
                knocks.borrow_mut().tried.push(turmoil::sim_elapsed().unwrap());
            }
        }
    }
}

struct Storm {
    sim: Sim<'static>,
    knocks: Shared,
}

impl Storm {
    fn new() -> Self {
        let mut sim = Builder::new()
            .rng_seed(12)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(Duration::from_millis(10))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .tcp_capacity(2 * AGENTS)
            .build();
        let knocks: Shared = Rc::new(RefCell::new(Knocks { up: true, ..Knocks::default() }));
        let shared = Rc::clone(&knocks);
        sim.host(SCHEDULER, move || scheduler(Rc::clone(&shared)));
        for at in 0..RACKS {
            let shared = Rc::clone(&knocks);
            sim.host(format!("rack{at}"), move || rack(at, Rc::clone(&shared)));
        }
        Self { sim, knocks }
    }

    fn run(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.sim.step().unwrap();
        }
    }

    /// Until every agent is seen fresh again.
    fn until_fresh(&mut self) -> Duration {
        let began = self.sim.elapsed();
        self.knocks.borrow_mut().fresh = 0;
        while self.knocks.borrow().fresh < AGENTS {
            self.run(SLICE);
            let took = self.sim.elapsed() - began;
            assert!(
                took <= FRESH_WITHIN,
                "{} of {AGENTS} are fresh after {took:?}",
                self.knocks.borrow().fresh
            );
        }
        self.sim.elapsed() - began
    }
}

/// The most in one slice, and the slices that were used.
fn crowd(times: &[Duration]) -> (usize, usize) {
    let slice = |at: &Duration| at.as_millis() / SLICE.as_millis();
    let mut counts = std::collections::BTreeMap::new();
    for time in times {
        *counts.entry(slice(time)).or_insert(0) += 1;
    }
    (counts.values().copied().max().unwrap_or(0), counts.len())
}

#[test]
fn c12_a_thousand_agents_come_back_to_a_scheduler_one_after_the_other() {
    let mut storm = Storm::new();
    storm.run(SETTLE);
    assert_eq!(storm.knocks.borrow().fresh, AGENTS);
    storm.knocks.borrow_mut().up = false;
    storm.sim.crash(SCHEDULER);
    storm.sim.bounce(SCHEDULER);
    *storm.knocks.borrow_mut() = Knocks::default();
    let away = Duration::from_secs(8);
    storm.run(away);
    let (tried, back_at) = (storm.knocks.borrow().tried.len(), storm.sim.elapsed());
    storm.knocks.borrow_mut().up = true;
    let took = storm.until_fresh();
    let knocks = storm.knocks.borrow();
    let (most, slices) = crowd(&knocks.accepted);
    let mean = AGENTS / slices;
    eprintln!(
        "{tried} attempts while it was away for {away:?}; all fresh {took:?} after {back_at:?}; \
         {most} in the fullest of {slices} slices of {SLICE:?}"
    );
    // Waits of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 and 4 s, or of half of it.
    assert!(tried <= 9 * AGENTS, "{tried} attempts");
    assert_eq!(knocks.accepted.len(), AGENTS, "each came once");
    assert_eq!(knocks.streams, AGENTS);
    assert!(slices >= 10 && most <= 4 * mean, "{most} came in {SLICE:?}, {mean} in the mean of {slices}");
}
