//! What a client gets: bytes at once, or pieces as they come.

use std::task::{Context, Poll};

use bytes::Bytes;

/// A body that comes piece by piece.
pub(crate) trait Pieces: std::fmt::Debug + Send {
    /// The next piece; `None` ends the response.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;

    /// Ends it before its end: what the client is told instead of the rest; empty if nothing is missing.
    fn cut(&mut self) -> Bytes;
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum ClientBody {
    Whole(Bytes),
    Stream(Box<dyn Pieces>),
}
