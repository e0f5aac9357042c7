//! States of readings. A reading of a newer agent that this side does not know is passed over: it cannot mean
//! anything here, and the engine must not be lost for it.

use aya_domain::{Signal, SignalReport, SignalState};

use super::field::{self, Result};
use super::{ConvertError, Limits, Problem};
use crate::wire;

/// More readings than this are no agent's.
const SIGNALS_MAX: u32 = 64;

pub(super) fn signals(signals: Vec<wire::Signal>, limits: &Limits) -> Result<Vec<SignalReport>> {
    field::count(signals.len(), SIGNALS_MAX, "signals")?;
    let mut known = Vec::with_capacity(signals.len());
    for (at, told) in signals.into_iter().enumerate() {
        if let Some(report) =
            signal(told, limits).map_err(|error| error.inside(format_args!("signals[{at}]")))?
        {
            known.push(report);
        }
    }
    field::distinct(known.iter().map(|report| &report.signal), "signals", "name")?;
    Ok(known)
}

fn signal(told: wire::Signal, limits: &Limits) -> Result<Option<SignalReport>> {
    let number = field::required(told.name, "name")?;
    let Some(signal) = wire::SignalName::try_from(number).ok().map(name) else { return Ok(None) };
    let signal = signal.ok_or_else(|| ConvertError::at("name", Problem::UnknownEnum(number)))?;
    let state = field::named(told.state, "state", state)?;
    let reason = field::optional_text(told.reason, "reason", limits)?;
    Ok(Some(SignalReport { signal, state, reason }))
}

fn name(name: wire::SignalName) -> Option<Signal> {
    match name {
        wire::SignalName::Unspecified => None,
        wire::SignalName::Running => Some(Signal::Running),
        wire::SignalName::Waiting => Some(Signal::Waiting),
        wire::SignalName::KvUsed => Some(Signal::KvUsed),
        wire::SignalName::KvCapacity => Some(Signal::KvCapacity),
        wire::SignalName::MaxSequences => Some(Signal::MaxSequences),
        wire::SignalName::PrefixCache => Some(Signal::PrefixCache),
        wire::SignalName::Models => Some(Signal::Models),
        wire::SignalName::Work => Some(Signal::Work),
    }
}

fn state(state: wire::SignalState) -> Option<SignalState> {
    match state {
        wire::SignalState::Unspecified => None,
        wire::SignalState::Parsed => Some(SignalState::Parsed),
        wire::SignalState::Missing => Some(SignalState::Missing),
        wire::SignalState::Stale => Some(SignalState::Stale),
        wire::SignalState::NotTold => Some(SignalState::NotTold),
    }
}

pub(super) fn signals_to_wire(signals: &[SignalReport]) -> Vec<wire::Signal> {
    let to_wire = |report: &SignalReport| wire::Signal {
        name: Some(name_to_wire(report.signal).into()),
        state: Some(state_to_wire(report.state).into()),
        reason: report.reason.clone(),
    };
    signals.iter().map(to_wire).collect()
}

fn name_to_wire(signal: Signal) -> wire::SignalName {
    match signal {
        Signal::Running => wire::SignalName::Running,
        Signal::Waiting => wire::SignalName::Waiting,
        Signal::KvUsed => wire::SignalName::KvUsed,
        Signal::KvCapacity => wire::SignalName::KvCapacity,
        Signal::MaxSequences => wire::SignalName::MaxSequences,
        Signal::PrefixCache => wire::SignalName::PrefixCache,
        Signal::Models => wire::SignalName::Models,
        Signal::Work => wire::SignalName::Work,
    }
}

fn state_to_wire(state: SignalState) -> wire::SignalState {
    match state {
        SignalState::Parsed => wire::SignalState::Parsed,
        SignalState::Missing => wire::SignalState::Missing,
        SignalState::Stale => wire::SignalState::Stale,
        SignalState::NotTold => wire::SignalState::NotTold,
    }
}
