//! The service over real sockets: stream shapes, usage, disconnects, overload, and every fault.

use std::net::SocketAddr;
use std::time::Duration;

use aya_domain::{EngineKind, Tokens, splitmix64};
use aya_engine::Page;
use aya_observe::Clock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Fault, SimConfig, SimEngine};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A served engine that ends with its test.
struct Sim {
    addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Sim {
    /// Fast enough that nobody waits: the hardware's speed times a hundred.
    async fn fast() -> Self {
        Self::start(SimConfig { time_scale: 100.0, ..SimConfig::local("a100-8b") }).await
    }

    async fn start(config: SimConfig) -> Self {
        let engine = SimEngine::bind(config).await.unwrap();
        let (addr, shutdown) = (engine.addr(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let token = shutdown.clone();
        tasks.spawn(async move { engine.run(token).await.unwrap() });
        Self { addr, shutdown, tasks }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }

    /// Sends a request and leaves the answer on the wire.
    async fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        Answer::read(self.open(method, path, headers, body).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", "").await
    }

    async fn chat(&self, body: &Value) -> Answer {
        self.ask("POST", "/v1/chat/completions", "", &body.to_string()).await
    }

    async fn set_faults(&self, faults: Value) {
        let answer = self.ask("POST", "/sim/faults", "", &faults.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body());
    }

    async fn state(&self) -> Value {
        self.get("/sim/state").await.json()
    }

    /// Asks for the state until it is as wished; how long that took.
    async fn until(&self, wish: impl Fn(&Value) -> bool) -> Duration {
        let clock = Clock::start();
        let begin = clock.now();
        loop {
            let state = self.state().await;
            if wish(&state) {
                return clock.now().since(begin);
            }
            assert!(clock.now().since(begin) < PATIENCE, "still {state}");
        }
    }
}

/// What came back, chunk by chunk if it was chunked.
struct Answer {
    status: u16,
    head: String,
    chunks: Vec<String>,
    /// The body ended as its head promised.
    whole: bool,
}

impl Answer {
    async fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let (chunks, whole) = if head.contains("transfer-encoding: chunked") {
            dechunk(body)
        } else {
            let promised = head.split("content-length: ").nth(1).and_then(|l| l.lines().next());
            (vec![body.to_owned()], promised == Some(body.len().to_string().as_str()))
        };
        Self { status, head, chunks, whole: whole && read.is_ok() }
    }

    fn body(&self) -> String {
        self.chunks.concat()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|e| panic!("{e}: {}", self.body()))
    }

    /// The events of a stream, `[DONE]` as a string.
    fn events(&self) -> Vec<Value> {
        let body = self.body();
        let data = body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
        data.map(|d| if d == "[DONE]" { json!(d) } else { serde_json::from_str(d).unwrap() }).collect()
    }
}

fn dechunk(mut body: &str) -> (Vec<String>, bool) {
    let mut chunks = Vec::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (chunks, true);
        }
        let Some(chunk) = rest.get(..size) else { break };
        chunks.push(chunk.to_owned());
        body = rest.get(size + 2..).unwrap_or("");
    }
    (chunks, false)
}

