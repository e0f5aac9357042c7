//! A whole report.

use std::time::Duration;

use aya_domain::{AgentHealth, BootId, NodeId, Report, ReportKind};

use super::field::{self, Result};
use super::{ConvertError, Limits, PERIOD_MAX, Problem, engine, gpu};
use crate::wire;

/// The report in a message.
///
/// # Errors
/// [`ConvertError`] names the first field that is missing, unknown, impossible or beyond `limits`.
pub fn report_from_wire(report: wire::Report, limits: &Limits) -> Result<Report> {
    field::count(report.gpus.len(), limits.gpus_max, "gpus")?;
    field::count(report.engines.len(), limits.engines_max, "engines")?;
    let mut gpus = Vec::with_capacity(report.gpus.len());
    for (at, item) in report.gpus.into_iter().enumerate() {
        gpus.push(gpu::gpu(item, limits).map_err(|error| error.inside(format_args!("gpus[{at}]")))?);
    }
    field::distinct(gpus.iter().map(|gpu| &gpu.info.uuid), "gpus", "uuid")?;
    let mut engines = Vec::with_capacity(report.engines.len());
    for (at, item) in report.engines.into_iter().enumerate() {
        engines
            .push(engine::engine(item, limits).map_err(|error| error.inside(format_args!("engines[{at}]")))?);
    }
    field::distinct(engines.iter().map(|engine| &engine.id), "engines", "id")?;
    Ok(Report {
        node: field::id(report.node.as_deref(), "node", NodeId::parse)?,
        boot: BootId(field::required(report.boot, "boot")?),
        sequence: field::required(report.sequence, "sequence")?,
        kind: field::named(report.kind, "kind", kind)?,
        agent: field::required(report.agent, "agent")
            .and_then(|health| agent(health, limits).map_err(|error| error.inside("agent")))?,
        gpus,
        engines,
    })
}

fn kind(kind: wire::ReportKind) -> Option<ReportKind> {
    match kind {
        wire::ReportKind::Unspecified => None,
        wire::ReportKind::Full => Some(ReportKind::Full),
        wire::ReportKind::Delta => Some(ReportKind::Delta),
    }
}

fn agent(agent: wire::AgentHealth, limits: &Limits) -> Result<AgentHealth> {
    Ok(AgentHealth {
        version: field::text(field::required(agent.version, "version")?, "version", limits)?,
        gpu_source: field::named(agent.gpu_source, "gpu_source", gpu::source)?,
        driver_version: field::optional_text(agent.driver_version, "driver_version", limits)?,
        gpu_error: field::optional_text(agent.gpu_error, "gpu_error", limits)?,
        period: period(agent.period_us)?,
    })
}

fn period(micros: Option<u64>) -> Result<Duration> {
    let micros = field::required(micros, "period_us")?;
    let period = Duration::from_micros(micros);
    if (Duration::from_millis(1)..=PERIOD_MAX).contains(&period) {
        Ok(period)
    } else {
        Err(ConvertError::at("period_us", Problem::BadPeriod { micros }))
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = ConvertError;

    /// [`report_from_wire`] with [`Limits::DEFAULT`].
    fn try_from(report: wire::Report) -> Result<Self> {
        report_from_wire(report, &Limits::DEFAULT)
    }
}

impl From<&Report> for wire::Report {
    fn from(report: &Report) -> Self {
        let kind = match report.kind {
            ReportKind::Full => wire::ReportKind::Full,
            ReportKind::Delta => wire::ReportKind::Delta,
        };
        Self {
            node: Some(report.node.as_str().to_owned()),
            boot: Some(report.boot.0),
            sequence: Some(report.sequence),
            kind: Some(kind.into()),
            agent: Some(agent_to_wire(&report.agent)),
            gpus: report.gpus.iter().map(gpu::gpu_to_wire).collect(),
            engines: report.engines.iter().map(engine::engine_to_wire).collect(),
        }
    }
}

fn agent_to_wire(agent: &AgentHealth) -> wire::AgentHealth {
    wire::AgentHealth {
        version: Some(agent.version.clone()),
        gpu_source: Some(gpu::source_to_wire(agent.gpu_source).into()),
        driver_version: agent.driver_version.clone(),
        gpu_error: agent.gpu_error.clone(),
        period_us: Some(field::micros(agent.period.clamp(Duration::from_millis(1), PERIOD_MAX))),
    }
}
