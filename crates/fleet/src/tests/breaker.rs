//! The breaker alone, as tables of what happened, and its promises under anything that can happen.

use std::time::Duration;

use aya_domain::{Action, Cause, EngineHealth, MonoTime, Reading, Trip};
use proptest::prelude::*;

use super::farm::{Farm, at, endpoint_id, engine, full, with_health};
use crate::breaker::{Breaker, BreakerParams, Heartbeat, Judged, Outcomes, Sight, most_ejected};
use crate::{BreakerNotice, Event, Notice};

const PARAMS: BreakerParams = BreakerParams::DEFAULT;

/// One endpoint, told in words: `ok`, `fail`, `take` a request, `tok`en, `end` it, `probe` and `miss`; `>s` lets
/// seconds pass in steps of 50 ms. From `moves` or `stands` on the engine tells its own count every 250 ms.
struct Story {
    breaker: Breaker,
    seen: Outcomes,
    now: u64,
    heart: Heartbeat,
    work: Option<u64>,
    moves: bool,
    on_demand: bool,
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            breaker: Breaker::default(),
            seen: Outcomes::default(),
            now: 20_000,
            heart: Heartbeat::default(),
            work: None,
            moves: false,
            on_demand: false,
        };
        story.look();
        story
    }

    fn sight(&self) -> Sight {
        let now = MonoTime::from_millis(self.now);
        let (loads_on_demand, pulse) = (self.on_demand, self.heart.pulse(now));
        Sight { now, per_token_s: 1e-3, eligible: true, loads_on_demand, pulse, has_peer: false }
    }

    fn grant(&mut self, judged: Judged) {
        if let Judged::Wants(trip) = judged {
            self.breaker.eject(trip, MonoTime::from_millis(self.now), &PARAMS);
        }
    }

    fn look(&mut self) {
        if let Some(work) = self.work.filter(|_| self.now % 250 < 50) {
            self.work = Some(work + u64::from(self.moves));
            let reading = Reading::new(work, MonoTime::from_millis(self.now));
            self.heart.take(Some(reading), None, self.breaker.last());
        }
        let judged = self.breaker.observe(self.seen, &self.sight(), &PARAMS);
        self.grant(judged);
    }

    fn word(&mut self, word: &str) {
        let probed = |story: &mut Self, ok| {
            let judged = story.breaker.probed(ok, MonoTime::from_millis(story.now), &PARAMS);
            story.grant(judged);
        };
        match word {
            "ok" => (self.seen.answers, self.seen.in_a_row) = (self.seen.answers + 1, 0),
            "fail" => {
                self.seen.failures += 1;
                self.seen.in_a_row += 1;
            }
            "take" => {
                (self.seen.in_flight, self.seen.audible) = (self.seen.in_flight + 1, self.seen.audible + 1);
            }
            "mute" => self.seen.in_flight += 1,
            "moves" => (self.work, self.moves) = (self.work.or(Some(1)), true),
            "stands" => (self.work, self.moves) = (self.work.or(Some(1)), false),
            "silent" => self.work = None,
            "loads" => self.on_demand = true,
            "prompt" => self.seen.prefill_tokens += 1_000,
            "long" => self.seen.prefill_tokens += 10_000,
            "end" => (self.seen.in_flight, self.seen.audible) = (0, 0),
            "tok" => self.seen.tokens += 1,
            "probe" => probed(self, true),
            "miss" => probed(self, false),
            _ => {
                let seconds: f64 = word.strip_prefix('>').and_then(|s| s.parse().ok()).unwrap();
                for _ in 0..Duration::from_secs_f64(seconds).as_millis() / 50 {
                    self.now += 50;
                    self.look();
                }
            }
        }
        self.now += 1;
        self.look();
    }

    fn state(&self) -> String {
        let conditions = self.breaker.conditions(MonoTime::from_millis(self.now), None, &PARAMS);
        let word = |c: &aya_domain::Condition| match (c.cause, c.action) {
            (Cause::Ejected { until, .. }, _) => {
                format!("ejected {:.0}", until.since(MonoTime::from_millis(self.now)).as_secs_f64())
            }
            (cause, Action::Limit(most)) => format!("{} {most}", cause.rule()),
            (cause, _) => cause.rule().to_owned(),
        };
        conditions.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

#[track_caller]
fn check(words: &str, expect: &str) {
    let mut story = Story::new();
    words.split_whitespace().for_each(|word| story.word(word));
    assert_eq!(story.state(), expect, "{words}");
}

#[test]
fn c1_three_failures_in_a_row_eject_and_a_success_between_them_does_not() {
    check("fail fail", "");
    check("fail fail fail", "ejected 30");
    check("fail fail ok fail fail", "");
    check("ok ok ok ok ok ok ok ok ok ok fail fail fail", "ejected 30");
}

#[test]
fn half_of_a_windows_requests_eject_if_there_were_enough() {
    check("ok fail ok fail ok fail ok fail", "");
    check("ok fail ok fail ok fail ok fail ok fail", "ejected 30");
    check("ok ok fail ok ok fail ok ok fail ok ok fail", "");
    check("ok fail ok fail ok fail ok fail >11 ok fail", "");
}

#[test]
fn after_its_time_an_endpoint_is_on_trial_and_probes_come_before_requests() {
    check("fail fail fail >30", "half_open 0");
    check("fail fail fail >30 probe", "slow_start");
    check("fail fail fail >30 probe >10", "");
    check("fail fail fail >30 probe fail", "slow_start");
    check("fail fail fail >46", "half_open 1");
    check("fail fail fail >46 take tok ok end >10", "");
    check("fail fail fail >46 take fail end", "ejected 60");
}

#[test]
fn c4_ejections_grow_to_a_cap_and_are_forgiven() {
    check("fail fail fail >30 miss", "ejected 60");
    check("fail fail fail >30 miss >60 miss", "ejected 90");
    let many = format!("fail fail fail >30 {}", "miss >300 ".repeat(12));
    check(&format!("{many} miss"), "ejected 300");
    check("fail fail fail >30 miss >60 probe >301 fail fail fail", "ejected 30");
    check("fail fail fail >30 miss >60 probe >100 fail fail fail", "ejected 90");
}

#[test]
fn c5_an_endpoint_that_is_in_goes_out_after_two_failed_probes() {
    check("miss", "");
    check("miss probe miss", "");
    check("miss miss", "ejected 30");
}

#[test]
fn silence_with_requests_there_is_a_wedge_and_the_first_token_ends_it() {
    check("take tok >2.9", "");
    check("take tok >3.1", "wedged");
    check("take tok >2 tok >2 tok >2", "");
    check("take tok >3.1 tok", "slow_start");
    check("take tok end >100", "");
    check("take tok >3.1 end", "half_open 0");
    check("take tok >3.1 end probe", "slow_start");
    check("take tok >2 end >60 take >1.1", "wedged");
}

#[test]
fn a_long_prefill_an_unproven_endpoint_and_whole_answers_have_their_time() {
    // 10 s of predicted prefill count doubly.
    check("take tok long >22", "");
    check("take tok long >24", "wedged");
    check("mute ok >100", "");
    check("mute ok >121", "wedged");
}

#[test]
fn an_endpoint_that_never_gave_a_token_is_out_within_five_seconds_of_a_usual_prompt() {
    // Its prior is 1 ms per token, counted doubly: 1,000 tokens.
    check("take >3.9", "");
    check("take >4.1", "wedged");
    check("take prompt >5.9", "");
    check("take prompt >6.1", "wedged");
    check("loads take prompt >31", "");
    check("loads take prompt >33", "wedged");
}

#[test]
fn an_engine_whose_own_counts_move_works_on_something_and_has_more_time() {
    check("take tok moves >11", "");
    check("take tok moves >12.5", "wedged");
    check("take tok moves >2 stands >3", "wedged");
    check("take tok moves >5 silent >5", "wedged");
    check("take tok stands >2.9", "");
    check("take tok stands >3.1", "wedged");
}

#[test]
fn whole_answers_are_waited_for_while_the_engine_works_and_no_longer() {
    check("mute ok moves >300", "");
    check("mute ok moves >60 stands >2.5", "");
    check("mute ok moves >60 stands >4.5", "wedged");
    check("mute ok moves >60 stands >4.5 moves >1 ok", "slow_start");
    // What was never seen to move proves nothing, and what is not told any more neither.
    check("mute ok stands >60", "");
    check("mute ok moves >60 silent >30", "");
    check("mute ok moves >60 silent >65", "wedged");
    check("mute ok moves >10 end >60 mute >2", "");
    check("mute ok moves >10 end stands >60 mute >3.6", "wedged");
    check("mute ok moves >10 long stands >20", "");
    check("mute ok moves >10 long stands >25", "wedged");
}

#[test]
fn an_endpoint_on_trial_that_stays_silent_has_failed() {
    check("take tok >3.1 end >16", "half_open 1");
    check("take tok >3.1 end >16 take >3.1", "wedged");
}

#[test]
fn the_cap_spares_the_last_of_a_pool() {
    for (members, share, expect) in [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (10, 20, 2), (4, 100, 3)]
    {
        assert_eq!(most_ejected(members, share), expect, "{members} at {share} %");
    }
}

/// Four ready endpoints `a` to `d` of one pool.
fn four() -> (Farm, [Outcomes; 4]) {
    let mut farm = Farm::new();
    let all = ["a", "b", "c", "d"].map(|id| engine(id, "m"));
    let _ = farm.report(900, full("n1", 1, 1, all.into()));
    (farm, [Outcomes::default(); 4])
}

fn tell(farm: &mut Farm, seen: &[Outcomes], ms: u64) -> Vec<BreakerNotice> {
    let ids = ["a", "b", "c", "d"].map(endpoint_id);
    let all = ids.into_iter().zip(seen.iter().copied()).collect();
    let effects = farm.fleet.apply(Event::Outcomes { at: at(ms), all }, at(ms));
    let told = |notice| if let Notice::Breaker(told) = notice { Some(told) } else { None };
    effects.notices.into_iter().filter_map(told).collect()
}

fn out(farm: &mut Farm, ms: u64) -> usize {
    let snapshot = farm.fleet.snapshot(at(ms));
    snapshot.endpoints.iter().filter(|endpoint| endpoint.excluded_by().is_some()).count()
}

#[test]
fn c3_where_all_endpoints_fail_half_of_them_stay_in_and_say_so() {
    let (mut farm, mut seen) = four();
    for outcomes in &mut seen {
        (outcomes.failures, outcomes.in_a_row) = (5, 5);
    }
    let told = tell(&mut farm, &seen, 2_000);
    assert_eq!(
        told.iter().map(BreakerNotice::as_str).collect::<Vec<_>>(),
        ["ejected", "ejected", "kept", "kept"]
    );
    assert_eq!(out(&mut farm, 2_000), 2);
    assert_eq!(tell(&mut farm, &seen, 2_050), [], "told once");
    let snapshot = farm.fleet.snapshot(at(2_050));
    let kept = &snapshot.endpoints[2].conditions[0];
    assert_eq!(
        (kept.cause, kept.braked),
        (Cause::Failing { trip: Trip::InARow { failures: 5 } }, Some(Action::Drain))
    );
}

#[test]
fn c5_a_health_endpoint_that_says_ready_ends_no_ejection() {
    let (mut farm, mut seen) = four();
    (seen[0].failures, seen[0].in_a_row) = (3, 3);
    let _ = tell(&mut farm, &seen, 2_000);
    let _ = farm.report(2_900, full("n1", 1, 2, ["a", "b", "c", "d"].map(|id| engine(id, "m")).into()));
    let _ = tell(&mut farm, &seen, 3_000);
    assert_eq!(out(&mut farm, 3_000), 1);
    // An engine that was down and came back is tried at once, by a probe.
    let down = EngineHealth::Down { reason: "refused".to_owned() };
    let all = |health: EngineHealth| {
        vec![with_health(engine("a", "m"), health), engine("b", "m"), engine("c", "m"), engine("d", "m")]
    };
    let _ = farm.report(3_900, full("n1", 1, 3, all(down)));
    let _ = tell(&mut farm, &seen, 4_000);
    let _ = farm.report(4_040, full("n1", 1, 4, all(EngineHealth::Ready)));
    let told = tell(&mut farm, &seen, 4_050);
    assert_eq!(told, [BreakerNotice::OnTrial { endpoint: endpoint_id("a") }]);
    let effects = farm.fleet.apply(Event::Probed { endpoint: endpoint_id("a"), ok: true }, at(4_100));
    assert_eq!(effects.notices, [Notice::Breaker(BreakerNotice::Recovered { endpoint: endpoint_id("a") })]);
}

#[test]
fn a_newcomer_ramps_up_only_where_others_carry_the_rest() {
    let (mut farm, seen) = four();
    let _ = tell(&mut farm, &seen, 1_000);
    assert!(farm.fleet.snapshot(at(1_000)).endpoints.iter().all(|e| e.speed.get() > 0.99), "a cold start");
    let _ = tell(&mut farm, &seen, 12_000);
    let new = ["a", "b", "c", "d", "e"].map(|id| engine(id, "m"));
    let _ = farm.report(12_040, full("n1", 1, 2, new.into()));
    let all = vec![(endpoint_id("e"), Outcomes::default())];
    let mut speeds = Vec::new();
    for ms in [12_050, 17_100, 22_100] {
        let _ = farm.fleet.apply(Event::Outcomes { at: at(ms), all: all.clone() }, at(ms));
        speeds.push((farm.fleet.snapshot(at(ms)).endpoints[4].speed.get() * 100.0).round());
    }
    assert_eq!(speeds, [20.0, 60.0, 100.0]);
}

#[test]
fn c8_an_endpoint_whose_first_tokens_come_later_than_its_peers_is_predicted_slower() {
    let (mut farm, mut seen) = four();
    let _ = tell(&mut farm, &seen, 1_000);
    // All priors are three times too fast, and `d` is five times slower on top: ln 3 and ln 15.
    for round in 1..=4_u64 {
        for (position, outcomes) in seen.iter_mut().enumerate() {
            outcomes.timed = round;
            outcomes.lateness_milli += if position == 3 { 2_708 } else { 1_099 };
        }
        let _ = tell(&mut farm, &seen, 1_000 + round * 100);
    }
    let speeds = |farm: &mut Farm, ms| {
        farm.fleet.snapshot(at(ms)).endpoints.iter().map(|e| e.speed.get()).collect::<Vec<_>>()
    };
    assert_eq!(speeds(&mut farm, 1_500), [1.0, 1.0, 1.0, 0.2]);
    // Nothing is sent there any more, so it is tried again before long, and slowly.
    for (ms, expect) in [(30_000, 0.2), (35_050, 0.6), (40_050, 1.0)] {
        let _ = tell(&mut farm, &seen, ms);
        let found = speeds(&mut farm, ms);
        assert!((found[3] - expect).abs() < 1e-9 && found[..3] == [1.0; 3], "{ms}: {found:?}");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_cap_holds_and_open_ends(
        steps in prop::collection::vec((0_usize..4, 0_u8..6, 1_u64..5_000), 1..200),
    ) {
        let (mut farm, mut seen) = four();
        let mut now = 1_000;
        for (which, what, wait) in steps {
            now += wait;
            let of = &mut seen[which];
            match what {
                0 => (of.answers, of.in_a_row) = (of.answers + 1, 0),
                1 | 2 => (of.failures, of.in_a_row) = (of.failures + 1, of.in_a_row + 1),
                3 => (of.in_flight, of.audible) = (1, 1),
                4 => of.tokens += 1,
                _ => (of.in_flight, of.audible) = (0, 0),
            }
            let _ = tell(&mut farm, &seen, now);
            let snapshot = farm.fleet.snapshot(at(now));
            let ejected = |e: &&aya_domain::Endpoint| {
                e.conditions.iter().any(|c| matches!(c.cause, Cause::Ejected { .. }))
            };
            prop_assert!(snapshot.endpoints.iter().filter(ejected).count() <= 2);
        }
        // Time alone ends every ejection; an answer then closes it.
        for outcomes in &mut seen {
            (outcomes.in_flight, outcomes.audible) = (0, 0);
        }
        now += 1_000;
        let _ = tell(&mut farm, &seen, now);
        now += 301_000;
        let _ = tell(&mut farm, &seen, now);
        prop_assert_eq!(out(&mut farm, now), 0);
        for outcomes in &mut seen {
            (outcomes.answers, outcomes.in_a_row) = (outcomes.answers + 1, 0);
        }
        now += 50;
        let _ = tell(&mut farm, &seen, now);
        let snapshot = farm.fleet.snapshot(at(now));
        prop_assert!(snapshot.endpoints.iter().all(|e| e.limited_to().is_none()));
    }
}
