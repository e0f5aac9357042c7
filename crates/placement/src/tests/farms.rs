//! Random farms: the fleet language for facts and load, and beside it what the language has no words for.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use aya_domain::{
    Action, Cause, Condition, Decision, EndpointId, Ratio, Reading, Request, RequestKind, ResponseTimes,
    Tokens, Trip,
};
use aya_estimate::LengthDistribution;

use crate::testkit::{Fleet, Known, KnownEndpoint, NOW, fleet, request};
use crate::{Consulted, Knowledge, Policy, Seen, Stream, decide_noting};

/// One endpoint, still without a name.
#[derive(Debug, Clone)]
pub(super) struct Part {
    text: String,
    conditions: Vec<(Cause, Action)>,
    waiting: Option<u32>,
    running: Option<u32>,
    kv_used: Option<f64>,
    response_s: Option<f64>,
    speed: f64,
    known: KnownEndpoint,
}

/// A farm and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) farm: Fleet,
    pub(super) known: Known,
    pub(super) affinity: Option<u64>,
}

impl World {
    /// Names the endpoints e00, e01, ... in this order, which is that of the snapshot.
    pub(super) fn of(parts: &[Part]) -> Self {
        let name = |(at, part): (usize, &Part)| format!("e{at:02}: {}", part.text);
        let text: Vec<String> = parts.iter().enumerate().map(name).collect();
        let mut farm = fleet(&text.join("|"));
        for (at, part) in parts.iter().enumerate() {
            let (endpoint, own) = (&mut farm.snapshot.endpoints[at], &mut farm.loads[at]);
            let condition = |(cause, action): &(Cause, Action)| Condition {
                cause: *cause,
                action: *action,
                braked: None,
                gpu: None,
                since: NOW,
                recovering: false,
            };
            let mut conditions: Vec<Condition> = part.conditions.iter().map(condition).collect();
            conditions.sort_by_key(|condition| std::cmp::Reverse(condition.action.severity()));
            endpoint.conditions = Arc::from(conditions);
            endpoint.waiting = part.waiting.map(|waiting| Reading::new(waiting, NOW));
            endpoint.running = part.running.map(|running| Reading::new(running, NOW));
            endpoint.kv_used = part.kv_used.map(|used| Reading::new(Ratio::clamped(used), NOW));
            endpoint.speed = Ratio::clamped(part.speed);
            own.response = part.response_s.map(|mean_s| ResponseTimes {
                mean_s,
                peak_s: 2.0 * mean_s,
                at: NOW.before(Duration::from_secs(3)),
            });
        }
        Self { farm, known: Known(parts.iter().map(|part| part.known.clone()).collect()), affinity: None }
    }

    /// By the ledger and telemetry alone.
    pub(super) fn decide(&self, request: &Request, policy: &str, seed: u64) -> Decision {
        self.farm.decide(request, policy, seed)
    }

    /// With everything that is known, and what the decision asked for.
    pub(super) fn decide_knowing(&self, request: &Request, policy: &str, seed: u64) -> (Decision, Consulted) {
        let lengths = LengthDistribution::default();
        let knowledge =
            Knowledge { endpoints: Some(&self.known), lengths: Some(&lengths), affinity: self.affinity };
        let seen = Seen { snapshot: &self.farm.snapshot, loads: &self.farm.loads, knowledge };
        let mut consulted = Consulted::default();
        let policy = Policy::named(policy).unwrap();
        let decision = decide_noting(seen, request, &policy, NOW, seed, &mut consulted);
        (decision, consulted)
    }
}

fn any_condition() -> impl Strategy<Value = (Cause, Action)> {
    let trip = Trip::InARow { failures: 5 };
    let until = |ms: u64| NOW.after(Duration::from_millis(ms));
    select(vec![
        (Cause::SwThermal, Action::Note),
        (Cause::HwSlowdown, Action::Derate(Ratio::clamped(0.5))),
        (Cause::HalfOpen { trip }, Action::Limit(1)),
        (Cause::HalfOpen { trip }, Action::Limit(2)),
        (Cause::SlowStart, Action::Limit(4)),
        (Cause::ThermalMargin { celsius: 1 }, Action::Drain),
        (Cause::Xid { code: 48 }, Action::Cordon),
        (Cause::GpuLost, Action::Fail),
        (Cause::Ejected { trip, until: until(700) }, Action::Drain),
        // An end that has passed: the fleet says when it is over, not the filter.
        (Cause::Ejected { trip, until: NOW }, Action::Drain),
        (Cause::Wedged { silent: Duration::from_secs(4) }, Action::Drain),
    ])
}

