//! What a scenario may say, and how it is told off.

use super::*;

fn parse(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text, &["nvmlInit_v2"])
}

fn at(scenario: &Scenario, ms: u64) -> Arc<Vec<Gpu>> {
    scenario.gpus(Duration::from_millis(ms))
}

#[test]
fn an_empty_gpu_is_an_h100_with_a_name_of_its_own() {
    let scenario = parse(r#"{"gpus": [{}, {"util_gpu": null}]}"#).unwrap();
    let gpus = at(&scenario, 0);
    assert_eq!(gpus[0].name, "NVIDIA H100 80GB HBM3");
    assert_ne!(gpus[0].uuid, gpus[1].uuid);
    assert_ne!(gpus[0].bus_id(), gpus[1].bus_id());
    assert_eq!(gpus[0].util_gpu, Some(92));
    assert_eq!(gpus[1].util_gpu, None, "null is a reading that the product does not have");
}

#[test]
fn defaults_lie_under_every_gpu_and_steps_change_them_in_time() {
    let text = r#"{
        "gpu_defaults": {"temp_c": 40, "memory_mib": {"total": 100, "used": 10}},
        "gpus": [{"temp_c": 41}, {}],
        "timeline": [
            {"at_ms": 2000, "gpu": 1, "set": {"lost": true}},
            {"at_ms": 1000, "set": {"temp_c": 90, "memory_mib": {"used": 99}}}
        ]
    }"#;
    let scenario = parse(text).unwrap();
    let seen =
        |ms| -> Vec<_> { at(&scenario, ms).iter().map(|g| (g.temp_c, g.memory_mib.used, g.lost)).collect() };
    assert_eq!(seen(999), [(Some(41), 10, false), (Some(40), 10, false)]);
    assert_eq!(seen(1000), [(Some(90), 99, false), (Some(90), 99, false)]);
    assert_eq!(seen(9000), [(Some(90), 99, false), (Some(90), 99, true)]);
}

#[test]
fn a_hang_ends_for_every_caller_at_the_same_moment() {
    let hang = Hang { function: "f".into(), from_ms: 1000, for_ms: 500 };
    let wait = |name, ms| hang.wait(name, Duration::from_millis(ms));
    assert_eq!(wait("f", 999), None);
    assert_eq!(wait("g", 1000), None);
    assert_eq!(wait("f", 1000), Some(Duration::from_millis(500)));
    assert_eq!(wait("f", 1400), Some(Duration::from_millis(100)));
    assert_eq!(wait("f", 9000), Some(Duration::ZERO));
}

#[test]
fn mistakes_are_named() {
    for (text, expect) in [
        ("{", "EOF"),
        (r#"{"gpu": []}"#, "unknown field `gpu`"),
        (r#"{"gpus": [{"temp": 1}]}"#, "GPU 0 at 0 ms: unknown field `temp`"),
        (r#"{"faults": {"nvmlInit": 9}}"#, "no function \"nvmlInit\""),
        (r#"{"gpus": [{"faults": {"x": 9}}]}"#, "no function \"x\""),
        (r#"{"events": [{"at_ms": 0, "gpu": 0}]}"#, "an event of GPU 0"),
        (r#"{"timeline": [{"at_ms": 0, "gpu": 7, "set": {}}]}"#, "a step for GPU 7"),
        (r#"{"gpus": [{}], "timeline": [{"at_ms": 5, "set": {"power_mw": -1}}]}"#, "GPU 0 at 5 ms"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expect), "{text}: {error}");
    }
    let many = format!(r#"{{"gpus": [{}]}}"#, vec!["{}"; GPUS_MAX + 1].join(","));
    assert!(parse(&many).unwrap_err().contains("65 GPUs"));
}

#[test]
fn every_scenario_of_the_repository_can_be_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/nvml");
    let names: Vec<&str> = crate::EXPORTS.iter().copied().flatten().copied().collect();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scenarios: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert!(scenarios.len() >= 15, "{scenarios:?}");
    for path in scenarios {
        let read = Scenario::parse(&std::fs::read_to_string(&path).unwrap(), &names);
        assert!(read.is_ok(), "{}: {:?}", path.display(), read.err());
    }
}

/// What nvitop 1.7 asks of a device and of its slices; without any one of them it ends with an error.
#[test]
fn what_nvitop_asks_for_is_there() {
    let all: Vec<&str> = crate::exports::EXPORTS.iter().flat_map(|names| names.iter().copied()).collect();
    for name in [
        "nvmlDeviceGetBAR1MemoryInfo",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetEncoderUtilization",
        "nvmlDeviceGetDecoderUtilization",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetPersistenceMode",
        "nvmlDeviceGetPerformanceState",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetPowerManagementLimit",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetComputeMode",
    ] {
        assert!(all.contains(&name), "{name}");
    }
}
