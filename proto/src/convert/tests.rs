//! Every report survives the trip; every hostile message is refused by the name of its field.

use std::time::Duration;

use aya_domain::{
    AbortPolicy, Aged, AgentHealth, BootId, Bytes, Celsius, EndpointId, EndpointUrl, EngineHealth,
    EngineKind, EngineProfile, EngineReport, GpuEvent, GpuEventKind, GpuEvents, GpuInfo, GpuProcess,
    GpuProcesses, GpuReport, GpuSample, GpuSourceKind, GpuUuid, MigSlice, Milliwatts, ModelId, NodeId,
    PcieLink, PrefixCache, ProcessView, Ratio, Report, ReportKind, ServedModel, Signal, SignalReport,
    SignalState, StepCost, Tokens,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::{
    AgentMessage, Heard, Limits, SchedulerMessage, Welcome, agent_message, events_message, from_agent,
    report_from_wire, report_of_message,
};
use crate::wire;

fn age() -> impl Strategy<Value = Duration> {
    (0..=u64::try_from(super::AGE_MAX.as_micros()).unwrap()).prop_map(Duration::from_micros)
}

fn aged<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Aged<T>>> {
    option::of((value, age()).prop_map(|(value, age)| Aged::new(value, age)))
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (0.0..=1.0).prop_map(Ratio::clamped)
}

fn text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ -~äß]{0,40}").unwrap()
}

fn id() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[a-zA-Z0-9./:_-]{1,40}").unwrap()
}

fn gpu() -> impl Strategy<Value = GpuReport> {
    let numbers = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u32>()));
    let memory =
        (option::of(any::<u64>()), option::of(any::<u64>()), option::of(ratio()), option::of(ratio()));
    let rest = (
        option::of(any::<i32>()),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u64>()),
    );
    let sample = (memory, rest, gpu_health(), gpu_activity(), gpu_links()).prop_map(
        |((used, free, busy, memory_busy), rest, health, activity, links)| GpuSample {
            vram_used: used.map(Bytes),
            vram_free: free.map(Bytes),
            busy,
            memory_busy,
            temperature: rest.0.map(Celsius),
            power: rest.1.map(Milliwatts),
            energy_millijoules: rest.2,
            sm_clock_mhz: rest.3,
            memory_clock_mhz: rest.4,
            clock_event_reasons: rest.5,
            sm_active: activity.0,
            sm_occupancy: activity.1,
            tensor_active: activity.2,
            dram_active: activity.3,
            memory_temperature: health.memory_temperature,
            thermal_margin: health.thermal_margin,
            ecc_corrected: health.ecc_corrected,
            ecc_uncorrected: health.ecc_uncorrected,
            rows_remapped: health.rows_remapped,
            row_remap_pending: health.row_remap_pending,
            row_remap_failed: health.row_remap_failed,
            recovery_action: health.recovery_action,
            xids: health.xids,
            last_xid: health.last_xid,
            ..links
        },
    );
    let margin = option::of(any::<i32>().prop_map(Celsius));
    let info = (id(), text(), numbers, margin, option::of(slice()));
    (info, aged(sample), aged(processes())).prop_map(
        |((uuid, name, (vram, power, clock), margin, mig), sample, processes)| GpuReport {
            info: GpuInfo {
                uuid: GpuUuid::parse(&uuid).unwrap(),
                name,
                vram_total: vram.map(Bytes),
                power_limit: power.map(Milliwatts),
                sm_clock_max_mhz: clock,
                slowdown_margin: margin,
                mig,
            },
            sample,
            processes,
        },
    )
}

fn processes() -> impl Strategy<Value = GpuProcesses> {
    let views = vec![ProcessView::Full, ProcessView::Partial, ProcessView::Unsupported];
    let process = (any::<u32>(), option::of(text()), option::of(any::<u64>()), option::of(id()));
    let process = process.prop_map(|(pid, name, vram, engine)| GpuProcess {
        pid,
        name,
        vram: vram.map(Bytes),
        engine: engine.map(|id| EndpointId::parse(&id).unwrap()),
    });
    (proptest::sample::select(views), vec(process, 0..4))
        .prop_map(|(view, processes)| GpuProcesses { view, processes })
}

