//! What the driver writes into the kernel's log and tells nobody else: GPUs that fell off the bus without an event, and the
//! XIDs of products and drivers that have no events.
//!
//! Only new lines are read. Where this program may not read the log there is nothing to be heard, and nothing is wrong.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::{debug, warn};

use super::ledger::Ledger;

/// Where Linux has it: one record per read.
pub(super) const KERNEL_LOG: &str = "/dev/kmsg";
/// Linux' flag: a read that finds nothing new comes back.
const O_NONBLOCK: i32 = 0o4000;
/// Between two looks; what cannot wait comes as an event.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The longest record that the kernel writes.
const RECORD_MAX: usize = 8 * 1024;
/// Records of one look: a flood is read on at the next one.
const RECORDS_MAX: usize = 1_024;

/// Where a device is plugged in: domain, bus and slot. Its function is always the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32, u32, u32);

impl Slot {
    /// From `0000:19:00` or `00000000:19:00.0`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let number = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
        let (domain, bus) = (number(parts.next())?, number(parts.next())?);
        let slot = number(parts.next()?.split('.').next())?;
        parts.next().is_none().then_some(Self(domain, bus, slot))
    }
}

/// What a line of the driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Xid(Slot, u32),
    /// It is not on the bus any more.
    Gone(Slot),
}

/// Reads `NVRM: Xid (PCI:0000:19:00): 79, ...` and `NVRM: GPU at PCI:0000:19:00 has fallen off the bus`; all else is none.
pub(super) fn line(record: &str) -> Option<Line> {
    // Before the text: level, number, time and flags.
    let text = record.split_once(';')?.1.lines().next()?;
    let said = text.split_once("NVRM: ")?.1;
    if let Some(xid) = said.strip_prefix("Xid (PCI:") {
        let (slot, rest) = xid.split_once("): ")?;
        let code = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        return Some(Line::Xid(Slot::parse(slot)?, code.parse().ok()?));
    }
    if !said.contains("fallen off the bus") {
        return None;
    }
    let slot = said
        .split_once("PCI:")
        .map_or_else(|| said.split_once("GPU ").map(|(_, rest)| rest), |(_, rest)| Some(rest));
    let end = |c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.');
    Slot::parse(slot?.split(end).next()?.trim_end_matches(['.', ':'])).map(Line::Gone)
}

/// The reading thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct KernelLog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KernelLog {
    /// Reads what comes from now on, and enters it into the ledger; `None`: the log is not ours to read.
    pub(super) fn start(path: &Path, ledger: Arc<Ledger>) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
        let mut log = match opened {
            Ok(log) => log,
            Err(error) => {
                debug!(%error, "the kernel's log is not read: XIDs come as events only");
                return Ok(None);
            }
        };
        log.seek(SeekFrom::End(0))?;
        let (stop, stopped) = bounded(0);
        let reader = std::thread::Builder::new().name("aya-gpu-klog".to_owned());
        let thread = reader.spawn(move || follow(log, &ledger, &stopped))?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.stop = None;
        // It never waits for the driver, and notices within a look.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(mut log: File, ledger: &Ledger, stopped: &Receiver<()>) {
    let mut record = vec![0; RECORD_MAX];
    while matches!(stopped.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Timeout)) {
        for _ in 0..RECORDS_MAX {
            match log.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    enter(&String::from_utf8_lossy(record.get(..length).unwrap_or_default()), ledger);
                }
                // EPIPE: older records than the next one were overwritten before they were read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    warn!(%error, "the kernel's log cannot be read any more: XIDs come as events only");
                    return;
                }
            }
        }
    }
}

fn enter(records: &str, ledger: &Ledger) {
    // One record per read; a plain file, as tests have it, gives several.
    for said in records.split('\n').filter_map(line) {
        match said {
            Line::Xid(slot, code) => ledger.logged_xid(slot, code),
            Line::Gone(slot) => ledger.logged_loss(slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_lines_are_understood_and_all_others_are_passed_over() {
        let at = Slot(0, 0x19, 0);
        for (text, expect) in [
            (
                "NVRM: Xid (PCI:0000:19:00): 79, pid=1234, name=python3, GPU has fallen off the bus.",
                Some(Line::Xid(at, 79)),
            ),
            (
                "NVRM: Xid (PCI:0000:19:00): 119, Timeout after 45s of waiting for RPC response",
                Some(Line::Xid(at, 119)),
            ),
            ("NVRM: Xid (PCI:00000000:19:00): 74", Some(Line::Xid(at, 74))),
            (
                "NVRM: Xid (PCI:0001:AF:00): 48, pid='<unknown>', name=<unknown>",
                Some(Line::Xid(Slot(1, 0xaf, 0), 48)),
            ),
            ("NVRM: GPU at PCI:0000:19:00: GPU-1234 has fallen off the bus", Some(Line::Gone(at))),
            ("NVRM: GPU 0000:19:00.0: GPU has fallen off the bus.", Some(Line::Gone(at))),
            (
                "NVRM: The NVIDIA GPU 0000:19:00.0 (PCI ID: 10de:2330) has fallen off the bus and is not responding",
                Some(Line::Gone(at)),
            ),
            ("NVRM: Xid (PCI:0000:19): 79", None),
            ("NVRM: Xid (PCI:0000:19:00): none", None),
            ("NVRM: Xid (PCI:0000:19:00): 99999999999", None),
            ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  590.48", None),
            ("usb 1-1: device has fallen off the bus", None),
            ("", None),
        ] {
            let record = format!("4,1185,5140900,-;{text}");
            assert_eq!(line(&record), expect, "{text}");
        }
        assert_eq!(line("NVRM: Xid (PCI:0000:19:00): 79"), None, "no record of the kernel");
    }
}
