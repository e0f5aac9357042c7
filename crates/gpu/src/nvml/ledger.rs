//! What has happened to the devices since the source was made: shared by the thread that reads them and the one that
//! listens to the driver, so that each thing is told once, whoever sees it first.

use std::collections::{BTreeMap, BTreeSet};

use aya_domain::{GpuEventKind, GpuUuid};
use nvml_wrapper::error::NvmlError;
use parking_lot::Mutex;

use tracing::warn;

use super::error::{class, named};
use super::kernel_log::Slot;
use crate::{GpuError, GpuHappening, Tell};

/// The critical errors of one device or slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Xids {
    pub(super) count: u32,
    pub(super) last: Option<u32>,
}

impl Xids {
    const fn add(&mut self, code: u32) {
        self.count = self.count.saturating_add(1);
        self.last = Some(code);
    }

    fn and(self, other: Self) -> Self {
        Self { count: self.count.saturating_add(other.count), last: other.last.or(self.last) }
    }
}

/// A device and the slices that stand in its place, with their GPU instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) uuid: GpuUuid,
    pub(super) slices: Vec<(GpuUuid, u32)>,
    /// Where it is plugged in, as the kernel's log names it.
    pub(super) slot: Option<Slot>,
}

/// It outlives the library's handles, and the GPUs that fell off the bus: one entry per device that was ever seen.
#[derive(Debug)]
pub(super) struct Ledger {
    state: Mutex<State>,
    tell: Tell,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the changes of what there is to listen to.
    generation: u64,
    devices: Vec<Device>,
    listened: BTreeSet<GpuUuid>,
    /// The kernel's log is read: XIDs of devices without events are heard there.
    log_is_read: bool,
    /// By device and GPU instance; the instance is absent for what hit the whole device.
    xids: BTreeMap<(GpuUuid, Option<u32>), Xids>,
    recovery: BTreeMap<GpuUuid, u32>,
    lost: BTreeSet<GpuUuid>,
}

impl State {
    fn of(&self, device: &GpuUuid, instance: Option<u32>) -> Xids {
        let at = |instance| self.xids.get(&(device.clone(), instance)).copied().unwrap_or_default();
        match instance {
            Some(_) => at(None).and(at(instance)),
            None => {
                let all = self.xids.iter().filter(|((uuid, _), _)| uuid == device);
                all.fold(Xids::default(), |sum, (_, xids)| sum.and(*xids))
            }
        }
    }

    /// What placement calls GPUs of what was hit, each with its instance.
    fn hit(&self, device: &GpuUuid, instance: Option<u32>) -> Vec<(GpuUuid, Option<u32>)> {
        let slices = self.devices.iter().find(|known| known.uuid == *device).map(|known| &known.slices);
        match slices {
            Some(slices) if !slices.is_empty() => {
                let here = |at: u32| instance.is_none_or(|instance| instance == at);
                slices
                    .iter()
                    .filter(|(_, at)| here(*at))
                    .map(|(uuid, at)| (uuid.clone(), Some(*at)))
                    .collect()
            }
            Some(_) | None => vec![(device.clone(), None)],
        }
    }
}

impl Ledger {
    pub(super) fn new(tell: Tell) -> Self {
        Self { state: Mutex::default(), tell }
    }

    /// What the last discovery found.
    pub(super) fn set_devices(&self, devices: Vec<Device>) {
        let mut state = self.state.lock();
        if state.devices != devices {
            state.devices = devices;
            state.generation += 1;
        }
    }

    /// What there is to listen to, and the number of this answer. Lost devices are left out.
    pub(super) fn to_listen_to(&self) -> (u64, Vec<GpuUuid>) {
        let state = self.state.lock();
        let there =
            state.devices.iter().map(|device| &device.uuid).filter(|uuid| !state.lost.contains(*uuid));
        (state.generation, there.cloned().collect())
    }