fn gpu_links() -> impl Strategy<Value = GpuSample> {
    let number = || option::of(any::<u64>());
    let time = || option::of((0..=u64::MAX / 2).prop_map(Duration::from_micros));
    let lanes = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let link = option::of(lanes.prop_map(|(generation, lanes, generation_max, lanes_max)| PcieLink {
        generation,
        lanes,
        generation_max,
        lanes_max,
    }));
    let rates = (number(), number(), number(), number());
    let pages = (option::of(any::<u32>()), option::of(any::<bool>()));
    let nvlink = (number(), option::of(any::<u32>()));
    (rates, (time(), time()), (number(), link), pages, nvlink).prop_map(
        |(rates, throttled, pcie, pages, nvlink)| GpuSample {
            pcie_tx_bytes_per_second: rates.0,
            pcie_rx_bytes_per_second: rates.1,
            nvlink_tx_bytes_per_second: rates.2,
            nvlink_rx_bytes_per_second: rates.3,
            throttled_thermal: throttled.0,
            throttled_power: throttled.1,
            pcie_replays: pcie.0,
            pcie_link: pcie.1,
            pages_retired: pages.0,
            page_retirement_pending: pages.1,
            nvlink_errors: nvlink.0,
            nvlinks_active: nvlink.1,
            ..GpuSample::default()
        },
    )
}

fn events() -> impl Strategy<Value = GpuEvents> {
    let kind = prop_oneof![
        any::<u32>().prop_map(|code| GpuEventKind::Xid { code }),
        any::<u32>().prop_map(|action| GpuEventKind::Recovery { action }),
        Just(GpuEventKind::EccUncorrected),
        Just(GpuEventKind::Lost),
    ];
    let event = (id(), kind, option::of(any::<u32>()), age());
    (id(), any::<u64>(), vec(event, 0..4)).prop_map(|(node, boot, events)| GpuEvents {
        node: NodeId::parse(&node).unwrap(),
        boot: BootId(boot),
        events: (1..)
            .zip(events)
            .map(|(sequence, (gpu, kind, xids, age))| {
                Aged::new(GpuEvent { sequence, gpu: GpuUuid::parse(&gpu).unwrap(), kind, xids }, age)
            })
            .collect(),
    })
}

fn gpu_health() -> impl Strategy<Value = GpuSample> {
    let heat = (option::of(any::<i32>()), option::of(any::<i32>()));
    let errors = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u32>()));
    let rows = (option::of(any::<bool>()), option::of(any::<bool>()), option::of(any::<u32>()));
    let xids = (option::of(any::<u32>()), option::of(any::<u32>()));
    (heat, errors, rows, xids).prop_map(|(heat, errors, rows, xids)| GpuSample {
        memory_temperature: heat.0.map(Celsius),
        thermal_margin: heat.1.map(Celsius),
        ecc_corrected: errors.0,
        ecc_uncorrected: errors.1,
        rows_remapped: errors.2,
        row_remap_pending: rows.0,
        row_remap_failed: rows.1,
        recovery_action: rows.2,
        xids: xids.0,
        last_xid: xids.1,
        ..GpuSample::default()
    })
}

fn gpu_activity() -> impl Strategy<Value = (Option<Ratio>, Option<Ratio>, Option<Ratio>, Option<Ratio>)> {
    (option::of(ratio()), option::of(ratio()), option::of(ratio()), option::of(ratio()))
}

fn slice() -> impl Strategy<Value = MigSlice> {
    (id(), any::<u32>(), any::<u32>()).prop_map(|(parent, gpu_instance, compute_instance)| MigSlice {
        parent: GpuUuid::parse(&parent).unwrap(),
        gpu_instance,
        compute_instance,
    })
}

fn profile() -> impl Strategy<Value = EngineProfile> {
    let seconds = || 0.0..1e6_f64;
    let cost = (seconds(), seconds(), seconds(), seconds(), seconds());
    (cost, 1..u64::MAX, 1..u32::MAX, 1..u32::MAX).prop_map(|(cost, kv, batched, sequences)| EngineProfile {
        cost: StepCost {
            base_s: cost.0,
            per_token_s: cost.1,
            overhead_s: cost.2,
            per_kv_token_s: cost.3,
            attention_s: cost.4,
        },
        kv_capacity: Tokens(kv),
        max_batched_tokens: batched,
        max_sequences: sequences,
    })
}

fn prefix_cache() -> impl Strategy<Value = PrefixCache> {
    let counters = (any::<u64>(), any::<u64>())
        .prop_map(|(asked, hit)| PrefixCache::Counters { asked: Tokens(asked), hit: Tokens(hit) });
    prop_oneof![counters, ratio().prop_map(PrefixCache::Share)]
}

