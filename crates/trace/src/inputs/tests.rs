//! A farm that changes in every way it can: what is written of it must give the same decisions.

mod budget;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    Action, Bytes, Cause, Condition, Decision, DecisionId, Endpoint, EndpointId, EndpointIndex, EndpointInfo,
    EndpointUrl, EngineKind, ForeignLoad, Freshness, GpuUuid, Health, ModelId, MonoTime, NodeId, OwnLoad,
    Phase, Pool, Priority, Ratio, Reading, Request, RequestId, RequestKind, ServedModel, Slo, Snapshot,
    TenantId, Tokens, splitmix64,
};
use aya_estimate::{DecayedRate, LengthDistribution};
use aya_placement::{Insights, Knowledge, Policy, Seen, Stream, decide_noting};

use super::*;
use crate::log::DecisionLog;
use crate::replay::{differences, visit};
use crate::segments::segments_in;

/// Numbers from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = splitmix64(self.0);
        self.0
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn small(&mut self, limit: u64) -> u32 {
        u32::try_from(self.below(limit)).unwrap()
    }

    /// One time in so many.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn unit(&mut self) -> f64 {
        f64::from(self.small(1 << 30)) / f64::from(1 << 30)
    }
}

/// Knows something of every endpoint, from a seed.
#[derive(Debug)]
struct Oracle(u64);

impl Insights for Oracle {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        Tokens((splitmix64(self.0 ^ u64::from(endpoint.0)) % 3_000).saturating_sub(1_500))
    }

    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        endpoint.0.is_multiple_of(2).then_some(Tokens(splitmix64(self.0) % 9_000))
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        let mut dice = Dice(self.0 ^ u64::from(endpoint.0));
        let count = dice.below(3);
        pending.extend((0..count).map(|_| dice.small(4_000)));
        for _ in 0..dice.below(6) {
            streams.push(Stream { tokens: dice.small(900), since_first_ms: dice.small(60_000) });
        }
    }
}

/// A farm with its ledger.
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: MonoTime,
    pub(crate) snapshot: Snapshot,
    pub(crate) loads: Vec<(OwnLoad, DecayedRate)>,
    sequence: u64,
}

const MODELS: [&str; 2] = ["m", "org/other"];

