//! How a scheduler is replaced while it runs, and what its next life knows.

use std::path::PathBuf;
use std::time::Duration;

use crate::reader::Reader;

/// Replacing a running scheduler without closing its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverConfig {
    /// A unix socket where this scheduler offers its listeners to a successor; `None`: it does not.
    pub socket: Option<PathBuf>,
    /// Whether to take the listeners of the scheduler that offers them there. Without one it starts as usual.
    pub take_over: bool,
    /// How long to wait for the predecessor's ready endpoints before clients are accepted all the same.
    pub ready_within: Duration,
}

impl HandoverConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            socket: r.path_if_set("socket"),
            take_over: r.switch("take_over", false),
            ready_within: r.duration("ready_within", "10s", "0s"..="10m"),
        }
    }

    /// What no single key can know.
    pub(crate) fn check(&self, r: &mut Reader<'_>) {
        if self.take_over && self.socket.is_none() {
            r.object(
                "handover.take_over",
                "needs handover.socket, where the running scheduler offers its listeners",
            );
        }
    }
}

/// What operators said that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateConfig {
    /// Where drains are kept; `None`: they end with the process.
    pub file: Option<PathBuf>,
}

impl StateConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self { file: r.path_if_set("file") }
    }
}
