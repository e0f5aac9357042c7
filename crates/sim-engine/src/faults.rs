//! Failures on demand: what a real engine does on a bad day, switched on by flag, by request or at run time.
//!
//! A fault changes what clients see, never the engine's own books: `/sim/state` stays truthful throughout.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The header that makes a single request fail.
pub const FAULT_HEADER: &str = "x-sim-fault";

/// Everything that is wrong with an engine right now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Share of requests, 0 to 1, that get a 503 at once.
    #[serde(rename = "503_ratio")]
    pub refuse_ratio: f64,
    /// The next so many requests get a 503.
    #[serde(rename = "503_next")]
    pub refuse_next: u32,
    /// Share of requests, 0 to 1, that get a 500 at once: a black hole looks idle and fast.
    #[serde(rename = "500_ratio")]
    pub fail_ratio: f64,
    /// The next so many requests get a 500.
    #[serde(rename = "500_next")]
    pub fail_next: u32,
    /// Share of requests, 0 to 1, that get a 200 and then an error event instead of a first token.
    pub error_in_stream_ratio: f64,
    /// The next so many requests get one.
    pub error_in_stream_next: u32,
    /// The connection closes after this many tokens, without a finish.
    pub die_mid_stream: Option<u32>,
    /// How many more requests die so; absent: every one.
    pub die_next: Option<u32>,
    /// Streams that wait for a token send a comment this often, in milliseconds; 0: they send nothing. No fault of its
    /// own (vLLM has a flag for it), but it hides others.
    pub keep_alive_ms: u32,
    /// No steps are taken.
    pub stall: bool,
    /// Steps take this many times longer.
    pub slow: f64,
    /// `/metrics` claims an idle engine.
    pub lie: bool,
    /// `/health` answers 503.
    pub unhealthy: bool,
    /// The process ends when a client leaves before its answer is whole.
    pub dies_on_abort: bool,
}

impl Default for Faults {
    /// An engine without faults.
    fn default() -> Self {
        Self {
            refuse_ratio: 0.0,
            refuse_next: 0,
            fail_ratio: 0.0,
            fail_next: 0,
            error_in_stream_ratio: 0.0,
            error_in_stream_next: 0,
            die_mid_stream: None,
            die_next: None,
            keep_alive_ms: 0,
            stall: false,
            slow: 1.0,
            lie: false,
            unhealthy: false,
            dies_on_abort: false,
        }
    }
}

/// One fault as flags and headers name it: `503`, `503=0.3`, `500`, `error-in-stream`, `die-mid-stream=5`, `stall`,
/// `slow=4`, `lie`, `unhealthy`, `dies-on-abort`, `abort-process`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// A share of requests, 0 to 1.
    Refuse(f64),
    /// A share of requests, 0 to 1.
    Fail(f64),
    /// A share of requests, 0 to 1.
    ErrorInStream(f64),
    /// After so many tokens.
    DieMidStream(u32),
    Stall,
    /// So many times longer, at least a millionth.
    Slow(f64),
    Lie,
    Unhealthy,
    DiesOnAbort,
    AbortProcess,
}

/// A text that names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a fault; known: 503[=SHARE], 500[=SHARE], error-in-stream[=SHARE], die-mid-stream=TOKENS, stall, \
     slow=FACTOR, lie, unhealthy, dies-on-abort, abort-process"
)]
pub struct UnknownFault(pub String);

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
        let number = |valid: fn(f64) -> bool, missing: Option<f64>| match value {
            None => missing.ok_or_else(unknown),
            Some(v) => v.parse().ok().filter(|n| valid(*n)).ok_or_else(unknown),
        };
        let share = || number(is_share, Some(1.0));
        match (name, value) {
            ("503", _) => Ok(Self::Refuse(share()?)),
            ("500", _) => Ok(Self::Fail(share()?)),
            ("error-in-stream", _) => Ok(Self::ErrorInStream(share()?)),
            ("die-mid-stream", Some(tokens)) => tokens.parse().map(Self::DieMidStream).map_err(|_| unknown()),
            ("slow", Some(_)) => Ok(Self::Slow(number(is_factor, None)?)),
            ("stall", None) => Ok(Self::Stall),
            ("lie", None) => Ok(Self::Lie),
            ("unhealthy", None) => Ok(Self::Unhealthy),
            ("dies-on-abort", None) => Ok(Self::DiesOnAbort),
            ("abort-process", None) => Ok(Self::AbortProcess),
            _ => Err(unknown()),
        }
    }
}

