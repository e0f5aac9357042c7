//! What steps teach, and what no steps may teach.

use proptest::prelude::*;

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
        assert!(learned.is_used && (learned.factor / slowness - 1.0).abs() < 0.06, "{slowness}: {learned:?}");
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

#[test]
fn an_endpoint_that_its_class_misjudges_keeps_its_prior() {
    let mut learner = taught(&[("slow", 2.0), ("other", 2.0), ("third", 2.0)], 400);
    for at in 0..40 {
        learner.observe(&"right", StepKind::Decode, STEP_S, STEP_S * noise(at));
    }
    assert!(learner.learned(&"slow", StepKind::Decode).factor > 1.5);
    let right = learner.learned(&"right", StepKind::Decode);
    assert!(right.factor < 1.3 && (!right.is_used || right.learned_error < right.prior_error), "{right:?}");
}

#[test]
fn half_of_what_one_kind_learned_stands_for_the_other_until_that_one_speaks() {
    let mut learner = taught(&[("a", 2.0)], 400);
    let prefill = |learner: &ClassLearner<_>| learner.learned(&"a", StepKind::Prefill);
    let borrowed = prefill(&learner);
    assert!(borrowed.is_used && borrowed.samples == 0, "{borrowed:?}");
    assert!((borrowed.factor - learner.learned(&"a", StepKind::Decode).factor.sqrt()).abs() < 1e-9);
    for _ in 0..BORROWED_MIN {
        learner.observe(&"a", StepKind::Prefill, 1.0, 1.05);
    }
    assert!(!prefill(&learner).is_used, "its prompts contradict: {:?}", prefill(&learner));
    for at in 0..200 {
        learner.observe(&"a", StepKind::Prefill, 1.0, 2.0 * noise(at));
    }
    assert!(prefill(&learner).factor > 1.7, "{:?}", prefill(&learner));
}

/// Steps as they may come: whose, of which kind, how many in a row, and how far off the prior, with a spread.
fn any_stream() -> impl Strategy<Value = Vec<(u8, bool, u32, f64, f64)>> {
    prop::collection::vec((0_u8..4, any::<bool>(), 1_u32..300, 0.05_f64..20.0, 0.0_f64..0.5), 1..12)
}

fn kind(decode: bool) -> StepKind {
    if decode { StepKind::Decode } else { StepKind::Prefill }
}

proptest! {
    /// Nothing that is told can make a correction that is no factor, or that is used although it predicts worse.
    #[test]
    fn corrections_are_factors_and_are_used_only_where_they_predicted_better(
        stream in any_stream(),
        nonsense in prop::collection::vec((any::<f64>(), any::<f64>()), 0..20),
    ) {
        let mut learner = ClassLearner::default();
        for (endpoint, decode, count, ratio, spread) in stream {
            for at in 0..count {
                let observed = STEP_S * ratio * (1.0 + spread * 10.0 * (noise(at) - 1.0));
                learner.observe(&endpoint, kind(decode), STEP_S, observed);
            }
            for (predicted, observed) in &nonsense {
                learner.observe(&endpoint, kind(!decode), *predicted, *observed);
            }
            for (endpoint, decode) in [(0, true), (1, false), (2, true), (3, false), (9, true)] {
                let learned = learner.learned(&endpoint, kind(decode));
                prop_assert!((0.249..=4.001).contains(&learned.factor), "{:?}", learned);
                prop_assert!(learned.prior_error >= 0.0 && learned.prior_error.is_finite());
                prop_assert!(learned.learned_error >= 0.0 && learned.learned_error.is_finite());
                prop_assert_eq!(learned.is_used, learned.factor.to_bits() != 1.0_f64.to_bits());
                let borrowed = learned.samples < SAMPLES_MIN;
                prop_assert!(!learned.is_used || borrowed || learned.learned_error < learned.prior_error);
            }
        }
    }

    /// Judged from outside: over a whole stream, what was predicted with what was in use is off by no more than the prior
    /// was and a tenth, but for what it takes to notice that something changed.
    #[test]
    fn what_is_used_predicts_no_worse_than_the_prior(
        regimes in prop::collection::vec((0_u8..3, 100_u32..600, 0.25_f64..4.0), 1..6),
    ) {
        let mut learner = ClassLearner::default();
        let (mut prior, mut used) = (0.0, 0.0);
        for (endpoint, count, ratio) in &regimes {
            for at in 0..*count {
                let observed = ratio * noise(at);
                let factor = learner.learned(endpoint, StepKind::Decode).factor;
                prior += observed.ln().abs();
                used += (observed / factor).ln().abs();
                learner.observe(endpoint, StepKind::Decode, STEP_S, STEP_S * observed);
            }
        }
        let noticing = 80.0 * f64::from(u32::try_from(regimes.len()).unwrap() - 1);
        prop_assert!(used <= 1.1 * prior + noticing, "{} beside {} of the prior", used, prior);
    }
}
