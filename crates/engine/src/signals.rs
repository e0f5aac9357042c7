//! The state of every reading of an engine, decided from what is known of it and the time.

use std::time::Duration;

use aya_domain::{EngineKind, MonoTime, Signal, SignalReport, SignalState};

use crate::finding::{Absent, PageError};
use crate::plan::{Page, plan};
use crate::readings::{EngineReadings, Field};
use crate::tells::{is_told, tells};

/// Periods of its page without a new value after which a reading is stale.
const STALE_AFTER_PERIODS: u32 = 3;
/// No reading is stale before this: a probe may take its time-out, and one lost round is no news.
const STALE_AT_LEAST: Duration = Duration::from_secs(3);

/// The state of all readings in the order of [`Signal::ALL`]. `period`: between two rounds of questions.
#[must_use]
pub fn signals(
    kind: EngineKind,
    readings: &EngineReadings,
    period: Duration,
    now: MonoTime,
) -> Vec<SignalReport> {
    let state = Signal::ALL.map(|signal| match signal {
        Signal::Running => report(kind, signal, &readings.running, period, now),
        Signal::Waiting => report(kind, signal, &readings.waiting, period, now),
        Signal::KvUsed => report(kind, signal, &readings.kv_used, period, now),
        Signal::KvCapacity => report(kind, signal, &readings.kv_capacity, period, now),
        Signal::MaxSequences => report(kind, signal, &readings.max_sequences, period, now),
        Signal::PrefixCache => report(kind, signal, &readings.prefix_cache, period, now),
        Signal::Models => report(kind, signal, &readings.models, period, now),
        Signal::Work => report(kind, signal, &readings.work, period, now),
    });
    state.into()
}

fn report<T>(
    kind: EngineKind,
    signal: Signal,
    field: &Field<T>,
    period: Duration,
    now: MonoTime,
) -> SignalReport {
    let (state, reason) = match field {
        Field::Read { reading, page } => {
            let fresh = now.since(reading.sampled_at) <= stale_after(kind, *page, period);
            (if fresh { SignalState::Parsed } else { SignalState::Stale }, None)
        }
        Field::Absent(Absent::NotRead) => (SignalState::NotTold, None),
        Field::Unread if !is_told(kind, signal) => (SignalState::NotTold, None),
        Field::Unread => (SignalState::Missing, Some("not read yet".to_owned())),
        Field::Absent(reason) => (SignalState::Missing, Some(explain(kind, signal, *reason))),
    };
    SignalReport { signal, state, reason }
}

fn stale_after(kind: EngineKind, page: Page, period: Duration) -> Duration {
    let planned = plan(kind).pages.iter().find(|planned| planned.page == page);
    let period = planned.map_or(period, |planned| planned.period_min.max(period));
    period.saturating_mul(STALE_AFTER_PERIODS).max(STALE_AT_LEAST)
}

/// The reason, with what an operator can do about it where one thing is by far the likeliest.
fn explain(kind: EngineKind, signal: Signal, reason: Absent) -> String {
    match reason {
        Absent::Page(PageError::Foreign) => {
            format!("the metrics page has nothing of {kind}: is {kind} the right kind of engine?")
        }
        Absent::Page(PageError::Status(404 | 501)) => match switch(kind, signal) {
            Some(switch) => format!("{reason}: {switch}"),
            None => format!("{reason}: is {kind} the right kind of engine?"),
        },
        Absent::NotRead
        | Absent::Missing
        | Absent::Malformed
        | Absent::NotFinite
        | Absent::Negative
        | Absent::TooLarge
        | Absent::Page(_) => reason.to_string(),
    }
}

/// How the page of a reading is switched on, for the kinds that have it off at first.
fn switch(kind: EngineKind, signal: Signal) -> Option<&'static str> {
    let on_metrics = tells(kind, Page::Metrics).contains(&signal);
    match kind {
        EngineKind::Sglang if on_metrics => Some("start SGLang with --enable-metrics"),
        EngineKind::TrtLlm if on_metrics => Some("set return_perf_metrics for trtllm-serve"),
        EngineKind::LlamaCpp if matches!(signal, Signal::Waiting | Signal::PrefixCache | Signal::Work) => {
            Some("start llama-server with --metrics")
        }
        EngineKind::LlamaCpp if signal != Signal::Models => Some("start llama-server with --slots"),
        EngineKind::Triton if on_metrics => {
            Some("serve through Triton's OpenAI frontend, which has them on its own port")
        }
        EngineKind::Vllm
        | EngineKind::Sglang
        | EngineKind::LlamaCpp
        | EngineKind::Tgi
        | EngineKind::TrtLlm
        | EngineKind::Triton
        | EngineKind::Ollama
        | EngineKind::Simulated => None,
    }
}

