//! What reports hold, and when they are sent.

use std::sync::Arc;

use aya_config::AgentConfig;
use aya_domain::{Bytes, EngineKind, GpuInfo, GpuSample, Ratio, Tokens};
use aya_engine::{EngineReadings, Findings, Page};

use super::*;
use crate::view::{GpuSourceView, Update};

fn config(engines: &str) -> AgentConfig {
    let text = format!("node_id = \"n1\"\nschedulers = [\"http://127.0.0.1:1\"]\n{engines}");
    aya_config::parse("agent.toml", &text, [], &[]).unwrap()
}

fn view(engines: &str) -> View {
    let config = config(engines);
    let ids = crate::endpoint_ids(&config.node_id, &config.engines).unwrap();
    let engines =
        ids.into_iter().zip(&config.engines).map(|(id, engine)| EngineView::new(id, engine, &config.polling));
    View::new(engines.collect())
}

fn identity() -> Identity {
    Identity { node: NodeId::parse("n1").unwrap(), boot: BootId(7), period: Duration::from_millis(250) }
}

fn gpu(index: usize) -> GpuInfo {
    GpuInfo {
        uuid: GpuUuid::parse(&format!("GPU-{index}")).unwrap(),
        name: "NVIDIA H100".to_owned(),
        vram_total: Some(Bytes(80 << 30)),
        power_limit: None,
        sm_clock_max_mhz: None,
        slowdown_margin: None,
        mig: None,
    }
}

fn source(kind: GpuSourceKind) -> Update {
    Update::Source(GpuSourceView { kind, driver_version: None, error: None })
}

fn ready(view: &View, at: usize, findings: Findings, now: MonoTime) -> Update {
    let mut readings = EngineReadings::new(EngineKind::Vllm);
    readings.merge(Page::Metrics, findings, now);
    let health = Reading::new(EngineHealth::Ready, now);
    Update::Engine { id: view.engines[at].id.clone(), health, readings: Arc::new(readings) }
}

fn told(view: &View, kind: ReportKind, since: u64, now: MonoTime) -> Report {
    let urls: Vec<_> = view.engines.iter().map(|engine| engine.url.clone()).collect();
    report(&identity(), view, Wanted { kind, sequence: 1, since, urls: &urls }, now)
}

const TWO: &str = "[[engine]]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:8000\"\n\
                   [[engine]]\nkind = \"llama.cpp\"\nurl = \"http://127.0.0.1:8001\"\nname = \"lcpp\"\n";

#[test]
fn a_full_report_names_everything_and_a_delta_only_what_is_new() {
    let at = MonoTime::from_millis;
    let mut view = view(TWO);
    assert!(!view.ready(), "nothing has been probed");
    for update in [
        source(GpuSourceKind::None),
        ready(&view, 0, Findings { running: Some(Ok(3)), ..Findings::default() }, at(100)),
        ready(&view, 1, Findings::default(), at(100)),
    ] {
        view.apply(update);
    }
    assert!(view.ready());
    let full = told(&view, ReportKind::Full, 0, at(130));
    let ids: Vec<_> = full.engines.iter().map(|engine| engine.id.as_str()).collect();
    assert_eq!(ids, ["n1-vllm-8000", "lcpp"]);
    assert_eq!(full.engines[0].running, Some(Aged::new(3, Duration::from_millis(30))));
    assert_eq!(full.engines[1].running, None, "unknown is not zero");
    let since = view.revision;
    assert!(told(&view, ReportKind::Delta, since, at(200)).engines.is_empty());
    view.apply(ready(&view, 1, Findings { running: Some(Ok(1)), ..Findings::default() }, at(250)));
    let delta = told(&view, ReportKind::Delta, since, at(250));
    assert_eq!(delta.engines.len(), 1);
    assert_eq!(delta.engines[0].id.as_str(), "lcpp");
}

