#![cfg(test)]
//! Where requests go: to the fast, to the free, and as a named policy says.

use std::collections::BTreeMap;

use aya_tests::{Farm, aya, chat, sim, until, with};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// How many requests each endpoint was sent.
async fn placements(farm: &Farm) -> BTreeMap<String, u64> {
    let metrics = farm.scheduler.metrics().await;
    let each = metrics.of("aya_endpoint_placements_total").map(|(labels, count)| {
        let endpoint = labels.trim_start_matches("endpoint=").trim_matches('"').to_owned();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        (endpoint, count as u64)
    });
    each.collect()
}

async fn all_at_once(farm: &Farm, count: usize, body: &Value) {
    let asked = (0..count).map(|_| async { farm.api().chat(body).await.ok() });
    join_all(asked).await;
}

#[tokio::test]
async fn a_mixed_farm_prefers_the_fast_endpoint_and_overflows_under_load() {
    let farm = Farm::of(aya!())
        .engine(sim("h100").max_sequences(8))
        .engine(sim("l4").profile("l4-8b"))
        .start()
        .await;
    for _ in 0..10 {
        let answer = farm.api().chat(&chat(3)).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("h100"));
    }
    all_at_once(&farm, 24, &chat(30)).await;
    let went = placements(&farm).await;
    assert!(went["h100"] >= 18, "the fast one was filled first: {went:?}");
    assert!(went["l4"] >= 4, "nobody waited while there was room: {went:?}");
    farm.assert_accounted().await;
}

/// A request whose prompt costs more than the half iteration by which idle and busy endpoints differ.
fn weighty(tokens: u32) -> Value {
    let prompt = "word ".repeat(500);
    with(chat(tokens), &json!({"messages": [{"role": "user", "content": prompt}]}))
}

#[tokio::test]
async fn a_hundred_requests_at_once_spread_over_equal_endpoints() {
    let mut plan = Farm::of(aya!());
    for at in 1..=4 {
        plan = plan.engine(sim(&format!("e{at}")).flag("--time-scale", "2"));
    }
    let farm = plan.start().await;
    all_at_once(&farm, 100, &weighty(150)).await;
    let went = placements(&farm).await;
    assert_eq!(went.values().sum::<u64>(), 100, "{went:?}");
    // A herd would be 100 to 0. The exact balance is a property test of placement, where time stands still; here
    // requests that already decode weigh otherwise than those that do not, and the machine decides which is which.
    assert!(went.values().all(|count| (18..=32).contains(count)), "{went:?}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn requests_without_a_pause_do_not_herd_while_telemetry_is_silent() {
    // No report comes after the first: only the ledger can spread them.
    let farm = Farm::of(aya!())
        .engine(sim("e1").flag("--time-scale", "2"))
        .engine(sim("e2").flag("--time-scale", "2"))
        .agent("[engines]\nperiod = \"1m\"")
        .start()
        .await;
    all_at_once(&farm, 40, &weighty(150)).await;
    let went = placements(&farm).await;
    assert!(went.values().all(|count| (15..=25).contains(count)), "{went:?}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_engine_that_claims_to_be_idle_gets_no_more_than_its_share() {
    let farm = Farm::of(aya!())
        .engine(sim("honest").flag("--time-scale", "2"))
        .engine(sim("liar").flag("--time-scale", "2").flag("--fault", "lie"))
        .start()
        .await;
    for _ in 0..2 {
        all_at_once(&farm, 20, &weighty(100)).await;
    }
    let went = placements(&farm).await;
    assert!(went["liar"] <= 26 && went["honest"] >= 14, "{went:?}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_can_ask_for_round_robin_and_gets_it_exactly() {
    let farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).start().await;
    let mut went = Vec::new();
    for _ in 0..10 {
        let headers = [("x-aya-policy", "rr")];
        let answer = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await.ok();
        went.push(answer.header("x-aya-endpoint").unwrap().to_owned());
        assert_eq!(farm.record_of(&answer).await["policy"], "rr");
    }
    assert!(went.windows(2).all(|pair| pair[0] != pair[1]), "{went:?}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_unknown_policy_is_refused_by_name_and_ignored_where_clients_may_not_choose() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let best = [("x-aya-policy", "best")];
    let answer = farm.api().post_with("/v1/chat/completions", &best, &chat(1)).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("known: aya, "), "{}", answer.text());
    farm.assert_accounted().await;

    let strict = Farm::of(aya!())
        .scheduler("[placement]\nallow_policy_header = false")
        .engine(sim("e1"))
        .start()
        .await;
    let answer = strict.api().post_with("/v1/chat/completions", &best, &chat(1)).await.ok();
    assert_eq!(strict.record_of(&answer).await["policy"], "aya");
    strict.assert_accounted().await;
}

#[tokio::test]
async fn a_request_goes_only_where_its_context_fits() {
    let farm = Farm::of(aya!())
        .engine(sim("short").flag("--context-length", "1000"))
        .engine(sim("long").profile("l4-8b").flag("--context-length", "20000"))
        .start()
        .await;
    let prompt = "word ".repeat(3000);
    let body = with(chat(10), &json!({"messages": [{"role": "user", "content": prompt}]}));
    let answer = farm.api().chat(&body).await.ok();
    assert_eq!(answer.header("x-aya-endpoint"), Some("long"));
    let record = farm.record_of(&answer).await;
    let short = record["candidates"].as_array().unwrap().iter().find(|c| c["endpoint"] == "short").unwrap();
    assert_eq!(short["rejection"]["reason"], "context_too_long", "{record}");
    assert_eq!(short["rejection"]["limit_tokens"], 1000);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_new_engine_joins_and_takes_its_share() {
    let mut farm = Farm::of(aya!())
        .engine(sim("e1"))
        .engine(sim("e2").flag("--fault", "unhealthy"))
        .start_unready()
        .await;
    until("both to be known", async || {
        let known = farm.scheduler.endpoints().await;
        let health: Vec<_> = known.iter().map(|endpoint| endpoint["health"].clone()).collect();
        if health == ["healthy", "unhealthy"] { Ok(()) } else { Err(health) }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(farm.api().chat(&chat(1)).await.ok().header("x-aya-endpoint"), Some("e1"));
    }
    farm.engine("e2").fault(&json!({"unhealthy": false})).await;
    until("the other one's health", async || {
        let endpoint = farm.scheduler.endpoint("e2").await;
        if endpoint["health"] == "healthy" { Ok(()) } else { Err(endpoint) }
    })
    .await;
    farm.engine_mut("e1").kill();
    assert_eq!(farm.api().chat(&chat(1)).await.ok().header("x-aya-endpoint"), Some("e2"));
    farm.assert_accounted().await;
}
