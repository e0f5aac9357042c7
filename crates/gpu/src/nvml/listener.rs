//! The thread that waits for the driver's events.
//!
//! It has the library open for itself (NVML counts its openings), so nothing is shared with the thread that reads the
//! GPUs but the ledger. A wait that fails is begun anew, later and later; a driver that hangs holds up only this
//! thread, and its owner leaves it behind.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aya_domain::GpuUuid;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tracing::{debug, warn};

use super::error::{is_of_the_gpu, named};
use super::events::{EventSet, Heard, Said};
use super::ledger::Ledger;
use super::raw;

/// One wait in the driver: how long a change of the devices, or the end, may go unnoticed. An event ends the wait.
const WAIT: Duration = Duration::from_millis(200);
/// Pauses after a failure, doubling from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// How long the end may take: a wait and closing the library. A driver that hangs gets no more.
const FAREWELL: Duration = Duration::from_millis(400);
/// The field with the driver's recovery action.
const RECOVERY_ACTION: u32 = 230;

/// The listening thread; dropping it ends it.
pub(super) struct Listener {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// Listens to what the ledger names and enters there what it hears.
    pub(super) fn start(lib: Option<OsString>, ledger: Arc<Ledger>) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (alive, ended) = bounded(0);
        let thread = std::thread::Builder::new().name("aya-gpu-events".to_owned()).spawn(move || {
            let _alive: Sender<()> = alive;
            Ears { lib, ledger, stopped }.run();
        })?;
        Ok(Self { stop: Some(stop), ended, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop = None;
        let ended = matches!(self.ended.recv_timeout(FAREWELL), Err(RecvTimeoutError::Disconnected));
        if ended && let Some(thread) = self.thread.take() {
            // A panic in there has told itself.
            let _ = thread.join();
        }
    }
}

struct Ears {
    lib: Option<OsString>,
    ledger: Arc<Ledger>,
    stopped: Receiver<()>,
}

/// Why a set is not waited on any longer.
enum Over {
    Stopped,
    /// There is something else to listen to.
    Changed,
}

impl Ears {
    fn run(&self) {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.open_and_listen(&mut pause) {
                Ok(()) => return,
                Err(error) => {
                    self.ledger.listening(&[]);
                    warn!(error = %named(&error), pause_s = pause.as_secs(), "xid events are not heard for a while");
                }
            }
            if self.is_stopped_within(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// Whether the owner ends it, now or in this time.
    fn is_stopped_within(&self, time: Duration) -> bool {
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Disconnected))
    }

    fn open_and_listen(&self, pause: &mut Duration) -> Result<(), NvmlError> {
        let mut builder = Nvml::builder();
        if let Some(lib) = &self.lib {
            builder.lib_path(lib);
        }
        let nvml = builder.init()?;
        loop {
            let (generation, devices) = self.ledger.to_listen_to();
            let set = EventSet::listen(&nvml, &devices)?;
            let of = set.of();
            debug!(devices = devices.len(), listening = of.len(), "listening for xid events");
            self.ledger.listening(&of);
            let over = if of.is_empty() {
                Ok(self.wait_for_change(generation))
            } else {
                self.wait(&set, &nvml, generation)
            };
            match over? {
                Over::Stopped => return Ok(()),
                Over::Changed => *pause = PAUSE_FIRST,
            }
        }
    }

    /// There is nothing to listen to: waits until there is.
    fn wait_for_change(&self, generation: u64) -> Over {
        loop {
            if self.is_stopped_within(WAIT) {
                return Over::Stopped;
            }
            if self.ledger.generation() != generation {
                return Over::Changed;
            }
        }
    }

    fn wait(&self, set: &EventSet<'_>, nvml: &Nvml, generation: u64) -> Result<Over, NvmlError> {
        loop {
            if self.is_stopped_within(Duration::ZERO) {
                return Ok(Over::Stopped);
            }
            match set.wait(WAIT) {
                Ok(heard) => heard.into_iter().for_each(|heard| self.enter(heard, nvml)),
                Err(NvmlError::Timeout) => {
                    // What this set still holds has been taken: nothing is lost by making another.
                    if self.ledger.generation() != generation {
                        return Ok(Over::Changed);
                    }
                }
                Err(error) if is_of_the_gpu(&named(&error)) => {
                    let lost = set.lost();
                    lost.iter().for_each(|uuid| self.ledger.lost(uuid));
                    return if lost.is_empty() { Err(error) } else { Ok(Over::Changed) };
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn enter(&self, heard: Heard, nvml: &Nvml) {
        let Heard { device, instance, said } = heard;
        let Some(device) = device else {
            warn!(?said, "the driver tells of an error of a gpu that it does not name");
            return;
        };
        match said {
            Said::Xid(code) => {
                warn!(gpu = %device, instance, xid = code, "the driver tells of an xid");
                self.ledger.xid(&device, instance, code);
            }
            Said::Ecc => self.ledger.ecc(&device, instance),
            Said::Unavailable => self.ledger.lost(&device),
            Said::Recovery => {
                if let Some(action) = recovery_action(nvml, &device) {
                    self.ledger.recovery(&device, action);
                }
            }
        }
    }
}

fn recovery_action(nvml: &Nvml, uuid: &GpuUuid) -> Option<u32> {
    let device = nvml.device_by_uuid(uuid.as_str()).ok()?;
    let [action] = raw::fields(nvml, &device, [RECOVERY_ACTION]).ok()?;
    u32::try_from(action?).ok()
}
