//! The processes that hold a GPU, as far as the agent may see them.

use std::fmt;

use crate::{Bytes, EndpointId};

/// Processes of one GPU in a report; of more, those with the most memory are told and the view is partial.
pub const GPU_PROCESSES_MAX: usize = 64;

/// How much of the truth a list of processes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessView {
    /// Every process of the GPU, with its memory.
    Full,
    /// Some are not ours to see, or their memory is not told: another PID namespace, WSL, a limit.
    Partial,
    /// The driver does not tell.
    Unsupported,
}

impl ProcessView {
    /// The name used in the API and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Partial => "partial",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for ProcessView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One process on one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcess {
    /// As the driver counts: in the PID namespace of the host or of the agent.
    pub pid: u32,
    /// What the system calls it; absent for a process that the agent cannot see.
    pub name: Option<String>,
    /// What it holds on this GPU.
    pub vram: Option<Bytes>,
    /// The engine that it belongs to.
    pub engine: Option<EndpointId>,
}

/// The processes of one GPU at one instant, the largest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcesses {
    pub view: ProcessView,
    pub processes: Vec<GpuProcess>,
}
