//! The new process's side: takes the sockets of the running scheduler, and its agents, when it is told to.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{
    AGENTS_GONE, DONE, END, HELLO, HandoverError, Kind, REFUSED, SERVING, Sockets, TAKE_AGENTS, soon, wire,
};
use crate::shared::Shared;

/// How often the fleet is looked at while its agents come.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The talk with the running scheduler, its sockets in our hands.
#[derive(Debug)]
pub(crate) struct Taken {
    stream: UnixStream,
    /// Endpoints that were ready there.
    ready: u32,
}

/// The sockets of the scheduler that offers them at `path`; `None` if nobody does.
pub(crate) async fn take(path: &Path) -> Result<Option<(Sockets, Taken)>, HandoverError> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            info!(path = %path.display(), "no scheduler to take over from");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    soon(wire::say(&stream, HELLO)).await?;
    let (mut api, mut admin, mut grpc) = (Vec::new(), None, None);
    loop {
        let Some((byte, socket)) = soon(wire::hear(&stream)).await? else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        match (Kind::of(byte), socket.map(TcpListener::from)) {
            (Some(Kind::Api), Some(socket)) => api.push(socket),
            (Some(Kind::Admin), Some(socket)) => admin = Some(socket),
            (Some(Kind::Grpc), Some(socket)) => grpc = Some(socket),
            (None, None) if byte == END => break,
            (None, None) if byte == REFUSED => return Err(HandoverError::Refused),
            _ => return Err(HandoverError::Foreign),
        }
    }
    let ready = u32::from_be_bytes(soon(wire::hear_exactly(&stream)).await?);
    if api.is_empty() {
        return Err(HandoverError::Incomplete("clients"));
    }
    let admin = admin.ok_or(HandoverError::Incomplete("operators"))?;
    let grpc = grpc.ok_or(HandoverError::Incomplete("agents"))?;
    Ok(Some((Sockets { api, admin, grpc }, Taken { stream, ready })))
}

/// Whether a scheduler offers its sockets at `path`.
pub(crate) async fn is_offered(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

impl Taken {
    /// Lets the agents come to us, who accept them already, and waits until the fleet is as ready as it was there, or
    /// for the configured time.
    pub(crate) async fn agents(&mut self, shared: &Shared) -> Result<(), HandoverError> {
        soon(wire::say(&self.stream, &[TAKE_AGENTS])).await?;
        match soon(wire::hear(&self.stream)).await? {
            Some((AGENTS_GONE, _)) => {}
            Some((REFUSED, _)) => return Err(HandoverError::Refused),
            Some(_) => return Err(HandoverError::Foreign),
            // It is gone; its agents come all the same.
            None => {}
        }
        let wanted = usize::try_from(self.ready).unwrap_or(usize::MAX);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = async {
            while shared.view.load().ready() < wanted {
                look.tick().await;
            }
        };
        if timeout(shared.config.handover.ready_within, known).await.is_err() {
            let ready = shared.view.load().ready();
            warn!(ready, wanted, "not every endpoint is known yet; clients are accepted all the same");
        }
        Ok(())
    }

    /// We accept clients: the running scheduler shall accept no more.
    pub(crate) async fn serving(self) -> Result<(), HandoverError> {
        if soon(wire::say(&self.stream, &[SERVING])).await.is_ok() {
            match soon(wire::hear(&self.stream)).await? {
                Some((REFUSED, _)) => return Err(HandoverError::Refused),
                Some((DONE, _)) => {
                    info!("took over; the former scheduler finishes what it began");
                    return Ok(());
                }
                Some(_) => return Err(HandoverError::Foreign),
                None => {}
            }
        }
        warn!("the former scheduler ended while its sockets were taken over");
        Ok(())
    }
}
