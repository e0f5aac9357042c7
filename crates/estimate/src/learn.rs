//! Corrections of a profile, learned from single iterations at a known batch.
//!
//! Errors of coefficients are what hurts placement most, and a naive loop makes a correct model worse: it takes
//! interference for slowness. Hence four rules. Only *steps* teach: the time between two tokens of a stream while no
//! prefill was in flight, and the time to the first token on an idle engine; never the time of a whole answer. What is
//! learned belongs to a class of hardware ([`ClassLearner`]); one endpoint's own deviation is shrunk hard. Every estimate is shrunk
//! towards the prior by what it rests on. And a guard: each sample is first predicted, with the prior and with what
//! was learned; unless the learned prediction has been the better one, the prior is used, and [`Learned`] says so.

use std::collections::BTreeMap;

use aya_domain::Learned;

/// Samples after which a class's estimate counts half.
const CLASS_HALF: f64 = 20.0;
/// Samples after which an endpoint's own deviation counts half.
const OWN_HALF: f64 = 200.0;
/// An endpoint's own deviation is at most this factor, either way.
const OWN_MAX: f64 = 1.25;
/// A correction is at most this factor, either way: beyond it the profile is that of another engine.
const FACTOR_MAX: f64 = 4.0;
/// An observation further off than this factor is no step but an accident (a paused process, a stalled client).
const ACCIDENT: f64 = 16.0;
/// The weight of the newest sample once there are many.
const RATE_MIN: f64 = 0.01;
/// Samples before anything learned is used.
const SAMPLES_MIN: u32 = 30;
/// The learned prediction's error must be below this share of the prior's.
const BETTER: f64 = 0.95;
/// Errors of both below this say that the prior is right; then it stays.
const GOOD_ENOUGH: f64 = 0.02;
/// Endpoints of one class; the deviations of others are not learned.
const ENDPOINTS_MAX: usize = 1024;

/// Which part of the cost a step is evidence of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// An iteration that only decodes: weights, KV cache, host.
    Decode,
    /// A prompt alone on an idle engine: computing tokens, attention.
    Prefill,
}

/// A running mean of logarithms that forgets slowly.
#[derive(Debug, Clone, Copy, Default)]
struct LogMean {
    samples: u32,
    mean: f64,
}

impl LogMean {
    fn add(&mut self, value: f64) {
        self.samples = self.samples.saturating_add(1);
        let rate = (1.0 / f64::from(self.samples)).max(RATE_MIN);
        self.mean += rate * (value - self.mean);
    }

    /// The mean, pulled towards 0 by `half` samples' weight.
    fn shrunk(&self, half: f64) -> f64 {
        let samples = f64::from(self.samples);
        self.mean * samples / (samples + half)
    }
}

/// One kind of step of one class.
#[derive(Debug, Clone)]
struct Factor<K> {
    class: LogMean,
    own: BTreeMap<K, LogMean>,
    /// Mean absolute logarithm of observed over predicted.
    prior_error: LogMean,
    learned_error: LogMean,
}

impl<K> Default for Factor<K> {
    fn default() -> Self {
        Self {
            class: LogMean::default(),
            own: BTreeMap::new(),
            prior_error: LogMean::default(),
            learned_error: LogMean::default(),
        }
    }
}

impl<K: Ord + Clone> Factor<K> {
    fn log(&self, endpoint: &K) -> f64 {
        let own = self.own.get(endpoint).map_or(0.0, |own| own.shrunk(OWN_HALF));
        let own = own.clamp(-OWN_MAX.ln(), OWN_MAX.ln());
        (self.class.shrunk(CLASS_HALF) + own).clamp(-FACTOR_MAX.ln(), FACTOR_MAX.ln())
    }

    fn observe(&mut self, endpoint: &K, observed: f64) {
        // Judged before it teaches: an estimate must not be praised for what it has just been told.
        self.prior_error.add(observed.abs());
        self.learned_error.add((observed - self.log(endpoint)).abs());
        let deviation = observed - self.class.mean;
        self.class.add(observed);
        if self.own.contains_key(endpoint) || self.own.len() < ENDPOINTS_MAX {
            self.own.entry(endpoint.clone()).or_default().add(deviation);
        }
    }

    fn learned(&self, endpoint: &K) -> Learned {
        let samples = self.class.samples;
        let (prior, learned) = (self.prior_error.mean, self.learned_error.mean);
        let is_used = samples >= SAMPLES_MIN && prior > GOOD_ENOUGH && learned < BETTER * prior;
        Learned {
            factor: if is_used { self.log(endpoint).exp() } else { 1.0 },
            samples,
            prior_error: prior.exp_m1(),
            learned_error: learned.exp_m1(),
            is_used,
        }
    }
}

/// What the steps of one class of hardware (GPU, model, engine, tensor-parallel group) have taught. `K` names endpoints.
#[derive(Debug, Clone)]
pub struct ClassLearner<K> {
    decode: Factor<K>,
    prefill: Factor<K>,
}

impl<K> Default for ClassLearner<K> {
    fn default() -> Self {
        Self { decode: Factor::default(), prefill: Factor::default() }
    }
}

