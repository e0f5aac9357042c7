//! What a device does now, one value per call.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::{c_uint, c_ulonglong};
use std::mem::size_of;

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Answer, Code, Handle, Out, struct_version};
use crate::scenario::{Gpu, MemoryMib};
use crate::state::{Driver, Target};

const MIB: u64 = 1 << 20;

/// A reading that the product may not have.
fn some<T>(value: Option<T>) -> Result<T, Code> {
    value.ok_or(Code::NOT_SUPPORTED)
}

fn memory(driver: &Driver, device: Handle) -> Result<MemoryMib, Code> {
    Ok(match driver.target(device)? {
        Target::Gpu(_, gpu) => gpu.memory_mib,
        Target::Mig(_, _, mig) => mig.memory_mib,
    })
}

fn free(memory: MemoryMib) -> u64 {
    memory.total.saturating_sub(memory.reserved).saturating_sub(memory.used)
}

/// A reading that a GPU in MIG mode does not give.
fn without_mig(gpu: &Gpu) -> Result<&Gpu, Code> {
    if gpu.mig.is_some() { Err(Code::NOT_SUPPORTED) } else { Ok(gpu) }
}

fn clock(clocks: &[u32; 4], kind: c_uint, out: Out<c_uint>) -> Answer {
    let kind = usize::try_from(kind).unwrap_or(usize::MAX);
    out.put(*clocks.get(kind).ok_or(Code::INVALID_ARGUMENT)?)
}

/// One number of the PCIe link.
fn link(gpu: &Gpu, place: usize, out: Out<c_uint>) -> Answer {
    out.put(some(gpu.pcie_link.and_then(|link| link.get(place).copied()))?)
}

