//! Stories of GPUs in a small language: `SECONDS: WORDS | ...`, and what an operator would read.
//!
//! Words set fields of the reading of GPU `G1` and stay set; `!XID` is an event of the driver, `-` only lets time pass.

use std::time::Duration;

use aya_domain::{
    Action, Aged, BootId, Bytes, Celsius, Endpoint, EndpointId, EndpointUrl, EngineHealth, EngineKind,
    EngineReport, GpuEvent, GpuEventKind, GpuEvents, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid,
    Health, MigSlice, ModelId, MonoTime, NodeId, PcieLink, Ratio, Report, ReportKind, ServedModel, Snapshot,
};

use super::*;
use crate::{Event, Params};

const MAX_MHZ: u32 = 2_000;

fn uuid(name: &str) -> GpuUuid {
    GpuUuid::parse(name).unwrap()
}

fn now<T>(value: T) -> Aged<T> {
    Aged::new(value, Duration::ZERO)
}

/// A farm whose node `n` has one engine `e1` on `G1`, and so on.
struct Story {
    fleet: Fleet,
    sequence: u64,
    events: u64,
    gpus: Vec<(GpuInfo, Option<GpuSample>)>,
    engines: Vec<(&'static str, Vec<&'static str>)>,
    error: Option<String>,
    boot: u64,
    said: Vec<String>,
}

