//! A made-up /proc for tests: real files in a temporary folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::Procfs;

/// The tree; it is gone with this.
pub(crate) struct Made(tempfile::TempDir);

impl Made {
    pub(crate) fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(made.0.path().join("self/ns")).unwrap();
        symlink("net:[1]", made.0.path().join("self/ns/net")).unwrap();
        fs::write(made.0.path().join("sockets"), "header\n").unwrap();
        symlink("pid:[4026531836]", made.0.path().join("self/ns/pid")).unwrap();
        made
    }

    pub(crate) fn proc(&self) -> Procfs {
        Procfs::new(self.0.path())
    }

    fn of(&self, pid: u32) -> PathBuf {
        self.0.path().join(pid.to_string())
    }

    /// A process in this network that listens nowhere; its program is called as it is.
    pub(crate) fn process(&self, pid: u32, parent: u32, program: &str) {
        let at = self.of(pid);
        fs::create_dir_all(at.join("fd")).unwrap();
        fs::create_dir_all(at.join("net")).unwrap();
        fs::create_dir_all(at.join("ns")).unwrap();
        fs::create_dir_all(at.join(format!("task/{pid}"))).unwrap();
        fs::write(at.join("comm"), format!("{program}\n")).unwrap();
        fs::write(at.join("cgroup"), "0::/\n").unwrap();
        let stat = format!("{pid} ({program}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid} 0 0");
        fs::write(at.join("stat"), stat).unwrap();
        symlink(format!("/bin/{program}"), at.join("exe")).unwrap();
        symlink("net:[1]", at.join("ns/net")).unwrap();
        symlink(self.0.path().join("sockets"), at.join("net/tcp")).unwrap();
        let siblings = self.of(parent).join(format!("task/{parent}"));
        fs::create_dir_all(&siblings).unwrap();
        let mut children =
            fs::File::options().create(true).append(true).open(siblings.join("children")).unwrap();
        write!(children, "{pid} ").unwrap();
    }

    /// It listens on this port of all addresses.
    pub(crate) fn listens(&self, pid: u32, port: u16) {
        self.listens_at(pid, "00000000", port);
    }

    /// It listens at this address, written as the kernel does.
    pub(crate) fn listens_at(&self, pid: u32, address: &str, port: u16) {
        let at = self.of(pid);
        let inode = pid * 100_000 + u32::from(port);
        symlink(format!("socket:[{inode}]"), at.join(format!("fd/{port}"))).unwrap();
        // One table per network, as the kernel has it.
        let path = at.join("net/tcp");
        let mut table = fs::read_to_string(&path).unwrap();
        table.push_str(&format!("  0: {address}:{port:04X} 00000000:0000 0A 0:0 0:0 0 0 0 {inode} 1\n"));
        fs::write(path, table).unwrap();
    }

    /// Its network is a container's with this address.
    pub(crate) fn contained(&self, pid: u32, ip: &str) {
        let at = self.of(pid);
        fs::remove_file(at.join("ns/net")).unwrap();
        symlink(format!("net:[{ip}]"), at.join("ns/net")).unwrap();
        let table = fs::read(at.join("net/tcp")).unwrap();
        fs::remove_file(at.join("net/tcp")).unwrap();
        fs::write(at.join("net/tcp"), table).unwrap();
        let trie = format!("Main:\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- {ip}\n     /32 host LOCAL\n");
        fs::write(at.join("net/fib_trie"), trie).unwrap();
    }

    /// It was started with these words.
    pub(crate) fn started_with(&self, pid: u32, words: &str) {
        fs::write(self.of(pid).join("cmdline"), words.replace(' ', "\0")).unwrap();
    }

    /// Its open files are not ours to see.
    pub(crate) fn hidden(&self, pid: u32) {
        fs::remove_dir_all(self.of(pid).join("fd")).unwrap();
    }
}