#[test]
fn an_engine_that_was_found_is_told_with_its_first_reading_and_no_more_when_it_has_left() {
    let mut view = view(TWO);
    let id = aya_domain::EndpointId::parse("found").unwrap();
    let joined = EngineView { id: id.clone(), ..EngineView::clone(&view.engines[0]) };
    let health = Reading::new(EngineHealth::Ready, MonoTime::ZERO);
    let first = Update::Engine { id: id.clone(), health: health.clone(), readings: Arc::default() };
    let late = Update::Engine { id: id.clone(), health, readings: Arc::default() };
    let ids = |view: &View| {
        let full = told(view, ReportKind::Full, 0, MonoTime::ZERO);
        full.engines.iter().map(|engine| engine.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    for (name, update, expect, membership) in [
        ("nothing is known of it yet", Update::Joined(Box::new(joined)), 2, false),
        ("its first reading", first, 3, true),
        ("it left", Update::Left(id.clone()), 2, true),
        ("a reading that comes too late", late, 2, false),
        ("it left twice", Update::Left(id), 2, false),
    ] {
        view.apply(update);
        assert_eq!(ids(&view).len(), expect, "{name}");
        assert_eq!(view.membership == view.revision, membership, "{name}");
    }
}

#[test]
fn only_a_change_of_health_is_urgent_and_only_a_change_of_gpus_is_membership() {
    let mut view = view(TWO);
    let steps = [
        ("the first verdict", ready(&view, 0, Findings::default(), MonoTime::ZERO), true, false),
        ("the same again", ready(&view, 0, Findings::default(), MonoTime::ZERO), false, false),
        ("gpus are found", gpus(vec![gpu(0), gpu(1)]), true, true),
        ("the same gpus", gpus(vec![gpu(0), gpu(1)]), false, false),
        ("one is lost", gpus(vec![gpu(1)]), true, true),
    ];
    for (name, update, urgent, membership) in steps {
        view.apply(update);
        assert_eq!(view.urgent == view.revision, urgent, "{name}");
        assert_eq!(view.membership == view.revision, membership, "{name}");
    }
}

#[test]
fn a_gpu_keeps_its_last_reading_when_others_come_and_go() {
    let mut view = view("");
    let uuid = gpu(1).uuid;
    view.apply(gpus(vec![gpu(1)]));
    let sample = GpuSample { vram_used: Some(Bytes(5)), ..GpuSample::default() };
    view.apply(Update::Samples { at: MonoTime::from_millis(10), samples: vec![(uuid, sample)] });
    view.apply(gpus(vec![gpu(0), gpu(1)]));
    let full = told(&view, ReportKind::Full, 0, MonoTime::from_millis(40));
    assert_eq!(full.gpus[0].sample, None);
    assert_eq!(full.gpus[1].sample, Some(Aged::new(sample, Duration::from_millis(30))));
}

fn gpus(infos: Vec<GpuInfo>) -> Update {
    Update::Gpus { infos, whole: true }
}

#[test]
fn a_number_in_the_configuration_means_the_same_gpu_whatever_is_lost() {
    let mut view = view(
        "[[engine]]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:8000\"\ngpus = [\"1\"]\n\
         [[engine]]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:8001\"\ngpus = [\"3\"]\n",
    );
    let one = |at: usize| vec![gpu(at).uuid];
    for (name, infos, whole, expect) in [
        (
            "one of three could not be described: their places say nothing",
            vec![gpu(1), gpu(2)],
            false,
            [vec![], vec![]],
        ),
        ("all are there", vec![gpu(0), gpu(1), gpu(2)], true, [one(1), vec![]]),
        ("the first is lost", vec![gpu(1), gpu(2)], true, [one(1), vec![]]),
        ("one more came in its place", vec![gpu(7), gpu(1), gpu(2)], true, [one(1), one(7)]),
        ("the one that is meant is lost", vec![gpu(7), gpu(2)], true, [one(1), one(7)]),
        ("all are back", vec![gpu(0), gpu(1), gpu(2)], true, [one(1), one(7)]),
    ] {
        view.apply(Update::Gpus { infos, whole });
        assert_eq!(gpus_of_engines(&view), expect, "{name}");
    }
}

#[test]
fn the_operator_knows_better_than_the_engine() {
    let mut view = view(
        "[[engine]]\nkind = \"simulated\"\nurl = \"http://127.0.0.1:8000\"\nprofile = \"l4-8b\"\ncontext_length = 4096\ngpus = [\"1\"]\n",
    );
    view.apply(gpus(vec![gpu(0), gpu(1)]));
    let model = ServedModel { id: "m".parse().unwrap(), context_length: Some(Tokens(131_072)), parent: None };
    view.apply(ready(
        &view,
        0,
        Findings { models: Some(Ok(vec![model])), ..Findings::default() },
        MonoTime::ZERO,
    ));
    let full = told(&view, ReportKind::Full, 0, MonoTime::ZERO);
    let engine = &full.engines[0];
    assert_eq!(engine.models.as_ref().unwrap().value[0].context_length, Some(Tokens(4096)));
    assert_eq!(engine.gpus, [gpu(1).uuid]);
    assert!(engine.profile.is_some());
}

#[test]
fn simulated_engines_take_simulated_gpus_in_order_and_load_them() {
    let engines = "[[engine]]\nkind = \"simulated\"\nurl = \"http://127.0.0.1:1\"\nprofile = \"a100x4-70b\"\n\
                   [[engine]]\nkind = \"simulated\"\nurl = \"http://127.0.0.1:2\"\n\
                   [[engine]]\nkind = \"simulated\"\nurl = \"http://127.0.0.1:3\"\n";
    let mut view = view(engines);
    view.apply(source(GpuSourceKind::Simulated));
    view.apply(gpus((0..6).map(gpu).collect()));
    let activity = |bytes| aya_engine::Activity {
        busy: Ratio::ONE,
        prefill: Ratio::ZERO,
        vram_used: Bytes(bytes),
        gpu_name: None,
        gpus: None,
    };
    let working = |bytes| Findings { activity: Some(Ok(activity(bytes))), ..Findings::default() };
    view.apply(ready(&view, 0, working(400), MonoTime::ZERO));
    view.apply(ready(&view, 1, working(50), MonoTime::ZERO));
    let gpus = gpus_of_engines(&view);
    assert_eq!(gpus.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1, 1]);
    assert_eq!(gpus[1], [gpu(4).uuid]);
    let loads = crate::gpus_of::loads(&view);
    let used: Vec<_> = loads.iter().map(|load| load.vram_used.get()).collect();
    assert_eq!(used, [100, 100, 100, 100, 50], "the third engine was never seen");
}

#[test]
fn an_endless_reason_is_cut_between_characters() {
    let mut view = view(TWO);
    let reason = "ä".repeat(2000);
    let health = Reading::new(EngineHealth::Down { reason }, MonoTime::ZERO);
    view.apply(Update::Engine { id: view.engines[0].id.clone(), health, readings: Arc::default() });
    let full = told(&view, ReportKind::Full, 0, MonoTime::ZERO);
    let EngineHealth::Down { reason } = &full.engines[0].health.value else { panic!("it is down") };
    assert_eq!(reason.len(), TEXT_BYTES_MAX);
}

#[test]
fn every_report_survives_the_wire() {
    let mut view = view(TWO);
    view.apply(source(GpuSourceKind::Nvml));
    view.apply(gpus(vec![gpu(0)]));
    view.apply(ready(
        &view,
        0,
        Findings { running: Some(Ok(3)), kv_used: Some(Ok(Ratio::ONE)), ..Findings::default() },
        MonoTime::ZERO,
    ));
    let sent = told(&view, ReportKind::Full, 0, MonoTime::from_millis(5));
    let message = aya_proto::convert::agent_message(&sent);
    let received = aya_proto::convert::report_of_message(message, &aya_proto::Limits::default()).unwrap();
    assert_eq!(received, sent);
}
