//! Who holds a device: the list that costs milliseconds and a global driver lock, so that it is asked for rarely.

use aya_domain::{Bytes, GpuUuid};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::board::Board;
use super::error::named;
use super::raw;
use crate::{GpuHolder, GpuHolders};

/// "Not available" in the memory column: WSL, Windows, or a right that we do not have.
const UNKNOWN_MEMORY: u64 = u64::MAX;

impl Board {
    /// Who holds the device, or each of its slices. One that did not answer now is left out.
    pub(super) fn holders(&self, nvml: &Nvml) -> Vec<GpuHolders> {
        let lists = self.gpus().map(|gpu| holders(nvml, &gpu.uuid));
        lists.filter_map(Result::ok).collect()
    }
}

fn holders(nvml: &Nvml, uuid: &GpuUuid) -> Result<GpuHolders, NvmlError> {
    let device = nvml.device_by_uuid(uuid.as_str())?;
    let holders = match raw::processes(nvml, &device) {
        Ok(list) => Some(list.into_iter().map(|(pid, vram)| GpuHolder { pid, vram: known(vram) }).collect()),
        Err(error) if super::error::is_final(&error) => None,
        Err(error) => {
            tracing::debug!(gpu = %uuid, error = %named(&error), "the process list cannot be read now");
            return Err(error);
        }
    };
    Ok(GpuHolders { gpu: uuid.clone(), holders })
}

fn known(vram: u64) -> Option<Bytes> {
    (vram != UNKNOWN_MEMORY).then_some(Bytes(vram))
}
