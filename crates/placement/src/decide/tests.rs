//! Decisions as tables: a fleet in a line, a request, and where it goes.

use proptest::prelude::*;

use aya_domain::{EndpointId, Freshness};

use super::*;
use crate::cost::total_s;
use crate::knowledge::{Insights, Stream};
use crate::testkit::{Fleet, Known, KnownEndpoint, NOW, fleet, outcome, request, verdicts};
use aya_estimate::LengthDistribution;

fn check(text: &str, request: &Request, expect: &str) {
    let decision = fleet(text).decide(request, "aya", 1);
    assert_eq!(outcome(&decision), expect, "{text}\n{}", verdicts(&decision));
}

fn check_verdicts(text: &str, request: &Request, expect: &str) {
    // Of `aya` only a pool that is too busy as a whole is: see below.
    assert_eq!(verdicts(&fleet(text).decide(request, "lc", 1)), expect, "{text}");
}

#[test]
fn the_request_goes_where_it_ends_soonest_without_hurting_the_others() {
    let chat = request(1000, None);
    for (text, expect) in [
        ("a: l4 | b: h100", "b"),
        ("a: h100 nd=3 K=3000 | b: l4", "a"),
        ("a: h100 nd=40 K=40000 | b: h100", "b"),
        ("a: a100 P=4000 | b: a100 nd=3 K=2000", "b"),
        ("a: h100 nd=200 K=300000 rho=30000 | b: a100", "b"),
        ("a: h100 fr=40 fk=40000 | b: h100 nd=3", "b"),
        ("a: h100 fw=8 | b: h100 nd=3", "b"),
        ("a: a100 stale age=2000 | b: a100", "b"),
        // Old telemetry is doubt, not a verdict: a clearly faster endpoint is still used.
        ("a: h100 suspect age=60000 | b: l4", "a"),
        ("a: h100 degraded | b: l4", "a"),
        // Throttled GPUs lose to their like, and still win where they are faster.
        ("a: h100 speed=90 | b: h100", "b"),
        ("a: h100 speed=90 | b: l4", "a"),
        ("a: h100 speed=20 | b: a100", "b"),
        ("a: h100 noted | b: l4", "a"),
    ] {
        check(text, &chat, expect);
    }
}

#[test]
fn every_filter_names_its_reason() {
    let chat = request(1000, Some(500));
    for (text, expect) in [
        ("a: h100 other | b: h100", "a=model_not_served b=ok"),
        ("a: h100 joining | b: h100 draining | c: h100 gone", "a=not_serving b=not_serving c=not_serving"),
        ("a: h100 unhealthy | b: h100 unknown | c: h100 degraded", "a=unhealthy b=health_unknown c=ok"),
        ("a: h100 cool=1 | b: h100 cool=0", "a=cooling b=ok"),
        ("a: h100 cordoned | b: h100 noted | c: h100 speed=50", "a=gpu_fault b=ok c=ok"),
        ("a: h100 ctx=1499 | b: h100 ctx=1500", "a=context_too_long b=ok"),
        ("a: h100 kv=1499 | b: h100 kv=1500", "a=kv_pool_too_small b=ok"),
        ("a: llama seqs=2 n=2 | b: llama seqs=2 n=1 | c: llama n=9", "a=slots_full b=ok c=ok"),
        ("a: llama seqs=2 n=1 fr=1 | b: llama seqs=2 n=1 fw=1", "a=slots_full b=slots_full"),
        ("a: h100 seqs=4 nd=4 | b: h100 seqs=4 nd=3", "a=slots_full b=ok"),
        ("a: ollama kvb=131072 vram=187 | b: ollama kvb=131072 vram=188", "a=vram_short b=ok"),
        ("a: ollama vram=1 | b: ollama kvb=131072 | c: ollama kvb=131072 vram=1 suspect", "a=ok b=ok c=ok"),
        ("a: h100 kvb=131072 vram=1", "a=ok"),
        ("a: a100 P=7300 | b: a100 P=7200", "a=backlogged b=ok"),
        ("a: a100 fw=8 | b: a100 fw=7", "a=backlogged b=ok"),
        // Slots bring their own KV: a llama.cpp server never waits for a shared pool.
        ("a: l4 nd=2 K=30990 | b: l4 llama nd=2 K=30990", "a=backlogged b=ok"),
    ] {
        check_verdicts(text, &chat, expect);
    }
    let retried = Request { tried: vec![EndpointId::parse("a").unwrap()], ..chat };
    check_verdicts("a: h100 | b: l4", &retried, "a=already_tried b=ok");
}

