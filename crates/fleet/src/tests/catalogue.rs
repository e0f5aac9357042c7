//! Tests of the catalogue about telemetry that falls silent, comes late or comes all at once. Virtual time throughout.

use std::collections::{BTreeMap, VecDeque};

use aya_domain::{EndpointId, Freshness, Health, Phase, Report, splitmix64};

use super::farm::{Farm, at, delta, endpoint_id, full, loaded, node_id};
use crate::{Event, Notice, OwnInFlight};

fn name(at: u64) -> String {
    format!("n{at:04}")
}

/// The report with this number of the node at this place: its engine runs as many requests as the number says.
fn told(node: u64, sequence: u64) -> Report {
    let engine = loaded(&format!("e{node:04}"), u32::try_from(sequence).unwrap(), 0, 10);
    let make = if sequence == 1 { full } else { delta };
    make(&name(node), 1, sequence, vec![engine])
}

#[test]
fn c6_a_silent_agent_is_stale_then_suspect_and_its_endpoint_serves_on() {
    let mut farm = Farm::new();
    let _ = farm.report(1_000, told(0, 1));
    let _ = farm.own(1_500, "e0000", 2, 2);
    for (silent_s, freshness) in [
        (0, Freshness::Fresh),
        (2, Freshness::Stale),
        (9, Freshness::Stale),
        (10, Freshness::Suspect),
        (60, Freshness::Suspect),
    ] {
        let now = 1_000 + silent_s * 1_000;
        let effects = farm.tick(now.max(1_500));
        let dire = |notice: &&Notice| {
            matches!(
                notice,
                Notice::EngineDown { .. } | Notice::EndpointGone { .. } | Notice::NodeForgotten { .. }
            )
        };
        assert_eq!(effects.notices.iter().find(dire), None, "{silent_s} s");
        let endpoint = farm.endpoint(now.max(1_500), "e0000");
        assert_eq!(endpoint.freshness, freshness, "{silent_s} s");
        assert_eq!((endpoint.phase, &endpoint.health), (Phase::Serving, &Health::Healthy), "{silent_s} s");
        assert!(endpoint.excluded_by().is_none(), "{silent_s} s");
        // What was foreign in the last report stays an assumption; nothing of it is taken for idle.
        assert_eq!(endpoint.running.map(|reading| reading.value), Some(1), "{silent_s} s");
    }
    let _ = farm.report(61_100, told(0, 2));
    assert_eq!(farm.endpoint(61_100, "e0000").freshness, Freshness::Fresh);
}

const LINKS: u64 = 8;
const PERIOD_MS: u64 = 250;

/// Agents whose links can be clogged: what is sent waits in order, and comes at once when the link is free.
struct Links {
    farm: Farm,
    sequences: Vec<u64>,
    clogged: Vec<bool>,
    waiting: BTreeMap<u64, VecDeque<Report>>,
    own: Vec<u32>,
}

impl Links {
    fn new() -> Self {
        let n = usize::try_from(LINKS).unwrap();
        Self {
            farm: Farm::new(),
            sequences: vec![0; n],
            clogged: vec![false; n],
            waiting: BTreeMap::new(),
            own: vec![0; n],
        }
    }

    fn id(node: usize) -> EndpointId {
        endpoint_id(&format!("e{node:04}"))
    }

    fn deliver(&mut self, report: Report, ms: u64) {
        let effects = self.farm.report(ms, report);
        let lost = |notice: &&Notice| {
            matches!(
                notice,
                Notice::EndpointGone { .. } | Notice::EngineDown { .. } | Notice::SequenceGap { .. }
            )
        };
        assert_eq!(effects.notices.iter().find(lost), None, "at {ms} ms");
        assert!(!effects.resend_full, "nothing was lost on the way");
    }

