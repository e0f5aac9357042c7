//! The real code over the fake library: every scenario of fixtures/nvml, what is read of it and what is not.

mod hardware;
mod python;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aya_domain::{Bytes, Celsius, GpuEventKind, Milliwatts, PcieLink, Ratio};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{GpuHappening, GpuHolder, RecordedSource, Recording};

const MIB: u64 = 1 << 20;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A library of its own for one test: the dynamic linker tells libraries apart by file, so each has a state of its own.
struct Fake {
    folder: TempDir,
    source: NvmlSource,
    told: crossbeam_channel::Receiver<GpuHappening>,
}

impl Fake {
    fn play(scenario: &Value) -> Self {
        Self::play_on(scenario, |library| library)
    }

    fn play_on(scenario: &Value, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let built = std::env::current_exe().unwrap().with_file_name("libaya_fake_nvml.so");
        let library = folder.path().join("libnvidia-ml.so.1");
        fs::write(&library, change(fs::read(built).unwrap())).unwrap();
        let (tell, told) = crossbeam_channel::unbounded();
        let tell = Tell::by(move |happening| tell.send(happening).unwrap());
        let mut source = NvmlSource::new(Some(library), tell);
        // Not that of the machine the test runs on.
        source.log_path = folder.path().join("kmsg");
        let fake = Self { source, folder, told };
        fake.change(scenario);
        fake
    }

    /// Discovers, and waits until the driver's events are listened to.
    fn discover_and_listen(&mut self) {
        self.discover();
        let soon = crossbeam_channel::tick(std::time::Duration::from_millis(5));
        let listens = soon.iter().take(4_000).any(|_| self.source.ledger.is_listening());
        assert!(listens, "nobody listens");
    }

    /// The next things that happen.
    fn happenings(&self, count: usize) -> Vec<GpuHappening> {
        (0..count).map(|_| self.told.recv_timeout(PATIENCE).unwrap()).collect()
    }

    /// Puts another scenario in the place of the one that plays; the library sees it at its next call.
    fn change(&self, scenario: &Value) {
        let path = self.folder.path().join("libnvidia-ml.so.1.json");
        fs::write(path, serde_json::to_vec(scenario).unwrap()).unwrap();
    }

    fn discover(&mut self) -> Collected<GpuInfo> {
        self.source.discover().unwrap()
    }

    fn sample(&mut self) -> Collected<(GpuUuid, GpuSample)> {
        self.source.sample(MonoTime::ZERO).unwrap()
    }
}