/// Eight tokens of answer to a prompt of seven.
fn hello() -> Value {
    json!({"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "say something"}],
           "max_tokens": 8, "ignore_eos": true})
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

fn endless_of(model: &str) -> Value {
    let mut body = endless();
    body["model"] = json!(model);
    body
}

/// An answer that is still being written when the test is over.
fn endless() -> Value {
    let mut body = hello();
    body["max_tokens"] = json!(100_000);
    body
}

#[tokio::test]
async fn a_stream_is_a_role_then_one_event_per_token_then_usage_and_done() {
    let sim = Sim::fast().await;
    let mut body = streamed(hello());
    body["stream_options"] = json!({"include_usage": true});
    let answer = sim.ask("POST", "/v1/chat/completions", "x-request-id: my-1\r\n", &body.to_string()).await;

    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    assert!(answer.whole);
    let events = answer.events();
    assert_eq!(answer.chunks.len(), events.len(), "one event per chunk");
    assert_eq!(events.len(), 1 + 8 + 1 + 1);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    for (nth, event) in events[..9].iter().enumerate() {
        assert_eq!(event["id"], "chatcmpl-my-1");
        assert_eq!(event["object"], "chat.completion.chunk");
        let finish = if nth == 8 { json!("length") } else { Value::Null };
        assert_eq!(event["choices"][0]["finish_reason"], finish, "event {nth}");
    }
    assert_eq!(events[9]["choices"], json!([]));
    assert_eq!(events[9]["usage"]["prompt_tokens"], 7);
    assert_eq!(events[9]["usage"]["completion_tokens"], 8);
    assert_eq!(events[10], "[DONE]");
    sim.stop().await;
}

#[tokio::test]
async fn without_streaming_the_same_answer_comes_whole() {
    let sim = Sim::fast().await;
    let mut body = hello();
    body["seed"] = json!(11);
    let whole = sim.chat(&body).await.json();
    let events = sim.chat(&streamed(body)).await.events();
    let pieces: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], pieces);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15,
               "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(pieces.split(' ').count(), 8);
    sim.stop().await;
}

#[tokio::test]
async fn text_completions_have_their_own_shape() {
    let sim = Sim::fast().await;
    let mut body = json!({"prompt": "once upon", "max_tokens": 3, "ignore_eos": true});
    let whole = sim.ask("POST", "/v1/completions", "", &body.to_string()).await.json();
    assert_eq!((&whole["object"], &whole["usage"]["prompt_tokens"]), (&json!("text_completion"), &json!(2)));
    body["stream"] = json!(true);
    let events = sim.ask("POST", "/v1/completions", "", &body.to_string()).await.events();
    assert_eq!(events.len(), 4);
    assert!(events[0]["choices"][0]["text"].is_string());
    assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
    sim.stop().await;
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_as_base64() {
    let sim = Sim::fast().await;
    let floats = sim.ask("POST", "/v1/embeddings", "", r#"{"input": ["a text", "another"]}"#).await.json();
    assert_eq!(floats["data"][1]["embedding"].as_array().unwrap().len(), 64);
    let body = r#"{"input": "a text", "encoding_format": "base64"}"#;
    let coded = sim.ask("POST", "/v1/embeddings", "", body).await.json();
    assert_eq!(coded["data"][0]["embedding"].as_str().unwrap().len(), (64 * 4_usize).div_ceil(3) * 4);
    sim.until(|state| state["finished"] == 3 && state["kv_used_blocks"] == 0).await;
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_ends_by_itself_about_where_the_mean_says() {
    let config = SimConfig { time_scale: 1000.0, mean_output_tokens: 3.0, ..SimConfig::local("h100-8b") };
    let sim = Sim::start(config).await;
    let mut tokens = 0;
    for _ in 0..40 {
        let answer = sim.chat(&json!({"messages": [{"role": "user", "content": "hi"}]})).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        tokens += answer["usage"]["completion_tokens"].as_u64().unwrap();
    }
    assert!((60..240).contains(&tokens), "{tokens} tokens in 40 answers");
    sim.stop().await;
}

#[tokio::test]
async fn what_a_client_does_wrong_is_named_in_the_usual_shape() {
    let sim = Sim::start(SimConfig { context_length: Some(1000), ..SimConfig::local("a100-8b") }).await;
    let check = async |path: &str, body: &str, status: u16, kind: &str, param: Value| {
        let answer = sim.ask("POST", path, "", body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["type"], &error["param"]),
            (status, &json!(kind), &param),
            "{body}"
        );
        assert_eq!(error["code"], status);
    };
    let chat = "/v1/chat/completions";
    let unknown = r#"{"model":"gpt-9","messages":[{"role":"user","content":"x"}]}"#;
    check(chat, unknown, 404, "NotFoundError", json!("model")).await;
    check("/v1/embeddings", r#"{"model":"gpt-9","input":"x"}"#, 404, "NotFoundError", json!("model")).await;
    check(chat, "{\"model\":", 400, "Bad Request", json!("body")).await;
    check(chat, "", 400, "Bad Request", json!("body")).await;
    check(chat, "{}", 400, "Bad Request", Value::Null).await;
    check(chat, r#"{"messages":[]}"#, 400, "Bad Request", json!("body.messages")).await;
    let many = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":"many"}"#;
    check(chat, many, 400, "Bad Request", Value::Null).await;
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(4000)}]}).to_string();
    check(chat, &long, 400, "BadRequestError", json!("input_text")).await;
    let greedy = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":1000}"#;
    check(chat, greedy, 400, "BadRequestError", json!("max_tokens")).await;

    assert_eq!(sim.get("/v1/nothing").await.json(), json!({"detail": "Not Found"}));
    assert_eq!(sim.get(chat).await.status, 405);
    assert_eq!(sim.state().await["submitted"], 0);
    sim.stop().await;
}

