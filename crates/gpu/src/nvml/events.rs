//! A set of events of the driver, and what they say.
//!
//! Everything goes through raw calls: the wrapper frees the whole set when one device refuses, truncates the kinds
//! that it does not know, and its event does not say which slice was hit.
#![expect(unsafe_code, reason = "calls through NVML's C ABI")]

use std::ffi::{c_uint, c_ulonglong};
use std::time::Duration;

use aya_domain::GpuUuid;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as sys;

/// NVML's bits for what is listened to.
const DOUBLE_BIT_ECC: u64 = 2;
const CRITICAL_XID: u64 = 8;
const FATAL_POISON: u64 = 0x2000;
const GPU_UNAVAILABLE: u64 = 0x4000;
const RECOVERY_ACTION: u64 = 0x8000;
const WANTED: u64 = DOUBLE_BIT_ECC | CRITICAL_XID | FATAL_POISON | GPU_UNAVAILABLE | RECOVERY_ACTION;
/// "All instances" in an event.
const WHOLE_GPU: u32 = u32::MAX;

/// What an event says; the recovery action has to be read for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Xid(u32),
    Ecc,
    Recovery,
    Unavailable,
}

/// One event of a device, or of one GPU instance of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// `None`: the device does not tell its name any more.
    pub(super) device: Option<GpuUuid>,
    pub(super) instance: Option<u32>,
    pub(super) said: Said,
}

/// The events of some devices, from the moment on at which it was made.
pub(super) struct EventSet<'nvml> {
    nvml: &'nvml Nvml,
    set: sys::nvmlEventSet_t,
    devices: Vec<(sys::nvmlDevice_t, GpuUuid)>,
}

impl<'nvml> EventSet<'nvml> {
    /// Listens to those of these devices that have events.
    pub(super) fn listen(nvml: &'nvml Nvml, devices: &[GpuUuid]) -> Result<Self, NvmlError> {
        let call = nvml_sym(nvml.lib().nvmlEventSetCreate.as_ref())?;
        let mut set: sys::nvmlEventSet_t = std::ptr::null_mut();
        // SAFETY: the function writes one handle.
        nvml_try(unsafe { call(&raw mut set) })?;
        let mut events = Self { nvml, set, devices: Vec::with_capacity(devices.len()) };
        for uuid in devices {
            if let Ok(handle) = events.register(uuid) {
                events.devices.push((handle, uuid.clone()));
            }
        }
        Ok(events)
    }

    pub(super) fn of(&self) -> Vec<GpuUuid> {
        self.devices.iter().map(|(_, uuid)| uuid.clone()).collect()
    }

    fn register(&self, uuid: &GpuUuid) -> Result<sys::nvmlDevice_t, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
        let device = self.nvml.device_by_uuid(uuid.as_str())?;
        let kinds = self.supported(&device)? & WANTED;
        if kinds == 0 {
            return Err(NvmlError::NotSupported);
        }
        // SAFETY: device and set are of this library. A refusal leaves the set as it is.
        nvml_try(unsafe { call(device.handle(), kinds, self.set) })?;
        // SAFETY: a handle is a plain value, kept only to be compared.
        Ok(unsafe { device.handle() })
    }

    /// A device that registers a kind which it does not know refuses all of them.
    fn supported(&self, device: &Device<'_>) -> Result<u64, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlDeviceGetSupportedEventTypes.as_ref())?;
        let mut kinds: c_ulonglong = 0;
        // SAFETY: the handle is of this library, and the function writes one number.
        nvml_try(unsafe { call(device.handle(), &raw mut kinds) })?;
        Ok(kinds)
    }

    /// The next event, or [`NvmlError::Timeout`]. An event of a kind that was not asked for is `None`.
    pub(super) fn wait(&self, patience: Duration) -> Result<Option<Heard>, NvmlError> {
        let call = nvml_sym(self.nvml.lib().nvmlEventSetWait_v2.as_ref())?;
        let mut event = sys::nvmlEventData_t {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: WHOLE_GPU,
            computeInstanceId: WHOLE_GPU,
        };
        let patience_ms = c_uint::try_from(patience.as_millis()).unwrap_or(c_uint::MAX);
        // SAFETY: the set is of this library, and the struct is the one that the function fills.
        nvml_try(unsafe { call(self.set, &raw mut event, patience_ms) })?;
        let Some(said) = said(event.eventType, event.eventData) else { return Ok(None) };
        let instance = Some(event.gpuInstanceId).filter(|instance| *instance != WHOLE_GPU);
        Ok(Some(Heard { device: self.name(event.device), instance, said }))
    }

    /// The device of an event: by the handle that it was registered with, else by what it says itself. One that is
    /// off the bus does neither; where just one is lost, it is that one.
    fn name(&self, handle: sys::nvmlDevice_t) -> Option<GpuUuid> {
        if let Some((_, uuid)) = self.devices.iter().find(|(known, _)| *known == handle) {
            return Some(uuid.clone());
        }
        // SAFETY: the handle came out of this library just now.
        let told = unsafe { Device::new(handle, self.nvml) }.uuid();
        let told = told.ok().and_then(|uuid| GpuUuid::parse(&uuid).ok());
        told.or_else(|| match self.lost().as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        })
    }

    /// The devices of this set that do not answer.
    pub(super) fn lost(&self) -> Vec<GpuUuid> {
        let answers = |uuid: &GpuUuid| {
            let device = self.nvml.device_by_uuid(uuid.as_str())?;
            match device.clock_info(nvml_wrapper::enum_wrappers::device::Clock::SM) {
                Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        let silent = self.devices.iter().filter(|(_, uuid)| answers(uuid).is_err());
        silent.map(|(_, uuid)| uuid.clone()).collect()
    }
}

impl Drop for EventSet<'_> {
    fn drop(&mut self) {
        if let Ok(call) = self.nvml.lib().nvmlEventSetFree.as_ref() {
            // SAFETY: the set is of this library, and nobody uses it after this.
            let _ = unsafe { call(self.set) };
        }
    }
}

fn said(kind: u64, data: u64) -> Option<Said> {
    if kind & CRITICAL_XID != 0 {
        return Some(Said::Xid(u32::try_from(data).unwrap_or(u32::MAX)));
    }
    if kind & (DOUBLE_BIT_ECC | FATAL_POISON) != 0 {
        return Some(Said::Ecc);
    }
    if kind & RECOVERY_ACTION != 0 {
        return Some(Said::Recovery);
    }
    (kind & GPU_UNAVAILABLE != 0).then_some(Said::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_its_bits_mean() {
        for (kind, data, expect) in [
            (8, 79, Some(Said::Xid(79))),
            (8, u64::MAX, Some(Said::Xid(u32::MAX))),
            (2, 0, Some(Said::Ecc)),
            (0x2000, 0, Some(Said::Ecc)),
            (0x8000, 4, Some(Said::Recovery)),
            (0x4000, 0, Some(Said::Unavailable)),
            (4, 0, None),
            (0, 79, None),
            (1 << 40, 1, None),
        ] {
            assert_eq!(said(kind, data), expect, "{kind:#x}");
        }
    }
}
