//! The ledger: what this scheduler has in flight on every endpoint, to the request.
//!
//! It is the fresh truth between two telemetry reports, so it changes synchronously with dispatch, first
//! token, every streamed event and the end. All of it is atomics: no request ever waits for another here.
//! A [`Lease`] is the only way to change a cell, and its `Drop` takes back exactly what it added, on every path.

mod counts;
#[cfg(test)]
mod interleavings;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aya_domain::{MonoTime, OwnLoad, ResponseTimes, Tokens};
use aya_estimate::DecayedRate;
use aya_fleet::Outcomes;
use aya_trace::OwnRead;

use self::counts::{Counts, Held};
use self::tally::Tally;
use crate::fallen::Fallen;
use crate::residents::{Entry, Residents};
use crate::room::WaitingRoom;
use crate::steps::{Batch, StepMark, StepWatch};

/// What the counts are made of: `interleavings` explores them with atomics that are watched.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

/// The first pause after a failed connection; doubles with each further failure in a row.
const COOLING_FIRST: Duration = Duration::from_millis(250);
/// The longest pause that failures alone impose. Telemetry that says "ready" does not shorten it: a probe
/// may succeed where requests fail.
const COOLING_MAX: Duration = Duration::from_secs(30);

/// Another claim changed the endpoint between decision and claim: decide again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LostRace;

/// The account of one endpoint. Lives as long as anyone holds a lease on it, longer than the endpoint itself.
#[derive(Debug)]
pub(crate) struct LedgerCell {
    counts: Counts,
    /// Dispatched prompt tokens per second, packed: the rate as `f32` bits above, milliseconds below.
    rate: AtomicU64,
    /// Nanoseconds of [`MonoTime`]; zero: not cooling.
    cooling_until: AtomicU64,
    failures_in_a_row: AtomicU32,
    residents: Residents,
    tally: Tally,
    /// Mean and peak seconds of answers as two `f32`, and the nanoseconds of the last one; zero: none yet. Two that end
    /// at once may overwrite each other, which costs one sample.
    response: AtomicU64,
    response_at: AtomicU64,
    steps: StepWatch,
    fallen: Arc<Fallen>,
    room: Arc<WaitingRoom>,
}

impl LedgerCell {
    pub(crate) fn new(room: Arc<WaitingRoom>) -> Self {
        Self {
            counts: Counts::new(),
            rate: AtomicU64::new(0),
            cooling_until: AtomicU64::new(0),
            failures_in_a_row: AtomicU32::new(0),
            residents: Residents::default(),
            tally: Tally::default(),
            response: AtomicU64::new(0),
            response_at: AtomicU64::new(0),
            steps: StepWatch::default(),
            fallen: Arc::default(),
            room,
        }
    }

    /// The account at this instant. Its fields are read one by one: a request that moves from prefill to
    /// decode meanwhile may be seen in both or in neither, which the next decision corrects.
    pub(crate) fn read(&self, now: MonoTime) -> OwnLoad {
        self.read_own(now).load
    }

    /// The same with the rate as it is kept, which time alone does not change.
    pub(crate) fn read_own(&self, now: MonoTime) -> OwnRead {
        let rate = unpack_rate(self.rate.load(Ordering::Relaxed), now);
        let cooling = MonoTime::from_nanos(self.cooling_until.load(Ordering::Relaxed));
        let load = OwnLoad {
            in_flight: self.counts.in_flight(),
            prefilling: self.counts.prefilling(),
            prefill_tokens: self.counts.prefill_tokens(),
            decoding: self.counts.decoding(),
            decode_kv_tokens: self.counts.decode_kv_tokens(),
            prefill_rate: rate.read(now),
            cooling_until: (cooling > now).then_some(cooling),
            response: self.responses(),
        };
        OwnRead { load, rate }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.counts.in_flight()
    }

