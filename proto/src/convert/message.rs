//! The envelopes of the stream.

use std::time::Duration;

use aya_domain::{GpuEvents, Report};

use super::field::{self, Result};
use super::{ConvertError, Limits, Problem, gpu_event, report_from_wire};
use crate::wire;
use crate::wire::agent_message::Kind as FromAgent;
use crate::wire::scheduler_message::Kind as FromScheduler;

/// What a scheduler says to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerMessage {
    /// The first message on a stream.
    Welcome(Welcome),
    /// The report with this number was applied.
    Ack { sequence: u64 },
    /// The next report has to be FULL.
    ResendFull,
}

/// A scheduler's introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub version: String,
    /// What it takes in one report.
    pub limits: Limits,
}

/// The message that carries a report.
#[must_use]
pub fn agent_message(report: &Report) -> wire::AgentMessage {
    wire::AgentMessage { kind: Some(FromAgent::Report(report.into())), heard: None }
}

/// The message that carries GPU events.
#[must_use]
pub fn events_message(events: &GpuEvents) -> wire::AgentMessage {
    wire::AgentMessage { kind: Some(FromAgent::GpuEvents(gpu_event::events_to_wire(events))), heard: None }
}

/// What an agent had heard from the scheduler when it made a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The report of the last acknowledgement on this stream; 0: none yet.
    pub sequence: u64,
    /// How long ago that came, or the connection was made.
    pub age: Duration,
}

impl Heard {
    /// Says so in a message.
    #[must_use]
    pub fn in_message(self, message: wire::AgentMessage) -> wire::AgentMessage {
        let heard = wire::Heard { sequence: Some(self.sequence), age_us: field::age_us(self.age) };
        wire::AgentMessage { heard: Some(heard), ..message }
    }

    /// What a message says; `None` if its agent does not say.
    ///
    /// # Errors
    /// [`ConvertError`] if a field is missing or the age impossible.
    pub fn of(message: &wire::AgentMessage) -> Result<Option<Self>> {
        let Some(heard) = message.heard else { return Ok(None) };
        let read = || {
            let sequence = field::required(heard.sequence, "sequence")?;
            Ok(Self { sequence, age: field::age(heard.age_us)? })
        };
        read().map(Some).map_err(|error: ConvertError| error.inside("heard"))
    }
}

/// What an agent says to a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentMessage {
    Report(Box<Report>),
    GpuEvents(GpuEvents),
}

/// What an agent's message says.
///
/// # Errors
/// [`ConvertError`] as for [`report_from_wire`]; a kind of message this version does not know is `kind: the field is missing`.
pub fn from_agent(message: wire::AgentMessage, limits: &Limits) -> Result<AgentMessage> {
    match field::required(message.kind, "kind")? {
        FromAgent::Report(report) => Ok(AgentMessage::Report(Box::new(report_from_wire(report, limits)?))),
        FromAgent::GpuEvents(events) => {
            let events = gpu_event::events(&events, limits).map_err(|error| error.inside("gpu_events"))?;
            Ok(AgentMessage::GpuEvents(events))
        }
    }
}

/// The report in an agent's message, for whoever takes nothing else.
///
/// # Errors
/// As for [`from_agent`]; another kind of message is `report: the field is missing`.
pub fn report_of_message(message: wire::AgentMessage, limits: &Limits) -> Result<Report> {
    match from_agent(message, limits)? {
        AgentMessage::Report(report) => Ok(*report),
        AgentMessage::GpuEvents(_) => Err(ConvertError::at("report", Problem::Missing)),
    }
}

impl TryFrom<wire::SchedulerMessage> for SchedulerMessage {
    type Error = ConvertError;

    fn try_from(message: wire::SchedulerMessage) -> Result<Self> {
        match field::required(message.kind, "kind")? {
            FromScheduler::Welcome(value) => {
                welcome(value).map(Self::Welcome).map_err(|error| error.inside("welcome"))
            }
            FromScheduler::Ack(ack) => {
                let sequence =
                    field::required(ack.sequence, "sequence").map_err(|error| error.inside("ack"))?;
                Ok(Self::Ack { sequence })
            }
            FromScheduler::ResendFull(wire::ResendFull {}) => Ok(Self::ResendFull),
        }
    }
}

fn welcome(welcome: wire::Welcome) -> Result<Welcome> {
    let version = field::required(welcome.version, "version")?;
    let limits = field::required(welcome.limits, "limits")?;
    Ok(Welcome {
        version: field::text(version, "version", &Limits::DEFAULT)?,
        limits: wanted(limits).map_err(|error| error.inside("limits"))?,
    })
}

fn wanted(limits: wire::Limits) -> Result<Limits> {
    Ok(Limits {
        gpus_max: field::required(limits.gpus_max, "gpus_max")?,
        engines_max: field::required(limits.engines_max, "engines_max")?,
        models_per_engine_max: field::required(limits.models_per_engine_max, "models_per_engine_max")?,
        text_bytes_max: field::required(limits.text_bytes_max, "text_bytes_max")?,
        events_max: limits.events_max.unwrap_or(0),
    })
}

impl From<&SchedulerMessage> for wire::SchedulerMessage {
    fn from(message: &SchedulerMessage) -> Self {
        let kind = match message {
            SchedulerMessage::Welcome(welcome) => FromScheduler::Welcome(welcome_to_wire(welcome)),
            SchedulerMessage::Ack { sequence } => FromScheduler::Ack(wire::Ack { sequence: Some(*sequence) }),
            SchedulerMessage::ResendFull => FromScheduler::ResendFull(wire::ResendFull {}),
        };
        Self { kind: Some(kind) }
    }
}

fn welcome_to_wire(welcome: &Welcome) -> wire::Welcome {
    wire::Welcome {
        version: Some(welcome.version.clone()),
        limits: Some(wire::Limits {
            gpus_max: Some(welcome.limits.gpus_max),
            engines_max: Some(welcome.limits.engines_max),
            models_per_engine_max: Some(welcome.limits.models_per_engine_max),
            text_bytes_max: Some(welcome.limits.text_bytes_max),
            events_max: Some(welcome.limits.events_max).filter(|max| *max > 0),
        }),
    }
}
