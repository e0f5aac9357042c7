//! GPUs as NVIDIA's driver sees them.
//!
//! Eight cheap calls per GPU and tick: processes and PCIe throughput cost milliseconds and hold a global
//! driver lock. MIG slices are not told apart yet: a MIG device reads as one GPU without a duty cycle.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use aya_domain::{Bytes, Celsius, GpuInfo, GpuSample, GpuSourceKind, GpuUuid, Milliwatts, MonoTime, Ratio};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::{Collected, GpuError, GpuSource};

/// NVML's code for "the GPU was not found", which the wrapper has no name for.
const GPU_NOT_FOUND: u32 = 28;

/// The driver of this host, opened at the first discovery and again after a failure that needs it.
pub struct NvmlSource {
    lib: Option<OsString>,
    nvml: Option<Nvml>,
    driver_version: Option<String>,
    gpus: Vec<GpuUuid>,
    /// What each GPU has once said that it does not support: not asked again before the next discovery.
    unsupported: BTreeMap<GpuUuid, u16>,
    /// Why `nvml` is closed.
    closed_by: GpuError,
}

impl fmt::Debug for NvmlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmlSource")
            .field("lib", &self.lib)
            .field("open", &self.nvml.is_some())
            .field("gpus", &self.gpus)
            .finish_non_exhaustive()
    }
}

impl NvmlSource {
    /// A source that loads NVML from this path, or from where the system has it. Nothing is opened yet.
    #[must_use]
    pub fn new(lib: Option<PathBuf>) -> Self {
        Self {
            lib: lib.map(PathBuf::into_os_string),
            nvml: None,
            driver_version: None,
            gpus: Vec::new(),
            unsupported: BTreeMap::new(),
            closed_by: GpuError::DriverNotLoaded,
        }
    }

    fn open(&mut self) -> Result<(), GpuError> {
        if self.nvml.is_some() {
            return Ok(());
        }
        let mut builder = Nvml::builder();
        if let Some(lib) = &self.lib {
            builder.lib_path(lib);
        }
        let nvml = builder.init().map_err(|e| name_error(&e))?;
        self.driver_version = nvml.sys_driver_version().ok();
        self.nvml = Some(nvml);
        Ok(())
    }

    /// Gives the library back after a failure that a new start may heal.
    fn close_after(&mut self, error: GpuError) -> GpuError {
        if error.needs_reopen() {
            self.nvml = None;
        }
        self.closed_by = error.clone();
        error
    }
}

impl GpuSource for NvmlSource {
    fn kind(&self) -> GpuSourceKind {
        GpuSourceKind::Nvml
    }

    fn driver_version(&self) -> Option<String> {
        self.driver_version.clone()
    }

    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
        if let Err(error) = self.open() {
            return Err(self.close_after(error));
        }
        self.unsupported.clear();
        let found = self.nvml.as_ref().ok_or(GpuError::NoGpus).and_then(describe_all);
        match found {
            Ok(found) => {
                self.gpus = found.items.iter().map(|info| info.uuid.clone()).collect();
                Ok(found)
            }
            Err(error) => Err(self.close_after(error)),
        }
    }

    fn sample(&mut self, _now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        let nvml = self.nvml.as_ref().ok_or_else(|| self.closed_by.clone())?;
        let mut samples = Vec::with_capacity(self.gpus.len());
        let mut trouble = None;
        for uuid in &self.gpus {
            let unsupported = self.unsupported.entry(uuid.clone()).or_default();
            let read = nvml
                .device_by_uuid(uuid.as_str())
                .map_err(|e| name_error(&e))
                .and_then(|device| read_sample(&device, unsupported));
            match read {
                Ok(sample) => samples.push((uuid.clone(), sample)),
                Err(error) => trouble = Some((uuid.clone(), error)),
            }
        }
        match trouble {
            Some((_, error)) if samples.is_empty() => Err(self.close_after(error)),
            trouble => Ok(Collected {
                items: samples,
                trouble: trouble.map(|(uuid, error)| format!("{uuid}: {error}")),
            }),
        }
    }
}

fn describe_all(nvml: &Nvml) -> Result<Collected<GpuInfo>, GpuError> {
    let count = nvml.device_count().map_err(|e| name_error(&e))?;
    let mut items = Vec::new();
    let mut last_error = None;
    for index in 0..count {
        match nvml.device_by_index(index).map_err(|e| name_error(&e)).and_then(|d| describe(&d)) {
            Ok(info) => items.push(info),
            Err(error) => last_error = Some((index, error)),
        }
    }
    match last_error {
        Some((_, error)) if items.is_empty() => Err(error),
        None if items.is_empty() => Err(GpuError::NoGpus),
        last_error => {
            Ok(Collected { items, trouble: last_error.map(|(index, error)| format!("GPU {index}: {error}")) })
        }
    }
}

fn describe(device: &Device<'_>) -> Result<GpuInfo, GpuError> {
    let uuid = device.uuid().map_err(|e| name_error(&e))?;
    let uuid = GpuUuid::parse(&uuid).map_err(|e| GpuError::Other(format!("the UUID {uuid:?}: {e}")))?;
    let limit = device.enforced_power_limit().or_else(|_| device.power_management_limit());
    Ok(GpuInfo {
        name: device.name().unwrap_or_else(|_| "unknown NVIDIA GPU".to_owned()),
        vram_total: device.memory_info().ok().map(|m| Bytes(m.total)),
        power_limit: limit.ok().map(|mw| Milliwatts(u64::from(mw))),
        sm_clock_max_mhz: device.max_clock_info(Clock::SM).ok(),
        slowdown_margin: None,
        mig: None,
        uuid,
    })
}

