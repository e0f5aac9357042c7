//! What happens to a GPU between two readings, told at once by whoever sees it first.

use std::fmt;
use std::sync::Arc;

use aya_domain::{GpuEventKind, GpuUuid};

use crate::{CallError, FailedCalls};

/// One thing that happened to one GPU: a whole device, or the slice that was hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuHappening {
    pub gpu: GpuUuid,
    pub kind: GpuEventKind,
    /// XIDs of this GPU since the source began to listen, this one included.
    pub xids: Option<u32>,
}

/// Takes what happens. It is called on the driver's threads and must not block; what it cannot take is lost, and only
/// the counts in the next reading tell of it.
#[derive(Clone)]
pub struct Tell {
    take: Arc<dyn Fn(GpuHappening) + Send + Sync>,
    failed: Arc<FailedCalls>,
}

impl Tell {
    /// Tells by calling this.
    pub fn by(take: impl Fn(GpuHappening) + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take), failed: Arc::default() }
    }

    /// Also counts here the calls that fail.
    #[must_use]
    pub fn counting(self, failed: Arc<FailedCalls>) -> Self {
        Self { failed, ..self }
    }

    /// Tells nobody: the readings say it later.
    #[must_use]
    pub fn nobody() -> Self {
        Self::by(|_| {})
    }

    pub(crate) fn tell(&self, happening: GpuHappening) {
        (self.take)(happening);
    }

    pub(crate) fn failed(&self, error: CallError) {
        self.failed.add(error);
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}
