//! Who is there: order, reboots, duplicates, limits, draining, forgetting.

use std::sync::Arc;

use aya_domain::{BootId, EndpointUrl, EngineReport, Freshness, ModelId, Phase};

use super::farm::{Farm, at, delta, endpoint_id, engine, full, model_id, node_id, said};
use crate::{Effects, Event, Params, Target};

#[test]
fn a_delta_of_an_unknown_node_asks_for_a_full_report() {
    let mut farm = Farm::new();
    let effects = farm.report(0, delta("n", 1, 5, vec![engine("a", "m")]));
    assert!(effects.resend_full && !effects.changed);
    assert_eq!(said(&effects), ["a report of node n was ignored: no full report came before it"]);
    assert!(farm.ids(1).is_empty());
    let effects = farm.report(2, full("n", 1, 6, vec![engine("a", "m")]));
    assert!(effects.changed && !effects.resend_full);
    assert_eq!(said(&effects), ["node n joined", "endpoint a joined on node n", "endpoint a is ready"]);
    assert_eq!(farm.ids(3), ["a"]);
}

#[test]
fn a_repeated_or_overtaken_report_changes_nothing() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 5, vec![engine("a", "m")]));
    for sequence in [5, 4, 0] {
        let effects = farm.report(10, full("n", 1, sequence, vec![]));
        assert!(!effects.changed && !effects.resend_full);
        let line = format!("a report of node n was ignored: its sequence number {sequence} is not above 5");
        assert_eq!(said(&effects), [line]);
    }
    assert_eq!(farm.ids(11), ["a"]);
}

#[test]
fn a_gap_takes_what_came_and_asks_for_the_rest() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let effects = farm.report(10, delta("n", 1, 4, vec![engine("b", "m")]));
    assert!(effects.resend_full && effects.changed);
    assert_eq!(said(&effects)[0], "2 reports of node n were lost; a full one was asked for");
    assert!(!farm.report(20, delta("n", 1, 5, vec![])).resend_full, "asked once");
    assert_eq!(farm.ids(21), ["a", "b"]);
    assert!(
        !farm.report(30, full("n", 1, 9, vec![engine("a", "m")])).resend_full,
        "a full report heals any gap"
    );
}

#[test]
fn only_a_full_report_lets_an_endpoint_go() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m"), engine("b", "m")]));
    let _ = farm.report(10, delta("n", 1, 2, vec![engine("a", "m")]));
    assert_eq!(farm.ids(11), ["a", "b"]);
    let effects = farm.report(20, full("n", 1, 3, vec![engine("a", "m")]));
    assert_eq!(said(&effects), ["endpoint b is gone: its agent no longer names it"]);
    assert_eq!(farm.ids(21), ["a"]);
}

#[test]
fn an_endpoint_that_left_stays_gone_until_our_requests_on_it_are_done() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let _ = farm.own(10, "a", 2, 2);
    let _ = farm.report(20, full("n", 1, 2, vec![]));
    assert_eq!(farm.endpoint(21, "a").phase, Phase::Gone);
    let snapshot = farm.snapshot(22);
    assert!(snapshot.models[&model_id("m")].members.is_empty(), "it gets no requests any more");
    let _ = farm.own(30, "a", 0, 0);
    assert!(farm.tick(31).changed);
    assert!(farm.ids(32).is_empty());
}

#[test]
fn an_endpoint_that_returns_while_it_is_leaving_serves_again() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let _ = farm.own(10, "a", 2, 2);
    let _ = farm.report(20, full("n", 1, 2, vec![]));
    let _ = farm.snapshot(21);
    let _ = farm.report(30, delta("n", 1, 3, vec![engine("a", "m")]));
    assert_eq!(farm.endpoint(31, "a").phase, Phase::Serving);
    assert_eq!(farm.snapshot(32).models[&model_id("m")].members.len(), 1);
}