fn signals() -> impl Strategy<Value = Vec<SignalReport>> {
    let states = vec((proptest::sample::select(SignalState::ALL.to_vec()), option::of(text())), 0..8);
    states.prop_map(|states| {
        let told = Signal::ALL.into_iter().zip(states);
        told.map(|(signal, (state, reason))| SignalReport { signal, state, reason }).collect()
    })
}

fn engine() -> impl Strategy<Value = EngineReport> {
    let health = prop_oneof![
        Just(EngineHealth::Ready),
        Just(EngineHealth::Loading),
        Just(EngineHealth::Busy),
        text().prop_map(|reason| EngineHealth::Down { reason }),
    ];
    let model =
        (id(), option::of(any::<u64>()), option::of(id())).prop_map(|(id, context, parent)| ServedModel {
            id: ModelId::parse(&id).unwrap(),
            context_length: context.map(Tokens),
            parent: parent.map(|parent| ModelId::parse(&parent).unwrap()),
        });
    let models = vec(model, 0..4).prop_map(|mut models| {
        models.sort_by(|a, b| a.id.cmp(&b.id));
        models.dedup_by(|a, b| a.id == b.id);
        models
    });
    let identity =
        (id(), proptest::sample::select(EngineKind::ALL.to_vec()), 1..=u16::MAX, option::of(text()));
    let loads = (aged(any::<u32>()), aged(any::<u32>()), aged(ratio()));
    let kv_bytes = option::of(any::<u64>().prop_map(Bytes));
    let limits = (aged(any::<u64>().prop_map(Tokens)), aged(any::<u32>()), option::of(profile()), kv_bytes);
    let gpus = (vec(id(), 0..3), aged(prefix_cache()), signals(), aged(any::<u64>()), any::<bool>());
    (identity, (health, age()), aged(models), loads, limits, gpus).prop_map(
        |(
            (id, kind, port, version),
            (health, age),
            models,
            loads,
            limits,
            (gpus, prefix_cache, signals, work, drains),
        )| {
            EngineReport {
                id: EndpointId::parse(&id).unwrap(),
                kind,
                url: EndpointUrl::parse(&format!("http://host:{port}")).unwrap(),
                health: Aged::new(health, age),
                version,
                models,
                running: loads.0,
                waiting: loads.1,
                kv_used: loads.2,
                kv_capacity: limits.0,
                max_sequences: limits.1,
                profile: limits.2,
                kv_bytes_per_token: limits.3,
                prefix_cache,
                work,
                abort: drains.then_some(AbortPolicy::Drain),
                gpus: gpus.iter().map(|uuid| GpuUuid::parse(uuid).unwrap()).collect(),
                signals,
            }
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let sources =
        vec![GpuSourceKind::Nvml, GpuSourceKind::Simulated, GpuSourceKind::Recorded, GpuSourceKind::None];
    let agent =
        (text(), proptest::sample::select(sources), option::of(text()), option::of(text()), 1..=60_000_u64);
    let agent = agent.prop_map(|(version, gpu_source, driver_version, gpu_error, period)| AgentHealth {
        version,
        gpu_source,
        driver_version,
        gpu_error,
        period: Duration::from_millis(period),
    });
    (id(), any::<u64>(), any::<u64>(), any::<bool>(), agent, vec(gpu(), 0..4), vec(engine(), 0..4)).prop_map(
        |(node, boot, sequence, full, agent, mut gpus, mut engines)| {
            gpus.sort_by(|a, b| a.info.uuid.cmp(&b.info.uuid));
            gpus.dedup_by(|a, b| a.info.uuid == b.info.uuid);
            engines.sort_by(|a, b| a.id.cmp(&b.id));
            engines.dedup_by(|a, b| a.id == b.id);
            Report {
                node: NodeId::parse(&node).unwrap(),
                boot: BootId(boot),
                sequence,
                kind: if full { ReportKind::Full } else { ReportKind::Delta },
                agent,
                gpus,
                engines,
            }
        },
    )
}

proptest! {
    #[test]
    fn every_report_survives_the_trip(report in report()) {
        let bytes = agent_message(&report).encode_to_vec();
        let received = wire::AgentMessage::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(report_of_message(received, &Limits::DEFAULT), Ok(report));
    }

    #[test]
    fn every_gpu_event_survives_the_trip(events in events()) {
        let bytes = events_message(&events).encode_to_vec();
        let received = wire::AgentMessage::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(from_agent(received, &Limits::DEFAULT), Ok(AgentMessage::GpuEvents(events)));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(message) = wire::AgentMessage::decode(bytes.as_slice()) {
            let _ = report_of_message(message, &Limits::DEFAULT);
        }
    }

    #[test]
    fn a_flipped_byte_never_makes_an_impossible_value(report in report(), at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = agent_message(&report).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(message) = wire::AgentMessage::decode(bytes.as_slice())
            && let Ok(taken) = report_of_message(message, &Limits::DEFAULT)
        {
            for engine in &taken.engines {
                prop_assert!(engine.kv_used.is_none_or(|used| (0.0..=1.0).contains(&used.value.get())));
            }
        }
    }
}

#[test]
fn what_a_scheduler_says_survives_the_trip() {
    let welcome = Welcome { version: "0.1.0".to_owned(), limits: Limits::DEFAULT };
    for message in [
        SchedulerMessage::Welcome(welcome),
        SchedulerMessage::Ack { sequence: 0 },
        SchedulerMessage::ResendFull,
    ] {
        let sent = wire::SchedulerMessage::from(&message);
        let received = wire::SchedulerMessage::decode(sent.encode_to_vec().as_slice()).unwrap();
        assert_eq!(SchedulerMessage::try_from(received), Ok(message));
    }
    let unknown = SchedulerMessage::try_from(wire::SchedulerMessage { kind: None }).unwrap_err();
    assert_eq!(unknown.to_string(), "kind: the field is missing");
}

#[test]
fn an_age_beyond_belief_saturates_on_the_way_out() {
    let mut report = sample();
    report.engines[0].health.age = Duration::MAX;
    report.agent.period = Duration::ZERO;
    let taken = Report::try_from(wire::Report::from(&report)).unwrap();
    assert_eq!(taken.engines[0].health.age, super::AGE_MAX);
    assert_eq!(taken.agent.period, Duration::from_millis(1));
}

/// A plain valid report, to be broken in one place.
fn sample() -> Report {
    let mut report = wire::Report {
        node: Some("gpu-1".to_owned()),
        boot: Some(7),
        sequence: Some(1),
        kind: Some(1),
        agent: Some(wire::AgentHealth {
            version: Some("0.1.0".to_owned()),
            gpu_source: Some(1),
            driver_version: None,
            gpu_error: None,
            period_us: Some(250_000),
        }),
        gpus: vec![wire::Gpu {
            uuid: Some("GPU-1".to_owned()),
            name: Some("NVIDIA L4".to_owned()),
            sample: Some(wire::GpuSample { age_us: Some(5), ..Default::default() }),
            ..Default::default()
        }],
        engines: Vec::new(),
    };
    report.engines.push(wire::Engine {
        id: Some("gpu-1-vllm-8000".to_owned()),
        kind: Some(1),
        url: Some("http://gpu-1:8000".to_owned()),
        health: Some(wire::EngineHealth { state: Some(1), reason: None, age_us: Some(5) }),
        models: Some(wire::Models {
            models: vec![wire::Model { id: Some("m".to_owned()), ..wire::Model::default() }],
            age_us: Some(5),
        }),
        running: Some(wire::AgedCount { value: Some(0), age_us: Some(5) }),
        kv_used: Some(wire::AgedRatio { value: Some(0.5), age_us: Some(5) }),
        kv_capacity: Some(wire::AgedTokens { value: Some(1), age_us: Some(5) }),
        profile: Some(wire::EngineProfile {
            base_s: Some(0.0),
            per_token_s: Some(0.0),
            overhead_s: Some(0.0),
            per_kv_token_s: Some(0.0),
            attention_s: Some(0.0),
            kv_capacity_tokens: Some(1),
            max_batched_tokens: Some(1),
            max_sequences: Some(1),
        }),
        ..Default::default()
    });
    Report::try_from(report).unwrap()
}

/// Breaks a valid report and expects this error.
#[track_caller]
fn check(expect: &str, damage: impl FnOnce(&mut wire::Report)) {
    let mut report = wire::Report::from(&sample());
    damage(&mut report);
    let error = report_from_wire(report, &Limits::DEFAULT).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), expect);
}

