//! What steps teach, and where it shows.

use super::farm::{Farm, at, endpoint_id, engine, full, gpu, loaded};
use crate::{DecodeSteps, Event, ObservedSteps, PromptAlone};
use aya_domain::{EndpointInfo, Report};
use proptest::prelude::*;
use std::sync::Arc;

/// A farm of such engines on one H100 each, told of `rounds` windows in which `a` decoded at `slowness` of its prior.
fn taught(engines: Vec<aya_domain::EngineReport>, slowness: f64, rounds: u64) -> Farm {
    let mut farm = Farm::new();
    let h100 = |id: &str| gpu(&format!("GPU-{id}"), "NVIDIA H100 80GB HBM3", None);
    let mut engines = engines;
    for engine in &mut engines {
        engine.gpus = vec![h100(engine.id.as_str()).info.uuid];
    }
    let gpus = engines.iter().map(|engine| h100(engine.id.as_str())).collect();
    let _ = farm.report(0, Report { gpus, ..full("n", 1, 1, engines) });
    let prior = farm.endpoint(1, "a").info.profile;
    let (decoding, kv_tokens) = (8.0, 4_000.0);
    let step_s = aya_estimate::step_time_s(&prior.cost, decoding, kv_tokens, 0.0);
    let alone_s = aya_estimate::prompt_alone_s(&prior, 4_000.0);
    for round in 1..=rounds {
        let seen = ObservedSteps {
            decode: Some(DecodeSteps { seconds: step_s * slowness, decoding, kv_tokens }),
            prompts: vec![PromptAlone { uncached: 4_000, seconds: alone_s }],
        };
        let now = at(round * 50);
        let _ = farm.fleet.apply(Event::Steps { steps: vec![(endpoint_id("a"), seen)] }, now);
        let _ = farm.fleet.apply(Event::Tick, now);
    }
    farm
}

fn info(farm: &mut Farm, id: &str) -> Arc<EndpointInfo> {
    Arc::clone(&farm.endpoint(60_000, id).info)
}

#[test]
fn a_class_that_is_slower_than_its_prior_is_corrected_for_all_its_endpoints() {
    let mut farm = taught(vec![engine("a", "m"), engine("b", "m"), engine("c", "other")], 1.5, 400);
    let (a, b, c) = (info(&mut farm, "a"), info(&mut farm, "b"), info(&mut farm, "c"));
    let learned = a.learned.unwrap();
    assert!(learned.decode.is_used && (learned.decode.factor / 1.5 - 1.0).abs() < 0.05, "{learned:?}");
    assert!(!learned.prefill.is_used, "its prompts took what the prior says: {learned:?}");
    let prior = c.profile.cost;
    assert!((a.profile.cost.base_s / prior.base_s / 1.5 - 1.0).abs() < 0.05);
    assert!((a.profile.cost.per_token_s - prior.per_token_s).abs() < 1e-12);
    assert!(b.profile.cost.base_s > 1.3 * prior.base_s, "the neighbour is of the same class");
    assert_eq!(c.learned, None, "another model is another class");
    assert_eq!(a.profile_source, "prior:h100-8b", "where it began");
}

#[test]
fn a_right_prior_is_left_alone_and_says_why() {
    let mut farm = taught(vec![engine("a", "m")], 1.0, 400);
    let learned = info(&mut farm, "a").learned.unwrap();
    assert!(!learned.decode.is_used && learned.decode.samples >= 200, "{learned:?}");
    assert!(learned.decode.prior_error < 1e-9, "{learned:?}");
}

#[test]
fn steps_beside_foreign_load_teach_nothing() {
    let mut farm = taught(vec![loaded("a", 3, 0, 0)], 1.5, 400);
    assert_eq!(info(&mut farm, "a").learned, None);
}

proptest! {
    /// Classes do not know of each other: in whatever order their steps are told, each learns the same.
    #[test]
    fn the_order_of_classes_is_irrelevant(
        steps in prop::collection::vec((0_usize..3, 0.3_f64..3.0, any::<bool>()), 60..300),
    ) {
        let ids = ["a", "b", "c"];
        let told = |order: &[(usize, f64, bool)]| {
            let engines = vec![engine("a", "m"), engine("b", "other"), engine("c", "third")];
            let mut farm = taught(engines, 1.0, 0);
            let priors = ids.map(|id| farm.endpoint(1, id).info.profile);
            let seen = |(at, slowness, decodes): &(usize, f64, bool)| {
                let cost = &priors[*at].cost;
                let decode = DecodeSteps {
                    seconds: aya_estimate::step_time_s(cost, 8.0, 4_000.0, 0.0) * slowness,
                    decoding: 8.0,
                    kv_tokens: 4_000.0,
                };
                let seconds = aya_estimate::prompt_alone_s(&priors[*at], 4_000.0) * slowness;
                let prompts = vec![PromptAlone { uncached: 4_000, seconds }];
                let seen = if *decodes {
                    ObservedSteps { decode: Some(decode), prompts: Vec::new() }
                } else {
                    ObservedSteps { decode: None, prompts }
                };
                (endpoint_id(ids[*at]), seen)
            };
            let _ = farm.fleet.apply(Event::Steps { steps: order.iter().map(seen).collect() }, at(2_000));
            let _ = farm.fleet.apply(Event::Tick, at(5_000));
            ids.map(|id| {
                let info = info(&mut farm, id);
                (info.profile, info.learned)
            })
        };
        let mut by_class = steps.clone();
        by_class.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        prop_assert_eq!(told(&steps), told(&by_class));
    }
}