    pub(super) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// These are listened to from now on, and no others.
    pub(super) fn listening(&self, devices: &[GpuUuid]) {
        self.state.lock().listened = devices.iter().cloned().collect();
    }

    #[cfg(test)]
    pub(super) fn is_listening(&self) -> bool {
        let state = self.state.lock();
        state.devices.iter().any(|device| state.listened.contains(&device.uuid))
    }

    /// A call failed; how it did, in our words.
    pub(super) fn failed(&self, error: &NvmlError) -> GpuError {
        self.tell.failed(class(error));
        named(error)
    }

    /// A critical error of the device, or of one instance of it.
    pub(super) fn xid(&self, device: &GpuUuid, instance: Option<u32>, code: u32) {
        let mut state = self.state.lock();
        state.xids.entry((device.clone(), instance)).or_default().add(code);
        for (gpu, instance) in state.hit(device, instance) {
            let xids = Some(state.of(device, instance).count);
            self.tell.tell(GpuHappening { gpu, kind: GpuEventKind::Xid { code }, xids });
        }
    }

    /// Whether the kernel's log is read from now on.
    pub(super) fn reads_log(&self, is_read: bool) {
        self.state.lock().log_is_read = is_read;
    }

    /// The kernel's log tells an error. A device that has events tells it by one of them too, and better.
    pub(super) fn logged_xid(&self, slot: Slot, code: u32) {
        let found = self.at(slot);
        let device = found.filter(|device| !self.state.lock().listened.contains(device));
        if let Some(device) = device {
            warn!(gpu = %device, xid = code, "the kernel's log tells of an xid");
            self.xid(&device, None, code);
        }
    }

    /// The kernel's log tells that a device is off the bus.
    pub(super) fn logged_loss(&self, slot: Slot) {
        if let Some(device) = self.at(slot) {
            warn!(gpu = %device, "the kernel's log tells that the gpu has fallen off the bus");
            self.lost(&device);
        }
    }

    fn at(&self, slot: Slot) -> Option<GpuUuid> {
        let state = self.state.lock();
        state.devices.iter().find(|device| device.slot == Some(slot)).map(|device| device.uuid.clone())
    }

    /// Memory that could not be corrected.
    pub(super) fn ecc(&self, device: &GpuUuid, instance: Option<u32>) {
        self.tell_all(&self.state.lock(), device, instance, GpuEventKind::EccUncorrected);
    }

    /// What the driver asks for; told when it changes, and at first only if it is something.
    pub(super) fn recovery(&self, device: &GpuUuid, action: u32) {
        let mut state = self.state.lock();
        let before = state.recovery.insert(device.clone(), action).unwrap_or(0);
        if before != action {
            self.tell_all(&state, device, None, GpuEventKind::Recovery { action });
        }
    }

    /// The device does not answer any more.
    pub(super) fn lost(&self, device: &GpuUuid) {
        let mut state = self.state.lock();
        if state.lost.insert(device.clone()) {
            state.listened.remove(device);
            state.generation += 1;
            self.tell_all(&state, device, None, GpuEventKind::Lost);
        }
    }

    /// The device answers, perhaps again.
    pub(super) fn answered(&self, device: &GpuUuid) {
        let mut state = self.state.lock();
        if state.lost.remove(device) {
            state.generation += 1;
        }
    }

    fn tell_all(&self, state: &State, device: &GpuUuid, instance: Option<u32>, kind: GpuEventKind) {
        for (gpu, _) in state.hit(device, instance) {
            self.tell.tell(GpuHappening { gpu, kind, xids: None });
        }
    }

    /// What hit this device, or this instance of it; `None`: nobody listens to it.
    pub(super) fn of(&self, device: &GpuUuid, instance: Option<u32>) -> Option<Xids> {
        let state = self.state.lock();
        let is_heard = state.listened.contains(device) || state.log_is_read;
        is_heard.then(|| state.of(device, instance))
    }

