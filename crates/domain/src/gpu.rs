//! One GPU as its driver describes it. Every dynamic field may be absent: "not supported" is normal,
//! differs by product, and is never zero.

use std::fmt;

use crate::{Bytes, Celsius, GpuUuid, Milliwatts, Ratio};

/// Where GPU readings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuSourceKind {
    Nvml,
    Simulated,
    None,
}

impl GpuSourceKind {
    /// The name used in flags, on the wire and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::Simulated => "simulated",
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
}