fn fixture(name: &str) -> Value {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/nvml");
    serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// The scenario as it stands after its last step.
fn at_the_end(name: &str) -> Value {
    let mut scenario = fixture(name);
    let timeline = scenario.get_mut("timeline").and_then(Value::as_array_mut);
    for step in timeline.into_iter().flatten() {
        step["at_ms"] = json!(0);
    }
    scenario
}

fn read(scenario: &Value) -> (Vec<GpuInfo>, Vec<GpuSample>) {
    let mut fake = Fake::play(scenario);
    let infos = fake.discover().items;
    let samples = fake.sample();
    assert_eq!(samples.trouble, None);
    (infos, samples.items.into_iter().map(|(_, sample)| sample).collect())
}

fn ratio(value: f64) -> Option<Ratio> {
    Some(Ratio::new(value).unwrap())
}

#[test]
fn an_h100_is_read_whole() {
    let mut fake = Fake::play(&fixture("h100x2"));
    let infos = fake.discover();
    assert_eq!(infos.trouble, None);
    assert_eq!(fake.source.driver_version().as_deref(), Some("590.48.01"));
    let info = &infos.items[0];
    assert_eq!(
        (info.uuid.as_str(), info.name.as_str()),
        ("GPU-aaaa0001-0000-4000-8000-000000000001", "NVIDIA H100 80GB HBM3")
    );
    assert_eq!(info.vram_total, Some(Bytes(81_559 * MIB)));
    assert_eq!((info.power_limit, info.sm_clock_max_mhz), (Some(Milliwatts(700_000)), Some(1980)));
    assert_eq!((info.slowdown_margin, &info.mig), (Some(Celsius(-2)), &None));
    fake.discover_and_listen();

    let first = fake.sample().items[0].1;
    assert_eq!(first.sm_active, None, "the activity is a difference, and there is nothing before the first");
    let expect = GpuSample {
        vram_used: Some(Bytes(60_000 * MIB)),
        // Without the 479 MiB that the driver reserves.
        vram_free: Some(Bytes(21_080 * MIB)),
        busy: ratio(0.92),
        memory_busy: ratio(0.41),
        temperature: Some(Celsius(52)),
        power: Some(Milliwatts(350_000)),
        energy_millijoules: Some(123_456_789),
        sm_clock_mhz: Some(1755),
        memory_clock_mhz: Some(2619),
        clock_event_reasons: Some(0),
        memory_temperature: Some(Celsius(61)),
        thermal_margin: Some(Celsius(35)),
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(0),
        rows_remapped: Some(0),
        row_remap_pending: Some(false),
        row_remap_failed: Some(false),
        recovery_action: Some(0),
        xids: Some(0),
        last_xid: None,
        sm_active: ratio(0.61),
        sm_occupancy: ratio(0.34),
        tensor_active: ratio(0.425),
        dram_active: ratio(0.55),
        pcie_tx_bytes_per_second: Some(900 * MIB),
        pcie_rx_bytes_per_second: Some(1200 * MIB),
        nvlink_tx_bytes_per_second: Some(0),
        nvlink_rx_bytes_per_second: Some(0),
        pcie_link: Some(PcieLink { generation: 5, lanes: 16, generation_max: 5, lanes_max: 16 }),
        nvlinks_active: Some(18),
        ..GpuSample::default()
    };
    assert_eq!(fake.sample().items[0].1, expect);
    fake.discover();
    assert_eq!(fake.sample().items[0].1, expect, "a new discovery costs no reading");
}

#[test]
fn slices_take_the_place_of_the_device_they_are_cut_from() {
    let mut fake = Fake::play(&fixture("h100-mig"));
    let infos = fake.discover().items;
    let slices: Vec<_> = infos.iter().filter_map(|info| Some((info, info.mig.as_ref()?))).collect();
    assert_eq!((infos.len(), slices.len()), (4, 3), "three slices and one whole device");
    let (info, mig) = slices[1];
    assert_eq!(info.name, "NVIDIA H100 80GB HBM3 MIG 2g.20gb");
    assert_eq!(info.uuid.as_str(), "MIG-bbbb0002-0000-5000-8000-000000000001");
    assert_eq!(mig.parent.as_str(), "GPU-aaaa0001-0000-4000-8000-000000000001");
    assert_eq!((mig.gpu_instance, mig.compute_instance), (5, 0));
    assert_eq!((info.vram_total, info.power_limit), (Some(Bytes(20_096 * MIB)), None));

    fake.sample();
    let samples = fake.sample().items;
    let named: Vec<_> = samples.iter().map(|(uuid, _)| uuid.clone()).collect();
    assert_eq!(named, infos.iter().map(|info| info.uuid.clone()).collect::<Vec<_>>());
    let slice = samples[1].1;
    assert_eq!((slice.vram_used, slice.vram_free), (Some(Bytes(12_000 * MIB)), Some(Bytes(8_096 * MIB))));
    assert_eq!((slice.sm_active, slice.dram_active), (ratio(0.2), ratio(0.15)));
    assert_eq!(
        (slice.busy, slice.power, slice.energy_millijoules),
        (None, None, None),
        "those are not its own"
    );
    assert_eq!(
        (slice.temperature, slice.thermal_margin),
        (Some(Celsius(52)), Some(Celsius(35))),
        "its device's"
    );
    assert_eq!((slice.rows_remapped, slice.recovery_action), (None, Some(0)), "rows are refused under MIG");
    let whole = samples[3].1;
    assert_eq!((whole.busy, whole.power), (ratio(0.92), Some(Milliwatts(350_000))));
}

#[test]
fn slices_cut_anew_are_not_a_lost_gpu() {
    let mut scenario = fixture("h100-mig");
    let mut fake = Fake::play(&scenario);
    fake.discover();
    scenario["gpus"][0]["mig"].as_array_mut().unwrap().remove(0);
    fake.change(&scenario);
    let samples = fake.sample();
    assert_eq!(samples.items.len(), 1, "the other device is read");
    let trouble = samples.trouble.unwrap();
    assert!(
        trouble.ends_with("the slice MIG-bbbb0001-0000-5000-8000-000000000001 is not there any more"),
        "{trouble}"
    );
    assert_eq!((fake.discover().items.len(), fake.sample().trouble), (3, None));
}

#[test]
fn products_differ_in_what_they_have() {
    let (infos, samples) = read(&fixture("a100-l4"));
    let (a100, l4) = (&samples[0], &samples[1]);
    assert_eq!((infos[0].slowdown_margin, infos[1].slowdown_margin), (None, Some(Celsius(-2))));
    assert_eq!(a100.thermal_margin, Some(Celsius(85 - 52)), "from the absolute maximum");
    assert_eq!(l4.thermal_margin, Some(Celsius(20)));
    assert_eq!((a100.memory_temperature, l4.memory_temperature), (Some(Celsius(61)), None));
    assert_eq!(a100.sm_active.or(l4.sm_active), None, "neither has GPM");
    assert_eq!((infos[1].power_limit, l4.sm_clock_mhz), (Some(Milliwatts(72_000)), Some(1785)));
}

#[test]
fn an_old_driver_is_read_through_its_older_calls() {
    let expect = |(infos, samples): (Vec<GpuInfo>, Vec<GpuSample>)| {
        assert_eq!(infos[0].vram_total, Some(Bytes(81_920 * MIB)));
        let sample = samples[0];
        // The first version of the call counts the reserved 637 MiB as used.
        assert_eq!(sample.vram_used, Some(Bytes(70_637 * MIB)));
        assert_eq!(sample.vram_free, Some(Bytes(11_283 * MIB)));
        assert_eq!(sample.clock_event_reasons, Some(0));
        assert_eq!((sample.recovery_action, sample.thermal_margin), (None, Some(Celsius(33))));
    };
    expect(read(&fixture("old-driver")));
    // The same with symbols that are really missing.
    let mut scenario = fixture("old-driver");
    scenario["faults"] = json!({});
    let missing =
        ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMarginTemperature", "nvmlDeviceGetCurrentClocksEvent"];
    let mut fake =
        Fake::play_on(&scenario, |library| missing.iter().fold(library, |l, name| without(l, name)));
    let infos = fake.discover().items;
    expect((infos, fake.sample().items.into_iter().map(|(_, sample)| sample).collect()));
}

/// The library without a symbol: its name is made one that nobody asks for.
fn without(mut library: Vec<u8>, name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let places: Vec<_> =
        library.windows(name.len()).enumerate().filter(|(_, w)| *w == name).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        library[at] = b'X';
    }
    library
}