impl Story {
    fn new(rules: Rules, gpus: &[&str], engines: &[(&'static str, &[&'static str])]) -> Self {
        let info = |name: &&str| GpuInfo {
            uuid: uuid(name),
            name: "NVIDIA H100".to_owned(),
            vram_total: Some(Bytes(80 << 30)),
            power_limit: None,
            sm_clock_max_mhz: Some(MAX_MHZ),
            slowdown_margin: None,
            mig: None,
        };
        let well = GpuSample {
            busy: Some(Ratio::ONE),
            clock_event_reasons: Some(0),
            sm_clock_mhz: Some(MAX_MHZ),
            thermal_margin: Some(Celsius(30)),
            energy_millijoules: Some(1_000),
            ecc_uncorrected: Some(0),
            recovery_action: Some(0),
            row_remap_pending: Some(false),
            row_remap_failed: Some(false),
            xids: Some(0),
            ..GpuSample::default()
        };
        Self {
            fleet: Fleet::new(Params::DEFAULT).with_rules(rules),
            sequence: 0,
            events: 0,
            gpus: gpus.iter().map(|name| (info(name), Some(well))).collect(),
            engines: engines.iter().map(|(name, gpus)| (*name, gpus.to_vec())).collect(),
            error: None,
            boot: 1,
            said: Vec::new(),
        }
    }

    fn alone() -> Self {
        Self::new(Rules::by_default(), &["G1"], &[("e1", &["G1"])])
    }

    fn take(&mut self, event: Event, at: MonoTime) {
        let effects = self.fleet.apply(event, at);
        let health = effects.notices.iter().filter(|notice| matches!(notice, Notice::Health(_)));
        self.said.extend(health.map(ToString::to_string));
    }

    fn report(&mut self, at: MonoTime) {
        self.sequence += 1;
        let engine = |(name, gpus): &(&str, Vec<&str>)| EngineReport {
            id: EndpointId::parse(name).unwrap(),
            kind: EngineKind::Vllm,
            url: EndpointUrl::parse("http://127.0.0.1:1").unwrap(),
            health: now(EngineHealth::Ready),
            version: None,
            models: Some(now(vec![ServedModel {
                id: ModelId::parse("m").unwrap(),
                context_length: None,
                parent: None,
            }])),
            running: None,
            waiting: None,
            kv_used: None,
            kv_capacity: None,
            max_sequences: None,
            profile: None,
            prefix_cache: None,
            work: None,
            abort: None,
            signals: Vec::new(),
            kv_bytes_per_token: None,
            gpus: gpus.iter().map(|name| uuid(name)).collect(),
        };
        let gpu = |(info, sample): &(GpuInfo, Option<GpuSample>)| GpuReport {
            info: info.clone(),
            sample: sample.map(now),
            processes: None,
        };
        let report = Report {
            node: NodeId::parse("n").unwrap(),
            boot: BootId(self.boot),
            sequence: self.sequence,
            kind: ReportKind::Full,
            agent: aya_domain::AgentHealth {
                version: "test".to_owned(),
                gpu_source: GpuSourceKind::Nvml,
                driver_version: None,
                gpu_error: self.error.clone(),
                period: Duration::from_millis(250),
            },
            gpus: self.gpus.iter().map(gpu).collect(),
            engines: self.engines.iter().map(engine).collect(),
        };
        self.take(Event::Report { report: Box::new(report), received_at: at }, at);
    }

    fn word(&mut self, word: &str, at: MonoTime) {
        if let Some(code) = word.strip_prefix('!') {
            self.events += 1;
            let kind = match code {
                "lost" => GpuEventKind::Lost,
                "ecc" => GpuEventKind::EccUncorrected,
                code => GpuEventKind::Xid { code: code.parse().unwrap() },
            };
            let event = GpuEvent { sequence: self.events, gpu: uuid("G1"), kind, xids: None };
            let events = GpuEvents {
                node: NodeId::parse("n").unwrap(),
                boot: BootId(self.boot),
                events: vec![now(event)],
            };
            return self.take(Event::GpuEvents { events, received_at: at }, at);
        }
        match word {
            "-" => return,
            "clear" => return self.take(Event::ClearGpu(uuid("G1")), at),
            "gone" => return self.gpus.retain(|(info, _)| info.uuid != uuid("G1")),
            _ => {}
        }
        let (key, value) = word.split_once('=').unwrap();
        if key == "error" {
            self.error = (value != "none").then(|| value.to_owned());
            return;
        }
        let (_, sample) = self.gpus.iter_mut().find(|(info, _)| info.uuid == uuid("G1")).unwrap();
        let sample = sample.as_mut().unwrap();
        let number = || value.parse::<i64>().unwrap();
        let count = || u64::try_from(number()).unwrap();
        let small = || u32::try_from(number()).unwrap();
        match key {
            "reasons" => sample.clock_event_reasons = u64::from_str_radix(value, 16).ok(),
            "mhz" => sample.sm_clock_mhz = Some(small()),
            "margin" => sample.thermal_margin = Some(Celsius(i32::try_from(number()).unwrap())),
            "busy" => sample.busy = Some(Ratio::clamped(value.parse().unwrap())),
            "ecc" => sample.ecc_uncorrected = Some(count()),
            "energy" => sample.energy_millijoules = Some(count()),
            "recovery" => sample.recovery_action = Some(small()),
            "pcie" => {
                let (generation, lanes) = value.split_once('x').unwrap();
                let (generation, lanes) = (generation.parse().unwrap(), lanes.parse().unwrap());
                sample.pcie_link = Some(PcieLink { generation, lanes, generation_max: 5, lanes_max: 16 });
            }
            "replays" => sample.pcie_replays = Some(count()),
            "nvlink" => sample.nvlink_errors = Some(count()),
            "links" => sample.nvlinks_active = Some(small()),
            "page" => sample.page_retirement_pending = Some(number() != 0),
            "pages" => sample.pages_retired = Some(small()),
            "pending" => sample.row_remap_pending = Some(number() != 0),
            "failed" => sample.row_remap_failed = Some(number() != 0),
            "xids" => sample.xids = Some(small()),
            "last" => sample.last_xid = Some(small()),
            _ => panic!("{word}"),
        }
    }

    /// Reports and ticks every second; the words of a second come before its report.
    fn play(&mut self, text: &str) -> Snapshot {
        let mut second = 0;
        for part in text.split('|') {
            let (until, words) = part.split_once(':').unwrap();
            let until: u64 = until.trim().parse().unwrap();
            while second < until {
                let at = MonoTime::from_millis(second * 1_000 + 1);
                self.report(at);
                self.take(Event::Tick, at);
                second += 1;
            }
            let at = MonoTime::from_millis(second * 1_000);
            words.split_whitespace().for_each(|word| self.word(word, at));
        }
        let at = MonoTime::from_millis(second * 1_000 + 1);
        self.report(at);
        self.take(Event::Tick, at);
        self.fleet.snapshot(at)
    }
}

