#![cfg(test)]
//! The farm as its clients and its operator see it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use aya_tests::{
    Agent, Client, Engine, Farm, MODEL, Scheduler, aya, chat, sim, streamed, tapped, until, with,
};
use serde_json::{Value, json};

#[tokio::test]
async fn models_are_listed_and_found_whatever_their_names_hold() {
    let engine = sim("e1").flag("--model", "org/tiny").flag("--model", "plain");
    let farm = Farm::of(aya!())
        .scheduler("[[alias]]\nname = \"fast\"\nmodel = \"plain\"")
        .engine(engine)
        .start()
        .await;
    let list = farm.api().get("/v1/models").await.ok().json();
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["fast", "org/tiny", "plain"]);
    assert!(list["data"].as_array().unwrap().iter().all(|m| m["object"] == "model"), "{list}");
    for (path, expect) in [
        ("/v1/models/org/tiny", "200 org/tiny"),
        ("/v1/models/org%2Ftiny", "200 org/tiny"),
        ("/v1/models/org%2ftiny", "200 org/tiny"),
        ("/v1/models/plain", "200 plain"),
        ("/v1/models/fast", "200 fast"),
        ("/v1/models/org", "404 model_not_found"),
        ("/v1/models/tiny", "404 model_not_found"),
        ("/v1/models/org%252Ftiny", "404 model_not_found"),
        ("/v1/models/", "404 unknown_path"),
    ] {
        let answer = farm.api().get(path).await;
        let seen = match answer.status {
            200 => format!("200 {}", answer.json()["id"].as_str().unwrap()),
            _ => answer.error(),
        };
        assert_eq!(seen, expect, "{path}");
    }
    farm.assert_accounted().await;
}

/// What differs between two answers to the same request: their ids and their time.
fn comparable(body: &str, id: &str) -> String {
    let body = body.replace(id, "ID");
    let mut parts = body.split("\"created\":");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + "\"created\":" + part.trim_start_matches(char::is_numeric))
}

#[tokio::test]
async fn an_answer_has_the_same_bytes_as_the_engines_own() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let chat = with(chat(6), &json!({"seed": 7}));
    let text = json!({"model": MODEL, "prompt": "Once", "max_tokens": 6, "seed": 7});
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let input = json!({"model": MODEL, "input": ["one", "two"]});
    for (at, (path, body)) in [
        ("/v1/chat/completions", chat.clone()),
        ("/v1/chat/completions", with(chat.clone(), &json!({"stream": true}))),
        ("/v1/chat/completions", with(chat, &usage)),
        ("/v1/completions", text.clone()),
        ("/v1/completions", with(text.clone(), &json!({"stream": true}))),
        ("/v1/completions", with(text, &usage)),
        ("/v1/embeddings", input.clone()),
        ("/v1/embeddings", with(input, &json!({"encoding_format": "base64"}))),
    ]
    .into_iter()
    .enumerate()
    {
        let (through, direct) = (format!("through-{at}"), format!("direct-{at}"));
        let ours = farm.api().post_with(path, &[("x-request-id", &through)], &body).await.ok();
        let own = Client { addr: farm.engine("e1").addr };
        let theirs = own.post_with(path, &[("x-request-id", &direct)], &body).await.ok();
        assert_eq!(comparable(ours.text(), &through), comparable(theirs.text(), &direct), "{path} {body}");
        assert_eq!(ours.header("content-type"), theirs.header("content-type"), "{path} {body}");
        let outcome = farm.record(&through).await["outcome"].clone();
        assert_eq!(outcome["status"], "completed", "{outcome}");
        let told = body["stream"] != true || body["stream_options"]["include_usage"] == true;
        assert_eq!(outcome["prompt_tokens"].as_u64() > Some(0), told, "{path} {body}: {outcome}");
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_stream_is_complete_with_usage_only_if_asked_for() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    for (options, with_usage) in [
        (json!({"stream": true}), false),
        (json!({"stream": true, "stream_options": {"include_usage": true}}), true),
    ] {
        let events = farm.api().begin_chat(&with(chat(3), &options)).await.events().await;
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        let usage = events.iter().filter(|event| event.contains("\"usage\":{")).count();
        assert_eq!(usage == 1, with_usage, "{events:?}");
    }
    farm.assert_accounted().await;
}