#[test]
fn a_driver_that_cannot_be_opened_says_why_and_is_tried_again() {
    for (name, expect) in [
        ("driver-mismatch", GpuError::VersionMismatch),
        ("driver-missing", GpuError::DriverNotLoaded),
        ("no-access", GpuError::NoPermission),
    ] {
        let mut fake = Fake::play(&fixture(name));
        assert_eq!(fake.source.discover(), Err(expect.clone()), "{name}");
        assert_eq!(
            fake.source.sample(MonoTime::ZERO),
            Err(expect),
            "{name}: nothing read is not an idle host"
        );
        fake.change(&fixture("h100x2"));
        assert_eq!(fake.discover().items.len(), 2, "{name}: the driver was repaired");
    }
}

#[test]
fn no_gpu_is_a_failure_and_not_an_idle_host() {
    let mut fake = Fake::play(&json!({"gpus": []}));
    assert_eq!(fake.source.discover(), Err(GpuError::NoGpus));
}

#[test]
fn what_is_denied_is_absent_and_the_rest_is_read() {
    let (infos, samples) = read(&fixture("permission-denied"));
    assert_eq!((infos[0].vram_total, samples[0].vram_free, samples[0].power), (None, None, None));
    assert_eq!((samples[0].busy, samples[0].temperature), (ratio(0.92), Some(Celsius(52))));
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_named_and_the_other_is_read() {
    for (name, lost) in [("gpu-lost", "aaaa0002"), ("xid79", "aaaa0001")] {
        let mut whole = fixture(name);
        whole["timeline"] = json!([]);
        let mut fake = Fake::play(&whole);
        assert_eq!(fake.discover().items.len(), 2);
        assert_eq!(fake.sample().trouble, None);
        fake.change(&at_the_end(name));
        let samples = fake.sample();
        let trouble = samples.trouble.unwrap();
        assert!(trouble.contains(lost) && trouble.contains("lost"), "{name}: {trouble}");
        assert_eq!(samples.items.len(), 1);
        let found = fake.discover();
        assert_eq!(found.items.len(), 1);
        let trouble = found.trouble.unwrap();
        assert!(trouble.contains("lost") && trouble.contains(lost), "{name}: {trouble}");
        assert_eq!(
            fake.sample().trouble,
            Some(trouble),
            "{name}: a list without it does not end the trouble"
        );
        fake.change(&whole);
        assert_eq!(fake.discover().trouble, None, "{name}: it is back");
        fake.change(&json!({"gpus": []}));
        assert_eq!(fake.source.sample(MonoTime::ZERO), Err(GpuError::Lost), "all gone");
    }
}

#[test]
fn faults_of_the_memory_are_read() {
    let (_, samples) = read(&at_the_end("ecc-storm"));
    let (bad, good) = (samples[0], samples[1]);
    assert_eq!((bad.ecc_corrected, bad.ecc_uncorrected), (Some(9000), Some(7)));
    assert_eq!((bad.rows_remapped, bad.row_remap_pending), (Some(1), Some(true)));
    assert_eq!((bad.row_remap_failed, bad.recovery_action), (Some(true), Some(1)));
    assert_eq!(
        (good.ecc_corrected, good.row_remap_failed, good.recovery_action),
        (Some(0), Some(false), Some(0))
    );
    let (_, samples) = read(&at_the_end("xid94"));
    assert_eq!((samples[1].ecc_uncorrected, samples[1].row_remap_pending), (Some(1), Some(true)));
}

#[test]
fn heat_is_read_step_by_step_with_margins_below_zero_and_bits_as_they_are() {
    let mut scenario = fixture("thermal-ramp");
    let steps = scenario["timeline"].as_array().unwrap().clone();
    let mut fake = Fake::play(&scenario);
    fake.discover();
    for step in steps {
        let mut now = step.clone();
        now["at_ms"] = json!(0);
        scenario["timeline"] = json!([now]);
        fake.change(&scenario);
        let sample = fake.sample().items[0].1;
        let seen = json!([
            sample.temperature.unwrap().0,
            sample.thermal_margin.unwrap().0,
            sample.clock_event_reasons.unwrap(),
            sample.sm_clock_mhz.unwrap(),
            sample.power.unwrap().get()
        ]);
        let set = &step["set"];
        let clock = &set["clock_mhz"][1];
        let margin = &set["temp_margin_c"];
        assert_eq!(seen, json!([set["temp_c"], margin, set["clock_event_reasons"], clock, set["power_mw"]]));
    }
    scenario["gpus"][0]["clock_event_reasons"] = json!(1_u64 << 40);
    scenario["timeline"] = json!([]);
    fake.change(&scenario);
    assert_eq!(fake.sample().items[0].1.clock_event_reasons, Some(1 << 40), "a bit of tomorrow's drivers");
}

/// The scenario with its events at once, and nothing else changed yet.
fn events_now(name: &str) -> Value {
    let mut scenario = fixture(name);
    scenario["timeline"] = json!([]);
    for event in scenario["events"].as_array_mut().unwrap() {
        event["at_ms"] = json!(0);
    }
    scenario
}

#[test]
fn xids_are_counted_where_they_hit() {
    let seen = |fake: &mut Fake| -> Vec<_> {
        fake.sample().items.iter().map(|(_, sample)| (sample.xids, sample.last_xid)).collect()
    };
    for (name, expect) in [
        ("h100-mig", vec![(Some(0), None), (Some(1), Some(13)), (Some(0), None), (Some(0), None)]),
        ("xid94", vec![(Some(0), None), (Some(1), Some(94))]),
        ("ecc-storm", vec![(Some(3), Some(64)), (Some(0), None)]),
    ] {
        let mut quiet = fixture(name);
        (quiet["events"], quiet["timeline"]) = (json!([]), json!([]));
        let mut fake = Fake::play(&quiet);
        fake.discover_and_listen();
        assert!(seen(&mut fake).iter().all(|xids| *xids == (Some(0), None)), "{name}");
        let events = events_now(name);
        fake.change(&events);
        let critical = |event: &&Value| event.get("kind").is_none_or(|kind| *kind == 8);
        fake.happenings(events["events"].as_array().unwrap().iter().filter(critical).count());
        assert_eq!(seen(&mut fake), expect, "{name}");
        fake.discover_and_listen();
        assert_eq!(seen(&mut fake), expect, "{name}: neither lost nor heard twice");
    }
    let mut deaf = Fake::play(&fixture("permission-denied"));
    deaf.discover();
    assert_eq!(seen(&mut deaf), [(None, None)], "nobody listens, which is not the same as no error");
}

#[test]
fn the_xid_of_a_lost_gpu_is_told_with_it() {
    let mut quiet = fixture("xid79");
    (quiet["events"], quiet["timeline"]) = (json!([]), json!([]));
    let mut fake = Fake::play(&quiet);
    fake.discover_and_listen();
    fake.sample();
    let mut end = at_the_end("xid79");
    end["events"][0]["at_ms"] = json!(0);
    fake.change(&end);
    let told: Vec<_> = fake.happenings(2).into_iter().map(|happening| happening.kind).collect();
    assert_eq!(told, [GpuEventKind::Xid { code: 79 }, GpuEventKind::Lost], "at once, without a reading");
    let trouble = fake.sample().trouble.unwrap();
    assert!(trouble.ends_with("the GPU is lost (fell off the bus), XID 79"), "{trouble}");
}

#[test]
fn recovery_actions_and_gpus_that_go_are_heard_where_the_driver_announces_them() {
    let quiet = json!({"gpus": [{}, {}]});
    let mut fake = Fake::play(&quiet);
    fake.discover_and_listen();
    fake.sample();
    let second = fake.source.boards[1].info.uuid.clone();
    let drain = json!({"gpus": [{}, {"recovery_action": 4}], "events": [{"at_ms": 0, "gpu": 1, "kind": 0x8000, "data": 4}]});
    fake.change(&drain);
    // No reading is made meanwhile: the event alone tells.
    let told = fake.happenings(1).remove(0);
    assert_eq!((&told.gpu, told.kind), (&second, GpuEventKind::Recovery { action: 4 }));
    fake.change(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 1, "kind": 0x4000}]}));
    let told = fake.happenings(1).remove(0);
    assert_eq!((&told.gpu, told.kind), (&second, GpuEventKind::Lost));

    let old = json!({"gpus": [{"event_types": 31}], "events": []});
    let mut fake = Fake::play(&old);
    fake.discover_and_listen();
    let events = json!([{"at_ms": 0, "gpu": 0, "kind": 0x8000}, {"at_ms": 0, "gpu": 0, "data": 31}]);
    fake.change(&json!({"gpus": [{"event_types": 31, "recovery_action": 4}], "events": events}));
    let told = fake.happenings(1).remove(0);
    assert_eq!(
        told.kind,
        GpuEventKind::Xid { code: 31 },
        "an old driver tells nothing of recoveries, but its XIDs"
    );
}

