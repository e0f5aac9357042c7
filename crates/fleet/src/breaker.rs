//! What requests tell about one endpoint: a breaker with growing ejections, liveness by progress, slow start.
//!
//! Pure: counters of what happened come in, conditions go out. The hot path acts before this does (its pauses after
//! a failure are longer than the writer's period); this decides what lasts. Telemetry has no say here: an engine's own
//! health endpoint ends no ejection, because probes succeed where requests fail.

mod evidence;
mod heartbeat;
mod judge;
mod notice;
mod params;
mod silence;

use std::time::Duration;

use aya_domain::{Action, Cause, Condition, MonoTime, Ratio, Trip};

pub(crate) use self::heartbeat::{Heartbeat, Pulse};
pub(crate) use self::judge::Judged;
#[cfg(test)]
pub(crate) use self::judge::most_ejected;
pub use self::notice::BreakerNotice;
pub use self::params::BreakerParams;

use self::evidence::{Pace, Window};

/// A recovering endpoint begins at this share of its speed and is given more in steps of [`RAMP_STEP`].
const RAMP_FROM: f64 = 0.2;
const RAMP_STEP: f64 = 0.1;
/// Half-open, a synthetic generation is waited for so long before real requests are tried.
const PROBE_WAIT: Duration = Duration::from_secs(15);

/// What the ledger has counted on one endpoint since it began; the counts only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// Requests there now.
    pub in_flight: u32,
    /// Those of them that stream, so that their silence says something.
    pub audible: u32,
    /// Prompt tokens of those without a first token.
    pub prefill_tokens: u64,
    /// Tokens that came.
    pub tokens: u64,
    /// Requests that the endpoint answered, refusals of the request itself included.
    pub answers: u64,
    /// Requests that it failed, before or after the first byte.
    pub failures: u64,
    /// Failures since the last answer.
    pub in_a_row: u32,
    /// First tokens whose time was compared with the prediction.
    pub timed: u64,
    /// The sum over them of ln(observed / predicted), in thousandths.
    pub lateness_milli: i64,
}

impl Outcomes {
    const fn sum(&self) -> u64 {
        self.tokens.saturating_add(self.answers).saturating_add(self.failures).saturating_add(self.timed)
    }
}

/// Where the breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum State {
    #[default]
    Closed,
    Open {
        trip: Trip,
        since: MonoTime,
        until: MonoTime,
    },
    /// Holds requests and gives nothing; ends by itself with the first token.
    Wedged {
        silent: Duration,
        since: MonoTime,
    },
    HalfOpen {
        trip: Trip,
        since: MonoTime,
        counted: Outcomes,
    },
}

/// What the fleet must know to judge one endpoint at one instant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) now: MonoTime,
    /// Predicted seconds of prefill of one token.
    pub(crate) per_token_s: f64,
    /// It could be given requests, were it not for its breaker.
    pub(crate) eligible: bool,
    /// It may have to load a model before it answers.
    pub(crate) loads_on_demand: bool,
    /// What its engine's own counts say.
    pub(crate) pulse: Pulse,
    /// Another endpoint of its pools has been serving for longer than a slow start takes.
    pub(crate) has_peer: bool,
}

/// Everything that requests told about one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    /// Ejections in a row; the next one lasts so many times longer.
    ejections: u32,
    closed_at: MonoTime,
    /// Failures counted when it closed: older ones are forgiven.
    forgiven: u64,
    last: Outcomes,
    seen_at: MonoTime,
    window: Window,
    /// Time with requests there since anything came back.
    silent: Duration,
    proven: bool,
    probe_failures: u32,
    eligible_since: Option<MonoTime>,
    ramp_from: Option<MonoTime>,
    pub(crate) pace: Pace,
    /// It would be ejected, were it not for the cap.
    braked: Option<(Trip, MonoTime)>,
}

