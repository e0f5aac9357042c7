//! A host whose GPUs nobody reads: placement then rests on the engines alone.

use aya_domain::{GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime};

use crate::{Collected, GpuError, GpuSource};

/// No GPUs, and no error about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGpus;

impl GpuSource for NoGpus {
    fn kind(&self) -> GpuSourceKind {
        GpuSourceKind::None
    }

    fn driver_version(&self) -> Option<String> {
        None
    }

    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
        Ok(Collected::all(Vec::new()))
    }

    fn sample(&mut self, _now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        Ok(Collected::all(Vec::new()))
    }
}
