//! One GPU of a scenario. The defaults are an H100 80GB HBM3 that serves a model at half its power.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a driver of the 590 line announces for an H100: single-bit and double-bit ECC errors, performance state, critical
/// XID, clock, fatal poison, GPU unavailable, recovery action.
const EVENT_TYPES: u64 = 0xe01f;

/// A device. `null` in an optional reading: this product does not have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Made from the index where it is absent.
    pub uuid: String,
    pub name: String,
    /// PCI bus number; made from the index where it is absent.
    pub bus: Option<u32>,
    pub pci_device_id: u32,
    pub memory_mib: MemoryMib,
    /// The window through which the host reaches the memory: all of it, and what is used.
    pub bar1_mib: Option<[u64; 2]>,
    pub util_gpu: Option<u32>,
    pub util_mem: u32,
    /// The driver's ring buffer: microseconds since the epoch of the scenario, percent.
    pub util_samples: Vec<(u64, u32)>,
    pub processes: Vec<Process>,
    pub temp_c: Option<u32>,
    /// Absolute thresholds, which newer products do not have.
    pub temp_slowdown_c: Option<u32>,
    pub temp_shutdown_c: Option<u32>,
    pub temp_gpu_max_c: Option<u32>,
    pub temp_mem_max_c: Option<u32>,
    /// Temperature of the memory (field 82).
    pub temp_mem_c: Option<u32>,
    /// Degrees left before clocks are cut.
    pub temp_margin_c: Option<i32>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    /// Counter since the driver was loaded.
    pub energy_mj: Option<u64>,
    /// Graphics, SM, memory, video.
    pub clock_mhz: [u32; 4],
    pub clock_max_mhz: [u32; 4],
    pub clock_event_reasons: Option<u64>,
    pub performance_state: u32,
    /// Volatile counts; `null`: no ECC memory.
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    /// Correctable, uncorrectable, pending, failure.
    pub remapped_rows: Option<[u32; 4]>,
    /// What the driver says has to be done (field 230).
    pub recovery_action: Option<u32>,
    /// NVML's bits of the events that it announces.
    pub event_types: u64,
    /// Received and sent.
    pub pcie_kbps: [u32; 2],
    /// Generation and lanes now, and at most.
    pub pcie_link: Option<[u32; 4]>,
    /// NVLinks, up or not; empty: it has none.
    pub nvlinks: Vec<bool>,
    /// Further field values by NVML's id: unsigned 64 bit, or signed 32 bit.
    pub fields: BTreeMap<u32, u64>,
    pub fields_signed: BTreeMap<u32, i32>,
    /// GPM metrics by NVML's id; none: not supported.
    pub gpm: BTreeMap<u32, f64>,
    /// `null`: MIG is off.
    pub mig: Option<Vec<Mig>>,
    /// It fell off the bus.
    pub lost: bool,
    /// What a function answers for this GPU and its slices.
    pub faults: BTreeMap<String, u32>,
}

/// Frame buffer, in MiB.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryMib {
    pub total: u64,
    #[serde(default)]
    pub reserved: u64,
    pub used: u64,
}

/// A process with memory on the GPU.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    /// `null`: the driver does not tell.
    pub mib: Option<u64>,
    #[serde(default)]
    pub sm_util: u32,
    pub gi: Option<u32>,
    pub ci: Option<u32>,
    /// A client of the multi-process service: in that list only.
    #[serde(default)]
    pub mps: bool,
}

/// A MIG device: one compute instance of a GPU instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    pub uuid: String,
    pub name: String,
    pub gi: u32,
    pub ci: u32,
    pub slices: u32,
    pub sms: u32,
    pub memory_mib: MemoryMib,
    /// GPM metrics of the GPU instance, by NVML's id.
    #[serde(default)]
    pub gpm: BTreeMap<u32, f64>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            uuid: String::new(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            bus: None,
            pci_device_id: 0x2330_10de,
            memory_mib: MemoryMib { total: 81_559, reserved: 479, used: 60_000 },
            bar1_mib: Some([131_072, 64]),
            util_gpu: Some(92),
            util_mem: 41,
            util_samples: Vec::new(),
            processes: Vec::new(),
            temp_c: Some(52),
            temp_slowdown_c: None,
            temp_shutdown_c: None,
            temp_gpu_max_c: None,
            temp_mem_max_c: None,
            temp_mem_c: Some(61),
            temp_margin_c: Some(35),
            power_mw: Some(350_000),
            power_limit_mw: Some(700_000),
            energy_mj: Some(123_456_789),
            clock_mhz: [1755, 1755, 2619, 1365],
            clock_max_mhz: [1980, 1980, 2619, 1545],
            clock_event_reasons: Some(0),
            performance_state: 0,
            ecc_corrected: Some(0),
            ecc_uncorrected: Some(0),
            remapped_rows: Some([0; 4]),
            recovery_action: Some(0),
            event_types: EVENT_TYPES,
            pcie_kbps: [1_200_000, 900_000],
            pcie_link: Some([5, 16, 5, 16]),
            nvlinks: vec![true; 18],
            fields: BTreeMap::new(),
            // The thresholds below which clocks are cut, as an H100 names them.
            fields_signed: BTreeMap::from([(193, -8), (194, -2), (195, 0), (196, 0)]),
            gpm: BTreeMap::new(),
            mig: None,
            lost: false,
            faults: BTreeMap::new(),
        }
    }
}

impl Gpu {
    /// Gives a GPU without a name of its own one by its place.
    pub(super) fn name_by(&mut self, index: usize) {
        if self.uuid.is_empty() {
            self.uuid = format!("GPU-00000000-0000-4000-8000-{index:012}");
        }
        if self.bus.is_none() {
            self.bus = u32::try_from(index).ok().map(|index| 0x19 + index * 0x10);
        }
    }

    /// The address on the PCI bus.
    #[must_use]
    pub fn bus_id(&self) -> String {
        format!("00000000:{:02X}:00.0", self.bus.unwrap_or(0))
    }
}
