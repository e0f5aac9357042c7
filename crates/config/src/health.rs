//! What operators make of the GPU health rules. Rules and XIDs that are not named here do what the built-in tables say.

use std::collections::BTreeMap;
use std::time::Duration;

use aya_domain::{Action, Ratio};
use aya_fleet::health::{Rule, RuleSettings, Rules, XidRule};

use crate::reader::Reader;
use crate::source::Origin;

/// The largest XID that can be named; NVIDIA's catalogue ends below 200.
const XID_MAX: u64 = 1_000_000;

/// The words of an action. `off` turns a rule off; an XID is made harmless with `note`.
const ACTIONS: [(&str, Word); 6] = [
    ("off", Word::Off),
    ("note", Word::Note),
    ("derate", Word::Derate),
    ("drain", Word::Drain),
    ("cordon", Word::Cordon),
    ("fail", Word::Fail),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Off,
    Note,
    Derate,
    Drain,
    Cordon,
    Fail,
}

impl Word {
    fn of(action: Option<Action>) -> Self {
        match action {
            None => Self::Off,
            Some(Action::Note) => Self::Note,
            Some(Action::Derate(_)) => Self::Derate,
            // A limit is a breaker's; no rule of a GPU has it.
            Some(Action::Drain | Action::Limit(_)) => Self::Drain,
            Some(Action::Cordon) => Self::Cordon,
            Some(Action::Fail) => Self::Fail,
        }
    }

    fn action(self, speed: f64) -> Option<Action> {
        match self {
            Self::Off => None,
            Self::Note => Some(Action::Note),
            Self::Derate => Some(Action::Derate(Ratio::clamped(speed))),
            Self::Drain => Some(Action::Drain),
            Self::Cordon => Some(Action::Cordon),
            Self::Fail => Some(Action::Fail),
        }
    }
}

/// The section `[health]`.
pub(crate) fn read(r: &mut Reader<'_>) -> Rules {
    let enabled = r.switch("enabled", true);
    let brake_share = Ratio::clamped(r.fraction("brake_share", 0.2, 0.0..=1.0));
    let probation = r.duration("probation", "60s", "0s"..="1d");
    let rules = r.sections("rule", no_word, rule);
    let xids = r.sections("xid", no_word, xid);
    let mut settings = BTreeMap::new();
    for (at, (rule, given)) in rules.into_iter().enumerate() {
        if settings.insert(rule, given).is_some() {
            r.object(&format!("rule[{at}].name"), format!("{} is set already", rule.as_str()));
        }
    }
    let mut table = BTreeMap::new();
    for (at, (code, given)) in xids.into_iter().enumerate() {
        if table.insert(code, given).is_some() {
            r.object(&format!("xid[{at}].code"), format!("{code} is set already"));
        }
    }
    Rules { enabled, settings, xids: table, brake_share, probation }
}

fn no_word(word: &str) -> Result<Vec<(&'static str, String)>, String> {
    Err(format!("{word:?} is not a section; these are set in the file"))
}

/// One `[[health.rule]]`: what is left out is as built in.
fn rule(r: &mut Reader<'_>, origin: &Origin) -> Option<(Rule, RuleSettings)> {
    let name: Option<RuleName> = r.required("name", origin);
    let default = name.as_ref().map_or_else(|| Rule::HwThermal.by_default(), |name| name.0.by_default());
    let word = r.choice("action", Word::of(default.action), &ACTIONS);
    let speed = match default.action {
        Some(Action::Derate(speed)) => speed.get(),
        _ => 0.8,
    };
    let speed = r.fraction("speed", speed, 0.05..=1.0);
    let (after, clear_after) = (shown(default.after), shown(default.clear_after));
    let after = r.duration("after", &after, "0s"..="1d");
    let clear_after = r.duration("clear_after", &clear_after, "0s"..="7d");
    Some((name?.0, RuleSettings { action: word.action(speed), after, clear_after }))
}

/// One `[[health.xid]]`.
fn xid(r: &mut Reader<'_>, _origin: &Origin) -> Option<(u32, XidRule)> {
    let code = r.number_if_set("code", 0..=XID_MAX);
    if code.is_none() && !r.objected_to("code") {
        r.object("code", "is required");
    }
    let word = r.choice("action", Word::Note, &ACTIONS[1..]);
    let speed = r.fraction("speed", 0.8, 0.05..=1.0);
    let repeats = r.count("repeats", 1, 1..=32);
    let several_gpus_only = r.switch("several_gpus_only", false);
    let code = u32::try_from(code?).ok()?;
    let repeats = u32::try_from(repeats).unwrap_or(u32::MAX);
    Some((code, XidRule { action: word.action(speed)?, repeats, several_gpus_only }))
}

fn shown(duration: Duration) -> String {
    crate::format_duration(duration)
}

/// A rule by its name.
struct RuleName(Rule);

impl std::str::FromStr for RuleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Rule::ALL.map(Rule::as_str).join(", ");
        let found = Rule::ALL.into_iter().find(|rule| rule.as_str() == text);
        found.map(Self).ok_or_else(|| format!("it is no health rule; known: {}", names()))
    }
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.0.as_str())
    }
}

#[cfg(test)]
mod tests;
