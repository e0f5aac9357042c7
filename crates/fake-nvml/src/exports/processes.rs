//! Who uses a device, and its ring buffers.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Code, Handle, Out};
use crate::scenario::Process;
use crate::state::{Target, wall_micros};

const MIB: u64 = 1 << 20;
/// "Not available", in a memory column and in an instance column.
const UNKNOWN_MEMORY: u64 = u64::MAX;
const NO_INSTANCE: u32 = u32::MAX;

fn info(process: &Process) -> sys::nvmlProcessInfo_t {
    sys::nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.mib.map_or(UNKNOWN_MEMORY, |mib| mib * MIB),
        gpuInstanceId: process.gi.unwrap_or(NO_INSTANCE),
        computeInstanceId: process.ci.unwrap_or(NO_INSTANCE),
    }
}

/// The processes of a GPU, or of one of its slices: clients of the multi-process service, or the others.
fn infos(target: &Target<'_>, mps: bool) -> Vec<sys::nvmlProcessInfo_t> {
    let (gpu, slice) = match target {
        Target::Gpu(_, gpu) => (gpu, None),
        Target::Mig(_, gpu, mig) => (gpu, Some(mig)),
    };
    let here =
        |p: &&Process| p.mps == mps && slice.is_none_or(|mig| p.gi == Some(mig.gi) && p.ci == Some(mig.ci));
    gpu.processes.iter().filter(here).map(info).collect()
}

exports! {
    nvmlDeviceGetComputeRunningProcesses_v3(
        device: Handle,
        count: Out<c_uint>,
        out: Out<sys::nvmlProcessInfo_t>,
    ) = |driver| {
        out.put_list(count, &infos(&driver.target(device)?, false), Err(Code::INSUFFICIENT_SIZE))
    };
    nvmlDeviceGetMPSComputeRunningProcesses_v3(
        device: Handle,
        count: Out<c_uint>,
        out: Out<sys::nvmlProcessInfo_t>,
    ) = |driver| {
        out.put_list(count, &infos(&driver.target(device)?, true), Err(Code::INSUFFICIENT_SIZE))
    };
    nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: Handle,
        count: Out<c_uint>,
        out: Out<sys::nvmlProcessInfo_t>,
    ) = |driver| {
        driver.target(device)?;
        out.put_list(count, &[], Err(Code::INSUFFICIENT_SIZE))
    };
    nvmlDeviceGetProcessUtilization(
        device: Handle,
        out: Out<sys::nvmlProcessUtilizationSample_t>,
        count: Out<c_uint>,
        since: c_ulonglong,
    ) = |driver| {
        let gpu = driver.gpu(device)?;
        if gpu.mig.is_some() {
            return Err(Code::NOT_SUPPORTED);
        }
        let at = wall_micros();
        let busy = gpu.processes.iter().filter(|process| process.sm_util > 0 && at > since);
        let samples: Vec<_> = busy
            .map(|process| sys::nvmlProcessUtilizationSample_t {
                pid: process.pid,
                timeStamp: at,
                smUtil: process.sm_util,
                memUtil: 0,
                encUtil: 0,
                decUtil: 0,
            })
            .collect();
        if samples.is_empty() {
            return Err(Code::NOT_FOUND);
        }
        out.put_list(count, &samples, Err(Code::INSUFFICIENT_SIZE))
    };
    nvmlDeviceGetSamples(
        device: Handle,
        kind: c_uint,
        since: c_ulonglong,
        value_type: Out<c_uint>,
        count: Out<c_uint>,
        out: Out<sys::nvmlSample_t>,
    ) = |driver| {
        let gpu = driver.gpu(device)?;
        // Only the GPU's utilisation has a history here.
        if kind != 1 || gpu.mig.is_some() {
            return Err(Code::NOT_SUPPORTED);
        }
        let fresh = gpu.util_samples.iter().filter(|(at, _)| *at > since);
        let samples: Vec<_> = fresh
            .map(|&(at, percent)| sys::nvmlSample_t {
                timeStamp: at,
                sampleValue: sys::nvmlValue_t { uiVal: percent },
            })
            .collect();
        if samples.is_empty() {
            return Err(Code::NOT_FOUND);
        }
        value_type.put(1)?;
        out.put_list(count, &samples, Ok(()))
    };
}
