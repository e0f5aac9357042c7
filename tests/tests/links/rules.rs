//! What must hold whenever the scheduler's view is looked at, and what must hold once everything is well again.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use aya_domain::{Endpoint, EndpointId, Freshness, Health, MonoTime, Node, Phase, Snapshot, splitmix64};
use aya_scheduler::simulation::{InFlight, SimulatedScheduler};

use crate::hosts::{PERIOD, code_of};
use crate::truth::{FOREIGN, Shared, Start};

/// From what happens until it shows: a message on its way, the next published view, the next look.
const SHOWS: Duration = Duration::from_millis(200);
/// Three periods, which is more than the second that is the least.
const STALE_AFTER: Duration = Duration::from_millis(1_500);
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(10);
/// Once nothing is in the way, an agent is seen fresh after this: 10 s until it notices that a stream is dead, 4 s of
/// backoff, and the way.
pub(crate) const FRESH_AFTER: Duration = Duration::from_secs(15);
/// By how much data may look younger than it is: clocks that are wrong, and what a simulated step rounds.
const YOUNGER_MAX: Duration = Duration::from_millis(30);
/// By how much it may look older over a link that is well: one way of the scheduler's last answer, and a step.
const OLDER_MAX: Duration = Duration::from_millis(120);
/// After this the answers that were held up have come, and tell the age of what is said next.
const ANSWERED_AFTER: Duration = Duration::from_secs(2);
/// Around a sample, what is ours must not have changed for the rest to be known exactly.
const SETTLED: Duration = Duration::from_millis(600);
/// Streams of one host that the scheduler has not yet given up; each lives 20 s at the most after its end.
const STREAMS_PER_HOST_MAX: usize = 6;
/// Requests of ours on one engine.
const OWN_MAX: usize = 4;

/// What was seen of one node by this start of the scheduler.
#[derive(Debug, Clone, Copy)]
struct Seen {
    start: Start,
    heard_at: Duration,
}

/// The watch over one start of the scheduler.
pub(crate) struct Rules {
    began: Duration,
    scheduler: Rc<SimulatedScheduler>,
    truth: Shared,
    nodes: BTreeMap<String, Seen>,
    /// Every start that was heard.
    starts: BTreeSet<Start>,
    /// The newest round seen of each endpoint.
    codes: BTreeMap<String, u64>,
    xids: BTreeSet<u32>,
    last_event: u64,
    /// Our requests on each engine, and when they last changed.
    own: BTreeMap<String, Vec<InFlight>>,
    changed: BTreeMap<String, Vec<Duration>>,
    draw: u64,
}

impl Rules {
    pub(crate) fn new(began: Duration, scheduler: Rc<SimulatedScheduler>, truth: Shared, seed: u64) -> Self {
        Self {
            began,
            scheduler,
            truth,
            nodes: BTreeMap::new(),
            starts: BTreeSet::new(),
            codes: BTreeMap::new(),
            xids: BTreeSet::new(),
            last_event: 0,
            own: BTreeMap::new(),
            changed: BTreeMap::new(),
            draw: splitmix64(seed),
        }
    }

    /// Holds the scheduler's view against the truth.
    pub(crate) fn look(&mut self, now: Duration) {
        let scheduler = Rc::clone(&self.scheduler);
        let (mono, streams) = (scheduler.now(), scheduler.streams());
        let held = scheduler.look(|snapshot| self.hold(snapshot, now, mono, streams));
        if let Err(broken) = held.and_then(|()| self.events_come_once()) {
            self.truth.borrow_mut().broke(format!("at {now:.2?}: {broken}"));
        }
        if self.truth.borrow().at_rest {
            let held = self.hold_at_rest();
            let mut truth = self.truth.borrow_mut();
            truth.was_held_at_rest = true;
            if let Err(broken) = held {
                truth.broke(format!("at rest: {broken}"));
            }
            return;
        }
        self.play(now);
    }

    fn hold(
        &mut self,
        snapshot: &Snapshot,
        now: Duration,
        mono: MonoTime,
        streams: usize,
    ) -> Result<(), String> {
        let at = |then: MonoTime| now.saturating_sub(mono.since(then));
        let hosts = self.truth.borrow().hosts.len();
        ensure(streams <= hosts * STREAMS_PER_HOST_MAX, || format!("{streams} streams of {hosts} agents"))?;
        for node in &snapshot.nodes {
            self.node_speaks_for_itself(node, at(node.last_report_at))?;
            self.freshness_is_true(node, at(node.last_report_at), now)?;
        }
        for endpoint in &snapshot.endpoints {
            self.endpoint_is_as_read(endpoint, &at)?;
        }
        self.nobody_is_missing(snapshot, now)?;
        for id in self.codes.keys().filter(|id| id.ends_with("-a")) {
            let id = EndpointId::parse(id).unwrap();
            ensure(snapshot.index_of(&id).is_some(), || format!("{id} was lost"))?;
        }
        Ok(())
    }