impl World {
    pub(crate) fn new(seed: u64, endpoints: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            now: MonoTime::from_millis(seed % 1_000_000),
            snapshot: Snapshot::empty(),
            loads: Vec::new(),
            sequence: 0,
        };
        world.members(endpoints);
        world
    }

    /// So many endpoints, none of which is known.
    fn members(&mut self, endpoints: u64) {
        let mut ids: Vec<u64> = (0..endpoints).map(|at| at * 3 + self.dice.below(3)).collect();
        ids.sort_unstable();
        self.snapshot.endpoints = ids.iter().map(|id| self.endpoint(*id)).collect();
        self.snapshot.directory = self.snapshot.endpoints.iter().map(|e| e.info.id.clone()).collect();
        self.loads = ids.iter().map(|_| (OwnLoad::default(), DecayedRate::default())).collect();
        self.pools();
    }

    fn endpoint(&mut self, id: u64) -> Endpoint {
        let kinds = EngineKind::ALL;
        let profiles = aya_estimate::all();
        let profile = profiles[usize::try_from(self.dice.below(profiles.len() as u64)).unwrap()].profile;
        let maybe = |dice: &mut Dice, limit: u64| (!dice.one_in(3)).then(|| 1 + dice.below(limit));
        let models = MODELS.iter().take(1 + usize::try_from(self.dice.below(2)).unwrap());
        let served = |model: &&str| ServedModel {
            id: ModelId::parse(model).unwrap(),
            context_length: Some(Tokens(4_096 + id * 10_000)),
            parent: None,
        };
        Endpoint::unread(Arc::new(EndpointInfo {
            id: EndpointId::parse(&format!("n{id:05}/e")).unwrap(),
            node: NodeId::parse(&format!("n{id:05}")).unwrap(),
            kind: kinds[usize::try_from(self.dice.below(kinds.len() as u64)).unwrap()],
            url: EndpointUrl::parse("http://127.0.0.1:8000").unwrap(),
            models: models.map(served).collect(),
            profile,
            profile_source: ["engine", "prior"][usize::from(self.dice.one_in(2))].to_owned(),
            learned: None,
            max_sequences: maybe(&mut self.dice, 64).and_then(|n| u32::try_from(n).ok()),
            kv_capacity: maybe(&mut self.dice, 500_000).map(Tokens),
            kv_bytes_per_token: maybe(&mut self.dice, 200_000).map(Bytes),
            gpus: vec![GpuUuid::parse(&format!("GPU-{id}")).unwrap()],
            version: self.dice.one_in(2).then(|| "0.11.0".to_owned()),
            abort: aya_domain::AbortPolicy::Cancel,
        }))
    }

    fn pools(&mut self) {
        let mut models: BTreeMap<ModelId, Pool> = BTreeMap::new();
        for (endpoint, at) in self.snapshot.endpoints.iter().zip(0..) {
            for model in &endpoint.info.models {
                let members = &mut models.entry(model.id.clone()).or_default().members;
                members.push((EndpointIndex(at), model.context_length));
            }
        }
        self.snapshot.models = models;
    }

    /// Time passes and everything may change.
    pub(crate) fn step(&mut self) {
        self.now = self.now.after(Duration::from_nanos(self.dice.below(200_000_000)));
        self.snapshot.generation += self.dice.below(3);
        if self.dice.one_in(40) {
            let count = self.dice.below(12);
            self.snapshot.generation += 1;
            self.members(count);
        }
        let (now, dice) = (self.now, &mut self.dice);
        for endpoint in &mut self.snapshot.endpoints {
            if dice.one_in(3) {
                report(endpoint, now, dice);
                // A snapshot with other content has another generation.
                self.snapshot.generation += 1;
            }
        }
        for (load, rate) in &mut self.loads {
            if dice.one_in(2) {
                load.in_flight = dice.small(60);
                load.decoding = dice.small(60);
                load.prefilling = dice.small(3);
                load.prefill_tokens = dice.below(4_000);
                load.decode_kv_tokens += dice.below(100);
                load.cooling_until = dice.one_in(8).then(|| now.after(Duration::from_millis(70)));
            }
            if dice.one_in(5) {
                rate.add(now, Tokens(dice.below(10_000)));
            }
            load.prefill_rate = rate.read(now);
        }
    }

    fn request(&mut self) -> Request {
        let dice = &mut self.dice;
        self.sequence += 1;
        let model = ["m", "m", "m", "org/other", "stranger"][usize::try_from(dice.below(5)).unwrap()];
        let prompt = 1 + dice.below(30_000);
        let tried = self.snapshot.directory.iter().filter(|_| dice.one_in(9)).cloned().collect();
        Request {
            id: RequestId::parse(&format!("r{}", self.sequence)).unwrap(),
            sequence: self.sequence,
            model: ModelId::parse(model).unwrap(),
            kind: [RequestKind::Chat, RequestKind::Completion, RequestKind::Embedding]
                [usize::try_from(dice.below(3)).unwrap()],
            stream: dice.one_in(2),
            prompt_bytes: prompt * 4,
            prompt_tokens: Tokens(prompt),
            prompt_tokens_min: Tokens(prompt / 8),
            max_tokens: dice.one_in(2).then(|| Tokens(dice.below(4_000))),
            expected_output: 1.0 + dice.unit() * 300.0,
            expected_residual: dice.unit() * 300.0,
            arrived_at: self.now.before(Duration::from_micros(dice.below(5_000))),
            priority: Priority::ALL[usize::try_from(dice.below(3)).unwrap()],
            tenant: if dice.one_in(2) { TenantId::default() } else { TenantId::parse("team-a").unwrap() },
            deadline: dice.one_in(2).then(|| self.now.after(Duration::from_secs(9))),
            slo: dice
                .one_in(2)
                .then_some(Slo { ttft: Duration::from_millis(300), tpot: Duration::from_nanos(7) }),
            prefix: aya_domain::PromptPrefix::default(),
            tried,
        }
    }

    fn policy(&mut self) -> Policy {
        let names: Vec<_> = Policy::names().collect();
        let name = names[usize::try_from(self.dice.below(names.len() as u64)).unwrap()];
        let mut policy = Policy::named(if self.dice.one_in(2) { "aya" } else { name }).unwrap();
        if self.dice.one_in(4) {
            policy.hold.max_backlog_s = self.dice.unit();
        }
        policy
    }

    /// One decision, as the scheduler would record it.
    pub(crate) fn decide(&mut self, log: &mut DecisionLog) -> Decision {
        let (request, policy, seed) = (self.request(), self.policy(), self.dice.next());
        self.decide_on(log, &request, &policy, seed)
    }

    fn decide_on(&self, log: &mut DecisionLog, request: &Request, policy: &Policy, seed: u64) -> Decision {
        let loads: Vec<OwnLoad> = self.loads.iter().map(|(load, _)| *load).collect();
        let own: Vec<OwnRead> =
            self.loads.iter().map(|(load, rate)| OwnRead { load: *load, rate: *rate }).collect();
        let oracle = Oracle(seed);
        let knows = seed % 3;
        let mut read = KnowledgeRead::default();
        if knows > 0 {
            let counts = (0..40).map(|at| u32::try_from(splitmix64(seed % 9 + at) % 50).unwrap()).collect();
            read.lengths = (knows > 1).then(|| Arc::new(LengthDistribution::from_histogram(9, counts)));
            read.affinity = seed.is_multiple_of(5).then_some(seed);
        }
        let knowledge = Knowledge {
            endpoints: (knows > 0).then_some(&oracle as &dyn Insights),
            lengths: read.lengths.as_deref(),
            affinity: read.affinity,
        };
        let seen = Seen { snapshot: &self.snapshot, loads: &loads, knowledge };
        let decision = decide_noting(seen, request, policy, self.now, seed, &mut read.consulted);
        let inputs = Inputs {
            snapshot: &self.snapshot,
            loads: &own,
            knowledge: (knows > 0).then_some(&read),
            request,
            policy,
            now: self.now,
            seed,
        };
        let decision_id = DecisionId::parse(&format!("d{}", request.sequence)).unwrap();
        let decided = Decided { decision_id: &decision_id, attempt: 1, inputs, decision: &decision };
        log.decided(&decided).unwrap();
        decision
    }
}

