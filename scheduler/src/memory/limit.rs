//! How much memory this process holds, and how much it may.
//!
//! The limit is that of the closest control group that has one, version 2 or 1. What a group uses is counted without the
//! file pages that the kernel can drop at once, as those who kill for memory count it.

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 says "no limit" with a number close to the largest one.
const UNLIMITED: u64 = 1 << 60;

/// Where a limit is, and what is used against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemoryLimit {
    /// Of this process's resident memory, in bytes.
    Process { max: u64 },
    /// Of a control group, in bytes.
    Group { max: u64, dir: PathBuf, version: GroupVersion },
}

/// How a control group's files are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupVersion {
    One,
    Two,
}

impl MemoryLimit {
    /// The limit that the kernel holds this process to; `None` if there is none.
    pub(super) fn of_group() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::found(&groups, Path::new("/sys/fs/cgroup"))
    }

    fn found(groups: &str, root: &Path) -> Option<Self> {
        let path_of = |prefix: &str| {
            groups.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                (controllers == prefix).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let two = path_of("").and_then(|path| closest(root, &path, "memory.max", GroupVersion::Two));
        two.or_else(|| {
            let path = path_of("memory")?;
            closest(&root.join("memory"), &path, "memory.limit_in_bytes", GroupVersion::One)
        })
    }

    /// In bytes.
    pub(super) const fn max(&self) -> u64 {
        match self {
            Self::Process { max } | Self::Group { max, .. } => *max,
        }
    }

    /// What counts against it now, in bytes; `None` if it cannot be read.
    pub(super) fn used(&self) -> Option<u64> {
        match self {
            Self::Process { .. } => resident_bytes(),
            Self::Group { dir, version, .. } => {
                let (current, inactive) = match version {
                    GroupVersion::One => ("memory.usage_in_bytes", "total_inactive_file "),
                    GroupVersion::Two => ("memory.current", "inactive_file "),
                };
                let used: u64 = fs::read_to_string(dir.join(current)).ok()?.trim().parse().ok()?;
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                let file = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse().ok());
                Some(used.saturating_sub(file.unwrap_or(0)))
            }
        }
    }
}

/// The smallest limit from this group up to the root.
fn closest(root: &Path, path: &str, file: &str, version: GroupVersion) -> Option<MemoryLimit> {
    let own = root.join(path);
    own.ancestors()
        .take_while(|dir| dir.starts_with(root))
        .filter_map(|dir| {
            let max: u64 = fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()?;
            (max < UNLIMITED).then(|| (max, dir.to_owned()))
        })
        .min_by_key(|(max, _)| *max)
        .map(|(max, dir)| MemoryLimit::Group { max, dir, version })
}

/// Memory of this process that is not elsewhere, in bytes; `None` if the kernel does not say.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], groups: &str, expect: Option<(u64, u64)>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = MemoryLimit::found(groups, root.path());
        let seen = found.map(|limit| (limit.max(), limit.used().unwrap()));
        assert_eq!(seen, expect, "{groups:?}");
    }

    #[test]
    fn the_closest_limit_counts_and_file_pages_do_not() {
        let two = [
            ("a/b/memory.max", "max\n"),
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "900\n"),
            ("a/memory.stat", "anon 1\ninactive_file 400\nactive_file 5\n"),
        ];
        check(&two, "0::/a/b\n", Some((1000, 500)));
        check(&two, "0::/elsewhere\n", None);
        let one = [
            ("memory/x/memory.limit_in_bytes", "2000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/x/memory.usage_in_bytes", "700\n"),
            ("memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
        ];
        check(&one, "4:memory:/x\n1:cpu:/\n0::/\n", Some((2000, 600)));
        check(&one, "4:memory:/\n", None);
        check(&[], "", None);
    }

    #[test]
    fn this_process_holds_something() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(MemoryLimit::Process { max: 1 }.used().unwrap() > 100_000);
    }
}
