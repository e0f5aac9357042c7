//! What a device is.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Code, Handle, Out, chars};
use crate::state::Target;

fn number(index: usize) -> c_uint {
    c_uint::try_from(index).unwrap_or(c_uint::MAX)
}

exports! {
    nvmlDeviceGetIndex(device: Handle, out: Out<c_uint>) = |driver| out.put(number(driver.gpu_at(device)?.0));
    nvmlDeviceGetMinorNumber(device: Handle, out: Out<c_uint>) =
        |driver| out.put(number(driver.gpu_at(device)?.0));
    nvmlDeviceGetName(device: Handle, out: Out<c_char>, length: c_uint) = |driver| {
        match driver.target(device)? {
            Target::Gpu(_, gpu) => out.put_text(length, &gpu.name),
            Target::Mig(_, _, mig) => out.put_text(length, &mig.name),
        }
    };
    nvmlDeviceGetUUID(device: Handle, out: Out<c_char>, length: c_uint) = |driver| {
        match driver.target(device)? {
            Target::Gpu(_, gpu) => out.put_text(length, &gpu.uuid),
            Target::Mig(_, _, mig) => out.put_text(length, &mig.uuid),
        }
    };
    nvmlDeviceGetPciInfo_v3(device: Handle, out: Out<sys::nvmlPciInfo_t>) = |driver| {
        let gpu = driver.gpu(device)?;
        let bus_id = gpu.bus_id();
        out.put(sys::nvmlPciInfo_t {
            // The old form has a domain of four digits.
            busIdLegacy: chars(bus_id.get(4..).unwrap_or_default()),
            domain: 0,
            bus: gpu.bus.unwrap_or(0),
            device: 0,
            pciDeviceId: gpu.pci_device_id,
            pciSubSystemId: 0,
            busId: chars(&bus_id),
        })
    };
    nvmlDeviceGetPersistenceMode(device: Handle, out: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        out.put(1)
    };
    nvmlDeviceGetComputeMode(device: Handle, out: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        out.put(0)
    };
    nvmlDeviceGetDisplayActive(device: Handle, out: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        out.put(0)
    };
    nvmlDeviceGetDisplayMode(device: Handle, out: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        out.put(0)
    };
    // A thing of Windows.
    nvmlDeviceGetDriverModel(device: Handle, _current: Out<c_uint>, _pending: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        Err(Code::NOT_SUPPORTED)
    };
    // The products played here are cooled by their host.
    nvmlDeviceGetFanSpeed(device: Handle, _out: Out<c_uint>) = |driver| {
        driver.gpu(device)?;
        Err(Code::NOT_SUPPORTED)
    };
    nvmlDeviceGetPerformanceState(device: Handle, out: Out<c_uint>) =
        |driver| out.put(driver.gpu(device)?.performance_state);
    nvmlDeviceGetCudaComputeCapability(device: Handle, major: Out<c_int>, minor: Out<c_int>) = |driver| {
        let name = &driver.gpu(device)?.name;
        let known = [("H100", (9, 0)), ("A100", (8, 0)), ("L4", (8, 9)), ("RTX 4080", (8, 9))];
        let of = known.iter().find(|(product, _)| name.contains(product));
        let (a, b) = of.map(|(_, capability)| *capability).ok_or(Code::NOT_SUPPORTED)?;
        major.put(a)?;
        minor.put(b)
    };
}