impl Breaker {
    /// Takes the ledger's counts; a wish to be ejected is the caller's to grant.
    pub(crate) fn observe(&mut self, seen: Outcomes, sight: &Sight, params: &BreakerParams) -> Judged {
        let before = std::mem::replace(&mut self.last, seen);
        // A ledger that began anew counts from nothing.
        let before = if seen.sum() < before.sum() {
            self.forgiven = 0;
            Outcomes::default()
        } else {
            before
        };
        let passed = sight.now.since(std::mem::replace(&mut self.seen_at, sight.now));
        let new = |now: u64, then: u64| now.saturating_sub(then);
        let answers = new(seen.answers, before.answers);
        let failures = new(seen.failures, before.failures);
        let progress = answers > 0 || new(seen.tokens, before.tokens) > 0;
        self.window.add(sight.now, answers, failures, params.window);
        self.pace.add(new(seen.timed, before.timed), seen.lateness_milli - before.lateness_milli, sight.now);
        if progress {
            self.silent = Duration::ZERO;
            self.proven = true;
        } else if before.in_flight > 0 && seen.in_flight > 0 {
            self.silent = self.silent.saturating_add(passed);
        }
        self.welcome(sight, params);
        self.step(progress, sight, params)
    }

    fn step(&mut self, progress: bool, sight: &Sight, params: &BreakerParams) -> Judged {
        let now = sight.now;
        match self.state {
            State::Closed => {
                if now.since(self.closed_at) >= params.ejection_max {
                    self.ejections = 0;
                }
                self.look_for_trouble(sight, params)
            }
            State::Wedged { .. } if progress => self.close(now, params),
            State::Wedged { silent, .. } if self.last.in_flight == 0 => {
                self.half_open(Trip::Wedged { silent }, now)
            }
            State::Wedged { .. } => Judged::Same,
            State::Open { trip, until, .. } if now >= until && sight.eligible => self.half_open(trip, now),
            State::Open { .. } => Judged::Same,
            State::HalfOpen { counted, .. } if self.last.answers > counted.answers => self.close(now, params),
            State::HalfOpen { counted, .. } if self.last.failures > counted.failures => {
                Judged::Wants(Trip::InARow { failures: self.last.in_a_row.max(1) })
            }
            // A trial request that stays silent is a failed trial.
            State::HalfOpen { .. } if self.is_silent(sight, params) => self.wedge(now),
            State::HalfOpen { .. } => Judged::Same,
        }
    }

    fn look_for_trouble(&mut self, sight: &Sight, params: &BreakerParams) -> Judged {
        if self.is_silent(sight, params) {
            return self.wedge(sight.now);
        }
        let since = u32::try_from(self.last.failures.saturating_sub(self.forgiven)).unwrap_or(u32::MAX);
        let failures = self.last.in_a_row.min(since);
        if failures >= params.failures_in_a_row {
            return Judged::Wants(Trip::InARow { failures });
        }
        let (failed, of) = self.window.counts();
        let share = u64::from(params.failure_share_percent) * u64::from(of);
        if of >= params.window_min && u64::from(failed) * 100 >= share {
            return Judged::Wants(Trip::Share { failed, of });
        }
        self.braked = None;
        Judged::Same
    }

    fn wedge(&mut self, now: MonoTime) -> Judged {
        let silent = self.silent;
        self.state = State::Wedged { silent, since: now };
        Judged::Wedged { silent }
    }

    /// The wish is granted: nothing is sent there for a time that grows with every ejection in a row.
    pub(crate) fn eject(&mut self, trip: Trip, now: MonoTime, params: &BreakerParams) -> Duration {
        self.ejections = self.ejections.saturating_add(1);
        let lasts = params.ejection.saturating_mul(self.ejections).min(params.ejection_max);
        self.state = State::Open { trip, since: now, until: now.after(lasts) };
        self.window.clear();
        self.braked = None;
        lasts
    }

    /// The wish is not granted; true if that is news.
    pub(crate) fn keep(&mut self, trip: Trip, now: MonoTime) -> bool {
        if let State::HalfOpen { counted, .. } = &mut self.state {
            *counted = self.last;
        }
        let since = self.braked.map_or(now, |(_, since)| since);
        self.braked.replace((trip, since)).is_none()
    }

    fn half_open(&mut self, trip: Trip, now: MonoTime) -> Judged {
        self.silent = Duration::ZERO;
        self.state = State::HalfOpen { trip, since: now, counted: self.last };
        Judged::OnTrial
    }

    fn close(&mut self, now: MonoTime, params: &BreakerParams) -> Judged {
        self.state = State::Closed;
        self.closed_at = now;
        self.forgiven = self.last.failures;
        self.silent = Duration::ZERO;
        self.probe_failures = 0;
        self.window.clear();
        self.braked = None;
        self.ramp_up(now, params);
        Judged::Recovered
    }