fn report(endpoint: &mut Endpoint, now: MonoTime, dice: &mut Dice) {
    let dice_mhz = dice.small(900);
    let at = now.before(Duration::from_micros(dice.below(50_000)));
    let reading = |dice: &mut Dice| at.before(Duration::from_micros(if dice.one_in(9) { 700 } else { 0 }));
    endpoint.sampled_at = (!dice.one_in(9)).then_some(at);
    endpoint.running = (!dice.one_in(5)).then(|| Reading::new(dice.small(60), reading(dice)));
    endpoint.waiting = (!dice.one_in(5)).then(|| Reading::new(dice.small(3), reading(dice)));
    endpoint.kv_used = (!dice.one_in(5)).then(|| Reading::new(Ratio::clamped(dice.unit()), reading(dice)));
    endpoint.vram_free = dice.one_in(4).then(|| Reading::new(Bytes(dice.below(80 << 30)), at));
    endpoint.foreign =
        ForeignLoad { waiting: dice.small(2), running: dice.small(9), kv_tokens: dice.below(9_000) };
    endpoint.freshness = [Freshness::Fresh, Freshness::Stale, Freshness::Suspect]
        [usize::from(dice.one_in(9)) + usize::from(dice.one_in(9))];
    if dice.one_in(4) {
        let condition = |action| Condition {
            cause: Cause::SlowClock { mhz: 900 + dice_mhz, max_mhz: 1_980 },
            action,
            braked: None,
            gpu: None,
            since: at,
            recovering: false,
        };
        let speed = Ratio::clamped(dice.unit());
        endpoint.conditions = match dice.below(4) {
            0 => Arc::from([condition(Action::Derate(speed))]),
            1 => Arc::from([condition(Action::Drain)]),
            _ => Arc::from([]),
        };
        endpoint.speed = if dice.one_in(2) { speed } else { Ratio::ONE };
    }
    if dice.one_in(6) {
        endpoint.phase = [Phase::Serving, Phase::Serving, Phase::Joining, Phase::Draining, Phase::Gone]
            [usize::try_from(dice.below(5)).unwrap()];
        let reason = "driver".to_owned();
        endpoint.health = [
            Health::Healthy,
            Health::Unknown,
            Health::Degraded { reason: reason.clone() },
            Health::Unhealthy { reason },
        ][usize::try_from(dice.below(4)).unwrap()]
        .clone();
        Arc::make_mut(&mut endpoint.info).profile.cost.per_token_s *= 1.0 + dice.unit();
    }
}

