#![cfg(test)]
//! A stream that breaks off goes on from another engine, for those who asked for it: as one answer, once, and only text.

use aya_tests::{Farm, FarmPlan, aya, sim, streamed, until, with};
use bytes::Bytes;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn two() -> FarmPlan {
    Farm::of(aya!()).engine(sim("e1")).engine(sim("e2"))
}

/// A farm whose engines break off every stream after so many tokens, but `survivor`.
async fn dying(plan: FarmPlan, after: u32, survivor: &str) -> Farm {
    let farm = plan.start().await;
    for engine in farm.engines.iter().filter(|engine| engine.name != survivor) {
        engine.fault(&json!({"die_mid_stream": after})).await;
    }
    farm
}

/// The whole stream as it came, and its id.
async fn stream(
    farm: &Farm,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (String, Vec<Value>, String) {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    if farm.engines.len() > 1 {
        drain_e2(farm, "drain").await;
    }
    let mut live = farm.api().open("POST", path, &all, Bytes::from(body.to_string())).await;
    if farm.engines.len() > 1 {
        drain_e2(farm, "undrain").await;
    }
    let id = live.header("x-request-id").unwrap().to_owned();
    let mut raw = Vec::new();
    while let Some(chunk) = live.chunk().await {
        raw.extend_from_slice(&chunk);
    }
    let raw = String::from_utf8(raw).unwrap();
    let data = raw.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter_map(|data| serde_json::from_str(data).ok()).collect();
    (raw, events, id)
}

const ASKED: [(&str, &str); 1] = [("x-aya-continue", "true")];

/// While `e2` takes no requests they go to `e1`.
async fn drain_e2(farm: &Farm, action: &str) {
    let _ = farm.admin().post(&format!("/api/v1/endpoints/e2:{action}"), &json!({})).await.ok();
}

#[tokio::test]
async fn a_stream_that_breaks_off_goes_on_elsewhere_and_is_one_answer() {
    for (path, prompt) in [(PATH, None), ("/v1/completions", Some("hello"))] {
        let farm = dying(two().scheduler("breaker.enabled = false"), 5, "e2").await;
        let mut body =
            with(streamed(20), &json!({"ignore_eos": true, "stream_options": {"include_usage": true}}));
        if let Some(prompt) = prompt {
            body.as_object_mut().unwrap().remove("messages");
            body["prompt"] = json!(prompt);
        }
        let (raw, events, id) = stream(&farm, path, &ASKED, &body).await;
        assert!(raw.contains(": aya-continued endpoint=e2\n\n"), "{raw}");
        assert!(raw.ends_with("data: [DONE]\n\n") && !raw.contains("\"error\""), "{raw}");
        let ids: std::collections::BTreeSet<String> =
            events.iter().filter_map(|event| event["id"].as_str().map(str::to_owned)).collect();
        assert_eq!(ids.len(), 1, "one answer has one id: {raw}");
        let record = farm.record(&id).await;
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], 20, "{raw}");
        assert_eq!(usage["prompt_tokens"], record["outcome"]["prompt_tokens"], "{record}");
        let (prompt, total) = (usage["prompt_tokens"].as_u64(), usage["total_tokens"].as_u64());
        assert_eq!(prompt.map(|prompt| prompt + 20), total, "{raw}");
        let outcome = &record["outcome"];
        let told = (&outcome["status"], &outcome["completion_tokens"], &outcome["finish_reason"]);
        assert_eq!(told, (&json!("completed"), &json!(20), &json!("length")), "{record}");
        let attempts = record["attempts"].as_array().unwrap();
        let told: Vec<_> = attempts.iter().map(|a| (a["endpoint"].clone(), a["result"].clone())).collect();
        assert_eq!(told, [(json!("e1"), json!("failed")), (json!("e2"), json!("answered"))], "{record}");
        assert_eq!(attempts[1]["continues_after_tokens"], 5, "{record}");
        let metrics = farm.scheduler.metrics().await;
        assert!((metrics.sum("aya_streams_continued_total") - 1.0).abs() < 0.5);
        farm.assert_accounted().await;
    }
}