/// An endpoint in words: `in`, or what keeps it out, and its speed in percent.
fn state(endpoint: &Endpoint) -> String {
    let out = endpoint.excluded_by().map(|c| format!("{} {}", c.action.as_str(), c.cause.rule()));
    let speed = format!("{:.0}", endpoint.speed.get() * 100.0);
    match out {
        Some(out) => out,
        None if speed == "100" => "in".to_owned(),
        None => format!("in {speed}"),
    }
}

#[track_caller]
fn check(text: &str, expect: &str) {
    let mut story = Story::alone();
    let snapshot = story.play(text);
    assert_eq!(state(&snapshot.endpoints[0]), expect, "{text}: {:#?}", story.said);
}

#[test]
fn xids_do_what_the_table_says() {
    check("1: xids=1 last=79", "fail xid");
    check("1: xids=1 last=48", "cordon xid");
    check("1: !79", "fail xid");
    check("1: xids=1 last=31", "in");
    check("1: xids=1 last=31 | 2: xids=2 | 3: xids=3", "drain xid");
    check("1: !94 | 2: !94", "in");
    check("1: !94 !94 !94", "drain xid");
    check("1: xids=1 last=63", "in");
    check("1: xids=1 last=4711", "in");
    // A link error is about engines on several GPUs.
    check("1: xids=1 last=74", "in");
    // Spread over more than ten minutes they are three single faults.
    check("1: !31 | 400: !31 | 700: !31", "in");
    // A drain for application faults ends after ten minutes without one; a cordon does not.
    check("1: !31 !31 !31 | 605: -", "in 20");
    check("1: !31 !31 !31 | 700: -", "in");
    check("1: !48 | 4000: -", "cordon xid");
}

#[test]
fn what_was_there_when_the_scheduler_began_counts_only_where_the_driver_still_asks_for_something() {
    // Whoever was on watch then has dealt with them, and the agent repeats the latest as events.
    check("0: xids=4 last=79 | 5: -", "in");
    check("0: xids=4 last=79 | 5: xids=5", "fail xid");
    check("0: xids=4 last=79 recovery=2 | 5: -", "fail recovery_reboot");
    check("0: xids=0 | 3: xids=1 last=79 | 5: -", "fail xid");
    check("0: xids=4 last=79 | 1: !79 | 5: -", "fail xid");
    // A first count of memory errors only says that there were some once: an operator may have cleared the GPU since.
    check("0: ecc=2", "in");
    check("0: ecc=2 | 5: ecc=3", "cordon ecc_uncorrected");
    check("0: ecc=2 recovery=1 | 5: recovery=0 | 300: -", "cordon ecc_uncorrected");
    check("0: ecc=2 pending=1", "cordon ecc_uncorrected");
}

#[test]
fn a_gpu_that_was_cleared_stays_in_when_the_scheduler_starts_anew() {
    let mut story = Story::alone();
    let snapshot = story.play("1: ecc=1 | 2: clear | 90: -");
    assert_eq!(state(&snapshot.endpoints[0]), "in");
    let gpus = std::mem::take(&mut story.gpus);
    let mut anew = Story { gpus, ..Story::alone() };
    assert_eq!(state(&anew.play("2: -").endpoints[0]), "in", "{:#?}", anew.said);
}

