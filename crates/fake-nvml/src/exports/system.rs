//! Opening and closing the library, and what it says about itself.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::abi::{Code, Handle, Out, Text};
use crate::state::{calls_of, with_state};

exports! {
    nvmlInit_v2() = |_| with_state(|state| state.open());
    nvmlInitWithFlags(_flags: c_uint) = |_| with_state(|state| state.open());
    nvmlShutdown() = |_| with_state(|state| state.close());
    nvmlSystemGetDriverVersion(out: Out<c_char>, length: c_uint) =
        |driver| out.put_text(length, &driver.scenario.driver_version);
    nvmlSystemGetNVMLVersion(out: Out<c_char>, length: c_uint) =
        |driver| out.put_text(length, &driver.scenario.nvml_version);
    nvmlSystemGetCudaDriverVersion(out: Out<c_int>) = |driver| out.put(driver.scenario.cuda_version);
    nvmlSystemGetCudaDriverVersion_v2(out: Out<c_int>) = |driver| out.put(driver.scenario.cuda_version);
    nvmlDeviceGetCount_v2(out: Out<c_uint>) =
        |driver| out.put(c_uint::try_from(driver.gpus.len()).unwrap_or(c_uint::MAX));
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: Out<Handle>) =
        |driver| out.put(driver.handle(usize::try_from(index).unwrap_or(usize::MAX))?);
    nvmlDeviceGetHandleByUUID(uuid: Text, out: Out<Handle>) = |driver| {
        let uuid = uuid.get()?;
        if let Some(index) = driver.gpus.iter().position(|gpu| gpu.uuid == uuid) {
            return out.put(driver.handle(index)?);
        }
        let slices = driver.gpus.iter().enumerate().filter_map(|(g, gpu)| Some((g, gpu.mig.as_ref()?)));
        let found = |(gpu, slices): (usize, &Vec<crate::scenario::Mig>)| {
            Some((gpu, slices.iter().position(|slice| slice.uuid == uuid)?))
        };
        let (gpu, slot) = slices.filter_map(found).next().ok_or(Code::NOT_FOUND)?;
        driver.handle(gpu)?;
        out.put(crate::state::mig_handle(gpu, slot))
    };
    nvmlDeviceGetHandleByPciBusId_v2(bus_id: Text, out: Out<Handle>) = |driver| {
        let bus_id = bus_id.get()?;
        let index = driver.gpus.iter().position(|gpu| gpu.bus_id().eq_ignore_ascii_case(&bus_id));
        out.put(driver.handle(index.ok_or(Code::NOT_FOUND)?)?)
    };
}

/// NVML's `nvmlErrorString`: always there, even before the library is opened.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nvmlErrorString(code: c_uint) -> *const c_char {
    let text: &CStr = match code {
        0 => c"The operation was successful",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        13 => c"Function Not Found",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        18 => c"Driver/library version mismatch",
        25 => c"Argument version mismatch",
        27 => c"Not Ready",
        28 => c"GPU not found",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// A hook of ours: how often an export was called in this process.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn aya_fake_nvml_calls(function: Text) -> u64 {
    function.get().map_or(0, |function| calls_of(&function))
}
