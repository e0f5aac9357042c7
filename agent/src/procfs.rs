//! What the system tells of a process: its name, its parent, its control group, where it listens.
//!
//! Only /proc is read, and only of the processes that are asked for. What cannot be read (a process that has ended,
//! another user's sockets, another PID namespace) is absent. Every list has a limit.

pub(crate) mod inside;
#[cfg(test)]
pub(crate) mod made;
mod sockets;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use self::sockets::local_addresses;

/// Open files of one process that are looked at.
const FILES_MAX: usize = 8_192;
/// Threads of one process whose children are looked for.
const THREADS_MAX: usize = 256;
/// Processes of a host that are looked at; the rest do not count.
const PROCESSES_MAX: usize = 65_536;
/// Where Linux begins with the ports that it chooses itself, unless told otherwise.
const EPHEMERAL_FROM: u16 = 32_768;
/// Bytes of a command line that are read.
const ARGUMENTS_MAX: u64 = 4_096;
/// The number of the PID namespace of the host.
const HOST_PID_NAMESPACE: &[u8] = b"pid:[4026531836]";

/// The process file system, mounted here.
#[derive(Debug, Clone)]
pub(crate) struct Procfs {
    root: PathBuf,
}

impl Procfs {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }

    /// What the system calls it, at most 15 bytes.
    pub(crate) fn name(&self, pid: u32) -> Option<String> {
        let name = fs::read_to_string(self.of(pid, "comm")).ok()?;
        Some(name.trim_end().to_owned())
    }

    /// Its parent, and when it began (in ticks since the system did): with the PID, that names one process for ever.
    pub(crate) fn parent(&self, pid: u32) -> Option<(u32, u64)> {
        let stat = fs::read_to_string(self.of(pid, "stat")).ok()?;
        // The name stands in brackets and may hold anything, brackets too.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some((parent, started))
    }

    /// The processes that it started itself.
    pub(crate) fn children(&self, pid: u32) -> Vec<u32> {
        // Each thread has its own; a kernel that was built without the file tells of none.
        let Ok(threads) = fs::read_dir(self.of(pid, "task")) else { return Vec::new() };
        let lists = threads
            .take(THREADS_MAX)
            .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect()
    }

    /// Its control group, which for most containers names the container.
    pub(crate) fn cgroup(&self, pid: u32) -> Option<String> {
        let groups = fs::read_to_string(self.of(pid, "cgroup")).ok()?;
        let unified = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(unified.trim().to_owned())
    }

    /// The program that it runs; `None` where that is not ours to see.
    pub(crate) fn program(&self, pid: u32) -> Option<PathBuf> {
        fs::read_link(self.of(pid, "exe")).ok()
    }

    /// What it was started with, the program's name first; cut at [`ARGUMENTS_MAX`].
    pub(crate) fn arguments(&self, pid: u32) -> Vec<String> {
        let mut text = Vec::new();
        let file = fs::File::open(self.of(pid, "cmdline")).map(|file| file.take(ARGUMENTS_MAX));
        // An argument that ends too early says less than it should, and nothing else.
        let _ = file.and_then(|mut file| file.read_to_end(&mut text));
        text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Every process that can be seen, in ascending order.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let named = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = named.take(PROCESSES_MAX).collect();
        pids.sort_unstable();
        pids
    }

    /// The TCP ports that it listens on; none where its files are not ours to see.
    pub(crate) fn listens_on(&self, pid: u32, tables: &mut Tables) -> BTreeSet<u16> {
        self.listeners(pid, tables).unwrap_or_default().iter().map(SocketAddr::port).collect()
    }

    /// The addresses that it listens on, as its own network sees them, each port once.
    pub(crate) fn listeners(&self, pid: u32, tables: &mut Tables) -> Result<Vec<SocketAddr>, Unseen> {
        let sockets = self.sockets(pid)?;
        if sockets.is_empty() {
            return Ok(Vec::new());
        }
        let all = tables.0.entry(self.network_name(pid)).or_insert_with(|| self.listening_in_network_of(pid));
        let own = all.0.iter().filter(|(_, inode)| sockets.contains(inode));
        let mut addrs: Vec<SocketAddr> = own.map(|(addr, _)| *addr).collect();
        // The address that is the easiest to reach first: all before one, IPv4 before IPv6, loopback last.
        addrs.sort_by_key(|addr| {
            (addr.port(), addr.ip().is_loopback(), !addr.ip().is_unspecified(), addr.ip())
        });
        addrs.dedup_by_key(|addr| addr.port());
        Ok(addrs)
    }

    /// What tells its network from others.
    pub(crate) fn network_name(&self, pid: u32) -> PathBuf {
        fs::read_link(self.of(pid, "ns/net")).unwrap_or_else(|_| self.of(pid, "net"))
    }

    /// What listens in its network, whosever it is.
    pub(crate) fn listening_in_network_of(&self, pid: u32) -> Listening {
        let table = |name| fs::File::open(self.of(pid, name)).map(table::listeners).unwrap_or_default();
        let mut all = ["net/tcp", "net/tcp6"].map(table).concat();
        all.sort_unstable();
        Listening(all)
    }

    /// The numbers of its open sockets.
    fn sockets(&self, pid: u32) -> Result<BTreeSet<u64>, Unseen> {
        let files = fs::read_dir(self.of(pid, "fd")).map_err(|_| {
            if self.root.join(pid.to_string()).is_dir() { Unseen::Denied } else { Unseen::NoProcess }
        })?;
        let targets = files.take(FILES_MAX).filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        Ok(targets.filter_map(|target| socket(&target)).collect())
    }

    /// The network that it is in.
    pub(crate) fn network(&self, pid: u32) -> Network {
        let of = |path: PathBuf| fs::read_link(path.join("ns/net")).ok();
        match (of(self.root.join(pid.to_string())), of(self.root.join("self"))) {
            (Some(its), Some(ours)) if its != ours => {
                let routes = fs::read_to_string(self.of(pid, "net/fib_trie")).unwrap_or_default();
                Network::Other(local_addresses(&routes))
            }
            // Where it is not told, it is mostly the same.
            _ => Network::Ours,
        }
    }

    /// The lowest port that the system chooses itself: where engines are not configured to listen.
    pub(crate) fn ephemeral_from(&self) -> u16 {
        let range =
            fs::read_to_string(self.root.join("sys/net/ipv4/ip_local_port_range")).unwrap_or_default();
        range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(EPHEMERAL_FROM)
    }

    /// Whether this program sees the host's processes; in a container's namespace it does not.
    pub(crate) fn is_hosts_namespace(&self) -> bool {
        let ours = fs::read_link(self.root.join("self/ns/pid"));
        ours.is_ok_and(|ours| ours.as_os_str().as_bytes() == HOST_PID_NAMESPACE)
    }
}

