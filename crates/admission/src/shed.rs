//! Whether a request is refused now rather than answered too late.
//!
//! Two things are predicted: the seconds it would lose to others on its best endpoint beyond what it needs there
//! alone (its own length does not count against it), and the seconds in the queue before that. When that is more than its class allows, it is
//! refused with a probability that rises with the excess: a cliff would admit and refuse in waves.

use std::fmt;

use aya_domain::splitmix64;

use crate::strain::Strained;

/// How much rather a request is refused that would miss, or make others miss, than one that would not. Refusing it costs
/// least; but long prompts miss first, so with much more it would be they who are refused.
const COSTLY_TILT: f64 = 1.4;

/// What is predicted for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Seconds it loses to others on the best endpoint: predicted time to first token minus that of the same request
    /// there alone. `None`: nothing is known, as where nothing is ready.
    pub queueing_s: Option<f64>,
    /// Seconds in the scheduler's queue before it is sent; 0 if it need not wait, `None`: not known.
    pub queue_s: Option<f64>,
    /// Seconds until it may not be sent any more.
    pub patience_s: f64,
    /// What the latest requests of its pool would miss; `None`: nobody keeps account of it.
    pub pool: Option<PoolForecast>,
}

/// What is predicted for a pool, the same for all who ask at one instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolForecast {
    pub strained: Strained,
    /// The request's objective for the time to the first token, in seconds.
    pub slo_ttft_s: f64,
    /// Misses expected of this very request, its own and those that it causes.
    pub own_misses: f64,
}

/// When requests of one class are refused.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShedRules {
    /// Seconds that a request may lose to others before it is refused; `None`: it waits as long as it may.
    pub allowed_s: Option<f64>,
    /// Below this share of what is allowed nobody is refused.
    pub ramp_from: f64,
    /// From this multiple of what is allowed on everybody is refused.
    pub ramp_to: f64,
    /// Misses per request of the pool around which requests are refused; `None`: however many miss.
    pub allowed_misses_ratio: Option<f64>,
}

/// What a request is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// It would lose more to others than its class allows.
    Queueing,
    /// It would wait longer than it may, so it would be refused later anyway.
    Deadline,
    /// More of the pool's requests would miss an objective than its class allows.
    Misses,
}

impl ShedReason {
    /// The name used in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queueing => "queueing",
            Self::Deadline => "deadline",
            Self::Misses => "misses",
        }
    }
}

/// A refusal with the numbers behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shed {
    pub reason: ShedReason,
    /// Seconds it would lose; for misses, the mean predicted time to the first token in its pool.
    pub predicted_s: f64,
    /// Seconds it may lose; for misses, its objective for the time to the first token.
    pub allowed_s: f64,
    /// For misses: how many per request are predicted in its pool.
    pub predicted_misses_ratio: Option<f64>,
    /// For misses: how many its class allows.
    pub allowed_misses_ratio: Option<f64>,
    /// With which it was refused.
    pub probability: f64,
}

impl fmt::Display for Shed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, predicted_s, allowed_s, probability, .. } = self;
        match reason {
            ShedReason::Queueing => {
                let (predicted, allowed) = (span(*predicted_s), span(*allowed_s));
                write!(
                    f,
                    "it would lose about {predicted} to others, and requests are shed around {allowed} of queueing"
                )?;
                drawn(f, *probability)
            }
            ShedReason::Deadline => {
                write!(f, "it would wait {predicted_s:.1} s in the queue, and may wait {allowed_s:.1} s")
            }
            ShedReason::Misses => {
                let percent = |ratio: &Option<f64>| ratio.unwrap_or_default() * 100.0;
                let (predicted, allowed) =
                    (percent(&self.predicted_misses_ratio), percent(&self.allowed_misses_ratio));
                write!(
                    f,
                    "{predicted:.0} objectives of 100 requests would be missed, and requests are shed around {allowed:.0}"
                )?;
                drawn(f, *probability)
            }
        }
    }
}

