//! Readings of a real machine in a file: what `cargo xtask hardware` writes and the recorded source plays.
//!
//! One JSON object: where it was read, the GPUs, and one list of readings per tick. An absent reading is an absent key; a
//! key that is not known, or a value that its type cannot hold, is an error that names it. UUIDs are made anonymous.

use std::path::Path;
use std::time::Duration;

use aya_domain::{
    Bytes, Celsius, GpuInfo, GpuSample, GpuUuid, MigSlice, Milliwatts, MonoTime, PcieLink, Ratio,
};
use serde_json::{Map, Value, json};

use crate::{GpuError, GpuSource};

/// Largest recording that is read, in bytes: an hour of eight GPUs is some 25 MB.
pub const RECORDING_BYTES_MAX: u64 = 64 << 20;

/// What one machine said over some time.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// For its readers: the machine, what ran on it, what the calls cost. Not played.
    pub about: Value,
    pub driver_version: Option<String>,
    pub gpus: Vec<GpuInfo>,
    /// Between two ticks.
    pub period: Duration,
    /// The readings of each tick.
    pub ticks: Vec<Vec<(GpuUuid, GpuSample)>>,
}

/// Why a text is no recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct RecordingError {
    /// The place, such as `ticks[3]`.
    pub at: String,
    pub problem: String,
}

fn wrong(at: impl Into<String>, problem: impl Into<String>) -> RecordingError {
    RecordingError { at: at.into(), problem: problem.into() }
}

/// A value of one field, as JSON.
trait Plain: Sized {
    fn to_json(self) -> Value;
    fn from_json(value: &Value) -> Option<Self>;
}

macro_rules! plain {
    ($($type:ty: |$v:ident| $to:expr, |$json:ident| $from:expr;)+) => {
        $(impl Plain for $type {
            fn to_json(self) -> Value {
                let $v = self;
                json!($to)
            }
            fn from_json($json: &Value) -> Option<Self> {
                $from
            }
        })+
    };
}

plain! {
    u64: |v| v, |json| json.as_u64();
    u32: |v| v, |json| u32::try_from(json.as_u64()?).ok();
    bool: |v| v, |json| json.as_bool();
    Bytes: |v| v.get(), |json| json.as_u64().map(Bytes);
    Milliwatts: |v| v.get(), |json| json.as_u64().map(Milliwatts);
    Celsius: |v| v.0, |json| i32::try_from(json.as_i64()?).ok().map(Celsius);
    Ratio: |v| v.get(), |json| Ratio::new(json.as_f64()?).ok();
    Duration: |v| u64::try_from(v.as_nanos()).unwrap_or(u64::MAX), |json| json.as_u64().map(Duration::from_nanos);
    PcieLink: |v| [v.generation, v.lanes, v.generation_max, v.lanes_max], |json| {
        let list: Vec<u32> = json.as_array()?.iter().filter_map(u32::from_json).collect();
        let [generation, lanes, generation_max, lanes_max] = list.try_into().ok()?;
        Some(PcieLink { generation, lanes, generation_max, lanes_max })
    };
}

/// The fields of a reading, one name each in the file and in the type; a field that is missing here does not compile.
macro_rules! sample_fields {
    ($($field:ident),+ $(,)?) => {
        fn sample_to_json(uuid: &GpuUuid, sample: GpuSample) -> Value {
            let GpuSample { $($field),+ } = sample;
            let mut map = Map::new();
            map.insert("gpu".to_owned(), json!(uuid.as_str()));
            $(if let Some(value) = $field {
                map.insert(stringify!($field).to_owned(), value.to_json());
            })+
            Value::Object(map)
        }

        fn sample_from_json(at: &str, value: &Value) -> Result<(GpuUuid, GpuSample), RecordingError> {
            let map = value.as_object().ok_or_else(|| wrong(at, "is not an object"))?;
            let mut sample = GpuSample::default();
            for (key, value) in map {
                let bad = || wrong(format!("{at}.{key}"), "has no value of its kind");
                match key.as_str() {
                    "gpu" => {}
                    $(stringify!($field) => sample.$field = Some(Plain::from_json(value).ok_or_else(bad)?),)+
                    _ => return Err(wrong(format!("{at}.{key}"), "is not known")),
                }
            }
            Ok((uuid(at, map.get("gpu"))?, sample))
        }
    };
}