#[test]
fn failures_of_single_readings_cost_only_themselves() {
    let mut fake = Fake::play(&fixture("flaky"));
    let found = fake.discover();
    assert!(found.trouble.unwrap().contains("lost"), "GPU not found (28) is a lost GPU");
    let sample = fake.sample().items[0].1;
    assert_eq!((sample.busy, sample.power), (None, Some(Milliwatts(350_000))));
    let mut scenario = fixture("flaky");
    scenario["gpus"][0]["faults"] = json!({});
    fake.change(&scenario);
    assert_eq!(fake.sample().items[0].1.busy, ratio(0.92), "not ready (27) was not for ever");
}

#[test]
fn c9_readings_beyond_all_bounds_are_absent_or_themselves() {
    let scenario = json!({"gpus": [{
        "util_gpu": 4_294_967_295_u64, "temp_c": 4_294_967_295_u64, "power_mw": 4_294_967_295_u64,
        "energy_mj": u64::MAX, "gpm": {"2": 1e300, "3": -4.0, "5": 100.0}, "fields_signed": {"230": -5}
    }]});
    let mut fake = Fake::play(&scenario);
    fake.discover();
    fake.sample();
    let sample = fake.sample().items[0].1;
    assert_eq!((sample.busy, sample.temperature, sample.recovery_action), (None, None, None));
    assert_eq!((sample.power, sample.energy_millijoules), (Some(Milliwatts(4_294_967_295)), Some(u64::MAX)));
    assert_eq!((sample.sm_active, sample.sm_occupancy, sample.tensor_active), (None, None, ratio(1.0)));
    assert_eq!(sample.dram_active, None);
    let memory = json!({"total": 100, "reserved": 0, "used": 17_592_186_044_415_u64});
    let (_, samples) = read(&json!({"gpus": [{"memory_mib": memory}]}));
    assert_eq!((samples[0].vram_used, samples[0].vram_free), (None, None), "more than there is says nothing");
}