#[test]
fn a_request_waits_only_while_all_that_could_take_it_are_too_busy() {
    let chat = request(1000, Some(500));
    for (text, expect) in [
        ("a: a100 P=7300 | b: a100 P=7200", "a=ok b=ok"),
        ("a: a100 P=7300 | b: a100 P=9000", "a=backlogged b=backlogged"),
        ("a: a100 P=7300 | b: h100 unhealthy | c: a100 P=9000", "a=backlogged b=unhealthy c=backlogged"),
        ("a: a100 P=7300 | b: h100 unhealthy | c: a100", "a=ok b=unhealthy c=ok"),
    ] {
        assert_eq!(verdicts(&fleet(text).decide(&chat, "aya", 1)), expect, "{text}");
    }
}

#[test]
fn a_rejection_carries_its_numbers() {
    let rejection =
        |text: &str, request: &Request| match fleet(text).decide(request, "aya", 1).candidates[0].verdict {
            Verdict::Rejected(rejection) => rejection,
            Verdict::Scored { .. } => panic!("{text} was scored"),
        };
    let chat = request(1000, Some(500));
    let long = |certain| Rejection::ContextTooLong {
        need: Tokens(1500),
        limit: Tokens(if certain { 600 } else { 700 }),
        certain,
    };
    assert_eq!(rejection("a: h100 ctx=700 | b: h100", &chat), long(false));
    assert_eq!(rejection("a: h100 ctx=600 | b: h100", &chat), long(true));
    assert_eq!(rejection("a: llama seqs=4 n=3 fr=1", &chat), Rejection::SlotsFull { in_flight: 4, limit: 4 });
    assert_eq!(
        rejection("a: h100 cool=1500", &chat),
        Rejection::Cooling { remaining: std::time::Duration::from_millis(1500) }
    );
    let Rejection::Backlogged { wait_s, limit_s } = rejection("a: a100 P=10000", &chat) else {
        panic!("not backlogged")
    };
    assert!((wait_s - 0.69).abs() < 1e-9 && (limit_s - 0.5).abs() < 1e-9, "{wait_s} {limit_s}");
}

#[test]
fn a_guessed_pool_predicts_but_never_refuses() {
    let long = request(40_000, None);
    check_verdicts(
        "a: l4 vllm | b: l4 simulated | c: h100 simulated",
        &long,
        "a=ok b=kv_pool_too_small c=ok",
    );
}

#[test]
fn waiting_and_refusing_are_told_apart() {
    let chat = request(1000, Some(500));
    for (text, expect) in [
        ("", "hold none_ready"),
        ("a: h100 other", "hold none_ready"),
        ("a: h100 joining", "hold none_ready"),
        ("a: h100 unhealthy | b: h100 cool=5", "hold none_ready"),
        ("a: h100 unhealthy | b: llama seqs=1 n=1", "hold all_full"),
        ("a: a100 P=20000 | b: a100 fw=20", "hold all_full"),
        ("a: ollama kvb=131072 vram=1", "hold all_full"),
        // Large enough but busy or away: waiting helps, so the small one is not asked.
        ("a: h100 ctx=1000 | b: h100 ctx=2000 seqs=1 n=1", "hold all_full"),
        ("a: h100 ctx=1000 | b: h100 ctx=2000 unhealthy", "hold none_ready"),
    ] {
        check(text, &chat, expect);
    }
    let stranger = Request { model: "x".parse().unwrap(), ..chat };
    check("a: h100", &stranger, "refused unknown_model");
    check_verdicts("a: h100 | b: l4", &stranger, "a=model_not_served b=model_not_served");
}

