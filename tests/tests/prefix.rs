#![cfg(test)]
//! Shared beginnings of prompts: they go where they were before, until load says otherwise or the engine forgets.

use std::collections::BTreeSet;

use aya_tests::{Answer, Farm, aya, chat, sim, until, with};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// A conversation that begins with the same 8,000 bytes as all others of this subject.
fn about(subject: &str, question: &str) -> Value {
    let system = format!("{subject}: ").repeat(8_000 / (subject.len() + 2));
    let messages = json!([{"role": "system", "content": system}, {"role": "user", "content": question}]);
    with(chat(3), &json!({"messages": messages}))
}

async fn ask(farm: &Farm, subject: &str, question: &str) -> Answer {
    farm.api().chat(&about(subject, question)).await.ok()
}

fn endpoint(answer: &Answer) -> String {
    answer.header("x-aya-endpoint").unwrap().to_owned()
}

/// The candidate that was chosen for an answered request.
async fn chosen(farm: &Farm, answer: &Answer) -> Value {
    let record = farm.record_of(answer).await;
    let candidates = record["candidates"].as_array().unwrap().clone();
    candidates.into_iter().find(|candidate| candidate["endpoint"] == record["chosen"]).unwrap()
}

async fn cached(farm: &Farm, answer: &Answer) -> u64 {
    chosen(farm, answer).await["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn a_shared_beginning_stays_together_until_load_says_otherwise() {
    let farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).start().await;
    let first = ask(&farm, "whales", "how long are they?").await;
    assert_eq!(cached(&farm, &first).await, 0);
    for question in ["how heavy?", "how old?", "where do they live and why there?", "do they sing?"] {
        let next = ask(&farm, "whales", question).await;
        assert_eq!(endpoint(&next), endpoint(&first), "{question}");
        let record = farm.record_of(&next).await;
        let (expected, told) =
            (cached(&farm, &next).await, record["request"]["prompt_tokens_estimate"].as_u64().unwrap());
        assert!(expected * 10 > told * 9, "{expected} of {told}");
        let real = next.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert!(expected.abs_diff(real) < real / 10, "{expected} expected, {real} in truth");
    }
    // Another subject knows nothing of it, and so goes to the one that is idle as well.
    let other = ask(&farm, "ants", "how strong?").await;
    assert_eq!(cached(&farm, &other).await, 0);
    let questions: Vec<String> = (0..60).map(|at| format!("question {at}")).collect();
    let together = questions.iter().map(async |question| endpoint(&ask(&farm, "whales", question).await));
    let went: Vec<String> = join_all(together).await;
    let names: BTreeSet<&String> = went.iter().collect();
    assert_eq!(names.len(), 2, "sixty at once are too many for one: {went:?}");
    let stayed = went.iter().filter(|name| **name == endpoint(&first)).count();
    assert!(stayed >= 25, "{stayed} of 60 stayed");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_engine_that_started_anew_is_not_expected_to_remember() {
    let mut farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let first = ask(&farm, "whales", "how long are they?").await;
    let second = ask(&farm, "whales", "how heavy are they?").await;
    assert!(cached(&farm, &second).await > 1_000);
    let health = async |farm: &Farm, expect: &str| {
        until(expect, async || {
            let endpoint = farm.scheduler.endpoint("e1").await;
            if endpoint["health"] == expect { Ok(()) } else { Err(endpoint["health"].clone()) }
        })
        .await;
    };
    farm.engine_mut("e1").kill();
    health(&farm, "unhealthy").await;
    farm.engine_mut("e1").restart().await;
    health(&farm, "healthy").await;
    let third = ask(&farm, "whales", "how old are they?").await;
    assert_eq!(cached(&farm, &third).await, 0);
    assert_eq!(endpoint(&third), endpoint(&first));
}

#[tokio::test]
async fn caches_are_left_alone_where_the_configuration_says_so() {
    let farm =
        Farm::of(aya!()).scheduler("[placement]\nprefix_blocks_max = 0").engine(sim("e1")).start().await;
    ask(&farm, "whales", "how long are they?").await;
    assert_eq!(cached(&farm, &ask(&farm, "whales", "how heavy are they?").await).await, 0);
    farm.assert_accounted().await;
}
