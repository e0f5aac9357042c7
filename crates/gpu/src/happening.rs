//! What happens to a GPU between two readings, told at once by whoever sees it first.

use std::fmt;
use std::sync::Arc;

use aya_domain::{GpuEventKind, GpuUuid};

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
pub struct Tell(Arc<dyn Fn(GpuHappening) + Send + Sync>);

impl Tell {
    /// Tells by calling this.
    pub fn by(take: impl Fn(GpuHappening) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Tells nobody: the readings say it later.
    #[must_use]
    pub fn nobody() -> Self {
        Self::by(|_| {})
    }

    pub(crate) fn tell(&self, happening: GpuHappening) {
        (self.0)(happening);
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}