#[test]
fn a_new_boot_begins_with_a_full_report_and_replaces_the_membership() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 900, vec![engine("a", "m"), engine("b", "m")]));
    let effects = farm.report(10, delta("n", 2, 2, vec![]));
    assert!(effects.resend_full && !effects.changed);
    let effects = farm.report(20, full("n", 2, 1, vec![engine("b", "m")]));
    assert_eq!(said(&effects)[0], "the agent of node n started anew");
    assert_eq!(farm.ids(21), ["b"]);
    assert_eq!(farm.snapshot(22).nodes[0].boot, BootId(2));
    assert!(farm.report(30, delta("n", 2, 2, vec![])).changed);
}

#[test]
fn a_restart_of_the_agent_does_not_make_its_engines_forget_their_models() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let unread = EngineReport { models: None, ..engine("a", "m") };
    let _ = farm.report(10, full("n", 2, 1, vec![unread]));
    assert_eq!(farm.endpoint(11, "a").info.models[0].id, model_id("m"));
}

#[test]
fn of_two_agents_with_one_id_the_newer_is_heard_until_it_falls_silent() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let _ = farm.report(100, full("n", 2, 1, vec![engine("b", "m")]));
    let mut lines = Vec::new();
    for i in 0..5 {
        let effects = farm.report(200 + i * 100, full("n", 1, 2 + i, vec![engine("a", "m")]));
        assert!(!effects.changed);
        lines.extend(said(&effects));
        let _ = farm.report(250 + i * 100, delta("n", 2, 2 + i, vec![]));
    }
    let duplicates =
        lines.iter().filter(|line| line.starts_with("two agents call themselves node n")).count();
    assert_eq!(duplicates, 1, "said once: {lines:?}");
    assert_eq!(farm.ids(1_000), ["b"]);
    let health = |farm: &mut Farm, ms| farm.snapshot(ms).nodes[0].health.clone();
    let reason = "two agents call themselves by its name; only the newer one is heard".to_owned();
    assert_eq!(health(&mut farm, 1_000), aya_domain::Health::Degraded { reason });
    let _ = farm.report(9_000, delta("n", 2, 7, vec![]));
    let _ = farm.report(10_600, delta("n", 2, 8, vec![]));
    assert_eq!(
        health(&mut farm, 10_601),
        aya_domain::Health::Healthy,
        "the other one has been silent for 10 s"
    );
    let effects = farm.report(21_000, full("n", 1, 20, vec![engine("a", "m")]));
    assert!(effects.changed, "the newer one has been silent for 10 s");
    assert_eq!(farm.ids(21_001), ["a"]);
}

#[test]
fn the_first_owner_keeps_an_endpoint_id_while_it_lives() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n1", 1, 1, vec![engine("a", "m")]));
    let thief = EngineReport { url: EndpointUrl::parse("http://other:1").unwrap(), ..engine("a", "m") };
    let effects = farm.report(100, full("n2", 1, 1, vec![thief.clone()]));
    assert!(
        said(&effects).contains(&"endpoint a belongs to node n1; the one of node n2 is not used".to_owned())
    );
    assert_eq!(farm.endpoint(101, "a").info.url.as_str(), "http://a:8000");

    let effects = farm.report(10_000, full("n2", 1, 2, vec![thief]));
    assert_eq!(said(&effects)[0], "endpoint a moved from node n1 to node n2");
    let moved = farm.endpoint(10_001, "a");
    assert_eq!((moved.info.url.as_str(), moved.info.node.as_str()), ("http://other:1", "n2"));
    let _ = farm.report(10_100, full("n1", 1, 2, vec![]));
    assert_eq!(farm.ids(10_101), ["a"], "its former node has no say any more");
}