/// A UUID of version 7.
fn is_uuid_v7(text: &str) -> bool {
    let shape = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        14 => c == '7',
        _ => c.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.chars().enumerate().all(shape)
}

#[tokio::test]
async fn headers_say_which_request_it_was_and_where_it_went() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let long = "x".repeat(129);
    for (given, kept) in [
        (None, false),
        (Some("my-request_1.a"), true),
        (Some("with space"), false),
        (Some("quote\""), false),
        (Some("\u{e9}"), false),
        (Some(""), false),
        (Some(long.as_str()), false),
    ] {
        let headers: Vec<_> = given.map(|id| ("x-request-id", id)).into_iter().collect();
        let answer = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await.ok();
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(Some(id) == given, kept, "{given:?} became {id:?}");
        assert!(kept || is_uuid_v7(id), "{id}");
        assert!(is_uuid_v7(answer.header("x-aya-decision-id").unwrap()));
        assert_eq!(answer.header("x-aya-endpoint"), Some("e1"));
        assert_eq!(answer.header("x-aya-queue-ms"), Some("0"));
    }
    let refused = farm.api().chat(&json!({"model": MODEL})).await;
    assert!(is_uuid_v7(refused.header("x-request-id").unwrap()));
    assert_eq!(refused.header("x-aya-endpoint"), None);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_decision_is_found_by_both_ids_and_by_every_filter() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let answer = farm.api().chat(&chat(4)).await.ok();
    let (request, decision) =
        (answer.header("x-request-id").unwrap(), answer.header("x-aya-decision-id").unwrap());
    let record = farm.record(request).await;
    assert_eq!(farm.record(decision).await, record);
    assert_eq!(record["decision_id"], decision);
    assert_eq!(record["request_id"], request);
    assert_eq!((&record["model"], &record["chosen"]), (&json!(MODEL), &json!("e1")));
    let outcome = &record["outcome"];
    assert_eq!((&outcome["status"], &outcome["completion_tokens"]), (&json!("completed"), &json!(4)));
    let candidate = &record["candidates"][0];
    assert_eq!((&candidate["verdict"], &candidate["freshness"]), (&json!("scored"), &json!("fresh")));
    assert!(candidate["terms"]["predicted_ttft_s"].as_f64() > Some(0.0), "{record}");
    assert!(candidate["age_ms"].is_number() && record["snapshot_generation"].is_u64(), "{record}");

    assert_eq!(farm.api().chat(&json!({"model": MODEL})).await.status, 400);
    until("both records", async || {
        let all = farm.scheduler.decisions().await.len();
        if all == 2 { Ok(()) } else { Err(all) }
    })
    .await;
    for (query, expect) in [
        ("", 2),
        ("?limit=1", 1),
        ("?model=llama-3.1-8b", 1),
        ("?model=other", 0),
        ("?endpoint=e1", 1),
        ("?endpoint=e2", 0),
        ("?outcome=completed", 1),
        ("?outcome=client_error", 1),
        ("?outcome=truncated", 0),
    ] {
        let found = farm.admin().get(&format!("/api/v1/decisions{query}")).await.ok().json();
        assert_eq!(found["decisions"].as_array().unwrap().len(), expect, "{query}");
    }
    assert_eq!(farm.admin().get("/api/v1/decisions?no=1").await.error(), "400 bad_query");
    assert_eq!(farm.admin().get("/api/v1/decisions/nobody").await.error(), "404 unknown_decision");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_dry_run_explains_and_places_nothing() {
    let farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2").profile("l4-8b")).start().await;
    let decision = farm.admin().post("/api/v1/placements:explain", &chat(50)).await.ok().json();
    assert_eq!((&decision["chosen"], &decision["runner_up"]), (&json!("e1"), &json!("e2")));
    assert!(decision["margin_s"].as_f64() > Some(0.0), "{decision}");
    assert_eq!(decision["candidates"].as_array().unwrap().len(), 2);
    for (body, code) in [
        (json!({"model": MODEL}), "400 -"),
        (json!({"messages": []}), "400 model_required"),
        (json!([]), "400 -"),
    ] {
        let answer = farm.admin().post("/api/v1/placements:explain", &body).await;
        assert_eq!(answer.status, 400, "{body}: {} instead of {code}", answer.text());
    }
    for engine in &farm.engines {
        assert_eq!(engine.count("submitted").await, 0);
    }
    let metrics = farm.scheduler.metrics().await;
    assert!(metrics.sum("aya_requests_accepted_total") < 0.5);
    assert!(metrics.sum("aya_endpoint_placements_total") < 0.5);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn the_fleet_shows_what_the_contract_names() {
    let farm = Farm::of(aya!()).node(vec![sim("e1"), sim("e2")]).start().await;
    let fleet = until("readings of the GPUs", async || {
        let fleet = farm.scheduler.fleet().await;
        let read = fleet["nodes"][0]["gpus"][0]["power_milliwatts"].is_u64();
        if read { Ok(fleet) } else { Err(fleet) }
    })
    .await;
    let numbers = |value: &Value, fields: &[&str]| {
        for field in fields {
            assert!(value[field].is_number(), "{field} in {value}");
        }
    };
    numbers(&fleet, &["generation"]);
    let node = &fleet["nodes"][0];
    assert_eq!((&node["id"], &node["phase"]), (&json!("n1"), &json!("serving")));
    assert_eq!((&node["health"], &node["freshness"]), (&json!("healthy"), &json!("fresh")));
    numbers(node, &["age_ms"]);
    assert_eq!(node["gpus"].as_array().unwrap().len(), 2);
    for gpu in node["gpus"].as_array().unwrap() {
        assert!(gpu["uuid"].as_str().unwrap().starts_with("GPU-"), "{gpu}");
        assert_eq!((&gpu["name"], &gpu["health"]), (&json!("NVIDIA H100 80GB HBM3"), &json!("healthy")));
        let bytes = ["vram_total_bytes", "vram_used_bytes", "vram_free_bytes"];
        numbers(gpu, &bytes);
        numbers(gpu, &["temperature_celsius", "power_milliwatts"]);
        let [total, used, free] = bytes.map(|field| gpu[field].as_u64().unwrap());
        assert!(used + free <= total, "{gpu}");
    }
    let endpoint = farm.scheduler.endpoint("e2").await;
    assert_eq!((&endpoint["node"], &endpoint["engine"]), (&json!("n1"), &json!("simulated")));
    assert_eq!(endpoint["url"], farm.engine("e2").url());
    assert_eq!(endpoint["models"][0], json!({"id": MODEL, "context_length": 131_072}));
    assert_eq!((&endpoint["phase"], &endpoint["health"]), (&json!("serving"), &json!("healthy")));
    numbers(&endpoint, &["in_flight", "running", "waiting", "kv_used_ratio", "age_ms"]);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_drained_node_or_endpoint_gets_no_new_requests_until_it_is_undrained() {
    let farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).start().await;
    let operate = async |path: &str, id: &str, phase: &str| {
        let _ = farm.admin().post(&format!("/api/v1/{path}"), &json!({})).await.ok();
        until("the phase to change", async || {
            let seen = farm.scheduler.endpoint(id).await["phase"].clone();
            if seen == phase { Ok(()) } else { Err(seen) }
        })
        .await;
    };
    let goes_only_to = async |id: &str| {
        for _ in 0..4 {
            let answer = farm.api().chat(&chat(1)).await.ok();
            assert_eq!(answer.header("x-aya-endpoint"), Some(id));
        }
    };
    operate("nodes/n1:drain", "e1", "draining").await;
    goes_only_to("e2").await;
    operate("nodes/n1:undrain", "e1", "serving").await;
    operate("endpoints/e2:drain", "e2", "draining").await;
    goes_only_to("e1").await;
    operate("endpoints/e1:drain", "e1", "draining").await;
    assert_eq!(farm.admin().get("/readyz").await.status, 503);
    assert_eq!(farm.admin().get("/healthz").await.status, 200);
    operate("endpoints/e2:undrain", "e2", "serving").await;
    assert_eq!(farm.admin().get("/readyz").await.status, 200);
    goes_only_to("e2").await;
    for (path, code) in [
        ("nodes/n9:drain", "404 unknown_id"),
        ("endpoints/e9:undrain", "404 unknown_id"),
        ("endpoints/e1", "404 unknown_action"),
        ("endpoints/e1:stop", "404 unknown_action"),
    ] {
        let answer = farm.admin().post(&format!("/api/v1/{path}"), &json!({})).await;
        assert_eq!(answer.error(), code, "{path}");
    }
    farm.assert_accounted().await;
}

/// What `promtool check metrics` would complain about, as far as a few lines can tell.
fn check_exposition(page: &str) {
    let mut series = Vec::new();
    let mut kinds = std::collections::BTreeMap::new();
    let mut helped = std::collections::BTreeSet::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(!text.is_empty() && helped.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (labelled, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = labelled.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| kinds.get(family) == Some(&"histogram"));
            assert!(kinds.contains_key(family.unwrap_or(name)), "{line} has no type");
            assert!(name.starts_with("aya_") || name.starts_with("process_"), "{line}");
            series.push(labelled);
        }
    }
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert!(all > 10 && series.len() == all, "a series is there twice");
}