#[test]
fn a_pcie_link_below_its_best_slows_and_one_at_rest_does_not() {
    check("0: pcie=5x16 | 300: -", "in");
    check("0: pcie=1x16 | 119: -", "in");
    check("0: pcie=1x16 | 125: -", "in 80");
    check("0: pcie=5x8 busy=0 | 125: -", "in 80");
    // An idle GPU lowers its generation, and one that is idle now and then may have been read just then.
    check("0: pcie=1x16 busy=0 | 300: -", "in");
    check("0: pcie=1x16 | 100: busy=0 | 101: busy=1 | 200: -", "in");
    check("0: pcie=1x16 | 125: pcie=5x16 | 180: -", "in 80");
    check("0: pcie=1x16 | 125: pcie=5x16 | 190: -", "in");
    // What was found at work is not ended by a rest.
    check("0: pcie=1x16 | 125: busy=0 | 300: -", "in 80");
    check("0: pcie=0x0 | 300: -", "in");
}

#[test]
fn a_link_that_has_to_send_too_much_again_slows() {
    // Generation 5 with 16 lanes: 31 per minute is the most of a good one.
    check("0: pcie=5x16 replays=900 | 300: -", "in");
    check("0: pcie=5x16 replays=900 | 30: replays=930 | 300: -", "in");
    check("0: pcie=5x16 replays=900 | 30: replays=940 | 62: -", "in 80");
    check("0: pcie=5x16 replays=900 | 30: replays=940 | 50: -", "in");
    // A minute that was good, and one more to be sure.
    check("0: pcie=5x16 replays=900 | 30: replays=940 | 130: -", "in 80");
    check("0: pcie=5x16 replays=900 | 30: replays=940 | 190: -", "in");
    check("0: pcie=5x4 replays=0 | 30: replays=9 | 62: -", "in 80");
    check("0: replays=0 | 30: replays=9000 | 62: -", "in");
    // The driver was loaded anew: the count is of less than a minute.
    check("0: pcie=5x16 replays=900 | 30: replays=40 | 85: -", "in");
}

#[test]
fn a_clock_that_somebody_locked_far_below_the_full_one_slows_too() {
    check("0: mhz=1000 busy=0.9 reasons=2 | 9: -", "in");
    check("0: mhz=1000 busy=0.9 reasons=2 | 11: -", "in 50");
    check("0: mhz=1000 busy=0.9 reasons=0 | 11: -", "in 50");
    check("0: mhz=1400 busy=0.9 reasons=2 | 60: -", "in");
    check("0: mhz=1000 busy=0.2 reasons=2 | 60: -", "in");
    check("0: mhz=1000 busy=0.9 reasons=1 | 60: -", "in");
    check("0: mhz=1000 busy=0.9 reasons=2 | 20: busy=0.1 | 90: -", "in 50");
    check("0: mhz=1000 busy=0.9 reasons=2 | 20: mhz=1980 | 40: -", "in");
}

#[test]
fn nvlinks_that_err_or_go_down_are_about_engines_on_several_gpus() {
    let mut story =
        Story::new(Rules::by_default(), &["G1", "G2"], &[("one", &["G1"]), ("two", &["G1", "G2"])]);
    let states = |snapshot: &Snapshot| snapshot.endpoints.iter().map(state).collect::<Vec<_>>();
    assert_eq!(
        states(&story.play("0: nvlink=7 links=18 | 60: -")),
        ["in", "in"],
        "counted since long before"
    );
    let mut story =
        Story::new(Rules::by_default(), &["G1", "G2"], &[("one", &["G1"]), ("two", &["G1", "G2"])]);
    assert_eq!(states(&story.play("0: nvlink=7 | 60: nvlink=8 | 61: -")), ["in", "in 80"]);
    let mut story =
        Story::new(Rules::by_default(), &["G1", "G2"], &[("one", &["G1"]), ("two", &["G1", "G2"])]);
    assert_eq!(
        states(&story.play("0: nvlink=7 | 60: nvlink=8 | 665: -")),
        ["in", "in"],
        "ten minutes without one"
    );
    let mut story =
        Story::new(Rules::by_default(), &["G1", "G2"], &[("one", &["G1"]), ("two", &["G1", "G2"])]);
    let story_of_a_link = "0: links=18 | 60: links=17 | 110: -";
    assert_eq!(states(&story.play(story_of_a_link)), ["in", "drain nvlink_inactive"]);
    assert!(story.said.iter().any(|said| said.contains("17 of 18 NVLinks are up")), "{:#?}", story.said);
}