#[tokio::test]
async fn an_answer_that_was_continued_costs_its_prompt_once() {
    let farm = dying(two().scheduler("breaker.enabled = false"), 5, "e2").await;
    let body = with(streamed(20), &json!({"ignore_eos": true, "stream_options": {"include_usage": true}}));
    let whole = {
        farm.engine("e1").fault(&json!({"die_mid_stream": null})).await;
        stream(&farm, PATH, &[], &body).await.1.last().unwrap()["usage"].clone()
    };
    farm.engine("e1").fault(&json!({"die_mid_stream": 5})).await;
    let (raw, events, _) = stream(&farm, PATH, &ASKED, &body).await;
    assert!(raw.contains("aya-continued"), "{raw}");
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], whole["completion_tokens"]);
    // The simulated engine counts a prompt by its bytes, so that five tokens of text may be a token more or less.
    let (one, two) = (whole["prompt_tokens"].as_u64().unwrap(), usage["prompt_tokens"].as_u64().unwrap());
    assert!(one.abs_diff(two) <= 12, "{one} {two}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn without_being_asked_for_or_with_more_than_text_the_end_is_told() {
    let all = "breaker.enabled = false\n[retry]\ncontinue_models = [\"*\"]";
    let off = "breaker.enabled = false";
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let text = json!({});
    for (toml, header, extra, goes_on) in [
        (off, None, &text, false),
        (off, Some("true"), &text, true),
        (all, None, &text, true),
        (all, Some("false"), &text, false),
        (all, None, &tools, false),
        (all, None, &json!({"response_format": {"type": "json_object"}}), false),
        (all, None, &json!({"logprobs": true}), false),
    ] {
        let farm = dying(two().scheduler(toml), 3, "e2").await;
        let headers: Vec<_> = header.map(|value| ("x-aya-continue", value)).into_iter().collect();
        let body = with(with(streamed(9), &json!({"ignore_eos": true})), extra);
        let (raw, events, id) = stream(&farm, PATH, &headers, &body).await;
        assert_eq!(raw.ends_with("data: [DONE]\n\n"), goes_on, "{header:?} {extra} {raw}");
        let record = farm.record(&id).await;
        if goes_on {
            assert_eq!(record["outcome"]["completion_tokens"], 9, "{record}");
        } else {
            assert_eq!(events.last().unwrap()["error"]["code"], "stream_truncated", "{raw}");
            assert_eq!(record["outcome"]["status"], "truncated", "{record}");
            assert_eq!(record["outcome"]["completion_tokens"], 3, "{record}");
            assert_eq!(record["attempts"].as_array().unwrap().len(), 1, "{record}");
        }
        farm.assert_accounted().await;
    }
}

#[tokio::test]
async fn it_goes_on_once_and_not_on_the_engine_that_failed() {
    let farm = dying(two().scheduler("breaker.enabled = false"), 3, "nobody").await;
    let body = with(streamed(9), &json!({"ignore_eos": true}));
    let (raw, events, id) = stream(&farm, PATH, &ASKED, &body).await;
    assert!(raw.contains("aya-continued"), "{raw}");
    assert_eq!(events.last().unwrap()["error"]["code"], "stream_truncated", "{raw}");
    let record = farm.record(&id).await;
    assert_eq!(record["outcome"]["status"], "truncated", "{record}");
    assert_eq!(record["outcome"]["completion_tokens"], 6, "three of each: {record}");
    assert_eq!(record["attempts"].as_array().unwrap().len(), 2, "{record}");
    farm.assert_accounted().await;

    let plan =
        Farm::of(aya!()).engine(sim("e1")).scheduler("breaker.enabled = false\nqueue.wait_max = \"500ms\"");
    let farm = dying(plan, 3, "nobody").await;
    let (raw, events, id) = stream(&farm, PATH, &ASKED, &body).await;
    assert!(!raw.contains("aya-continued"), "{raw}");
    assert_eq!(events.last().unwrap()["error"]["code"], "stream_truncated", "{raw}");
    let record = farm.record(&id).await;
    assert_eq!(record["outcome"]["completion_tokens"], 3, "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_another_engine_is_looked_for_is_accounted_for() {
    let farm = dying(two().scheduler("breaker.enabled = false"), 3, "e2").await;
    drain_e2(&farm, "drain").await;
    let body = with(streamed(9), &json!({"ignore_eos": true}));
    let mut live = {
        let headers =
            [("content-type", "application/json"), ("x-aya-continue", "true"), ("x-request-id", "leaves")];
        farm.api().open("POST", PATH, &headers, Bytes::from(body.to_string())).await
    };
    for _ in 0..4 {
        assert!(live.event().await.is_some());
    }
    until("it to look for another one", async || {
        let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
        if depth > 0.5 { Ok(()) } else { Err(depth) }
    })
    .await;
    drop(live);
    let record = farm.record("leaves").await;
    assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
    assert_eq!(record["outcome"]["completion_tokens"], 3, "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_header_that_says_neither_is_refused() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let answer = farm.api().post_with(PATH, &[("x-aya-continue", "maybe")], &streamed(1)).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("x-aya-continue")));
    farm.assert_accounted().await;
}