fn socket(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The listening sockets of every network that was looked at: a busy host's table has thousands of lines, and all its
/// processes share it. For one look at many processes, not for longer.
#[derive(Debug, Default)]
pub(crate) struct Tables(BTreeMap<PathBuf, Listening>);

/// The listening sockets of one network with their numbers, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listening(Vec<(SocketAddr, u64)>);

/// Why it is not known where a process can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Unseen {
    /// The driver names processes of the host; this agent sees those of its own namespace.
    #[error("no such process here: it ended, or this agent does not see its PID namespace")]
    NoProcess,
    #[error("its open files are not ours to see: run the agent as root or as the engine's user")]
    Denied,
    #[error("it listens in another network namespace, on an address that is not reached from here")]
    NoAddress,
}

impl Unseen {
    /// The name used in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoProcess => "no_process",
            Self::Denied => "denied",
            Self::NoAddress => "no_address",
        }
    }
}

/// The network that a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    Ours,
    /// A container's, with its addresses besides loopback.
    Other(Vec<Ipv4Addr>),
}

impl Network {
    /// How this program reaches an address that a process in this network listens on.
    pub(crate) fn reach(&self, addr: SocketAddr) -> Result<SocketAddr, Unseen> {
        let ip = match addr.ip() {
            IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(addr.ip(), IpAddr::V4),
            ip @ IpAddr::V4(_) => ip,
        };
        let ip = match self {
            // A socket for all addresses of IPv6 takes IPv4 too, unless somebody took the trouble to say otherwise.
            Self::Ours if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Ours => ip,
            Self::Other(_) if ip.is_loopback() => return Err(Unseen::NoAddress),
            Self::Other(own) if ip.is_unspecified() => own.first().copied().ok_or(Unseen::NoAddress)?.into(),
            Self::Other(_) => ip,
        };
        Ok(SocketAddr::new(ip, addr.port()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_name_its_parent_and_its_ports() {
        let proc = Procfs::new("/proc");
        let me = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(proc.listens_on(me, &mut Tables::default()).contains(&listener.local_addr().unwrap().port()));
        assert!(!proc.name(me).unwrap().is_empty());
        assert!(proc.parent(me).unwrap().1 > 0);
        assert_eq!(proc.name(u32::MAX), None);
        assert_eq!(
            (proc.parent(u32::MAX), proc.listens_on(u32::MAX, &mut Tables::default())),
            (None, BTreeSet::new())
        );
    }

    #[test]
    fn a_process_is_reached_by_the_address_of_its_network() {
        let (ours, container) = (&Network::Ours, &Network::Other(vec![Ipv4Addr::new(172, 17, 0, 3)]));
        for (name, network, listens, expect) in [
            ("all addresses", ours, "0.0.0.0:8000", Some("127.0.0.1:8000")),
            ("all addresses of IPv6", ours, "[::]:8000", Some("127.0.0.1:8000")),
            ("one of IPv6", ours, "[fd00::1]:8000", Some("[fd00::1]:8000")),
            ("IPv4 in IPv6", ours, "[::ffff:10.0.0.1]:8000", Some("10.0.0.1:8000")),
            ("loopback", ours, "127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("a container", container, "0.0.0.0:8000", Some("172.17.0.3:8000")),
            ("its own address", container, "172.18.0.2:8000", Some("172.18.0.2:8000")),
            ("its loopback", container, "127.0.0.1:8000", None),
            ("a container without network", &Network::Other(Vec::new()), "[::]:8000", None),
        ] {
            let expect = expect.map(|addr| addr.parse().unwrap()).ok_or(Unseen::NoAddress);
            assert_eq!(network.reach(listens.parse().unwrap()), expect, "{name}");
        }
    }

    #[test]
    fn a_name_with_brackets_hides_no_parent() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("7")).unwrap();
        let stat = "7 (a) b (c) S 42 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        fs::write(root.path().join("7/stat"), stat).unwrap();
        fs::write(root.path().join("7/cgroup"), "1:cpu:/x\n0::/system.slice/vllm.service\n").unwrap();
        let proc = Procfs::new(root.path());
        assert_eq!(proc.parent(7), Some((42, 987_654)));
        assert_eq!(proc.cgroup(7).as_deref(), Some("/system.slice/vllm.service"));
        assert!(!proc.is_hosts_namespace());
    }
}
