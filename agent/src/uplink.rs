//! One scheduler's stream: FULL on connect and every so often, else DELTA, reconnecting for ever.
//!
//! Each uplink remembers for itself what its scheduler has been told. A stream that is slower than the
//! reports loses none of the truth: the report that finds no room is left out, and the next says all that
//! has changed since the last one that left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aya_domain::{EndpointUrl, GpuEvents, ReportKind};
use aya_observe::Clock;
use aya_proto::{
    AgentServiceClient, Heard, MESSAGE_BYTES_MAX, SchedulerMessage, agent_message, events_message, wire,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::{debug, info, warn};

use crate::advertise::Route;
use crate::backoff::Backoff;
use crate::metrics::UplinkMetrics;
use crate::network::Network;
use crate::report::{Identity, Wanted, report};
use crate::view::{EVENTS_MAX, View};

/// Reports in the hands of the transport.
const OUTBOX_MAX: usize = 1;
/// Reports go out this long after the probes began, so that they carry this round's answers.
const GATHER: Duration = Duration::from_millis(50);
/// The first FULL report waits this long for the first look at everything.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A scheduler that opens a stream has to answer it in this time.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Every report is answered; a scheduler that takes reports and says nothing for this long, and for three
/// periods, is none.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A stream that stood for this long was a good one: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// A silent peer is asked, and given up, after this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What all uplinks share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) full_period: Duration,
    pub(crate) advertise_host: Option<String>,
    pub(crate) clock: Clock,
    pub(crate) epoch: Instant,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) network: Network,
}

/// The stream to one scheduler.
pub(crate) struct Uplink {
    pub(crate) shared: Arc<Shared>,
    pub(crate) scheduler: EndpointUrl,
    pub(crate) metrics: UplinkMetrics,
    /// The number of the last report to this scheduler, over all streams to it: a scheduler takes a gap for a loss.
    pub(crate) sequence: AtomicU64,
    pub(crate) seed: u64,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Something listens there and no scheduler's agent listener: mostly another port of the scheduler.
    #[error("no agent listener ({0}); is this the scheduler's --grpc-listen address, port 8082 by default?")]
    NotGrpc(String),
    #[error("no answer to the stream within {WELCOME_TIMEOUT:?}")]
    NoAnswer,
    #[error("refused: {0}")]
    Refused(String),
    #[error("the scheduler takes reports and says nothing")]
    Silent,
    #[error("closed by the scheduler")]
    Closed,
    #[error("shutting down")]
    Shutdown,
}

/// What this scheduler has been told on this stream.
struct Told {
    revision: u64,
    full_at: Option<Instant>,
    /// The last GPU event, and how many one message may carry; none before the scheduler says so.
    event: u64,
    events_max: usize,
    /// The report of the last acknowledgement, 0 before the first; and when that came, or the connection was made.
    heard: (u64, Instant),
}

impl Told {
    fn nothing() -> Self {
        Self { revision: 0, full_at: None, event: 0, events_max: 0, heard: (0, Instant::now()) }
    }

    /// A message as it is made now.
    fn having_heard(&self, message: wire::AgentMessage) -> wire::AgentMessage {
        let (sequence, at) = self.heard;
        Heard { sequence, age: at.elapsed() }.in_message(message)
    }
}

