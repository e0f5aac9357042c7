//! One scheduler's account of one endpoint, as the live ledger keeps it: changed at dispatch, first token, every
//! token and the end. Every entry takes back exactly what it added.

use std::time::Duration;

use aya_domain::{MonoTime, OwnLoad, ResponseTimes, Tokens};
use aya_estimate::DecayedRate;
use aya_fleet::{ObservedSteps, Outcomes, PROMPTS_MAX, PromptAlone, StepSums};

/// The first pause after a failure, doubled with each further one in a row, and the longest; as live.
const COOLING_FIRST: Duration = Duration::from_millis(250);
const COOLING_MAX: Duration = Duration::from_secs(30);
/// First tokens are compared with their prediction beyond this, and no comparison says more than that; as live.
const TIMED_FLOOR_S: f64 = 0.02;
const LATENESS_MAX: f64 = 4.0;

/// The account of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    load: OwnLoad,
    rate: DecayedRate,
    cooling_until: MonoTime,
    responses: Option<ResponseTimes>,
    failures_in_a_row: u32,
    /// Prompt tokens of everything in flight.
    pub(crate) prompts: u64,
    /// Requests without a first token, in order of dispatch.
    pub(crate) pending: Vec<usize>,
    /// Requests that stream.
    pub(crate) decoding: Vec<usize>,
    /// Counts whatever makes an iteration other than one that only decodes: dispatches, and ends of prefills.
    disturbances: u64,
    /// What came of its requests; what is there now is in `load`.
    counted: Outcomes,
    steps: StepSums,
    prompts_alone: Vec<PromptAlone>,
}

/// What one request has added to its cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lease {
    /// `alone`: the disturbances when it met an idle engine, its own included.
    /// `due_s`: the prediction for the first token.
    Prefill { uncached: u32, since: MonoTime, due_s: f64, alone: Option<u64> },
    /// The last token, and the disturbances until then.
    Decode { kv_tokens: u64, last: MonoTime, disturbances: u64 },
}

impl Cell {
    pub(crate) fn read(&self, now: MonoTime) -> OwnLoad {
        let cooling_until = (self.cooling_until > now).then_some(self.cooling_until);
        let response = self.responses;
        OwnLoad { prefill_rate: self.rate.read(now), cooling_until, response, ..self.load }
    }

    /// An answer ended that took so many seconds.
    pub(crate) fn answered(&mut self, now: MonoTime, seconds: f64) {
        self.responses = Some(ResponseTimes::after(self.responses, now, seconds));
        self.counted.answers += 1;
    }

    /// It failed a request: nothing is sent there for a while.
    pub(crate) fn failed(&mut self, now: MonoTime) {
        let pause = COOLING_FIRST.saturating_mul(1 << self.failures_in_a_row.min(16)).min(COOLING_MAX);
        self.failures_in_a_row += 1;
        self.counted.failures += 1;
        self.cooling_until = now.after(pause).max(self.cooling_until);
    }

    /// What the breaker is told; every request streams.
    pub(crate) fn outcomes(&self) -> Outcomes {
        Outcomes {
            in_flight: self.load.in_flight,
            audible: self.load.in_flight,
            prefill_tokens: self.load.prefill_tokens,
            in_a_row: self.failures_in_a_row,
            ..self.counted
        }
    }

    pub(crate) fn claim(
        &mut self,
        request: usize,
        (prompt, uncached): (u32, u32),
        due_s: f64,
        now: MonoTime,
    ) -> Lease {
        self.prompts += u64::from(prompt);
        self.load.in_flight += 1;
        self.load.prefilling += 1;
        self.load.prefill_tokens += u64::from(uncached);
        self.rate.add(now, Tokens(u64::from(uncached)));
        self.pending.push(request);
        self.disturbances += 1;
        let alone = (self.load.in_flight == 1).then_some(self.disturbances);
        Lease::Prefill { uncached, since: now, due_s, alone }
    }

    pub(crate) fn first_token(&mut self, lease: &mut Lease, request: usize, prompt: u32, now: MonoTime) {
        let Lease::Prefill { uncached, since, due_s, alone } = *lease else { return };
        self.compare(now.since(since), due_s);
        if alone == Some(self.disturbances) && self.prompts_alone.len() < PROMPTS_MAX {
            let seconds = now.since(since).as_secs_f64();
            self.prompts_alone.push(PromptAlone { uncached: u64::from(uncached), seconds });
        }
        self.disturbances += 1;
        self.leave_prefill(request, uncached);
        self.failures_in_a_row = 0;
        self.load.decoding += 1;
        self.decoding.push(request);
        let kv_tokens = u64::from(prompt);
        self.load.decode_kv_tokens += kv_tokens;
        *lease = Lease::Decode { kv_tokens, last: now, disturbances: self.disturbances };
    }