#[test]
fn a_margin_keeps_its_sign_whatever_type_the_driver_gives_it() {
    for fields in [json!({"fields_signed": {"194": -2}}), json!({"fields": {"194": 4_294_967_294_u64}})] {
        let mut fake = Fake::play(&json!({"gpus": [fields]}));
        assert_eq!(fake.discover().items[0].slowdown_margin, Some(Celsius(-2)), "{fields}");
    }
}

#[test]
fn a_scenario_that_cannot_be_read_leaves_the_last_one_in_force() {
    let mut fake = Fake::play(&fixture("h100x2"));
    fake.discover();
    fake.change(&json!({"gpus": [{"no such key": 1}]}));
    assert_eq!(fake.sample().items.len(), 2);
}

/// Asks the library itself, by its hook, how often a function was called.
#[expect(unsafe_code, reason = "the hook of the fake library is a C function")]
fn calls(fake: &Fake, function: &str) -> u64 {
    let function = std::ffi::CString::new(function).unwrap();
    // SAFETY: the library is the one that the source has loaded, so nothing runs at its loading.
    let library = unsafe { libloading::Library::new(fake.folder.path().join("libnvidia-ml.so.1")) }.unwrap();
    type Hook = extern "C" fn(*const std::ffi::c_char) -> u64;
    // SAFETY: the hook has this type, and the text ends with a zero byte and outlives the call.
    let hook = unsafe { library.get::<Hook>(b"aya_fake_nvml_calls") }.unwrap();
    hook(function.as_ptr())
}

#[test]
fn a_reading_is_cheap() {
    let mut fake = Fake::play(&fixture("h100x2"));
    // The listener's own questions are not counted: they are over by then.
    fake.discover_and_listen();
    fake.sample();
    let count = |fake: &Fake, names: &mut dyn Iterator<Item = &&str>| -> u64 {
        names.map(|name| calls(fake, name)).sum()
    };
    let names: Vec<&str> = aya_fake_nvml::EXPORTS.iter().copied().flatten().copied().collect();
    let is_reading = |name: &&&str| name.starts_with("nvmlDeviceGet") && !name.contains("Handle");
    let readings = |fake: &Fake| count(fake, &mut names.iter().filter(is_reading));
    let gpm = |fake: &Fake| count(fake, &mut names.iter().filter(|name| name.starts_with("nvmlGpm")));
    let before = (readings(&fake), gpm(&fake));
    fake.sample();
    let calls_per_gpu = ((readings(&fake) - before.0) / 2, (gpm(&fake) - before.1) / 2);
    assert_eq!(calls_per_gpu.0, 8, "driver calls per GPU and reading");
    assert_eq!(calls_per_gpu.1, 4, "a sample made, taken and freed, and the difference");
    let expensive = ["nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetPcieThroughput"];
    assert_eq!(count(&fake, &mut expensive.iter()), 0, "those cost milliseconds under a global lock");
}

