//! One reading of one device: eight calls, and two more where the product has GPM.
//!
//! Every reading (1 s): memory, utilisation, temperature, thermal margin, power, SM clock, clock reasons, and one batch of
//! fields (heat of the memory, energy, remapped rows, recovery action, throttled times, PCIe replays); with GPM the
//! activity and the PCIe and NVLink rates. The first reading after a discovery (30 s) also: memory clock, ECC counts, PCIe
//! link, retired pages, NVLink errors. Not here: processes (every 5 s, `processes.rs`), which cost milliseconds and hold a
//! global driver lock, and PCIe throughput, which takes 20 ms per call and is not asked at all.

use std::time::Duration;

use aya_domain::{Bytes, Celsius, GpuSample, GpuUuid, Milliwatts, PcieLink, Ratio};
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tracing::warn;

use super::activity::{self, Activity};
use super::board::{Board, Slice, Slow};
use super::error::{is_final, is_of_the_gpu};
use super::ledger::{Ledger, Xids};
use super::raw::{self, Memory};
use crate::GpuError;

/// One batch: temperature of the memory, energy, rows (uncorrectable, pending, failed), recovery action, nanoseconds
/// throttled by power and by heat, PCIe replays.
pub(super) const FIELDS: [u32; 9] = [82, 83, 143, 144, 145, 230, 74, 75, 94];
/// Another, rarely: pages retired (after corrected errors, after uncorrectable ones, pending), NVLink replays and
/// recoveries.
pub(super) const SLOW_FIELDS: [u32; 5] = [29, 30, 31, 52, 59];

/// What a device is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item {
    Memory,
    MemoryV1,
    Utilization,
    Temperature,
    Margin,
    Power,
    SmClock,
    Reasons,
    Fields,
    Activity,
    MemoryClock,
    EccCorrected,
    EccUncorrected,
    PcieLink,
    SlowFields,
    Nvlinks,
}

/// What a device will never answer: not asked again before the next discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Refused(u32);

impl Refused {
    pub(super) fn add(&mut self, item: Item) {
        self.0 |= 1 << (item as u32);
    }

    fn has(self, item: Item) -> bool {
        self.0 & (1 << (item as u32)) != 0
    }
}

/// Asks for one value after another and remembers what will never come.
struct Asker<'a> {
    refused: &'a mut Refused,
    ledger: &'a Ledger,
    lost: Option<GpuError>,
    /// A reading needs a right that we do not have.
    denied: bool,
}

impl<'a> Asker<'a> {
    const fn new(refused: &'a mut Refused, ledger: &'a Ledger) -> Self {
        Self { refused, ledger, lost: None, denied: false }
    }

