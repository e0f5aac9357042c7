//! Synthetic generations: the only thing that tells whether an engine generates before a client's request does.
//!
//! A probe is a short chat completion whose result can be checked. It holds no lease, opens no account and leaves no
//! record: what is accepted stays what clients sent. It goes only to endpoints that are idle by our own ledger and by
//! their last report, so it never takes a turn from anybody. One task owns all probes and ends them with itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aya_config::ProbeConfig;
use aya_domain::{
    AbortPolicy, Action, Cause, Endpoint, EndpointId, EndpointInfo, Health, ModelId, MonoTime, Phase,
};
use aya_fleet::health::{XidClass, xid};
use aya_proxy::upstream::{Method, Socket, exchange};
use aya_proxy::{RequestHead, SplicedBody, StreamFacts, UpstreamConfig};
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::ledger::LedgerCell;
use crate::pipeline::resolve::resolve;
use crate::shared::Shared;
use crate::telemetry::FleetHandle;
use crate::view::FarmView;

/// How often it is looked for endpoints that are due.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// An endpoint on trial, or in doubt, is probed again after so long, if the last probe led to nothing.
const RECOVERY_EVERY: Duration = Duration::from_secs(1);
/// Probes on their way at once; the others wait for the next look.
const PROBES_MAX: usize = 16;
/// More of an answer is not read.
const ANSWER_MAX: usize = 64 * 1024;

/// Owns the probes.
#[derive(Debug)]
pub(crate) struct Prober {
    shared: Arc<Shared>,
    fleet: FleetHandle,
    /// When each endpoint was last probed; only endpoints of the view are remembered.
    probed: BTreeMap<EndpointId, MonoTime>,
    running: JoinSet<(EndpointId, bool)>,
    under_way: Vec<EndpointId>,
    /// Those whose last probe failed: one failure is a doubt, and it is settled soon.
    doubted: BTreeSet<EndpointId>,
}

/// One probe to be made.
#[derive(Debug)]
struct Probe {
    endpoint: Arc<EndpointInfo>,
    cell: Arc<LedgerCell>,
    timeout: Duration,
    body: Bytes,
    /// Its endpoint is on trial.
    recovery: bool,
}

impl Prober {
    pub(crate) fn new(shared: Arc<Shared>, fleet: FleetHandle) -> Self {
        Self {
            shared,
            fleet,
            probed: BTreeMap::new(),
            running: JoinSet::new(),
            under_way: Vec::new(),
            doubted: BTreeSet::new(),
        }
    }

    /// Runs until `shutdown`; probes on their way are dropped then.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(ended) = self.running.join_next() => {
                    // A probe that panicked is a failed one without a name; its endpoint is probed again.
                    let Ok((endpoint, ok)) = ended else {
                        self.under_way.clear();
                        continue;
                    };
                    self.under_way.retain(|id| *id != endpoint);
                    self.shared.metrics.breaker.probed(ok);
                    if ok {
                        self.doubted.remove(&endpoint);
                    } else {
                        self.doubted.insert(endpoint.clone());
                    }
                    if self.fleet.probed(endpoint, ok).await.is_err() {
                        return;
                    }
                }
                _ = look.tick() => self.start_due(),
            }
        }
    }

    fn start_due(&mut self) {
        let now = self.shared.clock.now();
        let view = self.shared.view.load_full();
        self.probed.retain(|id, _| view.snapshot.index_of(id).is_some());
        self.doubted.retain(|id| view.snapshot.index_of(id).is_some());
        for probe in self.due(&view, now) {
            let id = probe.endpoint.id.clone();
            self.probed.insert(id.clone(), now);
            self.under_way.push(id.clone());
            let shared = Arc::clone(&self.shared);
            self.running.spawn(async move {
                let ok = run(&shared, &probe).await;
                if ok && probe.recovery {
                    // What failed before is over, its pause too.
                    probe.cell.succeeded();
                }
                debug!(endpoint = %id, ok, "probed");
                (id, ok)
            });
        }
    }

    fn due(&self, view: &FarmView, now: MonoTime) -> Vec<Probe> {
        let config = &self.shared.config.probe;
        let free = PROBES_MAX.saturating_sub(self.under_way.len());
        let due = |(endpoint, companion): (&Endpoint, &crate::view::Companion)| {
            let id = &endpoint.info.id;
            let last = match self.probed.get(id) {
                None => Last::Never,
                Some(_) if self.doubted.contains(id) => Last::Failed,
                Some(_) => Last::Worked,
            };
            let at = self.probed.get(id).copied();
            let suspect = config.recovery && is_suspect(endpoint, at);
            let every = match every(config, endpoint, last) {
                None if !suspect || endpoint.excluded_by().is_some() => return None,
                None => (config.interval, false),
                Some(every) => every,
            };
            let waits = !suspect && at.is_some_and(|at| now.since(at) < every.0);
            if waits || self.under_way.contains(id) || is_busy(endpoint, &companion.cell) {
                return None;
            }
            let (model, timeout, body) = ask(config, endpoint)?;
            debug!(endpoint = %id, %model, "probe");
            let (endpoint, cell) = (Arc::clone(&endpoint.info), Arc::clone(&companion.cell));
            Some(Probe { endpoint, cell, timeout, body, recovery: every.1 })
        };
        view.snapshot.endpoints.iter().zip(&view.companions).filter_map(due).take(free).collect()
    }
}

