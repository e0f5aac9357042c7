//! What the multiprocessors do, by GPM (Hopper and newer): the difference between two samples of one GPU.
//!
//! The sample before is kept between two readings. GPUs are sampled one after another: in parallel, drivers crash.
#![expect(unsafe_code, reason = "a sample outlives the borrow of the library that the wrapper ties it to")]

use aya_domain::Ratio;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, GpmSample, Nvml};
use nvml_wrapper_sys::bindings::nvmlGpmSample_t;

const METRICS: [GpmMetricId; 8] = [
    GpmMetricId::SmUtil,
    GpmMetricId::SmOccupancy,
    GpmMetricId::AnyTensorUtil,
    GpmMetricId::DramBwUtil,
    GpmMetricId::PcieTxPerSec,
    GpmMetricId::PcieRxPerSec,
    GpmMetricId::NvlinkTotalTxPerSec,
    GpmMetricId::NvlinkTotalRxPerSec,
];

/// Shares of the time since the reading before, and bytes per second in it; all absent at the first one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Activity {
    pub(super) sm: Option<Ratio>,
    pub(super) occupancy: Option<Ratio>,
    pub(super) tensor: Option<Ratio>,
    pub(super) dram: Option<Ratio>,
    pub(super) pcie_tx: Option<u64>,
    pub(super) pcie_rx: Option<u64>,
    pub(super) nvlink_tx: Option<u64>,
    pub(super) nvlink_rx: Option<u64>,
}

/// A sample of the open library. Has to be released before the library is closed.
#[derive(Debug)]
pub(super) struct Kept(nvmlGpmSample_t);

// SAFETY: NVML lets any thread use a sample, one at a time, and only the owner of the source touches it.
unsafe impl Send for Kept {}

impl Kept {
    fn back(self, nvml: &Nvml) -> GpmSample<'_> {
        // SAFETY: the handle came from `into_handle` of a sample of this library and is given up here.
        unsafe { GpmSample::from_handle(nvml, self.0) }
    }

    /// Gives the sample back to the library it came from.
    pub(super) fn release(self, nvml: &Nvml) {
        drop(self.back(nvml));
    }
}

/// Reads the GPU, or one GPU instance of it, and keeps the sample for the next time.
pub(super) fn read(
    nvml: &Nvml,
    device: &Device<'_>,
    instance: Option<u32>,
    kept: &mut Option<Kept>,
) -> Result<Activity, NvmlError> {
    let sample = match instance {
        None => device.gpm_sample()?,
        Some(instance) => device.gpm_mig_sample(instance)?,
    };
    let before = kept.take().map(|kept| kept.back(nvml));
    let metrics = before.as_ref().map(|before| gpm_metrics_get(nvml, before, &sample, &METRICS));
    *kept = Some(Kept(sample.into_handle()));
    let metrics = metrics.transpose()?.unwrap_or_default();
    let value = |place: usize| metrics.get(place)?.as_ref().ok().map(|metric| metric.value);
    let share = |place: usize| Ratio::new(value(place)? / 100.0).ok();
    let rate = |place: usize| bytes_per_second(value(place)?);
    Ok(Activity {
        sm: share(0),
        occupancy: share(1),
        tensor: share(2),
        dram: share(3),
        pcie_tx: rate(4),
        pcie_rx: rate(5),
        nvlink_tx: rate(6),
        nvlink_rx: rate(7),
    })
}

/// The fastest rate that is believed, in MiB per second: far beyond any link.
const RATE_MAX_MIB: f64 = 1e9;

/// A rate of GPM, which counts in MiB per second; nothing if it is none.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 1e9 MiB: far inside of u64"
)]
fn bytes_per_second(mib: f64) -> Option<u64> {
    (0.0..=RATE_MAX_MIB).contains(&mib).then(|| (mib * 1_048_576.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_beyond_belief_is_none() {
        for (mib, expect) in [
            (0.0, Some(0)),
            (1.5, Some(1_572_864)),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (1e300, None),
        ] {
            assert_eq!(bytes_per_second(mib), expect, "{mib}");
        }
    }
}
