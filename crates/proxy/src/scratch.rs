//! One buffer per thread for every read: a quiet connection holds no buffer at all.
//!
//! Whoever reads takes what it needs out of the buffer at once; nothing stays in it between two polls.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// One read at most, in bytes.
const READ_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MAX]);
}

/// Reads once into the thread's buffer and lets `take` look at what came; `None` is the end of the stream. Only
/// `poll_read` clears tokio's readiness after a short read; the other ways to read cost a second system call.
///
/// # Errors
/// Those of the socket.
pub fn poll_read<T>(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled();
        Poll::Ready(Ok((!filled.is_empty()).then(|| take(filled))))
    })
}
