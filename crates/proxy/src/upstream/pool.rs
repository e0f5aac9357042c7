//! Idle sockets to engines, one pool per thread.
//!
//! A request lives on one thread, so no lock is needed; what it holds between awaits stays `Send`. A socket is taken
//! back newest first and checked by a read that costs no system call while it is quiet: closed or talking out of
//! turn, it is dropped. Limits: sockets per endpoint, and an age below the engines' own keep-alive.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Phase, UpstreamConfig};
use crate::timer::PhaseTimer;

/// How often endpoints that are no longer used are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A kept socket with the timer of its exchanges: making one anew would cost a request more than its placement.
pub(super) struct Kept {
    pub(super) stream: TcpStream,
    pub(super) timer: PhaseTimer<Phase>,
}

struct Idle {
    kept: Kept,
    since: Instant,
}

#[derive(Default)]
struct Pool {
    /// Oldest first.
    idle: BTreeMap<SocketAddr, Vec<Idle>>,
    swept_at: Option<Instant>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An idle socket to this address that is still open.
pub(super) fn take(
    addr: SocketAddr,
    keep_alive: Duration,
    now: Instant,
    cx: &mut Context<'_>,
) -> Option<Kept> {
    with_pool(|pool| {
        let idle = pool.idle.get_mut(&addr)?;
        while let Some(mut newest) = idle.pop() {
            if now.duration_since(newest.since) >= keep_alive {
                idle.clear();
                return None;
            }
            if is_quiet(&mut newest.kept.stream, cx) {
                return Some(newest.kept);
            }
        }
        None
    })
}

/// Keeps a socket whose last answer was read to its end.
pub(super) fn put(addr: SocketAddr, kept: Kept, config: &UpstreamConfig, now: Instant) {
    if config.idle_max == 0 {
        return;
    }
    with_pool(|pool| {
        pool.sweep(now, config.keep_alive);
        let idle = pool.idle.entry(addr).or_default();
        if idle.len() >= config.idle_max {
            idle.remove(0);
        }
        idle.push(Idle { kept, since: now });
        None::<()>
    });
}

/// Idle sockets that this thread keeps to an address.
#[must_use]
pub fn idle_sockets(addr: SocketAddr) -> usize {
    with_pool(|pool| pool.idle.get(&addr).map(Vec::len)).unwrap_or(0)
}

/// Closes every idle socket of this thread.
pub fn close_idle() {
    with_pool(|pool| {
        pool.idle.clear();
        None::<()>
    });
}

/// `None` also while the thread ends and the pool is gone.
fn with_pool<T>(use_it: impl FnOnce(&mut Pool) -> Option<T>) -> Option<T> {
    POOL.try_with(|pool| use_it(&mut pool.borrow_mut())).ok().flatten()
}

impl Pool {
    fn sweep(&mut self, now: Instant, keep_alive: Duration) {
        if self.swept_at.is_some_and(|at| now.duration_since(at) < SWEEP_EVERY) {
            return;
        }
        self.swept_at = Some(now);
        self.idle.retain(|_, idle| {
            idle.retain(|entry| now.duration_since(entry.since) < keep_alive);
            !idle.is_empty()
        });
    }
}

/// An idle engine has nothing to say: data is the tail of a split answer, an end is a close.
fn is_quiet(stream: &mut TcpStream, cx: &mut Context<'_>) -> bool {
    let mut byte = [0u8; 1];
    let poll: Poll<_> = Pin::new(stream).poll_read(cx, &mut ReadBuf::new(&mut byte));
    poll.is_pending()
}