#[tokio::test]
async fn models_health_and_version_answer_as_the_real_ones_do() {
    let model = vec!["first".to_owned(), "second/part".to_owned()];
    let sim = Sim::start(SimConfig { model, ..SimConfig::local("l4-8b") }).await;
    let models = sim.get("/v1/models").await.json();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["first", "second/part"]);
    assert_eq!(models["data"][0]["max_model_len"], 16_384);
    let health = sim.get("/health").await;
    assert_eq!((health.status, health.body().as_str()), (200, ""));
    assert!(sim.get("/version").await.json()["version"].is_string());
    sim.stop().await;
}

#[tokio::test]
async fn headers_come_before_the_request_is_scheduled() {
    let sim = Sim::fast().await;
    sim.set_faults(json!({"stall": true})).await;
    let mut stream = sim.open("POST", "/v1/chat/completions", "", &streamed(hello()).to_string()).await;
    let mut head = [0_u8; 15];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(sim.state().await["waiting"], 1);
    sim.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_kv_at_once_in_every_phase() {
    let sim = Sim::start(SimConfig { max_sequences: Some(1), ..SimConfig::local("h100-8b") }).await;
    let chat = "/v1/chat/completions";
    for body in [endless(), streamed(endless())] {
        let running = sim.open("POST", chat, "", &body.to_string()).await;
        sim.until(|s| s["running"] == 1 && s["generation_tokens"].as_u64() > Some(3)).await;
        let queued = [
            sim.open("POST", chat, "", &endless().to_string()).await,
            sim.open("POST", chat, "", &streamed(endless()).to_string()).await,
        ];
        sim.until(|s| s["waiting"] == 2 && s["kv_used_blocks"].as_u64() > Some(0)).await;

        drop(queued);
        let took = sim.until(|s| s["waiting"] == 0).await;
        assert!(took < Duration::from_millis(200), "queued: {took:?}");
        drop(running);
        let took = sim.until(|s| s["kv_used_blocks"] == 0 && s["in_flight"] == 0).await;
        assert!(took < Duration::from_millis(200), "running: {took:?}");
    }
    let state = sim.state().await;
    assert_eq!((&state["submitted"], &state["aborted"]), (&json!(6), &json!(6)));
    assert!(state["requests"].as_array().unwrap().iter().all(|r| r["state"] == "aborted"));
    sim.stop().await;
}

#[tokio::test]
async fn a_half_closed_connection_counts_as_gone() {
    let sim = Sim::start(SimConfig::local("h100-8b")).await;
    let mut stream = sim.open("POST", "/v1/chat/completions", "", &streamed(endless()).to_string()).await;
    sim.until(|s| s["running"] == 1).await;
    stream.shutdown().await.unwrap();
    sim.until(|s| s["aborted"] == 1 && s["kv_used_blocks"] == 0).await;
    sim.stop().await;
}

#[tokio::test]
async fn an_agent_reads_the_load_the_profile_and_the_activity() {
    let config = SimConfig { time_scale: 2.0, max_sequences: Some(3), ..SimConfig::local("h100x4-70b") };
    let sim = Sim::start(config).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let body = streamed(endless_of("llama-3.1-70b")).to_string();
        streams.push(sim.open("POST", "/v1/chat/completions", "", &body).await);
    }
    sim.until(|s| s["running"] == 3 && s["generation_tokens"].as_u64() > Some(9)).await;
    let read = async |page, path: &str| {
        let answer = sim.get(path).await;
        aya_engine::parse(EngineKind::Simulated, page, answer.status, answer.body().as_bytes())
    };
    let metrics = read(Page::Metrics, "/metrics").await;
    assert_eq!((metrics.running, metrics.waiting), (Some(Ok(3)), Some(Ok(2))));
    assert_eq!(metrics.kv_capacity, Some(Ok(Tokens(470_000))));
    assert_eq!(metrics.max_sequences, Some(Ok(3)));
    assert!(metrics.kv_used.unwrap().unwrap().get() > 0.0);
    let profile = metrics.profile.unwrap().unwrap();
    assert!((profile.cost.base_s - 0.0148 / 2.0).abs() < 1e-9, "real seconds: {profile:?}");
    assert_eq!(profile.max_batched_tokens, 8192);
    let activity = metrics.activity.unwrap().unwrap();
    assert!(activity.busy.get() > 0.0 && activity.prefill.get() < activity.busy.get(), "{activity:?}");
    assert_eq!((activity.gpu_name.as_deref(), activity.gpus), (Some("NVIDIA H100 80GB HBM3"), Some(4)));
    let gib = activity.vram_used.as_f64() / f64::from(1 << 30);
    assert!((0.85..0.92).contains(&(gib / (4.0 * 79.11))), "{gib} GiB of four GPUs");

    let models = read(Page::Models, "/v1/models").await.models.unwrap().unwrap();
    assert_eq!((models[0].id.as_str(), models[0].context_length), ("llama-3.1-70b", Some(Tokens(131_072))));
    assert!(read(Page::Version, "/version").await.version.unwrap().is_ok());
    sim.stop().await;
}

