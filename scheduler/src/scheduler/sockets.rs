//! The listening sockets: bound here, passed by whoever started us, or taken over.

use std::io;
use std::net::{SocketAddr, TcpListener};

use aya_config::SchedulerConfig;

use super::SchedulerError;
use super::passed::Passed;
use crate::handover::Sockets;
use crate::listener;

/// Takes those that were passed and binds the others.
pub(super) fn bind(config: &SchedulerConfig) -> Result<Sockets, SchedulerError> {
    let failed = |what, address| move |source| SchedulerError::Bind { what, address, source };
    let Passed { api, admin, grpc } = Passed::take(config)?;
    let api = if api.is_empty() { bind_api(config) } else { one_per_core(api, config.threads) };
    let admin = admin.map_or_else(|| listen(config.admin_listen), Ok);
    let grpc = grpc.map_or_else(|| listen(config.grpc_listen), Ok);
    Ok(Sockets {
        api: api.map_err(failed("API", config.listen))?,
        admin: admin.map_err(failed("admin", config.admin_listen))?,
        grpc: grpc.map_err(failed("gRPC", config.grpc_listen))?,
    })
}

fn bind_api(config: &SchedulerConfig) -> io::Result<Vec<TcpListener>> {
    if listener::is_taken(config.listen) {
        return Err(io::Error::from(io::ErrorKind::AddrInUse));
    }
    listener::bind(config.listen, config.threads)
}

/// Cores beyond the sockets share them: one queue of connections, whoever comes first.
fn one_per_core(passed: Vec<TcpListener>, cores: usize) -> io::Result<Vec<TcpListener>> {
    let mut sockets = Vec::with_capacity(cores.max(passed.len()));
    for socket in passed.iter().cycle().take(cores.saturating_sub(passed.len())) {
        sockets.push(socket.try_clone()?);
    }
    sockets.extend(passed);
    Ok(sockets)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Refuses sockets of other addresses than the configuration names; port 0 is any port.
pub(super) fn check(sockets: &Sockets, config: &SchedulerConfig) -> Result<(), SchedulerError> {
    let api = sockets.api.iter().map(|socket| ("API", socket, config.listen));
    let others =
        [("admin", &sockets.admin, config.admin_listen), ("gRPC", &sockets.grpc, config.grpc_listen)];
    for (what, socket, wanted) in api.chain(others) {
        let failed = |source| SchedulerError::Bind { what, address: wanted, source };
        let has = socket.local_addr().map_err(failed)?;
        if has.ip() != wanted.ip() || (wanted.port() != 0 && has.port() != wanted.port()) {
            return Err(SchedulerError::Elsewhere { what, has, wanted });
        }
    }
    Ok(())
}
