//! What goes wrong with an engine, and when: `crash:3@20+10` is engine 3 away from second 20 to second 30.

use std::str::FromStr;
use std::time::Duration;

/// The most by which a fault can slow an engine down.
const SLOW_MAX: f64 = 1e3;
/// A week: no simulation lasts longer.
const SECONDS_MAX: f64 = 604_800.0;

/// How an engine misbehaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultKind {
    /// The process is gone: what it had is lost, connections are refused, its cache is empty afterwards.
    Crash,
    /// Every iteration takes so many times as long. Nobody tells the scheduler.
    Slow { factor: f64 },
    /// It takes requests and reports, but makes no progress.
    Wedge,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    /// The engine's position in the fleet, from 0.
    pub engine: usize,
    /// Virtual time at which it begins.
    pub at: Duration,
    /// `None`: for ever; not for a wedge, whose requests would never end.
    pub lasts: Option<Duration>,
}

/// Why a text is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not crash:ENGINE@SECOND[+SECONDS], slow:ENGINExFACTOR@SECOND[+SECONDS] or wedge:ENGINE@SECOND+SECONDS"
)]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        parse(text.trim()).ok_or_else(|| FaultError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Fault> {
    let (kind, rest) = text.split_once(':')?;
    let (engine, when) = rest.split_once('@')?;
    let (at, lasts) = match when.split_once('+') {
        Some((at, lasts)) => (seconds(at)?, Some(seconds(lasts)?)),
        None => (seconds(when)?, None),
    };
    let (kind, engine) = match kind {
        "crash" => (FaultKind::Crash, engine),
        "wedge" => (FaultKind::Wedge, engine),
        "slow" => {
            let (engine, factor) = engine.split_once('x')?;
            let factor = factor.trim().parse().ok().filter(|f| (1.0..=SLOW_MAX).contains(f))?;
            (FaultKind::Slow { factor }, engine)
        }
        _ => return None,
    };
    let endless = kind == FaultKind::Wedge && lasts.is_none();
    let fault = Fault { kind, engine: engine.trim().parse().ok()?, at, lasts };
    (!endless).then_some(fault)
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_nonsense_is_refused() {
        let s = Duration::from_secs;
        for (text, kind, engine, at, lasts) in [
            ("crash:3@20+10", FaultKind::Crash, 3, 20, Some(10)),
            ("crash:0@5", FaultKind::Crash, 0, 5, None),
            ("slow:1x2.5@0+7", FaultKind::Slow { factor: 2.5 }, 1, 0, Some(7)),
            (" wedge:2@1+3 ", FaultKind::Wedge, 2, 1, Some(3)),
        ] {
            assert_eq!(text.parse(), Ok(Fault { kind, engine, at: s(at), lasts: lasts.map(s) }), "{text}");
        }
        for text in [
            "",
            "crash",
            "crash:1",
            "wedge:1@2",
            "slow:1@2",
            "slow:1x0.5@2",
            "crash:-1@2",
            "crash:1@nan",
            "melt:1@2",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
