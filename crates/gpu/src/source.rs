//! What a source of GPU readings can do.

use std::fmt;
use std::ops::Range;

use aya_domain::{Bytes, GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime, Ratio};

use crate::GpuError;

/// What a collection brought, which may be less than everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected<T> {
    pub items: Vec<T>,
    /// What is wrong with the GPUs that are missing in `items`; `None`: nothing.
    pub trouble: Option<String>,
}

impl<T> Collected<T> {
    /// A collection without trouble.
    #[must_use]
    pub const fn all(items: Vec<T>) -> Self {
        Self { items, trouble: None }
    }
}

/// What one simulated engine does to one simulated GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuLoad {
    pub gpu: GpuUuid,
    /// Weights and KV cache on this GPU.
    pub vram_used: Bytes,
    /// Share of the time with work running.
    pub busy: Ratio,
    /// Share of the time spent on prompts, at most `busy`.
    pub prefill: Ratio,
}

/// A process that holds memory of a GPU, as the driver names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuHolder {
    /// In the PID namespace of the host or of this process, whichever the driver counts in.
    pub pid: u32,
    /// Absent where the driver does not tell.
    pub vram: Option<Bytes>,
}

/// Who holds one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuHolders {
    pub gpu: GpuUuid,
    /// In the driver's order; `None`: the driver does not tell.
    pub holders: Option<Vec<GpuHolder>>,
}

/// A source of GPU readings. Calls may block for as long as the driver does.
pub trait GpuSource: Send + fmt::Debug {
    /// Which kind it is.
    fn kind(&self) -> GpuSourceKind;

    /// The driver's version, once it has been reached.
    fn driver_version(&self) -> Option<String>;

    /// The GPUs of this host with what does not change.
    ///
    /// # Errors
    /// [`GpuError`] if not one GPU could be described.
    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError>;

    /// One reading of every GPU that the last discovery named.
    ///
    /// # Errors
    /// [`GpuError`] if not one GPU could be read.
    fn sample(&mut self, now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError>;

    /// Devices that can be read one at a time, since the last discovery; one where all are read at once.
    fn devices(&self) -> usize {
        1
    }

    /// One reading of some of these devices, by their places: reading them one after another through the time between
    /// two readings holds a driver's locks for short moments only. Its trouble is that of all devices.
    ///
    /// # Errors
    /// [`GpuError`] if not one device could be read the last time.
    fn sample_some(
        &mut self,
        _devices: Range<usize>,
        now: MonoTime,
    ) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        self.sample(now)
    }

    /// The processes that hold the GPUs of some devices, by their places: some milliseconds per GPU on a real driver. A
    /// GPU that did not answer is missing, and so are all of a source that knows no processes.
    fn holders(&mut self, _devices: Range<usize>) -> Vec<GpuHolders> {
        Vec::new()
    }

    /// Tells a simulated source what runs on its GPUs; a real one sees for itself.
    fn observe(&mut self, _loads: &[GpuLoad]) {}
}
