//! A whole agent between fake engines and fake schedulers, over real sockets.

mod bad_pages;
mod fake_engine;
mod fake_scheduler;

use aya_domain::{
    EngineHealth, EngineKind, GpuEventKind, GpuReport, GpuSourceKind, Ratio, Report, ReportKind, Tokens,
};
use aya_proto::SchedulerMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use fake_engine::{FakeEngine, Reply};
use fake_scheduler::FakeScheduler;

macro_rules! fixture {
    ($path:literal) => {
        Reply::Page(200, body_of(include_str!(concat!("../../fixtures/engines/", $path))))
    };
}

/// The body of a recorded response.
fn body_of(raw: &str) -> Vec<u8> {
    let recorded = raw.split_once("\r\n\r\n").or_else(|| raw.split_once("\n\n"));
    recorded.map_or(raw, |(_, body)| body).as_bytes().to_vec()
}

fn page(body: &str) -> Reply {
    Reply::Page(200, body.as_bytes().to_vec())
}

async fn vllm() -> FakeEngine {
    FakeEngine::start(&[
        ("/health", page("")),
        ("/metrics", fixture!("vllm/metrics_under_20.txt")),
        ("/v1/models", fixture!("vllm/models.http")),
        ("/version", fixture!("vllm/version.http")),
    ])
    .await
}

async fn llama_cpp() -> FakeEngine {
    FakeEngine::start(&[
        ("/health", page("{\"status\":\"ok\"}")),
        ("/metrics", fixture!("llama.cpp/metrics_busy.http")),
        ("/slots", fixture!("llama.cpp/slots_busy.http")),
        ("/props", fixture!("llama.cpp/props.http")),
        ("/v1/models", fixture!("llama.cpp/models.http")),
    ])
    .await
}

/// An agent on its own task, with short periods.
struct Running {
    admin: SocketAddr,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

impl Running {
    async fn start(schedulers: &[&FakeScheduler], engines: &[(&str, &FakeEngine)], more: &str) -> Self {
        let urls: Vec<_> = schedulers.iter().map(|s| format!("\"http://{}\"", s.addr)).collect();
        let gpu = if more.contains("[gpu]") { "" } else { "[gpu]\nsource = \"none\"\n" };
        let mut text = format!(
            "node_id = \"n1\"\nschedulers = [{}]\nadmin_listen = \"127.0.0.1:0\"\n{more}\n{gpu}\
             [engines]\nperiod = \"20ms\"\nprobe_timeout = \"300ms\"\n",
            urls.join(",")
        );
        for (kind, engine) in engines {
            text.push_str(&format!("[[engine]]\nkind = \"{kind}\"\nurl = \"http://{}\"\n", engine.addr));
        }
        let config = aya_config::parse("agent.toml", &text, [], &[]).unwrap();
        let agent = Agent::bind(config, Clock::start()).await.unwrap();
        let (admin, shutdown) = (agent.admin_addr(), CancellationToken::new());
        let mut task = JoinSet::new();
        let stop = shutdown.clone();
        task.spawn(async move { agent.run(stop).await.unwrap() });
        Self { admin, shutdown, task }
    }

    /// Ends the agent; every part of it has to end too.
    async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task.join_next()).await.unwrap().unwrap().unwrap();
    }

    async fn admin(&self, request: &str) -> String {
        let mut socket = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }
}

fn health(report: &Report) -> Option<&EngineHealth> {
    report.engines.first().map(|engine| &engine.health.value)
}

fn is_down(report: &Report) -> bool {
    matches!(health(report), Some(EngineHealth::Down { .. }))
}

fn is_ready(report: &Report) -> bool {
    health(report) == Some(&EngineHealth::Ready)
}

