//! The calls that the wrapper lacks or gets wrong, made on the loaded library itself.
//!
//! The first version of the memory call (old drivers have only that), the thermal margin, field values with
//! their sign (the wrapper loses the negative ones), clock reasons with bits it does not know, and instance ids.
#![expect(unsafe_code, reason = "calls through NVML's C ABI")]

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as sys;

/// Frame buffer in bytes. What the driver reserves is neither used nor free, except in the first version of
/// the call, which counts it as used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) free: u64,
}

pub(super) fn memory_v1(nvml: &Nvml, device: &Device<'_>) -> Result<Memory, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut memory = sys::nvmlMemory_t { total: 0, free: 0, used: 0 };
    // SAFETY: the handle is of this library, and the struct is the one that the function fills.
    nvml_try(unsafe { call(device.handle(), &raw mut memory) })?;
    Ok(Memory { total: memory.total, used: memory.used, free: memory.free })
}

/// Degrees left before the maximum operating temperature.
pub(super) fn thermal_margin(nvml: &Nvml, device: &Device<'_>) -> Result<i32, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetMarginTemperature.as_ref())?;
    // The struct's size and its first version.
    let mut margin = sys::nvmlMarginTemperature_t { version: 0x0100_0008, marginTemperature: 0 };
    // SAFETY: the handle is of this library, and the struct says its version, by which the function fills it.
    nvml_try(unsafe { call(device.handle(), &raw mut margin) })?;
    Ok(margin.marginTemperature)
}

/// Why the clocks are what they are; the wrapper drops bits that it does not know.
pub(super) fn clock_reasons(nvml: &Nvml, device: &Device<'_>) -> Result<u64, NvmlError> {
    let lib = nvml.lib();
    let mut reasons: c_ulonglong = 0;
    if let Ok(call) = lib.nvmlDeviceGetCurrentClocksEventReasons.as_ref() {
        // SAFETY: the handle is of this library, and the function writes one number.
        match nvml_try(unsafe { call(device.handle(), &raw mut reasons) }) {
            Err(NvmlError::FunctionNotFound) => {}
            answer => return answer.map(|()| reasons),
        }
    }
    // The same bits under the name that they had before driver 535.
    let call = nvml_sym(lib.nvmlDeviceGetCurrentClocksThrottleReasons.as_ref())?;
    // SAFETY: as above.
    nvml_try(unsafe { call(device.handle(), &raw mut reasons) })?;
    Ok(reasons)
}

/// The GPU instance and the compute instance of a slice.
pub(super) fn instances(nvml: &Nvml, slice: &Device<'_>) -> Result<(u32, u32), NvmlError> {
    let lib = nvml.lib();
    let gpu = nvml_sym(lib.nvmlDeviceGetGpuInstanceId.as_ref())?;
    let compute = nvml_sym(lib.nvmlDeviceGetComputeInstanceId.as_ref())?;
    let (mut gi, mut ci): (c_uint, c_uint) = (0, 0);
    // SAFETY: the handle is of this library, and each function writes one number.
    unsafe {
        nvml_try(gpu(slice.handle(), &raw mut gi))?;
        nvml_try(compute(slice.handle(), &raw mut ci))?;
    }
    Ok((gi, ci))
}

/// Which processes are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum List {
    Compute,
    /// Clients of the multi-process service.
    Mps,
}

/// Processes that one call has room for at first, and the most that are asked for.
const PROCESSES_AT_FIRST: usize = 64;
const PROCESSES_MAX: u32 = 4_096;

/// The processes that compute on the device, with the bytes that each holds. One call where the wrapper makes two: each
/// costs milliseconds. A list that grew in between is asked for once more.
pub(super) fn processes(nvml: &Nvml, device: &Device<'_>, list: List) -> Result<Vec<(u32, u64)>, NvmlError> {
    let lib = nvml.lib();
    let call = nvml_sym(match list {
        List::Compute => lib.nvmlDeviceGetComputeRunningProcesses_v3.as_ref(),
        List::Mps => lib.nvmlDeviceGetMPSComputeRunningProcesses_v3.as_ref(),
    })?;
    let empty = sys::nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
    let mut list = vec![empty; PROCESSES_AT_FIRST];
    for last_try in [false, true] {
        let mut count = c_uint::try_from(list.len()).unwrap_or(c_uint::MAX);
        // SAFETY: the handle is of this library, and the list is as long as the count says.
        match nvml_try(unsafe { call(device.handle(), &raw mut count, list.as_mut_ptr()) }) {
            Ok(()) => {
                list.truncate(usize::try_from(count).unwrap_or(usize::MAX));
                return Ok(list.iter().map(|process| (process.pid, process.usedGpuMemory)).collect());
            }
            Err(NvmlError::InsufficientSize(_)) if !last_try && count <= PROCESSES_MAX => {
                let wanted = usize::try_from(count).unwrap_or(0).saturating_mul(2);
                list.resize(wanted.max(list.len()), empty);
            }
            Err(error) => return Err(error),
        }
    }
    Err(NvmlError::InsufficientSize(None))
}

/// Field values in the order they are asked for; `None`: this GPU does not have it. They are matched by place,
/// because newer drivers have other numbers for some fields. Floating-point fields are not read.
pub(super) fn fields<const N: usize>(
    nvml: &Nvml,
    device: &Device<'_>,
    ids: [u32; N],
) -> Result<[Option<i128>; N], NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetFieldValues.as_ref())?;
    let mut values = ids.map(|id| sys::nvmlFieldValue_t {
        fieldId: id,
        scopeId: 0,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: 0,
        value: sys::nvmlValue_t { ullVal: 0 },
    });
    let count = c_int::try_from(N).unwrap_or(c_int::MAX);
    // SAFETY: the handle is of this library, and the array is as long as the count says.
    nvml_try(unsafe { call(device.handle(), count, values.as_mut_ptr()) })?;
    Ok(values.map(|value| integer(&value)))
}

fn integer(field: &sys::nvmlFieldValue_t) -> Option<i128> {
    if field.nvmlReturn != 0 {
        return None;
    }
    let value = field.value;
    // SAFETY: every member is a plain number of at most eight bytes, of which all were written before.
    unsafe {
        match field.valueType {
            1 => Some(i128::from(value.uiVal)),
            2 => Some(i128::from(value.ulVal)),
            3 => Some(i128::from(value.ullVal)),
            4 => Some(i128::from(value.sllVal)),
            5 => Some(i128::from(value.siVal)),
            6 => Some(i128::from(value.usVal)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_its_type_and_its_own_answer() {
        let field = |kind, answer, value| sys::nvmlFieldValue_t {
            fieldId: 194,
            scopeId: 0,
            timestamp: 0,
            latencyUsec: 0,
            valueType: kind,
            nvmlReturn: answer,
            value,
        };
        let minus_two = sys::nvmlValue_t { sllVal: 0xffff_fffe };
        for (kind, answer, expect) in [
            (1, 0, Some(4_294_967_294)),
            (3, 0, Some(4_294_967_294)),
            (5, 0, Some(-2)),
            (6, 0, Some(65_534)),
            (0, 0, None),
            (99, 0, None),
            (1, 3, None),
        ] {
            assert_eq!(integer(&field(kind, answer, minus_two)), expect, "type {kind}, answer {answer}");
        }
    }
}