#[tokio::test]
async fn requests_beyond_the_batch_queue_and_all_are_served_once() {
    let config = SimConfig { max_sequences: Some(2), time_scale: 100.0, ..SimConfig::local("a100-8b") };
    let sim = Sim::start(config).await;
    sim.set_faults(json!({"stall": true})).await;
    let mut streams = Vec::new();
    for nth in 0..6 {
        let id = format!("x-request-id: r{nth}\r\n");
        streams.push(sim.open("POST", "/v1/chat/completions", &id, &streamed(hello()).to_string()).await);
        sim.until(|s| s["waiting"] == nth + 1).await;
    }
    sim.set_faults(json!({"stall": false})).await;
    for stream in streams {
        assert_eq!(Answer::read(stream).await.events().len(), 10);
    }
    let state = sim.state().await;
    assert_eq!(
        (&state["finished"], &state["in_flight"], &state["running"]),
        (&json!(6), &json!(0), &json!(0))
    );
    let ids: Vec<_> = state["requests"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect();
    assert_eq!(ids, ["r0", "r1", "r2", "r3", "r4", "r5"]);
    sim.stop().await;
}

/// Clients that leave at any moment, even before their request has been read, next to others that stay.
#[tokio::test]
async fn whatever_clients_do_the_books_balance_and_the_kv_is_free() {
    let config = SimConfig { max_sequences: Some(4), time_scale: 200.0, ..SimConfig::local("l4-8b") };
    let sim = Sim::start(config).await;
    let seed = 20_261_121;
    let mut open = Vec::new();
    for nth in 0..300_u64 {
        let draw = splitmix64(seed + nth);
        let mut body = hello();
        body["max_tokens"] = json!(1 + draw % 40);
        body["stream"] = json!(draw & 64 == 0);
        body["messages"][0]["content"] = json!("a document ".repeat((draw >> 8) as usize % 200));
        let mut stream = sim.open("POST", "/v1/chat/completions", "", &body.to_string()).await;
        match (draw >> 20) % 4 {
            0 => drop(stream),
            1 => {
                let mut some = vec![0; (draw >> 32) as usize % 900 + 1];
                stream.read_exact(&mut some).await.ok();
            }
            _ => open.push(stream),
        }
        if open.len() > 12 {
            drop(open.swap_remove((draw >> 40) as usize % 12));
        }
    }
    for stream in open {
        assert!(Answer::read(stream).await.whole);
    }
    let count = |state: &Value, name: &str| state[name].as_u64().unwrap();
    sim.until(|s| {
        let ended = count(s, "finished") + count(s, "aborted");
        let held = ["in_flight", "kv_used_blocks", "running", "waiting"].map(|name| count(s, name));
        count(s, "submitted") == ended && held == [0; 4]
    })
    .await;
    let state = sim.state().await;
    assert!(count(&state, "finished") > 20 && count(&state, "aborted") > 20, "seed {seed}: {state}");
    let records = state["requests"].as_array().unwrap();
    assert!(records.iter().all(|r| r["state"] == "finished" || r["state"] == "aborted"), "seed {seed}");
    sim.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_a_503() {
    let sim = Sim::start(SimConfig { waiting_max: 1, ..SimConfig::local("a100-8b") }).await;
    sim.set_faults(json!({"stall": true})).await;
    let _first = sim.open("POST", "/v1/chat/completions", "", &streamed(hello()).to_string()).await;
    sim.until(|s| s["waiting"] == 1).await;
    assert_eq!(sim.chat(&hello()).await.status, 503);
    assert_eq!(sim.state().await["refused"], 1);
    sim.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let sim = Sim::start(SimConfig { time_scale: 10_000.0, ..SimConfig::local("h100-8b") }).await;
    let mut body = streamed(hello());
    body["max_tokens"] = json!(30_000);
    // Seven megabytes of events for a socket that nobody empties.
    let lazy = sim.open("POST", "/v1/chat/completions", "", &body.to_string()).await;
    sim.until(|s| s["running"] == 1).await;
    assert_eq!(sim.chat(&hello()).await.status, 200);
    sim.until(|s| s["finished"] == 2 && s["kv_used_blocks"] == 0).await;
    let answer = Answer::read(lazy).await;
    assert!(answer.whole);
    assert_eq!(answer.events().len(), 30_002);
    sim.stop().await;
}

#[tokio::test]
async fn a_prompt_seen_before_comes_from_the_cache() {
    let sim = Sim::fast().await;
    let mut body = hello();
    body["messages"][0]["content"] = json!("word ".repeat(200));
    sim.chat(&body).await;
    let usage = sim.chat(&body).await.json()["usage"].clone();
    assert_eq!(
        (&usage["prompt_tokens"], &usage["prompt_tokens_details"]["cached_tokens"]),
        (&json!(254), &json!(240))
    );
    let metrics = sim.get("/metrics").await.body();
    assert!(metrics.contains("vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"llama-3.1-8b\"} 240\n"));
    sim.stop().await;
}

#[tokio::test]
async fn time_passes_as_the_cost_model_says() {
    let sim = Sim::start(SimConfig { time_scale: 2.0, ..SimConfig::local("a100-8b") }).await;
    let mut body = hello();
    // 1,000 tokens of prompt with the template's four, and 20 of answer: 0.3188 modelled seconds.
    body["messages"][0]["content"] = json!("x".repeat(996 * 4));
    body["max_tokens"] = json!(20);
    let clock = Clock::start();
    let begin = clock.now();
    let usage = sim.chat(&body).await.json()["usage"].clone();
    let took = clock.now().since(begin).as_secs_f64() * 2.0;
    assert_eq!(usage["prompt_tokens"], 1000);
    // Never faster than the model but for the last timer tick; slower only as the test machine is.
    assert!((0.315..1.5).contains(&took), "{took} modelled seconds");
    sim.stop().await;
}

// === faults ===

#[tokio::test]
async fn refusals_are_counted_or_a_share_and_can_be_asked_for() {
    let sim = Sim::fast().await;
    sim.set_faults(json!({"503_next": 1})).await;
    let statuses = [sim.chat(&hello()).await.status, sim.chat(&hello()).await.status];
    assert_eq!(statuses, [503, 200]);

    let refused = sim.ask("POST", "/v1/chat/completions", "x-sim-fault: 503\r\n", &hello().to_string()).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &json!("Service Unavailable")));

    sim.set_faults(json!({"503_ratio": 1.0})).await;
    assert_eq!(sim.chat(&hello()).await.status, 503);
    assert_eq!(sim.ask("DELETE", "/sim/faults", "", "").await.status, 200);
    assert_eq!(sim.chat(&hello()).await.status, 200);
    sim.stop().await;
}

