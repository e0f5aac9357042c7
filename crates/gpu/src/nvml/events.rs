//! The driver's critical errors (XIDs), counted per GPU and slice.
//!
//! One event set for all devices, asked without waiting at every reading. Registration goes through raw calls: the
//! wrapper frees the whole set when one device refuses, and its event does not say which slice was hit.
#![expect(unsafe_code, reason = "calls through NVML's C ABI")]

use std::collections::BTreeMap;

use aya_domain::GpuUuid;
use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as sys;

/// NVML's bit for a critical XID.
const CRITICAL_XID: u64 = 8;
/// "All instances" in an event.
const WHOLE_GPU: u32 = u32::MAX;
/// Events taken per reading; a storm goes on at the next one.
const EVENTS_MAX: usize = 64;

/// What happened to one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Xids {
    pub(super) count: u32,
    pub(super) last: Option<u32>,
}

impl Xids {
    fn add(&mut self, xid: u32) {
        self.count = self.count.saturating_add(1);
        self.last = Some(xid);
    }

    fn and(self, other: Self) -> Self {
        Self { count: self.count.saturating_add(other.count), last: other.last.or(self.last) }
    }
}

/// What was heard since the source was made. It outlives the sets, and the GPUs that fell off the bus.
#[derive(Debug, Default)]
pub(super) struct Heard {
    set: Option<Set>,
    /// By device and GPU instance; the instance is absent for what hit the whole device.
    xids: BTreeMap<(GpuUuid, Option<u32>), Xids>,
}

/// An event set of the open library, and who is in it. Has to be freed before the library is closed.
#[derive(Debug)]
struct Set {
    set: sys::nvmlEventSet_t,
    of: Vec<GpuUuid>,
}

// SAFETY: NVML lets any thread use an event set, one at a time, and only the owner of the source touches it.
unsafe impl Send for Set {}

impl Heard {
    /// Listens to these devices; keeps the set, and the events in it, where they are the same as before.
    pub(super) fn listen(&mut self, nvml: &Nvml, devices: Vec<GpuUuid>) {
        if self.set.as_ref().is_some_and(|set| set.of == devices) {
            return;
        }
        self.take_new(nvml);
        self.free(nvml);
        let Ok(set) = create(nvml) else { return };
        let able = |uuid: &GpuUuid| register(nvml, uuid, set).is_ok();
        let of = devices.into_iter().filter(able).collect();
        self.set = Some(Set { set, of });
    }

    /// Gives the set back to its library.
    pub(super) fn free(&mut self, nvml: &Nvml) {
        if let Some(Set { set, .. }) = self.set.take()
            && let Ok(call) = nvml.lib().nvmlEventSetFree.as_ref()
        {
            // SAFETY: the set is of this library and was taken out, so that nobody uses it again.
            let _ = unsafe { call(set) };
        }
    }

    /// Takes what has happened since the last time.
    pub(super) fn take_new(&mut self, nvml: &Nvml) {
        let Some(set) = self.set.as_ref().map(|set| set.set) else { return };
        for _ in 0..EVENTS_MAX {
            // No event, or a lost device, which its own reading will tell.
            let Ok(event) = next(nvml, set) else { return };
            // SAFETY: the handle came out of this library just now.
            let device = unsafe { Device::new(event.device, nvml) };
            let uuid = device.uuid().ok().and_then(|uuid| GpuUuid::parse(&uuid).ok());
            if let Some(uuid) = uuid.or_else(|| self.only_lost(nvml))
                && event.eventType & CRITICAL_XID != 0
            {
                let instance = Some(event.gpuInstanceId).filter(|instance| *instance != WHOLE_GPU);
                let xid = u32::try_from(event.eventData).unwrap_or(u32::MAX);
                self.xids.entry((uuid, instance)).or_default().add(xid);
            }
        }
    }

    /// A device that is off the bus does not tell its name any more; where just one is lost, it is that one.
    fn only_lost(&self, nvml: &Nvml) -> Option<GpuUuid> {
        let mut lost = self
            .set
            .iter()
            .flat_map(|set| &set.of)
            .filter(|uuid| nvml.device_by_uuid(uuid.as_str()).is_err());
        let first = lost.next()?;
        lost.next().is_none().then(|| first.clone())
    }

    /// What hit this device, or this instance of it; `None`: nobody listens to it.
    pub(super) fn of(&self, device: &GpuUuid, instance: Option<u32>) -> Option<Xids> {
        self.set.as_ref().filter(|set| set.of.contains(device))?;
        let at = |instance| self.xids.get(&(device.clone(), instance)).copied().unwrap_or_default();
        match instance {
            Some(_) => Some(at(None).and(at(instance))),
            None => {
                let all = self.xids.iter().filter(|((uuid, _), _)| uuid == device);
                Some(all.fold(Xids::default(), |sum, (_, xids)| sum.and(*xids)))
            }
        }
    }

    /// The last error of a device, for the line that says that it is lost.
    pub(super) fn last(&self, device: &GpuUuid) -> Option<u32> {
        self.xids.iter().filter(|((uuid, _), _)| uuid == device).find_map(|(_, xids)| xids.last)
    }
}

fn create(nvml: &Nvml) -> Result<sys::nvmlEventSet_t, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlEventSetCreate.as_ref())?;
    let mut set: sys::nvmlEventSet_t = std::ptr::null_mut();
    // SAFETY: the function writes one handle.
    nvml_try(unsafe { call(&raw mut set) })?;
    Ok(set)
}

fn register(nvml: &Nvml, uuid: &GpuUuid, set: sys::nvmlEventSet_t) -> Result<(), NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
    let device = nvml.device_by_uuid(uuid.as_str())?;
    // SAFETY: device and set are of this library. A refusal leaves the set as it is.
    nvml_try(unsafe { call(device.handle(), CRITICAL_XID, set) })
}

/// The next event, without waiting for one.
fn next(nvml: &Nvml, set: sys::nvmlEventSet_t) -> Result<sys::nvmlEventData_t, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlEventSetWait_v2.as_ref())?;
    let mut event = sys::nvmlEventData_t {
        device: std::ptr::null_mut(),
        eventType: 0,
        eventData: 0,
        gpuInstanceId: WHOLE_GPU,
        computeInstanceId: WHOLE_GPU,
    };
    // SAFETY: the set is of this library, and the struct is the one that the function fills.
    nvml_try(unsafe { call(set, &raw mut event, 0) })?;
    Ok(event)
}
