//! What must hold on a real driver; `cargo xtask hardware` runs these on a machine that has one.
//!
//! `AYA_TEST_NVML_LIB` names the library, empty: the system's. Run with --ignored, and they fail without a driver.

use aya_domain::GpuInfo;

use super::*;

fn real() -> NvmlSource {
    let lib = std::env::var_os("AYA_TEST_NVML_LIB").filter(|lib| !lib.is_empty());
    NvmlSource::new(lib.map(PathBuf::from), Tell::nobody())
}

/// The driver's own windows are about this long.
fn wait_a_second() {
    crossbeam_channel::after(std::time::Duration::from_secs(1)).recv().unwrap();
}

fn discovered() -> (NvmlSource, Vec<GpuInfo>) {
    let mut source = real();
    let found = source.discover().unwrap();
    assert_eq!(found.trouble, None);
    (source, found.items)
}

#[test]
#[ignore = "needs an NVIDIA driver: cargo xtask hardware"]
fn every_gpu_of_this_machine_is_described() {
    let (source, infos) = discovered();
    assert!(source.driver_version().is_some_and(|version| version.contains('.')));
    for info in infos {
        assert!(!info.name.is_empty(), "{info:?}");
        assert!(info.vram_total.is_none_or(|total| total.get() > 64 * MIB), "{info:?}");
        assert!(info.power_limit.is_none_or(|limit| limit.get() > 1_000), "in milliwatts: {info:?}");
        assert!(info.slowdown_margin.is_none_or(|margin| (-50..=0).contains(&margin.0)), "{info:?}");
    }
}

#[test]
#[ignore = "needs an NVIDIA driver: cargo xtask hardware"]
fn readings_of_this_machine_are_plausible_and_the_same_ones_each_time() {
    let (mut source, infos) = discovered();
    source.sample(MonoTime::ZERO).unwrap();
    wait_a_second();
    let mut present = Vec::new();
    for second in 1..=3 {
        let read = source.sample(MonoTime::from_millis(second * 1_000)).unwrap();
        assert_eq!(read.trouble, None);
        assert_eq!(read.items.len(), infos.len());
        let mut fields = Vec::new();
        for (info, (uuid, sample)) in infos.iter().zip(&read.items) {
            assert_eq!(&info.uuid, uuid);
            let used_and_free = sample.vram_used.zip(sample.vram_free);
            let fits = |(used, free): (Bytes, Bytes)| {
                info.vram_total.is_none_or(|total| used.get() + free.get() <= total.get())
            };
            assert!(used_and_free.is_none_or(fits), "{info:?} {sample:?}");
            assert!(sample.temperature.is_none_or(|heat| (0..=120).contains(&heat.0)), "{sample:?}");
            assert!(sample.power.is_none_or(|power| power.get() < 2_000_000), "{sample:?}");
            assert!(sample.recovery_action.is_none_or(|action| action <= 5), "{sample:?}");
            // The words of `Debug` that say whether a reading is there, by name.
            let text = format!("{sample:#?}");
            let names = text.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
            fields.push(
                names
                    .map(|line| (line.contains("None"), line.split(':').next().map(str::to_owned)))
                    .collect::<Vec<_>>(),
            );
        }
        present.push(fields);
        wait_a_second();
    }
    assert!(
        present.windows(2).all(|pair| pair[0] == pair[1]),
        "what a product has does not change: {present:?}"
    );
}

#[test]
#[ignore = "needs an NVIDIA driver: cargo xtask hardware"]
fn processes_and_events_of_this_machine_can_be_asked_for() {
    let (mut source, infos) = discovered();
    let held = source.holders(0..source.devices());
    assert!(held.len() <= infos.len(), "{held:?}");
    let soon = crossbeam_channel::tick(std::time::Duration::from_millis(5));
    let listens = soon.iter().take(4_000).any(|_| source.ledger.is_listening());
    eprintln!("xid events: {}", if listens { "listened to" } else { "not to be had" });
}