    /// The value; nothing where it is not to be had, and from the moment on at which the GPU is lost.
    fn ask<T>(&mut self, item: Item, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.refused.has(item) || self.lost.is_some() {
            return None;
        }
        let error = match call() {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let cause = self.ledger.failed(&error);
        if is_of_the_gpu(&cause) {
            self.lost = Some(cause);
        } else if is_final(&error) {
            self.refused.add(item);
            self.denied |= cause == GpuError::NoPermission;
        }
        None
    }

    fn memory(&mut self, nvml: &Nvml, device: &Device<'_>) -> Option<Memory> {
        let newer = self.ask(Item::Memory, || device.memory_info());
        if let Some(memory) = newer {
            return Some(Memory { total: memory.total, used: memory.used, free: memory.free });
        }
        // Only where there is no newer call at all: one that failed just now is no reason for another meaning.
        if self.refused.has(Item::Memory) {
            return self.ask(Item::MemoryV1, || raw::memory_v1(nvml, device));
        }
        None
    }

    fn done(self) -> Result<(), GpuError> {
        self.lost.map_or(Ok(()), Err)
    }
}

impl Board {
    /// Reads the device, or each of its slices. Slices share its heat, clocks and faults; its power, energy and
    /// duty cycle are those of all slices together and are told of none.
    pub(super) fn read(
        &mut self,
        nvml: &Nvml,
        ledger: &Ledger,
    ) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        let found = find(nvml, &self.info.uuid, ledger);
        let read = found.and_then(|device| Ok((self.read_device(nvml, &device, ledger)?, device)));
        let (whole, device) = match read {
            Ok(read) => read,
            Err(error) => {
                if matches!(error, GpuError::Lost | GpuError::ResetRequired) {
                    ledger.lost(&self.info.uuid);
                }
                return Err(error);
            }
        };
        ledger.answered(&self.info.uuid);
        if let Some(action) = whole.recovery_action {
            ledger.recovery(&self.info.uuid, action);
        }
        if self.slices.is_empty() {
            let sample = with_xids(whole, ledger.of(&self.info.uuid, None));
            return Ok(vec![(self.info.uuid.clone(), sample)]);
        }
        let shared =
            GpuSample { power: None, energy_millijoules: None, busy: None, memory_busy: None, ..whole };
        let mut samples = Vec::with_capacity(self.slices.len());
        for slice in &mut self.slices {
            let xids = ledger.of(&self.info.uuid, Some(slice.gpu_instance));
            samples
                .push((slice.info.uuid.clone(), with_xids(slice.read(nvml, &device, shared, ledger)?, xids)));
        }
        Ok(samples)
    }

    fn read_device(
        &mut self,
        nvml: &Nvml,
        device: &Device<'_>,
        ledger: &Ledger,
    ) -> Result<GpuSample, GpuError> {
        let whole = self.slices.is_empty();
        let Self { refused, kept, .. } = self;
        let mut asker = Asker::new(refused, ledger);
        // Neither the memory nor the activity of a sliced device is anybody's.
        let memory = if whole { asker.memory(nvml, device) } else { None };
        let activity = match whole {
            true => asker.ask(Item::Activity, || activity::read(nvml, device, None, kept)),
            false => None,
        };
        let utilization = asker.ask(Item::Utilization, || device.utilization_rates());
        let temperature = asker.ask(Item::Temperature, || device.temperature(TemperatureSensor::Gpu));
        let margin = asker.ask(Item::Margin, || raw::thermal_margin(nvml, device));
        let power = asker.ask(Item::Power, || device.power_usage());
        let sm_clock = asker.ask(Item::SmClock, || device.clock_info(Clock::SM));
        let reasons = asker.ask(Item::Reasons, || raw::clock_reasons(nvml, device));
        let fields = asker.ask(Item::Fields, || raw::fields(nvml, device, FIELDS));
        let slow = *self.slow.get_or_insert_with(|| read_slow(&mut asker, nvml, device));
        let denied = asker.denied;
        asker.done()?;
        if denied && !self.denied_told {
            warn!(gpu = %self.info.uuid, "some readings are missing: the driver wants more permissions for them");
        }
        self.denied_told |= denied;
        let percent = |p: u32| Ratio::new(f64::from(p) / 100.0).ok();
        let temperature = temperature.and_then(|celsius| i32::try_from(celsius).ok());
        let margin = margin.or_else(|| self.heat_max.zip(temperature).map(|(max, now)| max - now));
        let sample = GpuSample {
            busy: utilization.as_ref().and_then(|u| percent(u.gpu)),
            memory_busy: utilization.as_ref().and_then(|u| percent(u.memory)),
            temperature: temperature.map(Celsius),
            thermal_margin: margin.map(Celsius),
            power: power.map(|mw| Milliwatts(u64::from(mw))),
            sm_clock_mhz: sm_clock,
            memory_clock_mhz: slow.memory_clock_mhz,
            clock_event_reasons: reasons,
            ecc_corrected: slow.ecc_corrected,
            ecc_uncorrected: slow.ecc_uncorrected,
            pcie_link: slow.pcie_link,
            pages_retired: slow.pages_retired,
            page_retirement_pending: slow.page_retirement_pending,
            nvlink_errors: slow.nvlink_errors,
            nvlinks_active: slow.nvlinks_active,
            ..with_fields(fields.unwrap_or_default())
        };
        Ok(with_memory(with_activity(sample, activity), memory))
    }
}

