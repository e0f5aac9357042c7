//! What observed iterations teach about the cost of a class of hardware, and its way into the endpoints' profiles.
//!
//! A class is GPU product, tensor-parallel group, engine and model: coefficients are the same for all of it, so they
//! are learned together. Steps beside foreign load teach nothing, because its size is not known well enough; nor
//! do those of an endpoint that is out of order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{Cause, Condition, EndpointId, EngineKind, Learned, LearnedCost, ModelId, MonoTime};
use aya_estimate::{ClassLearner, StepKind, prompt_alone_s, step_time_s};

use crate::endpoint::EndpointState;
use crate::{Fleet, ObservedSteps};

/// Classes that are learned; the steps of further ones teach nothing.
const CLASSES_MAX: usize = 256;
/// Profiles are corrected at most this often.
const APPLY_EVERY: Duration = Duration::from_secs(1);
/// A factor that moves by less leaves the profile as it is: every new description of an endpoint is half a kilobyte in the
/// decision log, and an error of so much costs no request. Nor do samples that have not doubled make one.
const WORTH_TELLING: f64 = 0.05;
/// Prompts predicted to take less than this are mostly network and host: they tell nothing about computing.
const PROMPT_MIN_S: f64 = 0.03;

/// Product and number of the GPUs, engine, first model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Class(Option<String>, usize, EngineKind, Option<ModelId>);

impl Class {
    fn of(endpoint: &EndpointState) -> Self {
        let (gpu, group) = &endpoint.prior_key;
        let model = endpoint.info.models.first().map(|model| model.id.clone());
        Self(gpu.clone(), *group, endpoint.info.kind, model)
    }
}

/// Everything learned.
#[derive(Debug, Default)]
pub(crate) struct Learning {
    classes: BTreeMap<Class, ClassLearner<EndpointId>>,
    has_news: bool,
    applied_at: MonoTime,
}

impl Learning {
    fn class(&mut self, class: Class) -> Option<&mut ClassLearner<EndpointId>> {
        if self.classes.len() >= CLASSES_MAX && !self.classes.contains_key(&class) {
            return None;
        }
        Some(self.classes.entry(class).or_default())
    }

    fn of(&self, endpoint: &EndpointState) -> Option<LearnedCost> {
        let class = self.classes.get(&Class::of(endpoint))?;
        let learned = |kind| class.learned(&endpoint.info.id, kind);
        Some(LearnedCost { decode: learned(StepKind::Decode), prefill: learned(StepKind::Prefill) })
    }
}

impl Fleet {
    /// Learns from what the engines did.
    pub(crate) fn take_steps(&mut self, steps: &[(EndpointId, ObservedSteps)]) {
        for (id, seen) in steps {
            let Some(endpoint) = self.endpoints.get(id).filter(|endpoint| endpoint.may_teach()) else {
                continue;
            };
            let Some(class) = self.learning.class(Class::of(endpoint)) else { continue };
            let profile = endpoint.base.0.at_speed(endpoint.speed());
            let mut taught = false;
            if let Some(step) = seen.decode {
                let predicted = step_time_s(&profile.cost, step.decoding, step.kv_tokens, 0.0);
                taught |= class.observe(id, StepKind::Decode, predicted, step.seconds);
            }
            for prompt in &seen.prompts {
                let uncached = aya_domain::Tokens(prompt.uncached).as_f64();
                let predicted = prompt_alone_s(&profile, uncached);
                if predicted >= PROMPT_MIN_S {
                    taught |= class.observe(id, StepKind::Prefill, predicted, prompt.seconds);
                }
            }
            self.learning.has_news |= taught;
        }
    }

    /// Corrects the endpoints' profiles, now and then; whether any changed.
    pub(crate) fn apply_learned(&mut self, now: MonoTime) -> bool {
        if !self.learning.has_news || now.since(self.learning.applied_at) < APPLY_EVERY {
            return false;
        }
        self.learning.has_news = false;
        self.learning.applied_at = now;
        let mut changed = false;
        for endpoint in self.endpoints.values_mut() {
            changed |= self.learning.of(endpoint).is_some_and(|learned| endpoint.correct(learned));
        }
        changed
    }

    /// An endpoint that left is no part of its class any more.
    pub(crate) fn forget_learned(&mut self, endpoint: &EndpointState) {
        if let Some(class) = self.learning.classes.get_mut(&Class::of(endpoint)) {
            class.forget(&endpoint.info.id);
        }
    }
}

impl EndpointState {
    /// Whether its steps are its hardware's: nobody else works there, and it is not judged to be out of order. What is, is
    /// derated for it, and has to get its share back soon after it is well again.
    fn may_teach(&self) -> bool {
        let out_of_order = |condition: &Condition| {
            let slow = matches!(condition.cause, Cause::SlowerThanPeers { .. }) && !condition.recovering;
            let failed = matches!(
                condition.cause,
                Cause::Ejected { .. } | Cause::Failing { .. } | Cause::HalfOpen { .. }
            );
            slow || failed || matches!(condition.cause, Cause::Wedged { .. })
        };
        self.has_no_foreign_load() && !self.watched.iter().any(out_of_order)
    }

    /// Takes a correction; false if it differs too little from the present one to be worth a new description.
    fn correct(&mut self, learned: LearnedCost) -> bool {
        let is_close = |old: Learned, new: Learned| {
            old.is_used == new.is_used
                && (new.factor / old.factor - 1.0).abs() < WORTH_TELLING
                && new.samples / 2 < old.samples.max(1)
        };
        let same = self.info.learned.is_some_and(|old| {
            is_close(old.decode, learned.decode) && is_close(old.prefill, learned.prefill)
        });
        if same {
            return false;
        }
        let info = Arc::make_mut(&mut self.info);
        info.profile = self.base.0.corrected(&learned);
        info.learned = Some(learned);
        true
    }
}
