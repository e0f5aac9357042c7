//! A simulated engine as a service: bind, then run until told to stop.
//!
//! Stopping is abrupt on purpose: streams break off without an end, as they do when an engine's process dies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::serve::ListenerExt;
use aya_observe::Clock;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Facts, SimConfig, SimError};
use crate::driver::{Driver, Shared};
use crate::engine::Engine;
use crate::http::{self, App};
use crate::inbox::{Aborts, INBOX_MAX};
use crate::status::Status;

/// How long connections may take to close once the engine has stopped.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// A simulated engine that listens, but does not answer yet.
#[derive(Debug)]
pub struct SimEngine {
    listener: TcpListener,
    addr: SocketAddr,
    driver: Driver,
    app: Arc<App>,
}

impl SimEngine {
    /// Checks the configuration and takes the port.
    ///
    /// # Errors
    /// A bad configuration, or a port that cannot be taken.
    pub async fn bind(config: SimConfig) -> Result<Self, SimError> {
        let facts = Facts::new(&config)?;
        let bind = |source| SimError::Bind { listen: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;

        let clock = Clock::start();
        let engine = Engine::new(facts.profile, config.waiting_max);
        let shared = Arc::new(Shared {
            status: parking_lot::Mutex::new(Status::new(engine.kv_blocks())),
            faults: watch::Sender::new(config.faults),
            aborts: Aborts::default(),
        });
        let (inbox, jobs) = mpsc::channel(INBOX_MAX);
        let driver = Driver::new(engine, Arc::clone(&shared), jobs, clock.clone(), facts.time_scale);
        let app = Arc::new(App { facts, shared, inbox, clock, sequence: AtomicU64::new(0) });
        Ok(Self { listener, addr, driver, app })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The models it serves.
    #[must_use]
    pub fn models(&self) -> &[String] {
        &self.app.facts.models
    }

    /// Answers until the token is cancelled, then breaks off what is in flight.
    ///
    /// # Errors
    /// A listener that fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SimError> {
        let facts = &self.app.facts;
        tracing::info!(
            addr = %self.addr, profile = facts.named.name, model = facts.model(), time_scale = facts.time_scale,
            "simulated engine serves"
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(self.driver.run(shutdown.clone()));
        // Events are small and each must go out at once.
        let listener = self.listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let server = axum::serve(listener, http::router(self.app))
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let outcome = tokio::select! {
            served = async { server.await } => served.map_err(SimError::Serve),
            () = async { shutdown.cancelled().await; tokio::time::sleep(CLOSE_MAX).await } => Ok(()),
        };
        shutdown.cancel();
        while tasks.join_next().await.is_some() {}
        outcome
    }
}