impl Slice {
    fn read(
        &mut self,
        nvml: &Nvml,
        parent: &Device<'_>,
        shared: GpuSample,
        ledger: &Ledger,
    ) -> Result<GpuSample, GpuError> {
        let gone = || GpuError::Other(format!("the slice {} is not there any more", self.info.uuid));
        let cut_anew = |error| if error == GpuError::Lost { gone() } else { error };
        let device = find(nvml, &self.info.uuid, ledger).map_err(cut_anew)?;
        let mut asker = Asker::new(&mut self.refused, ledger);
        let (instance, kept) = (Some(self.gpu_instance), &mut self.kept);
        let memory = asker.memory(nvml, &device);
        let activity = asker.ask(Item::Activity, || activity::read(nvml, parent, instance, kept));
        asker.done()?;
        Ok(with_memory(with_activity(shared, activity), memory))
    }
}

/// A device by its name. One that is not there any more has gone since the last discovery.
fn find<'nvml>(nvml: &'nvml Nvml, uuid: &GpuUuid, ledger: &Ledger) -> Result<Device<'nvml>, GpuError> {
    nvml.device_by_uuid(uuid.as_str()).map_err(|error| {
        let cause = ledger.failed(&error);
        if matches!(error, NvmlError::NotFound) { GpuError::Lost } else { cause }
    })
}

fn read_slow(asker: &mut Asker<'_>, nvml: &Nvml, device: &Device<'_>) -> Slow {
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile);
    let fields = asker.ask(Item::SlowFields, || raw::fields(nvml, device, SLOW_FIELDS)).unwrap_or_default();
    let [corrected, uncorrectable, pending, replays, recoveries] = fields;
    Slow {
        memory_clock_mhz: asker.ask(Item::MemoryClock, || device.clock_info(Clock::Memory)),
        ecc_corrected: asker.ask(Item::EccCorrected, || ecc(MemoryError::Corrected)),
        ecc_uncorrected: asker.ask(Item::EccUncorrected, || ecc(MemoryError::Uncorrected)),
        pcie_link: asker.ask(Item::PcieLink, || pcie_link(device)),
        pages_retired: sum(corrected, uncorrectable).and_then(number),
        page_retirement_pending: pending.map(|pending| pending != 0),
        nvlink_errors: sum(replays, recoveries).and_then(|errors| u64::try_from(errors).ok()),
        nvlinks_active: asker.ask(Item::Nvlinks, || nvlinks_active(device)),
    }
}

/// Most NVLinks of one GPU: Hopper and Blackwell have 18.
const NVLINKS_MAX: u32 = 18;

