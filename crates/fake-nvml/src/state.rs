//! The state of the library in one process: the scenario in force, who has opened it, and its event sets.
//!
//! Every export goes through [`call`]: it takes a fresh scenario over, serves latency, hangs and faults, and only
//! then does the work, on a view of its own. Nothing waits and no caller's memory is touched under the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nvml_wrapper_sys::bindings as sys;
use parking_lot::Mutex;

use crate::abi::{Answer, Code, Handle, returned};
use crate::exports::EXPORTS;
use crate::scenario::{FILE_MAX, GPUS_MAX, Gpu, Mig, Scenario};

/// Names the scenario file; without it, it lies beside the shared object.
const SCENARIO_ENV: &str = "AYA_FAKE_NVML_SCENARIO";
/// How often a waiting call looks at the scenario again, so that a new one can end the wait.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The same for a wait for events, which never ends: a real driver sleeps in it, so this one must cost next to nothing.
pub(crate) const LISTEN_AGAIN: Duration = Duration::from_millis(20);

/// The first handle of a GPU, and of a slice: chosen so that no stale or foreign pointer looks like one.
const GPU_HANDLES: usize = 0x1000;
const MIG_HANDLES: usize = 0x10000;
/// Slices of one GPU get handles in steps of this.
const MIG_STRIDE: usize = 0x100;

static STATE: Mutex<State> = Mutex::new(State {
    path: None,
    stamp: None,
    loaded: None,
    opened: 0,
    calls: BTreeMap::new(),
    sets: BTreeMap::new(),
    samples: BTreeMap::new(),
    next_handle: 0x10_0000,
});

pub(crate) struct State {
    path: Option<PathBuf>,
    stamp: Option<(SystemTime, u64)>,
    loaded: Option<Loaded>,
    /// Inits without their shutdown.
    opened: u32,
    calls: BTreeMap<&'static str, u64>,
    pub(crate) sets: BTreeMap<Handle, EventSet>,
    /// GPM samples: the metrics that were true when each was taken.
    pub(crate) samples: BTreeMap<Handle, BTreeMap<u32, f64>>,
    next_handle: usize,
}

#[derive(Clone)]
struct Loaded {
    scenario: Arc<Scenario>,
    at: Instant,
    version: u32,
}

/// What a caller listens to.
#[derive(Debug, Default)]
pub(crate) struct EventSet {
    pub(crate) registered: Vec<Registration>,
    /// By scenario version and place in its list.
    pub(crate) delivered: BTreeSet<(u32, usize)>,
}

#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) gpu: usize,
    pub(crate) kinds: u64,
    pub(crate) version: u32,
    pub(crate) since: Duration,
}

impl State {
    pub(crate) fn new_handle(&mut self) -> Handle {
        self.next_handle += 0x10;
        Handle(self.next_handle)
    }

    /// Takes a changed file over; one that cannot be used leaves everything as it is.
    fn refresh(&mut self) {
        let path = self.path.get_or_insert_with(scenario_path);
        let Ok(metadata) = fs::metadata(&*path) else { return };
        let stamp = metadata.modified().ok().map(|changed| (changed, metadata.len()));
        if stamp == self.stamp && self.loaded.is_some() {
            return;
        }
        let tried_before = stamp == self.stamp;
        self.stamp = stamp;
        match load(path, metadata.len()) {
            Ok(scenario) => {
                let version = self.loaded.as_ref().map_or(0, |loaded| loaded.version + 1);
                self.loaded = Some(Loaded { scenario: Arc::new(scenario), at: now(), version });
            }
            Err(error) if !tried_before => complain(path, &error),
            Err(_) => {}
        }
    }