/// Refusals begin below what is allowed, so not only the excess explains them.
fn drawn(f: &mut fmt::Formatter<'_>, probability: f64) -> fmt::Result {
    if probability < 1.0 {
        write!(f, "; this one was chosen (probability {probability:.2})")?;
    }
    Ok(())
}

impl ShedRules {
    /// Nobody is refused for what is allowed; only for a wait that cannot end in time.
    pub const PATIENT: Self =
        Self { allowed_s: None, ramp_from: 0.5, ramp_to: 1.5, allowed_misses_ratio: None };

    /// Refuses around so many seconds of queueing: none below half of it, all above one and a half.
    #[must_use]
    pub const fn above(allowed_s: f64) -> Self {
        Self { allowed_s: Some(allowed_s), ..Self::PATIENT }
    }

    /// The same for all of a pool, but that who would miss anyway, or make others miss, is refused somewhat rather.
    fn strained(&self, allowed: f64, pool: &PoolForecast) -> Shed {
        let predicted = pool.strained.misses_ratio;
        let rate = ramp(predicted, allowed * self.ramp_from, allowed * self.ramp_to);
        let tilt = if pool.own_misses >= 0.5 { COSTLY_TILT } else { 1.0 };
        Shed {
            predicted_misses_ratio: Some(predicted),
            allowed_misses_ratio: Some(allowed),
            ..Shed::of(ShedReason::Misses, pool.strained.ttft_s, pool.slo_ttft_s, (rate * tilt).min(1.0))
        }
    }

    /// Whether a request is refused. The same seed gives the same answer.
    #[must_use]
    pub fn shed(&self, forecast: &Forecast, seed: u64) -> Option<Shed> {
        let predicted = forecast.queueing_s.unwrap_or(0.0) + forecast.queue_s.unwrap_or(0.0);
        let queueing = self.allowed_s.map(|allowed| {
            let probability = ramp(predicted, allowed * self.ramp_from, allowed * self.ramp_to);
            Shed::of(ShedReason::Queueing, predicted, allowed, probability)
        });
        let patience = forecast.patience_s;
        let deadline = forecast.queue_s.map(|queue_s| {
            // The prediction has to be wrong by half before somebody is refused who would have been served.
            let probability = ramp(queue_s, patience, patience * 2.0);
            Shed::of(ShedReason::Deadline, queue_s, patience, probability)
        });
        let misses =
            self.allowed_misses_ratio.zip(forecast.pool).map(|(allowed, pool)| self.strained(allowed, &pool));
        let drawn = unit(splitmix64(seed));
        queueing.into_iter().chain(deadline).chain(misses).find(|shed| drawn < shed.probability)
    }
}

impl Shed {
    const fn of(reason: ShedReason, predicted_s: f64, allowed_s: f64, probability: f64) -> Self {
        Self {
            reason,
            predicted_s,
            allowed_s,
            predicted_misses_ratio: None,
            allowed_misses_ratio: None,
            probability,
        }
    }
}

