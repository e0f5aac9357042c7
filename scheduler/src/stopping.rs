//! How a scheduler ends: in steps, so that nobody is refused or cut off who could still be served.
//!
//! The step is read by every request and connection, so it is an atomic. Whoever has to be told at once (the accept
//! loops, and through them every connection of their core) holds a [`Stopping::calls`]. Steps only go forward.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use aya_config::Timeouts;
use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Step {
    Serving,
    /// Not ready any more, but whoever comes is served; every answer closes its connection.
    Draining,
    /// Nobody is accepted and idle connections close; open requests go on.
    Closing,
    /// Their time is over: whoever still waits is told so. What ends from here on was cut off by us.
    Cutting,
}

/// The scheduler's step, and who is told of a new one.
#[derive(Debug)]
pub(crate) struct Stopping {
    step: AtomicU8,
    /// Another process accepts on the same sockets.
    handed_over: AtomicBool,
    calls: watch::Sender<()>,
}

impl Stopping {
    pub(crate) fn new() -> Self {
        Self {
            step: AtomicU8::new(Step::Serving as u8),
            handed_over: AtomicBool::new(false),
            calls: watch::Sender::new(()),
        }
    }

    pub(crate) fn step(&self) -> Step {
        match self.step.load(Ordering::Acquire) {
            0 => Step::Serving,
            1 => Step::Draining,
            2 => Step::Closing,
            _ => Step::Cutting,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.step() >= Step::Draining
    }

    pub(crate) fn is_cutting(&self) -> bool {
        self.step() >= Step::Cutting
    }

    /// Whether the accept loops go on.
    pub(crate) fn accepts(&self) -> bool {
        self.step() < Step::Closing && !self.is_handed_over()
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// From here on another process accepts.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
        self.call();
    }

    /// Goes on to this step; never back.
    pub(crate) fn go(&self, step: Step) {
        self.step.fetch_max(step as u8, Ordering::AcqRel);
        self.call();
    }

    /// Tells every connection that something it waits by has changed.
    pub(crate) fn call(&self) {
        self.calls.send_replace(());
    }

    /// Changes at every step.
    pub(crate) fn calls(&self) -> watch::Receiver<()> {
        self.calls.subscribe()
    }

    /// From the first step to the last, as `ended` allows: it is over when nothing is left to wait for.
    pub(crate) async fn run(&self, times: &Timeouts, ended: impl Future<Output = ()>) {
        let mut ended = std::pin::pin!(ended);
        let grace = times.accept_grace.min(times.drain);
        self.go(Step::Draining);
        for (wait, step) in [(grace, Step::Closing), (times.drain.saturating_sub(grace), Step::Cutting)] {
            tokio::select! {
                () = ended.as_mut() => return,
                () = tokio::time::sleep(wait) => self.go(step),
            }
        }
        ended.await;
    }
}

/// How long those who are cut off may take to hear it.
pub(crate) const GOODBYE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn times(accept_grace: u64, drain: u64) -> Timeouts {
        let config: aya_config::SchedulerConfig = aya_config::parse(
            "",
            &format!("timeouts.accept_grace = \"{accept_grace}s\"\ntimeouts.drain = \"{drain}s\""),
            std::iter::empty(),
            &[],
        )
        .unwrap();
        config.timeouts
    }

    /// When each step came, in seconds, with something that never ends.
    async fn steps(grace: u64, drain: u64) -> Vec<(u64, Step)> {
        let (stopping, began) = (Stopping::new(), Instant::now());
        let times = times(grace, drain);
        let mut seen = Vec::new();
        let mut calls = stopping.calls();
        let watching = async {
            loop {
                calls.changed().await.unwrap();
                seen.push((began.elapsed().as_secs(), stopping.step()));
            }
        };
        let ending = async {
            stopping.run(&times, std::future::pending()).await;
        };
        let both = async { tokio::join!(watching, ending) };
        assert!(tokio::time::timeout(Duration::from_secs(1_000), both).await.is_err());
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn the_steps_come_in_order_and_within_the_drain() {
        use Step::{Closing, Cutting, Draining};
        for (grace, drain, expect) in [
            (2, 30, vec![(0, Draining), (2, Closing), (30, Cutting)]),
            (60, 30, vec![(0, Draining), (30, Cutting)]),
        ] {
            let seen = steps(grace, drain).await;
            // Two steps at one instant are seen as the later one.
            assert_eq!(seen, expect, "{grace} {drain}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_waited_for_when_all_has_ended() {
        let (stopping, began) = (Stopping::new(), Instant::now());
        stopping.run(&times(2, 30), std::future::ready(())).await;
        assert_eq!((began.elapsed(), stopping.step()), (Duration::ZERO, Step::Draining));
        assert!(stopping.accepts());
        stopping.hand_over();
        assert!(!stopping.accepts());
    }
}
