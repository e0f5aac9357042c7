//! Policies that an operator composes of filters, weighted scorers and a picker, and which model uses which.

use aya_domain::{ModelId, PolicyName};
use aya_placement::{CostWeights, EndpointSpeed, Filter, Picker, Policy, Weighted};

use crate::named::constant;
use crate::reader::Reader;
use crate::source::Origin;

/// Weights beyond this are typing errors.
const WEIGHT_MAX: f64 = 1e6;

/// The policy of one model's requests that ask for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPolicyConfig {
    pub model: ModelId,
    pub policy: PolicyName,
}

impl ModelPolicyConfig {
    /// `model=policy`
    pub(crate) fn from_word(word: &str) -> Result<Vec<(&'static str, String)>, String> {
        let (model, policy) =
            word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form MODEL=POLICY"))?;
        Ok(vec![("model", model.to_owned()), ("policy", policy.to_owned())])
    }

    pub(crate) fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let (model, policy) = (r.required("model", origin), r.required("policy", origin));
        Some(Self { model: model?, policy: policy? })
    }
}

/// `[policies.NAME]`: what is not given is that of `base`; scorers come with their own filters.
pub(crate) fn read(r: &mut Reader<'_>, name: &str) -> Option<Policy> {
    let base: PolicyName = r.parsed("base", constant("aya"));
    let filters: Vec<Filter> = r.list("filters");
    let scorers: Vec<Weighted> = r.list("scorers");
    let picker: Picker = r.parsed("picker", Picker::Least);
    let speeds: Vec<EndpointSpeed> = r.list("speeds");
    let policy = match Policy::named(base.as_str()) {
        Ok(policy) => policy,
        Err(error) => {
            r.object("base", error.to_string());
            return None;
        }
    };
    let weights = r.section("weights", |r| weights(r, &policy.weights));
    let Ok(own_name) = PolicyName::parse(name) else {
        r.object("base", format!("{name:?} is no name for a policy"));
        return None;
    };
    if Policy::names().any(|known| known == name) {
        r.object("base", format!("{name} is a policy already; give this one a name of its own"));
    }
    let composed = if scorers.is_empty() {
        let filters = policy.filters.iter().copied().chain(filters).collect();
        Policy { filters, ..policy }
    } else {
        Policy { filters, scorers, ..policy }
    };
    let speeds = speeds.into_iter().map(|set| (set.endpoint, set.speed)).collect();
    Some(Policy { name: own_name, picker, speeds, weights, ..composed })
}

/// What no single key can know: whether the policies of models exist.
pub(crate) fn check(r: &mut Reader<'_>, composed: &[Policy], of_models: &[ModelPolicyConfig]) {
    for (at, own) in of_models.iter().enumerate() {
        let named = Policy::names().any(|name| name == own.policy.as_str());
        if !named && !composed.iter().any(|policy| policy.name == own.policy) {
            r.object(&format!("model_policy[{at}].policy"), format!("unknown policy \"{}\"", own.policy));
        }
    }
}

fn weights(r: &mut Reader<'_>, base: &CostWeights) -> CostWeights {
    CostWeights {
        ttft: r.fraction("ttft", base.ttft, 0.0..=WEIGHT_MAX),
        harm: r.fraction("harm", base.harm, 0.0..=WEIGHT_MAX),
        slo: r.fraction("slo", base.slo, 0.0..=WEIGHT_MAX),
        slo_share: r.fraction("slo_share", base.slo_share, 0.0..=1.0),
        slo_most: r.fraction("slo_most", base.slo_most, 0.0..=WEIGHT_MAX),
        miss: r.fraction("miss", base.miss, 0.0..=WEIGHT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use crate::{SchedulerConfig, parse};

    fn read(text: &str) -> Result<SchedulerConfig, String> {
        parse("test.toml", text, [], &[]).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_policy_is_composed_of_words() {
        let config = read(
            "[policies.mine]\nscorers = [\"queue=2\", \"uncached\"]\nfilters = [\"sample=3\"]\n\
             picker = \"softmax=0.1\"\nspeeds = [\"a=2.5\"]\n[policies.calm]\nweights.harm = 1.0\n\
             [[model_policy]]\nmodel = \"m/x\"\npolicy = \"mine\"\n",
        )
        .unwrap();
        let [calm, mine] = config.policies.as_slice() else { panic!("{:?}", config.policies) };
        let words: Vec<_> = mine.scorers.iter().map(ToString::to_string).collect();
        assert_eq!((mine.name.as_str(), words.join(" ")), ("mine", "queue=2 uncached=1".to_owned()));
        assert_eq!(mine.filters.first().unwrap().to_string(), "sample=3");
        assert_eq!((mine.picker.to_string(), mine.speeds.len()), ("softmax=0.1".to_owned(), 1));
        assert!(calm.is_cost_alone() && (calm.weights.harm - 1.0).abs() < 1e-12);
        assert_eq!(config.model_policies.first().unwrap().policy.as_str(), "mine");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expect) in [
            ("[policies.mine]\nscorers = [\"quality\"]", "unknown scorer; known: cost"),
            ("[policies.mine]\nbase = \"best\"", "unknown policy \"best\""),
            ("[policies.lc]\nbase = \"lc\"", "lc is a policy already"),
            ("[policies]\nmine = 3", "is a section, written as [policies.mine]"),
            ("[[model_policy]]\nmodel = \"m\"\npolicy = \"mine\"", "unknown policy \"mine\""),
        ] {
            let problem = read(text).err().unwrap_or_default();
            assert!(problem.contains(expect), "{text}: {problem}");
        }
    }
}