/// Seconds as milliseconds where they are few.
fn span(seconds: f64) -> String {
    if seconds < 0.9995 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

/// 0 up to `from`, 1 from `to` on, straight between them; a number that is none is 0.
fn ramp(x: f64, from: f64, to: f64) -> f64 {
    if x <= from || x.is_nan() {
        0.0
    } else if x >= to {
        1.0
    } else {
        (x - from) / (to - from)
    }
}

/// A number from 0 to 1, 1 excluded, from 32 random bits.
fn unit(bits: u64) -> f64 {
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(rules: ShedRules, forecast: Forecast) -> f64 {
        let refused = (0..10_000_u64).filter(|seed| rules.shed(&forecast, *seed).is_some()).count();
        f64::from(u32::try_from(refused).unwrap()) / 1e4
    }

    #[test]
    fn the_share_of_refusals_rises_with_the_excess() {
        let rules = ShedRules::above(0.1);
        for (queueing_s, queue_s, expect) in [
            (Some(0.0), Some(0.0), 0.0),
            (Some(0.05), Some(0.0), 0.0),
            (Some(0.1), Some(0.0), 0.5),
            (Some(0.125), Some(0.0), 0.75),
            (Some(0.05), Some(0.05), 0.5),
            (Some(0.2), None, 1.0),
            (None, Some(0.3), 1.0),
            (None, None, 0.0),
            (Some(f64::NAN), None, 0.0),
            (Some(f64::INFINITY), None, 1.0),
        ] {
            let forecast = Forecast { queueing_s, queue_s, patience_s: 30.0, pool: None };
            let share = share(rules, forecast);
            assert!((share - expect).abs() < 0.02, "{forecast:?}: {share}");
        }
    }

    #[test]
    fn who_cannot_be_sent_in_time_is_refused_at_once_whatever_its_class_allows() {
        let wait = |queue_s| Forecast { queueing_s: None, queue_s, patience_s: 2.0, pool: None };
        for (queue_s, expect) in [(None, 0.0), (Some(1.9), 0.0), (Some(3.0), 0.5), (Some(4.0), 1.0)] {
            let share = share(ShedRules::PATIENT, wait(queue_s));
            assert!((share - expect).abs() < 0.02, "{queue_s:?}: {share}");
        }
        let shed = ShedRules::PATIENT.shed(&wait(Some(9.0)), 1).unwrap();
        assert_eq!(shed.reason, ShedReason::Deadline);
        assert_eq!(shed.to_string(), "it would wait 9.0 s in the queue, and may wait 2.0 s");
    }

    #[test]
    fn a_pools_misses_refuse_all_its_requests_almost_alike() {
        let rules = ShedRules { allowed_misses_ratio: Some(1.0), ..ShedRules::PATIENT };
        let forecast = |misses_ratio, own_misses| {
            let strained = Strained { misses_ratio, ttft_s: 3.0 };
            let pool = Some(PoolForecast { strained, slo_ttft_s: 2.0, own_misses });
            Forecast { queueing_s: Some(9.0), queue_s: Some(0.0), patience_s: f64::INFINITY, pool }
        };
        for (misses_ratio, own_misses, expect) in [
            (0.5, 9.0, 0.0),
            (0.6, 0.0, 0.1),
            (0.6, 1.0, 0.14),
            (1.0, 0.0, 0.5),
            (1.4, 1.0, 1.0),
            (1.5, 0.0, 1.0),
        ] {
            let share = share(rules, forecast(misses_ratio, own_misses));
            assert!((share - expect).abs() < 0.02, "{misses_ratio} {own_misses}: {share}");
        }
        let shed = rules.shed(&forecast(1.6, 0.0), 1).unwrap();
        assert_eq!((shed.reason, shed.predicted_s), (ShedReason::Misses, 3.0));
        assert_eq!(
            shed.to_string(),
            "160 objectives of 100 requests would be missed, and requests are shed around 100"
        );
        assert_eq!(ShedRules::PATIENT.shed(&forecast(4.0, 4.0), 1), None, "nobody asked for it");
    }

    #[test]
    fn a_drawn_refusal_says_that_it_was_drawn() {
        let shed = |predicted_s, probability| {
            Shed::of(ShedReason::Queueing, predicted_s, 0.05, probability).to_string()
        };
        for (predicted_s, probability, expect) in [
            (
                0.03,
                0.13,
                "it would lose about 30 ms to others, and requests are shed around 50 ms of queueing; this one was \
                 chosen (probability 0.13)",
            ),
            (
                1.26,
                1.0,
                "it would lose about 1.3 s to others, and requests are shed around 50 ms of queueing",
            ),
        ] {
            assert_eq!(shed(predicted_s, probability), expect);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_answer() {
        let forecast = Forecast { queueing_s: Some(0.1), queue_s: Some(0.0), patience_s: 1.0, pool: None };
        for seed in 0..100 {
            assert_eq!(
                ShedRules::above(0.1).shed(&forecast, seed),
                ShedRules::above(0.1).shed(&forecast, seed)
            );
        }
    }
}