#[test]
fn a_missing_field_is_named() {
    check("node: the field is missing", |r| r.node = None);
    check("boot: the field is missing", |r| r.boot = None);
    check("sequence: the field is missing", |r| r.sequence = None);
    check("kind: the field is missing", |r| r.kind = None);
    check("agent: the field is missing", |r| r.agent = None);
    check("agent.version: the field is missing", |r| r.agent.as_mut().unwrap().version = None);
    check("agent.gpu_source: the field is missing", |r| r.agent.as_mut().unwrap().gpu_source = None);
    check("agent.period_us: the field is missing", |r| r.agent.as_mut().unwrap().period_us = None);
    check("gpus[0].uuid: the field is missing", |r| r.gpus[0].uuid = None);
    check("gpus[0].name: the field is missing", |r| r.gpus[0].name = None);
    check("gpus[0].sample.age_us: the field is missing", |r| {
        r.gpus[0].sample.as_mut().unwrap().age_us = None;
    });
    check("engines[0].id: the field is missing", |r| r.engines[0].id = None);
    check("engines[0].kind: the field is missing", |r| r.engines[0].kind = None);
    check("engines[0].url: the field is missing", |r| r.engines[0].url = None);
    check("engines[0].health: the field is missing", |r| r.engines[0].health = None);
    check("engines[0].health.state: the field is missing", |r| {
        r.engines[0].health.as_mut().unwrap().state = None;
    });
    check("engines[0].health.reason: the field is missing", |r| {
        r.engines[0].health.as_mut().unwrap().state = Some(wire::EngineState::Down.into());
    });
    check("engines[0].running.value: the field is missing", |r| {
        r.engines[0].running.as_mut().unwrap().value = None;
    });
    check("engines[0].kv_used.age_us: the field is missing", |r| {
        r.engines[0].kv_used.as_mut().unwrap().age_us = None;
    });
    check("engines[0].models.models[0].id: the field is missing", |r| {
        r.engines[0].models.as_mut().unwrap().models[0].id = None;
    });
    check("engines[0].profile.base_s: the field is missing", |r| {
        r.engines[0].profile.as_mut().unwrap().base_s = None;
    });
}

