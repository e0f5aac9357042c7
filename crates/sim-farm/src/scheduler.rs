//! One scheduler of the farm: its own view of the fleet, its own ledger, what it has learned, and who waits.
//!
//! The parts are those of the live scheduler; only the atomics are plain numbers here.

use std::time::Duration;

use aya_admission::Strain;
use aya_domain::{
    BootId, Decision, EndpointIndex, IdError, ModelId, MonoTime, OwnLoad, Priority, Report, Request,
    RequestId, RequestKind, SchedulerId, Snapshot, TenantId, Tokens, Verdict, splitmix64,
};
use aya_estimate::{LengthDistribution, OutputPrior, PrefixIndex};
use aya_fleet::{
    BreakerParams, Event, Fleet, LedgerDigest, LedgerEntry, Notice, OwnInFlight, Params, PeerLedgers,
};
use aya_placement::{
    Consulted, Insights, Knowledge, Policy, Seen, Stream, decide_noting, expected_misses, queueing_s,
};

use crate::held::Held;
use crate::ledger::Cell;
use crate::progress::Progress;
use crate::workload::{Arrival, PREFIX_BLOCK_TOKENS};

/// Blocks at the beginning of a prompt that make its key for policies that hash.
const AFFINITY_BLOCKS: usize = 4;
/// A changed view is published at most this often, as live.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// One scheduler.
#[derive(Debug)]
pub(crate) struct Scheduler {
    fleet: Fleet,
    snapshot: Snapshot,
    changed: bool,
    published_at: MonoTime,
    pub(crate) cells: Vec<Cell>,
    /// What other schedulers last told of theirs, parallel to `cells`.
    others: Vec<OwnLoad>,
    id: SchedulerId,
    peers: PeerLedgers,
    digests: u64,
    pub(crate) output: OutputPrior,
    pub(crate) lengths: LengthDistribution,
    /// One index per endpoint.
    pub(crate) prefixes: Vec<PrefixIndex>,
    sequence: u64,
    /// Requests for which no endpoint had room.
    pub(crate) held: Held,
    /// Whether the fleet is told what came of requests.
    breaker: bool,
    loads: Vec<OwnLoad>,
    consulted: Consulted,
    pub(crate) strain: Strain,
    /// Filled anew for every decision.
    pub(crate) request: Request,
}

impl Scheduler {
    /// `kv_tokens`: the KV pool of every endpoint.
    pub(crate) fn new(id: SchedulerId, kv_tokens: &[Tokens], request: Request, breaker: bool) -> Self {
        let endpoints = kv_tokens.len();
        let blocks =
            |tokens: &Tokens| usize::try_from(tokens.get() / u64::from(PREFIX_BLOCK_TOKENS)).unwrap_or(0);
        Self {
            // Nobody probes here: an endpoint on trial is tried by requests.
            fleet: Fleet::new(Params {
                breaker: BreakerParams { probes: false, ..BreakerParams::DEFAULT },
                ..Params::DEFAULT
            }),
            snapshot: Snapshot::empty(),
            changed: false,
            published_at: MonoTime::ZERO,
            cells: std::iter::repeat_with(Cell::default).take(endpoints).collect(),
            others: vec![OwnLoad::default(); endpoints],
            peers: PeerLedgers::new(id.clone()),
            id,
            digests: 0,
            output: OutputPrior::default(),
            lengths: LengthDistribution::default(),
            prefixes: kv_tokens.iter().map(|tokens| PrefixIndex::new(blocks(tokens))).collect(),
            sequence: 0,
            held: Held::default(),
            breaker,
            loads: Vec::with_capacity(endpoints),
            consulted: Consulted::default(),
            strain: Strain::default(),
            request,
        }
    }

    /// Takes a report of the agent of the endpoint at this position; true if it asks for a FULL one.
    pub(crate) fn hear(&mut self, at: usize, report: Report, now: MonoTime) -> bool {
        let event = Event::Report { report: Box::new(report), received_at: now };
        let effects = self.fleet.apply(event, now);
        self.changed |= effects.changed;
        let went_down = |notice: &Notice| matches!(notice, Notice::EngineDown { .. });
        if effects.notices.iter().any(went_down)
            && let Some(index) = self.prefixes.get_mut(at)
        {
            // What it had cached went with it.
            index.clear();
        }
        effects.resend_full
    }

