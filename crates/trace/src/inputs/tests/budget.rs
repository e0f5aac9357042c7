//! What a day of a large farm costs on disk, measured: 64 endpoints, a million decisions a day.

use std::collections::BTreeMap;
use std::fs;

use aya_domain::Outcome;

use super::*;
use crate::json::RecordJson;

const ENDPOINTS: u32 = 64;
/// A million decisions a day.
const MEAN_GAP_S: f64 = 0.0864;
const REPORTS: Duration = Duration::from_millis(250);
const GPU_SAMPLES: u64 = 4;
const TOKEN_S: f64 = 0.03;
const MEAN_OUTPUT: f64 = 500.0;
/// Bytes of a decision and its request's record: 2 GB a day.
const BUDGET: u64 = 2_000;

#[derive(Debug, Clone)]
struct Running {
    prompt: u64,
    first_token_s: f64,
    ends_s: f64,
}

/// 16 nodes of 4 engines under the traffic of conversations, with the telemetry of default agents.
struct Farm {
    dice: Dice,
    now: f64,
    snapshot: Snapshot,
    running: Vec<Vec<Running>>,
    rates: Vec<DecayedRate>,
    reports: u64,
}

#[derive(Debug)]
struct Sight<'a> {
    running: &'a [Vec<Running>],
    now: f64,
    cached: BTreeMap<u32, u64>,
}

impl Insights for Sight<'_> {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        Tokens(self.cached.get(&endpoint.0).copied().unwrap_or(0))
    }

    fn prompts_in_flight(&self, _: EndpointIndex) -> Option<Tokens> {
        None
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        for one in &self.running[endpoint.get()] {
            let since = self.now - one.first_token_s;
            if since < 0.0 {
                pending.push(u32::try_from(one.prompt).unwrap());
            } else {
                streams.push(Stream { tokens: whole(since / TOKEN_S), since_first_ms: whole(since * 1e3) });
            }
        }
    }
}

fn whole(number: f64) -> u32 {
    Duration::from_secs_f64(number.max(0.0)).as_secs().try_into().unwrap()
}

fn at(seconds: f64) -> MonoTime {
    MonoTime::ZERO.after(Duration::from_secs_f64(seconds))
}

impl Farm {
    fn new() -> Self {
        let mut world = World::new(1, 0);
        let engine = |id: u32| {
            let mut endpoint = world.endpoint(u64::from(id));
            let info = Arc::make_mut(&mut endpoint.info);
            info.id = EndpointId::parse(&format!("gpu-{:02}/vllm-{}", id / 4, 8000 + id % 4)).unwrap();
            info.kind = EngineKind::Vllm;
            info.kv_capacity = Some(Tokens(440_000));
            info.max_sequences = Some(256);
            info.profile = aya_estimate::named("a100-8b").unwrap().profile;
            let context_length = Some(Tokens(131_072));
            info.models =
                vec![ServedModel { id: ModelId::parse(MODEL).unwrap(), context_length, parent: None }];
            endpoint
        };
        world.snapshot.endpoints = (0..ENDPOINTS).map(engine).collect();
        world.snapshot.directory = world.snapshot.endpoints.iter().map(|e| e.info.id.clone()).collect();
        world.pools();
        Self {
            dice: Dice(5),
            now: 40_000.0,
            snapshot: world.snapshot,
            running: vec![Vec::new(); ENDPOINTS as usize],
            rates: vec![DecayedRate::default(); ENDPOINTS as usize],
            reports: 0,
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.dice.unit()).ln()
    }

