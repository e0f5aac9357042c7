//! An upgrade without a refused connection: the running scheduler passes its listening sockets to a new process.
//!
//! The sockets stay open throughout, so whoever connects is accepted by the one or the other. The new process first takes
//! the agents, learns the fleet from them, and only then begins to accept clients; the old one stops accepting, finishes
//! what it began and ends. Until the new one has said that it serves, the old one can take everything back: a new version
//! that does not start costs nothing.
//!
//! The talk, over a unix socket of the configuration that only our own user may connect to:
//!
//! ```text
//! new: HELLO            old: a kind byte with each socket, END, how many endpoints are ready
//! new: TAKE_AGENTS      old: closes the agents' streams; AGENTS_GONE
//! new: SERVING          old: accepts no more; DONE     (or REFUSED, at any time)
//! ```

mod offer;
mod take;
mod wire;

use std::io;
use std::net::TcpListener;
use std::time::Duration;

pub(crate) use offer::{Agents, Offer};
pub(crate) use take::{Taken, is_offered, take};

/// The first bytes of the new process; the digit is the version of this talk.
const HELLO: &[u8; 16] = b"aya take-over 1\n";
const END: u8 = b'.';
const TAKE_AGENTS: u8 = b'T';
const AGENTS_GONE: u8 = b't';
const SERVING: u8 = b'S';
const DONE: u8 = b's';
const REFUSED: u8 = b'x';
/// How long either waits for a word that the other has at hand.
const WORD_MAX: Duration = Duration::from_secs(10);

/// Why sockets do not change hands.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the other process did not answer within {WORD_MAX:?}")]
    Silent,
    #[error("the other process does not speak this version of the hand-over")]
    Foreign,
    #[error("the other process runs as another user")]
    OtherUser,
    #[error("the running scheduler keeps its sockets: it stops, or waited too long")]
    Refused,
    #[error("a scheduler runs and offers its listeners there: take them with --take-over, or stop it first")]
    InUse,
    #[error("the running scheduler passed no socket for {0}")]
    Incomplete(&'static str),
}

/// What a scheduler listens on.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// One per core, all on one port.
    pub(crate) api: Vec<TcpListener>,
    pub(crate) admin: TcpListener,
    pub(crate) grpc: TcpListener,
}

/// Which socket is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Api,
    Admin,
    Grpc,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Api => b'a',
            Self::Admin => b'm',
            Self::Grpc => b'g',
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'a' => Some(Self::Api),
            b'm' => Some(Self::Admin),
            b'g' => Some(Self::Grpc),
            _ => None,
        }
    }
}

impl Sockets {
    /// The same sockets once more: both must be closed before the last waiting connection is refused.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let api: io::Result<_> = self.api.iter().map(TcpListener::try_clone).collect();
        Ok(Self { api: api?, admin: self.admin.try_clone()?, grpc: self.grpc.try_clone()? })
    }
}

/// The other's word within [`WORD_MAX`].
async fn soon<T>(word: impl Future<Output = io::Result<T>>) -> Result<T, HandoverError> {
    Ok(tokio::time::timeout(WORD_MAX, word).await.map_err(|_| HandoverError::Silent)??)
}