#[test]
fn pages_that_wait_for_a_reboot_slow_and_no_room_for_more_cordons() {
    check("0: page=1", "in 80");
    check("0: page=1 | 10: page=0 | 80: -", "in");
    check("0: pages=62", "in");
    check("0: pages=63", "cordon pages_retired");
}

#[test]
fn three_unknown_xids_within_an_hour_are_worth_a_look() {
    check("1: !4711 !4712", "in");
    check("1: !4711 | 1200: !4712 | 2400: !4711", "in 80");
    check("1: !4711 | 1900: !4712 | 3700: !4711", "in");
    check("1: !4711 !4711 !4711 | 3700: -", "in");
    let mut rules = Rules::by_default();
    let note = XidRule { action: Action::Note, repeats: 1, several_gpus_only: false };
    rules.xids.insert(4_711, note);
    let mut story = Story::new(rules, &["G1"], &[("e1", &["G1"])]);
    assert_eq!(state(&story.play("1: !4711 !4711 !4711").endpoints[0]), "in", "an operator knows it");
}

#[test]
fn memory_faults_and_the_drivers_wishes() {
    check("1: ecc=1", "cordon ecc_uncorrected");
    check("1: !ecc", "cordon ecc_uncorrected");
    check("1: pending=1", "in 80");
    check("1: pending=1 | 2: pending=0 | 70: -", "in");
    check("1: failed=1", "cordon row_remap_failed");
    check("1: recovery=1", "cordon recovery_reset");
    check("1: recovery=2", "fail recovery_reboot");
    check("1: recovery=3", "in 80");
    check("1: recovery=4", "cordon recovery_reset");
    check("1: recovery=4 | 2: recovery=0 | 100: -", "in");
}

#[test]
fn heat_derates_at_once_and_drains_when_it_lasts() {
    check("1: margin=6", "in");
    check("1: margin=5", "in 80");
    check("1: margin=5 | 2: margin=7 | 100: -", "in 80");
    check("1: margin=5 | 2: margin=8 | 60: -", "in 80");
    check("1: margin=5 | 2: margin=8 | 61: -", "in");
    // Margins below zero without clocks cut for it are not believed.
    check("1: margin=-3 | 100: -", "in");
    // Alone in its pool it stays in: the brake never takes the last one.
    check("1: reasons=20 mhz=1000", "in 50");
    check("1: reasons=40 mhz=1000 | 40: -", "in 50");
}

#[test]
fn clocks_derate_by_their_ratio_while_busy_and_throttled() {
    check("1: reasons=8 mhz=1200", "in 60");
    check("1: reasons=4 mhz=1700", "in 85");
    // Idle clocks say nothing, and neither does a low clock without a reason.
    check("1: reasons=1 mhz=300 busy=0", "in");
    check("1: reasons=0 mhz=300", "in");
    check("1: reasons=20 mhz=300 busy=0.01", "in");
    check("1: reasons=8 mhz=1200 | 2: mhz=600", "in 30");
    check("1: reasons=8 mhz=1200 | 2: reasons=0 mhz=2000 | 10: -", "in 60");
    check("1: reasons=8 mhz=1200 | 2: reasons=0 mhz=2000 | 11: -", "in");
}

#[test]
fn a_power_limit_that_is_reached_is_no_news() {
    let mut story = Story::alone();
    let snapshot = story.play("1: reasons=4 mhz=1500 | 20: -");
    assert_eq!(snapshot.nodes[0].gpus[0].health, Health::Healthy);
    assert!(story.said.is_empty(), "{:?}", story.said);
}

