//! Our HTTP/1.1 client for engines: pooled sockets that the request's own task polls.
//!
//! Why not a general client: a task per connection costs a wake-up per streamed chunk (6 us instead of 0.7), and a
//! request written from typed parts cannot smuggle. One [`exchange()`] sends one request and gives the answer's head
//! and a body that is polled for de-chunked data; dropping either before the end closes the socket, which is how an
//! engine is told to cancel. Sockets are never half-closed (engines take that for a disconnect), redirects are never
//! followed, `poll_read` is the only way to read (it alone clears tokio's readiness without a second system call).
//! Everything an engine sends is hostile input with a limit.

mod error;
mod exchange;
mod pool;
mod request;
mod response;
mod waits;

use std::time::Duration;

pub use error::{Phase, UpstreamError};
pub use exchange::{Response, ResponseBody, Socket, exchange, exchange_watched};
pub use pool::{close_idle, idle_sockets};
pub use request::{Method, RequestHead};
pub use response::ResponseHead;
pub(crate) use response::parse as parse_response;
pub use waits::Quiet;

/// Largest head of an answer, in bytes, all informational heads before it included.
pub const HEAD_MAX: usize = 64 * 1024;
/// Most header fields in the head of an answer.
pub const HEADERS_MAX: usize = 128;
/// Most informational (1xx) heads before the real one.
pub const INFORMATIONAL_MAX: u32 = 8;

/// Deadlines of one exchange and limits of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamConfig {
    pub connect_timeout: Duration,
    /// From the start of writing to the whole head. Where an engine holds headers back, this is its TTFT limit.
    pub head_timeout: Duration,
    /// Longest silence within a body.
    pub idle_timeout: Duration,
    /// From the start of writing to the end of the body; where it is shorter, it bounds the two above.
    pub total_timeout: Duration,
    /// How long an idle socket is kept; shorter than the engines' own 5 s, or a request meets a closing socket.
    pub keep_alive: Duration,
    /// Idle sockets kept per endpoint and thread.
    pub idle_max: usize,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(120),
            total_timeout: Duration::MAX,
            keep_alive: Duration::from_secs(4),
            idle_max: 64,
        }
    }
}

#[cfg(test)]
mod tests;
