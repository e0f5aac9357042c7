//! Event sets: the wait blocks, and every event is delivered once to a set that was registered before it.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::{c_uint, c_ulonglong};
use std::time::Duration;

use crate::abi::{Code, Handle, Out};
use crate::state::{Driver, EventSet, LISTEN_AGAIN, Registration, gpu_handle, now, sleep, with_state};

/// `nvmlEventData_t` with the handle as a number.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventData {
    device: Handle,
    kind: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

exports! {
    nvmlDeviceGetSupportedEventTypes(device: Handle, out: Out<c_ulonglong>) = |driver| {
        let gpu = driver.gpu(device)?;
        out.put(gpu.event_types)
    };
    nvmlEventSetCreate(out: Out<Handle>) = |_| {
        let handle = with_state(|state| {
            let handle = state.new_handle();
            state.sets.insert(handle, EventSet::default());
            handle
        });
        out.put(handle)
    };
    nvmlDeviceRegisterEvents(device: Handle, kinds: c_ulonglong, set: Handle) = |driver| {
        let (gpu, described) = driver.gpu_at(device)?;
        if kinds & !described.event_types != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        let registration = Registration { gpu, kinds, version: driver.version, since: driver.since_load };
        with_state(|state| {
            state.sets.get_mut(&set).ok_or(Code::INVALID_ARGUMENT)?.registered.push(registration);
            Ok(())
        })
    };
    nvmlEventSetWait_v2(set: Handle, out: Out<EventData>, timeout_ms: c_uint) = |driver| {
        let deadline = now() + Duration::from_millis(u64::from(timeout_ms));
        loop {
            let driver = Driver::look(driver.function).ok_or(Code::UNINITIALIZED)?;
            if let Some(event) = with_state(|state| {
                state.sets.get_mut(&set).ok_or(Code::INVALID_ARGUMENT).and_then(|set| next(&driver, set))
            })? {
                return out.put(event);
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(Code::TIMEOUT);
            }
            sleep(left.min(LISTEN_AGAIN).min(driver.scenario.quiet_for(driver.since_load)));
        }
    };
    nvmlEventSetFree(set: Handle) = |_| {
        with_state(|state| state.sets.remove(&set).map(|_| ()).ok_or(Code::INVALID_ARGUMENT))
    };
}

/// The next event that this set has not had; an event of a GPU comes before the news of its loss.
fn next(driver: &Driver, set: &mut EventSet) -> Result<Option<EventData>, Code> {
    for (place, event) in driver.scenario.events.iter().enumerate() {
        let at = Duration::from_millis(event.at_ms);
        let heard = set.registered.iter().any(|registration| {
            let after = driver.version > registration.version || at >= registration.since;
            registration.gpu == event.gpu && registration.kinds & event.kind != 0 && after
        });
        if heard && at <= driver.since_load && set.delivered.insert((driver.version, place)) {
            return Ok(Some(EventData {
                device: gpu_handle(event.gpu),
                kind: event.kind,
                data: event.data,
                gpu_instance: event.gi,
                compute_instance: event.ci,
            }));
        }
    }
    let lost = set.registered.iter().any(|r| driver.gpus.get(r.gpu).is_none_or(|gpu| gpu.lost));
    if lost { Err(Code::GPU_IS_LOST) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn our_event_data_is_laid_out_as_the_c_struct() {
        assert_eq!(size_of::<EventData>(), 32);
        assert_eq!(offset_of!(EventData, gpu_instance), 24);
    }
}
