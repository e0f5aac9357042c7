#![cfg(test)]
//! The farm as its clients and its operator see it.

use aya_tests::{Farm, MODEL, aya, chat, sim};

#[tokio::test]
async fn a_chat_request_is_answered_and_accounted_for() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let answer = farm.api().chat(&chat(5)).await.ok();
    assert_eq!(answer.json()["usage"]["completion_tokens"], 5);
    assert_eq!(answer.json()["model"], MODEL);
    farm.assert_accounted().await;
}
