//! What is really so in a simulated farm, written down as it happens: what the rules compare the scheduler's view with.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Numbers of one start before the next one's begin.
const SAMPLES_PER_START: u64 = 100_000;
/// Requests of others on every engine, all the time.
pub(crate) const FOREIGN: u32 = 3;

/// A start of an agent, over all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start(pub(crate) u64);

impl Start {
    /// Its boot id on the wire: in no order.
    pub(crate) fn boot(self) -> u64 {
        aya_domain::splitmix64(self.0 + 1)
    }
}

/// One start of an agent and all that it saw.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) host: usize,
    pub(crate) node: String,
    /// When each round of readings was made, by its number.
    pub(crate) samples: Vec<Duration>,
    /// Codes of the XIDs that happened.
    pub(crate) xids: Vec<u32>,
    /// Its engines now.
    pub(crate) engines: BTreeSet<String>,
}

/// The state of a host and of its link to the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    /// Whether the agent is meant to run; its machine answers either way.
    pub(crate) up: bool,
    pub(crate) down_since: Option<Duration>,
    /// Since when nothing can pass between it and the scheduler, whichever side is to blame.
    pub(crate) silent_since: Option<Duration>,
    /// Since when nothing is in the way.
    pub(crate) well_since: Option<Duration>,
}

impl Host {
    pub(crate) const UP: Self =
        Self { up: true, down_since: None, silent_since: None, well_since: Some(Duration::ZERO) };
    pub(crate) const DOWN: Self = Self {
        up: false,
        down_since: Some(Duration::ZERO),
        silent_since: Some(Duration::ZERO),
        well_since: None,
    };
}

/// Everything; hosts share it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) lives: Vec<Life>,
    pub(crate) hosts: Vec<Host>,
    /// The node that each host is.
    pub(crate) names: Vec<String>,
    pub(crate) scheduler_up: bool,
    /// Requests of the scheduler on each engine.
    pub(crate) own: BTreeMap<String, u32>,
    /// The first thing that was not as it must be.
    pub(crate) broken: Option<String>,
    /// Nothing new happens to engines and GPUs any more.
    pub(crate) quiet: bool,
    /// Asks the scheduler's watch whether the view is the truth, now that all is well.
    pub(crate) at_rest: bool,
    pub(crate) was_held_at_rest: bool,
    /// Digest of everything that the scheduler showed.
    pub(crate) history: u64,
    next_xid: u32,
}

pub(crate) type Shared = Rc<RefCell<Truth>>;

impl Truth {
    pub(crate) fn new(names: Vec<String>) -> Shared {
        let truth = Self { hosts: vec![Host::UP; names.len()], names, scheduler_up: true, ..Self::default() };
        Rc::new(RefCell::new(truth))
    }

    pub(crate) fn begin(&mut self, host: usize, node: &str, engines: BTreeSet<String>) -> Start {
        let start = Start(self.lives.len() as u64);
        let (samples, xids) = (Vec::new(), Vec::new());
        self.lives.push(Life { host, node: node.to_owned(), samples, xids, engines });
        start
    }

    pub(crate) fn life(&mut self, start: Start) -> &mut Life {
        &mut self.lives[usize::try_from(start.0).unwrap()]
    }

    /// A round of readings begins; its number is what the readings carry.
    pub(crate) fn sample(&mut self, start: Start, at: Duration) -> u64 {
        let life = self.life(start);
        life.samples.push(at);
        start.0 * SAMPLES_PER_START + life.samples.len() as u64
    }

    /// Whose round this is, its number there, and when it was made.
    pub(crate) fn round(&self, code: u64) -> Option<(Start, u64, Duration)> {
        let (start, number) = (code / SAMPLES_PER_START, code % SAMPLES_PER_START);
        let life = self.lives.get(usize::try_from(start).ok()?)?;
        let at = life.samples.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
        Some((Start(start), number, *at))
    }

    /// An XID of its own: none of those that a rule acts on, and each code once.
    pub(crate) fn xid(&mut self, start: Start) -> (u32, u32) {
        self.next_xid += 1;
        let code = 10_000 + self.next_xid;
        let xids = &mut self.life(start).xids;
        xids.push(code);
        (code, u32::try_from(xids.len()).unwrap())
    }

    pub(crate) fn broke(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(crate) fn note(&mut self, what: u64) {
        self.history = aya_domain::splitmix64(self.history ^ what);
    }
}
