//! Whatever happens, in whatever order: snapshots keep their rules and silence loses nothing.

use std::collections::BTreeMap;

use aya_domain::{EngineHealth, Freshness, Health, ReportKind};
use proptest::collection::vec;
use proptest::prelude::*;

use super::farm::{Farm, at, endpoint_id, loaded, node_id, report, with_health};
use crate::{Event, Params, Target};

/// One step of a story: what happens, and how long after the step before.
#[derive(Debug, Clone)]
enum Step {
    Report { node: u8, boot: u64, skip: u64, full: bool, engines: Vec<(u8, u8, u32)> },
    Own { endpoint: u8, in_flight: u32 },
    Drain { endpoint: u8, on: bool },
    Disconnect { node: u8 },
    Tick,
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let engines = vec((0..6_u8, 0..4_u8, 0..9_u32), 0..4);
    let step = prop_oneof![
        5 => (0..3_u8, 1..3_u64, 0..3_u64, any::<bool>(), engines)
            .prop_map(|(node, boot, skip, full, engines)| Step::Report { node, boot, skip, full, engines }),
        3 => (0..6_u8, 0..9_u32).prop_map(|(endpoint, in_flight)| Step::Own { endpoint, in_flight }),
        1 => (0..6_u8, any::<bool>()).prop_map(|(endpoint, on)| Step::Drain { endpoint, on }),
        1 => (0..3_u8).prop_map(|node| Step::Disconnect { node }),
        2 => Just(Step::Tick),
    ];
    (prop_oneof![4 => 0..400_u64, 1 => 5_000..12_000_u64, 1 => Just(700_000_u64)], step)
}

struct Story {
    farm: Farm,
    now: u64,
    sequences: BTreeMap<(u8, u64), u64>,
}

impl Story {
    fn new() -> Self {
        let params = Params { nodes_max: 2, endpoints_max: 4, models_max: 3, ..Params::DEFAULT };
        Self { farm: Farm::with(params), now: 0, sequences: BTreeMap::new() }
    }

    fn tell(&mut self, wait: u64, step: Step) {
        self.now += wait;
        let now = self.now;
        let event = match step {
            Step::Report { node, boot, skip, full, mut engines } => {
                let sequence = self.sequences.entry((node, boot)).or_default();
                *sequence += skip;
                engines.sort_unstable();
                engines.dedup_by_key(|engine| engine.0);
                let kind = if full { ReportKind::Full } else { ReportKind::Delta };
                let engines = engines.into_iter().map(|(id, model, running)| {
                    let mut engine = loaded(&format!("e{id}"), running, 0, 20);
                    engine.models = super::farm::engine("x", &format!("m{model}")).models;
                    if running == 8 { with_health(engine, EngineHealth::Loading) } else { engine }
                });
                let report = report(&format!("n{node}"), boot, *sequence, kind, engines.collect());
                Event::Report { report: Box::new(report), received_at: at(now) }
            }
            Step::Own { endpoint, in_flight } => {
                let _ = self.farm.own(now, &format!("e{endpoint}"), in_flight, 0);
                return;
            }
            Step::Drain { endpoint, on } => {
                let target = Target::Endpoint(endpoint_id(&format!("e{endpoint}")));
                if on { Event::Drain(target) } else { Event::Undrain(target) }
            }
            Step::Disconnect { node } => {
                Event::Disconnected { node: node_id(&format!("n{node}")), at: at(now) }
            }
            Step::Tick => Event::Tick,
        };
        let _ = self.farm.apply(now, event);
    }
}

proptest! {
    #[test]
    fn every_story_leaves_snapshots_that_keep_the_rules(steps in vec(step(), 1..60)) {
        let mut story = Story::new();
        for (wait, step) in steps {
            story.tell(wait, step);
            // The farm checks the rules of the snapshot and of its succession.
            let snapshot = story.farm.snapshot(story.now);
            prop_assert!(snapshot.nodes.len() <= 2 && snapshot.endpoints.len() <= 4 && snapshot.models.len() <= 3);
        }
    }

    #[test]
    fn silence_never_makes_an_endpoint_idle_or_unhealthy(steps in vec(step(), 1..40), silence in 1_000..500_000_u64) {
        let mut story = Story::new();
        for (wait, step) in steps {
            story.tell(wait, step);
        }
        let _ = story.farm.tick(story.now);
        let before = story.farm.snapshot(story.now);
        let later = story.now + silence;
        // Nobody may have reached the age of forgetting meanwhile.
        prop_assume!(before.nodes.iter().all(|node| at(later).since(node.last_report_at).as_secs() < 600));
        let _ = story.farm.tick(later);
        let after = story.farm.snapshot(later);
        prop_assert_eq!(&before.directory, &after.directory);
        for (old, new) in before.endpoints.iter().zip(&after.endpoints) {
            prop_assert_eq!((old.foreign, &old.health, old.phase), (new.foreign, &new.health, new.phase));
            prop_assert!(new.freshness != Freshness::Fresh);
        }
        for node in &after.nodes {
            prop_assert_eq!(&node.health, &Health::Healthy);
        }
    }

    #[test]
    fn the_same_story_gives_the_same_snapshot(steps in vec(step(), 1..40)) {
        let (mut one, mut two) = (Story::new(), Story::new());
        for (wait, step) in steps {
            one.tell(wait, step.clone());
            two.tell(wait, step);
        }
        prop_assert_eq!(one.farm.snapshot(one.now), two.farm.snapshot(two.now));
    }
}
