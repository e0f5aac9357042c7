//! Corrections of a profile, learned from single iterations at a known batch.
//!
//! Errors of coefficients are what hurts placement most, and a naive loop makes a correct model worse: it takes
//! interference for slowness. Hence four rules. Only *steps* teach: the time between two tokens of a stream while no
//! prefill was in flight, and the time to the first token on an idle engine; never the time of a whole answer. What is
//! learned belongs to a class of hardware ([`ClassLearner`]); one endpoint's own deviation is shrunk hard. Every estimate is shrunk
//! towards the prior by what it rests on. And a guard: each sample is first predicted, with the prior, with what its class
//! says and with its endpoint's own deviation too; unless a learned prediction has been the better one, for the class and
//! for the endpoint, the prior is used, and [`Learned`] says so.
//!
//! Prompts that meet an idle engine are rare where there is always work, iterations that only decode are not. Until one
//! kind has samples enough, half of what the other has learned stands for it: a GPU that is not what its profile says is
//! mostly so in both, but a model with other weights need not be.

use std::collections::BTreeMap;

use aya_domain::Learned;

/// Samples after which a class's estimate counts half.
const CLASS_HALF: f64 = 20.0;
/// Samples after which an endpoint's own deviation counts half.
const OWN_HALF: f64 = 60.0;
/// An endpoint's own deviation from its class is at most this factor, either way: what is slower than that is not of
/// another make but broken, and judged by its requests, which notice sooner that it is well again.
const OWN_MAX: f64 = 2.0;
/// A correction is at most this factor, either way: beyond it the profile is that of another engine.
const FACTOR_MAX: f64 = 4.0;
/// An observation further off than this factor is no step but an accident (a paused process, a stalled client).
const ACCIDENT: f64 = 16.0;
/// The weight of the newest sample once there are many: of a class, and of one endpoint, which may change within seconds.
const RATE_MIN: f64 = 0.01;
const OWN_RATE_MIN: f64 = 0.04;
/// Samples before anything learned is used.
const SAMPLES_MIN: u32 = 30;
/// The learned prediction's error must be below this share of the prior's.
const BETTER: f64 = 0.95;
/// Errors of both below this say that the prior is right; then it stays.
const GOOD_ENOUGH: f64 = 0.02;
/// The share of the other kind's correction (of its logarithm) that stands for one without samples.
const BORROWED: f64 = 0.5;
/// From so many samples on, what is borrowed must be nearer to them than the prior.
const BORROWED_MIN: u32 = 3;
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
    fn add(&mut self, value: f64, rate_min: f64) {
        self.samples = self.samples.saturating_add(1);
        let rate = (1.0 / f64::from(self.samples)).max(rate_min);
        self.mean += rate * (value - self.mean);
    }

    /// The mean, pulled towards 0 by `half` samples' weight.
    fn shrunk(&self, half: f64) -> f64 {
        let samples = f64::from(self.samples);
        self.mean * samples / (samples + half)
    }
}

/// Mean absolute logarithms of observed over predicted, by who predicted.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    prior: LogMean,
    class: LogMean,
    /// The class with the endpoint's own deviation.
    own: LogMean,
}

impl Errors {
    /// Judged before it teaches: an estimate must not be praised for what it has just been told.
    fn add(&mut self, observed: f64, (class, own): (f64, f64), rate_min: f64) {
        self.prior.add(observed.abs(), rate_min);
        self.class.add((observed - class).abs(), rate_min);
        self.own.add((observed - own).abs(), rate_min);
    }
}

/// One endpoint of a class.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    /// From its class.
    deviation: LogMean,
    errors: Errors,
}

/// One kind of step of one class.
#[derive(Debug, Clone)]
struct Factor<K> {
    class: LogMean,
    own: BTreeMap<K, Own>,
    errors: Errors,
}

impl<K> Default for Factor<K> {
    fn default() -> Self {
        Self { class: LogMean::default(), own: BTreeMap::new(), errors: Errors::default() }
    }
}

/// A correction as a logarithm, and how far off it and the prior have been.
struct Found {
    log: f64,
    prior_error: f64,
    error: f64,
}

impl<K: Ord + Clone> Factor<K> {
    fn class_log(&self) -> f64 {
        bounded(self.class.shrunk(CLASS_HALF))
    }

    fn own_log(&self, own: Option<&Own>) -> f64 {
        let deviation = own.map_or(0.0, |own| own.deviation.shrunk(OWN_HALF));
        let deviation = deviation.clamp(-OWN_MAX.ln(), OWN_MAX.ln());
        bounded(self.class.shrunk(CLASS_HALF) + deviation)
    }

    fn observe(&mut self, endpoint: &K, observed: f64) {
        let predicted = (self.class_log(), self.own_log(self.own.get(endpoint)));
        self.errors.add(observed, predicted, RATE_MIN);
        let deviation = observed - self.class.mean;
        self.class.add(observed, RATE_MIN);
        if self.own.contains_key(endpoint) || self.own.len() < ENDPOINTS_MAX {
            let entry = self.own.entry(endpoint.clone()).or_default();
            entry.errors.add(observed, predicted, OWN_RATE_MIN);
            entry.deviation.add(deviation, OWN_RATE_MIN);
        }
    }

    /// What predicts best: for an endpoint with samples enough by its own, otherwise by those of its class.
    fn found(&self, endpoint: &K) -> Found {
        let own = self.own.get(endpoint);
        let judge = own.filter(|own| own.deviation.samples >= SAMPLES_MIN);
        let errors = judge.map_or(&self.errors, |own| &own.errors);
        let prior = errors.prior.mean;
        let (log, error) = if errors.own.mean <= errors.class.mean {
            (self.own_log(own), errors.own.mean)
        } else {
            (self.class_log(), errors.class.mean)
        };
        let is_better = self.class.samples >= SAMPLES_MIN && prior > GOOD_ENOUGH && error < BETTER * prior;
        Found { log: if is_better { log } else { 0.0 }, prior_error: prior, error }
    }

    fn learned(&self, endpoint: &K, other: &Self) -> Learned {
        let Found { log, prior_error, error } = self.found(endpoint);
        let log = if log == 0.0 { self.borrowed(endpoint, other) } else { log };
        Learned {
            factor: log.exp(),
            samples: self.class.samples,
            prior_error: prior_error.exp_m1(),
            learned_error: error.exp_m1(),
            is_used: log != 0.0,
        }
    }

    /// What the other kind of step says, while this one cannot speak for itself. What it has seen may contradict.
    fn borrowed(&self, endpoint: &K, other: &Self) -> f64 {
        let log = BORROWED * other.found(endpoint).log;
        let own = self.own.get(endpoint).map_or(0.0, |own| own.deviation.mean);
        let seen = self.class.mean + own;
        let contradicted = self.class.samples >= BORROWED_MIN && (seen - log).abs() >= seen.abs();
        if self.class.samples >= SAMPLES_MIN || contradicted { 0.0 } else { log }
    }
}

fn bounded(log: f64) -> f64 {
    log.clamp(-FACTOR_MAX.ln(), FACTOR_MAX.ln())
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
            StepKind::Decode => self.decode.learned(endpoint, &self.prefill),
            StepKind::Prefill => self.prefill.learned(endpoint, &self.decode),
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
mod tests;