impl Uplink {
    /// Reports until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(self.seed);
        let mut views = self.shared.views.clone();
        let mut complained = false;
        tokio::select! {
            () = shutdown.cancelled() => return,
            // Late ones follow in the next report; until then they are not probed yet.
            ready = timeout(FIRST_LOOK_MAX, views.wait_for(|view| view.ready())) => if let Ok(Err(_)) = ready { return },
        }
        loop {
            self.metrics.connects.inc();
            let mut welcomed = None;
            let ended = tokio::select! {
                () = shutdown.cancelled() => Ended::Shutdown,
                ended = self.session(&mut welcomed) => ended,
            };
            self.metrics.connected.set(0);
            if matches!(ended, Ended::Shutdown) {
                return;
            }
            if welcomed.is_some_and(|since| Instant::now().duration_since(since) >= GOOD_AFTER) {
                backoff.reset();
            }
            if welcomed.is_some() {
                warn!(scheduler = %self.scheduler, %ended, "lost the scheduler, trying again");
            } else if complained {
                debug!(scheduler = %self.scheduler, %ended, "still without the scheduler");
            } else {
                warn!(scheduler = %self.scheduler, %ended, "the scheduler cannot be reached, trying again");
            }
            complained = true;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    async fn session(&self, welcomed: &mut Option<Instant>) -> Ended {
        match self.open().await {
            Ok((outbox, inbound, told, route)) => self.talk(outbox, inbound, told, &route, welcomed).await,
            Err(ended) => ended,
        }
    }

    /// Connects with a FULL report as the first message.
    async fn open(&self) -> Result<(Outbox, Inbound, Told, Route), Ended> {
        let connect = |e: tonic::transport::Error| Ended::Connect(cause(&e));
        let scheduler = Endpoint::from_shared(self.scheduler.as_str().to_owned())
            .map_err(connect)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let network = &self.shared.network;
        let channel = network.connect(&scheduler).await.map_err(connect)?;
        let mut told = Told::nothing();
        let route = network.route(&self.scheduler).await;
        let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
        self.send(&outbox, &mut told, &route);
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let opened = timeout(WELCOME_TIMEOUT, client.stream(ReceiverStream::new(messages))).await;
        let inbound = opened.map_err(|_| Ended::NoAnswer)?.map_err(|s| not_opened(&s))?.into_inner();
        Ok((outbox, inbound, told, route))
    }

    async fn talk(
        &self,
        outbox: Outbox,
        mut inbound: Inbound,
        mut told: Told,
        route: &Route,
        welcomed: &mut Option<Instant>,
    ) -> Ended {
        let mut heard_at = Instant::now();
        let mut views = self.shared.views.clone();
        let mut urgent = views.borrow_and_update().urgent;
        let mut ticks = self.ticks();
        loop {
            let events_wait = told.events_max > 0 && views.borrow().events.last > told.event;
            // In this order, so that a simulation repeats; none of them is always ready.
            tokio::select! {
                biased;
                room = outbox.reserve(), if events_wait => match room {
                    Ok(room) => self.send_events(room, &mut told),
                    Err(_) => return Ended::Closed,
                },
                message = inbound.message() => {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => return Ended::Closed,
                        Err(status) => return refused(&status),
                    };
                    heard_at = Instant::now();
                    self.hear(message, &mut told, welcomed);
                }
                _ = ticks.tick() => {
                    if heard_at.elapsed() > self.silence_max(*welcomed) {
                        return Ended::Silent;
                    }
                    self.send(&outbox, &mut told, route);
                }
                changed = views.changed() => {
                    if changed.is_err() {
                        return Ended::Shutdown;
                    }
                    let now_urgent = views.borrow_and_update().urgent;
                    if now_urgent > urgent {
                        urgent = now_urgent;
                        self.send(&outbox, &mut told, route);
                    }
                }
            }
        }
    }

    fn silence_max(&self, welcomed: Option<Instant>) -> Duration {
        let limit = if welcomed.is_some() { SILENCE_MAX } else { WELCOME_TIMEOUT };
        limit.max(self.shared.identity.period.saturating_mul(3))
    }

    /// Ticks at the same phase as the probes, a little later.
    fn ticks(&self) -> Interval {
        let period = self.shared.identity.period;
        let first = self.shared.epoch + GATHER;
        let passed = Instant::now().saturating_duration_since(first);
        let periods = passed.as_nanos() / period.as_nanos().max(1) + 1;
        let next = first + period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
        let mut ticks = interval_at(next, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }

    fn hear(&self, message: wire::SchedulerMessage, told: &mut Told, welcomed: &mut Option<Instant>) {
        match SchedulerMessage::try_from(message) {
            Ok(SchedulerMessage::Welcome(welcome)) => {
                *welcomed = Some(Instant::now());
                told.events_max = usize::try_from(welcome.limits.events_max).unwrap_or(EVENTS_MAX);
                self.metrics.connected.set(1);
                info!(scheduler = %self.scheduler, version = %welcome.version, "reporting to the scheduler");
            }
            Ok(SchedulerMessage::Ack { sequence }) => told.heard = (sequence, Instant::now()),
            // It may have passed over events too; those that it has are not counted twice.
            Ok(SchedulerMessage::ResendFull) => (told.full_at, told.event) = (None, 0),
            Err(error) => warn!(scheduler = %self.scheduler, %error, "the scheduler said something unknown"),
        }
    }

    /// Sends what is new, or everything when it is time for that.
    fn send(&self, outbox: &Outbox, told: &mut Told, route: &Route) {
        let Ok(room) = outbox.try_reserve() else {
            self.metrics.skipped.inc();
            return;
        };
        let view = Arc::clone(&self.shared.views.borrow());
        let now = Instant::now();
        let full = told.full_at.is_none_or(|at| now.duration_since(at) >= self.shared.full_period)
            || view.membership > told.revision;
        let kind = if full { ReportKind::Full } else { ReportKind::Delta };
        // Relaxed: one task counts; it is an atomic only because that task shares itself with its sessions.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let host = self.shared.advertise_host.as_deref();
        // Anew for every report, because engines come and go.
        let urls: Vec<_> = view.engines.iter().map(|engine| route.advertise(&engine.url, host)).collect();
        let wanted = Wanted { kind, sequence, since: told.revision, urls: &urls };
        let report = report(&self.shared.identity, &view, wanted, self.shared.clock.now());
        room.send(told.having_heard(agent_message(&report)));
        self.metrics.sent(kind);
        told.revision = view.revision;
        if full {
            told.full_at = Some(now);
        }
    }
}

impl Uplink {
    /// Tells what happened to the GPUs since it was last told.
    fn send_events(&self, room: mpsc::Permit<'_, wire::AgentMessage>, told: &mut Told) {
        let view = Arc::clone(&self.shared.views.borrow());
        let events = view.events.since(told.event, told.events_max, self.shared.clock.now());
        told.event = view.events.last;
        if !events.is_empty() {
            let Identity { node, boot, .. } = &self.shared.identity;
            let events = events_message(&GpuEvents { node: node.clone(), boot: *boot, events });
            room.send(told.having_heard(events));
        }
    }
}

type Outbox = mpsc::Sender<wire::AgentMessage>;
type Inbound = tonic::Streaming<wire::SchedulerMessage>;

/// Before any answer, a status that our scheduler never gives tells that it is something else.
fn not_opened(status: &tonic::Status) -> Ended {
    use tonic::Code;
    if matches!(status.code(), Code::Unknown | Code::Internal | Code::Unimplemented) {
        return Ended::NotGrpc(status.message().to_owned());
    }
    refused(status)
}

fn refused(status: &tonic::Status) -> Ended {
    Ended::Refused(format!("{:?}: {}", status.code(), status.message()))
}

/// The innermost cause: what is around it says "transport error" and repeats it.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use aya_domain::{BootId, EngineHealth, MonoTime, NodeId, Reading, Report};
    use aya_proto::{Limits, report_of_message};

