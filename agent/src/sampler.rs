//! Watches one engine: asks the pages of its plan when they are due, judges its health, tells the writer.
//!
//! An engine may refuse, hang, lie or vanish; its task then says so and goes on. It never ends by itself.

use std::sync::Arc;
use std::time::Duration;

use aya_config::{EngineConfig, EnginePolling};
use aya_domain::{EndpointId, EngineHealth, EngineKind, MonoTime, Reading};
use aya_engine::{
    Absent, EngineReadings, Page, PageError, PagePlan, ProbeOutcome, ProbePlan, absent, health_verdict,
    parse, plan, signals,
};
use aya_observe::Clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::{Metrics, Part};
use crate::prober::{FetchError, Prober};
use crate::view::Update;

/// Where every plan has its health page.
const HEALTH_AT: usize = 0;

/// One engine under watch.
pub(crate) struct Sampler {
    id: EndpointId,
    kind: EngineKind,
    plan: ProbePlan,
    period: Duration,
    /// Per page of the plan: which of its paths is asked.
    paths: Vec<usize>,
    prober: Prober,
    /// For the metrics, where they are somewhere else.
    metrics_prober: Option<Prober>,
    readings: EngineReadings,
    health: Option<Reading<EngineHealth>>,
    answered_at: Option<MonoTime>,
    /// Absences already logged.
    told: Vec<(&'static str, Absent)>,
    clock: Clock,
    metrics: Arc<Metrics>,
    updates: mpsc::Sender<Update>,
}

/// Time between two rounds of an engine of this kind.
pub(crate) fn round_period(kind: EngineKind, polling: &EnginePolling) -> Duration {
    let fastest = plan(kind).pages.iter().map(|page| page.period_min).min();
    fastest.unwrap_or(polling.period).max(polling.period)
}

impl Sampler {
    pub(crate) fn new(
        id: EndpointId,
        engine: &EngineConfig,
        polling: &EnginePolling,
        clock: Clock,
        metrics: Arc<Metrics>,
        updates: mpsc::Sender<Update>,
    ) -> Self {
        let plan = plan(engine.kind);
        let key = engine.api_key.as_ref();
        let prober = |url| Prober::new(url, key, polling.probe_timeout, polling.page_max);
        Self {
            id,
            kind: engine.kind,
            period: round_period(engine.kind, polling),
            paths: vec![0; plan.pages.len()],
            prober: prober(&engine.url),
            metrics_prober: engine.metrics_url.as_ref().map(prober),
            readings: EngineReadings::new(engine.kind),
            plan,
            health: None,
            answered_at: None,
            told: Vec::new(),
            clock,
            metrics,
            updates,
        }
    }

    /// Watches until `shutdown`. Rounds of all engines begin at the same instants, so that one report right
    /// after them carries all.
    pub(crate) async fn run(mut self, epoch: Instant, shutdown: CancellationToken) {
        let mut ticks = interval_at(epoch, self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut round = 0_u64;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                due = ticks.tick() => self.metrics.tick_late(Part::Engines, due.elapsed()),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.round(round) => {}
            }
            round = round.wrapping_add(1);
            self.tell().await;
        }
    }

    /// Tells the writer what is known now.
    async fn tell(&self) {
        let Some(health) = self.health.clone() else { return };
        let update =
            Update::Engine { id: self.id.clone(), health, readings: Arc::new(self.readings.clone()) };
        // Fails only when the writer has gone, at shutdown.
        let _ = self.updates.send(update).await;
    }

    /// Asks what is due in this round.
    async fn round(&mut self, round: u64) {
        let was_ready = self.is_ready();
        let all = 0..self.plan.pages.len();
        let mut due: Vec<usize> = all.filter(|at| self.due(*at, round) || !was_ready).collect();
        let mut done = 0;
        while let Some(at) = due.get(done).copied() {
            done += 1;
            let is_health = self.plan.pages.get(at).is_none_or(|page| page.page == Page::Health);
            let mut alive = if is_health { self.ask_health().await } else { self.ask_page(at).await };
            if !alive && !is_health {
                // A dead engine, or a bad page: the health page knows. More pages may be slow, so this goes ahead.
                alive = self.ask_health().await;
                self.tell().await;
            }
            if !alive {
                due.truncate(done);
            }
        }
        self.tell_absences();
        let states = signals(self.kind, &self.readings, self.period, self.clock.now());
        self.metrics.signals(&self.id, &states);
    }

