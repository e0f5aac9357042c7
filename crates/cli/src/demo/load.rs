//! One pass of the load: an open loop that sends every request at its time, whatever became of those before.

use std::net::SocketAddr;
use std::time::Duration;

use aya_domain::splitmix64;
use aya_observe::Clock;
use tokio::task::JoinSet;

use crate::demo::client::{self, Streamed};
use crate::demo::workload::{self, Planned};

/// A request that takes longer, in real time, has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How often the progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// Which pass this is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    /// `rr` or `aya`; prefix of its request ids.
    pub(crate) name: &'static str,
    /// For the header `x-aya-policy`; `None`: the farm's default.
    pub(crate) policy: Option<&'static str>,
    /// Makes its texts differ from those of other passes.
    pub(crate) nonce: u64,
}

impl Pass {
    /// What every request id of this pass begins with.
    pub(crate) fn id_prefix(&self) -> String {
        format!("demo-{}-", self.name)
    }
}

/// One request and what became of it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) model: &'static str,
    /// The failure as a text for people.
    pub(crate) result: Result<Streamed, String>,
}

/// Where and how fast the load goes.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) api: SocketAddr,
    pub(crate) clock: Clock,
    pub(crate) time_scale: f64,
}

/// Sends all requests; returns when the last one has ended.
pub(crate) async fn run(site: &Site, pass: Pass, planned: &[Planned], tell: impl Fn(&str)) -> Vec<Sample> {
    let started = tokio::time::Instant::now();
    let mut open = JoinSet::new();
    let mut samples = Vec::with_capacity(planned.len());
    let mut sent = 0;
    let mut progress = tokio::time::interval_at(started + PROGRESS_PERIOD, PROGRESS_PERIOD);
    while samples.len() < planned.len() {
        let next = planned.get(sent);
        let due = next.map(|next| started + Duration::from_secs_f64(next.at_s / site.time_scale));
        tokio::select! {
            () = sleep_until(due) => {
                let Some(next) = next else { continue };
                open.spawn(one(site.clone(), pass, sent, next.clone()));
                sent += 1;
            }
            Some(ended) = open.join_next() => samples.push(ended.unwrap_or_else(|error| Sample {
                model: workload::SMALL,
                result: Err(format!("the demo's client broke: {error}")),
            })),
            _ = progress.tick() => {
                let failed = samples.iter().filter(|s| s.result.is_err()).count();
                tell(&format!(
                    "  {:<3} {:>3} s  {sent}/{} sent, {} in flight, {failed} failed",
                    pass.name, started.elapsed().as_secs(), planned.len(), sent - samples.len(),
                ));
            }
        }
    }
    samples
}

/// Until an instant; for ever without one.
async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn one(site: Site, pass: Pass, at: usize, planned: Planned) -> Sample {
    let nonce = splitmix64(pass.nonce ^ splitmix64(u64::try_from(at).unwrap_or(u64::MAX)));
    let body = workload::body(&planned, nonce).to_string();
    let mut headers = vec![("x-request-id", format!("{}{at:05}", pass.id_prefix()))];
    headers.extend(pass.policy.map(|policy| ("x-aya-policy", policy.to_owned())));
    let streaming = client::stream(site.api, &headers, body, &site.clock);
    let result = match tokio::time::timeout(REQUEST_TIMEOUT, streaming).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no complete answer within {} s", REQUEST_TIMEOUT.as_secs())),
    };
    Sample { model: planned.model, result }
}