#[test]
fn eight_gpus_are_read_one_by_one() {
    let (infos, samples) = read(&fixture("h100x8-busy"));
    assert_eq!((infos.len(), samples.len()), (8, 8));
    let power: Vec<_> = samples.iter().map(|sample| sample.power.unwrap().get() / 1000).collect();
    assert_eq!(power, [300, 320, 340, 360, 380, 400, 420, 440]);
}

#[test]
fn devices_are_read_some_at_a_time_and_their_trouble_is_told_until_it_is_over() {
    let mut scenario = json!({"gpus": [{}, {}, {}]});
    let mut fake = Fake::play(&scenario);
    let uuids: Vec<_> = fake.discover().items.into_iter().map(|gpu| gpu.uuid).collect();
    assert_eq!(fake.source.devices(), 3);
    let read = |fake: &mut Fake, devices| {
        let read = fake.source.sample_some(devices, MonoTime::ZERO)?;
        let places = read.items.iter().map(|(uuid, _)| uuids.iter().position(|u| u == uuid).unwrap());
        Ok::<_, GpuError>((places.collect::<Vec<_>>(), read.trouble))
    };
    assert_eq!(read(&mut fake, 1..2), Ok((vec![1], None)));
    assert_eq!(read(&mut fake, 2..9), Ok((vec![2], None)));
    scenario["gpus"][1] = json!({"lost": true});
    fake.change(&scenario);
    assert_eq!(read(&mut fake, 0..1), Ok((vec![0], None)), "nobody has asked it yet");
    let trouble = read(&mut fake, 1..2).unwrap().1;
    assert!(trouble.as_deref().is_some_and(|trouble| trouble.starts_with(uuids[1].as_str())), "{trouble:?}");
    assert_eq!(read(&mut fake, 2..3), Ok((vec![2], trouble)));
    scenario["gpus"][1] = json!({});
    fake.change(&scenario);
    assert_eq!(read(&mut fake, 1..3), Ok((vec![1, 2], None)));
    scenario["gpus"] = json!([{"lost": true}, {"lost": true}, {"lost": true}]);
    fake.change(&scenario);
    assert!(read(&mut fake, 0..2).is_ok(), "one has not failed");
    assert_eq!(read(&mut fake, 2..3), Err(GpuError::Lost));
}

#[test]
fn a_host_without_the_library_says_so_and_may_get_it_later() {
    let mut source = NvmlSource::new(Some(PathBuf::from("/nonexistent/libnvidia-ml.so.1")), Tell::nobody());
    for _ in 0..2 {
        let error = source.discover().unwrap_err();
        assert!(matches!(error, GpuError::NoLibrary(_)), "{error:?}");
        assert!(error.to_string().contains("/nonexistent/libnvidia-ml.so.1"), "{error}");
        assert_eq!(source.sample(MonoTime::ZERO), Err(error), "nothing read is not an idle host");
    }
}

#[test]
fn counters_and_rates_are_read_in_the_units_of_their_names() {
    let scenario = json!({"gpus": [{
        "fields": {"74": 1_500_000_000_u64, "75": 2_000_000, "94": 7, "29": 3, "30": 4, "31": 1, "52": 10, "59": 1},
        "gpm": {"20": 900.0, "21": 1200.5, "60": 2.0, "61": 0.0}, "pcie_link": [1, 8, 5, 16],
        "nvlinks": [true, false, true, true]
    }, {"nvlinks": []}]});
    let mut fake = Fake::play(&scenario);
    fake.discover();
    fake.sample();
    let sample = fake.sample().items[0].1;
    let millis = std::time::Duration::from_millis;
    assert_eq!((sample.throttled_power, sample.throttled_thermal), (Some(millis(1_500)), Some(millis(2))));
    assert_eq!((sample.pcie_replays, sample.nvlink_errors), (Some(7), Some(11)));
    assert_eq!((sample.pages_retired, sample.page_retirement_pending), (Some(7), Some(true)));
    assert_eq!(sample.pcie_tx_bytes_per_second, Some(900 << 20));
    assert_eq!(sample.pcie_rx_bytes_per_second, Some((1200 << 20) + (1 << 19)));
    assert_eq!(
        (sample.nvlink_tx_bytes_per_second, sample.nvlink_rx_bytes_per_second),
        (Some(0), Some(2 << 20))
    );
    let link = PcieLink { generation: 1, lanes: 8, generation_max: 5, lanes_max: 16 };
    assert_eq!(sample.pcie_link, Some(link));
    assert_eq!(sample.nvlinks_active, Some(3));
    assert_eq!(fake.sample().items[1].1.nvlinks_active, None, "no links are not links that are down");
}