sample_fields!(
    vram_used,
    vram_free,
    busy,
    memory_busy,
    temperature,
    power,
    energy_millijoules,
    sm_clock_mhz,
    memory_clock_mhz,
    clock_event_reasons,
    memory_temperature,
    thermal_margin,
    ecc_corrected,
    ecc_uncorrected,
    rows_remapped,
    row_remap_pending,
    row_remap_failed,
    recovery_action,
    xids,
    last_xid,
    sm_active,
    sm_occupancy,
    tensor_active,
    dram_active,
    throttled_thermal,
    throttled_power,
    pcie_tx_bytes_per_second,
    pcie_rx_bytes_per_second,
    nvlink_tx_bytes_per_second,
    nvlink_rx_bytes_per_second,
    pcie_replays,
    pcie_link,
    pages_retired,
    page_retirement_pending,
    nvlink_errors,
    nvlinks_active,
);

fn uuid(at: &str, value: Option<&Value>) -> Result<GpuUuid, RecordingError> {
    let text = value.and_then(Value::as_str).ok_or_else(|| wrong(at, "names no gpu"))?;
    GpuUuid::parse(text).map_err(|error| wrong(at, format!("the gpu {text:?}: {error}")))
}

fn info_to_json(info: &GpuInfo) -> Value {
    json!({
        "gpu": info.uuid.as_str(),
        "name": info.name,
        "vram_total": info.vram_total.map(Plain::to_json),
        "power_limit": info.power_limit.map(Plain::to_json),
        "sm_clock_max_mhz": info.sm_clock_max_mhz,
        "slowdown_margin": info.slowdown_margin.map(Plain::to_json),
        "mig": info.mig.as_ref().map(|mig| json!({
            "parent": mig.parent.as_str(), "gpu_instance": mig.gpu_instance, "compute_instance": mig.compute_instance,
        })),
    })
}

fn info_from_json(at: &str, value: &Value) -> Result<GpuInfo, RecordingError> {
    let present = |value: &Value, key: &str| value.get(key).filter(|value| !value.is_null()).cloned();
    fn field<T: Plain>(at: &str, value: Option<Value>) -> Result<Option<T>, RecordingError> {
        value
            .map(|value| T::from_json(&value).ok_or_else(|| wrong(at, "has no value of its kind")))
            .transpose()
    }
    let number = |value: &Value, key: &str| -> Result<u32, RecordingError> {
        field(&format!("{at}.{key}"), present(value, key))?
            .ok_or_else(|| wrong(format!("{at}.{key}"), "is missing"))
    };
    let mig = present(value, "mig").map(|mig| {
        Ok(MigSlice {
            parent: uuid(&format!("{at}.mig"), mig.get("parent"))?,
            gpu_instance: number(&mig, "gpu_instance")?,
            compute_instance: number(&mig, "compute_instance")?,
        })
    });
    let name = value.get("name").and_then(Value::as_str).ok_or_else(|| wrong(at, "has no name"))?;
    Ok(GpuInfo {
        uuid: uuid(at, value.get("gpu"))?,
        name: name.to_owned(),
        vram_total: field(&format!("{at}.vram_total"), present(value, "vram_total"))?,
        power_limit: field(&format!("{at}.power_limit"), present(value, "power_limit"))?,
        sm_clock_max_mhz: field(&format!("{at}.sm_clock_max_mhz"), present(value, "sm_clock_max_mhz"))?,
        slowdown_margin: field(&format!("{at}.slowdown_margin"), present(value, "slowdown_margin"))?,
        mig: mig.transpose()?,
    })
}