    /// Notes the ledger for the fleet's history, from which foreign load is told.
    pub(crate) fn note(&mut self, now: MonoTime) {
        self.count_peers(now);
        let directory = self.snapshot.directory.iter();
        let loads = directory.zip(self.cells.iter().zip(&self.others)).map(|(id, (cell, others))| {
            let own = cell.read(now).with(others);
            let noted = OwnInFlight {
                in_flight: own.in_flight,
                decoding: own.decoding,
                kv_tokens: own.decode_kv_tokens,
            };
            (id.clone(), noted)
        });
        let loads = loads.collect();
        self.changed |= self.fleet.apply(Event::OwnLoad { at: now, loads }, now).changed;
        if self.breaker {
            let cells = self.snapshot.directory.iter().zip(&self.cells);
            let all = cells.map(|(id, cell)| (id.clone(), cell.outcomes())).collect();
            self.changed |= self.fleet.apply(Event::Outcomes { at: now, all }, now).changed;
        }
        let cells = self.snapshot.directory.iter().zip(self.cells.iter_mut().zip(&self.others));
        let observed = cells.filter_map(|(id, (cell, others))| {
            // Beside another scheduler's requests the batch is not known.
            let seen = cell.observed().filter(|_| others.in_flight == 0)?;
            Some((id.clone(), seen))
        });
        let steps = observed.collect();
        self.changed |= self.fleet.apply(Event::Steps { steps }, now).changed;
    }

    /// The whole ledger, for the other schedulers.
    pub(crate) fn digest(&mut self, now: MonoTime, period: Duration) -> LedgerDigest {
        self.digests += 1;
        let cells = self.snapshot.directory.iter().zip(&self.cells);
        let busy = cells.filter(|(_, cell)| !cell.is_forgotten(now));
        LedgerDigest {
            scheduler: self.id.clone(),
            boot: BootId(1),
            sequence: self.digests,
            age: Duration::ZERO,
            period,
            entries: busy.map(|(id, cell)| (id.clone(), LedgerEntry::of(&cell.read(now)))).collect(),
        }
    }

    /// Takes another scheduler's ledger. What it holds is then not foreign any more.
    pub(crate) fn hear_peer(&mut self, digest: &LedgerDigest, now: MonoTime) {
        self.peers.hear(digest, now);
        self.count_peers(now);
    }

    fn count_peers(&mut self, now: MonoTime) {
        let directory = self.snapshot.directory.iter();
        for (sum, id) in self.others.iter_mut().zip(directory) {
            *sum = self.peers.load(id, now);
        }
    }

    /// Time passes for the fleet: nodes grow stale.
    pub(crate) fn tick(&mut self, now: MonoTime) {
        self.changed |= self.fleet.apply(Event::Tick, now).changed;
    }

    fn publish(&mut self, now: MonoTime) {
        let first = self.snapshot.generation == 0;
        if self.changed && (first || now.since(self.published_at) >= PUBLISH_EVERY) {
            self.snapshot = self.fleet.snapshot(now);
            self.published_at = now;
            self.changed = false;
        }
    }

    /// Prompt tokens that the cache of the endpoint at this position probably holds: at least one is computed.
    pub(crate) fn cached(&self, arrival: &Arrival, at: usize) -> u32 {
        cached(&self.prefixes, arrival, at)
    }

    /// When the first token is due at the endpoint's full speed, in seconds, as a decision predicted it.
    pub(crate) fn due_s(&self, decision: &Decision, at: usize) -> f64 {
        let verdict = decision.candidates.get(at).map(|candidate| candidate.verdict);
        let Some(Verdict::Scored { terms, .. }) = verdict else { return 0.0 };
        terms.predicted_ttft_s * self.snapshot.endpoints.get(at).map_or(1.0, |of| of.speed.get())
    }