/// Every decision of a directory made again; the count of them.
pub(crate) fn replayed(dir: &Path) -> u64 {
    let mut count = 0;
    for segment in segments_in(dir).unwrap() {
        let seen = visit(&segment, |place, case| assert_eq!(differences(case), [], "{place:?}")).unwrap();
        assert!(seen.decisions > 0 && seen.torn_bytes.is_none());
        count += seen.decisions;
    }
    count
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_decided_is_decided_again_from_the_file(seed: u64, endpoints in 0..14_u64) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(seed, endpoints);
        // Small segments: the chain of changes begins anew again and again.
        let mut log = DecisionLog::open(dir.path(), 60_000, 1_000).unwrap();
        let mut inputs = Vec::new();
        for _ in 0..150 {
            world.step();
            let decision = world.decide(&mut log);
            let loads: Vec<OwnLoad> = world.loads.iter().map(|(load, _)| *load).collect();
            inputs.push((world.snapshot.clone(), loads, decision));
        }
        proptest::prop_assert_eq!(replayed(dir.path()), 150);
        let mut expect = inputs.iter();
        for segment in segments_in(dir.path()).unwrap() {
            visit(&segment, |_, case| {
                let (snapshot, loads, decision) = expect.next().unwrap();
                assert_eq!(&case.decide(), decision);
                assert_eq!(case.snapshot.endpoints, snapshot.endpoints);
                assert_eq!(case.snapshot.directory, snapshot.directory);
                assert_eq!(case.snapshot.models, snapshot.models);
                assert_eq!(case.snapshot.generation, snapshot.generation);
                assert_eq!(case.loads, loads);
            }).unwrap();
        }
    }
}

#[test]
fn a_segment_is_replayed_alone_whatever_became_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(3, 8);
    let mut log = DecisionLog::open(dir.path(), 40_000, 4).unwrap();
    for _ in 0..300 {
        world.step();
        let _ = world.decide(&mut log);
    }
    let left = segments_in(dir.path()).unwrap();
    assert!(left.len() == 4 && !left[0].ends_with("decisions-00000001.jsonl"), "{left:?}");
    assert!(replayed(dir.path()) > 20);
}

#[test]
fn two_schedulers_of_one_directory_leave_each_other_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut worlds = [World::new(1, 6), World::new(2, 9)];
    let mut logs = [(); 2].map(|()| DecisionLog::open(dir.path(), 30_000, 3).unwrap());
    for _ in 0..200 {
        for (world, log) in worlds.iter_mut().zip(&mut logs) {
            world.step();
            let _ = world.decide(log);
        }
    }
    assert!(replayed(dir.path()) > 20);
    // The one that is idle keeps its last segment, however much the other writes.
    for _ in 0..200 {
        worlds[0].step();
        let _ = worlds[0].decide(&mut logs[0]);
    }
    let _ = worlds[1].decide(&mut logs[1]);
    replayed(dir.path());
    let last = worlds[1].snapshot.directory.len();
    let mut found = false;
    for segment in segments_in(dir.path()).unwrap() {
        visit(&segment, |_, case| found |= case.snapshot.directory.len() == last).unwrap();
    }
    assert!(found, "the other one's decisions are still there");
    assert!(fs::read_dir(dir.path()).unwrap().count() <= 8);
}
