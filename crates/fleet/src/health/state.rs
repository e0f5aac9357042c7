//! One GPU between two events: which rules have evidence, which act, which have just ended.
//!
//! Times are those of the readings, so that silence neither raises nor ends anything: evidence lasts from its first
//! bad reading to its last one, and is gone only by good readings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use aya_domain::{Action, Cause, Condition, GpuInfo, GpuSample, GpuUuid, MonoTime, Ratio, Reading};

use super::before::Before;
use super::rules::{REPEATS_WITHIN, Rule, RuleSettings, Rules, UNKNOWN_XIDS};
use super::signals::{Evidence, clock_ratio, evidence};

/// XIDs remembered per GPU to count repeats; the oldest is forgotten.
const XIDS_REMEMBERED: usize = 32;
/// Different XIDs shown per GPU at once; the one noted first makes room.
const XIDS_SHOWN: usize = 8;
/// Clocks waver: a derate follows them in so many steps to the full one.
const SPEED_STEPS: f64 = 20.0;
/// A recovering GPU begins at this speed and is given more in [`RAMP_STEPS`] to the full one.
const RAMP_FROM: f64 = 0.2;
const RAMP_STEPS: f64 = 10.0;

/// A rule that acts, or did until a moment ago.
#[derive(Debug, Clone, PartialEq)]
struct Active {
    cause: Cause,
    action: Action,
    several_gpus_only: bool,
    since: MonoTime,
    /// The last bad reading.
    bad_at: MonoTime,
    /// Its cause has gone: the GPU is on probation since then.
    ended: Option<MonoTime>,
}

/// Which of a GPU's conditions this is: one per rule, and one per XID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Rule, u32);

/// Why a rule ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    GoodReadings,
    /// Counters began anew: the GPU was reset.
    Reset,
    Operator,
}

/// What an event changed about a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    Raised {
        cause: Cause,
        action: Action,
    },
    Ended {
        cause: Cause,
        by: EndedBy,
        probation: bool,
    },
    /// The probation is over.
    Restored {
        cause: Cause,
    },
}

/// A condition with what the fleet needs to apply it to endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    pub(crate) condition: Condition,
    pub(crate) several_gpus_only: bool,
    pub(crate) shared: bool,
}

/// What is known about the health of one GPU.
#[derive(Debug, Clone, Default)]
pub(crate) struct GpuHealth {
    active: BTreeMap<Key, Active>,
    /// First bad readings of rules whose evidence has not lasted long enough yet.
    doubts: BTreeMap<Rule, MonoTime>,
    /// Ended by an operator while the evidence lasts.
    pardoned: BTreeSet<Rule>,
    xids: VecDeque<MonoTime>,
    /// Of the driver's count, those that are known. `None`: it was never read, so what it says first is no news.
    xids_told: Option<u32>,
    before: Before,
    pub(crate) lost: Option<MonoTime>,
    pub(crate) raw: Vec<Raw>,
}

impl GpuHealth {
    /// Whether time alone can change something.
    pub(crate) fn waits(&self) -> bool {
        self.active.values().any(|active| active.ended.is_some())
            || self
                .active
                .keys()
                .any(|key| matches!(key.0, Rule::Xid | Rule::UnknownXids | Rule::DriverStalled))
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.active.is_empty()
    }

    /// Another start of the agent counts XIDs anew.
    pub(crate) fn forget_counts(&mut self) {
        self.xids_told = Some(0);
    }

    /// Takes a reading.
    pub(crate) fn observe(
        &mut self,
        info: &GpuInfo,
        reading: &Reading<GpuSample>,
        rules: &Rules,
        changes: &mut Vec<Change>,
    ) {
        let (sample, at) = (&reading.value, reading.sampled_at);
        if self.lost.is_some_and(|lost| at > lost) {
            self.lost = None;
            self.clean(Rule::GpuLost, at, rules, changes);
        }
        if self.before.was_reset(sample) {
            self.end_all(EndedBy::Reset, at, rules, changes);
        }
        self.count_xids(sample, at, rules, changes);
        self.before.count_replays(sample, at);
        self.before.time_clock(info, sample, at);
        for rule in Rule::of_readings() {
            match evidence(rule, info, sample, &self.before) {
                Evidence::Bad(cause) => self.bad(rule, cause, at, rules, changes),
                Evidence::Clean => self.clean(rule, at, rules, changes),
                Evidence::Nothing => {}
                Evidence::Excused => {
                    self.doubts.remove(&rule);
                }
            }
        }
        self.before.note(sample);
    }

    /// Errors that no event told. Those of before this scheduler may have been dealt with: what they left behind the
    /// driver tells otherwise (recovery action, a lost GPU), and the agent repeats what has just happened as an event.
    fn count_xids(&mut self, sample: &GpuSample, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        let Some(count) = sample.xids else { return };
        let told = *self.xids_told.get_or_insert(count);
        if let Some(code) = sample.last_xid.filter(|_| count > told) {
            self.note_xid(code, Some(count), at, rules, changes);
        }
    }

