//! An agent on the fake NVML library: 8 GPUs, 40 processes, 4 engines; and what a driver that hangs for 30 s delays.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{MEASURED_CORE, OTHER_CORE, Process, aya, free_port, machine_busy_s, pause, pinned};
use super::steady::{AgentOptions, ENGINES, SETTLE, Scheduler, answers, get, watch};

/// Eight busy GPUs; a list of processes takes 4.5 ms each, as on real drivers.
const SCENARIO: &str = include_str!("../../../fixtures/nvml/h100x8-busy.json");
/// How long every call of the driver hangs, and how long is looked at it.
const HANG: Duration = Duration::from_secs(30);
const LOOK_FOR: Duration = Duration::from_secs(33);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The usual period of the engines' readings.
const ENGINE_PERIOD_MS: u64 = 250;

/// One host: the agent with its driver, and what runs there.
struct Host {
    agent: Process,
    admin: u16,
    scenario: std::path::PathBuf,
    described: Value,
    others: Vec<Process>,
}

impl Host {
    async fn start(dir: &Path, scheduler: &Scheduler) -> Result<Self> {
        let built = aya()?.with_file_name("libaya_fake_nvml.so");
        let library = dir.join("libnvidia-ml.so.1");
        let copied = fs::copy(&built, &library);
        copied.with_context(|| format!("{}: cargo build --release -p aya-fake-nvml", built.display()))?;
        let admin = free_port()?;
        let mut agent = pinned(MEASURED_CORE, aya()?);
        agent
            .args(["agent", "--node-id", "bench", "--gpu-source", "nvml", "--log", "warn"])
            .arg("--nvml-lib");
        agent.arg(&library).args(["--admin-listen", &format!("127.0.0.1:{admin}")]);
        agent.args(["--scheduler", &format!("http://127.0.0.1:{}", scheduler.grpc)]);
        let mut others = Vec::new();
        for nth in 0..ENGINES {
            let port = free_port()?;
            let mut engine = pinned(OTHER_CORE, aya()?);
            engine.args(["sim-engine", "--log", "warn", "--listen", &format!("127.0.0.1:{port}")]);
            others.push(Process::start(engine, dir, &format!("engine-{nth}"))?);
            answers(port, "/health").await?;
            agent.args(["--engine", &format!("simulated=http://127.0.0.1:{port}")]);
        }
        let mut described: Value = serde_json::from_str(SCENARIO)?;
        let gpus =
            described.get_mut("gpus").and_then(Value::as_array_mut).context("no GPUs in the scenario")?;
        let lists = gpus.iter_mut().filter_map(|gpu| gpu.get_mut("processes")?.as_array_mut());
        for (nth, process) in (0_usize..).zip(lists.flatten()) {
            // Real ones, the engines first.
            if nth >= others.len() {
                let mut sleeper = tokio::process::Command::new("sleep");
                sleeper.arg("1000").kill_on_drop(true);
                others.push(Process::start(sleeper, dir, &format!("process-{nth}"))?);
            }
            if let Some(holder) = others.get(nth) {
                *process = json!({"pid": holder.pid(), "mib": 11_000});
            }
        }
        let scenario = dir.join("libnvidia-ml.so.1.json");
        fs::write(&scenario, described.to_string())?;
        let agent = Process::start(agent, dir, "agent")?;
        Ok(Self { agent, admin, scenario, described, others })
    }
}

