//! What a process that holds thousands of sockets needs from its kernel, done once before any thread exists.

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files to prepare for: two sockets for each of eight thousand streams.
const DESCRIPTORS: u32 = 16_384;

/// Descriptors that are no client's and no upstream's: listeners, runtimes, files, agents and operators of a small farm.
const RESERVED: u64 = 96;
/// A client's own socket, and one to an engine.
const PER_CLIENT: u64 = 2;

/// Client connections for which this process has descriptors; at least 1.
pub(crate) fn connections_allowed() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(RESERVED) / PER_CLIENT).unwrap_or(usize::MAX).max(1)
}

/// Raises the limit of open files to what the system allows, and grows the table of descriptors at once.
///
/// A table that grows while several threads share it stalls accept and connect for 4 to 30 ms per doubling
/// (measured when 200 streams open at once). Failing costs only that, so nothing is reported.
pub fn prepare_process() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without the right to raise it the old limit stays.
    let _ = setrlimit(Resource::Nofile, wanted);
    let allowed = wanted.current.unwrap_or(u64::from(DESCRIPTORS)).min(u64::from(DESCRIPTORS));
    let highest = i32::try_from(allowed.saturating_sub(1)).unwrap_or(0);
    let stderr = rustix::stdio::stderr();
    if fcntl_getfd(stderr).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC)) {
        // The copy is closed at once; the grown table stays.
        drop(fcntl_dupfd_cloexec(stderr, highest));
    }
}
