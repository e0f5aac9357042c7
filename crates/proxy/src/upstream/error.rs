//! What can go wrong with an engine's socket: who, where, and whether another try is safe.

use std::io;

use crate::framing::FramingError;

/// The part of an exchange that a deadline bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    /// Writing the request and waiting for the head.
    Head,
    /// Between two pieces of a body.
    Body,
}

impl Phase {
    /// The name used in messages and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Head => "head",
            Self::Body => "body",
        }
    }
}

/// Why an exchange failed. All but [`Self::BadRequest`] are the engine's or the network's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Ours: the request cannot be written. Nothing was sent.
    #[error("the request's {what} cannot be sent")]
    BadRequest { what: &'static str },
    #[error("the engine cannot be reached: {kind}")]
    Connect { kind: io::ErrorKind },
    /// With `reused`, the pooled socket may just have been closed: a fresh one to the same engine is worth a try.
    #[error("the engine closed the connection before it answered")]
    ClosedBeforeHead { reused: bool },
    #[error("the head of the engine's answer exceeds {limit}")]
    HeadTooLarge { limit: &'static str },
    #[error("the head of the engine's answer is invalid: {what}")]
    BadHead { what: &'static str },
    #[error("the engine's answer ended early")]
    BodyTruncated,
    #[error("the framing of the engine's answer is invalid: {what}")]
    BodyFraming { what: &'static str },
    #[error("reading the engine's answer failed: {kind}")]
    Io { kind: io::ErrorKind },
    #[error("the engine's {} deadline passed", .phase.as_str())]
    Timeout { phase: Phase },
}

impl UpstreamError {
    /// Whether the request may go to another endpoint, as long as the client has not had a byte. The socket is closed
    /// on every error, so the engine at fault has been told to cancel.
    #[must_use]
    pub const fn retryable_before_first_byte(&self) -> bool {
        match self {
            Self::BadRequest { .. } => false,
            Self::Connect { .. }
            | Self::ClosedBeforeHead { .. }
            | Self::HeadTooLarge { .. }
            | Self::BadHead { .. }
            | Self::BodyTruncated
            | Self::BodyFraming { .. }
            | Self::Io { .. }
            | Self::Timeout { .. } => true,
        }
    }

    /// Whether the same endpoint should at once be tried again on a fresh socket.
    #[must_use]
    pub const fn is_stale_socket(&self) -> bool {
        matches!(self, Self::ClosedBeforeHead { reused: true })
    }

    /// The name used in records and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "bad_request",
            Self::Connect { .. } => "connect",
            Self::ClosedBeforeHead { .. } => "closed_before_head",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::BadHead { .. } => "bad_head",
            Self::BodyTruncated => "body_truncated",
            Self::BodyFraming { .. } => "body_framing",
            Self::Io { .. } => "io",
            Self::Timeout { phase: Phase::Connect } => "connect_timeout",
            Self::Timeout { phase: Phase::Head } => "head_timeout",
            Self::Timeout { phase: Phase::Body } => "body_timeout",
        }
    }
}

impl From<FramingError> for UpstreamError {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::Malformed { what } => Self::BodyFraming { what },
            FramingError::Truncated => Self::BodyTruncated,
        }
    }
}