/// CPU, memory and punctuality; then the hang.
pub(crate) async fn agent(options: &AgentOptions) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let scheduler = Scheduler::start(dir.path(), OTHER_CORE).await?;
    let mut host = Host::start(dir.path(), &scheduler).await?;
    pause(SETTLE).await;
    let (before, machine) = (get(host.admin, "/metrics").await?, machine_busy_s());
    let steady = watch(&host.agent, options.seconds).await;
    let others = 100.0 * (machine_busy_s() - machine) / steady.seconds - steady.core_percent;
    let after = get(host.admin, "/metrics").await?;
    let late = |part: &str| p99(&buckets(&before, part), &buckets(&after, part));
    let fleet = fleet(&scheduler).await?;
    let gpus = fleet.pointer("/nodes/0/gpus").and_then(Value::as_array).map_or(0, Vec::len);
    let lists = fleet.pointer("/nodes/0/gpus").and_then(Value::as_array).into_iter().flatten();
    let processes: usize = lists.filter_map(|gpu| gpu.get("processes")?.as_array()).map(Vec::len).sum();
    crate::print(&format!(
        "\n| agent on the fake NVML, {gpus} GPUs with {processes} processes, {ENGINES} engines | CPU | RSS | tick late p99, GPUs | engines | rest of the machine |\n\
         |---|---|---|---|---|---|\n| {:.0} s | {:.2} % of a core | {:.1} MiB | <= {} | <= {} | {others:.0} % of a core |",
        steady.seconds,
        steady.core_percent,
        steady.rss_mib,
        late("gpus"),
        late("engines"),
    ));
    if !options.no_hang {
        hang(&mut host, &scheduler).await?;
    }
    for process in host.others.into_iter().chain([host.agent, scheduler.process]) {
        process.stop().await;
    }
    Ok(())
}

async fn fleet(scheduler: &Scheduler) -> Result<Value> {
    let text = get(scheduler.admin, "/api/v1/fleet").await?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).context("the fleet is no JSON")
}

/// Every call of the driver hangs; what the scheduler sees is looked at all the while.
async fn hang(host: &mut Host, scheduler: &Scheduler) -> Result<()> {
    let forms = json!([{"function": "*", "from_ms": 0, "for_ms": HANG.as_millis()}]);
    let description = host.described.as_object_mut().context("no scenario")?;
    description.insert("hangs".to_owned(), forms);
    fs::write(&host.scenario, host.described.to_string())?;
    let begun = Instant::now();
    let (mut engine_ms, mut gpu_ms, mut looks, mut said) = (0, 0, 0_u32, None);
    let ages = |list: Option<&Value>| -> u64 {
        let ages = list.and_then(Value::as_array).into_iter().flatten();
        ages.filter_map(|one| one.get("age_ms")?.as_u64()).max().unwrap_or(0)
    };
    while begun.elapsed() < LOOK_FOR {
        let fleet = fleet(scheduler).await?;
        let endpoints = fleet.get("endpoints").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(endpoints == usize::try_from(ENGINES)?, "{endpoints} engines are known");
        engine_ms = engine_ms.max(ages(fleet.get("endpoints")));
        gpu_ms = gpu_ms.max(ages(fleet.pointer("/nodes/0/gpus")));
        looks += 1;
        if said.is_none() && fleet.to_string().contains("stalled for") {
            said = Some(begun.elapsed().as_secs_f64());
        }
        pause(LOOK_EVERY).await;
    }
    let said = said.map_or("never".to_owned(), |seconds| format!("after {seconds:.1} s"));
    crate::print(&format!(
        "\n| every driver call hangs for {:.0} s | oldest engine reading at the scheduler | oldest GPU reading | told that the driver stalls |\n|---|---|---|---|\n\
         | {looks} looks | {engine_ms} ms (period {ENGINE_PERIOD_MS} ms) | {gpu_ms} ms | {said} |",
        HANG.as_secs_f64(),
    ));
    Ok(())
}

/// Upper bounds and cumulated counts of the lateness of one part.
fn buckets(metrics: &str, part: &str) -> Vec<(String, f64)> {
    let start = format!("aya_agent_tick_late_seconds_bucket{{part=\"{part}\",le=\"");
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(&start));
    let bucket = |line: &str| {
        let (bound, count) = line.split_once("\"} ")?;
        Some((bound.to_owned(), count.trim().parse().ok()?))
    };
    lines.filter_map(bucket).collect()
}

/// The bound below which 99 % of what came in between lies.
fn p99(before: &[(String, f64)], after: &[(String, f64)]) -> String {
    let counts: Vec<(&str, f64)> = before.iter().zip(after).map(|(b, a)| (a.0.as_str(), a.1 - b.1)).collect();
    let all = counts.last().map_or(0.0, |(_, count)| *count);
    let bound = counts.iter().find(|(_, count)| all > 0.0 && *count >= 0.99 * all);
    bound.map_or_else(|| "?".to_owned(), |(bound, _)| format!("{bound} s"))
}
