//! GPUs as NVIDIA's driver sees them.
//!
//! Devices are named by UUID, because the order of the driver's list may change. MIG slices are GPUs of their own,
//! in place of the device they are cut from. "Not supported" is an absent reading; a lost GPU is trouble that the
//! others do not share.

mod activity;
mod board;
mod error;
mod events;
mod kernel_log;
mod ledger;
mod listener;
mod processes;
mod raw;
mod read;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use aya_domain::{GpuInfo, GpuSample, GpuSourceKind, GpuUuid, MonoTime};
use nvml_wrapper::Nvml;
use tracing::warn;

use self::board::{Board, describe_all};
use self::kernel_log::{KERNEL_LOG, KernelLog};
use self::ledger::Ledger;
use self::listener::Listener;
use crate::{Collected, GpuError, GpuHolders, GpuSource, Tell};

/// The driver of this host, opened at the first discovery and again after a failure that needs it.
pub struct NvmlSource {
    lib: Option<OsString>,
    nvml: Option<Nvml>,
    driver_version: Option<String>,
    boards: Vec<Board>,
    ledger: Arc<Ledger>,
    /// Begins with the first discovery that works.
    listener: Option<Listener>,
    /// The same; `None` as well where it is not ours to read.
    log: Option<KernelLog>,
    log_path: PathBuf,
    /// Devices that were there once and are not in the list any more: told until they are back.
    gone: BTreeSet<GpuUuid>,
    /// Of each board, why its last reading failed.
    failed: Vec<Option<GpuError>>,
    /// What was wrong at the last discovery.
    trouble: Option<String>,
    /// Why `nvml` is closed.
    closed_by: GpuError,
}

impl fmt::Debug for NvmlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvmlSource")
            .field("lib", &self.lib)
            .field("open", &self.nvml.is_some())
            .field("boards", &self.boards)
            .finish_non_exhaustive()
    }
}

impl NvmlSource {
    /// A source that loads NVML from this path, or from where the system has it, and tells at once what the driver
    /// tells. Nothing is opened yet.
    #[must_use]
    pub fn new(lib: Option<PathBuf>, tell: Tell) -> Self {
        Self {
            lib: lib.map(PathBuf::into_os_string),
            nvml: None,
            driver_version: None,
            boards: Vec::new(),
            ledger: Arc::new(Ledger::new(tell)),
            listener: None,
            log: None,
            log_path: PathBuf::from(KERNEL_LOG),
            gone: BTreeSet::new(),
            failed: Vec::new(),
            trouble: None,
            closed_by: GpuError::DriverNotLoaded,
        }
    }

    fn open(&mut self) -> Result<(), GpuError> {
        if self.nvml.is_some() {
            return Ok(());
        }
        let mut builder = Nvml::builder();
        if let Some(lib) = &self.lib {
            builder.lib_path(lib);
        }
        let nvml = builder.init().map_err(|e| self.ledger.failed(&e))?;
        self.driver_version = nvml.sys_driver_version().ok();
        self.nvml = Some(nvml);
        Ok(())
    }

    /// Gives the library back after a failure that a new start may heal.
    fn close_after(&mut self, error: GpuError) -> GpuError {
        if error.needs_reopen() {
            self.close();
        }
        self.closed_by = error.clone();
        error
    }

    fn close(&mut self) {
        if let Some(nvml) = &self.nvml {
            self.boards.iter_mut().for_each(|board| board.release(nvml));
        }
        self.nvml = None;
    }

    /// Puts the boards just found in the place of those known.
    fn replace(&mut self, mut found: Vec<Board>) {
        for board in &mut found {
            if let Some(before) = self.boards.iter_mut().find(|b| b.info.uuid == board.info.uuid) {
                board.take_over(before);
            }
        }
        if let Some(nvml) = &self.nvml {
            self.boards.iter_mut().for_each(|board| board.release(nvml));
        }
        self.gone.extend(self.boards.iter().map(|board| board.info.uuid.clone()));
        self.boards = found;
        self.failed = vec![None; self.boards.len()];
        for board in &self.boards {
            self.gone.remove(&board.info.uuid);
        }
        self.gone.iter().for_each(|uuid| self.ledger.lost(uuid));
        self.ledger.set_devices(self.boards.iter().map(Board::device).collect());
        self.listen();
    }

