//! What is not ideal in a run: reports that come late or not at all, schedulers that know of each other only now and
//! then, coefficients that are wrong, engines that fail.

use aya_domain::{EngineProfile, MonoTime, splitmix64};

use super::{ATTEMPTS_MAX, Event, Farm};
use crate::fault::FaultKind;
use crate::summary::Outcome;

impl Farm<'_> {
    /// Puts what is to come of faults and exchanges on the calendar.
    pub(super) fn expect_conditions(&mut self) {
        let config = self.config;
        for (fault, planned) in config.faults.iter().enumerate() {
            let begins = MonoTime::ZERO.after(planned.at);
            self.at(begins, Event::FaultBegins { fault });
            if let Some(lasts) = planned.lasts {
                self.at(begins.after(lasts), Event::FaultEnds { fault });
            }
        }
        if let Some(period) = config.share_ledgers {
            self.at(MonoTime::ZERO.after(period), Event::Exchange);
        }
    }

    /// Before the first arrival every agent has introduced its engine.
    pub(super) fn introduce(&mut self, at: usize) {
        let Some(site) = self.sites.get_mut(at) else { return };
        let report = site.report();
        for scheduler in &mut self.schedulers {
            scheduler.hear(at, report.clone(), self.now);
        }
    }

    /// When the agent at this position reports first after that.
    pub(super) fn offset(&self, at: usize) -> MonoTime {
        let share = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let period = self.config.telemetry.period;
        MonoTime::ZERO.after(period + period * share(at) / share(self.sites.len()).max(1))
    }

    pub(super) fn report_due(&mut self, at: usize) {
        let telemetry = &self.config.telemetry;
        if telemetry.until.is_some_and(|until| self.now.since(MonoTime::ZERO) > until) {
            return;
        }
        let (period, delay) = (telemetry.period, telemetry.delay);
        if let Some(site) = self.sites.get_mut(at) {
            let report = site.report();
            site.under_way.push_back(report);
        }
        if delay.is_zero() {
            self.report_arrives(at);
        } else {
            self.at(self.now.after(delay), Event::ReportArrives { at });
        }
        self.at(self.now.after(period), Event::Report { at });
    }

    pub(super) fn report_arrives(&mut self, at: usize) {
        let Some(site) = self.sites.get_mut(at) else { return };
        let Some(report) = site.under_way.pop_front() else { return };
        let mut owes_full = false;
        for (index, scheduler) in (0_u64..).zip(&mut self.schedulers) {
            let drawn = draw(self.config.seed, &[at as u64, report.sequence, index]);
            if drawn >= self.config.telemetry.loss_ratio {
                owes_full |= scheduler.hear(at, report.clone(), self.now);
            }
        }
        if owes_full {
            site.agent.owe_full();
        }
    }

    /// Every scheduler tells every other one what it has in flight.
    pub(super) fn exchange(&mut self) {
        let Some(period) = self.config.share_ledgers else { return };
        let now = self.now;
        let digests: Vec<_> =
            self.schedulers.iter_mut().map(|scheduler| scheduler.digest(now, period)).collect();
        for scheduler in &mut self.schedulers {
            for digest in &digests {
                scheduler.hear_peer(digest, now);
            }
        }
        self.at(now.after(period), Event::Exchange);
    }

    pub(super) fn fault_begins(&mut self, fault: usize) {
        let Some(fault) = self.config.faults.get(fault).copied() else { return };
        let Some(site) = self.sites.get_mut(fault.engine) else { return };
        site.suffer(fault.kind);
        if fault.kind == FaultKind::Crash {
            self.break_off(fault.engine);
        }
    }

    pub(super) fn fault_ends(&mut self, fault: usize) {
        let Some(fault) = self.config.faults.get(fault).copied() else { return };
        if let Some(site) = self.sites.get_mut(fault.engine) {
            site.recover(fault.kind);
        }
        self.begin_step(fault.engine);
    }

    /// An engine has gone: answers that had begun are broken off, what had not is sent elsewhere.
    fn break_off(&mut self, at: usize) {
        let cells = self.schedulers.iter().filter_map(|scheduler| scheduler.cells.get(at));
        let (mut begun, mut waiting) = (Vec::new(), Vec::new());
        for cell in cells {
            begun.extend_from_slice(&cell.decoding);
            waiting.extend_from_slice(&cell.pending);
        }
        for request in begun {
            self.end(request, Outcome::Failed);
        }
        for request in waiting {
            self.take_back(request);
            self.refused(request, at);
        }
    }

    fn take_back(&mut self, request: usize) {
        let Some(progress) = self.requests.get_mut(request) else { return };
        let prompt = self.workload.arrivals.get(request).map_or(0, |arrival| arrival.prompt_tokens);
        if let Some((at, lease)) = progress.place.take()
            && let Some(cell) = self.schedulers.get_mut(progress.scheduler).and_then(|s| s.cells.get_mut(at))
        {
            cell.release(lease, request, prompt);
        }
    }

    /// An endpoint did not take a request: it is left alone for a while, and another one is tried.
    pub(super) fn refused(&mut self, request: usize, at: usize) {
        let Some(progress) = self.requests.get_mut(request) else { return };
        progress.tried.push(at);
        let (tried, scheduler) = (progress.tried.len(), progress.scheduler);
        let cell = self.schedulers.get_mut(scheduler).and_then(|s| s.cells.get_mut(at));
        if let Some(cell) = cell {
            cell.failed(self.now);
        }
        if tried >= ATTEMPTS_MAX {
            self.end(request, Outcome::Failed);
        } else if !self.place(request, false) {
            self.hold(request, scheduler);
        }
    }
}

/// The coefficients as placement knows them: all wrong by one factor, of lognormal distribution.
pub(super) fn mistaken(mut profile: EngineProfile, error: f64, seed: u64, at: usize) -> EngineProfile {
    if error > 0.0 {
        let factor = (error * normal(seed, at as u64)).exp();
        let cost = &mut profile.cost;
        cost.base_s *= factor;
        cost.per_token_s *= factor;
        cost.overhead_s *= factor;
        cost.per_kv_token_s *= factor;
        cost.attention_s *= factor;
    }
    profile
}

/// A number from a normal distribution (Box and Muller).
fn normal(seed: u64, index: u64) -> f64 {
    let (radius, angle) = (draw(seed, &[index, 1]), draw(seed, &[index, 2]));
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// A number from 0 to 1 for every seed and place.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn draw(seed: u64, place: &[u64]) -> f64 {
    let bits = place.iter().fold(splitmix64(seed), |bits, part| splitmix64(bits ^ part));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
