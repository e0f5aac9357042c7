//! One GPU as its driver describes it. Every dynamic field may be absent: "not supported" is normal,
//! differs by product, and is never zero.

use std::fmt;
use std::time::Duration;

use crate::{Bytes, Celsius, GpuUuid, Milliwatts, Ratio};

/// Where GPU readings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSourceKind {
    Nvml,
    Simulated,
    /// Readings of a real machine, played again.
    Recorded,
    None,
}

impl GpuSourceKind {
    /// The name used in flags, on the wire and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::Simulated => "simulated",
            Self::Recorded => "recorded",
            Self::None => "none",
        }
    }
}

impl fmt::Display for GpuSourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What does not change while the driver runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    pub uuid: GpuUuid,
    /// The product name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    pub vram_total: Option<Bytes>,
    pub power_limit: Option<Milliwatts>,
    pub sm_clock_max_mhz: Option<u32>,
    /// The thermal margin at which the hardware cuts the clocks; at or below zero.
    pub slowdown_margin: Option<Celsius>,
    /// Set on a slice of a GPU; the whole GPU is then not named beside its slices.
    pub mig: Option<MigSlice>,
}

/// Which part of a GPU a slice is. Slices of one GPU instance share its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigSlice {
    pub parent: GpuUuid,
    pub gpu_instance: u32,
    pub compute_instance: u32,
}

/// One reading of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GpuSample {
    pub vram_used: Option<Bytes>,
    pub vram_free: Option<Bytes>,
    /// Share of the last second with a kernel running: a duty cycle, full with one stream. Alive or idle, not load.
    pub busy: Option<Ratio>,
    /// Share of the last second with memory traffic.
    pub memory_busy: Option<Ratio>,
    pub temperature: Option<Celsius>,
    pub power: Option<Milliwatts>,
    /// Counter since the driver was loaded.
    pub energy_millijoules: Option<u64>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    /// NVML's clocks-event reasons, raw, so that a new bit survives an old scheduler.
    pub clock_event_reasons: Option<u64>,
    pub memory_temperature: Option<Celsius>,
    /// Degrees left before the maximum operating temperature; below zero beyond it.
    pub thermal_margin: Option<Celsius>,
    /// Errors since the driver was loaded, read every 30 s: corrected, and not correctable.
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Rows of memory replaced because of errors that could not be corrected.
    pub rows_remapped: Option<u32>,
    /// A row waits for a reset to be replaced.
    pub row_remap_pending: Option<bool>,
    /// A row could not be replaced.
    pub row_remap_failed: Option<bool>,
    /// What the driver asks for, raw: 0 nothing, 1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain and reset.
    pub recovery_action: Option<u32>,
    /// Critical errors (XIDs) since the agent began to listen, and the last one; absent: it cannot listen.
    pub xids: Option<u32>,
    pub last_xid: Option<u32>,
    /// Shares of the time between two readings: multiprocessors with work, warps in use, tensor cores, memory bandwidth.
    pub sm_active: Option<Ratio>,
    pub sm_occupancy: Option<Ratio>,
    pub tensor_active: Option<Ratio>,
    pub dram_active: Option<Ratio>,
    /// Counters since the driver was loaded: time with clocks cut by heat, and by the power limit.
    pub throttled_thermal: Option<Duration>,
    pub throttled_power: Option<Duration>,
    /// Bytes per second between two readings.
    pub pcie_tx_bytes_per_second: Option<u64>,
    pub pcie_rx_bytes_per_second: Option<u64>,
    pub nvlink_tx_bytes_per_second: Option<u64>,
    pub nvlink_rx_bytes_per_second: Option<u64>,
    /// Packets sent again over PCIe: a counter.
    pub pcie_replays: Option<u64>,
    /// Read every 30 s.
    pub pcie_link: Option<PcieLink>,
    /// Pages of memory taken out of use (before Ampere, in place of rows), and whether one waits for a reboot.
    pub pages_retired: Option<u32>,
    pub page_retirement_pending: Option<bool>,
    /// Replays and recoveries over all NVLinks: a counter.
    pub nvlink_errors: Option<u64>,
    /// NVLinks that are up, read every 30 s.
    pub nvlinks_active: Option<u32>,
}

/// How a GPU is connected, and how it could be. A GPU at rest lowers the generation to save power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcieLink {
    pub generation: u32,
    pub lanes: u32,
    pub generation_max: u32,
    pub lanes_max: u32,
}
