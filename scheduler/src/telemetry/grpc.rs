//! The agents' listener: one bidirectional stream per agent.
//!
//! A message that is impossible ends the stream with the field named; the agent's last good state stays, and
//! requests go on. An agent that is silent for [`SILENCE_MAX`] is disconnected: its socket is half open.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{GpuEvents, MonoTime, NodeId, Report};
use aya_observe::Clock;
use aya_proto::{AgentMessage, ConvertError, Heard, Limits, SchedulerMessage, Welcome, from_agent, wire};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::said::SaidAt;
use super::serve::AcceptedAt;
use super::writer::FleetHandle;
use crate::shared::Shared;

/// Answers that wait for an agent which does not read; at the limit its stream ends.
const ANSWERS_MAX: usize = 16;
/// Longer than any reporting period that the configuration allows.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The service behind the agents' port. Owns a task per stream.
#[derive(Debug, Clone)]
pub(crate) struct AgentStreams {
    shared: Arc<Shared>,
    fleet: FleetHandle,
    streams: Arc<Mutex<JoinSet<()>>>,
    shutdown: CancellationToken,
}

impl AgentStreams {
    pub(crate) fn new(shared: Arc<Shared>, fleet: FleetHandle, shutdown: CancellationToken) -> Self {
        Self { shared, fleet, streams: Arc::new(Mutex::new(JoinSet::new())), shutdown }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// Bytes of one message.
    pub(crate) fn message_max(&self) -> usize {
        self.shared.config.limits.message_max
    }

    /// Streams whose tasks have not ended.
    pub(crate) fn open(&self) -> usize {
        let mut streams = self.streams.lock();
        while streams.try_join_next().is_some() {}
        streams.len()
    }

    /// Waits for the streams' tasks after `shutdown`.
    pub(crate) async fn join(&self) {
        let mut streams = std::mem::take(&mut *self.streams.lock());
        while streams.join_next().await.is_some() {}
    }
}

type Answers = mpsc::Sender<Result<wire::SchedulerMessage, Status>>;

#[tonic::async_trait]
impl aya_proto::AgentService for AgentStreams {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<wire::SchedulerMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        let accepted = request.extensions().get::<AcceptedAt>();
        let opened_at = accepted.map_or_else(|| self.shared.clock.now(), |accepted| accepted.0);
        let reader = StreamReader {
            shared: Arc::clone(&self.shared),
            fleet: self.fleet.clone(),
            limits: Limits::default(),
            answers,
            node: None,
            said: SaidAt::new(opened_at),
            heard_at: MonoTime::ZERO,
        };
        let (incoming, shutdown) = (request.into_inner(), self.shutdown.clone());
        let mut streams = self.streams.lock();
        while streams.try_join_next().is_some() {}
        streams.spawn(reader.run(incoming, shutdown));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// One agent's stream.
#[derive(Debug)]
struct StreamReader {
    shared: Arc<Shared>,
    fleet: FleetHandle,
    limits: Limits,
    answers: Answers,
    /// Fixed by the first report: a stream speaks for one node.
    node: Option<NodeId>,
    said: SaidAt,
    /// When its last report was made.
    heard_at: MonoTime,
}

impl StreamReader {
    async fn run(mut self, incoming: Streaming<wire::AgentMessage>, shutdown: CancellationToken) {
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(Status::unavailable("the scheduler is shutting down")),
            result = self.read(incoming) => result,
        };
        let node = self.node.as_ref().map(NodeId::as_str);
        match result {
            Ok(()) => info!(node, "agent closed its stream"),
            Err(status) => {
                if !shutdown.is_cancelled() {
                    warn!(node, reason = status.message(), "agent stream ended");
                }
                // An agent that no longer reads will notice the closed stream instead.
                let _ = self.answers.try_send(Err(status));
            }
        }
        if let Some(node) = self.node {
            // The writer is gone only while the scheduler shuts down.
            let _ = self.fleet.disconnected(node, self.heard_at).await;
        }
    }

    async fn read(&mut self, mut incoming: Streaming<wire::AgentMessage>) -> Result<(), Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.answer(&SchedulerMessage::Welcome(Welcome { version, limits: self.limits }))?;
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, incoming.message())
                .await
                .map_err(|_| Status::deadline_exceeded("no report for 60 s"))??;
            let Some(message) = message else { return Ok(()) };
            self.take(message).await?;
        }
    }

    async fn take(&mut self, message: wire::AgentMessage) -> Result<(), Status> {
        let received_at = self.shared.clock.now();
        let refused = |error: ConvertError| {
            self.shared.metrics.reports_refused.inc();
            Status::invalid_argument(error.to_string())
        };
        let heard = Heard::of(&message).map_err(refused)?;
        let message = from_agent(message, &self.limits).map_err(refused)?;
        let said_at = self.said.of(heard, received_at);
        match message {
            AgentMessage::Report(report) => self.take_report(report, said_at).await,
            AgentMessage::GpuEvents(events) => self.take_events(events, said_at).await,
        }
    }

    /// For the fleet a report comes when it was made: its ages are true then, and silence begins there.
    async fn take_report(&mut self, report: Box<Report>, said_at: MonoTime) -> Result<(), Status> {
        if self.node.is_none() {
            info!(node = report.node.as_str(), agent = report.agent.version, "agent connected");
            self.node = Some(report.node.clone());
        }
        self.speaks_for(&report.node)?;
        self.heard_at = said_at;
        let sequence = report.sequence;
        let resend = self.fleet.report(report, said_at).await;
        let resend = resend.map_err(|error| Status::unavailable(error.to_string()))?;
        if resend {
            return self.answer(&SchedulerMessage::ResendFull);
        }
        self.said.answered(sequence, self.shared.clock.now());
        self.answer(&SchedulerMessage::Ack { sequence })
    }

    async fn take_events(&self, events: GpuEvents, said_at: MonoTime) -> Result<(), Status> {
        self.speaks_for(&events.node)?;
        let taken = self.fleet.gpu_events(events, said_at).await;
        taken.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// A stream speaks for the node of its first message, which is a report.
    fn speaks_for(&self, node: &NodeId) -> Result<(), Status> {
        match &self.node {
            Some(known) if known == node => Ok(()),
            Some(_) => Err(Status::invalid_argument("one stream speaks for one node")),
            None => Err(Status::invalid_argument("a report has to come first")),
        }
    }

    fn answer(&self, message: &SchedulerMessage) -> Result<(), Status> {
        self.answers
            .try_send(Ok(message.into()))
            .map_err(|_| Status::resource_exhausted("the agent does not read its answers"))
    }
}