#[tokio::test]
async fn metrics_are_read_where_they_are_configured_to_be() {
    let (mut scheduler, metrics) = (FakeScheduler::start().await, vllm().await);
    let engine =
        FakeEngine::start(&[("/health", page("")), ("/v1/models", fixture!("vllm/models.http"))]).await;
    let more = format!(
        "[[engine]]\nkind = \"vllm\"\nurl = \"http://{}\"\nmetrics_url = \"http://{}\"\n",
        engine.addr, metrics.addr
    );
    let agent = Running::start(&[&scheduler], &[], &more).await;
    let told = scheduler.next().await.engines.remove(0);
    assert_eq!((&told.health.value, told.running.map(|r| r.value)), (&EngineHealth::Ready, Some(4)));
    assert!(metrics.seen.lock().iter().all(|head| head.starts_with("GET /metrics ")), "and nothing else");
    assert!(engine.seen.lock().iter().all(|head| !head.starts_with("GET /metrics ")));
    agent.stop().await;
}

#[tokio::test]
async fn the_first_report_is_full_and_complete_and_deltas_follow() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    let first = scheduler.next().await;
    assert_eq!((first.kind, first.sequence), (ReportKind::Full, 1));
    assert_eq!(first.agent.gpu_source, GpuSourceKind::None);
    let told = &first.engines[0];
    assert_eq!(told.id.as_str(), format!("n1-vllm-{}", engine.addr.port()));
    assert_eq!((told.kind, &told.health.value), (EngineKind::Vllm, &EngineHealth::Ready));
    assert_eq!(told.running.map(|r| r.value), Some(4));
    assert_eq!(told.waiting.map(|r| r.value), Some(12));
    assert_eq!(told.kv_capacity.map(|r| r.value), Some(Tokens(1_048_576)));
    assert_eq!(told.max_sequences, None, "vLLM does not tell, and nobody guesses");
    assert_eq!(told.version.as_deref(), Some("0.32.0"));
    assert_eq!(told.models.as_ref().unwrap().value[0].context_length, Some(Tokens(2048)));
    let second = scheduler.next().await;
    assert_eq!((second.kind, second.boot, second.sequence), (ReportKind::Delta, first.boot, 2));
    agent.stop().await;
}