impl<K: Ord + Clone> ClassLearner<K> {
    /// Takes in a step: what the prior predicts for its batch, and how long it took, in seconds. What cannot be a step is
    /// passed over; false then.
    pub fn observe(&mut self, endpoint: &K, kind: StepKind, predicted_s: f64, observed_s: f64) -> bool {
        let ratio = observed_s / predicted_s;
        if !(ratio.is_finite() && (1.0 / ACCIDENT..=ACCIDENT).contains(&ratio)) {
            return false;
        }
        self.factor_mut(kind).observe(endpoint, ratio.ln());
        true
    }

    /// What is known about one endpoint.
    #[must_use]
    pub fn learned(&self, endpoint: &K, kind: StepKind) -> Learned {
        match kind {
            StepKind::Decode => self.decode.learned(endpoint),
            StepKind::Prefill => self.prefill.learned(endpoint),
        }
    }

    /// An endpoint that left takes its own deviation with it.
    pub fn forget(&mut self, endpoint: &K) {
        self.decode.own.remove(endpoint);
        self.prefill.own.remove(endpoint);
    }

    fn factor_mut(&mut self, kind: StepKind) -> &mut Factor<K> {
        match kind {
            StepKind::Decode => &mut self.decode,
            StepKind::Prefill => &mut self.prefill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP_S: f64 = 0.020;

    /// A noise of a tenth that repeats: the same in every run.
    fn noise(at: u32) -> f64 {
        [0.9, 1.1, 1.0, 0.95, 1.05][(at % 5) as usize]
    }

    fn taught(endpoints: &[(&'static str, f64)], samples: u32) -> ClassLearner<&'static str> {
        let mut learner = ClassLearner::default();
        for at in 0..samples {
            for (endpoint, slowness) in endpoints {
                assert!(learner.observe(endpoint, StepKind::Decode, STEP_S, STEP_S * slowness * noise(at)));
            }
        }
        learner
    }

    #[test]
    fn a_class_that_is_slower_than_its_prior_is_learned() {
        for slowness in [0.6, 1.5, 2.5] {
            let learned = taught(&[("a", slowness), ("b", slowness)], 200).learned(&"a", StepKind::Decode);
            assert!(
                learned.is_used && (learned.factor / slowness - 1.0).abs() < 0.06,
                "{slowness}: {learned:?}"
            );
            assert!(learned.learned_error < 0.5 * learned.prior_error, "{learned:?}");
        }
    }

    #[test]
    fn a_right_prior_stays_however_noisy_the_steps_are() {
        let learned = taught(&[("a", 1.0), ("b", 1.0)], 500).learned(&"a", StepKind::Decode);
        assert!(!learned.is_used && (learned.factor - 1.0).abs() < 1e-12, "{learned:?}");
    }

    #[test]
    fn a_few_samples_change_nothing() {
        let learned = taught(&[("a", 2.0)], SAMPLES_MIN - 1).learned(&"a", StepKind::Decode);
        assert!(!learned.is_used, "{learned:?}");
        assert!(taught(&[("a", 2.0)], SAMPLES_MIN + 1).learned(&"a", StepKind::Decode).is_used);
    }

    #[test]
    fn one_endpoints_deviation_is_shrunk_hard_and_a_newcomer_has_its_class() {
        let learner = taught(&[("a", 1.5), ("b", 1.5), ("slow", 1.8)], 60);
        let factor = |endpoint| learner.learned(&endpoint, StepKind::Decode).factor;
        let (class, slow, new) = (factor("a"), factor("slow"), factor("new"));
        assert!(slow > class && slow < 1.7, "{slow} beside {class} after 60 samples");
        assert!((new / 1.6 - 1.0).abs() < 0.25, "{new}");
        let later = taught(&[("a", 1.5), ("b", 1.5), ("slow", 1.8)], 2_000);
        assert!(later.learned(&"slow", StepKind::Decode).factor > 1.7, "with many it is believed");
    }

    #[test]
    fn what_stops_being_true_is_not_used_any_more() {
        let mut learner = taught(&[("a", 2.0)], 100);
        assert!(learner.learned(&"a", StepKind::Decode).is_used);
        for at in 0..400 {
            learner.observe(&"a", StepKind::Decode, STEP_S, STEP_S * noise(at));
        }
        let learned = learner.learned(&"a", StepKind::Decode);
        assert!((learned.factor - 1.0).abs() < 0.1, "{learned:?}");
    }

    #[test]
    fn accidents_and_nonsense_teach_nothing_and_kinds_are_apart() {
        let mut learner = ClassLearner::default();
        for observed in [f64::NAN, 0.0, -1.0, f64::INFINITY, STEP_S * 100.0, STEP_S / 100.0] {
            assert!(!learner.observe(&"a", StepKind::Decode, STEP_S, observed), "{observed}");
        }
        assert!(!learner.observe(&"a", StepKind::Decode, 0.0, STEP_S));
        learner.observe(&"a", StepKind::Prefill, 1.0, 1.5);
        assert_eq!(learner.learned(&"a", StepKind::Decode).samples, 0);
        assert_eq!(learner.learned(&"a", StepKind::Prefill).samples, 1);
    }
}
