//! Fleets in a line of text, for tests: `a: h100 nd=3 P=800 | b: l4 stale`.
//!
//! Words: a profile (`l4 a10g a100 h100 h100x4`), a kind (`vllm llama ollama simulated`; vLLM unless said),
//! `told` (the engine itself tells its profile), `other` (serves another model), phases, health and
//! freshness by name, and numbers: own load `n np P nd K rho`, foreign load `fw fr fk`, facts `ctx kv seqs
//! kvb`, `vram` in MiB, `speed` in percent, `age` and `cool` in milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{
    Action, Bytes, Candidate, Cause, Condition, Decision, Endpoint, EndpointId, EndpointIndex, EndpointInfo,
    EndpointUrl, EngineKind, Freshness, Health, HoldReason, ModelId, MonoTime, NodeId, Outcome, OwnLoad,
    Phase, Pool, Priority, Ratio, Reading, RefusalReason, Request, RequestId, RequestKind, ServedModel,
    Snapshot, TenantId, Tokens, Verdict,
};

use crate::{Insights, Policy, Stream, decide};

pub(crate) const NOW: MonoTime = MonoTime::from_millis(100_000);

/// A snapshot and the ledger beside it.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) snapshot: Snapshot,
    pub(crate) loads: Vec<OwnLoad>,
}

impl Fleet {
    pub(crate) fn decide(&self, request: &Request, policy: &str, seed: u64) -> Decision {
        decide(&self.snapshot, &self.loads, request, &Policy::named(policy).unwrap(), NOW, seed)
    }
}

/// What is known of each endpoint; nothing of those beyond the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(pub(crate) Vec<KnownEndpoint>);

#[derive(Debug, Clone, Default)]
pub(crate) struct KnownEndpoint {
    pub(crate) cached: u64,
    pub(crate) prompts: Option<Tokens>,
    pub(crate) pending: Vec<u32>,
    pub(crate) streams: Vec<Stream>,
}

impl Insights for Known {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        Tokens(self.0.get(endpoint.get()).map_or(0, |known| known.cached))
    }

    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        self.0.get(endpoint.get())?.prompts
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        if let Some(known) = self.0.get(endpoint.get()) {
            pending.extend_from_slice(&known.pending);
            streams.extend_from_slice(&known.streams);
        }
    }
}

/// A request of so many prompt tokens for model `m`; the least possible number of tokens is an eighth of it.
pub(crate) fn request(prompt: u64, max_tokens: Option<u64>) -> Request {
    Request {
        id: RequestId::parse("r").unwrap(),
        sequence: 0,
        model: ModelId::parse("m").unwrap(),
        kind: RequestKind::Chat,
        stream: true,
        prompt_bytes: prompt * 4,
        prompt_tokens: Tokens(prompt),
        prompt_tokens_min: Tokens(prompt / 8),
        max_tokens: max_tokens.map(Tokens),
        expected_output: 200.0,
        expected_residual: 200.0,
        arrived_at: NOW,
        priority: Priority::default(),
        tenant: TenantId::default(),
        deadline: None,
        slo: None,
        prefix: aya_domain::PromptPrefix::default(),
        tried: Vec::new(),
    }
}

pub(crate) fn fleet(text: &str) -> Fleet {
    let mut members: Vec<_> = text.split('|').filter(|part| !part.trim().is_empty()).map(endpoint).collect();
    members.sort_by(|(a, _, _), (b, _, _)| a.info.id.cmp(&b.info.id));
    let mut models: BTreeMap<ModelId, Pool> =
        BTreeMap::from([(ModelId::parse("m").unwrap(), Pool::default())]);
    for (at, (endpoint, _, context)) in members.iter().enumerate() {
        let model = endpoint.info.models.first().unwrap().id.clone();
        let index = EndpointIndex(u32::try_from(at).unwrap());
        models.entry(model).or_default().members.push((index, *context));
    }
    let loads = members.iter().map(|(_, own, _)| *own).collect();
    let endpoints: Vec<Endpoint> = members.into_iter().map(|(endpoint, ..)| endpoint).collect();
    let directory: Arc<[EndpointId]> = endpoints.iter().map(|e| e.info.id.clone()).collect();
    Fleet {
        snapshot: Snapshot {
            generation: 7,
            taken_at: NOW,
            endpoints: endpoints.into(),
            directory,
            models,
            ..Snapshot::empty()
        },
        loads,
    }
}

/// What a part of the text has said so far.
struct Draft {
    endpoint: Endpoint,
    info: EndpointInfo,
    own: OwnLoad,
    in_flight: Option<u32>,
    context: Option<Tokens>,
    model: &'static str,
    age_ms: u64,
    vram_free: Option<Bytes>,
}

fn endpoint(text: &str) -> (Endpoint, OwnLoad, Option<Tokens>) {
    let (name, words) = text.split_once(':').expect("NAME: WORDS");
    let mut draft = Draft::new(name.trim());
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some((key, number)) => draft.number(key, number.parse().unwrap_or_else(|_| panic!("{word}"))),
            None => draft.word(word),
        }
    }
    let Draft { mut endpoint, mut info, mut own, context, .. } = draft;
    let prefilling = own.prefilling.max(u32::from(own.prefill_tokens > 0));
    own.in_flight = draft.in_flight.unwrap_or(prefilling + own.decoding);
    let id = ModelId::parse(draft.model).unwrap();
    info.models = vec![ServedModel { id, context_length: context, parent: None }];
    endpoint.info = Arc::new(info);
    let sampled_at = NOW.before(Duration::from_millis(draft.age_ms));
    endpoint.sampled_at = Some(sampled_at);
    endpoint.vram_free = draft.vram_free.map(|free| Reading::new(free, sampled_at));
    (endpoint, own, context)
}

