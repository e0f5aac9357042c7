//! Slices of a GPU.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Code, Handle, Out};
use crate::scenario::Mig;
use crate::state::{Driver, Target, gpu_handle, mig_handle};

/// Most slices of one GPU, as the driver names it.
const SLICES_MAX: c_uint = 7;

fn slice(driver: &Driver, device: Handle) -> Result<&Mig, Code> {
    match driver.target(device)? {
        Target::Mig(_, _, mig) => Ok(mig),
        Target::Gpu(..) => Err(Code::INVALID_ARGUMENT),
    }
}

exports! {
    nvmlDeviceGetMigMode(device: Handle, current: Out<c_uint>, pending: Out<c_uint>) = |driver| {
        let gpu = driver.gpu(device)?;
        let able = ["H100", "A100", "H200", "B200"].iter().any(|product| gpu.name.contains(product));
        if !able && gpu.mig.is_none() {
            return Err(Code::NOT_SUPPORTED);
        }
        let mode = c_uint::from(gpu.mig.is_some());
        current.put(mode)?;
        pending.put(mode)
    };
    nvmlDeviceGetMaxMigDeviceCount(device: Handle, out: Out<c_uint>) = |driver| {
        let able = driver.gpu(device)?.mig.is_some();
        out.put(if able { SLICES_MAX } else { 0 })
    };
    nvmlDeviceGetMigDeviceHandleByIndex(device: Handle, index: c_uint, out: Out<Handle>) = |driver| {
        let (place, gpu) = driver.gpu_at(device)?;
        let slices = gpu.mig.as_ref().ok_or(Code::NOT_FOUND)?;
        let slot = usize::try_from(index).unwrap_or(usize::MAX);
        slices.get(slot).ok_or(Code::NOT_FOUND)?;
        out.put(mig_handle(place, slot))
    };
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device: Handle, out: Out<Handle>) = |driver| {
        match driver.target(device)? {
            Target::Mig(place, ..) => out.put(gpu_handle(place)),
            Target::Gpu(..) => Err(Code::INVALID_ARGUMENT),
        }
    };
    nvmlDeviceIsMigDeviceHandle(device: Handle, out: Out<c_uint>) = |driver| {
        let is = matches!(driver.target(device)?, Target::Mig(..));
        out.put(c_uint::from(is))
    };
    nvmlDeviceGetGpuInstanceId(device: Handle, out: Out<c_uint>) = |driver| out.put(slice(driver, device)?.gi);
    nvmlDeviceGetComputeInstanceId(device: Handle, out: Out<c_uint>) =
        |driver| out.put(slice(driver, device)?.ci);
    nvmlDeviceGetAttributes_v2(device: Handle, out: Out<sys::nvmlDeviceAttributes_t>) = |driver| {
        let mig = slice(driver, device)?;
        out.put(sys::nvmlDeviceAttributes_t {
            multiprocessorCount: mig.sms,
            sharedCopyEngineCount: mig.slices,
            sharedDecoderCount: mig.slices,
            sharedEncoderCount: 0,
            sharedJpegCount: mig.slices,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: mig.slices,
            computeInstanceSliceCount: mig.slices,
            memorySizeMB: mig.memory_mib.total,
        })
    };
    nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        device: Handle,
        _profile: c_uint,
        out: Out<sys::nvmlGpuInstancePlacement_t>,
        count: Out<c_uint>,
    ) = |driver| {
        if driver.gpu(device)?.mig.is_none() {
            return Err(Code::NOT_SUPPORTED);
        }
        let placements = [0, 1, 2, 3, 4, 5, 6].map(|start| sys::nvmlGpuInstancePlacement_t { start, size: 1 });
        out.put_list(count, &placements, Ok(()))
    };
}