#[tokio::test]
async fn an_error_in_the_stream_comes_before_any_token_and_with_done() {
    let sim = Sim::fast().await;
    sim.set_faults(json!({"error_in_stream_next": 1})).await;
    let answer = sim.chat(&streamed(hello())).await;
    let events = answer.events();
    assert_eq!(
        (answer.status, &events[0]["error"]["code"], &events[1]),
        (200, &json!(503), &json!("[DONE]"))
    );
    assert_eq!(sim.state().await["submitted"], 0);
    assert_eq!(sim.chat(&streamed(hello())).await.events().len(), 10);
    sim.stop().await;
}

#[tokio::test]
async fn a_dying_stream_has_its_tokens_but_no_finish_and_no_end() {
    let sim = Sim::fast().await;
    let body = streamed(hello()).to_string();
    let answer = sim.ask("POST", "/v1/chat/completions", "x-sim-fault: die-mid-stream=3\r\n", &body).await;
    assert_eq!((answer.status, answer.whole), (200, false));
    let events = answer.events();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|e| e["choices"][0]["finish_reason"].is_null()));
    sim.until(|s| s["in_flight"] == 0 && s["kv_used_blocks"] == 0).await;

    // The same for whole answers, by the engine's own fault and only once.
    sim.set_faults(json!({"die_mid_stream": 3, "die_next": 1})).await;
    let answer = sim.chat(&hello()).await;
    assert!(!answer.whole);
    assert!(sim.chat(&hello()).await.whole);
    sim.stop().await;
}

