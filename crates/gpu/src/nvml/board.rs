//! One device in the machine: what does not change, its slices, and what it has said it will never answer.

use aya_domain::{Bytes, Celsius, GpuInfo, GpuUuid, MigSlice, Milliwatts, PcieLink};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureThreshold};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::activity::Kept;
use super::error::named;
use super::kernel_log::Slot;
use super::read::{Item, Refused};
use super::{ledger, raw};
use crate::{Collected, GpuError};

/// The field with the margin at which the hardware cuts the clocks.
const SLOWDOWN_MARGIN: u32 = 194;

/// A device, as the last discovery found it.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) info: GpuInfo,
    /// Empty: the whole device is one GPU.
    pub(super) slices: Vec<Slice>,
    pub(super) slot: Option<Slot>,
    /// The maximum operating temperature of a product that names no margin.
    pub(super) heat_max: Option<i32>,
    pub(super) refused: Refused,
    pub(super) kept: Option<Kept>,
    /// What is read once per discovery.
    pub(super) slow: Option<Slow>,
    /// Whether programs share it through MPS; not known before the first list after a discovery.
    pub(super) mps: Option<bool>,
    /// The log knows that permissions are missing.
    pub(super) denied_told: bool,
}

/// A MIG device.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) info: GpuInfo,
    pub(super) gpu_instance: u32,
    pub(super) refused: Refused,
    pub(super) kept: Option<Kept>,
}

/// Readings that change too slowly for every tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slow {
    pub(super) memory_clock_mhz: Option<u32>,
    pub(super) ecc_corrected: Option<u64>,
    pub(super) ecc_uncorrected: Option<u64>,
    pub(super) pcie_link: Option<PcieLink>,
    pub(super) pages_retired: Option<u32>,
    pub(super) page_retirement_pending: Option<bool>,
    pub(super) nvlink_errors: Option<u64>,
    pub(super) nvlinks_active: Option<u32>,
}

impl Board {
    /// What placement sees: the slices where there are some, else the device.
    pub(super) fn gpus(&self) -> impl Iterator<Item = &GpuInfo> {
        let whole = self.slices.is_empty().then_some(&self.info);
        whole.into_iter().chain(self.slices.iter().map(|slice| &slice.info))
    }

    /// The device as the ledger knows it.
    pub(super) fn device(&self) -> ledger::Device {
        let slices = self.slices.iter().map(|slice| (slice.info.uuid.clone(), slice.gpu_instance)).collect();
        ledger::Device { uuid: self.info.uuid.clone(), slices, slot: self.slot }
    }

    /// Takes the last samples of GPM over from the discovery before, so that no reading is lost to this one.
    pub(super) fn take_over(&mut self, before: &mut Self) {
        self.kept = before.kept.take();
        self.denied_told = before.denied_told;
        for slice in &mut self.slices {
            let same = before.slices.iter_mut().find(|b| b.info.uuid == slice.info.uuid);
            slice.kept = same.and_then(|before| before.kept.take());
        }
    }

    /// Gives everything back that belongs to the library.
    pub(super) fn release(&mut self, nvml: &Nvml) {
        let of_slices = self.slices.iter_mut().filter_map(|slice| slice.kept.take());
        self.kept.take().into_iter().chain(of_slices).for_each(|kept| kept.release(nvml));
    }
}

/// Every device that can be described.
pub(super) fn describe_all(nvml: &Nvml, ledger: &ledger::Ledger) -> Result<Collected<Board>, GpuError> {
    let count = nvml.device_count().map_err(|e| ledger.failed(&e))?;
    let mut items = Vec::new();
    let mut failed = Vec::new();
    for index in 0..count {
        let device = nvml.device_by_index(index).map_err(|e| ledger.failed(&e));
        let board = device.and_then(|device| describe(nvml, &device));
        match board {
            Ok((board, trouble)) => {
                items.push(board);
                failed.extend(trouble.map(|error| (index, error)));
            }
            Err(error) => failed.push((index, error)),
        }
    }
    let trouble = super::told(failed.iter().map(|(index, error)| format!("GPU {index}: {error}")));
    match failed.pop() {
        Some((_, error)) if items.is_empty() => Err(error),
        None if items.is_empty() => Err(GpuError::NoGpus),
        _ => Ok(Collected { items, trouble }),
    }
}

