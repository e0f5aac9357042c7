//! The running scheduler's side: offers its sockets, one taker at a time, until one of them serves.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    AGENTS_GONE, DONE, END, HELLO, HandoverError, Kind, REFUSED, SERVING, Sockets, TAKE_AGENTS, soon, wire,
};
use crate::shared::Shared;

/// What the new process may take beyond its own wait for the fleet.
const START_MAX: Duration = Duration::from_secs(30);

/// Whether the agents' streams are ours, and whether they have really gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agents {
    Ours,
    LetGo,
    Gone,
}

/// The unix socket, and what is offered there.
#[derive(Debug)]
pub(crate) struct Offer {
    path: PathBuf,
    listener: UnixListener,
    sockets: Sockets,
    shared: Arc<Shared>,
    agents: watch::Sender<Agents>,
}

impl Offer {
    /// Listens at `path`, in the place of whoever listened there before. Only our own user may connect.
    pub(crate) fn at(
        path: &Path,
        sockets: Sockets,
        shared: Arc<Shared>,
        agents: watch::Sender<Agents>,
    ) -> io::Result<Self> {
        let own = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&own);
        let listener = UnixListener::bind(&own)?;
        let placed = std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&own, path));
        if let Err(error) = placed {
            let _ = std::fs::remove_file(&own);
            return Err(error);
        }
        Ok(Self { path: path.to_owned(), listener, sockets, shared, agents })
    }

    /// Offers until a taker serves, or `stopped`.
    pub(crate) async fn run(self, stopped: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stopped.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let given = match accepted {
                Ok((taker, _)) => tokio::select! {
                    () = stopped.cancelled() => {
                        let _ = wire::say(&taker, &[REFUSED]).await;
                        break;
                    }
                    given = self.give(&taker) => given.inspect_err(|_| {
                        let _ = taker.try_write(&[REFUSED]);
                    }),
                },
                Err(error) => Err(error.into()),
            };
            match given {
                // The path is the taker's now.
                Ok(()) => return,
                Err(error) => {
                    warn!(%error, "the sockets were not taken over; this scheduler goes on");
                    self.agents.send_replace(Agents::Ours);
                }
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }

    async fn give(&self, taker: &UnixStream) -> Result<(), HandoverError> {
        if taker.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(HandoverError::OtherUser);
        }
        if soon(wire::hear_exactly(taker)).await? != *HELLO {
            return Err(HandoverError::Foreign);
        }
        info!("another process takes over");
        for socket in &self.sockets.api {
            soon(wire::send(taker, Kind::Api.byte(), socket.as_fd())).await?;
        }
        soon(wire::send(taker, Kind::Admin.byte(), self.sockets.admin.as_fd())).await?;
        soon(wire::send(taker, Kind::Grpc.byte(), self.sockets.grpc.as_fd())).await?;
        let ready = u32::try_from(self.shared.view.load().ready()).unwrap_or(u32::MAX);
        let mut end = vec![END];
        end.extend_from_slice(&ready.to_be_bytes());
        soon(wire::say(taker, &end)).await?;
        expect(TAKE_AGENTS, soon(wire::hear(taker)).await?.map(|(word, _)| word))?;
        self.agents.send_replace(Agents::LetGo);
        let mut agents = self.agents.subscribe();
        let gone = async {
            let waited = agents.wait_for(|agents| *agents == Agents::Gone).await;
            waited.map(drop).map_err(io::Error::other)
        };
        soon(gone).await?;
        soon(wire::say(taker, &[AGENTS_GONE])).await?;
        let patience = self.shared.config.handover.ready_within.saturating_add(START_MAX);
        let serving = tokio::time::timeout(patience, wire::hear(taker)).await;
        expect(SERVING, serving.map_err(|_| HandoverError::Silent)??.map(|(word, _)| word))?;
        self.shared.stopping.hand_over();
        // Who took over does so even if it does not hear this.
        let _ = wire::say(taker, &[DONE]).await;
        Ok(())
    }
}

fn expect(word: u8, heard: Option<u8>) -> Result<(), HandoverError> {
    match heard {
        Some(heard) if heard == word => Ok(()),
        Some(_) => Err(HandoverError::Foreign),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}