#[test]
fn holders_are_named_with_what_they_hold_as_far_as_the_driver_tells() {
    let mut busy = Fake::play(&fixture("h100x8-busy"));
    busy.discover();
    let holders = busy.source.holders(0..8);
    assert_eq!(holders.len(), 8);
    let first = holders[0].holders.as_ref().unwrap();
    assert_eq!((first.len(), first[4]), (5, GpuHolder { pid: 7004, vram: Some(Bytes(11_400 * MIB)) }));
    assert_eq!(calls(&busy, "nvmlDeviceGetComputeRunningProcesses_v3"), 8, "one call each");
    assert_eq!(busy.source.holders(2..3), holders[2..3], "one device's is asked by itself");

    let process = |pid: u64| json!({"pid": pid, "mib": 1});
    let many: Vec<_> = (1..=200).map(process).collect();
    let mut gpus = json!({"gpus": [{"processes": many}, {"processes": [{"pid": 5, "mib": null}]}, {}]});
    gpus["gpus"][2]["faults"] = json!({"nvmlDeviceGetComputeRunningProcesses_v3": 3});
    let mut fake = Fake::play(&gpus);
    fake.discover();
    let holders = fake.source.holders(0..3);
    assert_eq!(holders[0].holders.as_ref().map(Vec::len), Some(200), "a list longer than its first room");
    assert_eq!(holders[1].holders.as_deref(), Some(&[GpuHolder { pid: 5, vram: None }][..]));
    assert_eq!(holders[2].holders, None, "not supported is not nobody");

    let mut mig = Fake::play(&fixture("h100-mig"));
    let gpus: Vec<_> = mig.discover().items.into_iter().map(|info| info.uuid).collect();
    let named: Vec<_> = mig.source.holders(0..9).into_iter().map(|list| list.gpu).collect();
    assert_eq!(named, gpus, "slices have lists of their own");
}

#[test]
fn a_gpu_that_falls_off_the_bus_without_an_event_is_lost_by_the_kernels_log() {
    let mut fake = Fake::play(&json!({"gpus": [{}, {"event_types": 0}]}));
    let log = fake.folder.path().join("kmsg");
    fs::write(&log, "4,1,1,-;NVRM: Xid (PCI:0000:29:00): 48, older than we are\n").unwrap();
    let gpus: Vec<_> = fake.discover().items.into_iter().map(|info| info.uuid).collect();
    let xids = fake.sample().items[1].1.xids;
    assert_eq!(xids, Some(0), "it has no events, and the log is read");
    let mut more = fs::OpenOptions::new().append(true).open(&log).unwrap();
    writeln!(more, "4,2,2,-;NVRM: Xid (PCI:0000:29:00): 48, pid=1").unwrap();
    writeln!(more, "4,3,3,-;NVRM: GPU 0000:19:00.0: GPU has fallen off the bus.").unwrap();
    let told = fake.happenings(2);
    assert_eq!((&told[0].gpu, told[0].kind), (&gpus[1], GpuEventKind::Xid { code: 48 }));
    assert_eq!((&told[1].gpu, told[1].kind), (&gpus[0], GpuEventKind::Lost));
}

/// Whatever a function answers instead of its value, the reader goes on, and the other GPU is read in full.
#[test]
fn no_refusal_of_any_function_breaks_the_reader() {
    let functions = aya_fake_nvml::EXPORTS.iter().copied().flatten();
    let of_devices: Vec<_> =
        functions.filter(|name| name.starts_with("nvmlDevice") && !name.contains("Handle")).collect();
    assert!(of_devices.len() > 30, "{of_devices:?}");
    let mut fake = Fake::play(&json!({"gpus": [{}, {}]}));
    fake.discover();
    // When its events are listened to is another thread's affair.
    let other = |fake: &mut Fake| {
        let (gpu, sample) = fake.sample().items.last().cloned().unwrap();
        (gpu, GpuSample { xids: None, ..sample })
    };
    other(&mut fake);
    let plain = other(&mut fake);
    for (function, code) in
        of_devices.iter().flat_map(|name| [1, 3, 4, 7, 15, 25, 30, 999].map(|code| (*name, code)))
    {
        fake.change(&json!({"gpus": [{"faults": {*function: code}}, {}]}));
        let discovered = fake.source.discover();
        assert!(discovered.is_ok(), "{function} answers {code}: {discovered:?}");
        assert_eq!(other(&mut fake), plain, "{function} answers {code}");
        let _ = fake.source.holders(0..2);
    }
}