fn any_text() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| select(words);
    let facts = (
        word(&["l4", "a10g", "a100", "h100", "h100x4"]),
        word(&["vllm", "vllm", "vllm told", "simulated", "llama", "ollama"]),
        word(&[
            "",
            "",
            "",
            "",
            "",
            "other",
            "joining",
            "draining",
            "gone",
            "unhealthy",
            "unknown",
            "degraded",
        ]),
        word(&["", "", "", "stale age=2000", "suspect age=20000", "cool=1", "cool=0"]),
        word(&["", "", "ctx=500", "ctx=4000", "ctx=20000"]),
        word(&["", "", "kv=3000", "kv=30000", "kvb=131072 vram=300", "kvb=131072 vram=4000"]),
        word(&["", "", "seqs=4", "seqs=64"]),
    );
    let few = |most: u32| prop_oneof![0..3_u32, 0..most];
    let prefill = prop_oneof![0..300_u64, 0..9000_u64];
    let load = (few(9), prefill, few(12), 0_u64..30_000, few(3), few(4), 0_u64..9000);
    (facts, load).prop_map(|((gpu, kind, state, age, context, memory, seqs), (np, p, nd, k, fw, fr, fk))| {
        format!(
            "{gpu} {kind} {state} {age} {context} {memory} {seqs} np={np} P={p} nd={nd} K={k} fw={fw} fr={fr} fk={fk}"
        )
    })
}

fn any_known() -> impl Strategy<Value = KnownEndpoint> {
    let stream =
        (0..900_u32, 0..60_000_u32).prop_map(|(tokens, since_first_ms)| Stream { tokens, since_first_ms });
    let cached = prop_oneof![3 => Just(0_u64), 1 => 0..13_000_u64];
    let prompts = prop::option::of((0..40_000_u64).prop_map(Tokens));
    (cached, prompts, vec(1..9_000_u32, 0..3), vec(stream, 0..5))
        .prop_map(|(cached, prompts, pending, streams)| KnownEndpoint { cached, prompts, pending, streams })
}

fn any_part() -> impl Strategy<Value = Part> {
    let text =
        prop_oneof![3 => any_text(), 1 => Just("h100".to_owned()), 1 => Just("l4 nd=2 K=900".to_owned())];
    let conditions = prop_oneof![2 => Just(Vec::new()), 1 => vec(any_condition(), 1..3)];
    let told = (
        prop::option::of(0..40_u32),
        prop::option::of(0..40_u32),
        prop::option::of(0.0..1.0_f64),
        prop::option::of(0.05..20.0_f64),
    );
    let speed = prop_oneof![3 => Just(1.0), 1 => 0.02..1.0_f64];
    (text, conditions, told, speed, any_known()).prop_map(
        |(text, conditions, (waiting, running, kv_used, response_s), speed, known)| Part {
            text,
            conditions,
            waiting,
            running,
            kv_used,
            response_s,
            speed,
            known,
        },
    )
}

/// Mostly a few endpoints, sometimes up to `most`.
pub(super) fn any_parts(most: usize) -> impl Strategy<Value = Vec<Part>> {
    prop_oneof![3 => vec(any_part(), 1..=6), 1 => vec(any_part(), 1..=most)]
}

pub(super) fn any_world(most: usize) -> impl Strategy<Value = World> {
    (any_parts(most), prop::option::of(any::<u64>()))
        .prop_map(|(parts, affinity)| World { affinity, ..World::of(&parts) })
}

pub(super) fn any_request() -> impl Strategy<Value = Request> {
    let kind = prop_oneof![4 => Just(RequestKind::Chat), 1 => Just(RequestKind::Embedding)];
    // Some fit exactly, or miss by one, into what the endpoints above can hold.
    let edge = select(vec![498_u64, 499, 500, 2999, 3000, 3999, 4000, 19_999, 20_000, 29_999]);
    let prompt = prop_oneof![2 => 1_u64..12_000, 1 => edge];
    let numbers = (prompt, prop::option::of(1_u64..6000), 0_u64..1000);
    (kind, numbers, 0.0..900.0_f64, 0_usize..3).prop_map(|(kind, (prompt, max, sequence), output, tried)| {
        let tried = ["e00", "e01"].iter().take(tried).map(|id| EndpointId::parse(id).unwrap()).collect();
        let plain = request(prompt, max);
        Request { kind, sequence, tried, expected_output: output, expected_residual: output / 2.0, ..plain }
    })
}

pub(super) fn any_policy() -> impl Strategy<Value = &'static str> {
    select(Policy::names().collect::<Vec<_>>())
}

/// Policies that draw nothing: the same farm gives the same totals under every seed.
pub(super) fn any_undrawn_policy() -> impl Strategy<Value = &'static str> {
    let drawn = ["random", "p2c", "p2c-expected-wait", "peak-ewma"];
    select(Policy::names().filter(|name| !drawn.contains(name)).collect::<Vec<_>>())
}