#[test]
fn only_certain_lack_of_room_refuses_and_otherwise_the_engine_judges() {
    // 8,000 tokens by the estimate, 1,000 at the very least.
    let long = request(8000, None);
    for (text, expect) in [
        ("a: h100 ctx=900 | b: h100 ctx=800", "refused too_long 8001 > 900"),
        ("a: h100 ctx=900 kv=700 | b: h100 ctx=800", "refused too_long 8001 > 800"),
        ("a: h100 ctx=900 unhealthy", "refused too_long 8001 > 900"),
        ("a: h100 ctx=4000 | b: l4 ctx=6000 | c: h100 ctx=900", "b"),
        ("a: h100 ctx=4000 | b: l4 ctx=6000 unhealthy", "a"),
        ("a: h100 ctx=4000 seqs=1 n=1", "hold all_full"),
        ("a: l4 ctx=4000 | b: h100 ctx=16000 draining", "a"),
        ("a: l4 ctx=900 | b: h100 ctx=16000 draining", "hold none_ready"),
        ("a: l4 ctx=4000 | b: h100 | c: h100 ctx=900", "b"),
        ("a: h100 ctx=4000 kv=2000 | b: l4 ctx=3000", "b"),
    ] {
        check(text, &long, expect);
    }
    check_verdicts(
        "a: h100 ctx=4000 | b: l4 ctx=6000 | c: h100 ctx=900",
        &long,
        "a=context_too_long b=ok c=context_too_long",
    );
    check(
        "a: h100 ctx=8000",
        &request(100, Some(u64::MAX)),
        &format!("refused too_long {} > 8000", u64::MAX),
    );
    check("a: h100 ctx=8000", &request(100, Some(7901)), "a");
    check("a: h100 ctx=8000", &request(100, Some(8000)), "refused too_long 8100 > 8000");
    let embedding = Request { kind: aya_domain::RequestKind::Embedding, ..request(8000, Some(9000)) };
    check("a: h100 ctx=8000 | b: h100 ctx=7999", &embedding, "a");
}

#[test]
fn an_endpoint_without_requests_is_never_too_busy() {
    check("a: l4 kv=40000", &request(39_000, None), "a");
    // The counters of the ledger are read one by one: a lease may end in between.
    check("a: l4 n=0 P=39000", &request(1000, None), "a");
    check("a: l4 kv=40000 nd=2 K=20000", &request(39_000, None), "hold all_full");
}

#[test]
fn the_record_holds_what_the_decision_rests_on() {
    let decision = fleet("a: h100 nd=3 K=900 | b: l4 stale age=1500 | c: h100 other").decide(
        &request(10, None),
        "aya",
        99,
    );
    assert_eq!((decision.seed, decision.snapshot_generation, decision.policy.as_str()), (99, 7, "aya"));
    let ages: Vec<_> = decision.candidates.iter().map(|c| c.age.unwrap().as_millis()).collect();
    assert_eq!(ages, [100, 1500, 100]);
    assert_eq!(decision.candidates[0].own_in_flight, 3);
    assert_eq!(decision.candidates[1].freshness, Freshness::Stale);
    let chosen = decision.chosen().unwrap();
    let Verdict::Scored { total, terms } = decision.candidates[1].verdict else { panic!("b was rejected") };
    assert!((terms.uncertainty_s - 0.03).abs() < 1e-12);
    assert_eq!((chosen.runner_up, chosen.ties), (Some(EndpointIndex(1)), 1));
    assert!((chosen.margin_s.unwrap() - (total - chosen.total)).abs() < 1e-12);
    let alone = fleet("a: h100").decide(&request(10, None), "aya", 99);
    assert_eq!(alone.chosen().map(|c| (c.margin_s, c.runner_up, c.ties)), Some((None, None, 1)));
}

#[test]
fn baselines_rank_by_their_own_rule_with_the_same_filters() {
    let choose = |text: &str, policy: &str, sequence: u64, seed: u64| {
        outcome(&fleet(text).decide(&Request { sequence, ..request(1000, None) }, policy, seed))
    };
    let farm = "a: l4 | b: h100 unhealthy | c: h100 nd=1 | d: l4";
    let turns: Vec<_> = (0..6).map(|sequence| choose(farm, "rr", sequence, 5)).collect();
    assert_eq!(turns, ["a", "c", "d", "a", "c", "d"]);
    for seed in 0..20 {
        assert_ne!(choose(farm, "lc", 0, seed), "c");
        assert_ne!(choose(farm, "random", 0, seed), "b");
    }
    assert_eq!(choose("a: l4 fr=2 | b: l4 nd=1", "lc", 0, 1), "b");
    for policy in Policy::names() {
        assert_eq!(
            choose("a: h100 unhealthy | b: h100 seqs=1 n=1", policy, 3, 1),
            "hold all_full",
            "{policy}"
        );
        let decision = fleet(farm).decide(&request(1000, None), policy, 1);
        let Verdict::Scored { terms, .. } = decision.candidates[0].verdict else { panic!("a was rejected") };
        assert!(terms.predicted_ttft_s > 0.0, "{policy} leaves out the prediction");
    }
}

