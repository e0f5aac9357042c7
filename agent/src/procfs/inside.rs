//! Processes that the driver names by their number in a container: here they have another one.
//!
//! A number that is a process here is taken as it is. Of the others, all processes of this host are looked through for the
//! one that has it in its innermost PID namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use aya_gpu::GpuHolders;

use super::{FILES_MAX, Procfs};

/// Lists after which what was looked for in vain, or found, is looked for again.
const LOOK_AGAIN_AFTER: u32 = 6;

/// What was found the last time.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    missing: BTreeSet<u32>,
    found: BTreeMap<u32, u32>,
    /// Lists since.
    age: u32,
}

impl Inside {
    /// Puts the numbers of this host in the place of those of containers. What is not found stays as it is.
    pub(crate) fn translate(&mut self, proc: &Procfs, lists: &mut [GpuHolders]) {
        let holders = || lists.iter().flat_map(|list| list.holders.iter().flatten());
        let missing: BTreeSet<u32> =
            holders().map(|holder| holder.pid).filter(|pid| proc.parent(*pid).is_none()).collect();
        self.age += 1;
        if missing != self.missing || self.age >= LOOK_AGAIN_AFTER {
            let found = if missing.is_empty() { BTreeMap::new() } else { look_for(proc, &missing) };
            *self = Self { missing, found, age: 0 };
        }
        for holder in lists.iter_mut().flat_map(|list| list.holders.iter_mut().flatten()) {
            holder.pid = self.found.get(&holder.pid).copied().unwrap_or(holder.pid);
        }
    }
}

/// A number that several containers use names nobody, unless just one of them has a GPU open.
fn look_for(proc: &Procfs, wanted: &BTreeSet<u32>) -> BTreeMap<u32, u32> {
    let mut found: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in proc.pids() {
        if let Some(inner) = inner(proc, pid).filter(|inner| wanted.contains(inner)) {
            found.entry(inner).or_default().push(pid);
        }
    }
    let only = |(inner, mut pids): (u32, Vec<u32>)| {
        if pids.len() > 1 {
            pids.retain(|pid| has_gpu_open(proc, *pid));
        }
        Some((inner, *pids.first().filter(|_| pids.len() == 1)?))
    };
    found.into_iter().filter_map(only).collect()
}

/// Its number in the innermost PID namespace, where that is not ours.
fn inner(proc: &Procfs, pid: u32) -> Option<u32> {
    let status = fs::read_to_string(proc.of(pid, "status")).ok()?;
    let mut numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace();
    numbers.next()?;
    numbers.next_back()?.parse().ok()
}

fn has_gpu_open(proc: &Procfs, pid: u32) -> bool {
    let Ok(files) = fs::read_dir(proc.of(pid, "fd")) else { return false };
    let mut targets = files.take(FILES_MAX).filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    targets.any(|target| target.as_os_str().as_bytes().starts_with(b"/dev/nvidia"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use aya_domain::GpuUuid;
    use aya_gpu::GpuHolder;

    use super::*;

    #[test]
    fn a_process_of_a_container_is_found_by_the_number_that_it_has_there() {
        let root = tempfile::tempdir().unwrap();
        let make = |pid: u32, nspid: &str, gpu: bool| {
            let at = root.path().join(pid.to_string());
            fs::create_dir_all(at.join("fd")).unwrap();
            fs::write(at.join("stat"), format!("{pid} (p) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0"))
                .unwrap();
            fs::write(at.join("status"), format!("Name:\tp\nNSpid:{nspid}\nNSsid:\t1\n")).unwrap();
            symlink(if gpu { "/dev/nvidia0" } else { "/dev/null" }, at.join("fd/3")).unwrap();
        };
        make(7, "\t7", true);
        make(4000, "\t4000\t12", false);
        make(4001, "\t4001\t1", false);
        make(5001, "\t5001\t9\t1", true);
        make(6001, "\t6001\t13", true);
        make(6002, "\t6002\t13", true);
        make(6003, "\t6003\t7", true);
        fs::create_dir(root.path().join("sys")).unwrap();
        let (proc, mut inside) = (Procfs::new(root.path()), Inside::default());
        let mut translated = |pids: &[u32]| -> Vec<u32> {
            let holders = pids.iter().map(|pid| GpuHolder { pid: *pid, vram: None }).collect();
            let mut lists = [GpuHolders { gpu: GpuUuid::parse("GPU-1").unwrap(), holders: Some(holders) }];
            inside.translate(&proc, &mut lists);
            lists[0].holders.iter().flatten().map(|holder| holder.pid).collect()
        };
        for _ in 0..2 {
            // 1: of two, the one with a GPU. 7: one of ours comes first. 9: only a step on the way. 13: two have one.
            assert_eq!(translated(&[1, 7, 9, 12, 13, 99]), [5001, 7, 9, 4000, 13, 99]);
        }
        fs::remove_dir_all(root.path().join("5001")).unwrap();
        assert_eq!(translated(&[1]), [4001], "looked for again: the list is another");
    }
}