#[test]
fn an_unknown_enum_value_is_named() {
    check("kind: 0 is not a known value of the enum", |r| r.kind = Some(0));
    check("kind: 9 is not a known value of the enum", |r| r.kind = Some(9));
    check("agent.gpu_source: -1 is not a known value of the enum", |r| {
        r.agent.as_mut().unwrap().gpu_source = Some(-1);
    });
    check("engines[0].kind: 0 is not a known value of the enum", |r| r.engines[0].kind = Some(0));
    check("engines[0].health.state: 0 is not a known value of the enum", |r| {
        r.engines[0].health.as_mut().unwrap().state = Some(0);
    });
}

#[test]
fn an_impossible_value_is_named() {
    check("node: not an id: it is empty", |r| r.node = Some(String::new()));
    check("node: not an id: the character at byte 1 is not allowed", |r| r.node = Some("a\nb".to_owned()));
    check("engines[0].url: not an id: it is not of the form http://HOST[:PORT]", |r| {
        r.engines[0].url = Some("http://host:1/admin".to_owned());
    });
    check("engines[0].gpus[1]: not an id: it is empty", |r| {
        r.engines[0].gpus = vec!["GPU-1".to_owned(), String::new()];
    });
    check("engines[0].kv_used.value: NaN is not a ratio from 0 to 1", |r| {
        r.engines[0].kv_used.as_mut().unwrap().value = Some(f64::NAN);
    });
    check("engines[0].kv_used.value: 1.5 is not a ratio from 0 to 1", |r| {
        r.engines[0].kv_used.as_mut().unwrap().value = Some(1.5);
    });
    check("gpus[0].sample.busy_ratio: -1 is not a ratio from 0 to 1", |r| {
        r.gpus[0].sample.as_mut().unwrap().busy_ratio = Some(-1.0);
    });
    check("engines[0].running.age_us: an age of 18446744073709551615 us is beyond belief", |r| {
        r.engines[0].running.as_mut().unwrap().age_us = Some(u64::MAX);
    });
    for micros in [0, 999, 60_000_001, u64::MAX] {
        check(&format!("agent.period_us: a period of {micros} us is not between 1 ms and 60 s"), |r| {
            r.agent.as_mut().unwrap().period_us = Some(micros);
        });
    }
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        check(
            &format!("engines[0].profile.per_token_s: {bad} is not a finite number of seconds from 0"),
            |r| {
                r.engines[0].profile.as_mut().unwrap().per_token_s = Some(bad);
            },
        );
    }
    check("engines[0].profile.max_batched_tokens: must not be 0", |r| {
        r.engines[0].profile.as_mut().unwrap().max_batched_tokens = Some(0);
    });
}