fn nvlinks_active(device: &Device<'_>) -> Result<u32, NvmlError> {
    let mut active = 0;
    for link in 0..NVLINKS_MAX {
        match device.link_wrapper_for(link).is_active() {
            Ok(up) => active += u32::from(up),
            // A product with fewer links does not know those beyond, and one without any knows none.
            Err(NvmlError::InvalidArg | NvmlError::NotSupported) if link > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(active)
}

fn pcie_link(device: &Device<'_>) -> Result<PcieLink, NvmlError> {
    Ok(PcieLink {
        generation: device.current_pcie_link_gen()?,
        lanes: device.current_pcie_link_width()?,
        generation_max: device.max_pcie_link_gen()?,
        lanes_max: device.max_pcie_link_width()?,
    })
}

/// Of two counters, one of which a product may lack.
fn sum(a: Option<i128>, b: Option<i128>) -> Option<i128> {
    match (a, b) {
        (Some(a), Some(b)) => a.checked_add(b),
        (one, None) | (None, one) => one,
    }
}

fn number(value: i128) -> Option<u32> {
    u32::try_from(value).ok()
}

/// The batch, by place.
fn with_fields(batch: [Option<i128>; 9]) -> GpuSample {
    let [heat, energy, rows, pending, failed, recovery, by_power, by_heat, replays] = batch;
    let flag = |value: Option<i128>| value.map(|value| value != 0);
    let counter = |value: Option<i128>| value.and_then(|value| u64::try_from(value).ok());
    GpuSample {
        memory_temperature: heat.and_then(|celsius| i32::try_from(celsius).ok()).map(Celsius),
        energy_millijoules: counter(energy),
        rows_remapped: rows.and_then(number),
        row_remap_pending: flag(pending),
        row_remap_failed: flag(failed),
        recovery_action: recovery.and_then(number),
        throttled_power: counter(by_power).map(Duration::from_nanos),
        throttled_thermal: counter(by_heat).map(Duration::from_nanos),
        pcie_replays: counter(replays),
        ..GpuSample::default()
    }
}

fn with_xids(sample: GpuSample, xids: Option<Xids>) -> GpuSample {
    GpuSample { xids: xids.map(|xids| xids.count), last_xid: xids.and_then(|xids| xids.last), ..sample }
}

fn with_memory(sample: GpuSample, memory: Option<Memory>) -> GpuSample {
    // Free is not total - used: what the driver reserves is neither. More than there is says nothing.
    let memory = memory.filter(|m| m.used.checked_add(m.free).is_some_and(|sum| sum <= m.total));
    let (vram_used, vram_free) = (memory.map(|m| Bytes(m.used)), memory.map(|m| Bytes(m.free)));
    GpuSample { vram_used, vram_free, ..sample }
}

fn with_activity(sample: GpuSample, activity: Option<Activity>) -> GpuSample {
    let Activity { sm, occupancy, tensor, dram, pcie_tx, pcie_rx, nvlink_tx, nvlink_rx } =
        activity.unwrap_or_default();
    GpuSample {
        sm_active: sm,
        sm_occupancy: occupancy,
        tensor_active: tensor,
        dram_active: dram,
        pcie_tx_bytes_per_second: pcie_tx,
        pcie_rx_bytes_per_second: pcie_rx,
        nvlink_tx_bytes_per_second: nvlink_tx,
        nvlink_rx_bytes_per_second: nvlink_rx,
        ..sample
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{CallError, FailedCalls, Tell};

    #[test]
    fn what_a_gpu_does_not_support_is_asked_once_and_a_lost_gpu_is_not_asked_on() {
        let (mut refused, counts) = (Refused::default(), Arc::new(FailedCalls::default()));
        let ledger = Ledger::new(Tell::nobody().counting(Arc::clone(&counts)));
        for round in 0..2 {
            let mut asker = Asker::new(&mut refused, &ledger);
            let mut calls = 0;
            let mut call = |item, answer: Result<u32, NvmlError>| {
                asker.ask(item, || {
                    calls += 1;
                    answer
                })
            };
            assert_eq!(call(Item::Power, Ok(1)), Some(1));
            assert_eq!(call(Item::Margin, Err(NvmlError::NotSupported)), None);
            assert_eq!(call(Item::Reasons, Err(NvmlError::Unknown)), None);
            assert_eq!(call(Item::SmClock, Err(NvmlError::GpuLost)), None);
            assert_eq!(call(Item::Memory, Ok(5)), None);
            assert_eq!(asker.lost, Some(GpuError::Lost));
            assert_eq!(calls, if round == 0 { 4 } else { 3 });
        }
        assert!(refused.has(Item::Margin) && !refused.has(Item::Reasons));
        let counted = CallError::ALL.map(|error| counts.of(error));
        assert_eq!(counted, [1, 0, 2, 0, 0, 0, 0, 2], "one not supported, two lost, two others");
    }
}