impl Draft {
    fn new(name: &str) -> Self {
        let info = EndpointInfo {
            id: EndpointId::parse(name).unwrap(),
            node: NodeId::parse("n").unwrap(),
            kind: EngineKind::Vllm,
            url: EndpointUrl::parse("http://127.0.0.1:1").unwrap(),
            models: Vec::new(),
            profile: aya_estimate::prior(None, 1).profile,
            profile_source: "prior".to_owned(),
            learned: None,
            max_sequences: None,
            kv_capacity: None,
            kv_bytes_per_token: None,
            gpus: Vec::new(),
            version: None,
            abort: aya_domain::AbortPolicy::Cancel,
        };
        let endpoint = Endpoint::unread(Arc::new(info.clone()));
        let own = OwnLoad::default();
        Self { endpoint, info, own, in_flight: None, context: None, model: "m", age_ms: 100, vram_free: None }
    }

    fn word(&mut self, word: &str) {
        let reason = || "test".to_owned();
        match word {
            "vllm" => self.info.kind = EngineKind::Vllm,
            "llama" => self.info.kind = EngineKind::LlamaCpp,
            "ollama" => self.info.kind = EngineKind::Ollama,
            "simulated" => self.info.kind = EngineKind::Simulated,
            "told" => self.info.profile_source = "engine".to_owned(),
            "other" => self.model = "other",
            "joining" => self.endpoint.phase = Phase::Joining,
            "draining" => self.endpoint.phase = Phase::Draining,
            "gone" => self.endpoint.phase = Phase::Gone,
            "unhealthy" => self.endpoint.health = Health::Unhealthy { reason: reason() },
            "unknown" => self.endpoint.health = Health::Unknown,
            "degraded" => self.endpoint.health = Health::Degraded { reason: reason() },
            "cordoned" => self.condition(Action::Cordon),
            "noted" => self.condition(Action::Note),
            "stale" => self.endpoint.freshness = Freshness::Stale,
            "suspect" => self.endpoint.freshness = Freshness::Suspect,
            gpu => self.info.profile = profile(gpu),
        }
    }

    fn condition(&mut self, action: Action) {
        let cause = Cause::Xid { code: 48 };
        let condition = Condition { cause, action, braked: None, gpu: None, since: NOW, recovering: false };
        self.endpoint.conditions = Arc::from([condition]);
    }

    fn number(&mut self, key: &str, number: u64) {
        let small = u32::try_from(number).unwrap();
        match key {
            "n" => self.in_flight = Some(small),
            "np" => self.own.prefilling = small,
            "P" => self.own.prefill_tokens = number,
            "nd" => self.own.decoding = small,
            "K" => self.own.decode_kv_tokens = number,
            "rho" => self.own.prefill_rate = f64::from(small),
            "cool" => self.own.cooling_until = Some(NOW.after(Duration::from_millis(number))),
            "fw" => self.endpoint.foreign.waiting = small,
            "fr" => self.endpoint.foreign.running = small,
            "fk" => self.endpoint.foreign.kv_tokens = number,
            "ctx" => self.context = Some(Tokens(number)),
            "kv" => self.info.kv_capacity = Some(Tokens(number)),
            "seqs" => self.info.max_sequences = Some(small),
            "kvb" => self.info.kv_bytes_per_token = Some(Bytes(number)),
            "vram" => self.vram_free = Some(Bytes(number << 20)),
            "age" => self.age_ms = number,
            "speed" => {
                let percent = f64::from(small) / 100.0;
                self.endpoint.speed = Ratio::clamped(percent);
                self.condition(Action::Derate(Ratio::clamped(percent)));
            }
            _ => panic!("unknown key {key:?}"),
        }
    }
}

fn profile(word: &str) -> aya_domain::EngineProfile {
    let model = if word.contains('x') { "70b" } else { "8b" };
    aya_estimate::named(&format!("{word}-{model}")).unwrap().profile
}

/// The outcome in a word: an endpoint's name, `hold REASON` or `refused REASON`.
pub(crate) fn outcome(decision: &Decision) -> String {
    match &decision.outcome {
        Outcome::Placed(chosen) => decision.endpoint_id(chosen.endpoint).unwrap().to_string(),
        Outcome::Hold(HoldReason::AllFull) => "hold all_full".to_owned(),
        Outcome::Hold(HoldReason::NoneReady) => "hold none_ready".to_owned(),
        Outcome::Refused(RefusalReason::UnknownModel) => "refused unknown_model".to_owned(),
        Outcome::Refused(RefusalReason::TooLong { need, largest }) => {
            format!("refused too_long {} > {}", need.get(), largest.get())
        }
    }
}

/// Every endpoint with its reason, or `ok`.
pub(crate) fn verdicts(decision: &Decision) -> String {
    let verdict = |candidate: &Candidate| match candidate.verdict {
        Verdict::Scored { .. } => "ok",
        Verdict::Rejected(rejection) => rejection.as_str(),
    };
    let line = |candidate: &Candidate| {
        format!("{}={}", decision.endpoint_id(candidate.endpoint).unwrap(), verdict(candidate))
    };
    decision.candidates.iter().map(line).collect::<Vec<_>>().join(" ")
}
