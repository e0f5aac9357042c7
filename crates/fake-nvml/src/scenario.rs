//! What a scenario file says: a driver, its GPUs, what goes wrong, and when.
//!
//! Unknown keys are errors. Every key has a default, taken from an H100 that serves a model, so that a scenario
//! names only what it is about. `gpu_defaults` is merged under every GPU; `timeline` changes GPUs as time passes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

mod gpu;

pub use gpu::{Gpu, MemoryMib, Mig, Process};

/// GPUs of one scenario, and MIG slices of one GPU: handles leave this much room.
pub const GPUS_MAX: usize = 64;
/// Longest scenario file, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// For its readers; the library ignores it.
    #[serde(rename = "about")]
    _about: String,
    driver_version: String,
    nvml_version: String,
    cuda_version: i32,
    faults: BTreeMap<String, u32>,
    latency_us: BTreeMap<String, u64>,
    hangs: Vec<Hang>,
    gpu_defaults: Value,
    gpus: Vec<Value>,
    timeline: Vec<Step>,
    events: Vec<Event>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            _about: String::new(),
            driver_version: "590.48.01".to_owned(),
            nvml_version: "13.590.48.01".to_owned(),
            cuda_version: 13_010,
            faults: BTreeMap::new(),
            latency_us: BTreeMap::new(),
            hangs: Vec::new(),
            gpu_defaults: Value::Object(serde_json::Map::new()),
            gpus: Vec::new(),
            timeline: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// A function that does not come back before a moment has passed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// The exported name, or `*` for all of them.
    pub function: String,
    /// Since the scenario was loaded.
    pub from_ms: u64,
    pub for_ms: u64,
}

impl Hang {
    /// How long a call made `since_load` has to wait.
    #[must_use]
    pub fn wait(&self, function: &str, since_load: Duration) -> Option<Duration> {
        let from = Duration::from_millis(self.from_ms);
        let until = from + Duration::from_millis(self.for_ms);
        let here = self.function == "*" || self.function == function;
        (here && since_load >= from).then(|| until.saturating_sub(since_load))
    }
}

/// A change of one GPU at a moment: what to merge into its description.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: u64,
    /// Which GPU; absent: all of them.
    gpu: Option<usize>,
    set: Value,
}

/// An event that the driver raises.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Since the scenario was loaded.
    pub at_ms: u64,
    pub gpu: usize,
    /// NVML's bit; 8 is a critical XID.
    #[serde(default = "critical_xid")]
    pub kind: u64,
    /// The XID, for a critical one.
    #[serde(default)]
    pub data: u64,
    /// All ones: the whole GPU.
    #[serde(default = "whole_gpu")]
    pub gi: u32,
    #[serde(default = "whole_gpu")]
    pub ci: u32,
}

const fn critical_xid() -> u64 {
    8
}

const fn whole_gpu() -> u32 {
    u32::MAX
}

/// The GPUs from a moment on.
#[derive(Debug)]
struct Stage {
    from: Duration,
    gpus: Arc<Vec<Gpu>>,
}

/// A scenario that holds together.
#[derive(Debug)]
pub struct Scenario {
    pub driver_version: String,
    pub nvml_version: String,
    pub cuda_version: i32,
    /// What a function of this name answers instead of doing its work.
    pub faults: BTreeMap<String, u32>,
    pub latency_us: BTreeMap<String, u64>,
    pub hangs: Vec<Hang>,
    pub events: Vec<Event>,
    /// By their beginning; the first begins at zero.
    stages: Vec<Stage>,
}