    pub(crate) fn open(&mut self) -> Answer {
        self.loaded.as_ref().ok_or(Code::DRIVER_NOT_LOADED)?;
        self.opened += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Answer {
        self.opened = self.opened.checked_sub(1).ok_or(Code::UNINITIALIZED)?;
        if self.opened == 0 {
            self.sets.clear();
            self.samples.clear();
        }
        Ok(())
    }
}

fn load(path: &Path, length: u64) -> Result<Scenario, String> {
    if length > FILE_MAX {
        return Err(format!("{length} bytes, at most {FILE_MAX}"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let names: Vec<&str> = EXPORTS.iter().copied().flatten().copied().collect();
    Scenario::parse(&text, &names)
}

#[expect(
    clippy::print_stderr,
    reason = "a library under a foreign program has no other way to tell its user"
)]
fn complain(path: &Path, error: &str) {
    eprintln!("aya-fake-nvml: {}: {error}", path.display());
}

/// The path from the environment, else the file beside the shared object.
fn scenario_path() -> PathBuf {
    std::env::var_os(SCENARIO_ENV).map_or_else(beside_the_library, PathBuf::from)
}

fn beside_the_library() -> PathBuf {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let inside: fn() -> PathBuf = beside_the_library;
    #[expect(unsafe_code, reason = "only the dynamic linker knows which file this code was loaded from")]
    // SAFETY: the address is one of our own functions and `info` is ours to be written.
    let found = unsafe { libc::dladdr(inside as *const libc::c_void, &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return PathBuf::new();
    }
    #[expect(unsafe_code, reason = "dladdr answers with a C string")]
    // SAFETY: not null, ends with a zero byte, and lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let mut path = OsStr::from_bytes(name.to_bytes()).to_owned();
    path.push(".json");
    PathBuf::from(path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the library lives in foreign programs: nobody hands it a clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since 1970, the time that NVML stamps its samples with.
#[expect(
    clippy::disallowed_methods,
    reason = "the library lives in foreign programs: nobody hands it a clock"
)]
pub(crate) fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a slow or hanging driver call blocks its caller's thread")]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Runs something under the lock; it must not wait.
pub(crate) fn with_state<T>(work: impl FnOnce(&mut State) -> T) -> T {
    work(&mut STATE.lock())
}

/// How often a function was called in this process.
pub(crate) fn calls_of(function: &str) -> u64 {
    STATE.lock().calls.get(function).copied().unwrap_or(0)
}

/// The scenario in force at this moment, as one call sees it.
pub(crate) struct Driver {
    pub(crate) function: &'static str,
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) version: u32,
    pub(crate) since_load: Duration,
    pub(crate) gpus: Arc<Vec<Gpu>>,
}

/// What a device handle stands for.
pub(crate) enum Target<'a> {
    Gpu(usize, &'a Gpu),
    Mig(usize, &'a Gpu, &'a Mig),
}

impl Driver {
    /// The driver as it is now; `None` before the first scenario.
    pub(crate) fn look(function: &'static str) -> Option<Self> {
        let loaded = with_state(|state| {
            state.refresh();
            state.loaded.clone()
        })?;
        let since_load = now().saturating_duration_since(loaded.at);
        let gpus = loaded.scenario.gpus(since_load);
        Some(Self { function, scenario: loaded.scenario, version: loaded.version, since_load, gpus })
    }

    /// What the handle stands for; refuses lost GPUs and serves the faults of this function.
    pub(crate) fn target(&self, handle: Handle) -> Result<Target<'_>, Code> {
        let target = self.any_target(handle)?;
        let (Target::Gpu(_, gpu) | Target::Mig(_, gpu, _)) = &target;
        self.usable(gpu)?;
        Ok(target)
    }

    fn usable(&self, gpu: &Gpu) -> Answer {
        if gpu.lost {
            return Err(Code::GPU_IS_LOST);
        }
        gpu.faults.get(self.function).or(gpu.faults.get("*")).map_or(Ok(()), |code| Err(Code(*code)))
    }

    fn any_target(&self, Handle(handle): Handle) -> Result<Target<'_>, Code> {
        let invalid = Code::INVALID_ARGUMENT;
        if let Some(place) = handle.checked_sub(MIG_HANDLES).filter(|place| *place < GPUS_MAX * MIG_STRIDE) {
            let (index, slot) = (place / MIG_STRIDE, place % MIG_STRIDE);
            let gpu = self.gpus.get(index).ok_or(invalid)?;
            let mig = gpu.mig.as_deref().and_then(|slices| slices.get(slot)).ok_or(invalid)?;
            return Ok(Target::Mig(index, gpu, mig));
        }
        let index = handle.checked_sub(GPU_HANDLES).ok_or(invalid)?;
        Ok(Target::Gpu(index, self.gpus.get(index).ok_or(invalid)?))
    }

    /// A whole GPU; what slices do not answer is refused.
    pub(crate) fn gpu(&self, handle: Handle) -> Result<&Gpu, Code> {
        match self.target(handle)? {
            Target::Gpu(_, gpu) => Ok(gpu),
            Target::Mig(..) => Err(Code::NOT_SUPPORTED),
        }
    }

    /// The place and the description of a whole GPU.
    pub(crate) fn gpu_at(&self, handle: Handle) -> Result<(usize, &Gpu), Code> {
        match self.target(handle)? {
            Target::Gpu(index, gpu) => Ok((index, gpu)),
            Target::Mig(..) => Err(Code::INVALID_ARGUMENT),
        }
    }

    /// The handle of a GPU that answers.
    pub(crate) fn handle(&self, index: usize) -> Result<Handle, Code> {
        self.usable(self.gpus.get(index).ok_or(Code::INVALID_ARGUMENT)?)?;
        Ok(Handle(GPU_HANDLES + index))
    }
}

/// The handle of a GPU, whatever its state.
pub(crate) const fn gpu_handle(index: usize) -> Handle {
    Handle(GPU_HANDLES + index)
}

/// The handle of a slice.
pub(crate) const fn mig_handle(gpu: usize, slot: usize) -> Handle {
    Handle(MIG_HANDLES + gpu * MIG_STRIDE + slot)
}

/// One call of the library: counted, delayed and failed as the scenario wants, then done.
pub(crate) fn call(function: &'static str, work: impl FnOnce(&Driver) -> Answer) -> sys::nvmlReturn_t {
    returned(run(function, work))
}

fn run(function: &'static str, work: impl FnOnce(&Driver) -> Answer) -> Answer {
    let opened = with_state(|state| {
        *state.calls.entry(function).or_default() += 1;
        state.opened > 0
    });
    let opens = function == "nvmlInit_v2" || function == "nvmlInitWithFlags";
    if !opened && !opens {
        return Err(Code::UNINITIALIZED);
    }
    let mut driver = Driver::look(function).ok_or(Code::DRIVER_NOT_LOADED)?;
    if let Some(latency) = driver.scenario.latency_us.get(function).or(driver.scenario.latency_us.get("*")) {
        sleep(Duration::from_micros(*latency));
    }
    loop {
        let waits = driver.scenario.hangs.iter().filter_map(|hang| hang.wait(function, driver.since_load));
        let wait = waits.max().unwrap_or_default();
        if wait.is_zero() {
            break;
        }
        sleep(wait.min(LOOK_AGAIN));
        driver = Driver::look(function).ok_or(Code::DRIVER_NOT_LOADED)?;
    }
    let fault = driver.scenario.faults.get(function).or(driver.scenario.faults.get("*"));
    fault.map_or(Ok(()), |code| Err(Code(*code)))?;
    work(&driver)
}