    /// Its start is one of its own, and gives way to one that was never heard before, or when it is silent.
    fn node_speaks_for_itself(&mut self, node: &Node, heard_at: Duration) -> Result<(), String> {
        let id = node.id.to_string();
        let start = {
            let truth = self.truth.borrow();
            let lives = truth.lives.iter().enumerate();
            let mut own = lives.filter(|(_, life)| life.node == id).map(|(at, _)| Start(at as u64));
            own.find(|start| start.boot() == node.boot.0)
        };
        let start = start.ok_or_else(|| format!("node {id} has a boot of nobody"))?;
        let seen = self.nodes.insert(id.clone(), Seen { start, heard_at });
        let Some(before) = seen else {
            self.starts.insert(start);
            return Ok(());
        };
        ensure(heard_at + Duration::from_millis(1) >= before.heard_at, || {
            format!("node {id} was heard at {heard_at:?}, after {:?}", before.heard_at)
        })?;
        let silent = heard_at.saturating_sub(before.heard_at);
        let is_new = self.starts.insert(start) || start == before.start;
        ensure(is_new || silent >= SUSPECT_AFTER - SHOWS, || {
            format!("node {id}: {start:?} took over from {:?}, which spoke {silent:?} ago", before.start)
        })
    }

    /// Silence shows, and nothing was heard that could not be.
    fn freshness_is_true(&self, node: &Node, heard_at: Duration, now: Duration) -> Result<(), String> {
        let truth = self.truth.borrow();
        let hosts = truth.hosts.iter().zip(&truth.names);
        let of_node = hosts.filter(|(_, name)| **name == *node.id.as_str()).map(|(host, _)| host);
        let silent: Option<Vec<Duration>> = of_node.map(|host| host.silent_since).collect();
        let Some(since) = silent.and_then(|all| all.into_iter().max()) else { return Ok(()) };
        let silent = now.saturating_sub(since).saturating_sub(SHOWS);
        ensure(heard_at <= since + SHOWS, || {
            format!("node {} was heard at {heard_at:?}, and is silent since {since:?}", node.id)
        })?;
        let right = match node.freshness {
            Freshness::Fresh => silent < STALE_AFTER,
            Freshness::Stale => silent < SUSPECT_AFTER,
            Freshness::Suspect => true,
        };
        ensure(right, || format!("node {} is {}, and silent for {silent:?}", node.id, node.freshness))
    }

    /// What is known of it was read of it, once, in order and when it is said to have been.
    fn endpoint_is_as_read(
        &mut self,
        endpoint: &Endpoint,
        at: &impl Fn(MonoTime) -> Duration,
    ) -> Result<(), String> {
        let id = endpoint.info.id.to_string();
        let kv = endpoint.kv_used.ok_or_else(|| format!("{id} was never read"))?;
        let code = code_of(kv.value);
        let round = self.truth.borrow().round(code);
        let (start, number, read_at) = round.ok_or_else(|| format!("{id}: {code} was never read"))?;
        self.truth.borrow_mut().note(code ^ u64::try_from(at(kv.sampled_at).as_nanos()).unwrap());
        let node = self.truth.borrow_mut().life(start).node.clone();
        ensure(endpoint.info.node.as_str() == node, || format!("{id} was read by {node}"))?;
        let before = self.codes.insert(id.clone(), code);
        if let Some((of, last, _)) = before.and_then(|code| self.truth.borrow().round(code)) {
            ensure(of != start || last <= number, || format!("{id}: round {number} came after {last}"))?;
        }
        self.age_is_true(&id, start, read_at, at(kv.sampled_at))?;
        if endpoint.phase == Phase::Serving {
            ensure(endpoint.health == Health::Healthy, || format!("{id} is {:?}", endpoint.health))?;
        }
        ensure(endpoint.running.is_some_and(|running| running.value >= FOREIGN), || {
            format!("{id} is read as idle: {:?}", endpoint.running)
        })?;
        let none = Vec::new();
        let mut changes = self.changed.get(&id).unwrap_or(&none).iter();
        let settled = read_at > self.began && changes.all(|change| change.abs_diff(read_at) > SETTLED);
        let foreign = endpoint.foreign.running + endpoint.foreign.waiting;
        ensure(!settled || foreign == FOREIGN, || {
            format!(
                "{id}: {foreign} requests of others in round {number} of {start:?}, and there were {FOREIGN}"
            )
        })
    }

