//! Why GPUs cannot be read, in the words that help an operator.

/// Why a collection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The library is not there: no driver is installed, or the path is wrong.
    #[error("no NVIDIA driver found ({0})")]
    NoLibrary(String),
    /// The library is there, but too old or not NVML.
    #[error("the NVML library lacks a function ({0})")]
    OldLibrary(String),
    /// The kernel modules are not loaded.
    #[error("the NVIDIA kernel driver is not loaded")]
    DriverNotLoaded,
    /// The driver was upgraded under the running system.
    #[error("NVML and the kernel driver have different versions: reload its modules or reboot")]
    VersionMismatch,
    /// The user may not ask the driver.
    #[error("no permission to read the GPUs")]
    NoPermission,
    /// The driver works and names no device.
    #[error("the driver names no GPU")]
    NoGpus,
    /// The device does not answer any more.
    #[error("the GPU is lost (fell off the bus)")]
    Lost,
    /// The device needs a reset before it works again.
    #[error("the GPU needs a reset")]
    ResetRequired,
    /// The file that is to be played is not there, or no recording.
    #[error("recording {0}")]
    Recording(String),
    /// Anything else, in the driver's words.
    #[error("NVML: {0}")]
    Other(String),
}

impl GpuError {
    /// Whether the library has to be opened anew before it can work again.
    #[must_use]
    pub const fn needs_reopen(&self) -> bool {
        match self {
            Self::DriverNotLoaded | Self::VersionMismatch | Self::NoGpus | Self::Other(_) => true,
            Self::NoLibrary(_)
            | Self::OldLibrary(_)
            | Self::NoPermission
            | Self::Lost
            | Self::Recording(_)
            | Self::ResetRequired => false,
        }
    }
}