    fn is_ready(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.value == EngineHealth::Ready)
    }

    /// Whether a page's turn has come, counted in rounds.
    fn due(&self, at: usize, round: u64) -> bool {
        let period_min = self.plan.pages.get(at).map_or(Duration::ZERO, |page| page.period_min);
        let rounds = period_min.as_nanos().div_ceil(self.period.as_nanos().max(1)).max(1);
        u128::from(round).is_multiple_of(rounds)
    }

    /// Asks the health page and judges; true if the engine can be asked more.
    async fn ask_health(&mut self) -> bool {
        let full = self.readings.full();
        let asked_at = self.clock.now();
        let silent_for = self.answered_at.map(|at| asked_at.since(at));
        let got = self.fetch(HEALTH_AT).await;
        let outcome = match got {
            Ok(status) => ProbeOutcome::Answered { status, body: self.prober.body() },
            // It answers, with more words than anybody asked for.
            Err(FetchError::TooLarge) => ProbeOutcome::Answered { status: 200, body: &[] },
            Err(FetchError::TimedOut(after)) => ProbeOutcome::TimedOut { after },
            Err(FetchError::Failed(reason)) => ProbeOutcome::Failed { reason },
        };
        let answered = matches!(outcome, ProbeOutcome::Answered { .. });
        let verdict = health_verdict(&outcome, full, silent_for);
        let now = self.clock.now();
        if answered {
            self.answered_at = Some(now);
        }
        self.judge(verdict, now);
        self.is_ready()
    }

    fn judge(&mut self, verdict: EngineHealth, now: MonoTime) {
        if self.health.as_ref().map(|health| &health.value) != Some(&verdict) {
            match &verdict {
                EngineHealth::Ready => info!(endpoint = %self.id, "the engine is ready"),
                EngineHealth::Loading => info!(endpoint = %self.id, "the engine is loading its model"),
                EngineHealth::Busy => {
                    info!(endpoint = %self.id, "the engine is full and does not answer probes");
                }
                EngineHealth::Down { reason } => warn!(endpoint = %self.id, reason, "the engine is down"),
            }
        }
        self.metrics.engine_health(&self.id, &verdict);
        self.health = Some(Reading::new(verdict, now));
    }

    /// Asks another page and takes in what it tells; false if it could not be got.
    async fn ask_page(&mut self, at: usize) -> bool {
        let Some(PagePlan { page, .. }) = self.plan.pages.get(at).copied() else { return true };
        let findings = match self.fetch(at).await {
            Ok(status) => parse(
                self.kind,
                page,
                status,
                prober_of(page, &mut self.prober, &mut self.metrics_prober).body(),
            ),
            Err(FetchError::TooLarge) => absent(self.kind, page, Absent::Page(PageError::TooLarge)),
            Err(FetchError::Failed(_) | FetchError::TimedOut(_)) => return false,
        };
        let now = self.clock.now();
        self.answered_at = Some(now);
        self.readings.merge(page, findings, now);
        true
    }

    /// Gets a page from the first of its paths that exists.
    async fn fetch(&mut self, at: usize) -> Result<u16, FetchError> {
        let (Some(page), Some(chosen)) = (self.plan.pages.get(at), self.paths.get_mut(at)) else {
            return Err(FetchError::Failed("no such page in the plan".to_owned()));
        };
        loop {
            let path = page.paths.get(*chosen).copied().unwrap_or("/");
            let got = prober_of(page.page, &mut self.prober, &mut self.metrics_prober).get(path).await;
            self.metrics.probe(&self.id, page.page, &got);
            let missing = got == Ok(404);
            if missing && *chosen + 1 < page.paths.len() {
                *chosen += 1;
                continue;
            }
            if missing {
                *chosen = 0;
            }
            return got;
        }
    }

    /// Logs what an engine does not tell: once, and again when the reason changes.
    fn tell_absences(&mut self) {
        let absences: Vec<_> = self.readings.absences().collect();
        let mut news: Vec<_> =
            absences.iter().copied().filter(|absence| !self.told.contains(absence)).collect();
        while let Some((_, reason)) = news.first().copied() {
            let (same, rest): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, other)| *other == reason);
            let readings = same.iter().map(|(reading, _)| *reading).collect::<Vec<_>>().join(" ");
            info!(endpoint = %self.id, engine = %self.kind, readings, %reason, "readings are absent");
            news = rest;
        }
        if absences != self.told {
            self.metrics.absences(&self.id, &self.told, &absences);
            self.told = absences;
        }
    }
}

/// Whom to ask for a page.
const fn prober_of<'a>(page: Page, main: &'a mut Prober, metrics: &'a mut Option<Prober>) -> &'a mut Prober {
    match (page, metrics) {
        (Page::Metrics, Some(prober)) => prober,
        _ => main,
    }
}
