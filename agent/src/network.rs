//! How an uplink reaches its scheduler: over the machine's network, or over a simulated one.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aya_domain::EndpointUrl;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};

use crate::advertise::Route;

/// A connected stream of bytes.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Link>>> + Send>>;

/// Opens links over another network than the machine's; the argument is the scheduler's authority, host and port.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(String) -> Connecting + Send + Sync>);

impl Dial {
    /// Dials by calling this.
    pub fn by<F, L>(dial: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<L>> + Send + 'static,
        L: Link + 'static,
    {
        Self(Arc::new(move |authority| {
            let connecting = dial(authority);
            Box::pin(async move {
                let link: Box<dyn Link> = Box::new(connecting.await?);
                Ok(link)
            })
        }))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Box<dyn Link>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let connecting = (self.0)(authority);
        Box::pin(async move { Ok(TokioIo::new(connecting.await?)) })
    }
}

/// The network that uplinks use.
#[derive(Debug, Clone)]
pub(crate) enum Network {
    Machine,
    Simulated(Dial),
}

impl Network {
    pub(crate) async fn connect(&self, to: &Endpoint) -> Result<Channel, Error> {
        match self {
            Self::Machine => to.connect().await,
            Self::Simulated(dial) => to.connect_with_connector(dial.clone()).await,
        }
    }

    /// What is known of the way there; of a simulated one nothing, so that engines keep their addresses.
    pub(crate) async fn route(&self, scheduler: &EndpointUrl) -> Route {
        match self {
            Self::Machine => Route::to(scheduler).await,
            Self::Simulated(_) => Route { same_host: false, local: None },
        }
    }
}
