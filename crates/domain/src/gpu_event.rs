//! What happens to a GPU between two readings and cannot wait for the next: the driver's errors, its wish for a
//! recovery, a GPU that is gone.

use std::fmt;

use crate::{Aged, BootId, GpuUuid, NodeId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuEventKind {
    /// The driver's critical error with its number.
    Xid { code: u32 },
    /// An error that ECC could not correct. The XID that follows on most products is an event of its own.
    EccUncorrected,
    /// The driver asks for something else than before, raw: 0 nothing, 1 reset, 2 reboot, 3 drain peer-to-peer,
    /// 4 drain and reset.
    Recovery { action: u32 },
    /// The GPU does not answer any more.
    Lost,
}

impl GpuEventKind {
    /// The name used in the API, metrics and tables.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Xid { .. } => "xid",
            Self::EccUncorrected => "ecc_uncorrected",
            Self::Recovery { .. } => "recovery",
            Self::Lost => "lost",
        }
    }

    /// The number that belongs to the kind, where there is one.
    #[must_use]
    pub const fn code(&self) -> Option<u32> {
        match self {
            Self::Xid { code } => Some(*code),
            Self::Recovery { action } => Some(*action),
            Self::EccUncorrected | Self::Lost => None,
        }
    }
}

impl fmt::Display for GpuEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xid { code } => write!(f, "XID {code}"),
            Self::EccUncorrected => f.write_str("an uncorrectable memory error"),
            Self::Recovery { action } => write!(f, "recovery action {action}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}

/// One event of one GPU as placement knows it: what hits a device in MIG mode is an event of each slice that it hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvent {
    /// Counts up by one per event of a start of the agent, so that an event told twice counts once.
    pub sequence: u64,
    pub gpu: GpuUuid,
    pub kind: GpuEventKind,
    /// XIDs of this GPU since the agent began to listen, this one included.
    pub xids: Option<u32>,
}

/// What an agent tells at once, beside its reports. It may be told again after a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvents {
    pub node: NodeId,
    pub boot: BootId,
    /// In ascending order of sequence.
    pub events: Vec<Aged<GpuEvent>>,
}