fn describe(nvml: &Nvml, device: &Device<'_>) -> Result<(Board, Option<GpuError>), GpuError> {
    let limit = device.enforced_power_limit().or_else(|_| device.power_management_limit());
    let slowdown = raw::fields(nvml, device, [SLOWDOWN_MARGIN]).ok().and_then(|[margin]| margin);
    let heat_max = device.temperature_threshold(TemperatureThreshold::GpuMax).ok();
    let info = GpuInfo {
        uuid: uuid(device)?,
        name: device.name().unwrap_or_else(|_| "unknown NVIDIA GPU".to_owned()),
        vram_total: vram_total(nvml, device),
        power_limit: limit.ok().map(|mw| Milliwatts(u64::from(mw))),
        sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
        slowdown_margin: slowdown.and_then(signed).map(Celsius),
        mig: None,
    };
    let (mut slices, trouble) = slices(nvml, device, &info);
    let mut refused = Refused::default();
    if !device.gpm_support().unwrap_or(false) {
        refused.add(Item::Activity);
        slices.iter_mut().for_each(|slice| slice.refused.add(Item::Activity));
    }
    let heat_max = heat_max.and_then(|celsius| i32::try_from(celsius).ok());
    let slot = device.pci_info().ok().and_then(|pci| Slot::parse(&pci.bus_id));
    let board = Board {
        info,
        slot,
        slices,
        heat_max,
        refused,
        kept: None,
        slow: None,
        mps: None,
        denied_told: false,
    };
    Ok((board, trouble))
}

/// A margin, also from a driver that hands the bits of a negative number over as an unsigned one.
fn signed(margin: i128) -> Option<i32> {
    i32::try_from(margin).ok().or_else(|| u32::try_from(margin).ok().map(u32::cast_signed))
}

fn uuid(device: &Device<'_>) -> Result<GpuUuid, GpuError> {
    let uuid = device.uuid().map_err(|e| named(&e))?;
    GpuUuid::parse(&uuid).map_err(|e| GpuError::Other(format!("the UUID {uuid:?}: {e}")))
}

fn vram_total(nvml: &Nvml, device: &Device<'_>) -> Option<Bytes> {
    let total = device.memory_info().map(|memory| memory.total);
    total.or_else(|_| raw::memory_v1(nvml, device).map(|memory| memory.total)).ok().map(Bytes)
}

/// The slices of a device in MIG mode; one that cannot be described leaves the others.
fn slices(nvml: &Nvml, device: &Device<'_>, parent: &GpuInfo) -> (Vec<Slice>, Option<GpuError>) {
    let on = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let count = if on { device.mig_device_count().unwrap_or(0) } else { 0 };
    let (mut slices, mut trouble) = (Vec::new(), None);
    for index in 0..count {
        match device.mig_device_by_index(index) {
            Ok(slice) => match describe_slice(nvml, &slice, parent) {
                Ok(slice) => slices.push(slice),
                Err(error) => trouble = Some(error),
            },
            // An empty place.
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
            Err(error) => trouble = Some(named(&error)),
        }
    }
    (slices, trouble)
}

fn describe_slice(nvml: &Nvml, device: &Device<'_>, parent: &GpuInfo) -> Result<Slice, GpuError> {
    let (gpu_instance, compute_instance) = raw::instances(nvml, device).map_err(|e| named(&e))?;
    let info = GpuInfo {
        uuid: uuid(device)?,
        name: device.name().unwrap_or_else(|_| format!("{} MIG", parent.name)),
        vram_total: vram_total(nvml, device),
        // The limit is one for the whole device.
        power_limit: None,
        mig: Some(MigSlice { parent: parent.uuid.clone(), gpu_instance, compute_instance }),
        ..parent.clone()
    };
    Ok(Slice { info, gpu_instance, refused: Refused::default(), kept: None })
}
