//! Which source a host gets.

use std::path::PathBuf;

use crate::{GpuError, GpuSource, NoGpus, NvmlSource, RecordedSource, SimulatedGpu, SimulatedSource, Tell};

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// NVML if there is a driver; else the simulated GPUs if there are any; else none.
    Auto {
        nvml_lib: Option<PathBuf>,
        simulated: Vec<SimulatedGpu>,
    },
    /// NVML, however long it takes to come.
    Nvml {
        lib: Option<PathBuf>,
    },
    Simulated(Vec<SimulatedGpu>),
    /// What a real machine said, from this file.
    Recorded(PathBuf),
    None,
}

/// The source for a choice; it tells at once what cannot wait for a reading. `Auto` asks the driver and may block for as long as it does: call it on the
/// thread that will own the source.
#[must_use]
pub fn open(choice: GpuChoice, tell: Tell) -> Box<dyn GpuSource> {
    match choice {
        GpuChoice::Auto { nvml_lib, simulated } => auto(NvmlSource::new(nvml_lib, tell), simulated),
        GpuChoice::Nvml { lib } => Box::new(NvmlSource::new(lib, tell)),
        GpuChoice::Simulated(gpus) => Box::new(SimulatedSource::new(gpus)),
        GpuChoice::Recorded(path) => Box::new(RecordedSource::new(path)),
        GpuChoice::None => Box::new(NoGpus),
    }
}

fn auto(mut nvml: NvmlSource, simulated: Vec<SimulatedGpu>) -> Box<dyn GpuSource> {
    if !simulated.is_empty() {
        tracing::info!(gpus = simulated.len(), "reading simulated gpus: simulated engines are configured");
        return Box::new(SimulatedSource::new(simulated));
    }
    match nvml.discover() {
        Ok(found) => {
            tracing::info!(gpus = found.items.len(), "reading gpus through nvml");
            Box::new(nvml)
        }
        // A driver that is there and in trouble may recover; a host without one has no GPUs to read.
        Err(error @ (GpuError::NoLibrary(_) | GpuError::DriverNotLoaded)) => {
            tracing::warn!(%error, "no gpus are read: placement rests on the engines alone; --gpu-source none silences this");
            Box::new(NoGpus)
        }
        Err(error) => {
            tracing::warn!(%error, "nvml is there but cannot be read now; it will be tried again");
            Box::new(nvml)
        }
    }
}

#[cfg(test)]
mod tests {
    use aya_domain::{GpuSourceKind, GpuUuid};

    use super::*;
    use crate::Product;

    #[test]
    fn auto_takes_what_there_is() {
        let lib = || Some(PathBuf::from("/nonexistent/libnvidia-ml.so.1"));
        let gpu = || SimulatedGpu {
            uuid: GpuUuid::parse("GPU-sim-0").unwrap(),
            product: Product::named("l4").unwrap(),
        };
        for (choice, expect) in [
            (GpuChoice::Auto { nvml_lib: lib(), simulated: Vec::new() }, GpuSourceKind::None),
            (GpuChoice::Auto { nvml_lib: lib(), simulated: vec![gpu()] }, GpuSourceKind::Simulated),
            (GpuChoice::Nvml { lib: lib() }, GpuSourceKind::Nvml),
            (GpuChoice::Simulated(vec![gpu()]), GpuSourceKind::Simulated),
            (GpuChoice::Recorded(PathBuf::from("r.json")), GpuSourceKind::Recorded),
            (GpuChoice::None, GpuSourceKind::None),
        ] {
            assert_eq!(open(choice.clone(), Tell::nobody()).kind(), expect, "{choice:?}");
        }
    }
}