#[test]
fn a_drain_outlives_reports_reboots_and_absence() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m"), engine("b", "m")]));
    assert!(farm.drain_endpoint(10, "a").changed);
    let _ = farm.report(20, full("n", 2, 1, vec![engine("b", "m")]));
    assert_eq!(farm.ids(21), ["b"]);
    let _ = farm.report(30, full("n", 2, 2, vec![engine("a", "m"), engine("b", "m")]));
    assert_eq!(farm.endpoint(31, "a").phase, Phase::Draining);
    assert_eq!(farm.endpoint(32, "b").phase, Phase::Serving);
    assert!(farm.apply(40, Event::Undrain(Target::Endpoint(endpoint_id("a")))).changed);
    assert_eq!(farm.endpoint(41, "a").phase, Phase::Serving);
}

#[test]
fn a_drained_node_drains_all_its_endpoints() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n1", 1, 1, vec![engine("a", "m")]));
    let _ = farm.report(0, full("n2", 1, 1, vec![engine("b", "m")]));
    let _ = farm.apply(10, Event::Drain(Target::Node(node_id("n1"))));
    assert_eq!(
        (farm.endpoint(11, "a").phase, farm.endpoint(12, "b").phase),
        (Phase::Draining, Phase::Serving)
    );
    assert_eq!(farm.snapshot(13).nodes[0].phase, Phase::Draining);
}

#[test]
fn an_unknown_target_is_said_to_be_unknown() {
    let mut farm = Farm::new();
    for event in
        [Event::Drain(Target::Node(node_id("x"))), Event::Undrain(Target::Endpoint(endpoint_id("x")))]
    {
        let effects = farm.apply(0, event);
        assert!(effects.unknown_target && !effects.changed);
    }
    let _ = farm.report(0, full("n", 1, 1, vec![]));
    let effects = farm.apply(1, Event::Undrain(Target::Node(node_id("n"))));
    assert!(!effects.unknown_target && !effects.changed, "known and not draining is no error");
}

#[test]
fn a_drain_beyond_the_limit_is_said_to_be_refused() {
    let mut farm = Farm::with(Params { drains_max: 1, ..Params::DEFAULT });
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m"), engine("b", "m")]));
    let drain = |name| Event::Drain(Target::Endpoint(endpoint_id(name)));
    for (name, refused) in [("a", false), ("b", true), ("a", false)] {
        assert_eq!(farm.apply(1, drain(name)).drain_refused, refused, "{name}");
    }
    assert_eq!(farm.endpoint(2, "b").phase, Phase::Serving);
}

#[test]
fn a_silent_node_is_forgotten_only_when_no_request_of_ours_is_left_there() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let _ = farm.own(10, "a", 1, 1);
    let _ = farm.tick(600_000);
    assert_eq!(farm.endpoint(600_001, "a").freshness, Freshness::Suspect);
    let _ = farm.own(600_010, "a", 0, 0);
    let effects = farm.tick(600_020);
    assert_eq!(said(&effects), ["node n was silent for too long and is forgotten"]);
    let snapshot = farm.snapshot(600_021);
    assert!(snapshot.nodes.is_empty() && snapshot.endpoints.is_empty());
    assert!(snapshot.models[&model_id("m")].members.is_empty(), "its model is still known");
}

#[test]
fn a_report_beyond_a_limit_is_refused_and_costs_nobody_else() {
    let params = Params { nodes_max: 1, endpoints_max: 2, ..Params::DEFAULT };
    let mut farm = Farm::with(params);
    let _ = farm.report(0, full("n1", 1, 1, vec![engine("a", "m")]));
    let effects = farm.report(1, full("n2", 1, 1, vec![]));
    assert_eq!(
        said(&effects),
        ["a report of node n2 was refused: there are already 1 nodes, the most allowed"]
    );
    let effects = farm.report(2, delta("n1", 1, 2, vec![engine("b", "m"), engine("c", "m")]));
    assert_eq!(
        said(&effects),
        ["a report of node n1 was refused: it would exceed 2 endpoints, the most allowed"]
    );
    assert!(!effects.changed && !effects.resend_full, "asking again would not help");
    assert_eq!(farm.ids(3), ["a"]);
}