    /// Prompt tokens of everything in flight.
    pub(crate) fn prompts(&self) -> Tokens {
        Tokens(self.counts.prompts())
    }

    /// What its iterations took, as far as the relay saw it.
    pub(crate) const fn steps(&self) -> &StepWatch {
        &self.steps
    }

    /// Whether a GPU beneath it has failed.
    pub(crate) const fn fallen(&self) -> &Arc<Fallen> {
        &self.fallen
    }

    pub(crate) const fn residents(&self) -> &Residents {
        &self.residents
    }

    /// Claims a place for a request if nothing changed since the decision saw `seen` requests in flight.
    /// `uncached`: those of its prompt tokens that have to be computed; only they are work ahead of others.
    pub(crate) fn claim(
        self: &Arc<Self>,
        seen: u32,
        prompt_tokens: u64,
        uncached: u64,
        now: MonoTime,
    ) -> Result<Lease, LostRace> {
        let held = self.counts.claim(seen, prompt_tokens, uncached).ok_or(LostRace)?;
        let add = |packed| {
            let mut rate = unpack_rate(packed, now);
            rate.add(now, Tokens(uncached));
            Some(pack_rate(rate))
        };
        // The closure never declines, so the update cannot fail.
        let _ = self.rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let entry = self.residents.enter(now, uncached);
        let mark = self.steps.dispatched(seen == 0, now);
        let cell = Arc::clone(self);
        Ok(Lease { cell, since: now, held, entry, expected: None, audible: false, mark })
    }

    /// What came of its requests so far.
    pub(crate) fn outcomes(&self) -> Outcomes {
        let in_a_row = self.failures_in_a_row.load(Ordering::Relaxed);
        self.tally.read(self.in_flight(), self.counts.prefill_tokens(), in_a_row)
    }

    /// An answer is whole, or the endpoint rightly refused the request.
    pub(crate) fn answered(&self) {
        self.tally.answered();
    }

    /// An answer broke off after its first byte.
    pub(crate) fn broke_off(&self) {
        self.tally.broke_off();
    }

    fn responses(&self) -> Option<ResponseTimes> {
        let at = MonoTime::from_nanos(self.response_at.load(Ordering::Relaxed));
        let packed = self.response.load(Ordering::Relaxed);
        let seconds = |bits: u64| f64::from(f32::from_bits(u32::try_from(bits).unwrap_or(0)));
        let (mean_s, peak_s) = (seconds(packed >> 32), seconds(packed & u64::from(u32::MAX)));
        (at > MonoTime::ZERO).then_some(ResponseTimes { mean_s, peak_s, at })
    }

    /// An answer ended well that took so long.
    fn took(&self, now: MonoTime, took: Duration) {
        let times = ResponseTimes::after(self.responses(), now, took.as_secs_f64());
        #[expect(clippy::cast_possible_truncation, reason = "seconds need no more than f32 holds")]
        let bits = |seconds: f64| u64::from((seconds as f32).to_bits());
        self.response.store(bits(times.mean_s) << 32 | bits(times.peak_s), Ordering::Relaxed);
        self.response_at.store(times.at.as_nanos(), Ordering::Relaxed);
    }

    /// The endpoint failed a request before its first byte: leave it alone for a while.
    pub(crate) fn failed(&self, now: MonoTime) {
        self.tally.failed();
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = COOLING_FIRST.saturating_mul(1 << failures).min(COOLING_MAX);
        self.cool_until(now.after(pause));
    }

    /// The endpoint asked for a pause (429 or 503 with `Retry-After`).
    pub(crate) fn pushed_back(&self, now: MonoTime, pause: Duration) {
        self.cool_until(now.after(pause.min(COOLING_MAX)));
    }

    /// The endpoint answered: whatever failed before is over.
    pub(crate) fn succeeded(&self) {
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
            self.cooling_until.store(0, Ordering::Relaxed);
        }
    }

    fn cool_until(&self, until: MonoTime) {
        self.cooling_until.fetch_max(until.as_nanos(), Ordering::Relaxed);
    }
}

