//! What a record of a decision promises to whoever reads it, and that it can be made again.

use proptest::prelude::*;

use aya_domain::{Outcome, RefusalReason, Verdict};

use super::farms::{World, any_policy, any_request, any_undrawn_policy, any_world};
use crate::{LOOKED_AT_MAX, invariants};

proptest! {
    #[test]
    fn a_rejected_endpoint_is_never_chosen_and_every_endpoint_is_judged_once_in_order(
        world in any_world(80),
        request in any_request(),
        policy in any_policy(),
        seed: u64,
        knows: bool,
    ) {
        let decision = if knows {
            world.decide_knowing(&request, policy, seed).0
        } else {
            world.decide(&request, policy, seed)
        };
        let snapshot = &world.farm.snapshot;
        prop_assert_eq!(invariants::broken(&decision, snapshot, &request), None);
        // Said again in other words: a promise that is checked by its own keeper is worth little.
        prop_assert_eq!(decision.candidates.len(), snapshot.endpoints.len());
        let mut totals = Vec::new();
        for (at, candidate) in decision.candidates.iter().enumerate() {
            prop_assert_eq!(candidate.endpoint.get(), at);
            prop_assert_eq!(decision.endpoint_id(candidate.endpoint), Some(&snapshot.endpoints[at].info.id));
            prop_assert_eq!(candidate.own_in_flight, world.farm.loads[at].in_flight);
            if let Verdict::Scored { total, terms } = candidate.verdict {
                prop_assert!(total.is_finite() && terms.predicted_ttft_s.is_finite(), "{total} {terms:?}");
                totals.push((candidate.endpoint, total));
            }
        }
        match decision.outcome {
            Outcome::Placed(chosen) => {
                let own = totals.iter().find(|(at, _)| *at == chosen.endpoint);
                prop_assert_eq!(own.map(|(_, total)| total.to_bits()), Some(chosen.total.to_bits()));
                prop_assert!(chosen.ties >= 1 && chosen.ties as usize <= totals.len());
                prop_assert_eq!(chosen.runner_up.is_some(), totals.len() > 1);
                prop_assert!(chosen.runner_up != Some(chosen.endpoint));
            }
            Outcome::Hold(_) | Outcome::Refused(RefusalReason::TooLong { .. }) => {
                prop_assert!(totals.is_empty());
            }
            Outcome::Refused(RefusalReason::UnknownModel) => prop_assert!(false, "the model is known"),
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes(
        world in any_world(80),
        request in any_request(),
        policy in any_policy(),
        seed: u64,
    ) {
        let copy = world.clone();
        let bytes = |world: &World| {
            let (known, consulted) = world.decide_knowing(&request, policy, seed);
            format!("{:?} {known:?} {consulted:?}", world.decide(&request, policy, seed))
        };
        prop_assert_eq!(bytes(&world), bytes(&copy));
    }

    #[test]
    fn another_seed_only_breaks_ties(
        world in any_world(40),
        request in any_request(),
        policy in any_undrawn_policy(),
        (one, two) in (any::<u64>(), any::<u64>()),
    ) {
        let ((a, asked), (b, _)) =
            (world.decide_knowing(&request, policy, one), world.decide_knowing(&request, policy, two));
        // Beyond so many in the running, which of near equals are looked at is the seed's choice too.
        prop_assume!(asked.looked_at.len() < LOOKED_AT_MAX);
        prop_assert_eq!(&a.candidates, &b.candidates);
        let won = |decision: &aya_domain::Decision| decision.chosen().map(|c| (c.ties, c.total));
        let (Some((ties, a_total)), Some((b_ties, b_total))) = (won(&a), won(&b)) else {
            prop_assert_eq!(a.outcome, b.outcome);
            return Ok(());
        };
        prop_assert_eq!(ties, b_ties);
        prop_assert!((a_total - b_total).abs() <= 1e-9 * a_total.abs(), "{a_total} {b_total}");
        prop_assert!(ties > 1 || a.chosen().map(|c| c.endpoint) == b.chosen().map(|c| c.endpoint));
    }
}