#[tokio::test]
async fn a_full_report_is_repeated_in_its_period() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let more = "[report]\nfull_period = \"200ms\"\n";
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], more).await;
    for _ in 0..3 {
        scheduler.until("a FULL report", |r| r.kind == ReportKind::Full).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_killed_is_down_and_comes_back() {
    let (mut scheduler, mut engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    scheduler.until("a ready engine", is_ready).await;
    engine.kill().await;
    let down = scheduler.until("an engine that is down", is_down).await;
    let told = &down.engines[0];
    assert_eq!(told.health.value, EngineHealth::Down { reason: "connection refused".to_owned() });
    assert_eq!(told.running.map(|r| r.value), Some(4), "the last reading stays, and its age tells");
    engine.set("/v1/models", page("{\"data\":[{\"id\":\"another\"}]}"));
    engine.revive().await;
    let back = scheduler.until("the engine again", is_ready).await;
    let models = &back.engines[0].models.as_ref().unwrap().value;
    assert_eq!(models[0].id.as_str(), "another", "what it serves is read anew at once");
    agent.stop().await;
}

#[tokio::test]
async fn an_engine_that_was_never_there_is_down_and_named() {
    let (mut scheduler, mut engine) = (FakeScheduler::start().await, vllm().await);
    engine.kill().await;
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    let first = scheduler.next().await;
    assert!(first.kind == ReportKind::Full && is_down(&first), "{first:#?}");
    assert_eq!(first.engines[0].running, None);
    engine.revive().await;
    scheduler.until("the engine", is_ready).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_restarted_scheduler_gets_a_full_report() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    let first = scheduler.next().await;
    scheduler.restart().await;
    let again = scheduler.next().await;
    assert_eq!((again.kind, again.boot), (ReportKind::Full, first.boot));
    assert!(again.sequence > first.sequence);
    agent.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_lacks_its_base_gets_a_full_report() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    scheduler.until("a delta", |r| r.kind == ReportKind::Delta).await;
    scheduler.say(SchedulerMessage::ResendFull);
    scheduler.until("a FULL report", |r| r.kind == ReportKind::Full).await;
    scheduler.until("deltas again", |r| r.kind == ReportKind::Delta).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_says_nothing_is_tried_anew() {
    let (mut mute, engine) = (FakeScheduler::mute().await, vllm().await);
    let agent = Running::start(&[&mute], &[("vllm", &engine)], "").await;
    let streams = Arc::clone(&mute.streams);
    let again =
        |r: &Report| r.kind == ReportKind::Full && streams.load(std::sync::atomic::Ordering::Relaxed) > 1;
    mute.until("a second stream", again).await;
    agent.stop().await;
}

#[tokio::test]
async fn several_schedulers_are_told_independently() {
    let (mut one, mut two, engine) =
        (FakeScheduler::start().await, FakeScheduler::start().await, vllm().await);
    let dead = FakeScheduler::start().await;
    let dead_addr = dead.addr;
    let agent = Running::start(&[&one, &two, &dead], &[("vllm", &engine)], "").await;
    for scheduler in [&mut one, &mut two] {
        for sequence in 1..=4 {
            // A number that is missing here would look like a lost report there.
            let report = scheduler.next().await;
            assert_eq!((report.kind == ReportKind::Full, report.sequence), (sequence == 1, sequence));
        }
    }
    drop(dead);
    let (before, also_before) = (one.next().await, two.next().await);
    assert_eq!(before.boot, also_before.boot);
    two.restart().await;
    assert_eq!(two.next().await.kind, ReportKind::Full);
    one.until("deltas go on", |r| r.kind == ReportKind::Delta && r.sequence > before.sequence + 2).await;
    let mut dead = FakeScheduler::at(dead_addr).await;
    assert_eq!(dead.next().await.kind, ReportKind::Full);
    agent.stop().await;
}

#[tokio::test]
async fn a_full_llama_cpp_that_goes_silent_is_busy_and_not_dead() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, llama_cpp().await);
    let agent = Running::start(&[&scheduler], &[("llama.cpp", &engine)], "").await;
    let full = scheduler.until("a ready engine", is_ready).await;
    let told = &full.engines[0];
    assert_eq!(told.running.map(|r| r.value), Some(2));
    assert_eq!(
        told.max_sequences.map(|r| r.value),
        Some(4),
        "/props of the other recording tells four slots"
    );
    assert_eq!(told.kv_used.map(|r| r.value), Some(Ratio::new(174.0 / 8192.0).unwrap()));
    for path in ["/health", "/metrics", "/slots", "/props", "/v1/models"] {
        engine.set(path, Reply::Silence);
    }
    let silent = scheduler.until("a verdict on the silence", engine_is_judged).await;
    assert_eq!(health(&silent), Some(&EngineHealth::Busy));
    engine.set("/health", page("ok"));
    scheduler.until("a ready engine", is_ready).await;
    agent.stop().await;
}

fn engine_is_judged(report: &Report) -> bool {
    health(report).is_some_and(|health| *health != EngineHealth::Ready)
}

#[tokio::test]
async fn an_idle_engine_that_goes_silent_is_down() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    engine.set("/metrics", fixture!("vllm/metrics_idle.txt"));
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    scheduler.until("a ready engine", is_ready).await;
    for path in ["/health", "/metrics"] {
        engine.set(path, Reply::Silence);
    }
    let down = scheduler.until("a verdict on the silence", engine_is_judged).await;
    assert_eq!(health(&down), Some(&EngineHealth::Down { reason: "no answer within 0.3 s".to_owned() }));
    agent.stop().await;
}

#[tokio::test]
async fn a_loading_engine_is_not_asked_for_more() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, llama_cpp().await);
    let loading = br#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
    engine.set("/health", Reply::Page(503, loading.to_vec()));
    let agent = Running::start(&[&scheduler], &[("llama.cpp", &engine)], "").await;
    let first = scheduler.next().await;
    assert_eq!(health(&first), Some(&EngineHealth::Loading));
    assert_eq!(first.engines[0].models, None);
    assert!(engine.seen.lock().iter().all(|request| request.starts_with("GET /health ")));
    agent.stop().await;
}