    /// A synthetic generation ended.
    pub(crate) fn probed(&mut self, ok: bool, now: MonoTime, params: &BreakerParams) -> Judged {
        if ok {
            self.probe_failures = 0;
            return match self.state {
                State::HalfOpen { .. } => self.close(now, params),
                State::Closed | State::Open { .. } | State::Wedged { .. } => Judged::Same,
            };
        }
        self.probe_failures = self.probe_failures.saturating_add(1);
        let trip = Trip::Probe { failures: self.probe_failures };
        match self.state {
            State::HalfOpen { .. } => Judged::Wants(trip),
            State::Closed if self.probe_failures >= params.probe_failures => Judged::Wants(trip),
            State::Closed | State::Open { .. } | State::Wedged { .. } => Judged::Same,
        }
    }

    /// New, recovered and ungated endpoints are given their share step by step, if others can carry the rest.
    fn welcome(&mut self, sight: &Sight, params: &BreakerParams) {
        if !sight.eligible {
            self.eligible_since = None;
            self.ramp_from = None;
            // An engine that was down and is back answers for itself at once, not when its ejection is over.
            if let State::Open { until, .. } = &mut self.state {
                *until = (*until).min(sight.now);
            }
            return;
        }
        if self.eligible_since.is_none() {
            self.eligible_since = Some(sight.now);
            if sight.has_peer && !params.slow_start.is_zero() {
                self.ramp_from = Some(sight.now);
            }
        }
        if self.ramp_from.is_some_and(|from| sight.now.since(from) >= params.slow_start) {
            self.ramp_from = None;
        }
    }

    /// From here on it is given its share step by step.
    pub(crate) fn ramp_up(&mut self, now: MonoTime, params: &BreakerParams) {
        if !params.slow_start.is_zero() {
            self.ramp_from = Some(now);
        }
    }

    /// Whether it has been serving for longer than a slow start takes.
    pub(crate) fn is_established(&self, now: MonoTime, params: &BreakerParams) -> bool {
        self.is_in() && self.eligible_since.is_some_and(|since| now.since(since) >= params.slow_start)
    }

    /// Whether requests may go there as far as this goes.
    pub(crate) const fn is_in(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Ejected for its failures, which is what the cap counts; a wedge is a fact and not a judgement.
    pub(crate) const fn is_ejected(&self) -> bool {
        match self.state {
            State::Open { .. } => true,
            State::HalfOpen { trip, .. } => !matches!(trip, Trip::Wedged { .. }),
            State::Closed | State::Wedged { .. } => false,
        }
    }

    /// What follows for placement, the worst first.
    pub(crate) fn conditions(
        &self,
        now: MonoTime,
        slow: Option<f64>,
        params: &BreakerParams,
    ) -> Vec<Condition> {
        let one = |cause, action, since| Condition {
            cause,
            action,
            braked: None,
            gpu: None,
            since,
            recovering: matches!(cause, Cause::HalfOpen { .. } | Cause::SlowStart),
        };
        let mut all = Vec::new();
        match self.state {
            State::Closed => {}
            State::Open { trip, since, until } => {
                all.push(one(Cause::Ejected { trip, until }, Action::Drain, since));
            }
            State::Wedged { silent, since } => all.push(one(Cause::Wedged { silent }, Action::Drain, since)),
            State::HalfOpen { trip, since, .. } => {
                let waits = params.probes && now.since(since) < PROBE_WAIT;
                let limit = if waits { 0 } else { params.trials };
                all.push(one(Cause::HalfOpen { trip }, Action::Limit(limit), since));
            }
        }
        if let Some((trip, since)) = self.braked {
            all.push(Condition {
                braked: Some(Action::Drain),
                ..one(Cause::Failing { trip }, Action::Note, since)
            });
        }
        if let Some(from) = self.ramp_from {
            let done = now.since(from).as_secs_f64() / params.slow_start.as_secs_f64();
            let speed = RAMP_FROM + (1.0 - RAMP_FROM) * (done / RAMP_STEP).floor() * RAMP_STEP;
            all.push(one(Cause::SlowStart, Action::Derate(Ratio::clamped(speed)), from));
        }
        if let Some(times) = slow {
            let cause = Cause::SlowerThanPeers { percent: evidence::percent(times) };
            all.push(one(cause, Action::Derate(Ratio::clamped(1.0 / times)), self.pace.slow_since()));
        }
        all
    }
}