    fn listen(&mut self) {
        if self.listener.is_none() {
            match KernelLog::start(&self.log_path, Arc::clone(&self.ledger)) {
                Ok(log) => {
                    self.ledger.reads_log(log.is_some());
                    self.log = log;
                }
                Err(error) => warn!(%error, "the kernel's log is not read"),
            }
            match Listener::start(self.lib.clone(), Arc::clone(&self.ledger)) {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => warn!(%error, "xid events are not heard: no thread for them"),
            }
        }
    }
}

impl Drop for NvmlSource {
    fn drop(&mut self) {
        self.log = None;
        self.listener = None;
        self.close();
    }
}

impl GpuSource for NvmlSource {
    fn kind(&self) -> GpuSourceKind {
        GpuSourceKind::Nvml
    }

    fn driver_version(&self) -> Option<String> {
        self.driver_version.clone()
    }

    fn discover(&mut self) -> Result<Collected<GpuInfo>, GpuError> {
        if let Err(error) = self.open() {
            return Err(self.close_after(error));
        }
        let found = self.nvml.as_ref().ok_or(GpuError::NoGpus);
        let found = found.and_then(|nvml| describe_all(nvml, &self.ledger));
        match found {
            Ok(found) => {
                self.replace(found.items);
                let gone = self.gone.iter().map(|uuid| format!("{uuid}: not in the driver's list any more"));
                self.trouble = told(found.trouble.into_iter().chain(gone));
                let items = self.boards.iter().flat_map(Board::gpus).cloned().collect();
                Ok(Collected { items, trouble: self.trouble.clone() })
            }
            Err(error) => Err(self.close_after(error)),
        }
    }

    fn sample(&mut self, now: MonoTime) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        self.sample_some(0..self.boards.len(), now)
    }

    fn devices(&self) -> usize {
        self.boards.len()
    }

    fn sample_some(
        &mut self,
        devices: Range<usize>,
        _now: MonoTime,
    ) -> Result<Collected<(GpuUuid, GpuSample)>, GpuError> {
        let nvml = self.nvml.as_ref().ok_or_else(|| self.closed_by.clone())?;
        let mut items = Vec::with_capacity(devices.len());
        let boards = self.boards.iter_mut().zip(&mut self.failed);
        for (board, failed) in boards.take(devices.end).skip(devices.start) {
            let read = board.read(nvml, &self.ledger);
            *failed = read.as_ref().err().cloned();
            items.extend(read.unwrap_or_default());
        }
        let boards = self.boards.iter().map(|board| &board.info.uuid).zip(&self.failed);
        let failed = boards.filter_map(|(uuid, failed)| Some((uuid, failed.as_ref()?)));
        let lines = failed.map(|(uuid, error)| match self.ledger.last(uuid) {
            Some(xid) => format!("{uuid}: {error}, XID {xid}"),
            None => format!("{uuid}: {error}"),
        });
        let trouble = told(self.trouble.iter().cloned().chain(lines));
        let all_failed = self.failed.iter().all(Option::is_some);
        match self.failed.iter().flatten().next_back().cloned() {
            Some(error) if all_failed => Err(self.close_after(error)),
            _ => Ok(Collected { items, trouble }),
        }
    }

    fn holders(&mut self, devices: Range<usize>) -> Vec<GpuHolders> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let boards = self.boards.iter_mut().take(devices.end).skip(devices.start);
        boards.flat_map(|board| board.holders(nvml, &self.ledger)).collect()
    }
}

/// What is wrong with which GPU, in one line.
fn told(failed: impl Iterator<Item = String>) -> Option<String> {
    let lines: Vec<String> = failed.collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[cfg(test)]
mod tests;
