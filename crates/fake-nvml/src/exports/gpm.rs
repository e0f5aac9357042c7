//! GPM: metrics between two samples. The caller's array is as long as it says, not as long as any header's.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Answer, Code, Handle, Out};
use crate::state::{Driver, Target, with_state};

/// GPM samples that one process may hold.
const SAMPLES_MAX: usize = 4096;
/// More metrics than any header knows.
const METRICS_MAX: u32 = 1024;

/// What lies before the metrics in `nvmlGpmMetricsGet_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    version: c_uint,
    metrics: c_uint,
    samples: [Handle; 2],
}

fn take(driver: &Driver, device: Handle, instance: Option<c_uint>, sample: Handle) -> Answer {
    let Target::Gpu(_, gpu) = driver.target(device)? else { return Err(Code::INVALID_ARGUMENT) };
    let metrics = match instance {
        None => &gpu.gpm,
        Some(instance) => {
            let slices = gpu.mig.as_ref().ok_or(Code::NOT_SUPPORTED)?;
            &slices.iter().find(|slice| slice.gi == instance).ok_or(Code::NOT_FOUND)?.gpm
        }
    };
    if metrics.is_empty() {
        return Err(Code::NOT_SUPPORTED);
    }
    with_state(|state| {
        *state.samples.get_mut(&sample).ok_or(Code::INVALID_ARGUMENT)? = metrics.clone();
        Ok(())
    })
}

exports! {
    nvmlGpmQueryDeviceSupport(device: Handle, out: Out<sys::nvmlGpmSupport_t>) = |driver| {
        let gpu = driver.gpu(device)?;
        let slices = gpu.mig.iter().flatten().any(|slice| !slice.gpm.is_empty());
        let supported = c_uint::from(slices || !gpu.gpm.is_empty());
        out.put(sys::nvmlGpmSupport_t { isSupportedDevice: supported, ..out.get()? })
    };
    nvmlGpmSampleAlloc(out: Out<Handle>) = |_| {
        let handle = with_state(|state| {
            if state.samples.len() >= SAMPLES_MAX {
                return Err(Code::INSUFFICIENT_SIZE);
            }
            let handle = state.new_handle();
            state.samples.insert(handle, std::collections::BTreeMap::new());
            Ok(handle)
        })?;
        out.put(handle)
    };
    nvmlGpmSampleGet(device: Handle, sample: Handle) = |driver| take(driver, device, None, sample);
    nvmlGpmMigSampleGet(device: Handle, instance: c_uint, sample: Handle) =
        |driver| take(driver, device, Some(instance), sample);
    nvmlGpmSampleFree(sample: Handle) = |_| {
        with_state(|state| state.samples.remove(&sample).map(|_| ()).ok_or(Code::INVALID_ARGUMENT))
    };
    nvmlGpmMetricsGet(get: Out<Header>) = |_| {
        let header = get.get()?;
        if header.metrics > METRICS_MAX {
            return Err(Code::INVALID_ARGUMENT);
        }
        let [before, after] = header.samples;
        let values = with_state(|state| {
            let known = state.samples.contains_key(&before);
            state.samples.get(&after).filter(|_| known).cloned()
        });
        let values = values.ok_or(Code::INVALID_ARGUMENT)?;
        let metrics: Out<sys::nvmlGpmMetric_t> = get.behind();
        for index in 0..usize::try_from(header.metrics).unwrap_or(0) {
            let mut metric = metrics.at(index).get()?;
            (metric.nvmlReturn, metric.value) = match values.get(&metric.metricId) {
                Some(value) => (0, *value),
                None => (Code::NOT_SUPPORTED.0, 0.0),
            };
            metrics.at(index).put(metric)?;
        }
        Ok(())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_where_the_metrics_begin() {
        assert_eq!(size_of::<Header>(), std::mem::offset_of!(sys::nvmlGpmMetricsGet_t, metrics));
    }
}