    /// Every node reports once in a period, each at its own time.
    fn reports_until(&mut self, then: f64) {
        let gap = REPORTS.as_secs_f64() / 16.0;
        while self.now + gap < then {
            self.now += gap;
            self.reports += 1;
            let (node, now) = (self.reports % 16, self.now);
            for id in node * 4..node * 4 + 4 {
                let here = usize::try_from(id).unwrap();
                self.running[here].retain(|one| one.ends_s > now);
                let used: f64 = self.running[here]
                    .iter()
                    .map(|one| f64::from(u32::try_from(one.prompt).unwrap()) + 250.0)
                    .sum();
                let sampled_at = at(now).before(Duration::from_nanos(self.dice.below(20_000_000)));
                let endpoint = &mut self.snapshot.endpoints[here];
                endpoint.sampled_at = Some(sampled_at);
                endpoint.running =
                    Some(Reading::new(u32::try_from(self.running[here].len()).unwrap(), sampled_at));
                endpoint.waiting = Some(Reading::new(0, sampled_at));
                endpoint.kv_used = Some(Reading::new(Ratio::clamped(used / 440_000.0), sampled_at));
                if (self.reports / 16).is_multiple_of(GPU_SAMPLES) {
                    let free = Bytes((7 << 30) + self.dice.below(4) * 4_096);
                    endpoint.vram_free = Some(Reading::new(free, sampled_at));
                }
            }
            self.snapshot.generation += 1;
        }
        self.now = then;
    }

    fn loads(&self) -> Vec<OwnRead> {
        let load = |running: &Vec<Running>, rate: &DecayedRate| {
            let mut load = OwnLoad { prefill_rate: rate.read(at(self.now)), ..OwnLoad::default() };
            for one in running.iter().filter(|one| one.ends_s > self.now) {
                load.in_flight += 1;
                if one.first_token_s > self.now {
                    load.prefilling += 1;
                    load.prefill_tokens += one.prompt;
                } else {
                    load.decoding += 1;
                    load.decode_kv_tokens +=
                        one.prompt + u64::from(whole((self.now - one.first_token_s) / TOKEN_S));
                }
            }
            OwnRead { load, rate: *rate }
        };
        self.running.iter().zip(&self.rates).map(|(running, rate)| load(running, rate)).collect()
    }
}

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

fn uuid(dice: &mut Dice) -> String {
    let (a, b) = (dice.next(), dice.next());
    format!(
        "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
        a >> 32,
        a & 0xffff,
        b & 0xfff,
        b >> 48,
        a & 0xffff_ffff_ffff
    )
}

fn request(farm: &mut Farm, sequence: u64) -> Request {
    let prompt = 20 + u64::from(whole(farm.exponential(1_100.0)));
    Request {
        id: RequestId::parse(&uuid(&mut farm.dice)).unwrap(),
        sequence,
        model: ModelId::parse(MODEL).unwrap(),
        kind: RequestKind::Chat,
        stream: true,
        prompt_bytes: prompt * 4,
        prompt_tokens: Tokens(prompt),
        prompt_tokens_min: Tokens(prompt / 8),
        max_tokens: None,
        expected_output: MEAN_OUTPUT + farm.dice.unit(),
        expected_residual: MEAN_OUTPUT * farm.dice.unit(),
        arrived_at: at(farm.now).before(Duration::from_nanos(40_000 + farm.dice.below(20_000))),
        ..World::new(1, 0).request()
    }
}