/// How the last probe of an endpoint ended.
#[derive(Debug, Clone, Copy)]
enum Last {
    Never,
    Worked,
    Failed,
}

/// After how long this endpoint is probed again, and whether it is on trial; `None`: not at all.
fn every(config: &ProbeConfig, endpoint: &Endpoint, last: Last) -> Option<(Duration, bool)> {
    let works = matches!(endpoint.health, Health::Healthy | Health::Degraded { .. });
    if endpoint.phase != Phase::Serving || !works {
        return None;
    }
    let on_trial = endpoint.conditions.iter().any(|c| matches!(c.cause, Cause::HalfOpen { .. }));
    if on_trial {
        return config.recovery.then_some((RECOVERY_EVERY, true));
    }
    if endpoint.excluded_by().is_some() {
        return None;
    }
    match last {
        Last::Failed => {
            (config.periodic || config.startup || config.recovery).then_some((RECOVERY_EVERY, false))
        }
        Last::Never => (config.periodic || config.startup).then_some((config.interval, false)),
        Last::Worked => config.periodic.then_some((config.interval, false)),
    }
}

/// Whether something happened to one of its GPUs since it was last probed that its engine may not have survived: an
/// application's fault, for the engine may have been that application, or the end of what kept requests away (a reset, a
/// GPU that came back). Neither keeps anything away; an engine that still answers proves it.
fn is_suspect(endpoint: &Endpoint, probed: Option<MonoTime>) -> bool {
    let is_app = |code| xid(code).is_some_and(|row| row.class == XidClass::App);
    endpoint.conditions.iter().filter(|condition| condition.gpu.is_some()).any(|condition| {
        let fault = matches!(condition.cause, Cause::Xid { code } if is_app(code));
        (condition.recovering || (fault && condition.action == Action::Note))
            && probed.is_none_or(|at| condition.since > at)
    })
}

/// Whether anything of anybody is there.
fn is_busy(endpoint: &Endpoint, cell: &LedgerCell) -> bool {
    let any = |reading: Option<aya_domain::Reading<u32>>| reading.is_some_and(|r| r.value > 0);
    cell.in_flight() > 0 || any(endpoint.running) || any(endpoint.waiting)
}

/// What to ask, of the first of its models that may be probed.
fn ask(config: &ProbeConfig, endpoint: &Endpoint) -> Option<(ModelId, Duration, Bytes)> {
    let own = |model: &ModelId| config.models.iter().find(|own| own.name == *model);
    let may = |model: &&ModelId| own(model).is_none_or(|own| own.enabled);
    let model = endpoint.info.models.iter().map(|model| &model.id).find(may)?;
    let (timeout, max_tokens, prompt) = own(model)
        .map_or((config.timeout, config.max_tokens, &config.prompt), |own| {
            (own.timeout, own.max_tokens, &own.prompt)
        });
    let body = json!({
        "model": model.as_str(),
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": false,
    });
    Some((model.clone(), timeout, Bytes::from(body.to_string())))
}

/// One generation in time. An engine that must not lose its client is waited for after it has failed.
async fn run(shared: &Shared, probe: &Probe) -> bool {
    let id = &probe.endpoint.id;
    let mut generation = std::pin::pin!(generate(shared, probe));
    match tokio::time::timeout(probe.timeout, generation.as_mut()).await {
        Ok(Ok(())) => true,
        Ok(Err(reason)) => {
            info!(endpoint = %id, reason, "a synthetic generation failed");
            false
        }
        Err(_) => {
            info!(endpoint = %id, "a synthetic generation did not end in time");
            if probe.endpoint.abort == AbortPolicy::Drain {
                let _ = generation.await;
            }
            false
        }
    }
}

/// One generation. It succeeds only with a finish reason: neither a 200 nor an end is one.
async fn generate(shared: &Shared, probe: &Probe) -> Result<(), String> {
    let endpoint = &probe.endpoint;
    let told = |error: std::io::Error| format!("resolve: {error}");
    let address = resolve(&endpoint.url, shared.clock.now()).await.map_err(told)?;
    let authorization = shared.authorization(&endpoint.id).and_then(|value| value.to_str().ok());
    let head = RequestHead {
        method: Method::Post,
        path: "/v1/chat/completions",
        host: endpoint.url.authority(),
        accept_stream: false,
        request_id: None,
        authorization,
        traceparent: None,
    };
    let patience = match endpoint.abort {
        AbortPolicy::Cancel => probe.timeout,
        AbortPolicy::Drain => shared.config.timeouts.total,
    };
    let config = UpstreamConfig {
        connect_timeout: shared.config.timeouts.connect,
        head_timeout: patience,
        idle_timeout: patience,
        ..UpstreamConfig::default()
    };
    let body = SplicedBody::from(probe.body.clone());
    let answer = exchange(address, &head, &body, &config, Socket::Fresh).await;
    let answer = answer.map_err(|error| error.as_str().to_owned())?;
    if !answer.head.status.is_success() {
        return Err(format!("status {}", answer.head.status.as_u16()));
    }
    let whole = answer.body.collect(ANSWER_MAX).await.map_err(|error| error.as_str().to_owned())?;
    let facts = StreamFacts::of_answer(&whole.ok_or("the answer is too large")?);
    match (&facts.error, facts.finished) {
        (Some(_), _) => Err("an error instead of an answer".to_owned()),
        (None, 0) => Err("the answer has no finish reason".to_owned()),
        (None, _) => Ok(()),
    }
}