#[test]
fn models_are_remembered_up_to_a_limit_and_the_longest_unserved_goes_first() {
    let params = Params { models_max: 2, ..Params::DEFAULT };
    let mut farm = Farm::with(params);
    let serve = |farm: &mut Farm, ms: u64, model: &str| -> Vec<String> {
        let _ = farm.report(ms, full("n", 1, ms, vec![engine("a", model)]));
        farm.snapshot(ms).models.keys().map(ModelId::to_string).collect()
    };
    assert_eq!(serve(&mut farm, 1, "x"), ["x"]);
    assert_eq!(serve(&mut farm, 2, "y"), ["x", "y"]);
    assert_eq!(serve(&mut farm, 3, "z"), ["y", "z"]);
    let _ = farm.report(4, full("n", 1, 4, vec![engine("a", "z"), engine("b", "y"), engine("c", "w")]));
    assert_eq!(farm.snapshot(4).models.len(), 2);
    let effects = farm.tick(5);
    assert_eq!(said(&effects), ["model w gets no requests: 2 models are the most allowed"]);
}

#[test]
fn snapshots_share_what_did_not_change() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m"), engine("b", "m")]));
    let before = farm.snapshot(1);
    let _ = farm.report(10, delta("n", 1, 2, vec![engine("a", "m")]));
    let after = farm.snapshot(11);
    assert!(Arc::ptr_eq(&before.directory, &after.directory));
    assert!(Arc::ptr_eq(&before.endpoints[0].info, &after.endpoints[0].info));
    assert!(Arc::ptr_eq(&after.nodes[0], &farm.snapshot(12).nodes[0]));
    let _ = farm.report(20, delta("n", 1, 3, vec![engine("c", "m")]));
    assert_eq!(farm.snapshot(21).directory.len(), 3);
    assert_eq!(before.directory.len(), 2, "readers keep what they hold");
    assert_eq!(before.taken_at, at(1));
}

#[test]
fn one_engine_under_two_names_is_told_once_and_again_after_it_was_mended() {
    let mut farm = Farm::new();
    let at_url =
        |id: &str, url: &str| EngineReport { url: EndpointUrl::parse(url).unwrap(), ..engine(id, "m") };
    let same =
        |effects: &Effects| said(effects).into_iter().filter(|text| text.contains("one engine")).count();
    let first = farm.report(0, full("n1", 1, 1, vec![at_url("a", "http://10.0.0.1:8000")]));
    let second = farm.report(10, full("n2", 1, 1, vec![at_url("b", "http://10.0.0.1:8000")]));
    assert_eq!((same(&first), same(&second)), (0, 1), "{:?}", said(&second));
    for sequence in 2..5 {
        let a =
            farm.report(sequence * 100, full("n1", 1, sequence, vec![at_url("a", "http://10.0.0.1:8000")]));
        let b =
            farm.report(sequence * 100, full("n2", 1, sequence, vec![at_url("b", "http://10.0.0.1:8000")]));
        assert_eq!((same(&a), same(&b)), (0, 0), "told once");
    }
    let mended = farm.report(600, full("n2", 1, 5, vec![at_url("b", "http://10.0.0.2:8000")]));
    let broken = farm.report(700, full("n2", 1, 6, vec![at_url("b", "http://10.0.0.1:8000")]));
    assert_eq!((same(&mended), same(&broken)), (0, 1));
    // An engine that moves to another node is no second one.
    let _ = farm.report(800, full("n2", 1, 7, vec![]));
    let _ = farm.report(900, full("n1", 1, 5, vec![]));
    let moved = farm.report(1_000, full("n2", 1, 8, vec![at_url("c", "http://10.0.0.1:8000")]));
    assert_eq!(same(&moved), 0, "{:?}", said(&moved));
}