    /// The last error of a device, for the line that says that it is lost.
    pub(super) fn last(&self, device: &GpuUuid) -> Option<u32> {
        self.state.lock().of(device, None).last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn uuid(text: &str) -> GpuUuid {
        GpuUuid::parse(text).unwrap()
    }

    fn ledger() -> (Ledger, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let tell = Tell::by(move |h| {
            heard.lock().push(format!("{} {} {}", h.gpu, h.kind, h.xids.map_or(-1, i64::from)));
        });
        let ledger = Ledger::new(tell);
        let slot = Slot::parse("0000:2A:00");
        let cut = Device { uuid: uuid("cut"), slices: vec![(uuid("s1"), 1), (uuid("s2"), 2)], slot };
        let slot = Slot::parse("0000:19:00");
        ledger.set_devices(vec![Device { uuid: uuid("whole"), slices: Vec::new(), slot }, cut]);
        (ledger, told)
    }

    #[test]
    fn the_kernels_log_tells_of_devices_that_nobody_listens_to_and_of_losses() {
        let (ledger, told) = ledger();
        let at = |text| Slot::parse(text).unwrap();
        assert_eq!(ledger.of(&uuid("whole"), None), None, "nobody would hear one");
        ledger.reads_log(true);
        assert_eq!(ledger.of(&uuid("whole"), None), Some(Xids::default()));
        ledger.listening(&[uuid("whole")]);
        ledger.logged_xid(at("0000:19:00"), 31);
        ledger.logged_xid(at("0000:2a:00"), 48);
        ledger.logged_xid(at("0000:ff:00"), 48);
        assert_eq!(*told.lock(), ["s1 XID 48 1", "s2 XID 48 1"], "the first has events of its own");
        told.lock().clear();
        ledger.logged_loss(at("0000:19:00"));
        ledger.logged_loss(at("0000:19:00"));
        assert_eq!(told.lock().len(), 1, "{told:?}");
    }

    #[test]
    fn an_error_is_told_of_every_slice_that_it_hits() {
        let (ledger, told) = ledger();
        ledger.xid(&uuid("whole"), None, 79);
        ledger.xid(&uuid("cut"), Some(2), 94);
        ledger.xid(&uuid("cut"), None, 48);
        ledger.ecc(&uuid("cut"), Some(1));
        ledger.xid(&uuid("stranger"), None, 1);
        let expect = [
            "whole XID 79 1",
            "s2 XID 94 1",
            "s1 XID 48 1",
            "s2 XID 48 2",
            "s1 an uncorrectable memory error -1",
            "stranger XID 1 1",
        ];
        assert_eq!(*told.lock(), expect);
        assert_eq!(ledger.of(&uuid("cut"), Some(2)), None, "nobody listens yet");
        ledger.listening(&[uuid("cut")]);
        assert_eq!(ledger.of(&uuid("cut"), Some(2)), Some(Xids { count: 2, last: Some(94) }));
        assert_eq!(ledger.of(&uuid("cut"), None).map(|xids| xids.count), Some(2));
    }

    #[test]
    fn a_state_is_told_when_it_changes() {
        let (ledger, told) = ledger();
        for action in [0, 0, 1, 1, 0] {
            ledger.recovery(&uuid("whole"), action);
        }
        let before = ledger.generation();
        ledger.lost(&uuid("whole"));
        ledger.lost(&uuid("whole"));
        assert_eq!(ledger.to_listen_to(), (before + 1, vec![uuid("cut")]));
        ledger.answered(&uuid("whole"));
        ledger.answered(&uuid("whole"));
        assert_eq!(ledger.to_listen_to().0, before + 2);
        ledger.lost(&uuid("whole"));
        let expect =
            ["whole recovery action 1 -1", "whole recovery action 0 -1", "whole lost -1", "whole lost -1"];
        assert_eq!(*told.lock(), expect);
    }
}