impl Recording {
    /// The text of the file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let tick = |tick: &Vec<(GpuUuid, GpuSample)>| -> Value {
            tick.iter().map(|(uuid, sample)| sample_to_json(uuid, *sample)).collect()
        };
        let value = json!({
            "about": self.about,
            "driver_version": self.driver_version,
            "gpus": self.gpus.iter().map(info_to_json).collect::<Vec<_>>(),
            "period_ms": u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX),
            "ticks": self.ticks.iter().map(tick).collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }

    /// Reads a source: `wait` is called before each of `ticks` readings and says when it is.
    ///
    /// # Errors
    /// [`GpuError`] if the source cannot be read, not even once.
    pub fn of(
        source: &mut dyn GpuSource,
        period: Duration,
        ticks: u32,
        mut wait: impl FnMut(u32) -> MonoTime,
    ) -> Result<Self, GpuError> {
        let gpus = source.discover()?.items;
        let ticks = (0..ticks).map(|tick| source.sample(wait(tick)).map(|read| read.items));
        let ticks = ticks.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { about: Value::Null, driver_version: source.driver_version(), gpus, period, ticks })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`GpuError::Recording`] names the file, and the place in it that is wrong.
    pub fn read(path: &Path) -> Result<Self, GpuError> {
        let read = || {
            let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
            if length > RECORDING_BYTES_MAX {
                return Err(format!("{length} bytes, at most {RECORDING_BYTES_MAX} are read"));
            }
            let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
            Self::parse(&text).map_err(|error| error.to_string())
        };
        read().map_err(|error| GpuError::Recording(format!("{}: {error}", path.display())))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`RecordingError`] names the first place that is wrong.
    pub fn parse(text: &str) -> Result<Self, RecordingError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong("the file", error.to_string()))?;
        let list = |key: &str| {
            value.get(key).and_then(Value::as_array).ok_or_else(|| wrong(key, "is not there or no list"))
        };
        let gpus =
            (0..).zip(list("gpus")?).map(|(at, gpu): (u32, _)| info_from_json(&format!("gpus[{at}]"), gpu));
        let tick = |(at, tick): (u32, &Value)| {
            let at = format!("ticks[{at}]");
            let samples = tick.as_array().ok_or_else(|| wrong(&at, "is no list"))?;
            samples.iter().map(|sample| sample_from_json(&at, sample)).collect::<Result<Vec<_>, _>>()
        };
        let ticks = (0..).zip(list("ticks")?).map(tick).collect::<Result<Vec<_>, _>>()?;
        let period_ms = value.get("period_ms").and_then(Value::as_u64).filter(|ms| *ms > 0);
        let recording = Self {
            about: value.get("about").cloned().unwrap_or(Value::Null),
            driver_version: value.get("driver_version").and_then(Value::as_str).map(str::to_owned),
            gpus: gpus.collect::<Result<Vec<_>, _>>()?,
            period: Duration::from_millis(
                period_ms.ok_or_else(|| wrong("period_ms", "is not a number above 0"))?,
            ),
            ticks,
        };
        if recording.gpus.is_empty() || recording.ticks.is_empty() {
            return Err(wrong("the file", "holds no gpu or no reading"));
        }
        Ok(recording)
    }

    /// The same with made-up UUIDs, in the order of the list.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        let known: Vec<GpuUuid> = self.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let parents: Vec<GpuUuid> =
            self.gpus.iter().filter_map(|gpu| gpu.mig.as_ref()).map(|mig| mig.parent.clone()).collect();
        let made = |prefix: &str, list: &[GpuUuid], uuid: &GpuUuid| {
            let at = list.iter().position(|known| known == uuid)?;
            GpuUuid::parse(&format!("{prefix}-00000000-0000-4000-8000-{at:012}")).ok()
        };
        let rename = |uuid: &mut GpuUuid| {
            let new = made("GPU", &known, uuid).or_else(|| made("GPU-parent", &parents, uuid));
            if let Some(new) = new {
                *uuid = new;
            }
        };
        for gpu in &mut self.gpus {
            rename(&mut gpu.uuid);
            if let Some(mig) = &mut gpu.mig {
                rename(&mut mig.parent);
            }
        }
        self.ticks.iter_mut().flatten().for_each(|(uuid, _)| rename(uuid));
        self
    }
}
