//! Calls of a driver that failed, counted by what kind of failure it was.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of failure that an operator treats differently: a closed list, fit for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// Normal: the product does not have it. Asked once per discovery.
    NotSupported,
    NoPermission,
    Lost,
    ResetRequired,
    Timeout,
    /// No library, or none that fits.
    Library,
    /// The kernel's part is not loaded, or of another version.
    Driver,
    Other,
}

impl CallError {
    /// In the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::NotSupported,
        Self::NoPermission,
        Self::Lost,
        Self::ResetRequired,
        Self::Timeout,
        Self::Library,
        Self::Driver,
        Self::Other,
    ];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSupported => "not_supported",
            Self::NoPermission => "no_permission",
            Self::Lost => "lost",
            Self::ResetRequired => "reset_required",
            Self::Timeout => "timeout",
            Self::Library => "library",
            Self::Driver => "driver",
            Self::Other => "other",
        }
    }
}

/// How many calls failed since the start; counted on the driver's threads, read by anybody.
#[derive(Debug, Default)]
pub struct FailedCalls([AtomicU64; CallError::ALL.len()]);

impl FailedCalls {
    // Relaxed, both: each counter stands for itself.
    pub(crate) fn add(&self, error: CallError) {
        if let Some(count) = self.0.get(error as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many failed this way.
    #[must_use]
    pub fn of(&self, error: CallError) -> u64 {
        self.0.get(error as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