#[cfg(test)]
mod tests {
    use aya_domain::Reading;

    use super::*;
    use crate::finding::Findings;

    const ROUND: Duration = Duration::from_millis(250);

    fn state_of(kind: EngineKind, readings: &EngineReadings, wanted: Signal, now_ms: u64) -> SignalReport {
        let all = signals(kind, readings, ROUND, MonoTime::from_millis(now_ms));
        assert_eq!(all.iter().map(|s| s.signal).collect::<Vec<_>>(), Signal::ALL);
        all.into_iter().find(|s| s.signal == wanted).unwrap()
    }

    #[test]
    fn a_reading_is_parsed_then_stale_and_missing_only_with_a_reason() {
        let mut readings = EngineReadings::new(EngineKind::Vllm);
        let told = |running| Findings { running: Some(running), ..Findings::default() };
        let running =
            |readings: &EngineReadings, ms| state_of(EngineKind::Vllm, readings, Signal::Running, ms);
        assert_eq!(running(&readings, 0).reason.as_deref(), Some("not read yet"));
        readings.merge(Page::Metrics, told(Ok(3)), MonoTime::from_millis(1_000));
        for (ms, expect) in
            [(1_000, SignalState::Parsed), (4_000, SignalState::Parsed), (4_001, SignalState::Stale)]
        {
            assert_eq!(running(&readings, ms).state, expect, "{ms}");
        }
        for (reason, expect) in [
            (Absent::NotFinite, "not a finite number"),
            (Absent::Page(PageError::Html), "the page is HTML: is this the right kind of engine?"),
            (
                Absent::Page(PageError::Foreign),
                "the metrics page has nothing of vllm: is vllm the right kind of engine?",
            ),
            (Absent::Page(PageError::Status(404)), "the page answers 404: is vllm the right kind of engine?"),
        ] {
            readings.merge(Page::Metrics, told(Err(reason)), MonoTime::from_millis(5_000));
            let got = running(&readings, 5_000);
            assert_eq!((got.state, got.reason.as_deref()), (SignalState::Missing, Some(expect)));
        }
    }

    #[test]
    fn what_a_kind_never_tells_is_not_missing() {
        for (kind, signal, expect) in [
            (EngineKind::Vllm, Signal::MaxSequences, SignalState::NotTold),
            (EngineKind::Ollama, Signal::Running, SignalState::NotTold),
            (EngineKind::Ollama, Signal::Models, SignalState::Missing),
            (EngineKind::Triton, Signal::PrefixCache, SignalState::NotTold),
            (EngineKind::Sglang, Signal::MaxSequences, SignalState::Missing),
        ] {
            let readings = EngineReadings::new(kind);
            assert_eq!(state_of(kind, &readings, signal, 0).state, expect, "{kind} {signal}");
        }
    }

    #[test]
    fn a_page_that_is_switched_off_is_told_with_its_switch() {
        let gone = Absent::Page(PageError::Status(404));
        for (kind, signal, expect) in [
            (EngineKind::Sglang, Signal::PrefixCache, "start SGLang with --enable-metrics"),
            (EngineKind::TrtLlm, Signal::Running, "set return_perf_metrics for trtllm-serve"),
            (EngineKind::LlamaCpp, Signal::Waiting, "start llama-server with --metrics"),
            (EngineKind::LlamaCpp, Signal::KvUsed, "start llama-server with --slots"),
        ] {
            let told = explain(kind, signal, gone);
            assert_eq!(told, format!("the page answers 404: {expect}"));
        }
    }

    #[test]
    fn slow_facts_are_stale_by_their_own_period() {
        let mut readings = EngineReadings::new(EngineKind::Vllm);
        readings.models =
            Field::Read { reading: Reading::new(Vec::new(), MonoTime::ZERO), page: Page::Models };
        for (ms, expect) in [(30_000, SignalState::Parsed), (30_001, SignalState::Stale)] {
            assert_eq!(state_of(EngineKind::Vllm, &readings, Signal::Models, ms).state, expect, "{ms}");
        }
    }
}