    /// A first token came after so long, as live (`scheduler/src/ledger/tally.rs`).
    #[expect(clippy::cast_possible_truncation, reason = "at most 4,000 either way")]
    fn compare(&mut self, took: Duration, due_s: f64) {
        let lateness = ((took.as_secs_f64() + TIMED_FLOOR_S) / (due_s.max(0.0) + TIMED_FLOOR_S)).ln();
        if lateness.is_finite() {
            self.counted.timed += 1;
            self.counted.lateness_milli += (lateness.clamp(-LATENESS_MAX, LATENESS_MAX) * 1e3) as i64;
        }
    }

    /// One token more.
    pub(crate) fn token(&mut self, lease: &mut Lease, now: MonoTime) {
        let Lease::Decode { kv_tokens, last, disturbances } = lease else { return };
        if now > *last {
            if *disturbances == self.disturbances && self.load.prefilling == 0 {
                let seconds = now.since(*last).as_secs_f64();
                self.steps.add(seconds, self.load.decoding, self.load.decode_kv_tokens);
            }
            (*last, *disturbances) = (now, self.disturbances);
        }
        *kv_tokens += 1;
        self.counted.tokens += 1;
        self.load.decode_kv_tokens += 1;
    }

    /// The undisturbed iterations since the last call.
    pub(crate) fn observed(&mut self) -> Option<ObservedSteps> {
        let seen =
            ObservedSteps { decode: self.steps.take(), prompts: std::mem::take(&mut self.prompts_alone) };
        (seen != ObservedSteps::default()).then_some(seen)
    }

    pub(crate) fn release(&mut self, lease: Lease, request: usize, prompt: u32) {
        self.prompts = self.prompts.saturating_sub(u64::from(prompt));
        match lease {
            Lease::Prefill { uncached, .. } => {
                self.disturbances += 1;
                self.leave_prefill(request, uncached);
            }
            Lease::Decode { kv_tokens, .. } => {
                self.load.decoding = self.load.decoding.saturating_sub(1);
                self.load.decode_kv_tokens = self.load.decode_kv_tokens.saturating_sub(kv_tokens);
                remove(&mut self.decoding, request);
            }
        }
        self.load.in_flight = self.load.in_flight.saturating_sub(1);
    }

    fn leave_prefill(&mut self, request: usize, uncached: u32) {
        self.load.prefilling = self.load.prefilling.saturating_sub(1);
        self.load.prefill_tokens = self.load.prefill_tokens.saturating_sub(u64::from(uncached));
        remove(&mut self.pending, request);
    }

    /// Nothing is in flight, and nothing was sent lately.
    pub(crate) fn is_forgotten(&self, now: MonoTime) -> bool {
        self.load.in_flight == 0 && self.rate.read(now) < 1.0
    }

    /// Nothing is in flight and nothing was left behind.
    pub(crate) fn is_empty(&self) -> bool {
        self.load == OwnLoad::default()
            && self.prompts == 0
            && self.pending.is_empty()
            && self.decoding.is_empty()
    }
}

fn remove(list: &mut Vec<usize>, request: usize) {
    let at = list.iter().position(|other| *other == request);
    debug_assert!(at.is_some(), "request {request} is not where it should be");
    if let Some(at) = at {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_takes_back_what_it_added_in_every_stage() {
        let now = MonoTime::from_millis(5);
        for streamed in [None, Some(0), Some(7)] {
            let mut cell = Cell::default();
            let mut lease = cell.claim(3, (150, 100), 0.1, now);
            assert_eq!((cell.read(now).prefilling, cell.read(now).prefill_tokens), (1, 100));
            if let Some(tokens) = streamed {
                cell.first_token(&mut lease, 3, 150, now);
                (0..tokens).for_each(|_| cell.token(&mut lease, now));
                assert_eq!(cell.read(now).decode_kv_tokens, 150 + tokens);
            }
            cell.release(lease, 3, 150);
            assert!(cell.is_empty(), "{cell:?}");
            assert!(cell.read(now).prefill_rate > 0.0, "what was just sent is remembered");
        }
    }
}