#[tokio::test]
async fn hostile_pages_cost_their_readings_and_nothing_else() {
    for (name, reply) in [
        ("HTML", page("<html>vllm:num_requests_running 1\n</html>")),
        ("an endless page", Reply::Endless),
        ("garbage", Reply::Garbage),
        ("no number", page("vllm:num_requests_running NaN\nvllm:num_requests_waiting -1\n")),
        ("refused", Reply::Page(401, Vec::new())),
        ("silence", Reply::Silence),
    ] {
        let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
        engine.set("/metrics", reply);
        let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
        let report = scheduler.until(name, |r| is_ready(r) && r.engines[0].models.is_some()).await;
        let told = &report.engines[0];
        assert_eq!((told.running, told.waiting, told.kv_used), (None, None, None), "{name}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_engine_whose_pages_of_load_are_off_gives_models_and_health() {
    let mut scheduler = FakeScheduler::start().await;
    let engine = FakeEngine::start(&[("/v1/models", fixture!("vllm/models.http"))]).await;
    let agent = Running::start(&[&scheduler], &[("sglang", &engine)], "").await;
    let report = scheduler.next().await;
    assert!(is_ready(&report), "/ready is missing, /v1/models stands in: {report:#?}");
    assert_eq!(report.engines[0].models.as_ref().unwrap().value.len(), 1);
    assert_eq!(report.engines[0].running, None);
    let metrics = agent.admin("GET /metrics").await;
    assert!(metrics.contains("reading=\"running\",reason=\"page_status\"} 1"), "{metrics}");
    agent.stop().await;
}

#[tokio::test]
async fn simulated_gpus_follow_their_engine() {
    let mut scheduler = FakeScheduler::start().await;
    let engine = FakeEngine::start(&[
        ("/health", page("ok")),
        ("/metrics", page(include_str!("../../fixtures/engines/simulated/metrics.txt"))),
        ("/v1/models", page("{\"data\":[{\"id\":\"m\",\"max_model_len\":8192}]}")),
    ])
    .await;
    let more = "[gpu]\nsource = \"simulated\"\nsimulated = [\"2*h100-8b\"]\nperiod = \"50ms\"\n";
    let agent = Running::start(&[&scheduler], &[("simulated", &engine)], more).await;
    let used = |r: &Report| r.gpus.first().and_then(|gpu| gpu.sample).and_then(|s| s.value.vram_used);
    let report = scheduler
        .until("a loaded GPU", |r| {
            r.kind == ReportKind::Full || used(r).is_some_and(|used| used.get() == 64 << 30)
        })
        .await;
    if report.kind == ReportKind::Full {
        assert_eq!(report.gpus.len(), 2);
        assert_eq!(report.gpus[0].info.name, "NVIDIA H100 80GB HBM3");
        assert_eq!(report.engines[0].gpus, [report.gpus[0].info.uuid.clone()]);
        assert!(report.engines[0].profile.is_some());
        scheduler.until("a loaded GPU", |r| used(r).is_some_and(|used| used.get() == 64 << 30)).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn without_a_list_the_engines_tell_which_gpus_to_simulate() {
    let mut scheduler = FakeScheduler::start().await;
    let engine = FakeEngine::start(&[
        ("/health", page("ok")),
        ("/metrics", page(include_str!("../../fixtures/engines/simulated/metrics.txt"))),
    ])
    .await;
    let more = "[gpu]\nsource = \"simulated\"\nperiod = \"50ms\"\n";
    let agent = Running::start(&[&scheduler], &[("simulated", &engine)], more).await;
    let report = scheduler.until("a GPU", |r| !r.gpus.is_empty()).await;
    let names: Vec<_> = report.gpus.iter().map(|gpu| gpu.info.name.as_str()).collect();
    assert_eq!(names, ["NVIDIA H100 80GB HBM3"]);
    agent.stop().await;
}

#[tokio::test]
async fn gpus_that_cannot_be_read_are_an_error_and_not_an_idle_host() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let more = "[gpu]\nsource = \"nvml\"\nnvml_lib = \"/nonexistent/libnvidia-ml.so.1\"\n";
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], more).await;
    let first = scheduler.next().await;
    assert_eq!((first.agent.gpu_source, first.gpus.len()), (GpuSourceKind::Nvml, 0));
    let error = first.agent.gpu_error.unwrap();
    assert!(error.starts_with("no NVIDIA driver found"), "{error}");
    assert!(
        is_ready(&scheduler.until("the engine", is_ready).await),
        "the engines are reported all the same"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_recording_is_played_to_the_scheduler_and_one_that_cannot_be_stops_the_agent_at_once() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gpus.json");
    let text = r#"{"driver_version": "590.48.01", "period_ms": 1000, "gpus": [{"gpu": "GPU-1", "name": "NVIDIA L4"}],
        "ticks": [[{"gpu": "GPU-1", "busy": 0.25, "thermal_margin": -3}]]}"#;
    std::fs::write(&path, text).unwrap();
    let more = format!("[gpu]\nsource = \"recorded\"\nrecording = {path:?}\n");
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], &more).await;
    let read = |r: &Report| r.gpus.first().is_some_and(|gpu| gpu.sample.is_some());
    let report = scheduler.until("a reading", read).await;
    assert_eq!(report.agent.gpu_source, GpuSourceKind::Recorded);
    assert_eq!(report.agent.driver_version.as_deref(), Some("590.48.01"));
    let sample = report.gpus[0].sample.unwrap().value;
    assert_eq!((sample.busy, sample.thermal_margin.map(|c| c.0)), (Ratio::new(0.25).ok(), Some(-3)));
    assert_eq!(sample.power, None, "what was not read is not played");
    agent.stop().await;

    std::fs::write(&path, text.replace("0.25", "2.5")).unwrap();
    let config = format!("schedulers = [\"http://a:1\"]\nadmin_listen = \"127.0.0.1:0\"\n{more}");
    let config = aya_config::parse("agent.toml", &config, [], &[]).unwrap();
    let error = Agent::bind(config, Clock::start()).await.unwrap_err().to_string();
    assert!(error.contains("gpus.json: ticks[0].busy: has no value of its kind"), "{error}");
}

