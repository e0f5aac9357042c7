//! The listening sockets, bound here or taken over.

use std::io;
use std::net::{SocketAddr, TcpListener};

use aya_config::SchedulerConfig;

use super::SchedulerError;
use crate::handover::Sockets;
use crate::listener;

/// Binds all of them.
pub(super) fn bind(config: &SchedulerConfig) -> Result<Sockets, SchedulerError> {
    let failed = |what, address| move |source| SchedulerError::Bind { what, address, source };
    if listener::is_taken(config.listen) {
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        return Err(SchedulerError::Bind { what: "API", address: config.listen, source });
    }
    Ok(Sockets {
        api: listener::bind(config.listen, config.threads).map_err(failed("API", config.listen))?,
        admin: listen(config.admin_listen).map_err(failed("admin", config.admin_listen))?,
        grpc: listen(config.grpc_listen).map_err(failed("gRPC", config.grpc_listen))?,
    })
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