#[tokio::test]
async fn a_stalled_engine_takes_requests_and_lets_them_go() {
    let sim = Sim::fast().await;
    let running = sim.open("POST", "/v1/chat/completions", "", &streamed(endless()).to_string()).await;
    sim.until(|s| s["running"] == 1).await;
    sim.set_faults(json!({"stall": true})).await;
    let steps = sim.state().await["steps"].clone();
    let queued = sim.open("POST", "/v1/chat/completions", "", &hello().to_string()).await;
    sim.until(|s| s["waiting"] == 1).await;
    drop(running);
    sim.until(|s| s["running"] == 0 && s["kv_used_blocks"] == 0).await;
    assert_eq!(sim.get("/health").await.status, 200, "a hung engine looks healthy");
    let now = sim.state().await["steps"].clone();
    assert!(now.as_u64() <= steps.as_u64().map(|s| s + 1), "{steps} then {now}");
    sim.set_faults(json!({"stall": false})).await;
    assert_eq!(Answer::read(queued).await.status, 200);
    sim.stop().await;
}

#[tokio::test]
async fn a_single_request_can_stall_alone() {
    let sim = Sim::fast().await;
    let body = streamed(hello()).to_string();
    let mut silent = sim.open("POST", "/v1/chat/completions", "x-sim-fault: stall\r\n", &body).await;
    let mut head = [0_u8; 15];
    silent.read_exact(&mut head).await.unwrap();
    assert_eq!(sim.chat(&hello()).await.status, 200);
    assert_eq!(sim.state().await["submitted"], 1);
    sim.stop().await;
}

