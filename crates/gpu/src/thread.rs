//! The one thread that talks to the driver.
//!
//! A driver call may never return. Then only this thread hangs: the asker keeps a deadline of its own and
//! goes on reporting that the driver stalls since when. It asks one thing at a time, and never waits here.

use std::io;
use std::ops::Range;
use std::time::Duration;

use aya_domain::{GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::{Collected, GpuError, GpuHolders, GpuLoad, GpuSource};

/// How long a farewell may take, that of the listening thread included; a driver that hangs gets none.
const FAREWELL: Duration = Duration::from_millis(700);

/// What the source is asked.
#[derive(Debug)]
pub enum Ask {
    Discover,
    /// A reading of some devices, by their places, after telling a simulated source what runs on them.
    Sample {
        now: MonoTime,
        devices: Range<usize>,
        loads: Vec<GpuLoad>,
    },
    /// Who holds the GPUs of some devices.
    Holders {
        now: MonoTime,
        devices: Range<usize>,
    },
}

/// What it answers; the first answer comes unasked.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Opened(GpuSourceKind),
    Discovered {
        gpus: Result<Collected<GpuInfo>, GpuError>,
        /// How many can be read one at a time.
        devices: usize,
        driver_version: Option<String>,
    },
    /// `at` is the `now` of the question.
    Sampled {
        at: MonoTime,
        devices: Range<usize>,
        samples: Result<Collected<(GpuUuid, GpuSample)>, GpuError>,
    },
    Held {
        at: MonoTime,
        holders: Vec<GpuHolders>,
    },
}

/// Why a question was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ThreadError {
    /// The last question is not answered yet.
    #[error("the driver has not answered the last question yet")]
    Busy,
    /// The source panicked or was told to end.
    #[error("the gpu thread has ended")]
    Ended,
}

/// A GPU source on its own thread.
#[derive(Debug)]
pub struct GpuThread {
    asks: Option<Sender<Ask>>,
    ended: Receiver<()>,
}

impl GpuThread {
    /// Starts the thread; `open` and every call of the source run on it. `deliver` takes the answers, must
    /// not block, and returns false once nobody wants them any more.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(
        open: impl FnOnce() -> Box<dyn GpuSource> + Send + 'static,
        mut deliver: impl FnMut(Answer) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (asks, questions) = bounded(1);
        let (alive, ended) = bounded(0);
        std::thread::Builder::new().name("aya-gpu".to_owned()).spawn(move || {
            let _alive: Sender<()> = alive;
            let mut source = open();
            let mut wanted = deliver(Answer::Opened(source.kind()));
            while wanted && let Ok(ask) = questions.recv() {
                wanted = deliver(answer(source.as_mut(), ask));
            }
        })?;
        Ok(Self { asks: Some(asks), ended })
    }

    /// Puts a question; never waits.
    ///
    /// # Errors
    /// [`ThreadError::Busy`] while an earlier question is still in the queue.
    pub fn ask(&self, ask: Ask) -> Result<(), ThreadError> {
        let asks = self.asks.as_ref().ok_or(ThreadError::Ended)?;
        asks.try_send(ask).map_err(|error| match error {
            TrySendError::Full(_) => ThreadError::Busy,
            TrySendError::Disconnected(_) => ThreadError::Ended,
        })
    }
}

/// Lets the source shut its library down, unless a call hangs.
impl Drop for GpuThread {
    fn drop(&mut self) {
        self.asks = None;
        // Disconnected is the good case: the thread dropped its end.
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}

fn answer(source: &mut dyn GpuSource, ask: Ask) -> Answer {
    match ask {
        Ask::Discover => {
            let gpus = source.discover();
            Answer::Discovered { gpus, devices: source.devices(), driver_version: source.driver_version() }
        }
        Ask::Sample { now, devices, loads } => {
            source.observe(&loads);
            let samples = source.sample_some(devices.clone(), now);
            Answer::Sampled { at: now, devices, samples }
        }
        Ask::Holders { now, devices } => Answer::Held { at: now, holders: source.holders(devices) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoGpus, Tell, open::GpuChoice, open::open};

    const PATIENCE: Duration = Duration::from_secs(20);

    #[derive(Debug)]
    struct Hanging(Receiver<()>);

    impl GpuSource for Hanging {
        fn kind(&self) -> GpuSourceKind {
            GpuSourceKind::Nvml
        }
        fn driver_version(&self) -> Option<String> {
            None
        }
        fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
            let _ = self.0.recv();
            Err(GpuError::NoGpus)
        }
        fn sample(&mut self, _now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
            Err(GpuError::NoGpus)
        }
    }

    #[test]
    fn questions_are_answered_in_order() {
        let (tell, heard) = bounded(8);
        let thread =
            GpuThread::start(|| open(GpuChoice::None, Tell::nobody()), move |a| tell.try_send(a).is_ok())
                .unwrap();
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Answer::Opened(GpuSourceKind::None)));
        thread.ask(Ask::Discover).unwrap();
        let discovered = Answer::Discovered { gpus: NoGpus.discover(), devices: 1, driver_version: None };
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(discovered));
        let at = MonoTime::from_millis(7);
        thread.ask(Ask::Sample { now: at, devices: 0..1, loads: Vec::new() }).unwrap();
        let sampled = Answer::Sampled { at, devices: 0..1, samples: Ok(Collected::all(Vec::new())) };
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(sampled));
    }

    #[test]
    fn a_driver_that_hangs_never_blocks_the_asker() {
        let (release, hang) = bounded(0);
        let (tell, heard) = bounded(8);
        let thread = GpuThread::start(|| Box::new(Hanging(hang)), move |a| tell.try_send(a).is_ok()).unwrap();
        heard.recv_timeout(PATIENCE).unwrap();
        let refused = std::iter::repeat_with(|| thread.ask(Ask::Discover)).take(3).filter(Result::is_err);
        assert!(refused.count() >= 1, "one question hangs, one waits, the third is refused");
        assert!(heard.is_empty());
        drop(release);
        assert!(matches!(heard.recv_timeout(PATIENCE), Ok(Answer::Discovered { .. })));
    }

    #[test]
    fn a_thread_ends_with_its_owner() {
        let (tell, heard) = bounded(8);
        let thread =
            GpuThread::start(|| open(GpuChoice::None, Tell::nobody()), move |a| tell.try_send(a).is_ok())
                .unwrap();
        drop(thread);
        let last = std::iter::from_fn(|| heard.recv_timeout(PATIENCE).ok()).count();
        assert_eq!(last, 1, "it opened, and its end of the channel is gone");
    }
}