#[test]
fn a_lost_gpu_fails_its_engine_until_it_is_read_again() {
    let mut story = Story::new(Rules::by_default(), &["G1", "G2"], &[("e1", &["G1"]), ("e2", &["G2"])]);
    let snapshot = story.play("1: gone | 5: -");
    let states: Vec<_> = snapshot.endpoints.iter().map(state).collect();
    assert_eq!(states, ["fail gpu_lost", "in"]);
    assert_eq!(snapshot.nodes[0].gpus.len(), 2, "a lost one is still shown");
    assert_eq!(snapshot.nodes[0].gpus[0].health.as_str(), "unhealthy");
    check("1: !lost", "in 20");
    check("1: !lost | 62: -", "in");
}

#[test]
fn a_reset_or_an_operator_ends_a_cordon_and_the_gpu_comes_back_slowly() {
    check("1: !48 | 2: energy=5", "in 20");
    check("1: !48 | 2: energy=5 | 32: -", "in 60");
    check("1: !48 | 2: energy=5 | 63: -", "in");
    check("1: !48 | 2: clear | 63: -", "in");
    // What is cleared stays cleared while its reading is the same.
    check("1: failed=1 | 2: clear | 70: -", "in");
    check("1: failed=1 | 2: clear failed=0 | 70: - | 71: failed=1", "cordon row_remap_failed");
    // A relapse on probation needs no second proof.
    check("1: !48 | 2: energy=5 | 10: !48", "cordon xid");
}

#[test]
fn another_start_of_the_agent_does_not_end_a_cordon_and_counts_errors_anew() {
    let mut story = Story::alone();
    let _ = story.play("1: xids=5 last=48");
    (story.boot, story.sequence) = (2, 0);
    let at = MonoTime::from_millis(5_000);
    story.word("xids=0", at);
    story.report(at);
    assert_eq!(state(&story.fleet.snapshot(at).endpoints[0]), "cordon xid");
    story.word("xids=1", at);
    story.word("last=79", at);
    story.report(at);
    assert_eq!(state(&story.fleet.snapshot(at).endpoints[0]), "fail xid");
}

/// Five engines of one model on five GPUs, one node.
fn five() -> Story {
    let engines: [(&'static str, &[&'static str]); 5] =
        [("e1", &["G1"]), ("e2", &["G2"]), ("e3", &["G3"]), ("e4", &["G4"]), ("e5", &["G5"])];
    Story::new(Rules::by_default(), &["G1", "G2", "G3", "G4", "G5"], &engines)
}

#[test]
fn a_stalled_driver_takes_one_of_five_and_says_so() {
    let mut story = five();
    let _ = story.play("3: -");
    story.error = Some("nvml stalled for 2 s".to_owned());
    let mut last = None;
    for second in 4..=14 {
        // The agent reports, and has nothing new to tell of its GPUs.
        let at = MonoTime::from_millis(second * 1_000 + 1);
        story.sequence += 1;
        story.delta(at);
        story.take(Event::Tick, at);
        last = Some(story.fleet.snapshot(at));
    }
    let states: Vec<_> = last.unwrap().endpoints.iter().map(state).collect();
    assert_eq!(states, ["drain driver_stalled", "in 50", "in 50", "in 50", "in 50"]);
    assert!(story.said.iter().any(|line| line.contains("endpoint e2 stays in although driver_stalled")));
    // It answers again.
    story.error = None;
    for second in 15..=90 {
        let at = MonoTime::from_millis(second * 1_000 + 1);
        story.report(at);
        story.take(Event::Tick, at);
    }
    let snapshot = story.fleet.snapshot(MonoTime::from_millis(91_000));
    assert!(snapshot.endpoints.iter().all(|endpoint| state(endpoint) == "in"), "{:?}", story.said);
}

impl Story {
    fn delta(&mut self, at: MonoTime) {
        let delta = Report {
            node: NodeId::parse("n").unwrap(),
            boot: BootId(self.boot),
            sequence: self.sequence,
            kind: ReportKind::Delta,
            agent: aya_domain::AgentHealth {
                version: "test".to_owned(),
                gpu_source: GpuSourceKind::Nvml,
                driver_version: None,
                gpu_error: self.error.clone(),
                period: Duration::from_millis(250),
            },
            gpus: Vec::new(),
            engines: Vec::new(),
        };
        self.take(Event::Report { report: Box::new(delta), received_at: at }, at);
    }
}

