//! GPUs that exist only in so far as simulated engines run on them.
//!
//! Memory, duty cycle, power, heat and clocks follow from what the engines say they do, with the lag that
//! real sensors have. Nothing is random: the same activity at the same times gives the same readings.

use std::collections::BTreeMap;
use std::time::Duration;

use aya_domain::{Bytes, Celsius, GpuInfo, GpuSample, GpuSourceKind, GpuUuid, Milliwatts, MonoTime, Ratio};

use crate::{Collected, GpuError, GpuLoad, GpuSource, Product};

/// How fast a power reading follows the load: NVML averages over one second.
const POWER_TAU_S: f64 = 1.0;
/// How fast a die and its cooler warm up.
const HEAT_TAU_S: f64 = 20.0;
const AMBIENT_CELSIUS: f64 = 30.0;
/// Above ambient at the power limit.
const HEAT_AT_LIMIT_CELSIUS: f64 = 45.0;
/// Decode waits for memory and leaves the compute units half idle; prefill fills them.
const DECODE_POWER_SHARE: f64 = 0.55;
const PREFILL_POWER_SHARE: f64 = 0.97;
/// The clock gives way a little under full power.
const CLOCK_SAG: f64 = 0.12;
const IDLE_CLOCK_MHZ: u32 = 345;
/// NVML's clocks-event reasons.
const REASON_IDLE: u64 = 0x1;
const REASON_SW_POWER_CAP: u64 = 0x4;
/// Power at which the driver begins to hold the clock back, as a share of the limit.
const POWER_CAP_SHARE: f64 = 0.95;

/// One simulated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedGpu {
    pub uuid: GpuUuid,
    pub product: Product,
}

/// A host with simulated GPUs.
#[derive(Debug)]
pub struct SimulatedSource {
    gpus: Vec<Device>,
    loads: BTreeMap<GpuUuid, Load>,
    sampled_at: Option<MonoTime>,
}

#[derive(Debug)]
struct Device {
    gpu: SimulatedGpu,
    power_mw: f64,
    heat_c: f64,
    energy_mj: f64,
}

/// All engines on one GPU together.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    vram_used: Bytes,
    busy: f64,
    /// Share of the time spent on prompts.
    prefill: f64,
}

impl SimulatedSource {
    /// Idle and cold GPUs.
    #[must_use]
    pub fn new(gpus: Vec<SimulatedGpu>) -> Self {
        let gpus = gpus.into_iter().map(|gpu| Device {
            power_mw: gpu.product.power_idle.as_f64(),
            heat_c: AMBIENT_CELSIUS,
            energy_mj: 0.0,
            gpu,
        });
        Self { gpus: gpus.collect(), loads: BTreeMap::new(), sampled_at: None }
    }
}

impl GpuSource for SimulatedSource {
    fn kind(&self) -> GpuSourceKind {
        GpuSourceKind::Simulated
    }

    fn driver_version(&self) -> Option<String> {
        None
    }

    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
        Ok(Collected::all(self.gpus.iter().map(|d| d.gpu.info()).collect()))
    }

    fn sample(&mut self, now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        let passed = self.sampled_at.map_or(Duration::ZERO, |at| now.since(at));
        self.sampled_at = Some(now);
        let mut samples = Vec::with_capacity(self.gpus.len());
        for device in &mut self.gpus {
            let load = self.loads.get(&device.gpu.uuid).copied().unwrap_or_default();
            device.step(&load, passed.as_secs_f64());
            samples.push((device.gpu.uuid.clone(), device.read(&load)));
        }
        Ok(Collected::all(samples))
    }

    fn observe(&mut self, loads: &[GpuLoad]) {
        self.loads.clear();
        for told in loads {
            let load = self.loads.entry(told.gpu.clone()).or_default();
            let busy = told.busy.get();
            load.vram_used = load.vram_used.plus(told.vram_used);
            // Engines that share a GPU do not take turns: the chance that nobody is busy multiplies.
            load.busy = 1.0 - (1.0 - load.busy) * (1.0 - busy);
            load.prefill = (load.prefill + told.prefill.get()).min(load.busy);
        }
    }
}

impl SimulatedGpu {
    fn info(&self) -> GpuInfo {
        GpuInfo {
            uuid: self.uuid.clone(),
            name: self.product.name.to_owned(),
            vram_total: Some(self.product.vram_total),
            power_limit: Some(self.product.power_limit),
            sm_clock_max_mhz: Some(self.product.sm_clock_max_mhz),
            slowdown_margin: None,
            mig: None,
        }
    }
}

impl Device {
    /// Lets time pass under a load.
    fn step(&mut self, load: &Load, seconds: f64) {
        let product = &self.gpu.product;
        let (idle, limit) = (product.power_idle.as_f64(), product.power_limit.as_f64());
        let effort = (load.busy - load.prefill) * DECODE_POWER_SHARE + load.prefill * PREFILL_POWER_SHARE;
        self.energy_mj += self.power_mw * seconds;
        let power_wanted = idle + (limit - idle) * effort;
        self.power_mw += (power_wanted - self.power_mw) * settled(seconds, POWER_TAU_S);
        let heat_wanted = AMBIENT_CELSIUS + HEAT_AT_LIMIT_CELSIUS * self.power_mw / limit;
        self.heat_c += (heat_wanted - self.heat_c) * settled(seconds, HEAT_TAU_S);
    }