exports! {
    nvmlDeviceGetCurrPcieLinkGeneration(device: Handle, out: Out<c_uint>) = |driver| link(driver.gpu(device)?, 0, out);
    nvmlDeviceGetCurrPcieLinkWidth(device: Handle, out: Out<c_uint>) = |driver| link(driver.gpu(device)?, 1, out);
    nvmlDeviceGetMaxPcieLinkGeneration(device: Handle, out: Out<c_uint>) = |driver| link(driver.gpu(device)?, 2, out);
    nvmlDeviceGetMaxPcieLinkWidth(device: Handle, out: Out<c_uint>) = |driver| link(driver.gpu(device)?, 3, out);
    nvmlDeviceGetNvLinkState(device: Handle, link: c_uint, out: Out<c_uint>) = |driver| {
        let links = &without_mig(driver.gpu(device)?)?.nvlinks;
        let place = usize::try_from(link).unwrap_or(usize::MAX);
        let beyond = if links.is_empty() { Code::NOT_SUPPORTED } else { Code::INVALID_ARGUMENT };
        out.put(c_uint::from(*links.get(place).ok_or(beyond)?))
    };
    // The first version folds what the driver reserves into what is used.
    nvmlDeviceGetMemoryInfo(device: Handle, out: Out<sys::nvmlMemory_t>) = |driver| {
        let m = memory(driver, device)?;
        let used = m.used.saturating_add(m.reserved);
        out.put(sys::nvmlMemory_t { total: m.total * MIB, free: free(m) * MIB, used: used * MIB })
    };
    nvmlDeviceGetMemoryInfo_v2(device: Handle, out: Out<sys::nvmlMemory_v2_t>) = |driver| {
        let version = struct_version(size_of::<sys::nvmlMemory_v2_t>(), 2);
        if out.get()?.version != version {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let m = memory(driver, device)?;
        let (total, reserved, free, used) = (m.total * MIB, m.reserved * MIB, free(m) * MIB, m.used * MIB);
        out.put(sys::nvmlMemory_v2_t { version, total, reserved, free, used })
    };
    // A slice answers for its whole device.
    nvmlDeviceGetBAR1MemoryInfo(device: Handle, out: Out<sys::nvmlBAR1Memory_t>) = |driver| {
        let (Target::Gpu(_, gpu) | Target::Mig(_, gpu, _)) = driver.target(device)?;
        let [total, used] = some(gpu.bar1_mib)?.map(|mib| mib.saturating_mul(MIB));
        out.put(sys::nvmlBAR1Memory_t { bar1Total: total, bar1Free: total.saturating_sub(used), bar1Used: used })
    };
    nvmlDeviceGetUtilizationRates(device: Handle, out: Out<sys::nvmlUtilization_t>) = |driver| {
        let gpu = without_mig(driver.gpu(device)?)?;
        out.put(sys::nvmlUtilization_t { gpu: some(gpu.util_gpu)?, memory: gpu.util_mem })
    };
    nvmlDeviceGetEncoderUtilization(device: Handle, percent: Out<c_uint>, period_us: Out<c_uint>) = |driver| {
        without_mig(driver.gpu(device)?)?;
        percent.put(0)?;
        period_us.put(167_000)
    };
    nvmlDeviceGetDecoderUtilization(device: Handle, percent: Out<c_uint>, period_us: Out<c_uint>) = |driver| {
        without_mig(driver.gpu(device)?)?;
        percent.put(0)?;
        period_us.put(167_000)
    };
    nvmlDeviceGetTemperature(device: Handle, sensor: c_uint, out: Out<c_uint>) = |driver| {
        let gpu = driver.gpu(device)?;
        if sensor != 0 {
            return Err(Code::INVALID_ARGUMENT);
        }
        out.put(some(gpu.temp_c)?)
    };
    nvmlDeviceGetTemperatureThreshold(device: Handle, kind: c_uint, out: Out<c_uint>) = |driver| {
        let gpu = driver.gpu(device)?;
        let thresholds = [gpu.temp_shutdown_c, gpu.temp_slowdown_c, gpu.temp_mem_max_c, gpu.temp_gpu_max_c];
        let kind = usize::try_from(kind).unwrap_or(usize::MAX);
        out.put(some(*thresholds.get(kind).ok_or(Code::INVALID_ARGUMENT)?)?)
    };
    nvmlDeviceGetMarginTemperature(device: Handle, out: Out<sys::nvmlMarginTemperature_t>) = |driver| {
        let version = struct_version(size_of::<sys::nvmlMarginTemperature_t>(), 1);
        if out.get()?.version != version {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let margin = some(driver.gpu(device)?.temp_margin_c)?;
        out.put(sys::nvmlMarginTemperature_t { version, marginTemperature: margin })
    };
    nvmlDeviceGetPowerUsage(device: Handle, out: Out<c_uint>) =
        |driver| out.put(some(driver.gpu(device)?.power_mw)?);
    nvmlDeviceGetEnforcedPowerLimit(device: Handle, out: Out<c_uint>) =
        |driver| out.put(some(driver.gpu(device)?.power_limit_mw)?);
    nvmlDeviceGetPowerManagementLimit(device: Handle, out: Out<c_uint>) =
        |driver| out.put(some(driver.gpu(device)?.power_limit_mw)?);
    nvmlDeviceGetTotalEnergyConsumption(device: Handle, out: Out<c_ulonglong>) =
        |driver| out.put(some(driver.gpu(device)?.energy_mj)?);
    nvmlDeviceGetClockInfo(device: Handle, kind: c_uint, out: Out<c_uint>) =
        |driver| clock(&driver.gpu(device)?.clock_mhz, kind, out);
    nvmlDeviceGetMaxClockInfo(device: Handle, kind: c_uint, out: Out<c_uint>) =
        |driver| clock(&driver.gpu(device)?.clock_max_mhz, kind, out);
    // Older programs ask under the older name.
    nvmlDeviceGetCurrentClocksThrottleReasons(device: Handle, out: Out<c_ulonglong>) =
        |driver| out.put(some(driver.gpu(device)?.clock_event_reasons)?);
    nvmlDeviceGetCurrentClocksEventReasons(device: Handle, out: Out<c_ulonglong>) =
        |driver| out.put(some(driver.gpu(device)?.clock_event_reasons)?);
    nvmlDeviceGetTotalEccErrors(device: Handle, kind: c_uint, counter: c_uint, out: Out<c_ulonglong>) = |driver| {
        let gpu = driver.gpu(device)?;
        if kind > 1 || counter > 1 {
            return Err(Code::INVALID_ARGUMENT);
        }
        out.put(some(if kind == 0 { gpu.ecc_corrected } else { gpu.ecc_uncorrected })?)
    };
    nvmlDeviceGetRemappedRows(
        device: Handle,
        correctable: Out<c_uint>,
        uncorrectable: Out<c_uint>,
        pending: Out<c_uint>,
        failure: Out<c_uint>,
    ) = |driver| {
        let rows = some(without_mig(driver.gpu(device)?)?.remapped_rows)?;
        [correctable, uncorrectable, pending, failure].iter().zip(rows).try_for_each(|(out, row)| out.put(row))
    };
    nvmlDeviceGetPcieThroughput(device: Handle, counter: c_uint, out: Out<c_uint>) = |driver| {
        let [received, sent] = driver.gpu(device)?.pcie_kbps;
        match counter {
            0 => out.put(sent),
            1 => out.put(received),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    };
}