#[test]
fn silence_is_no_evidence() {
    let mut story = Story::alone();
    let _ = story.play("1: reasons=40 mhz=1000");
    // Nothing is heard for an hour: the drain that needs 30 s of bad readings does not come.
    for second in 3..3_600 {
        story.take(Event::Tick, MonoTime::from_millis(second * 1_000));
    }
    assert!(story.said.iter().all(|line| !line.contains("drain")), "{:?}", story.said);
}

#[test]
fn the_brake_lets_a_fifth_go_and_slows_the_rest() {
    let mut story = five();
    for (_, sample) in &mut story.gpus {
        let sample = sample.as_mut().unwrap();
        sample.clock_event_reasons = Some(0x80);
        sample.sm_clock_mhz = Some(1_600);
    }
    let snapshot = story.play("40: -");
    let states: Vec<_> = snapshot.endpoints.iter().map(state).collect();
    assert_eq!(states, ["drain power_brake", "in 50", "in 50", "in 50", "in 50"]);
    // A fault of one GPU alone is nobody else's: the brake does not hold it.
    story.word("!79", MonoTime::from_millis(41_000));
    let snapshot = story.fleet.snapshot(MonoTime::from_millis(41_000));
    let states: Vec<_> = snapshot.endpoints.iter().map(state).collect();
    assert_eq!(states[0], "fail xid");
}

#[test]
fn operators_turn_rules_off_and_change_them() {
    let mut rules = Rules::by_default();
    rules
        .settings
        .insert(Rule::ThermalMargin, RuleSettings { action: None, ..Rule::ThermalMargin.by_default() });
    rules.xids.insert(31, XidRule { action: Action::Cordon, repeats: 1, several_gpus_only: false });
    let mut story = Story::new(rules.clone(), &["G1"], &[("e1", &["G1"])]);
    assert_eq!(state(&story.play("1: margin=2").endpoints[0]), "in");
    let mut story = Story::new(rules.clone(), &["G1"], &[("e1", &["G1"])]);
    assert_eq!(state(&story.play("1: !31").endpoints[0]), "cordon xid");
    rules.enabled = false;
    let mut story = Story::new(rules, &["G1"], &[("e1", &["G1"])]);
    assert_eq!(state(&story.play("1: !79").endpoints[0]), "in");
}

#[test]
fn an_engine_on_several_gpus_is_as_bad_as_its_worst() {
    let mut story = Story::new(Rules::by_default(), &["G1", "G2"], &[("e1", &["G1", "G2"]), ("e2", &["G2"])]);
    let states: Vec<_> = story.play("1: !74").endpoints.iter().map(state).collect();
    assert_eq!(states, ["drain xid", "in"]);
}

#[test]
fn where_nobody_says_which_gpu_only_a_failure_for_good_counts() {
    let story = |words: &str| {
        let mut story = Story::new(Rules::by_default(), &["G1", "G2"], &[("e1", &[])]);
        state(&story.play(words).endpoints[0])
    };
    assert_eq!(story("1: !48"), "in");
    assert_eq!(story("1: !79"), "fail xid");
    let mut only = Story::new(Rules::by_default(), &["G1"], &[("e1", &[])]);
    assert_eq!(state(&only.play("1: !48").endpoints[0]), "cordon xid");
}

#[test]
fn a_gpu_that_was_cut_into_slices_is_not_lost() {
    let mut story = Story::alone();
    let _ = story.play("1: -");
    let (mut info, sample) = story.gpus.remove(0);
    info.mig = Some(MigSlice { parent: info.uuid, gpu_instance: 1, compute_instance: 0 });
    info.uuid = uuid("MIG-1");
    story.gpus.push((info, sample));
    let at = MonoTime::from_millis(3_000);
    story.report(at);
    assert!(story.said.is_empty(), "{:?}", story.said);
}
