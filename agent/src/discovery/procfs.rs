//! What the kernel says about processes: who is whose parent, and who listens where. Reads only, below one root, so
//! that tests bring their own tree. Whatever cannot be read is absent with its reason, and nothing here waits.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::sockets::{listening, local_addresses};

/// Processes of a host that are looked at; the rest do not count.
const PROCESSES_MAX: usize = 65_536;
/// Open files of one process that are looked at.
const FILES_MAX: usize = 65_536;
/// Bytes of one file of /proc that are read; 100 bytes per socket.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The process file system.
#[derive(Debug, Clone)]
pub(crate) struct Procfs {
    root: PathBuf,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// The kernel's short name of it.
    pub(crate) name: String,
    /// Its program; `None`: it may not be read.
    pub(crate) program: Option<PathBuf>,
}

/// An address on which a process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    /// As this host reaches it.
    pub(crate) addr: SocketAddr,
    pub(crate) pid: u32,
}

/// Why the sockets of a process are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unseen {
    /// NVML names processes of the host; this agent sees only those of its own namespace.
    #[error("no such process here: it ended, or it is in a PID namespace that this agent does not see")]
    NoProcess,
    #[error("its open files may not be read: run the agent as root or as the engine's user")]
    Denied,
    #[error("it is in a network namespace without an address that this host reaches")]
    NoAddress,
}

impl Procfs {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All processes, in ascending order of pid.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut processes: Vec<_> =
            pids.take(PROCESSES_MAX).filter_map(|pid| self.process(pid)).collect();
        processes.sort_by_key(|process| process.pid);
        processes
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let folder = self.folder(pid);
        let status = read(&folder.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(':')).map(str::trim)
        };
        let program = fs::read_link(folder.join("exe")).ok();
        Some(Process { pid, parent: field("PPid")?.parse().ok()?, name: field("Name")?.to_owned(), program })
    }

    /// Where a process listens, by the addresses under which this host reaches it.
    pub(crate) fn listeners(&self, pid: u32) -> Result<Vec<Listener>, Unseen> {
        let folder = self.folder(pid);
        if !folder.is_dir() {
            return Err(Unseen::NoProcess);
        }
        let inodes = self.socket_inodes(&folder)?;
        if inodes.is_empty() {
            return Ok(Vec::new());
        }
        // The tables of the process's own network namespace, which may be a container's.
        let tables = ["net/tcp", "net/tcp6"].map(|table| read(&folder.join(table)).unwrap_or_default());
        let own = tables.iter().flat_map(|table| listening(table)).filter(|(_, inode)| inodes.contains(inode));
        let mut addrs: Vec<SocketAddr> = own.map(|(addr, _)| addr).collect();
        addrs.sort();
        // The same port on both families is one listener.
        addrs.dedup_by_key(|addr| addr.port());
        if addrs.is_empty() {
            return Ok(Vec::new());
        }
        let host = if self.is_in_another_network(&folder) {
            let routes = read(&folder.join("net/fib_trie")).unwrap_or_default();
            Some(local_addresses(&routes).into_iter().next().ok_or(Unseen::NoAddress)?)
        } else {
            None
        };
        Ok(addrs.into_iter().map(|addr| Listener { addr: reached(addr, host), pid }).collect())
    }

    fn socket_inodes(&self, folder: &Path) -> Result<BTreeSet<u64>, Unseen> {
        let files = fs::read_dir(folder.join("fd")).map_err(|_| Unseen::Denied)?;
        let inode = |target: PathBuf| {
            let text = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            text.parse().ok()
        };
        let links = files.flatten().take(FILES_MAX).filter_map(|file| fs::read_link(file.path()).ok());
        Ok(links.filter_map(inode).collect())
    }

    fn is_in_another_network(&self, folder: &Path) -> bool {
        let of = |folder: &Path| fs::read_link(folder.join("ns/net")).ok();
        match (of(folder), of(&self.root.join("self"))) {
            (Some(its), Some(ours)) => its != ours,
            // Not told: then the host's own.
            _ => false,
        }
    }

    fn folder(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

/// How this host reaches an address; `host`: of the other network namespace that it is in.
fn reached(addr: SocketAddr, host: Option<Ipv4Addr>) -> SocketAddr {
    match (host, addr.ip()) {
        (Some(host), _) => SocketAddr::new(IpAddr::V4(host), addr.port()),
        // Sockets for all addresses take IPv4 too unless told otherwise, and nobody tells them otherwise.
        (None, ip) if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), addr.port()),
        (None, IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), addr.port()),
            None => addr,
        },
        (None, IpAddr::V4(_)) => addr,
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
