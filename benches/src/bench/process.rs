//! Processes under measurement: started on a core of their own, their CPU time and memory read from /proc.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

/// The core of what is measured; everything else shares the other.
pub(crate) const MEASURED_CORE: &str = "1";
pub(crate) const OTHER_CORE: &str = "0";

/// How long a process may take to end when asked.
const END_MAX: Duration = Duration::from_secs(5);

/// One process, ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: u32,
}

/// A command on one core.
pub(crate) fn pinned(core: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core).arg(program).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// This very program on the core of the other side.
pub(crate) fn helper(args: &[&str]) -> Result<Command> {
    let mut command = pinned(OTHER_CORE, std::env::current_exe()?);
    command.args(args);
    Ok(command)
}

/// The release binary of Aya beside this one.
pub(crate) fn aya() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let aya = here.parent().unwrap_or(Path::new(".")).join("aya");
    if aya.exists() {
        Ok(aya)
    } else {
        bail!("{} is missing: cargo build --release -p aya-cli", aya.display())
    }
}

impl Process {
    /// Starts it, with its output in a file of `dir`.
    pub(crate) fn start(mut command: Command, dir: &Path, name: &str) -> Result<Self> {
        let log = fs::File::create(dir.join(format!("{name}.log")))?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().context("it ended at once")?;
        Ok(Self { child, pid })
    }

    /// Asks it to end, and makes it.
    pub(crate) async fn stop(mut self) {
        let all = family(self.pid);
        for pid in &all {
            signal(*pid, Signal::TERM);
        }
        if timeout(END_MAX, self.child.wait()).await.is_err() {
            for pid in &all {
                signal(*pid, Signal::KILL);
            }
            // It has been killed; there is nothing left to be told.
            let _ = self.child.wait().await;
        }
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Seconds of CPU that it and its children took so far.
    pub(crate) fn cpu_s(&self) -> f64 {
        family(self.pid).into_iter().map(cpu_s).sum()
    }

    /// MiB of memory that it and its children hold.
    pub(crate) fn rss_mib(&self) -> f64 {
        family(self.pid).into_iter().filter_map(rss_mib).sum()
    }

    /// Its exit, if it is over.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // A process that is gone needs no signal.
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// Seconds of CPU of the calling process.
pub(crate) fn own_cpu_s() -> f64 {
    cpu_s(std::process::id())
}

/// A process and its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut all, mut open) = (Vec::new(), vec![root]);
    while let Some(pid) = open.pop() {
        all.push(pid);
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    all
}

/// Exact to the nanosecond, unlike the clock ticks of `stat`; all measured programs keep their threads.
fn cpu_s(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let on_cpu = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(on_cpu).sum()).as_secs_f64()
}

fn rss_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u32 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

/// Seconds of CPU that the whole machine spent on work, and that its host took away.
pub(crate) fn machine_busy_s() -> f64 {
    /// What /proc/stat counts in.
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    // user nice system (idle iowait) irq softirq steal
    let busy = |at: usize| ticks.get(at).copied().unwrap_or(0.0);
    [0, 1, 2, 5, 6, 7].into_iter().map(busy).sum::<f64>() / TICKS_PER_S
}

/// A pause of the measurement.
pub(crate) async fn pause(wait: Duration) {
    sleep_until(Instant::now() + wait).await;
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// As many different ones: all are held until the last is known, or the kernel would name one twice.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    held.iter().map(|one| Ok(one.local_addr()?.port())).collect()
}
