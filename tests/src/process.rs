//! One process under test: started with its output in files, killed when dropped, heard when a test fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// Lines of a process's log that a failed test shows.
const TAIL: usize = 80;

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

    /// The most memory it ever held, in bytes.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many files and sockets it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
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