#[test]
fn the_seed_chooses_among_equals_and_all_of_them_get_their_turn() {
    let farm = fleet("a: a100 | b: a100 | c: a100 | d: l4");
    let mut wins = [0_u32; 4];
    for seed in 0..300 {
        let decision = farm.decide(&request(500, None), "aya", seed);
        assert_eq!(decision.chosen().unwrap().ties, 3);
        wins[decision.chosen().unwrap().endpoint.get()] += 1;
    }
    assert!(wins[..3].iter().all(|wins| (70..=130).contains(wins)) && wins[3] == 0, "{wins:?}");
    let random = (0..300).map(|seed| outcome(&farm.decide(&request(500, None), "random", seed)));
    assert!(random.filter(|chosen| chosen == "d").count() > 40);
}

/// One endpoint in the fleet language, with everything that may vary.
fn any_endpoint() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| prop::sample::select(words);
    let facts = (
        word(&["l4", "a10g", "a100", "h100", "h100x4"]),
        word(&["vllm", "vllm", "simulated", "llama", "ollama"]),
        word(&["", "", "", "", "other", "joining", "draining", "gone", "unhealthy", "unknown", "degraded"]),
        word(&["", "", "stale age=2000", "suspect age=20000", "cool=1", "cool=0"]),
        word(&["", "", "ctx=500", "ctx=4000", "ctx=20000"]),
        word(&["", "", "kv=3000", "kv=30000", "kvb=131072 vram=300", "kvb=131072 vram=4000"]),
        word(&["", "", "seqs=4", "seqs=64"]),
    );
    let load = (0_u32..12, 0_u64..9000, 0_u32..12, 0_u64..30_000, 0_u32..4, 0_u32..4);
    (facts, load).prop_map(|((gpu, kind, state, age, context, memory, seqs), (np, p, nd, k, fw, fr))| {
        format!(
            "{gpu} {kind} {state} {age} {context} {memory} {seqs} np={np} P={p} nd={nd} K={k} fw={fw} fr={fr}"
        )
    })
}

fn any_fleet(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop_oneof![any_endpoint(), Just("h100".to_owned()), Just("l4".to_owned())],
        1..=most,
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    (1_u64..12_000, prop::option::of(1_u64..6000), 0_u64..1000, 0_usize..3).prop_map(
        |(prompt, max, sequence, tried)| {
            let tried = ["e0", "e1"].iter().take(tried).map(|id| EndpointId::parse(id).unwrap()).collect();
            Request { sequence, tried, ..request(prompt, max) }
        },
    )
}

/// Names the endpoints `PREFIX0`, `PREFIX1`, ... in this order.
fn build(parts: &[String]) -> Fleet {
    let named: Vec<_> = parts.iter().enumerate().map(|(at, part)| format!("e{at}: {part}")).collect();
    fleet(&named.join("|"))
}