#[tokio::test]
async fn a_slow_engine_takes_longer_by_its_factor() {
    let sim = Sim::start(SimConfig { time_scale: 10.0, ..SimConfig::local("h100-8b") }).await;
    sim.set_faults(json!({"slow": 20.0})).await;
    let clock = Clock::start();
    let begin = clock.now();
    sim.chat(&hello()).await;
    // Eight steps of at least 8.1 modelled milliseconds, twice as slow as the hardware.
    let took = clock.now().since(begin);
    assert!(took > Duration::from_millis(125), "{took:?}");
    sim.stop().await;
}

#[tokio::test]
async fn a_liar_claims_idleness_while_its_books_stay_true() {
    let sim = Sim::start(SimConfig::local("h100-8b")).await;
    let _running = sim.open("POST", "/v1/chat/completions", "", &streamed(endless()).to_string()).await;
    sim.until(|s| s["running"] == 1 && s["kv_used_blocks"].as_u64() > Some(0)).await;
    let running = "vllm:num_requests_running{engine=\"0\",model_name=\"llama-3.1-8b\"}";
    assert!(sim.get("/metrics").await.body().contains(&format!("{running} 1\n")));
    sim.set_faults(json!({"lie": true})).await;
    let page = sim.get("/metrics").await.body();
    assert!(page.contains(&format!("{running} 0\n")) && page.contains("aya_sim_busy_ratio 0\n"), "{page}");
    assert_eq!(sim.state().await["running"], 1);
    sim.stop().await;
}

#[tokio::test]
async fn an_unhealthy_engine_says_so_and_a_bad_fault_is_refused() {
    let sim = Sim::fast().await;
    sim.set_faults(json!({"unhealthy": true})).await;
    assert_eq!(sim.get("/health").await.status, 503);
    for bad in ["{\"stal\": true}", "[]", "{\"slow\": 0}", "{\"abort_process\": true}"] {
        assert_eq!(sim.ask("POST", "/sim/faults", "", bad).await.status, 400, "{bad}");
    }
    for bad in ["lie", "slow=3", "nonsense", "abort-process"] {
        let header = format!("x-sim-fault: {bad}\r\n");
        let answer = sim.ask("POST", "/v1/chat/completions", &header, &hello().to_string()).await;
        assert_eq!(answer.status, 400, "{bad}");
    }
    assert_eq!(sim.get("/sim/faults").await.json()["unhealthy"], true);
    sim.stop().await;
}

#[tokio::test]
async fn faults_may_be_there_from_the_start() {
    let mut config = SimConfig::local("h100-8b");
    config.faults.add("503".parse::<Fault>().unwrap());
    let sim = Sim::start(config).await;
    assert_eq!(sim.chat(&hello()).await.status, 503);
    sim.stop().await;
}

#[tokio::test]
async fn stopping_breaks_streams_off_like_a_death() {
    let sim = Sim::start(SimConfig::local("h100-8b")).await;
    let stream = sim.open("POST", "/v1/chat/completions", "", &streamed(endless()).to_string()).await;
    sim.until(|s| s["generation_tokens"].as_u64() > Some(1)).await;
    let addr = sim.addr;
    sim.stop().await;
    let answer = Answer::read(stream).await;
    assert_eq!((answer.status, answer.whole), (200, false));
    assert!(TcpStream::connect(addr).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn a_bad_configuration_is_told_before_anything_runs() {
    let check = async |config: SimConfig, expected: &str| {
        let error = SimEngine::bind(config).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(SimConfig::local("h900-8b"), "unknown profile \"h900-8b\"").await;
    check(SimConfig { time_scale: 0.0, ..SimConfig::local("l4-8b") }, "time scale").await;
    check(SimConfig { max_sequences: Some(0), ..SimConfig::local("l4-8b") }, "at least 1").await;
    let context_length = Some(31_000);
    check(SimConfig { context_length, ..SimConfig::local("l4-8b") }, "KV pool of 31000").await;
    let taken = SimEngine::bind(SimConfig::local("l4-8b")).await.unwrap();
    check(SimConfig { listen: taken.addr(), ..SimConfig::local("l4-8b") }, "cannot listen on").await;
}
