//! Who holds a device: the list that costs milliseconds and a global driver lock, so that it is asked for rarely.
//!
//! Programs that share a device through CUDA's multi-process service (MPS) are in a list of their own. It is asked for
//! once per discovery, and with every list of a device on which that found some.

use aya_domain::{Bytes, GpuUuid};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::board::Board;
use super::error::is_final;
use super::ledger::Ledger;
use super::raw::{self, List};
use crate::{GpuHolder, GpuHolders};

/// "Not available" in the memory column: WSL, Windows, or a right that we do not have.
const UNKNOWN_MEMORY: u64 = u64::MAX;

impl Board {
    /// Who holds the device, or each of its slices. One that did not answer now is left out.
    pub(super) fn holders(&mut self, nvml: &Nvml, ledger: &Ledger) -> Vec<GpuHolders> {
        let ask_mps = self.mps != Some(false);
        let mut found_mps = false;
        let mut lists = Vec::new();
        for gpu in self.gpus() {
            let Ok(mut holders) = holders(nvml, &gpu.uuid, List::Compute, ledger) else { continue };
            if ask_mps && let Ok(Some(clients)) = self::holders(nvml, &gpu.uuid, List::Mps, ledger) {
                found_mps |= !clients.is_empty();
                holders = holders.map(|holders| with_clients(holders, clients));
            }
            lists.push(GpuHolders { gpu: gpu.uuid.clone(), holders });
        }
        self.mps = Some(found_mps);
        lists
    }
}

/// A client of MPS may be in both lists; what it holds may be told in one only.
fn with_clients(mut holders: Vec<GpuHolder>, clients: Vec<GpuHolder>) -> Vec<GpuHolder> {
    for client in clients {
        match holders.iter_mut().find(|holder| holder.pid == client.pid) {
            Some(holder) => holder.vram = holder.vram.max(client.vram),
            None => holders.push(client),
        }
    }
    holders
}

/// `None`: the driver does not tell.
fn holders(
    nvml: &Nvml,
    uuid: &GpuUuid,
    list: List,
    ledger: &Ledger,
) -> Result<Option<Vec<GpuHolder>>, NvmlError> {
    let device = nvml.device_by_uuid(uuid.as_str())?;
    match raw::processes(nvml, &device, list) {
        Ok(list) => {
            Ok(Some(list.into_iter().map(|(pid, vram)| GpuHolder { pid, vram: known(vram) }).collect()))
        }
        Err(error) => {
            let cause = ledger.failed(&error);
            if is_final(&error) {
                return Ok(None);
            }
            tracing::debug!(gpu = %uuid, error = %cause, "the process list cannot be read now");
            Err(error)
        }
    }
}

fn known(vram: u64) -> Option<Bytes> {
    (vram != UNKNOWN_MEMORY).then_some(Bytes(vram))
}
