//! What the system tells of a process: its name, its parent, its control group, the ports that it listens on.
//!
//! Only /proc is read, and only of the processes that are asked for. What cannot be read (a process that has ended,
//! another user's sockets, another PID namespace) is absent. Every list has a limit.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Open files of one process that are looked at, and lines of one socket table.
const FILES_MAX: usize = 8_192;
const SOCKETS_MAX: usize = 65_536;
/// Threads of one process whose children are looked for.
const THREADS_MAX: usize = 256;
/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";
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

    /// The TCP ports that it listens on; none where its files are not ours to see.
    pub(crate) fn listens_on(&self, pid: u32) -> BTreeSet<u16> {
        let sockets = self.sockets(pid);
        if sockets.is_empty() {
            return BTreeSet::new();
        }
        let tables =
            ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(self.of(pid, table)).unwrap_or_default());
        let lines = tables.iter().flat_map(|table| table.lines().skip(1).take(SOCKETS_MAX));
        lines
            .filter_map(listening)
            .filter(|(_, inode)| sockets.contains(inode))
            .map(|(port, _)| port)
            .collect()
    }

    /// The numbers of its open sockets.
    fn sockets(&self, pid: u32) -> BTreeSet<u64> {
        let Ok(files) = fs::read_dir(self.of(pid, "fd")) else { return BTreeSet::new() };
        let targets = files.take(FILES_MAX).filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        targets.filter_map(|target| socket(&target)).collect()
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

/// Port and number of a socket that listens, from a line of the socket table.
fn listening(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_whitespace();
    let port = fields.nth(1)?.rsplit_once(':')?.1;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    (state == LISTEN).then_some((u16::from_str_radix(port, 16).ok()?, inode))
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
        assert!(proc.listens_on(me).contains(&listener.local_addr().unwrap().port()));
        assert!(!proc.name(me).unwrap().is_empty());
        assert!(proc.parent(me).unwrap().1 > 0);
        assert_eq!(proc.name(u32::MAX), None);
        assert_eq!((proc.parent(u32::MAX), proc.listens_on(u32::MAX)), (None, BTreeSet::new()));
    }

    #[test]
    fn a_line_of_the_socket_table_is_read_by_its_columns() {
        let line = |state: &str| {
            format!(
                "   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100"
            )
        };
        assert_eq!(listening(&line("0A")), Some((8080, 4711)));
        assert_eq!(listening(&line("01")), None);
        for bad in ["", "0:", "   0: 0100007F 0 0A", "a b:zz c 0A d e f g h 1"] {
            assert_eq!(listening(bad), None, "{bad:?}");
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