#[test]
fn a_report_beyond_a_limit_is_refused_whole() {
    check("gpus: 257 items, at most 256 are taken", |r| r.gpus = vec![wire::Gpu::default(); 257]);
    check("engines: 257 items, at most 256 are taken", |r| r.engines = vec![wire::Engine::default(); 257]);
    check("engines[0].models.models: 1025 items, at most 1024 are taken", |r| {
        r.engines[0].models.as_mut().unwrap().models = vec![wire::Model::default(); 1_025];
    });
    check("engines[0].gpus: 257 items, at most 256 are taken", |r| {
        r.engines[0].gpus = vec![String::new(); 257];
    });
    check("agent.gpu_error: 4097 bytes of text, at most 4096 are taken", |r| {
        r.agent.as_mut().unwrap().gpu_error = Some("x".repeat(4_097));
    });
    check("engines[0].health.reason: 4097 bytes of text, at most 4096 are taken", |r| {
        let health = r.engines[0].health.as_mut().unwrap();
        health.state = Some(wire::EngineState::Down.into());
        health.reason = Some("x".repeat(4_097));
    });
}

#[test]
fn the_same_id_twice_is_refused() {
    check("gpus[1].uuid: the same id twice", |r| r.gpus.push(r.gpus[0].clone()));
    check("engines[1].id: the same id twice", |r| r.engines.push(r.engines[0].clone()));
    check("engines[0].models.models[1].id: the same id twice", |r| {
        let models = &mut r.engines[0].models.as_mut().unwrap().models;
        models.push(models[0].clone());
    });
}

#[test]
fn a_hostile_gpu_event_is_refused_by_the_name_of_its_field() {
    let event = |sequence| wire::GpuEvent {
        sequence: Some(sequence),
        gpu: Some("GPU-1".to_owned()),
        kind: Some(wire::GpuEventKind::Xid.into()),
        code: Some(79),
        age_us: Some(0),
        xids: None,
    };
    let check = |expect: &str, change: &dyn Fn(&mut wire::GpuEvents)| {
        let node = Some("n1".to_owned());
        let mut events = wire::GpuEvents { node, boot: Some(1), events: vec![event(1), event(2)] };
        change(&mut events);
        let kind = Some(wire::agent_message::Kind::GpuEvents(events));
        let taken = from_agent(wire::AgentMessage { kind, heard: None }, &Limits::DEFAULT);
        assert_eq!(taken.map_err(|error| error.to_string()), Err(format!("gpu_events.{expect}")));
    };
    check("boot: the field is missing", &|e| e.boot = None);
    check("events[0].code: the field is missing", &|e| e.events[0].code = None);
    check("events[1].kind: 0 is not a known value of the enum", &|e| e.events[1].kind = Some(0));
    check("events[1].kind: 99 is not a known value of the enum", &|e| e.events[1].kind = Some(99));
    check("events[1].gpu: not an id: it is empty", &|e| e.events[1].gpu = Some(String::new()));
    check("events[1].sequence: not above the one before", &|e| e.events[1].sequence = Some(1));
    check("events: 65 items, at most 64 are taken", &|e| e.events = vec![event(1); 65]);
    check("events[0].age_us: an age of 18446744073709551615 us is beyond belief", &|e| {
        e.events[0].age_us = Some(u64::MAX);
    });
}

#[test]
fn what_an_agent_had_heard_comes_with_its_message_or_not_at_all() {
    let message = |heard| wire::AgentMessage { kind: None, heard };
    let check = |heard, expect: Result<Option<Heard>, &str>| {
        let taken = Heard::of(&message(heard)).map_err(|error| error.to_string());
        assert_eq!(taken, expect.map_err(str::to_owned));
    };
    let said = Heard { sequence: 7, age: Duration::from_micros(250) };
    check(said.in_message(message(None)).heard, Ok(Some(said)));
    check(None, Ok(None));
    check(Some(wire::Heard { sequence: None, age_us: Some(1) }), Err("heard.sequence: the field is missing"));
    check(Some(wire::Heard { sequence: Some(1), age_us: None }), Err("heard.age_us: the field is missing"));
    let eternal = Heard { sequence: 1, age: Duration::MAX }.in_message(message(None));
    assert_eq!(Heard::of(&eternal).unwrap().unwrap().age, super::AGE_MAX);
    assert!(Heard::of(&message(Some(wire::Heard { sequence: Some(1), age_us: Some(u64::MAX) }))).is_err());
}