    /// Decides where a request goes; the same call that the live scheduler makes, with what only the simulation
    /// can know yet; and the seconds that the request would lose to those before it.
    pub(crate) fn decide(
        &mut self,
        arrival: &Arrival,
        tried: &[usize],
        requests: &[Progress],
        policy: &Policy,
        now: MonoTime,
        seed: u64,
    ) -> (Decision, Foreseen) {
        self.publish(now);
        self.loads.clear();
        let cells = self.cells.iter().zip(&self.others);
        self.loads.extend(cells.map(|(cell, others)| cell.read(now).with(others)));
        let prompt = Tokens(u64::from(arrival.prompt_tokens));
        self.request.sequence = self.sequence;
        self.request.prompt_tokens = prompt;
        self.request.prompt_tokens_min = prompt;
        self.request.expected_output = self.output.expected();
        self.request.expected_residual = self.output.residual();
        self.request.arrived_at = now;
        self.request.tried.clear();
        let failed = tried.iter().filter_map(|at| self.snapshot.directory.get(*at));
        self.request.tried.extend(failed.cloned());
        let seed = splitmix64(seed ^ self.sequence);
        self.sequence += 1;
        let insights = Sight { cells: &self.cells, prefixes: &self.prefixes, arrival, requests, now };
        let first = arrival.blocks.get(..arrival.blocks.len().min(AFFINITY_BLOCKS)).unwrap_or_default();
        let hashed = || first.iter().fold(0, |hash, block| splitmix64(hash ^ block));
        let knowledge = Knowledge {
            endpoints: Some(&insights),
            lengths: Some(&self.lengths),
            affinity: (!first.is_empty()).then(hashed),
        };
        let seen = Seen { snapshot: &self.snapshot, loads: &self.loads, knowledge };
        let decision = decide_noting(seen, &self.request, policy, now, seed, &mut self.consulted);
        let own = |at: EndpointIndex| self.loads.get(at.get()).copied().unwrap_or_default();
        let queueing_s = queueing_s(&decision, &self.snapshot, own, &self.request, policy);
        let misses = expected_misses(&decision, &self.snapshot, own, &self.request, policy);
        (decision, Foreseen { queueing_s, misses })
    }
}

/// What would become of a request that is placed as decided, and of others there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreseen {
    pub(crate) queueing_s: Option<f64>,
    pub(crate) misses: Option<f64>,
}

/// What a scheduler knows of the endpoints about one request.
#[derive(Debug)]
struct Sight<'a> {
    cells: &'a [Cell],
    prefixes: &'a [PrefixIndex],
    arrival: &'a Arrival,
    requests: &'a [Progress],
    now: MonoTime,
}

impl Insights for Sight<'_> {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        Tokens(u64::from(cached(self.prefixes, self.arrival, endpoint.get())))
    }

    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        self.cells.get(endpoint.get()).map(|cell| Tokens(cell.prompts))
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        let Some(cell) = self.cells.get(endpoint.get()) else { return };
        let of = |at: &usize| self.requests.get(*at);
        pending.extend(cell.pending.iter().filter_map(of).map(Progress::uncached));
        streams.extend(cell.decoding.iter().filter_map(of).map(|request| Stream {
            tokens: request.generated,
            since_first_ms: request.first_token.map_or(0, |at| millis(self.now.since(at))),
        }));
    }
}

fn cached(prefixes: &[PrefixIndex], arrival: &Arrival, at: usize) -> u32 {
    let blocks = prefixes.get(at).map_or(0, |index| index.matched(&arrival.blocks).blocks);
    let tokens = u32::try_from(blocks).unwrap_or(u32::MAX).saturating_mul(PREFIX_BLOCK_TOKENS);
    tokens.min(arrival.prompt_tokens.saturating_sub(1))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The request that every decision fills anew.
pub(crate) fn blank_request(model: ModelId) -> Result<Request, IdError> {
    Ok(Request {
        id: RequestId::parse("simulated")?,
        sequence: 0,
        model,
        kind: RequestKind::Chat,
        stream: true,
        prompt_bytes: 0,
        prompt_tokens: Tokens(0),
        prompt_tokens_min: Tokens(0),
        max_tokens: None,
        expected_output: 0.0,
        expected_residual: 0.0,
        arrived_at: MonoTime::ZERO,
        priority: Priority::default(),
        tenant: TenantId::default(),
        deadline: None,
        slo: None,
        prefix: aya_domain::PromptPrefix::default(),
        tried: Vec::new(),
    })
}
