#![cfg(test)]
//! A real vLLM on the CPU behind the shipped program. Heavy (6 GB, minutes), so only with `RUN_SLOW_TESTS=1`; the
//! environment is made once under target/vllm.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aya_tests::{Agent, Client, Farm, Process, Scheduler, aya, is_slow_run, until, with};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
const MODEL: &str = "tiny-random";
/// vLLM imports for a minute, and for three on two cores that others use.
const START: Duration = Duration::from_secs(300);

/// The installed vLLM; `None`, said aloud, unless slow tests are asked for.
#[expect(clippy::disallowed_methods, reason = "settings of a test run, not of the program")]
fn installed() -> Option<PathBuf> {
    if is_slow_run() {
        let home = std::env::var("AYA_TEST_VLLM")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/vllm").to_owned());
        let made = Command::new(format!("{SCRIPTS}/vllm_setup.sh")).arg(&home).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        return Some(std::fs::canonicalize(home).unwrap());
    }
    eprintln!("SKIPPED: needs a real vLLM; run with RUN_SLOW_TESTS=1, which installs one");
    None
}

/// vLLM is a family of processes, which outlive each other: one session, ended whole.
#[derive(Debug)]
struct Vllm {
    process: Process,
}

impl Vllm {
    /// `kill -9` of those of its processes that match.
    fn kill(&self, pattern: &str) -> bool {
        let session = self.process.id().to_string();
        Command::new("pkill").args(["-9", "-s", &session, "-f", pattern]).status().unwrap().success()
    }
}

impl Drop for Vllm {
    fn drop(&mut self) {
        self.kill(".");
    }
}

/// Four sequences at once and six more that wait; everything beyond is pushed back.
async fn start(home: &std::path::Path, dir: &std::path::Path) -> (Vllm, Client) {
    let addr = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().unwrap();
    let flags =
        "--dtype float32 --max-model-len 2048 --enforce-eager --max-num-seqs 4 --max-num-queued-reqs 6";
    let mut args: Vec<String> = vec![
        home.join("venv/bin/python").display().to_string(),
        home.join("venv/bin/vllm").display().to_string(),
        "serve".to_owned(),
        home.join("model").display().to_string(),
    ];
    args.extend(["--host", "127.0.0.1", "--served-model-name", MODEL, "--port"].map(str::to_owned));
    args.push(addr.port().to_string());
    args.extend(flags.split(' ').map(str::to_owned));
    let env = [
        ("VLLM_NO_USAGE_STATS", "1"),
        ("HF_HUB_OFFLINE", "1"),
        ("TRANSFORMERS_OFFLINE", "1"),
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("OMP_NUM_THREADS", "1"),
        ("VLLM_TARGET_DEVICE", "cpu"),
    ];
    let mut process = Process::start_with("setsid", dir, "vllm", &args, &env);
    let client = Client { addr };
    let deadline = Instant::now() + START;
    while client.try_open("GET", "/health", &[], bytes::Bytes::new()).await.is_err() {
        assert!(process.is_running() && Instant::now() < deadline, "{}", process.log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    (Vllm { process }, client)
}

fn chat(tokens: u32) -> Value {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": MODEL, "messages": messages, "max_tokens": tokens, "ignore_eos": true})
}

fn streamed(tokens: u32) -> Value {
    with(chat(tokens), &json!({"stream": true, "stream_options": {"include_usage": true}}))
}

async fn aborted(farm: &Farm, engine: Client, body: Value) {
    let mut client = JoinSet::new();
    let api = farm.api();
    client.spawn(async move { api.begin_chat(&body).await.events().await });
    load(engine, 1.0).await;
    drop(client);
    let left_at = Instant::now();
    load(engine, 0.0).await;
    // Scraping 60 kB of metrics from a Python server is part of what is measured here.
    assert!(left_at.elapsed() < Duration::from_millis(500), "{:?}", left_at.elapsed());
}

async fn load(engine: Client, expect: f64) {
    until("the engine's load", async || {
        let page = engine.get("/metrics").await.ok();
        let running = aya_tests::Metrics::parse(page.text()).sum("vllm:num_requests_running");
        if (running - expect).abs() < 0.5 { Ok(()) } else { Err(running) }
    })
    .await;
}

/// One test, because one start takes a minute; from the harmless to the deadly.
#[tokio::test]
async fn a_real_vllm_is_served_cancelled_overloaded_and_killed() {
    let Some(home) = installed() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (vllm, engine) = start(&home, dir.path()).await;
    let scheduler = Scheduler::start(aya!(), dir.path(), "scheduler", "").await;
    let here = format!("[[engine]]\nkind = \"vllm\"\nname = \"v\"\nurl = \"http://{}\"\n", engine.addr);
    let agent = Agent::start(aya!(), dir.path(), "n1", &[format!("http://{}", scheduler.grpc)], &[], &here);
    let farm = Farm { scheduler, agents: vec![agent], engines: Vec::new(), dir };
    until("vLLM to be ready", async || {
        let fleet = farm.scheduler.endpoints().await;
        if fleet.iter().any(|e| e["health"] == "healthy") { Ok(()) } else { Err(fleet) }
    })
    .await;

    let listed = farm.api().get("/v1/models").await.ok().json();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["max_model_len"]),
        (&json!(MODEL), &json!(2048))
    );
    assert_eq!(farm.api().chat(&chat(8)).await.ok().json()["usage"]["completion_tokens"], 8);
    let events = farm.api().begin_chat(&streamed(8)).await.events().await;
    assert!(events[events.len() - 2].contains("\"completion_tokens\":8"), "{events:?}");
    aborted(&farm, engine, streamed(1_900)).await;
    aborted(&farm, engine, chat(1_900)).await;

    let mut clients = JoinSet::new();
    for at in 0..40 {
        let (api, body) = (farm.api(), if at % 2 == 0 { chat(60) } else { streamed(60) });
        clients.spawn(async move { api.chat(&body).await.ok() });
    }
    while let Some(answer) = clients.join_next().await {
        assert!(answer.unwrap().text().contains("\"completion_tokens\":60"));
    }
    assert!(farm.scheduler.metrics().await.sum("aya_retries_total") > 0.5, "nothing was pushed back");

    let mut stream = farm.api().begin_chat(&streamed(1_900)).await;
    for _ in 0..4 {
        assert!(stream.event().await.is_some());
    }
    assert!(vllm.kill("VLLM::EngineCore"), "the engine's own process was not found");
    let events = stream.events().await;
    assert!(events.iter().any(|event| event.contains("\"error\"")), "{events:?}");
    assert_ne!(
        events.last().map(String::as_str),
        Some("[DONE]"),
        "vLLM ends even a crash with it; Aya does not"
    );
    farm.assert_accounted().await;
}