/// Asks the real tool where there is one.
fn check_with_promtool(page: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else { return };
    tool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && output.stdout.is_empty(), "{output:?}");
}

#[tokio::test]
async fn metrics_are_clean_on_the_scheduler_and_on_the_agent() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let _ = farm.api().chat(&chat(2)).await.ok();
    let _ = farm.api().begin_chat(&streamed(2)).await.whole().await;
    let _ = farm.api().chat(&json!({"model": "m\"\\\n", "messages": []})).await;
    let log = farm.agents[0].process.log();
    let agent = log.split_whitespace().find_map(|word| word.strip_prefix("admin=")).unwrap();
    let agent = Client { addr: agent.parse().unwrap() };
    for listener in [farm.admin(), agent] {
        assert_eq!(listener.get("/healthz").await.status, 200);
        let page = listener.get("/metrics").await.ok();
        assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
        check_exposition(page.text());
        check_with_promtool(page.text());
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn the_effective_configuration_masks_secrets_and_the_engine_still_gets_them() {
    const SECRET: &str = "sk-very-private-2f8e";
    tapped(async {
        let secrets = tempfile::tempdir().unwrap();
        let file = secrets.path().join("key");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let general = secrets.path().join("general");
        std::fs::write(&general, "sk-of-all-others").unwrap();
        let toml = format!(
            "queue.capacity = 17\n[upstream]\napi_key_file = {general:?}\n\
             [[upstream.engine]]\nendpoint = \"e1\"\napi_key_file = {file:?}"
        );
        let (farm, tap) = Farm::behind_a_tap(aya!(), &toml).await;
        let config = farm.admin().get("/api/v1/config").await.ok();
        assert!(!config.text().contains(SECRET), "{}", config.text());
        let settings = config.json()["settings"].clone();
        let setting = |key: &str| {
            let found = settings.as_array().unwrap().iter().find(|setting| setting["key"] == key);
            found.unwrap_or_else(|| panic!("{key} in {settings}")).clone()
        };
        assert_eq!(setting("queue.capacity")["value"], "17");
        assert!(setting("queue.capacity")["source"].as_str().unwrap().contains("scheduler.toml"));
        let headers = [("authorization", "Bearer of-the-client")];
        let _ = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await.ok();
        let sent = tap.requests().concat();
        assert!(sent.contains(&format!("Bearer {SECRET}")), "{sent}");
        assert!(!sent.contains("of-the-client") && !sent.contains("sk-of-all-others"), "{sent}");
        assert!(!farm.scheduler.process.log().contains(SECRET));
        farm.assert_accounted().await;
    })
    .await;
}

async fn is_ready(scheduler: &Scheduler) {
    until("readiness", async || {
        let answer = Client { addr: scheduler.admin }.get("/readyz").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

#[tokio::test]
async fn an_alias_changes_the_models_name_and_no_other_byte() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "[[alias]]\nname = \"fast\"\nmodel = \"llama-3.1-8b\"").await;
        let body = |model: &str| {
            format!(
                "{{ \"messages\" : [{{\"role\":\"user\",\"content\":\"\\u0068i \u{1f980}\"}}],\n\t\"model\":{model} , \
                 \"max_tokens\": 2, \"temperature\":1.50, \"unknown\":{{\"model\":\"fast\"}} }}"
            )
        };
        let path = "/v1/chat/completions";
        for (asked, told) in
            [("\"fast\"", "\"llama-3.1-8b\""), ("\"f\\u0061st\"", "\"llama-3.1-8b\""), ("\"llama-3.1-8b\"", "\"llama-3.1-8b\"")]
        {
            let answer = farm.api().open("POST", path, &[], body(asked).into()).await.whole().await.ok();
            assert_eq!(answer.json()["model"], MODEL);
            let sent = tap.requests().concat();
            assert!(sent.ends_with(&format!("\r\n\r\n{}", body(told))), "{sent}");
        }
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn what_concerns_only_the_clients_connection_does_not_reach_the_engine() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "").await;
        let headers = [
            ("authorization", "Bearer of-the-client"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "secret-of-a-hop"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-gateway-destination-endpoint", "169.254.169.254"),
            ("cookie", "session=abc"),
            ("x-request-id", "mine-1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        let _ = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await.ok();
        let sent = tap.requests().concat().to_ascii_lowercase();
        for absent in ["of-the-client", "x-private", "x-forwarded", "203.0.113", "x-gateway", "cookie"] {
            assert!(!sent.contains(absent), "{absent} in {sent}");
        }
        for present in
            ["x-request-id: mine-1", "traceparent: 00-4bf92f", "host: 127.0.0.1:", "content-length: "]
        {
            assert!(sent.contains(present), "{present} not in {sent}");
        }
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn the_ledger_agrees_with_the_engines_books_while_they_work() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).engine(sim("e2").slow()).start().await;
    let mut streams = Vec::new();
    for _ in 0..9 {
        streams.push(farm.api().begin_chat(&streamed(10_000)).await);
    }
    let mut all = 0;
    for engine in &farm.engines {
        let own = engine.count("in_flight").await;
        assert_eq!(farm.scheduler.endpoint(&engine.name).await["in_flight"], own);
        all += own;
    }
    assert_eq!(all, 9);
    let metrics = farm.scheduler.metrics().await;
    assert_eq!(metrics.sum("aya_requests_in_flight").round().to_string(), "9");
    until("reports that contain them", async || {
        let endpoints = farm.scheduler.endpoints().await;
        let running: Option<u64> = endpoints.iter().map(|e| e["running"].as_u64()).sum();
        if running == Some(9) { Ok(()) } else { Err(running) }
    })
    .await;
    for endpoint in farm.scheduler.endpoints().await {
        assert_eq!((&endpoint["foreign_running"], &endpoint["foreign_waiting"]), (&json!(0), &json!(0)));
    }
    streams.truncate(4);
    until("five of them to end", async || {
        let open = farm.scheduler.metrics().await.sum("aya_requests_in_flight");
        if (open - 4.0).abs() < 0.5 { Ok(()) } else { Err(open) }
    })
    .await;
    drop(streams);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn one_agent_feeds_two_schedulers_that_place_side_by_side() {
    let exe = aya!();
    let mut farm = Farm::of(exe).start().await;
    let dir: std::path::PathBuf = farm.dir.path().into();
    let second = Scheduler::start(exe, &dir, "second", "").await;
    let engine = Engine::start(exe, &dir, sim("e1")).await;
    let schedulers = [&farm.scheduler, &second].map(|scheduler| format!("http://{}", scheduler.grpc));
    let engines = [("e1".to_owned(), engine.url())];
    farm.agents.push(Agent::start(exe, &dir, "n1", &schedulers, &engines, ""));
    farm.engines.push(engine);
    for scheduler in [&farm.scheduler, &second] {
        is_ready(scheduler).await;
        for _ in 0..3 {
            let answer = Client { addr: scheduler.api }.chat(&chat(2)).await.ok();
            assert_eq!(answer.header("x-aya-endpoint"), Some("e1"));
        }
    }
    // A request of one scheduler is foreign load to the other.
    let stream = Client { addr: second.api }.begin_chat(&streamed(100_000)).await;
    until("foreign load", async || {
        let endpoint = farm.scheduler.endpoint("e1").await;
        if endpoint["foreign_running"] == 1 { Ok(()) } else { Err(endpoint) }
    })
    .await;
    assert_eq!(second.endpoint("e1").await["foreign_running"], 0);
    drop(stream);
    second.assert_accounted().await;
    farm.assert_accounted().await;
}
