//! `aya demo`: a whole farm in one process, the same load through round robin and through Aya, one decision explained.
//!
//! The parts are the real ones and talk over loopback; only the engines and GPUs are simulated. It prints what it
//! measured and nothing else: a comparison that comes out badly is printed as it came out.

mod client;
mod farm;
mod hints;
mod load;
mod summary;
mod workload;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use aya_observe::{Clock, logging};
use aya_trace::{RecordJson, VerdictKind};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::fleet::{EndpointJson, FleetJson};
use crate::text::{Style, counted};
use crate::{explain, out, serve};

use farm::{Farm, FarmPlan, NODES, url};
use load::{Pass, Site};
use summary::{Comparison, Measured};

/// Real time until every engine must have been reported, and until a pass must have left the farm.
const READY_MAX: Duration = Duration::from_secs(30);
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the fleet.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The farm must look idle this often in a row: reports are up to 250 ms old.
const IDLE_LOOKS: u32 = 5;
/// Records asked for, the API's own limit.
const RECORDS_MAX: usize = 1_000;

/// Endpoints that could take a request: with so many, a decision is worth explaining.
const CHOICE_ENOUGH: usize = 3;

const BASELINE: Pass = Pass { name: "rr", policy: Some("rr"), nonce: 0x7272 };
const OURS: Pass = Pass { name: "aya", policy: None, nonce: 0x61_7961 };

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    logging::init(&args.log, logging::Format::Text, out::colour_of_log())
        .map_err(|error| Failure::Usage(format!("--log: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let style = Style { colour: out::colour() };
    runtime.block_on(serve::until_signal(|shutdown| perform(args, style, out::say, out::complain, shutdown)))
}

/// The whole demo: `say` gets the data, `tell` the progress.
async fn perform(
    args: &DemoArgs,
    style: Style,
    say: impl Fn(&str),
    tell: impl Fn(&str),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let plan = FarmPlan { port: args.port, seed: args.seed, time_scale: args.time_scale };
    let mut farm = Farm::start(plan).await?;
    let (api, admin) = (farm.api, farm.admin);
    say(&style.strong(&headline(args.time_scale)));
    say(&format!("  API {}   admin {}   agents' gRPC {}", url(api), url(admin), farm.grpc));
    let show = show(args, (api, admin), style, &say, &tell);
    let result = tokio::select! {
        result = show => result,
        broken = farm.broken() => Err(broken),
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted before the summary")),
    };
    let result = match result {
        Ok(()) if !args.once => {
            say("");
            say(&style.strong("the farm stays up; Ctrl-C stops it. In another terminal:"));
            hints::lines(&farm).iter().for_each(|line| say(&format!("  {line}")));
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                broken = farm.broken() => Err(broken),
            }
        }
        result => result,
    };
    farm.stop().await;
    result
}

/// Both passes, the summary and one explanation.
async fn show(
    args: &DemoArgs,
    (api, admin): (SocketAddr, SocketAddr),
    style: Style,
    say: &impl Fn(&str),
    tell: &impl Fn(&str),
) -> anyhow::Result<()> {
    until(admin, "get ready", READY_MAX, 1, is_ready).await?;
    let planned = workload::plan(args.requests, args.seed);
    let span_s = planned.last().map_or(0.0, |last| last.at_s) / args.time_scale;
    let requests = counted(planned.len(), "request");
    tell(&format!(
        "{requests} in bursts over {span_s:.0} s, twice: with the header x-aya-policy: rr, then with the default policy",
    ));
    let site = Site { api, clock: Clock::start(), time_scale: args.time_scale };
    let baseline = load::run(&site, BASELINE, &planned, tell).await;
    until(admin, "come to rest", IDLE_MAX, IDLE_LOOKS, is_idle).await?;
    let ours = load::run(&site, OURS, &planned, tell).await;
    until(admin, "come to rest", IDLE_MAX, IDLE_LOOKS, is_idle).await?;
    let comparison = Comparison {
        baseline: Measured { name: BASELINE.name, samples: &baseline },
        ours: Measured { name: OURS.name, samples: &ours },
        time_scale: args.time_scale,
    };
    say("");
    comparison.lines(style).iter().for_each(|line| say(line));
    if let Some(record) = telling_record(admin).await? {
        say("");
        say(&format!("one decision of the {} pass in full (wall time, as in `aya explain`)", OURS.name));
        say("");
        say(&explain::render(&record, style));
    }
    let failed = comparison.failures();
    anyhow::ensure!(failed == 0, "{} failed", counted(failed, "request"));
    Ok(())
}

/// What is running.
fn headline(time_scale: f64) -> String {
    let hardware: Vec<_> = farm::engines().filter_map(|(_, engine)| engine.hardware()).collect();
    let gpus: u32 = hardware.iter().map(|h| h.gpus_per_engine).sum();
    let models: BTreeSet<&str> = hardware.iter().map(|h| h.model).collect();
    format!(
        "{}, {gpus} simulated GPUs, {} simulated engines at {time_scale} x real time, serving {}",
        counted(NODES.len(), "node"),
        hardware.len(),
        models.into_iter().collect::<Vec<_>>().join(" and ")
    )
}

/// Looks at the fleet until it is so a few times in a row.
async fn until(
    admin: SocketAddr,
    what: &str,
    longest: Duration,
    looks: u32,
    is_so: impl Fn(&FleetJson) -> bool,
) -> anyhow::Result<()> {
    let waiting = async {
        let mut in_a_row = 0;
        while in_a_row < looks {
            let fleet: FleetJson = client::get(admin, "/api/v1/fleet").await?;
            in_a_row = if is_so(&fleet) { in_a_row + 1 } else { 0 };
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        Ok(())
    };
    tokio::time::timeout(longest, waiting)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the farm did not {what} within {} s", longest.as_secs())))
}

/// Every engine of ours takes requests and every node of ours shows its GPUs. Whoever else reports to this port
/// changes nothing.
fn is_ready(fleet: &FleetJson) -> bool {
    ours(fleet).filter(|endpoint| endpoint.is_ready()).count() == farm::engines().count()
        && NODES.iter().all(|node| fleet.nodes.iter().any(|n| n.id == node.name && !n.gpus.is_empty()))
}

/// Nothing in flight by the ledger, nothing running or waiting by the engines.
fn is_idle(fleet: &FleetJson) -> bool {
    ours(fleet).all(|e| e.in_flight == 0 && e.running == Some(0) && e.waiting == Some(0))
}

fn ours(fleet: &FleetJson) -> impl Iterator<Item = &EndpointJson> {
    fleet.endpoints.iter().filter(|e| farm::engines().any(|(_, engine)| engine.name == e.id))
}

/// The decision of our pass with the most to choose from and the most in flight: the one worth reading.
async fn telling_record(admin: SocketAddr) -> anyhow::Result<Option<RecordJson>> {
    #[derive(Deserialize)]
    struct List {
        decisions: Vec<RecordJson>,
    }
    let list: List = client::get(admin, &format!("/api/v1/decisions?limit={RECORDS_MAX}")).await?;
    let weight = |record: &RecordJson| {
        let candidates = &record.decision.candidates;
        let scored = candidates.iter().filter(|c| c.verdict == VerdictKind::Scored).count();
        let in_flight: u32 = candidates.iter().map(|c| c.in_flight).sum();
        (scored.min(CHOICE_ENOUGH), in_flight)
    };
    let prefix = OURS.id_prefix();
    let ours = list.decisions.into_iter().filter(|record| record.decision.request_id.starts_with(&prefix));
    Ok(ours.max_by_key(weight))
}

#[cfg(test)]
mod tests;