    /// One period: the ledger moves, every agent reports, time passes.
    fn period(&mut self, ms: u64, draw: u64) {
        for node in 0..self.own.len() {
            let bit = splitmix64(draw ^ node as u64);
            self.own[node] = u32::try_from(bit % 7).unwrap();
        }
        let load = |(node, own): (usize, &u32)| {
            (
                Self::id(node),
                OwnInFlight { in_flight: *own, decoding: *own, kv_tokens: u64::from(*own) * 100 },
            )
        };
        let loads = self.own.iter().enumerate().map(load).collect();
        let _ = self.farm.apply(ms, Event::OwnLoad { at: at(ms), loads });
        for node in 0..LINKS {
            let place = usize::try_from(node).unwrap();
            self.sequences[place] += 1;
            let report = told(node, self.sequences[place]);
            if self.clogged[place] {
                self.waiting.entry(node).or_default().push_back(report);
            } else {
                self.deliver(report, ms);
            }
        }
        let _ = self.farm.tick(ms);
        // The rules of a snapshot, and of one after the other, are checked inside.
        let snapshot = self.farm.snapshot(ms);
        assert_eq!(snapshot.endpoints.len(), self.own.len(), "an endpoint was lost to a clogged link");
        for endpoint in &snapshot.endpoints {
            assert_eq!((endpoint.phase, &endpoint.health), (Phase::Serving, &Health::Healthy));
        }
    }

    fn unclog(&mut self, node: u64, ms: u64) {
        self.clogged[usize::try_from(node).unwrap()] = false;
        for report in self.waiting.remove(&node).unwrap_or_default() {
            self.deliver(report, ms);
        }
    }
}

#[test]
fn c7_links_that_clog_and_clear_in_any_order_lose_nothing() {
    for seed in 0..200 {
        let mut links = Links::new();
        let mut draws = (0..).map(|n| splitmix64(seed ^ splitmix64(n)));
        let mut next = |below: u64| draws.next().unwrap() % below;
        let mut ms = 1_000;
        let mut pass = |links: &mut Links, periods: u64, draw: u64| {
            for n in 0..periods {
                ms += PERIOD_MS;
                links.period(ms, draw ^ n);
            }
            ms
        };
        pass(&mut links, 4, seed);
        // One by one a random subset, then in another order; some stay so for longer than 10 s.
        let mut held: Vec<u64> = (0..LINKS).filter(|_| next(2) == 0).collect();
        for node in held.clone() {
            links.clogged[usize::try_from(node).unwrap()] = true;
            let (periods, draw) = (next(30), next(u64::MAX));
            pass(&mut links, periods, draw);
        }
        while !held.is_empty() {
            let at = usize::try_from(next(held.len() as u64)).unwrap();
            let node = held.swap_remove(at);
            let (periods, draw) = (1 + next(10), next(u64::MAX));
            let now = pass(&mut links, periods, draw);
            links.unclog(node, now);
        }
        let now = pass(&mut links, 2, seed);
        let snapshot = links.farm.snapshot(now);
        for (node, endpoint) in snapshot.endpoints.iter().enumerate() {
            assert_eq!(endpoint.freshness, Freshness::Fresh, "seed {seed}, node {node}");
            let last = u32::try_from(links.sequences[node]).unwrap();
            assert_eq!(endpoint.running.unwrap().value, last, "seed {seed}: the last report counts");
            assert!(endpoint.foreign.running <= last, "seed {seed}, node {node}");
        }
    }
}

#[test]
fn c12_a_thousand_agents_that_come_back_at_once_are_all_fresh_with_their_first_report() {
    let mut farm = Farm::new();
    for node in 0..1_000 {
        let _ = farm.report(1_000, told(node, 1));
    }
    for node in 0..1_000 {
        let _ = farm.apply(2_000, Event::Disconnected { node: node_id(&name(node)), at: at(2_000) });
    }
    let _ = farm.tick(20_000);
    let suspect = |farm: &mut Farm, ms| {
        farm.snapshot(ms).nodes.iter().filter(|node| node.freshness == Freshness::Suspect).count()
    };
    assert_eq!(suspect(&mut farm, 20_000), 1_000);
    // One instant, in an order that is not theirs.
    for n in 0..1_000_u64 {
        let node = n * 7 % 1_000;
        let report = full(&name(node), 1, 2, vec![loaded(&format!("e{node:04}"), 3, 0, 10)]);
        let _ = farm.report(25_000, report);
    }
    let _ = farm.tick(25_000);
    let snapshot = farm.snapshot(25_000);
    assert!(snapshot.nodes.iter().all(|node| node.freshness == Freshness::Fresh && node.connected));
    assert_eq!(snapshot.endpoints.len(), 1_000);
}