impl Scenario {
    /// Reads a scenario; `functions` are the names that it may use.
    ///
    /// # Errors
    /// What is wrong with it, for the person who wrote it.
    pub fn parse(text: &str, functions: &[&str]) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.gpus.len() > GPUS_MAX {
            return Err(format!("{} GPUs, at most {GPUS_MAX} fit", file.gpus.len()));
        }
        let known = |name: &String| name == "*" || functions.contains(&name.as_str());
        let named = file.faults.keys().chain(file.latency_us.keys());
        let hanging = file.hangs.iter().map(|hang| &hang.function);
        if let Some(name) = named.chain(hanging).find(|name| !known(name)) {
            return Err(format!("no function {name:?} here"));
        }
        if let Some(event) = file.events.iter().find(|event| event.gpu >= file.gpus.len()) {
            return Err(format!("an event of GPU {}, which is not there", event.gpu));
        }
        let stages = stages(&file)?;
        let per_gpu = stages.iter().flat_map(|stage| stage.gpus.iter()).flat_map(|gpu| gpu.faults.keys());
        if let Some(name) = per_gpu.into_iter().find(|name| !known(name)) {
            return Err(format!("no function {name:?} here"));
        }
        Ok(Self {
            driver_version: file.driver_version,
            nvml_version: file.nvml_version,
            cuda_version: file.cuda_version,
            faults: file.faults,
            latency_us: file.latency_us,
            hangs: file.hangs,
            events: file.events,
            stages,
        })
    }

    /// How long nothing happens by itself after this moment: until the next event or the next step.
    #[must_use]
    pub fn quiet_for(&self, since_load: Duration) -> Duration {
        let events = self.events.iter().map(|event| Duration::from_millis(event.at_ms));
        let coming = events.chain(self.stages.iter().map(|stage| stage.from)).filter(|at| *at > since_load);
        coming.min().map_or(Duration::MAX, |at| at.saturating_sub(since_load))
    }

    /// The GPUs as they are this long after loading.
    #[must_use]
    pub fn gpus(&self, since_load: Duration) -> Arc<Vec<Gpu>> {
        let stage = self.stages.iter().rev().find(|stage| stage.from <= since_load);
        stage.map_or_else(|| Arc::new(Vec::new()), |stage| Arc::clone(&stage.gpus))
    }
}

/// The GPUs at the start and after every step of the timeline.
fn stages(file: &File) -> Result<Vec<Stage>, String> {
    let mut now = Vec::with_capacity(file.gpus.len());
    for gpu in &file.gpus {
        let mut merged = file.gpu_defaults.clone();
        merge(&mut merged, gpu);
        now.push(merged);
    }
    let mut stages = vec![stage(0, &now)?];
    let mut steps: Vec<&Step> = file.timeline.iter().collect();
    steps.sort_by_key(|step| step.at_ms);
    for step in steps {
        let changed = match step.gpu {
            None => now.as_mut_slice(),
            Some(index) => now
                .get_mut(index..=index)
                .ok_or_else(|| format!("a step for GPU {index}, which is not there"))?,
        };
        changed.iter_mut().for_each(|gpu| merge(gpu, &step.set));
        stages.push(stage(step.at_ms, &now)?);
    }
    Ok(stages)
}

fn stage(from_ms: u64, described: &[Value]) -> Result<Stage, String> {
    let read = |(index, gpu): (usize, &Value)| {
        let mut gpu =
            Gpu::deserialize(gpu).map_err(|error| format!("GPU {index} at {from_ms} ms: {error}"))?;
        gpu.name_by(index);
        if gpu.mig.as_ref().is_some_and(|slices| slices.len() > GPUS_MAX) {
            return Err(format!("GPU {index}: at most {GPUS_MAX} slices fit"));
        }
        Ok(gpu)
    };
    let gpus = described.iter().enumerate().map(read).collect::<Result<Vec<_>, String>>()?;
    Ok(Stage { from: Duration::from_millis(from_ms), gpus: Arc::new(gpus) })
}

/// Objects are merged key by key, anything else replaces. Null is a value ("this product does not have it"), which
/// is why this is not quite JSON merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        merge(target.entry(key.clone()).or_insert(Value::Null), value);
    }
}

#[cfg(test)]
mod tests;
