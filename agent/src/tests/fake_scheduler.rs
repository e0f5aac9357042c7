//! A scheduler that keeps the reports it is sent.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aya_domain::{GpuEvents, Report};
use aya_proto::{
    AgentMessage, AgentService, AgentServiceServer, Limits, SchedulerMessage, Welcome, from_agent, wire,
};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Far beyond what a slow machine needs; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running fake scheduler; dropped, it is killed.
pub(super) struct FakeScheduler {
    pub(super) addr: SocketAddr,
    reports: mpsc::Receiver<Report>,
    events: mpsc::Receiver<GpuEvents>,
    say: broadcast::Sender<SchedulerMessage>,
    server: JoinSet<()>,
    /// Streams opened so far.
    pub(super) streams: Arc<AtomicU32>,
}

impl FakeScheduler {
    pub(super) async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    /// One that takes reports and never says a word.
    pub(super) async fn mute() -> Self {
        Self::with("127.0.0.1:0".parse().unwrap(), true).await
    }

    pub(super) async fn at(addr: SocketAddr) -> Self {
        Self::with(addr, false).await
    }

    async fn with(addr: SocketAddr, mute: bool) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, reports) = mpsc::channel(1024);
        let (tell_events, events) = mpsc::channel(1024);
        let (say, _) = broadcast::channel(8);
        let streams = Arc::new(AtomicU32::new(0));
        let opened = Arc::clone(&streams);
        let service = AgentServiceServer::new(Service { tell, tell_events, say: say.clone(), mute, opened });
        let mut server = JoinSet::new();
        server.spawn(async move {
            let router = tonic::transport::Server::builder().add_service(service);
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { addr, reports, events, say, server, streams }
    }

    /// Ends it as kill -9 would, and starts it again on the same port.
    pub(super) async fn restart(&mut self) {
        self.server.shutdown().await;
        *self = Self::at(self.addr).await;
    }

    pub(super) fn say(&self, message: SchedulerMessage) {
        self.say.send(message).unwrap();
    }

    /// The next report.
    pub(super) async fn next(&mut self) -> Report {
        self.until("any report", |_| true).await
    }

    /// The next message of GPU events.
    pub(super) async fn events(&mut self) -> GpuEvents {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no events came").unwrap()
    }

    /// The next report that is so; those before it are dropped.
    pub(super) async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Report) -> bool) -> Report {
        let mut last = None;
        let search = async {
            loop {
                let report = self.reports.recv().await.unwrap();
                if is_so(&report) {
                    return report;
                }
                last = Some(report);
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(report) => report,
            Err(_) => panic!("never came: {what}; last: {last:#?}"),
        }
    }
}

struct Service {
    tell: mpsc::Sender<Report>,
    tell_events: mpsc::Sender<GpuEvents>,
    say: broadcast::Sender<SchedulerMessage>,
    mute: bool,
    opened: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<wire::SchedulerMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let mute = self.mute;
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (answers, outgoing) = mpsc::channel(64);
        let (tell, tell_events, mut said) =
            (self.tell.clone(), self.tell_events.clone(), self.say.subscribe());
        let welcome = Welcome { version: "test".to_owned(), limits: Limits::default() };
        if !mute {
            answers.try_send(Ok((&SchedulerMessage::Welcome(welcome)).into())).unwrap();
        }
        let listen = async move {
            loop {
                let answer = tokio::select! {
                    said = said.recv() => match said {
                        Ok(message) => message,
                        Err(_) => return,
                    },
                    message = incoming.next() => {
                        let Some(Ok(message)) = message else { return };
                        let report = match from_agent(message, &Limits::default()).unwrap() {
                            AgentMessage::Report(report) => *report,
                            AgentMessage::GpuEvents(events) => {
                                tell_events.send(events).await.unwrap();
                                continue;
                            }
                        };
                        let sequence = report.sequence;
                        if tell.send(report).await.is_err() {
                            return;
                        }
                        SchedulerMessage::Ack { sequence }
                    }
                };
                if !mute && answers.send(Ok((&answer).into())).await.is_err() {
                    return;
                }
            }
        };
        // The listening half lives in the answering stream, so that it dies with the connection.
        let listen = Driven(Box::pin(listen));
        Ok(Response::new(Box::pin(listen.merge(ReceiverStream::new(outgoing)))))
    }
}

/// A stream without items that drives a future.
struct Driven(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Stream for Driven {
    type Item = Result<wire::SchedulerMessage, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll(cx).map(|()| None)
    }
}