    fn read(&self, load: &Load) -> GpuSample {
        let product = &self.gpu.product;
        let room = product.vram_total.minus(product.vram_reserved);
        let vram_used = Bytes(load.vram_used.get().min(room.get()));
        let power_share = self.power_mw / product.power_limit.as_f64();
        let idle = load.busy <= 0.0;
        let busy_clock = f64::from(product.sm_clock_max_mhz) * (1.0 - CLOCK_SAG * power_share);
        let mut reasons = if idle { REASON_IDLE } else { 0 };
        if power_share >= POWER_CAP_SHARE {
            reasons |= REASON_SW_POWER_CAP;
        }
        GpuSample {
            vram_used: Some(vram_used),
            vram_free: Some(room.minus(vram_used)),
            busy: Some(Ratio::clamped(load.busy)),
            memory_busy: Some(Ratio::clamped(load.busy - 0.5 * load.prefill)),
            temperature: i32::try_from(rounded(self.heat_c)).ok().map(Celsius),
            power: Some(Milliwatts(rounded(self.power_mw))),
            energy_millijoules: Some(rounded(self.energy_mj)),
            sm_clock_mhz: Some(if idle {
                IDLE_CLOCK_MHZ
            } else {
                u32::try_from(rounded(busy_clock)).unwrap_or(0)
            }),
            memory_clock_mhz: Some(product.memory_clock_mhz),
            clock_event_reasons: Some(reasons),
            ..GpuSample::default()
        }
    }
}

/// How much of the way to its target a first-order quantity goes in this time.
fn settled(seconds: f64, tau_s: f64) -> f64 {
    1.0 - (-seconds / tau_s).exp()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sensor values, far inside of u64"
)]
fn rounded(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> (SimulatedSource, GpuUuid) {
        let uuid = GpuUuid::parse("GPU-sim-0").unwrap();
        let product = Product::named("h100").unwrap();
        (SimulatedSource::new(vec![SimulatedGpu { uuid: uuid.clone(), product }]), uuid)
    }

    fn load(gpu: &GpuUuid, gib: u64, busy: f64, prefill: f64) -> GpuLoad {
        let share = |v| Ratio::new(v).unwrap();
        GpuLoad { gpu: gpu.clone(), vram_used: Bytes(gib << 30), busy: share(busy), prefill: share(prefill) }
    }

    fn after(source: &mut SimulatedSource, seconds: u64) -> GpuSample {
        source.sample(MonoTime::from_millis(seconds * 1000)).unwrap().items[0].1
    }

    #[test]
    fn an_idle_gpu_is_cool_empty_and_slow() {
        let (mut source, _) = source();
        let sample = after(&mut source, 100);
        assert_eq!((sample.vram_used, sample.busy), (Some(Bytes(0)), Some(Ratio::ZERO)));
        assert_eq!((sample.power, sample.sm_clock_mhz), (Some(Milliwatts(70_000)), Some(345)));
        assert_eq!(sample.clock_event_reasons, Some(1));
        assert_eq!(sample.temperature, Some(Celsius(30)));
    }

    #[test]
    fn power_and_heat_follow_the_work_with_their_own_lag() {
        let (mut source, uuid) = source();
        after(&mut source, 0);
        source.observe(&[load(&uuid, 70, 1.0, 1.0)]);
        let soon = after(&mut source, 3);
        let late = after(&mut source, 300);
        assert!(soon.power.unwrap() > Milliwatts(600_000), "{soon:?}");
        assert!(soon.temperature.unwrap() < Celsius(45), "{soon:?}");
        assert!(late.temperature.unwrap() > Celsius(70), "{late:?}");
        assert_eq!(late.clock_event_reasons, Some(REASON_SW_POWER_CAP));
        assert!(late.energy_millijoules > soon.energy_millijoules);
        source.observe(&[load(&uuid, 70, 1.0, 0.0)]);
        let decode = after(&mut source, 600);
        assert!(decode.power < late.power && decode.memory_busy > late.memory_busy, "{decode:?}");
    }

    #[test]
    fn engines_on_one_gpu_share_it() {
        let (mut source, uuid) = source();
        source.observe(&[load(&uuid, 30, 0.5, 0.0), load(&uuid, 20, 0.5, 1.0)]);
        let sample = after(&mut source, 1);
        assert_eq!(sample.vram_used, Some(Bytes(50 << 30)));
        assert_eq!(sample.busy, Some(Ratio::new(0.75).unwrap()));
        source.observe(&[]);
        assert_eq!(
            after(&mut source, 2).vram_used,
            Some(Bytes(0)),
            "an engine that has gone frees its memory"
        );
    }

    #[test]
    fn memory_never_exceeds_what_the_product_has() {
        let (mut source, uuid) = source();
        source.observe(&[load(&uuid, 400, 0.1, 0.0)]);
        let sample = after(&mut source, 1);
        let total = source.discover().unwrap().items[0].vram_total.unwrap();
        assert_eq!(sample.vram_free, Some(Bytes(0)));
        assert!(sample.vram_used.unwrap() < total);
    }
}