    fn age_is_true(&self, id: &str, start: Start, read_at: Duration, said: Duration) -> Result<(), String> {
        let mut truth = self.truth.borrow_mut();
        let (younger, older) = (said.saturating_sub(read_at), read_at.saturating_sub(said));
        let host = truth.life(start).host;
        let well = truth.hosts[host].well_since.is_some_and(|since| since + ANSWERED_AFTER <= read_at);
        ensure(younger <= YOUNGER_MAX && (!well || older <= OLDER_MAX), || {
            format!("{id} was read at {read_at:?} ({start:?}, well: {well}), as is said at {said:?}")
        })
    }

    /// Every agent that nothing keeps away is here, fresh, with all its engines.
    fn nobody_is_missing(&self, snapshot: &Snapshot, now: Duration) -> Result<(), String> {
        let truth = self.truth.borrow();
        for (at, (host, name)) in truth.hosts.iter().zip(&truth.names).enumerate() {
            let Some(since) = host.well_since.map(|since| since.max(self.began)) else { continue };
            if now.saturating_sub(since) < FRESH_AFTER + SHOWS {
                continue;
            }
            let node = snapshot.nodes.iter().find(|node| node.id.as_str() == name);
            let node = node.ok_or_else(|| format!("{name} is well since {since:?} and unknown"))?;
            ensure(node.freshness == Freshness::Fresh && node.connected, || {
                format!(
                    "{name} is well since {since:?}, and {} (connected: {})",
                    node.freshness, node.connected
                )
            })?;
            let life = truth.lives.iter().rev().find(|life| life.host == at);
            let last = life.and_then(|life| life.samples.last());
            let lag = last.map_or(Duration::MAX, |last| now.saturating_sub(*last));
            ensure(lag <= PERIOD + SHOWS, || format!("the sampler of {name} stands still"))?;
        }
        Ok(())
    }

    /// No event of a GPU is told twice, or made up.
    fn events_come_once(&mut self) -> Result<(), String> {
        for event in self.scheduler.events_after(self.last_event).iter().rev() {
            self.last_event = event.id;
            let Some(code) = event.xid.filter(|_| event.kind == "gpu_event") else { continue };
            let mut truth = self.truth.borrow_mut();
            truth.note(u64::from(code));
            ensure(truth.lives.iter().any(|life| life.xids.contains(&code)), || {
                format!("XID {code} never was")
            })?;
            ensure(self.xids.insert(code), || format!("XID {code} was told twice"))?;
        }
        Ok(())
    }

    /// Sends requests and lets them end.
    fn play(&mut self, now: Duration) {
        self.draw = splitmix64(self.draw);
        let names: Vec<String> = self.codes.keys().filter(|id| id.ends_with("-a")).cloned().collect();
        if !self.draw.is_multiple_of(16) || names.is_empty() {
            return;
        }
        let id = &names[usize::try_from(self.draw >> 8 & 0xff).unwrap() % names.len()];
        let own = self.own.entry(id.clone()).or_default();
        if own.len() == OWN_MAX || (!own.is_empty() && self.draw >> 20 & 1 == 0) {
            own.pop();
        } else {
            own.extend(self.scheduler.send(&EndpointId::parse(id).unwrap()));
        }
        self.truth.borrow_mut().own.insert(id.clone(), u32::try_from(own.len()).unwrap());
        self.changed.entry(id.clone()).or_default().push(now);
    }

    /// All is well for long: the view is the truth.
    fn hold_at_rest(&self) -> Result<(), String> {
        let truth = self.truth.borrow();
        let mut engines = BTreeSet::new();
        for (host, name) in truth.names.iter().enumerate().filter(|(host, _)| truth.hosts[*host].up) {
            let life = truth.lives.iter().rev().find(|life| life.host == host);
            let life = life.ok_or_else(|| format!("{name} never started"))?;
            engines.extend(life.engines.iter().cloned());
            let missing = life.xids.iter().find(|code| !self.xids.contains(*code));
            ensure(missing.is_none(), || format!("XID {missing:?} of {name} was not told"))?;
        }
        self.scheduler.look(|snapshot| {
            let known: BTreeSet<String> = snapshot.endpoints.iter().map(|e| e.info.id.to_string()).collect();
            ensure(known == engines, || format!("{known:?} are known, and {engines:?} are there"))?;
            for node in &snapshot.nodes {
                let live = truth
                    .lives
                    .iter()
                    .rev()
                    .find(|life| life.node == *node.id.as_str() && truth.hosts[life.host].up);
                let told = node.gpus.first().and_then(|gpu| gpu.sample).and_then(|sample| sample.value.xids);
                let were = live.map(|life| u32::try_from(life.xids.len()).unwrap());
                ensure(told == were, || {
                    format!("{told:?} XIDs are counted of {}, and {were:?} were", node.id)
                })?;
            }
            Ok(())
        })
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