/// One request's claim on one endpoint.
#[derive(Debug)]
pub(crate) struct Lease {
    cell: Arc<LedgerCell>,
    since: MonoTime,
    held: Held,
    /// `None`: too many are there to be known one by one.
    entry: Option<Entry>,
    /// When it was sent, and after how many seconds its first token was due; until that has come.
    expected: Option<(MonoTime, f64)>,
    audible: bool,
    mark: StepMark,
}

impl Lease {
    /// Its first token is due so many seconds after `now`, by the endpoint's full speed.
    pub(crate) fn expect(&mut self, now: MonoTime, ttft_s: f64) {
        self.expected = Some((now, ttft_s));
    }

    /// The endpoint streams its answer, so its silence says something.
    pub(crate) fn listen(&mut self) {
        if !std::mem::replace(&mut self.audible, true) {
            self.cell.tally.audible.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A token came at `now`: the first one is compared with what was expected.
    fn heard_at(&mut self, now: MonoTime) {
        if let Some((sent, ttft_s)) = self.expected.take() {
            self.cell.tally.timed(now.since(sent), ttft_s);
        }
    }

    /// The prefill is over: the request now decodes. Later calls change nothing.
    pub(crate) fn first_token(&mut self, now: MonoTime) {
        let Some(uncached) = self.cell.counts.first_token(&mut self.held) else { return };
        if let Some(entry) = self.entry {
            self.cell.residents.first_token(entry, now);
        }
        self.cell.steps.first_token(&mut self.mark, uncached, now);
        self.cell.room.wake_heads();
    }

    /// This many more tokens came; ends the prefill if it had not ended.
    pub(crate) fn tokens(&mut self, count: u64, now: MonoTime) {
        if self.held.decodes() {
            let counts = &self.cell.counts;
            let batch = Batch {
                prefilling: counts.prefilling(),
                decoding: counts.decoding(),
                kv_tokens: counts.decode_kv_tokens(),
            };
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.cell.steps.tokens(&mut self.mark, count, batch, now);
        }
        self.first_token(now);
        self.heard_at(now);
        self.cell.tally.tokens(count);
        if let Some(entry) = self.entry {
            self.cell.residents.tokens(entry, count);
        }
        self.cell.counts.tokens(&mut self.held, count);
    }

    /// The answer has come in full.
    pub(crate) fn completed(&self, now: MonoTime) {
        self.cell.took(now, now.since(self.since));
    }

    pub(crate) fn cell(&self) -> &LedgerCell {
        &self.cell
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.held.decodes() {
            self.cell.steps.broke_off();
        }
        if let Some(entry) = self.entry {
            self.cell.residents.leave(entry);
        }
        if self.audible {
            self.cell.tally.audible.fetch_sub(1, Ordering::Relaxed);
        }
        self.cell.counts.release(&self.held);
        self.cell.room.wake_heads();
    }
}

/// Milliseconds are kept modulo 2^32 and completed from the present, so a rate may be up to 49 days old.
fn unpack_rate(packed: u64, now: MonoTime) -> DecayedRate {
    let rate = f32::from_bits(u32::try_from(packed >> 32).unwrap_or(0));
    let now_ms = now.as_nanos() / 1_000_000;
    let age_ms = now_ms.wrapping_sub(packed) & u64::from(u32::MAX);
    DecayedRate::from_parts(f64::from(rate), MonoTime::from_millis(now_ms.saturating_sub(age_ms)))
}

#[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than f32 holds")]
fn pack_rate(rate: DecayedRate) -> u64 {
    let (per_second, at) = rate.parts();
    let millis = (at.as_nanos() / 1_000_000) & u64::from(u32::MAX);
    (u64::from((per_second as f32).to_bits()) << 32) | millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell() -> Arc<LedgerCell> {
        Arc::new(LedgerCell::new(Arc::new(WaitingRoom::new(
            aya_admission::QueueRules::DEFAULT,
            aya_observe::Clock::start(),
        ))))
    }

    const NOW: MonoTime = MonoTime::from_millis(1_000);

    #[test]
    fn a_dropped_lease_takes_back_exactly_what_it_added_in_every_stage() {
        let cell = cell();
        for tokens_streamed in [None, Some(0), Some(7)] {
            let mut lease = cell.claim(0, 150, 100, NOW).unwrap();
            if let Some(count) = tokens_streamed {
                lease.tokens(count, NOW);
                assert_eq!(cell.read(NOW).decode_kv_tokens, 150 + count);
            } else {
                assert_eq!((cell.read(NOW).prefilling, cell.read(NOW).prefill_tokens), (1, 100));
            }
            drop(lease);
            let after = cell.read(NOW);
            assert_eq!(OwnLoad { prefill_rate: 0.0, ..after }, OwnLoad::default());
            assert_eq!(cell.prompts(), Tokens(0));
        }
        assert!(cell.read(NOW).prefill_rate > 0.0, "what was just sent is remembered");
    }

    #[test]
    fn answers_that_ended_well_are_remembered_by_how_long_they_took() {
        let cell = cell();
        let lease = cell.claim(0, 1, 1, NOW).unwrap();
        assert_eq!(cell.read(NOW).response, None);
        let later = NOW.after(Duration::from_secs(3));
        lease.completed(later);
        let times = cell.read(later).response.unwrap();
        assert!((times.mean_s - 3.0).abs() < 1e-6 && (times.peak_s - 3.0).abs() < 1e-6, "{times:?}");
    }

    #[test]
    fn the_second_claim_on_the_same_sight_loses() {
        let cell = cell();
        let first = cell.claim(0, 1, 1, NOW).unwrap();
        assert_eq!(cell.claim(0, 1, 1, NOW).unwrap_err(), LostRace);
        drop(first);
        assert!(cell.claim(0, 1, 1, NOW).is_ok());
    }

    #[test]
    fn failures_in_a_row_lengthen_the_pause_and_success_ends_it() {
        let cell = cell();
        cell.failed(NOW);
        assert_eq!(cell.read(NOW).cooling_until, Some(NOW.after(COOLING_FIRST)));
        cell.failed(NOW);
        assert_eq!(cell.read(NOW).cooling_until, Some(NOW.after(COOLING_FIRST * 2)));
        for _ in 0..40 {
            cell.failed(NOW);
        }
        assert_eq!(cell.read(NOW).cooling_until, Some(NOW.after(COOLING_MAX)));
        cell.succeeded();
        assert_eq!(cell.read(NOW).cooling_until, None);
    }

    #[test]
    fn a_rate_decays_the_same_however_long_the_scheduler_has_run() {
        for start_ms in [10_000, u64::from(u32::MAX) - 1_000, 3 * u64::from(u32::MAX) + 17] {
            let (start, later) = (MonoTime::from_millis(start_ms), MonoTime::from_millis(start_ms + 4_000));
            let cell = cell();
            let _lease = cell.claim(0, 4_000, 4_000, start).unwrap();
            let read = cell.read(later).prefill_rate;
            assert!((read - 1_000.0 / std::f64::consts::E).abs() < 1.0, "{read} after {start_ms} ms");
        }
    }

    #[test]
    fn many_threads_leave_an_empty_ledger() {
        let cell = cell();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..2_000_u64 {
                        if let Ok(mut lease) = cell.claim(cell.in_flight(), i, i, NOW) {
                            lease.tokens(i % 3, NOW);
                        }
                    }
                });
            }
        });
        assert_eq!(OwnLoad { prefill_rate: 0.0, ..cell.read(NOW) }, OwnLoad::default());
    }
}