/// Puts the fake NVML and its first scenario into a folder and answers with the library's path.
fn fake_nvml(folder: &std::path::Path, scenario: &str) -> std::path::PathBuf {
    let built = std::env::current_exe().unwrap().with_file_name("libaya_fake_nvml.so");
    let library = folder.join("nvml.so");
    std::fs::copy(built, &library).unwrap();
    std::fs::write(folder.join("nvml.so.json"), scenario).unwrap();
    library
}

#[tokio::test]
async fn a_driver_that_hangs_stops_no_report_and_is_told_until_it_answers() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let dir = tempfile::tempdir().unwrap();
    let library = fake_nvml(dir.path(), include_str!("../../fixtures/nvml/h100-mig.json"));
    let more = format!("[gpu]\nsource = \"nvml\"\nperiod = \"50ms\"\nnvml_lib = {library:?}\n");
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], &more).await;

    let report = scheduler.until("four GPUs", |r| r.gpus.len() == 4).await;
    let slices = report.gpus.iter().filter(|gpu| gpu.info.mig.is_some()).count();
    assert_eq!((report.agent.gpu_source, report.agent.gpu_error, slices), (GpuSourceKind::Nvml, None, 3));
    assert_eq!(report.agent.driver_version.as_deref(), Some("590.48.01"));

    let hang = r#"{"gpus": [{}], "hangs": [{"function": "*", "from_ms": 0, "for_ms": 60000}]}"#;
    std::fs::write(dir.path().join("nvml.so.json"), hang).unwrap();
    let stalled =
        |r: &Report| r.agent.gpu_error.as_deref().is_some_and(|e| e.starts_with("nvml stalled for"));
    let first = scheduler.until("the stall", stalled).await;
    let later = scheduler.until("reports go on", |r| r.sequence >= first.sequence + 4).await;
    assert!(stalled(&later) && is_ready(&scheduler.until("the engine", is_ready).await), "{later:?}");

    // The slices are gone meanwhile: the list is read again at once, not at its next turn.
    let well = include_str!("../../fixtures/nvml/h100x2.json");
    std::fs::write(dir.path().join("nvml.so.json"), well).unwrap();
    scheduler.until("the driver answers", |r| r.agent.gpu_error.is_none()).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_xid_is_told_at_once_and_again_to_a_scheduler_that_was_away() {
    let mut scheduler = FakeScheduler::start().await;
    let dir = tempfile::tempdir().unwrap();
    let library = fake_nvml(dir.path(), r#"{"gpus": [{}, {}]}"#);
    let more = format!("[gpu]\nsource = \"nvml\"\nperiod = \"200ms\"\nnvml_lib = {library:?}\n");
    let agent = Running::start(&[&scheduler], &[], &more).await;
    let listened = |g: &GpuReport| g.sample.is_some_and(|sample| sample.value.xids == Some(0));
    let report = scheduler
        .until("two GPUs that are listened to", |r| r.gpus.iter().filter(|g| listened(g)).count() == 2)
        .await;
    let xid = r#"{"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 1, "data": 79}]}"#;
    std::fs::write(dir.path().join("nvml.so.json"), xid).unwrap();
    let told = scheduler.events().await;
    let event = &told.events[0].value;
    assert_eq!((told.node.as_str(), told.boot, told.events.len()), ("n1", report.boot, 1));
    assert_eq!((event.sequence, event.kind), (1, GpuEventKind::Xid { code: 79 }));
    assert_eq!((&event.gpu, event.xids), (&report.gpus[1].info.uuid, Some(1)));
    let metrics = agent.admin("GET /metrics").await;
    assert!(metrics.contains("aya_agent_gpu_events_total{kind=\"xid\"} 1"), "{metrics}");

    scheduler.restart().await;
    let again = scheduler.events().await;
    assert_eq!((again.boot, &again.events[0].value), (told.boot, event));
    assert!(again.events[0].age >= told.events[0].age);
    agent.stop().await;
}

#[tokio::test]
async fn the_admin_listener_tells_how_the_agent_is() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    scheduler.until("deltas", |r| r.kind == ReportKind::Delta).await;
    for (request, expect) in [
        ("GET /healthz", "HTTP/1.1 200 OK"),
        ("GET /version", "{\"version\":\"0.1.0\"}"),
        ("GET /metrics", "aya_agent_info{node=\"n1\",version=\"0.1.0\"} 1"),
        ("GET /metrics", "result=\"ok\"}"),
        ("GET /metrics", "health=\"ready\"} 1"),
        ("GET /metrics", "aya_agent_scheduler_connected{scheduler="),
        ("GET /metrics", "aya_agent_gpu_failed_calls_total{error=\"lost\"} 0"),
        ("GET /nothing", "HTTP/1.1 404"),
        ("POST /metrics", "HTTP/1.1 405"),
    ] {
        let answer = agent.admin(request).await;
        assert!(answer.contains(expect), "{request}: {answer}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_api_key_is_sent_and_never_shown() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "sk-verysecret\n").unwrap();
    let text = format!(
        "node_id = \"n1\"\nschedulers = [\"http://{}\"]\nadmin_listen = \"127.0.0.1:0\"\n[gpu]\nsource = \"none\"\n\
         [[engine]]\nkind = \"vllm\"\nurl = \"http://{}\"\napi_key_file = {file:?}\n",
        scheduler.addr, engine.addr
    );
    let config = aya_config::parse("agent.toml", &text, [], &[]).unwrap();
    let agent = Agent::bind(config, Clock::start()).await.unwrap();
    assert!(!format!("{agent:?}").contains("verysecret"));
    let shutdown = CancellationToken::new();
    let (task, stop) = (agent.run(shutdown.clone()), shutdown);
    let (ended, ()) = tokio::join!(task, async {
        scheduler.next().await;
        stop.cancel();
    });
    ended.unwrap();
    assert!(engine.seen.lock().iter().all(|head| head.contains("authorization: Bearer sk-verysecret\r\n")));
}

#[tokio::test]
async fn two_engines_never_share_a_name() {
    let text = "node_id = \"n1\"\nschedulers = [\"http://127.0.0.1:1\"]\nadmin_listen = \"127.0.0.1:0\"\n\
                [[engine]]\nkind = \"vllm\"\nurl = \"http://10.0.0.1:8000\"\n\
                [[engine]]\nkind = \"vllm\"\nurl = \"http://10.0.0.2:8000\"\n";
    let config = aya_config::parse("agent.toml", text, [], &[]).unwrap();
    let error = Agent::bind(config, Clock::start()).await.unwrap_err();
    assert_eq!(error.to_string(), "two engines would be called n1-vllm-8000: give one of them a name");
}