#[test]
fn clients_of_the_multi_process_service_hold_the_gpu_too() {
    let mps = |pid: u64, mib: Option<u64>| json!({"pid": pid, "mib": mib, "mps": true});
    let gpus = json!({"gpus": [
        {"processes": [{"pid": 9, "mib": 30}, {"pid": 10, "mib": null}, mps(10, Some(400)), mps(11, None)]},
        {"processes": [{"pid": 5, "mib": 1}]},
    ]});
    let mut fake = Fake::play(&gpus);
    fake.discover();
    let of = |pid, mib: Option<u64>| GpuHolder { pid, vram: mib.map(|mib| Bytes(mib * MIB)) };
    for _ in 0..3 {
        let holders = fake.source.holders(0..2);
        let shared = [of(9, Some(30)), of(10, Some(400)), of(11, None)];
        assert_eq!(holders[0].holders.as_deref(), Some(&shared[..]));
        assert_eq!(holders[1].holders.as_deref(), Some(&[of(5, Some(1))][..]));
    }
    let asked = calls(&fake, "nvmlDeviceGetMPSComputeRunningProcesses_v3");
    assert_eq!(asked, 4, "three times where there are clients, once where there are none");
}

/// Every number of a GPU, beyond all bounds, through the library: nothing panics, and what is told is in its bounds.
#[test]
fn c9_no_reading_of_the_driver_breaks_the_reader() {
    let u32s =
        ["util_gpu", "util_mem", "temp_c", "temp_mem_c", "power_mw", "power_limit_mw", "recovery_action"];
    let u64s = ["energy_mj", "clock_event_reasons", "ecc_corrected", "ecc_uncorrected"];
    let absent = |field: &&&str| **field != "util_mem";
    let mut tries = Vec::new();
    for value in [0_u64, 101, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        tries.extend(u32s.iter().map(|field| json!({*field: value})));
    }
    for value in [0, 1 << 63, u64::MAX] {
        tries.extend(u64s.iter().map(|field| json!({*field: value})));
        tries.extend(read::FIELDS.iter().map(|id| json!({"fields": {id.to_string(): value}})));
        tries.extend(read::SLOW_FIELDS.iter().map(|id| json!({"fields": {id.to_string(): value}})));
    }
    for value in [i32::MIN, -1, i32::MAX] {
        tries.extend(read::FIELDS.iter().map(|id| json!({"fields_signed": {id.to_string(): value}})));
        tries.push(json!({"temp_margin_c": value}));
    }
    for value in [-1e300, -0.5, 100.5, 1e300] {
        let ids = ["2", "3", "5", "10", "20", "21", "60", "61"];
        tries.push(json!({"gpm": ids.iter().map(|id| ((*id).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>()}));
    }
    tries.extend(u32s.iter().chain(&u64s).filter(absent).map(|field| json!({*field: null})));
    tries.push(json!({"memory_mib": {"total": 0, "reserved": 0, "used": 17_592_186_044_415_u64}}));
    let mut fake = Fake::play(&json!({"gpus": [{}]}));
    let plain = {
        fake.discover();
        fake.sample();
        fake.sample().items[0].1
    };
    for gpu in tries {
        fake.change(&json!({"gpus": [gpu.clone()]}));
        fake.discover();
        fake.sample();
        let (_, sample) = fake.sample().items[0];
        let shares = [
            sample.busy,
            sample.memory_busy,
            sample.sm_active,
            sample.sm_occupancy,
            sample.tensor_active,
            sample.dram_active,
        ];
        assert!(shares.iter().flatten().all(|share| (0.0..=1.0).contains(&share.get())), "{gpu}: {sample:?}");
        // What the driver says of one thing changes no other.
        let same = (sample.sm_clock_mhz, sample.pcie_link) == (plain.sm_clock_mhz, plain.pcie_link);
        assert!(same, "{gpu}: {sample:?}");
    }
}

#[test]
fn what_is_played_again_is_what_was_read() {
    let mut warm = fixture("h100x2");
    let mut fake = Fake::play(&warm);
    fake.discover_and_listen();
    let period = std::time::Duration::from_millis(500);
    let at = |tick: u32| MonoTime::from_millis(u64::from(tick) * 500);
    let recording = Recording::of(&mut fake.source, period, 3, |tick| {
        warm["gpus"][0]["temp_c"] = json!(60 + tick);
        fs::write(fake.folder.path().join("libnvidia-ml.so.1.json"), warm.to_string()).unwrap();
        at(tick)
    });
    let recording = recording.unwrap();
    let heat = recording.ticks.iter().map(|tick| tick[0].1.temperature);
    assert_eq!(heat.collect::<Vec<_>>(), [60, 61, 62].map(|celsius| Some(Celsius(celsius))));
    assert_eq!(recording.gpus, fake.discover().items);

    let path = fake.folder.path().join("recording.json");
    fs::write(&path, recording.to_json()).unwrap();
    let mut played = RecordedSource::new(path);
    assert_eq!(played.discover().unwrap().items, recording.gpus);
    assert_eq!(played.driver_version().as_deref(), Some("590.48.01"));
    for (tick, expect) in (0..).zip(recording.ticks.iter().chain(&recording.ticks)) {
        assert_eq!(&played.sample(at(tick)).unwrap().items, expect, "tick {tick}");
    }
}