    use super::*;
    use crate::metrics::Metrics;
    use crate::view::{EngineView, Update};

    fn view_of_two() -> View {
        let text = "node_id = \"n1\"\nschedulers = [\"http://127.0.0.1:1\"]\n\
                    [[engine]]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:1\"\nname = \"a\"\n\
                    [[engine]]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:2\"\nname = \"b\"\n";
        let config: aya_config::AgentConfig = aya_config::parse("agent.toml", text, [], &[]).unwrap();
        let ids = crate::endpoint_ids(&config.node_id, &config.engines).unwrap();
        View::new(
            ids.into_iter()
                .zip(&config.engines)
                .map(|(id, e)| EngineView::new(id, e, &config.polling))
                .collect(),
        )
    }

    fn read(view: &mut View, at: usize) {
        let health = Reading::new(EngineHealth::Ready, MonoTime::ZERO);
        let id = view.engines[at].id.clone();
        view.apply(Update::Engine { id, health, readings: Arc::default() });
    }

    fn names(report: &Report) -> Vec<&str> {
        report.engines.iter().map(|engine| engine.id.as_str()).collect()
    }

    #[tokio::test]
    async fn a_stream_that_is_slow_misses_reports_but_nothing_that_they_said() {
        let mut view = view_of_two();
        let route = Route { same_host: true, local: None };
        let (publish, views) = watch::channel(Arc::new(view.clone()));
        let identity = Identity {
            node: NodeId::parse("n1").unwrap(),
            boot: BootId(1),
            period: Duration::from_millis(250),
        };
        let shared = Shared {
            identity,
            full_period: Duration::from_secs(30),
            advertise_host: None,
            clock: Clock::start(),
            epoch: Instant::now(),
            views,
            network: Network::Machine,
        };
        let scheduler = EndpointUrl::parse("http://127.0.0.1:1").unwrap();
        let metrics = Metrics::new("n1").unwrap().uplink(&scheduler);
        let uplink =
            Uplink { shared: Arc::new(shared), scheduler, metrics, sequence: AtomicU64::new(0), seed: 1 };
        let (outbox, mut sent) = mpsc::channel(OUTBOX_MAX);
        let mut told = Told::nothing();
        let mut next = || report_of_message(sent.try_recv().unwrap(), &Limits::default()).unwrap();

        uplink.send(&outbox, &mut told, &route);
        for at in [0, 1] {
            read(&mut view, at);
            publish.send_replace(Arc::new(view.clone()));
            uplink.send(&outbox, &mut told, &route);
        }
        assert_eq!(uplink.metrics.skipped.get(), 2, "the first report still stands in the outbox");
        let first = next();
        assert_eq!((first.kind, first.sequence), (ReportKind::Full, 1));
        uplink.send(&outbox, &mut told, &route);
        let second = next();
        assert_eq!((second.kind, second.sequence), (ReportKind::Delta, 2));
        assert_eq!(names(&second), ["a", "b"], "what two reports would have said");
        uplink.send(&outbox, &mut told, &route);
        assert!(names(&next()).is_empty(), "nothing is said twice, and silence is no report");
    }

    #[test]
    fn an_address_that_is_no_agent_listener_is_told_from_a_scheduler_that_refuses() {
        use tonic::Status;
        for (status, expect) in [
            (Status::unknown("transport error"), "port 8082 by default?"),
            (Status::internal("h2 protocol error"), "port 8082 by default?"),
            (Status::unimplemented("grpc-status header missing"), "port 8082 by default?"),
            (Status::unavailable("shutting down"), "refused: Unavailable: shutting down"),
            (Status::invalid_argument("node: too long"), "refused: InvalidArgument: node: too long"),
        ] {
            let told = not_opened(&status).to_string();
            assert!(told.ends_with(expect), "{told}");
        }
    }
}
