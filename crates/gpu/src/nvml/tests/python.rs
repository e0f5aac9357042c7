//! The same scenario through NVIDIA's own Python binding: field by field what we read.
//!
//! `cargo xtask test` sets `AYA_TEST_PYTHON`; without it the test says loudly that it was skipped.

use std::process::Command;

use serde_json::{Map, Value, json};

use super::{Fake, at_the_end};
use aya_domain::{Bytes, Celsius, GpuInfo, GpuSample, Milliwatts, Ratio};

#[test]
fn nvidias_own_binding_reads_the_same() {
    let Some(python) = std::env::var_os("AYA_TEST_PYTHON") else {
        eprintln!(
            "SKIPPED: nvidias_own_binding_reads_the_same: AYA_TEST_PYTHON names no Python with nvidia-ml-py"
        );
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/python/read_nvml.py");
    let named = ["h100x2", "h100-mig", "a100-l4", "permission-denied", "xid94", "ecc-storm", "h100x8-busy"];
    let mut scenarios: Vec<_> = named.iter().map(|name| (*name, at_the_end(name))).collect();
    let links = json!({"pcie_link": [3, 8, 5, 16], "nvlinks": [true, false, true], "fields": {"29": 3, "30": 4, "52": 10, "59": 1, "94": 7}});
    scenarios.push(("links", json!({"gpus": [links]})));
    for (name, scenario) in scenarios {
        let mut fake = Fake::play(&scenario);
        let output = Command::new(&python)
            .arg(script)
            .env("LD_LIBRARY_PATH", fake.folder.path())
            .env_remove("AYA_FAKE_NVML_SCENARIO")
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let theirs: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();

        let infos = fake.discover().items;
        fake.sample();
        let samples = fake.sample().items;
        assert_eq!((infos.len(), samples.len()), (theirs.len(), theirs.len()), "{name}");
        for ((info, (_, sample)), theirs) in infos.iter().zip(&samples).zip(&theirs) {
            let ours = ours(info, sample);
            let theirs = in_percent(theirs.as_object().unwrap());
            for (field, value) in &ours {
                assert_eq!(value, &theirs[field], "{name}, {}: {field}", info.uuid);
            }
            assert_eq!(ours.len(), theirs.len());
        }
    }
}

/// Shares as whole tenths of a percent, so that floating point plays no part in the comparison.
fn permille(percent: f64) -> Value {
    json!(format!("{:.0}", percent * 10.0))
}

const SHARES: [&str; 6] =
    ["busy", "memory_busy", "sm_active", "sm_occupancy", "tensor_active", "dram_active"];

fn in_percent(theirs: &Map<String, Value>) -> Map<String, Value> {
    let share = |(field, value): (&String, &Value)| match value.as_f64() {
        Some(percent) if SHARES.contains(&field.as_str()) => (field.clone(), permille(percent)),
        _ => (field.clone(), value.clone()),
    };
    theirs.iter().map(share).collect()
}

fn ours(info: &GpuInfo, sample: &GpuSample) -> Map<String, Value> {
    let bytes = |value: Option<Bytes>| value.map(Bytes::get);
    let power = |value: Option<Milliwatts>| value.map(Milliwatts::get);
    let celsius = |value: Option<Celsius>| value.map(|celsius| celsius.0);
    let share = |value: Option<Ratio>| value.map(|ratio| permille(ratio.get() * 100.0));
    let (mig, link) = (info.mig.as_ref(), sample.pcie_link);
    let value = json!({
        "uuid": info.uuid.as_str(),
        "name": info.name,
        "mig": mig.map(|mig| json!([mig.parent.as_str(), mig.gpu_instance, mig.compute_instance])),
        "vram_total": bytes(info.vram_total),
        "vram_used": bytes(sample.vram_used),
        "vram_free": bytes(sample.vram_free),
        "power_limit": power(info.power_limit),
        "sm_clock_max": info.sm_clock_max_mhz,
        "slowdown_margin": celsius(info.slowdown_margin),
        "busy": share(sample.busy),
        "memory_busy": share(sample.memory_busy),
        "temperature": celsius(sample.temperature),
        "thermal_margin": celsius(sample.thermal_margin),
        "power": power(sample.power),
        "energy": sample.energy_millijoules,
        "sm_clock": sample.sm_clock_mhz,
        "memory_clock": sample.memory_clock_mhz,
        "reasons": sample.clock_event_reasons,
        "memory_temperature": celsius(sample.memory_temperature),
        "ecc_corrected": sample.ecc_corrected,
        "ecc_uncorrected": sample.ecc_uncorrected,
        "rows_remapped": sample.rows_remapped,
        "row_remap_pending": sample.row_remap_pending,
        "row_remap_failed": sample.row_remap_failed,
        "recovery_action": sample.recovery_action,
        "pcie_link": link.map(|link| json!([link.generation, link.lanes, link.generation_max, link.lanes_max])),
        "pcie_replays": sample.pcie_replays,
        "nvlinks_active": sample.nvlinks_active,
        "nvlink_errors": sample.nvlink_errors,
        "pages_retired": sample.pages_retired,
        "sm_active": share(sample.sm_active),
        "sm_occupancy": share(sample.sm_occupancy),
        "tensor_active": share(sample.tensor_active),
        "dram_active": share(sample.dram_active),
    });
    value.as_object().cloned().unwrap_or_default()
}
