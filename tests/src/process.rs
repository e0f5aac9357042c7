//! One process under test: started with its output in files, killed when dropped, heard when a test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// Lines of a process's log that a failed test shows.
const TAIL: usize = 80;

/// The kernel's name of the state of a listening socket.
const TCP_LISTEN: &str = "0A";

/// What a process has open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Inodes.
    pub sockets: Vec<u64>,
    /// Files, timers, queues of events.
    pub others: usize,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Process {
    /// Starts `exe` with `args`; its output goes to files named after `name` in `dir`.
    #[must_use]
    pub fn start(exe: &str, dir: &Path, name: &str, args: &[String]) -> Self {
        Self::start_with(exe, dir, name, args, &[])
    }

    /// The same, with variables of its environment.
    #[must_use]
    pub fn start_with(exe: &str, dir: &Path, name: &str, args: &[String], env: &[(&str, &str)]) -> Self {
        let file = |kind: &str| {
            let path = dir.join(format!("{name}.{kind}"));
            (File::options().create(true).append(true).open(&path).unwrap(), path)
        };
        let ((out_file, out), (err_file, err)) = (file("out"), file("err"));
        let child = Command::new(exe)
            .args(args)
            .envs(env.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out_file)
            .stderr(err_file)
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), child, out, err }
    }

    /// Everything it wrote to stdout so far.
    #[must_use]
    pub fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    /// Everything it wrote to stderr so far; a restarted process of the same name continues the file.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// A number that the kernel tells of it.
    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect(field);
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The most memory it ever held, in bytes.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status("VmHWM") * 1024
    }

    /// The memory it holds now, in bytes.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.status("VmRSS") * 1024
    }

    /// How many threads it has.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn threads(&self) -> u64 {
        self.status("Threads")
    }

    /// How many files and sockets it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// What it has open, told apart; `None` if it has ended.
    #[must_use]
    pub fn descriptors(&self) -> Option<Descriptors> {
        let mut open = Descriptors::default();
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?;
        for entry in entries.flatten() {
            // Closed between the listing and this.
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            match target.strip_prefix("socket:[").and_then(|rest| rest.trim_end_matches(']').parse().ok()) {
                Some(inode) => open.sockets.push(inode),
                None => open.others += 1,
            }
        }
        Some(open)
    }

    /// Its connections with this local port, as the kernel counts them; listening sockets are none.
    #[must_use]
    pub fn connections_at(&self, port: u16) -> usize {
        let open = self.descriptors().unwrap_or_default();
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.child.id())).unwrap_or_default();
        let ours = table.lines().skip(1).filter(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state, inode) = (words.next(), words.nth(1), words.nth(5));
            let at =
                local.and_then(|a| a.rsplit_once(':')).and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
            let is_open = state.is_some_and(|state| state != TCP_LISTEN);
            let inode = inode.and_then(|inode| inode.parse().ok());
            at == Some(port) && is_open && inode.is_some_and(|inode: u64| open.sockets.contains(&inode))
        });
        ours.count()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as an init system does.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Freezes it.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Exit {
        let what = format!("the end of {}", self.name);
        let status: ExitStatus =
            until(&what, async || self.child.try_wait().unwrap().ok_or("it still runs")).await;
        Exit { code: status.code(), out: self.out(), err: self.log() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
            eprintln!("--- stderr of {} ---\n{}", self.name, tail.join("\n"));
        }
    }
}