    /// The driver told an error. `count` is how many it told in all.
    pub(crate) fn note_xid(
        &mut self,
        code: u32,
        count: Option<u32>,
        at: MonoTime,
        rules: &Rules,
        changes: &mut Vec<Change>,
    ) {
        let told = self.xids_told.unwrap_or(0);
        self.xids_told = Some(count.unwrap_or(told.saturating_add(1)).max(told));
        let settings = rules.of(Rule::Xid);
        if settings.action.is_none() {
            return;
        }
        let rule = rules.of_xid(code);
        if rule.repeats > 1 {
            if self.xids.len() == XIDS_REMEMBERED {
                self.xids.pop_front();
            }
            self.xids.push_back(at);
        }
        let recent = self.xids.iter().filter(|seen| at.since(**seen) < REPEATS_WITHIN).count();
        let enough = u32::try_from(recent).unwrap_or(u32::MAX) >= rule.repeats || rule.repeats <= 1;
        let action = if enough { rule.action } else { Action::Note };
        if rules.is_unknown(code) {
            let count = self.before.unknown_xid(at);
            if count >= UNKNOWN_XIDS {
                self.bad(Rule::UnknownXids, Cause::UnknownXids { count }, at, rules, changes);
            }
        }
        self.make_room_for_xid(code);
        self.raise(Key(Rule::Xid, code), Cause::Xid { code }, action, rule.several_gpus_only, at, changes);
    }

    fn make_room_for_xid(&mut self, code: u32) {
        let mut shown = self.active.iter().filter(|(key, _)| key.0 == Rule::Xid && key.1 != code);
        if shown.clone().count() < XIDS_SHOWN {
            return;
        }
        let note = |(_, active): &(&Key, &Active)| active.action == Action::Note;
        let first =
            shown.clone().filter(note).min_by_key(|(_, active)| active.since).or_else(|| shown.next());
        if let Some(key) = first.map(|(key, _)| *key) {
            self.active.remove(&key);
        }
    }

    /// The driver told of an error that ECC could not correct; the count comes with the next reading.
    pub(crate) fn note_ecc(&mut self, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        let cause = Cause::EccUncorrected { errors: self.before.ecc.unwrap_or(0).saturating_add(1) };
        self.bad(Rule::EccUncorrected, cause, at, rules, changes);
    }

    /// The driver asks for something else than before.
    pub(crate) fn note_recovery(
        &mut self,
        asked: u32,
        at: MonoTime,
        rules: &Rules,
        changes: &mut Vec<Change>,
    ) {
        let cause = Cause::RecoveryAction { asked };
        if let Some(rule) = Rule::of(&cause).filter(|_| asked != 0) {
            self.bad(rule, cause, at, rules, changes);
        }
    }

    /// It is not there any more.
    pub(crate) fn lose(&mut self, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        if self.lost.is_none() {
            self.lost = Some(at);
            self.bad(Rule::GpuLost, Cause::GpuLost, at, rules, changes);
        }
    }

    /// Its driver does not answer since its last reading, or answers again.
    pub(crate) fn stalled(
        &mut self,
        silent: Option<Duration>,
        now: MonoTime,
        rules: &Rules,
        changes: &mut Vec<Change>,
    ) {
        match silent {
            Some(silent) if silent >= rules.of(Rule::DriverStalled).after => {
                self.doubts.insert(Rule::DriverStalled, now.before(silent));
                self.bad(Rule::DriverStalled, Cause::DriverStalled, now, rules, changes);
            }
            Some(_) | None => self.clean(Rule::DriverStalled, now, rules, changes),
        }
    }

    /// Time passed: probations end, notes are forgotten.
    pub(crate) fn tick(&mut self, now: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        for rule in [Rule::Xid, Rule::UnknownXids] {
            if self.active.keys().any(|key| key.0 == rule) {
                self.clean(rule, now, rules, changes);
            }
        }
        self.active.retain(|_, active| {
            let over = active.ended.is_some_and(|ended| now.since(ended) >= rules.probation);
            if over {
                changes.push(Change::Restored { cause: active.cause });
            }
            !over
        });
    }

    /// An operator says that it is good.
    pub(crate) fn clear(&mut self, now: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        self.pardoned.extend(self.active.keys().map(|key| key.0).filter(|rule| *rule != Rule::Xid));
        self.lost = None;
        self.end_all(EndedBy::Operator, now, rules, changes);
    }

