//! Listening sockets that whoever started the process had bound: systemd's socket activation.
//!
//! They are told apart by the names of their units (`FileDescriptorName=api`, `admin` or `grpc`), else by the configured
//! ports. A socket that is none of ours is an error: it would never be accepted from.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};

use aya_config::{PassedSocket, SchedulerConfig, passed_sockets};
use socket2::{SockRef, Type};

use super::SchedulerError;

/// What was passed, by listener.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Several, if there is one for each core.
    pub(super) api: Vec<TcpListener>,
    pub(super) admin: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
}

impl Passed {
    /// Takes those that were passed to this process.
    pub(super) fn take(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let mut passed = Self::default();
        for socket in passed_sockets(std::process::id()) {
            let descriptor = socket.descriptor;
            passed.add(&socket, config).map_err(|source| SchedulerError::Passed { descriptor, source })?;
        }
        Ok(passed)
    }

    fn add(&mut self, socket: &PassedSocket, config: &SchedulerConfig) -> io::Result<()> {
        let listener = adopt(socket.descriptor)?;
        let port = listener.local_addr()?.port();
        let is = |name: &str, configured: u16| {
            socket.name == name || (!is_known(&socket.name) && port == configured)
        };
        if is("api", config.listen.port()) {
            self.api.push(listener);
            return Ok(());
        }
        let one = if is("admin", config.admin_listen.port()) {
            &mut self.admin
        } else if is("grpc", config.grpc_listen.port()) {
            &mut self.grpc
        } else {
            return Err(io::Error::other(format!(
                "port {port} is none of ours, and {:?} is not api, admin or grpc",
                socket.name
            )));
        };
        match one.replace(listener) {
            None => Ok(()),
            Some(_) => Err(io::Error::other("there is another one for the same listener")),
        }
    }
}

fn is_known(name: &str) -> bool {
    matches!(name, "api" | "admin" | "grpc")
}

/// The descriptor as a listener of ours, if it is one.
#[expect(unsafe_code, reason = "a number becomes a descriptor; nothing safe does that")]
fn adopt(descriptor: i32) -> io::Result<TcpListener> {
    // SAFETY: whoever started us says that this descriptor is open and ours alone; we ask once, before anything else of
    // this process could have opened or closed it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let is_listener = {
        let socket = SockRef::from(&socket);
        socket.r#type()? == Type::STREAM && socket.is_listener()?
    };
    if !is_listener {
        return Err(io::Error::other("it is no listening TCP socket"));
    }
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
    Ok(listener)
}