proptest! {
    /// Whatever is known beyond the ledger, the promises of `invariants` hold for every policy, and knowledge never
    /// changes who can take the request at all, only who waits for how much.
    #[test]
    fn knowledge_breaks_no_promise(
        parts in any_fleet(6),
        request in any_request(),
        seed: u64,
        policy in prop::sample::select(Policy::names().collect::<Vec<_>>()),
        (cached, affinity) in (0_u64..13_000, prop::option::of(any::<u64>())),
        streams in prop::collection::vec((0..900_u32, 0..60_000_u32), 0..9),
        pending in prop::collection::vec(1..9_000_u32, 0..4),
    ) {
        let farm = build(&parts);
        let streams: Vec<Stream> = streams
            .into_iter()
            .map(|(tokens, since_first_ms)| Stream { tokens, since_first_ms })
            .collect();
        let lengths = LengthDistribution::default();
        let here = KnownEndpoint { cached, prompts: Some(Tokens(cached)), pending, streams };
        // The last endpoint has no entry.
        let insights = Known(vec![here; parts.len() - 1]);
        let knowledge = Knowledge { endpoints: Some(&insights), lengths: Some(&lengths), affinity };
        let policy = Policy::named(policy).unwrap();
        let seen = Seen { snapshot: &farm.snapshot, loads: &farm.loads, knowledge };
        let mut consulted = Consulted::default();
        let known = decide_noting(seen, &request, &policy, NOW, seed, &mut consulted);
        prop_assert_eq!(invariants::broken(&known, &farm.snapshot, &request), None);
        // What was asked for is enough to decide the same again, and asks for the same.
        let again = Seen { knowledge: Knowledge { endpoints: Some(&consulted), ..knowledge }, ..seen };
        let mut asked_again = Consulted::default();
        prop_assert_eq!(&decide_noting(again, &request, &policy, NOW, seed, &mut asked_again), &known);
        prop_assert_eq!(&asked_again, &consulted);
        for candidate in &known.candidates {
            if let Verdict::Scored { terms, .. } = candidate.verdict {
                // At most every request there and the newcomer: 12 + 12 own, 4 + 4 foreign.
                prop_assert!((0.0..=90.0 * 33.0).contains(&terms.misses.seconds()), "{terms:?}");
            }
        }
        let blind = farm.decide(&request, policy.name.as_str(), seed);
        for (with, without) in known.candidates.iter().zip(&blind.candidates) {
            let backlog = |c: &Candidate| matches!(c.verdict, Verdict::Rejected(Rejection::Backlogged { .. }));
            let rejected = |c: &Candidate| matches!(c.verdict, Verdict::Rejected(_));
            prop_assert!(rejected(with) == rejected(without) || backlog(with) || backlog(without));
        }
    }

    /// Looking at few streams chooses what looking at all of them would.
    #[test]
    fn what_was_not_looked_at_could_not_have_won(
        parts in any_fleet(12),
        request in any_request(),
        seed: u64,
        ages in prop::collection::vec((1..300_u32, 0..30_000_u32), 0..12),
    ) {
        let farm = build(&parts);
        let here = |at: usize| {
            let stream = |(tokens, since_first_ms): &(u32, u32)| Stream {
                tokens: *tokens,
                since_first_ms: *since_first_ms,
            };
            let streams = ages.iter().skip(at % 3).map(stream).collect();
            KnownEndpoint { streams, ..KnownEndpoint::default() }
        };
        let (insights, lengths) = (Known((0..parts.len()).map(here).collect()), LengthDistribution::default());
        let knowledge =
            Knowledge { endpoints: Some(&insights), lengths: Some(&lengths), ..Knowledge::default() };
        let policy = Policy::named("aya").unwrap();
        let decision = decide_knowing(&farm.snapshot, &farm.loads, &knowledge, &request, &policy, NOW, seed);
        let newcomer = Newcomer::of(&request, &policy);
        let full = |candidate: &Candidate| match candidate.verdict {
            Verdict::Rejected(_) => None,
            Verdict::Scored { mut terms, .. } => {
                let at = candidate.endpoint;
                let site = Site::on(&farm.snapshot.endpoints.outlines()[at.get()], &farm.loads[at.get()], &newcomer);
                let (mut pending, mut streams) = (Vec::new(), Vec::new());
                insights.residents(at, &mut pending, &mut streams);
                terms.misses =
                    Misses::Expected(site.miss_s(&newcomer, &policy, (&pending, &streams), &lengths));
                Some((at, total_s(&terms)))
            }
        };
        let totals: Vec<_> = decision.candidates.iter().filter_map(full).collect();
        let least = totals.iter().map(|(_, total)| *total).min_by(f64::total_cmp);
        prop_assert_eq!(decision.chosen().map(|chosen| chosen.total), least);
        for (at, total) in totals {
            let Verdict::Scored { total: told, .. } = decision.candidates[at.get()].verdict else { continue };
            prop_assert!(told <= total + 1e-9 * total, "a bound of {told}, in truth {total}");
        }
    }

    #[test]
    fn more_load_never_makes_an_endpoint_cheaper(
        part in any_endpoint(),
        request in any_request(),
        (np, p, nd, k) in (0_u32..3, 0_u64..2000, 0_u32..3, 0_u64..4000),
        (rho, fw, fr) in (0_u32..2000, 0_u32..2, 0_u32..2),
    ) {
        let mut farm = build(std::slice::from_ref(&part));
        let policy = Policy::named("aya").unwrap();
        let newcomer = Newcomer::of(&request, &policy);
        let price = |farm: &Fleet| {
            let site = Site::on(&farm.snapshot.endpoints.outlines()[0], &farm.loads[0], &newcomer);
            (total_s(&site.terms(&newcomer, &policy, 0.0)), site.backlog_s())
        };
        let before = price(&farm);
        let own = &mut farm.loads[0];
        own.in_flight += np + nd;
        own.prefilling += np;
        own.prefill_tokens += p;
        own.decoding += nd;
        own.decode_kv_tokens += k;
        own.prefill_rate += f64::from(rho);
        farm.snapshot.endpoints[0].foreign.waiting += fw;
        farm.snapshot.endpoints[0].foreign.running += fr;
        let after = price(&farm);
        let at_least = |after: f64, before: f64| after >= before - 1e-9 * before.abs();
        prop_assert!(at_least(after.0, before.0) && at_least(after.1, before.1), "{before:?} to {after:?}");
    }
}