    fn bad(&mut self, rule: Rule, cause: Cause, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        let RuleSettings { action: Some(action), after, .. } = rules.of(rule) else { return };
        if self.pardoned.contains(&rule) {
            return;
        }
        let key = Key(rule, 0);
        let first = *self.doubts.entry(rule).or_insert(at);
        // What has just ended and comes back needs no second proof.
        if at.since(first) >= after || self.active.contains_key(&key) {
            let several = rule.is_between_gpus();
            self.raise(key, cause, measured(action, &cause), several, at, changes);
        }
    }

    fn raise(
        &mut self,
        key: Key,
        cause: Cause,
        action: Action,
        several_gpus_only: bool,
        at: MonoTime,
        changes: &mut Vec<Change>,
    ) {
        if let Some(active) = self.active.get_mut(&key) {
            // A second, lesser error does not take back what the first one did.
            let worse = active.ended.is_some() || action.severity() > active.action.severity();
            active.bad_at = at;
            active.cause = cause;
            if worse {
                (active.since, active.ended) = (at, None);
                changes.push(Change::Raised { cause, action });
            }
            if worse || follows(active.action, action) {
                active.action = action;
            }
            return;
        }
        let active = Active { cause, action, several_gpus_only, since: at, bad_at: at, ended: None };
        self.active.insert(key, active);
        changes.push(Change::Raised { cause, action });
    }

    fn clean(&mut self, rule: Rule, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        self.doubts.remove(&rule);
        self.pardoned.remove(&rule);
        let clear_after = rules.of(rule).clear_after;
        let over = |active: &Active| {
            let stays = matches!(active.action, Action::Cordon | Action::Fail) && !rule.is_told_over();
            active.ended.is_none() && !stays && at.since(active.bad_at) >= clear_after
        };
        let keys: Vec<Key> =
            self.active.iter().filter(|(key, a)| key.0 == rule && over(a)).map(|(key, _)| *key).collect();
        for key in keys {
            self.end(key, EndedBy::GoodReadings, at, rules, changes);
        }
    }

    fn end_all(&mut self, by: EndedBy, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        self.doubts.clear();
        self.xids.clear();
        let open = self.active.iter().filter(|(_, active)| active.ended.is_none());
        let keys: Vec<Key> = open.map(|(key, _)| *key).collect();
        for key in keys {
            self.end(key, by, at, rules, changes);
        }
    }

    /// What kept requests away is followed by a probation, the rest by nothing.
    fn end(&mut self, key: Key, by: EndedBy, at: MonoTime, rules: &Rules, changes: &mut Vec<Change>) {
        let Some(active) = self.active.get_mut(&key) else { return };
        let probation = active.action.excludes() && !rules.probation.is_zero();
        changes.push(Change::Ended { cause: active.cause, by, probation });
        if probation {
            active.ended = Some(at);
        } else {
            self.active.remove(&key);
        }
    }

    /// Works out the conditions anew; whether they changed.
    pub(crate) fn settle(&mut self, gpu: &GpuUuid, rules: &Rules, now: MonoTime) -> bool {
        let raw = |(key, active): (&Key, &Active)| Raw {
            condition: Condition {
                cause: active.cause,
                action: active.ended.map_or(active.action, |ended| ramp(now.since(ended), rules.probation)),
                braked: None,
                gpu: Some(gpu.clone()),
                since: active.ended.unwrap_or(active.since),
                recovering: active.ended.is_some(),
            },
            several_gpus_only: active.several_gpus_only,
            shared: key.0.is_shared(),
        };
        let mut all: Vec<Raw> = self.active.iter().map(raw).collect();
        all.sort_by_key(|raw| std::cmp::Reverse(raw.condition.action.severity()));
        let changed = all != self.raw;
        self.raw = all;
        changed
    }
}

/// The clock rules' factor is the clock's own.
fn measured(action: Action, cause: &Cause) -> Action {
    match (action, cause) {
        (Action::Derate(_), Cause::SlowClock { mhz, max_mhz } | Cause::PowerCap { mhz, max_mhz }) => {
            // Divided and not multiplied: 0.6 and not 0.6000000000000001 for whoever reads it.
            let steps = (clock_ratio(*mhz, *max_mhz).get() * SPEED_STEPS).round().max(1.0);
            Action::Derate(Ratio::clamped(steps / SPEED_STEPS))
        }
        _ => action,
    }
}

/// Whether a derate follows its clock to another step: half a step of wavering changes nothing.
fn follows(before: Action, after: Action) -> bool {
    match (before, after) {
        (Action::Derate(before), Action::Derate(after)) => {
            (before.get() - after.get()).abs() > 0.5 / SPEED_STEPS
        }
        _ => false,
    }
}

fn ramp(elapsed: Duration, probation: Duration) -> Action {
    let share = elapsed.as_secs_f64() / probation.as_secs_f64().max(1e-3);
    let steps = ((RAMP_FROM + (1.0 - RAMP_FROM) * share) * RAMP_STEPS).floor();
    Action::Derate(Ratio::clamped(steps / RAMP_STEPS))
}
