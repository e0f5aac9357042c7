//! The one task that owns the engine and lets its modelled time pass.
//!
//! Requests come in through a bounded channel, aborts through a list that cannot overflow, and tokens go out as
//! a counter per request: a slow client falls behind on the counter and never holds up the batch or costs
//! memory. Nobody else touches the engine; readers see [`Status`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::MonoTime;
use aya_observe::Clock;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, StepPlan, StepResult};
use crate::faults::Faults;
use crate::inbox::{Aborts, Job, Progress};
use crate::status::{RequestRecord, RequestState, Status};

/// Timers round up to a millisecond: sleeping for less would cost more than it waits.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// How far the steps may lag behind the clock before the lag is forgotten: an engine on a starved
/// processor is slow, but does not make up for it in one burst.
const LAG_MAX: Duration = Duration::from_millis(100);

/// What the driver shares with the HTTP side.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) status: Mutex<Status>,
    /// Read at the start of every step, changed by `/sim/faults`.
    pub(crate) faults: watch::Sender<Faults>,
    pub(crate) aborts: Aborts,
}

/// A request the driver answers for.
#[derive(Debug)]
struct Live {
    progress: watch::Sender<Progress>,
    arrived_at: MonoTime,
    last_token_at: Option<MonoTime>,
    ends_by_length: bool,
}

/// Owns the engine.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) engine: Engine,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: mpsc::Receiver<Job>,
    pub(crate) clock: Clock,
    /// Modelled seconds per real second.
    pub(crate) time_scale: f64,
    live: HashMap<u64, Live>,
    result: StepResult,
    /// When the last step ends; the next one begins there unless the engine was idle.
    deadline: MonoTime,
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Job>,
        clock: Clock,
        time_scale: f64,
    ) -> Self {
        Self {
            engine,
            shared,
            inbox,
            clock,
            time_scale,
            live: HashMap::new(),
            result: StepResult::default(),
            deadline: MonoTime::ZERO,
        }
    }

    /// Runs until the token is cancelled. What is in flight then ends as if the process had died.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut faults = self.shared.faults.subscribe();
        let body = async {
            loop {
                self.intake();
                let (stalled, slow) = {
                    let faults = faults.borrow_and_update();
                    (faults.stall, faults.slow)
                };
                let plan = if stalled { None } else { self.engine.begin_step() };
                self.publish();
                match plan {
                    Some(plan) => {
                        self.pass_time(&plan, slow).await;
                        self.deliver();
                    }
                    None => self.wait_for_work(&mut faults).await,
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = body => {}
        }
    }

    /// Sleeps until the step's time is over, if that is long enough to sleep; takes requests meanwhile.
    async fn pass_time(&mut self, plan: &StepPlan, slow: f64) {
        let now = self.clock.now();
        let begin = self.deadline.max(now.before(LAG_MAX));
        let duration =
            Duration::try_from_secs_f64(plan.duration_s * slow / self.time_scale).unwrap_or(LAG_MAX);
        self.deadline = begin.after(duration);
        let tokens = plan.prefill_tokens.saturating_add(plan.decode_tokens).max(1);
        let prefill = f64::from(plan.prefill_tokens) / f64::from(tokens);
        self.shared.status.lock().activity.record(begin, self.deadline, prefill);
        loop {
            let ahead = self.deadline.since(self.clock.now());
            if ahead < SLEEP_MIN {
                // Others must run even when a thousand steps fit into a millisecond.
                tokio::task::yield_now().await;
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(ahead) => {}
                () = self.shared.aborts.arrived() => self.intake(),
                Some(job) = self.inbox.recv() => self.accept(job),
            }
        }
    }

    /// Nothing to do: until a request, an abort or a change of faults arrives.
    async fn wait_for_work(&mut self, faults: &mut watch::Receiver<Faults>) {
        tokio::select! {
            Some(job) = self.inbox.recv() => self.accept(job),
            () = self.shared.aborts.arrived() => {}
            _ = faults.changed() => {}
        }
        self.deadline = self.clock.now();
    }

    /// Takes what has arrived. The aborts are taken before the jobs and applied after them: an abort that is
    /// seen here was pushed after its job was sent, so its job is seen too.
    fn intake(&mut self) {
        let aborted = self.shared.aborts.take();
        while let Ok(job) = self.inbox.try_recv() {
            self.accept(job);
        }
        for key in aborted {
            self.abort(key);
        }
    }

    fn accept(&mut self, job: Job) {
        let key = job.request.id;
        let prompt_tokens = job.request.prompt_tokens;
        let outcome = self.engine.submit(job.request);
        if outcome.is_ok() {
            let live = Live {
                progress: job.progress,
                arrived_at: job.arrived_at,
                last_token_at: None,
                ends_by_length: job.ends_by_length,
            };
            self.live.insert(key, live);
        }
        let state = if outcome.is_ok() { RequestState::Live } else { RequestState::Refused };
        let mut status = self.shared.status.lock();
        status.refused += u64::from(outcome.is_err());
        status.open(key, RequestRecord { id: job.public_id, state, prompt_tokens, output_tokens: 0 });
        self.show_load(&mut status);
        drop(status);
        // The asker may have gone; then its guard aborts what was accepted.
        let _ = job.answer.send(outcome);
    }

    fn abort(&mut self, key: u64) {
        if let Some(live) = self.live.remove(&key) {
            if self.shared.faults.borrow().dies_on_abort {
                tracing::error!("a client left, and this engine does not survive that");
                std::process::abort();
            }
            self.engine.abort(key);
            let tokens = live.progress.borrow().tokens;
            let mut status = self.shared.status.lock();
            status.note(key, RequestState::Aborted, tokens);
            self.show_load(&mut status);
        }
    }

    /// Ends the step and tells every request how far it is.
    fn deliver(&mut self) {
        self.engine.end_step(&mut self.result);
        let now = self.clock.now();
        let mut status = self.shared.status.lock();
        for emission in &self.result.emissions {
            let Some(live) = self.live.get_mut(&emission.id) else { continue };
            if emission.token > 0 {
                match live.last_token_at.replace(now) {
                    None => status.ttft.observe(now.since(live.arrived_at).as_secs_f64()),
                    Some(last) => status.itl.observe(now.since(last).as_secs_f64()),
                }
            }
            let (tokens, finished) = (emission.token, emission.finished);
            // Nobody listens: the guard on the other side has sent an abort, or will.
            live.progress.send_replace(Progress { tokens, finished, cached_tokens: emission.cached_tokens });
            let state = if finished { RequestState::Finished } else { RequestState::Live };
            status.note(emission.id, state, tokens);
            if finished {
                status.e2e.observe(now.since(live.arrived_at).as_secs_f64());
                let by_length = live.ends_by_length;
                status.successes.length += u64::from(by_length);
                status.successes.stop += u64::from(!by_length);
                self.live.remove(&emission.id);
            }
        }
        self.show_load(&mut status);
    }

    fn publish(&self) {
        self.show_load(&mut self.shared.status.lock());
    }

    /// Gauges and totals change under the same lock as the records, so that a reader never sees them differ.
    fn show_load(&self, status: &mut Status) {
        status.running = self.engine.running();
        status.waiting = self.engine.waiting();
        status.kv_used_blocks = self.engine.kv_blocks_used();
        status.in_flight = self.live.len();
        status.counters = *self.engine.counters();
    }
}
