//! Records what the GPUs of this machine say, and what asking them costs; `cargo xtask hardware` runs it.
//!
//! `record OUT_DIR STATE SECONDS [NVML_LIB]` reads once a second and writes `OUT_DIR/GPU-DRIVER-STATE.json`, UUIDs made
//! anonymous. Exit status: 0 written, 1 failed, 2 wrong arguments, 3 there is no NVIDIA driver here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aya_domain::MonoTime;
use aya_gpu::{GpuError, NvmlSource, Recording, Tell};
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use serde_json::{Value, json};

/// Between two readings, as the agent reads by default.
const PERIOD: Duration = Duration::from_secs(1);
/// How often each call is timed, and the pause before: drivers answer a repeated question from a cache.
const ROUNDS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);
const NO_DRIVER: u8 = 3;

struct Args {
    out: PathBuf,
    state: String,
    seconds: u32,
    lib: Option<PathBuf>,
}

fn args() -> Option<Args> {
    let mut words = std::env::args().skip(1);
    let (out, state) = (PathBuf::from(words.next()?), words.next()?);
    let seconds = words.next()?.parse().ok().filter(|seconds| (1..=3_600).contains(seconds))?;
    Some(Args { out, state, seconds, lib: words.next().map(PathBuf::from) })
}

#[expect(clippy::disallowed_methods, reason = "a measurement of this machine: its clock is what is wanted")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a program of its own with nothing else to do")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

fn main() -> ExitCode {
    let Some(args) = args() else {
        say("usage: record OUT_DIR STATE SECONDS [NVML_LIB], 1 to 3600 seconds");
        return ExitCode::from(2);
    };
    match record(&args) {
        Ok(written) => {
            say(&format!("written: {}", written.display()));
            ExitCode::SUCCESS
        }
        Err(Failure::Gpus(error @ (GpuError::NoLibrary(_) | GpuError::DriverNotLoaded))) => {
            say(&error.to_string());
            ExitCode::from(NO_DRIVER)
        }
        Err(Failure::Gpus(error)) => failed(&error.to_string()),
        Err(Failure::Other(error)) => failed(&error),
    }
}

fn failed(error: &str) -> ExitCode {
    say(error);
    ExitCode::FAILURE
}

fn say(line: &str) {
    // Nothing useful can be done about a closed stderr.
    let _ = writeln!(std::io::stderr().lock(), "record: {line}");
}

enum Failure {
    Gpus(GpuError),
    Other(String),
}

fn record(args: &Args) -> Result<PathBuf, Failure> {
    let mut source = NvmlSource::new(args.lib.clone(), Tell::nobody());
    let begun = now();
    let mut last = begun;
    let mut took = Vec::new();
    let wait = |tick: u32| {
        // What has passed since the last wait went into one reading; before the first, into the discovery.
        took.push(last.elapsed());
        if tick > 0 {
            sleep((PERIOD * tick).saturating_sub(begun.elapsed()));
        }
        last = now();
        MonoTime::from_millis(u64::from(tick) * 1_000)
    };
    let recording = Recording::of(&mut source, PERIOD, args.seconds, wait).map_err(Failure::Gpus)?;
    drop(source);
    let (discovery, readings) = took.split_first().map_or((None, [].as_slice()), |(d, r)| (Some(d), r));
    let name = recording.gpus.first().map_or("no gpu", |gpu| gpu.name.as_str()).to_owned();
    let driver = recording.driver_version.clone().unwrap_or_else(|| "unknown".to_owned());
    let library =
        args.lib.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let about = json!({
        "state": args.state,
        "gpu": name,
        "gpus": recording.gpus.len(),
        "library": library.unwrap_or_else(|| "the system's".to_owned()),
        "discovery_us": discovery.map(|d| micros(*d)),
        "reading_of_all_gpus_us": spread(readings),
        "calls_us": calls(args.lib.as_deref()).map_err(|error| Failure::Other(error.to_string()))?,
    });
    let file = format!("{}-{}-{}.json", slug(&name), slug(&driver), slug(&args.state));
    let path = args.out.join(file);
    let text = Recording { about, ..recording }.anonymous().to_json();
    let written = std::fs::create_dir_all(&args.out).and_then(|()| std::fs::write(&path, text));
    written.map_err(|error| Failure::Other(format!("{}: {error}", path.display())))?;
    Ok(path)
}

/// A name of a file: small letters, digits, dots and hyphens.
fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    text.chars().map(plain).collect::<String>().trim_matches('-').to_owned()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Median and slowest, in microseconds.
fn spread(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).map(|time| micros(*time));
    json!({"median": median, "slowest": sorted.last().map(|time| micros(*time))})
}

type Call = fn(&Device<'_>) -> Result<(), NvmlError>;

/// The driver calls of a reading and the expensive ones beside it, by their names in NVML.
const CALLS: [(&str, Call); 12] = [
    ("nvmlDeviceGetMemoryInfo_v2", |d| d.memory_info().map(drop)),
    ("nvmlDeviceGetUtilizationRates", |d| d.utilization_rates().map(drop)),
    ("nvmlDeviceGetTemperature", |d| d.temperature(TemperatureSensor::Gpu).map(drop)),
    ("nvmlDeviceGetPowerUsage", |d| d.power_usage().map(drop)),
    ("nvmlDeviceGetClockInfo", |d| d.clock_info(Clock::SM).map(drop)),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", |d| d.current_throttle_reasons().map(drop)),
    ("nvmlDeviceGetFieldValues", |d| {
        d.field_values_for(&[82, 83, 143, 144, 145, 230, 74, 75, 94].map(FieldId)).map(drop)
    }),
    ("nvmlGpmSampleGet", |d| d.gpm_sample().map(drop)),
    ("nvmlDeviceGetTotalEccErrors", |d| {
        d.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).map(drop)
    }),
    ("nvmlDeviceGetComputeRunningProcesses_v3", |d| d.running_compute_processes().map(drop)),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", |d| d.mps_running_compute_processes().map(drop)),
    ("nvmlDeviceGetCurrPcieLinkGeneration", |d| d.current_pcie_link_gen().map(drop)),
];

/// What each call costs on the first device; what it refuses is named.
fn calls(lib: Option<&Path>) -> Result<Value, NvmlError> {
    let mut builder = Nvml::builder();
    if let Some(lib) = lib {
        builder.lib_path(lib.as_os_str());
    }
    let nvml = builder.init()?;
    let device = nvml.device_by_index(0)?;
    let mut times = vec![Ok(Vec::new()); CALLS.len()];
    for _ in 0..ROUNDS {
        sleep(PAUSE);
        for ((_, call), times) in CALLS.iter().zip(&mut times) {
            let begun = now();
            match (call(&device), &mut *times) {
                (Ok(()), Ok(times)) => times.push(begun.elapsed()),
                // Its text names the library's path.
                (Err(NvmlError::FailedToLoadSymbol(_)), times) => *times = Err("no such function".to_owned()),
                (Err(error), times) => *times = Err(error.to_string()),
                (Ok(()), Err(_)) => {}
            }
        }
    }
    let told = |((name, _), times): (&(&str, Call), Result<Vec<Duration>, String>)| {
        let told = times.map_or_else(|error| json!({"refused": error}), |times| spread(&times));
        ((*name).to_owned(), told)
    };
    Ok(Value::Object(CALLS.iter().zip(times).map(told).collect()))
}