/// One request: its decision, and later its record.
fn serve(farm: &mut Farm, log: &mut DecisionLog, lengths: &Arc<LengthDistribution>, sequence: u64) {
    let then = farm.now + farm.exponential(MEAN_GAP_S);
    farm.reports_until(then);
    let mut request = request(farm, sequence);
    (request.tried, request.max_tokens, request.deadline, request.slo) = (Vec::new(), None, None, None);
    (request.tenant, request.priority) = (TenantId::default(), Priority::default());
    let (own, now) = (farm.loads(), at(farm.now));
    let loads: Vec<OwnLoad> = own.iter().map(|own| own.load).collect();
    // A conversation that goes on: its prefix is on one endpoint, a system prompt on many.
    let prompt = request.prompt_tokens.get();
    let mut cached: BTreeMap<u32, u64> = BTreeMap::new();
    if farm.dice.one_in(2) {
        cached.extend((0..ENDPOINTS).filter(|_| farm.dice.one_in(3)).map(|at| (at, prompt.min(128))));
        cached.insert(farm.dice.small(64), prompt * 3 / 4);
    }
    let sight = Sight { running: &farm.running, now: farm.now, cached };
    let affinity = Some(splitmix64(sequence));
    let knowledge = Knowledge { endpoints: Some(&sight), lengths: Some(lengths), affinity };
    let seen = Seen { snapshot: &farm.snapshot, loads: &loads, knowledge };
    let policy = Policy::named("aya").unwrap();
    let mut read = KnowledgeRead { lengths: Some(Arc::clone(lengths)), affinity, ..KnowledgeRead::default() };
    let seed = splitmix64(sequence);
    let decision = decide_noting(seen, &request, &policy, now, seed, &mut read.consulted);
    let snapshot = &farm.snapshot;
    let inputs = Inputs {
        snapshot,
        loads: &own,
        request: &request,
        policy: &policy,
        knowledge: Some(&read),
        now,
        seed,
    };
    let decision_id = DecisionId::parse(&uuid(&mut Dice(sequence))).unwrap();
    log.decided(&Decided { decision_id: &decision_id, attempt: 1, inputs, decision: &decision }).unwrap();
    let Outcome::Placed(chosen) = decision.outcome else { panic!("{:?}", decision.outcome) };
    let output = farm.exponential(MEAN_OUTPUT);
    let first_token_s = farm.now + 0.08;
    let ends_s = first_token_s + output * TOKEN_S;
    farm.running[chosen.endpoint.get()].push(Running { prompt, first_token_s, ends_s });
    farm.rates[chosen.endpoint.get()].add(now, request.prompt_tokens);

    let mut record = crate::json::tests::record();
    (record.decision_id, record.request_id) = (decision_id, request.id.clone());
    record.attempts.remove(0);
    record.attempts[0].endpoint = decision.endpoint_id(chosen.endpoint).unwrap().clone();
    record.outcome.itl_mean = Some(Duration::from_micros(30_123));
    record.outcome.completion_tokens = Some(Tokens(u64::from(whole(output))));
    (record.request, record.decision) = (Some(request), Some(Arc::new(decision)));
    log.record(&RecordJson::beside_inputs(&record)).unwrap();
}

#[test]
fn a_million_decisions_a_day_on_64_endpoints_fit_into_2_gb() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DecisionLog::open(dir.path(), 64 << 20, 100).unwrap();
    let mut farm = Farm::new();
    let mut learned = LengthDistribution::default();
    let mut lengths = Arc::new(LengthDistribution::default());
    let served = 2_500;
    for sequence in 0..served {
        serve(&mut farm, &mut log, &lengths, sequence);
        let output = whole(farm.exponential(MEAN_OUTPUT));
        if learned.observe(output) {
            let (width, counts) = learned.histogram();
            lengths = Arc::new(LengthDistribution::from_histogram(width, counts.to_vec()));
        }
    }
    let segments = segments_in(dir.path()).unwrap();
    let text: String = segments.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let part = |key: &str| {
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter_map(|line| Some(line.get(key)?.to_string().len() as u64)).sum::<u64>() / served
    };
    for key in ["farm", "loads", "knowledge", "request", "outcome", "rows", "columns", "attempts"] {
        println!("{key}: {} bytes", part(key));
    }
    let bytes = text.len() as u64 / served;
    let in_flight: usize = farm.running.iter().map(Vec::len).sum();
    println!("{bytes} bytes per decision, {in_flight} in flight, {:.2} GB a day", bytes as f64 / 1e3);
    assert!(bytes <= BUDGET, "{bytes} bytes per decision");
    assert_eq!(replayed(dir.path()), served);
}