/// Asks for one value after another and remembers what will never come.
struct Asker<'a> {
    unsupported: &'a mut u16,
    next_bit: u16,
    lost: Option<GpuError>,
}

impl Asker<'_> {
    fn ask<T>(&mut self, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        let bit = self.next_bit;
        self.next_bit <<= 1;
        if *self.unsupported & bit != 0 || self.lost.is_some() {
            return None;
        }
        let error = match call() {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let named = name_error(&error);
        if matches!(named, GpuError::Lost | GpuError::ResetRequired | GpuError::DriverNotLoaded) {
            self.lost = Some(named);
        } else if matches!(named, GpuError::OldLibrary(_) | GpuError::NoPermission)
            || matches!(error, NvmlError::NotSupported)
        {
            *self.unsupported |= bit;
        }
        None
    }
}

fn read_sample(device: &Device<'_>, unsupported: &mut u16) -> Result<GpuSample, GpuError> {
    let mut asker = Asker { unsupported, next_bit: 1, lost: None };
    let memory = asker.ask(|| device.memory_info());
    let utilization = asker.ask(|| device.utilization_rates());
    let temperature = asker.ask(|| device.temperature(TemperatureSensor::Gpu));
    let power = asker.ask(|| device.power_usage());
    let energy = asker.ask(|| device.total_energy_consumption());
    let sm_clock = asker.ask(|| device.clock_info(Clock::SM));
    let memory_clock = asker.ask(|| device.clock_info(Clock::Memory));
    let reasons = asker.ask(|| device.current_throttle_reasons());
    if let Some(error) = asker.lost {
        return Err(error);
    }
    let percent = |p: u32| Ratio::new(f64::from(p) / 100.0).ok();
    Ok(GpuSample {
        vram_used: memory.as_ref().map(|m| Bytes(m.used)),
        // Not total - used: what the driver reserves is neither used nor free.
        vram_free: memory.as_ref().map(|m| Bytes(m.free)),
        busy: utilization.as_ref().and_then(|u| percent(u.gpu)),
        memory_busy: utilization.as_ref().and_then(|u| percent(u.memory)),
        temperature: temperature.and_then(|t| i32::try_from(t).ok()).map(Celsius),
        power: power.map(|mw| Milliwatts(u64::from(mw))),
        energy_millijoules: energy,
        sm_clock_mhz: sm_clock,
        memory_clock_mhz: memory_clock,
        clock_event_reasons: reasons.map(|r| r.bits()),
        ..GpuSample::default()
    })
}

/// The wrapper's errors in our words.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told in the driver's own words")]
fn name_error(error: &NvmlError) -> GpuError {
    match error {
        NvmlError::LibloadingError(e) => GpuError::NoLibrary(e.to_string()),
        NvmlError::LibraryNotFound => GpuError::NoLibrary(error.to_string()),
        NvmlError::FailedToLoadSymbol(symbol) => GpuError::OldLibrary(symbol.clone()),
        NvmlError::FunctionNotFound => GpuError::OldLibrary(error.to_string()),
        NvmlError::DriverNotLoaded | NvmlError::Uninitialized => GpuError::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => GpuError::VersionMismatch,
        NvmlError::NoPermission | NvmlError::OperatingSystem => GpuError::NoPermission,
        NvmlError::GpuLost | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => GpuError::Lost,
        NvmlError::ResetRequired => GpuError::ResetRequired,
        other => GpuError::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_library_says_so_and_may_get_it_later() {
        let mut source = NvmlSource::new(Some(PathBuf::from("/nonexistent/libnvidia-ml.so.1")));
        for _ in 0..2 {
            let error = source.discover().unwrap_err();
            assert!(matches!(error, GpuError::NoLibrary(_)), "{error:?}");
            assert!(error.to_string().contains("/nonexistent/libnvidia-ml.so.1"), "{error}");
            assert_eq!(source.sample(MonoTime::ZERO), Err(error), "nothing read is not an idle host");
        }
    }

    #[test]
    fn errors_that_an_operator_treats_differently_stay_apart() {
        for (error, expect) in [
            (NvmlError::DriverNotLoaded, GpuError::DriverNotLoaded),
            (NvmlError::LibRmVersionMismatch, GpuError::VersionMismatch),
            (NvmlError::GpuLost, GpuError::Lost),
            (NvmlError::UnexpectedVariant(28), GpuError::Lost),
            (NvmlError::ResetRequired, GpuError::ResetRequired),
            (NvmlError::NoPermission, GpuError::NoPermission),
            (NvmlError::FailedToLoadSymbol("f".into()), GpuError::OldLibrary("f".into())),
        ] {
            assert_eq!(name_error(&error), expect);
        }
    }

    #[test]
    fn what_a_gpu_does_not_support_is_asked_once_and_a_lost_gpu_is_not_asked_on() {
        let mut unsupported = 0;
        for round in 0..2 {
            let mut asker = Asker { unsupported: &mut unsupported, next_bit: 1, lost: None };
            let mut calls = 0;
            let mut call = |answer: Result<u32, NvmlError>| {
                asker.ask(|| {
                    calls += 1;
                    answer
                })
            };
            assert_eq!(call(Ok(1)), Some(1));
            assert_eq!(call(Err(NvmlError::NotSupported)), None);
            assert_eq!(call(Err(NvmlError::Unknown)), None);
            assert_eq!(call(Err(NvmlError::GpuLost)), None);
            assert_eq!(call(Ok(5)), None);
            assert_eq!(asker.lost, Some(GpuError::Lost));
            assert_eq!(calls, if round == 0 { 4 } else { 3 });
        }
        assert_eq!(unsupported, 0b10);
    }
}
