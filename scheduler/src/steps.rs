//! What the relay sees of an engine's iterations: the time between two tokens while nothing but decoding went on, and
//! the time to the first token of a prompt that was alone.
//!
//! Whatever makes an iteration other than that counts as a disturbance; what a disturbance fell into is not noted. The
//! fleet's writer takes the notes away and learns from them. A note that meets another being written is lost: there
//! are many, and none is worth a wait on the way of a token.

use std::sync::atomic::{AtomicU32, Ordering};

use aya_domain::MonoTime;
use aya_fleet::{ObservedSteps, PROMPTS_MAX, PromptAlone, StepSums};
use parking_lot::Mutex;

/// Of a stream's tokens every so many-th is noted: steps of one endpoint are alike.
const NOTE_EVERY: u32 = 4;

/// One endpoint's steps since they were last taken away.
#[derive(Debug, Default)]
pub(crate) struct StepWatch {
    disturbances: AtomicU32,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    steps: StepSums,
    prompts: Vec<PromptAlone>,
}

/// Where one request stands: its last token, or its dispatch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepMark {
    at: MonoTime,
    /// Those until then; `None` while nothing can be learned from what comes next.
    disturbances: Option<u32>,
    tokens: u32,
}

/// The batch that decodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) prefilling: u32,
    pub(crate) decoding: u32,
    pub(crate) kv_tokens: u64,
}

impl StepWatch {
    /// A request was sent there; `alone`: to an idle engine.
    pub(crate) fn dispatched(&self, alone: bool, now: MonoTime) -> StepMark {
        let count = self.disturb();
        StepMark { at: now, disturbances: alone.then_some(count), tokens: 0 }
    }

    /// Its first token came; `uncached` tokens had to be computed for it.
    pub(crate) fn first_token(&self, mark: &mut StepMark, uncached: u64, now: MonoTime) {
        if mark.disturbances == Some(self.disturbances.load(Ordering::Relaxed))
            && let Some(mut noted) = self.noted.try_lock()
            && noted.prompts.len() < PROMPTS_MAX
        {
            noted.prompts.push(PromptAlone { uncached, seconds: now.since(mark.at).as_secs_f64() });
        }
        *mark = StepMark { at: now, disturbances: Some(self.disturb()), tokens: 0 };
    }

    /// `count` more tokens came at once.
    pub(crate) fn tokens(&self, mark: &mut StepMark, count: u32, batch: Batch, now: MonoTime) {
        mark.tokens = mark.tokens.saturating_add(count);
        if mark.tokens < NOTE_EVERY {
            return;
        }
        let disturbances = self.disturbances.load(Ordering::Relaxed);
        if batch.prefilling == 0
            && mark.disturbances == Some(disturbances)
            && let Some(mut noted) = self.noted.try_lock()
        {
            let seconds = now.since(mark.at).as_secs_f64() / f64::from(mark.tokens);
            noted.steps.add(seconds, batch.decoding, batch.kv_tokens);
        }
        *mark = StepMark { at: now, disturbances: Some(disturbances), tokens: 0 };
    }

    /// A prefill ended otherwise than by a first token.
    pub(crate) fn broke_off(&self) {
        self.disturb();
    }

    /// Takes the notes away; `None` if there are none.
    pub(crate) fn take(&self) -> Option<ObservedSteps> {
        let mut noted = self.noted.lock();
        let seen = ObservedSteps { decode: noted.steps.take(), prompts: std::mem::take(&mut noted.prompts) };
        (seen != ObservedSteps::default()).then_some(seen)
    }

    fn disturb(&self) -> u32 {
        self.disturbances.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Batch = Batch { prefilling: 0, decoding: 1, kv_tokens: 100 };

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_millis(ms)
    }

    #[test]
    fn an_undisturbed_stream_shows_its_prompt_and_its_steps() {
        let watch = StepWatch::default();
        let mut mark = watch.dispatched(true, at(0));
        watch.first_token(&mut mark, 500, at(40));
        for token in 1..=u64::from(2 * NOTE_EVERY) {
            watch.tokens(&mut mark, 1, ALONE, at(40 + 10 * token));
        }
        let seen = watch.take().unwrap();
        assert_eq!(seen.prompts, [PromptAlone { uncached: 500, seconds: 0.04 }]);
        let decode = seen.decode.unwrap();
        assert!((decode.seconds - 0.01).abs() < 1e-12 && (decode.decoding - 1.0).abs() < 1e-12, "{decode:?}");
        assert_eq!(watch.take(), None, "notes are taken once");
    }

    #[test]
    fn what_another_prompt_fell_into_is_not_noted() {
        let watch = StepWatch::default();
        let mut mark = watch.dispatched(true, at(0));
        let mut other = watch.dispatched(false, at(1));
        watch.first_token(&mut mark, 500, at(40));
        watch.tokens(&mut mark, NOTE_EVERY, Batch { prefilling: 1, ..ALONE }, at(80));
        watch.first_token(&mut other, 500, at(90));
        watch.tokens(&mut mark, NOTE_EVERY, ALONE, at(120));
        assert_eq!(watch.take(), None);
        watch.tokens(&mut mark, NOTE_EVERY, ALONE, at(160));
        assert!(watch.take().unwrap().decode.is_some(), "undisturbed again");
    }
}
