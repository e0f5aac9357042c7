//! Many agents in one process: each its own connection and stream, reporting as a default agent does.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya_benches::inputs;
use aya_proto::convert::agent_message;
use aya_proto::{AgentServiceClient, wire};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Between two reports of one agent.
const PERIOD: Duration = Duration::from_millis(250);
/// Reports after which an agent says everything again: every 30 s.
const FULL_EVERY: u64 = 120;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The scheduler's agent listener.
    #[arg(long)]
    scheduler: String,
    #[arg(long, default_value_t = 500)]
    count: u32,
}

/// Reports until it is killed, or until a stream fails.
pub(crate) async fn run(options: Options) -> Result<()> {
    let mut agents = JoinSet::new();
    for node in 0..options.count {
        let scheduler = options.scheduler.clone();
        let offset = PERIOD * node / options.count.max(1);
        agents.spawn(
            async move { agent(scheduler, node, offset).await.with_context(|| format!("agent {node}")) },
        );
    }
    while let Some(ended) = agents.join_next().await {
        ended??;
    }
    Ok(())
}

async fn agent(scheduler: String, node: u32, offset: Duration) -> Result<()> {
    let channel = Endpoint::from_shared(scheduler)?.tcp_nodelay(true).connect().await?;
    let (outbox, messages) = mpsc::channel(1);
    let mut reports = JoinSet::new();
    reports.spawn(send(outbox, node, offset));
    let mut client = AgentServiceClient::new(channel);
    let mut answers = client.stream(ReceiverStream::new(messages)).await?.into_inner();
    while answers.message().await?.is_some() {}
    anyhow::bail!("the scheduler closed the stream")
}

async fn send(outbox: mpsc::Sender<wire::AgentMessage>, node: u32, offset: Duration) {
    let mut ticks = interval_at(Instant::now() + offset, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for sequence in 1.. {
        ticks.tick().await;
        let all = (sequence + u64::from(node)).is_multiple_of(FULL_EVERY);
        let report = if all { inputs::whole_report(node, sequence) } else { inputs::report(node, sequence) };
        if outbox.send(agent_message(&report)).await.is_err() {
            return;
        }
    }
}
