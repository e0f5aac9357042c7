//! Where GPU readings come from: NVML, simulated GPUs, or nowhere.
//!
//! A source may block for as long as a driver hangs, so it lives on an OS thread of its own ([`GpuThread`])
//! and whoever asks it keeps a deadline. Every reading is optional: "not supported" is normal and differs
//! by product. An empty list of devices is a failed collection, never "no load".

mod error;
mod failed;
mod happening;
mod none;
mod nvml;
mod open;
mod product;
mod recorded;
mod recording;
mod simulated;
mod source;
mod thread;

pub use error::GpuError;
pub use failed::{CallError, FailedCalls};
pub use happening::{GpuHappening, Tell};
pub use none::NoGpus;
pub use nvml::NvmlSource;
pub use open::{GpuChoice, open};
pub use product::Product;
pub use recorded::RecordedSource;
pub use recording::{RECORDING_BYTES_MAX, Recording, RecordingError};
pub use simulated::{SimulatedGpu, SimulatedSource};
pub use source::{Collected, GpuHolder, GpuHolders, GpuLoad, GpuSource};
pub use thread::{Answer, Ask, GpuThread, ThreadError};