impl Faults {
    /// Adds one fault; `abort-process` is an event rather than a state and changes nothing here.
    pub const fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Refuse(share) => self.refuse_ratio = share,
            Fault::Fail(share) => self.fail_ratio = share,
            Fault::ErrorInStream(share) => self.error_in_stream_ratio = share,
            Fault::DieMidStream(tokens) => self.die_mid_stream = Some(tokens),
            Fault::Stall => self.stall = true,
            Fault::Slow(factor) => self.slow = factor,
            Fault::Lie => self.lie = true,
            Fault::Unhealthy => self.unhealthy = true,
            Fault::DiesOnAbort => self.dies_on_abort = true,
            Fault::AbortProcess => {}
        }
    }

    /// The same faults with some fields replaced by those of a JSON object.
    ///
    /// # Errors
    /// Unknown fields, wrong types and numbers out of range, in words for the operator.
    pub fn patched(&self, patch: &serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
        let mut all = serde_json::to_value(self).map_err(|e| e.to_string())?;
        if let Some(fields) = all.as_object_mut() {
            fields.extend(patch.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let faults: Self = serde_json::from_value(all).map_err(|e| e.to_string())?;
        faults.check().map(|()| faults)
    }

    /// Whether every number is in its range.
    ///
    /// # Errors
    /// The field that is not.
    pub fn check(&self) -> Result<(), String> {
        if !is_share(self.refuse_ratio) {
            return Err("503_ratio is not from 0 to 1".to_owned());
        }
        if !is_share(self.fail_ratio) {
            return Err("500_ratio is not from 0 to 1".to_owned());
        }
        if !is_share(self.error_in_stream_ratio) {
            return Err("error_in_stream_ratio is not from 0 to 1".to_owned());
        }
        if !is_factor(self.slow) {
            return Err("slow is not from 0.000001 to 1000000".to_owned());
        }
        Ok(())
    }

    /// What befalls the next request; uses up one of the counted faults. `draw` is uniform from 0 to 1.
    pub(crate) fn strike(&mut self, draw: f64) -> Option<Fault> {
        if use_one(&mut self.refuse_next) || draw < self.refuse_ratio {
            return Some(Fault::Refuse(1.0));
        }
        if use_one(&mut self.fail_next) || draw < self.fail_ratio {
            return Some(Fault::Fail(1.0));
        }
        if use_one(&mut self.error_in_stream_next) || draw < self.error_in_stream_ratio {
            return Some(Fault::ErrorInStream(1.0));
        }
        let tokens = self.die_mid_stream?;
        let dies = self.die_next.as_mut().is_none_or(use_one);
        dies.then_some(Fault::DieMidStream(tokens))
    }
}

const fn use_one(left: &mut u32) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn is_factor(value: f64) -> bool {
    (1e-6..=1e6).contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_alike_in_flags_and_headers() {
        let check = |text: &str, fault: Fault| assert_eq!(text.parse(), Ok(fault), "{text}");
        check("503", Fault::Refuse(1.0));
        check("503=0.25", Fault::Refuse(0.25));
        check("500", Fault::Fail(1.0));
        check("error-in-stream", Fault::ErrorInStream(1.0));
        check("die-mid-stream=5", Fault::DieMidStream(5));
        check("slow=4", Fault::Slow(4.0));
        check("stall", Fault::Stall);
        check("dies-on-abort", Fault::DiesOnAbort);
        check("abort-process", Fault::AbortProcess);
        for bad in ["", "504", "503=2", "503=x", "slow", "slow=0", "slow=NaN", "die-mid-stream", "stall=1"] {
            assert_eq!(bad.parse::<Fault>(), Err(UnknownFault(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_and_refuses_what_it_does_not_know() {
        let patch = |json: serde_json::Value| {
            let stalled = Faults { stall: true, ..Faults::default() };
            stalled.patched(json.as_object().unwrap())
        };
        let expected = Faults { stall: true, refuse_next: 2, ..Faults::default() };
        assert_eq!(patch(serde_json::json!({"503_next": 2})), Ok(expected));
        assert_eq!(patch(serde_json::json!({"stall": false})), Ok(Faults::default()));
        assert!(patch(serde_json::json!({"sloow": 2})).unwrap_err().contains("sloow"));
        assert!(patch(serde_json::json!({"503_ratio": 1.5})).unwrap_err().contains("503_ratio"));
        assert!(patch(serde_json::json!({"slow": 0})).is_err());
    }

    #[test]
    fn counted_faults_are_used_up_and_the_share_decides_the_rest() {
        let mut faults = Faults { refuse_next: 1, error_in_stream_ratio: 0.5, ..Faults::default() };
        assert_eq!(faults.strike(0.9), Some(Fault::Refuse(1.0)));
        assert_eq!(faults.strike(0.4), Some(Fault::ErrorInStream(1.0)));
        assert_eq!(faults.strike(0.9), None);
        let mut dying = Faults { die_mid_stream: Some(3), die_next: Some(1), ..Faults::default() };
        assert_eq!(dying.strike(0.0), Some(Fault::DieMidStream(3)));
        assert_eq!(dying.strike(0.0), None);
    }
}
