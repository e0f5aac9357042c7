//! What is remembered of an endpoint's requests: a window of outcomes, and its pace against the predictions.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::MonoTime;

/// Outcomes are kept in steps of a window's tenth, so there are at most so many.
const STEPS: u32 = 10;
/// Compared first tokens before a pace means something.
const TIMED_MIN: u32 = 3;
/// Weight of one comparison, in a running mean of logarithms.
const WEIGHT: f64 = 0.3;
/// Without news, a pace fades with this time constant: else an endpoint that nothing is sent to would never be
/// found good again.
const FADE_S: f64 = 15.0;

/// Answers and failures of the last while.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<(MonoTime, u32, u32)>);

impl Window {
    pub(super) fn add(&mut self, now: MonoTime, answers: u64, failures: u64, window: Duration) {
        while self.0.front().is_some_and(|(at, ..)| now.since(*at) >= window) {
            self.0.pop_front();
        }
        if answers == 0 && failures == 0 {
            return;
        }
        let few = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        match self.0.back_mut() {
            Some((at, ok, failed)) if now.since(*at) < window / STEPS => {
                *ok = ok.saturating_add(few(answers));
                *failed = failed.saturating_add(few(failures));
            }
            Some(_) | None => self.0.push_back((now, few(answers), few(failures))),
        }
    }

    /// Failures, and requests in all.
    pub(super) fn counts(&self) -> (u32, u32) {
        self.0.iter().fold((0, 0), |(failed, of), (_, ok, bad)| {
            (failed.saturating_add(*bad), of.saturating_add(*ok).saturating_add(*bad))
        })
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// How late first tokens come, as a running mean of ln(observed / predicted). Priors may be wrong for a whole farm,
/// so only the difference to its peers says something about an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    mean: f64,
    timed: u32,
    at: MonoTime,
    slow_since: Option<MonoTime>,
}

impl Pace {
    pub(super) fn add(&mut self, timed: u64, sum_milli: i64, now: MonoTime) {
        if timed == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean of a few logarithms")]
        let new = sum_milli as f64 / 1e3 / timed as f64;
        let timed = i32::try_from(timed).unwrap_or(i32::MAX);
        let weight = if self.timed == 0 { 1.0 } else { 1.0 - (1.0 - WEIGHT).powi(timed) };
        self.mean += weight * (new - self.mean);
        self.timed = self.timed.saturating_add(timed.unsigned_abs());
        self.at = now;
    }

    /// Observed over predicted; 1 where nothing was compared.
    pub(super) fn factor(&self) -> f64 {
        self.known().map_or(1.0, f64::exp)
    }

    /// The mean of logarithms, once it means something.
    pub(crate) fn known(&self) -> Option<f64> {
        (self.timed >= TIMED_MIN).then_some(self.mean)
    }

    /// How many times slower than `peers`, from `least` on; begun, it lasts down to the middle between that and 1.
    pub(crate) fn times_slower(&mut self, peers: f64, least: f64, now: MonoTime) -> Option<f64> {
        let age_s = now.since(self.at).as_secs_f64();
        let excess = (self.known()? - peers) * (-(age_s - 1.0).max(0.0) / FADE_S).exp();
        let bar = if self.slow_since.is_some() { f64::midpoint(least, 1.0) } else { least };
        // In steps of a quarter: every change of it is a new view of the farm.
        let times = (excess.exp().min(10.0) * 4.0).round() / 4.0;
        if times < bar {
            self.slow_since = None;
            return None;
        }
        self.slow_since.get_or_insert(now);
        Some(times)
    }

    pub(super) fn slow_since(&self) -> MonoTime {
        self.slow_since.unwrap_or_default()
    }

    pub(crate) const fn is_slow(&self) -> bool {
        self.slow_since.is_some()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "1 to 10 times is 100 to 1,000 %"
)]
pub(super) fn percent(times: f64) -> u32 {
    (times.clamp(0.0, 1e3) * 100.0) as u32
}
