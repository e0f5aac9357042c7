//! Which processes belong to an engine, given one that holds a GPU. Pure.
//!
//! The process that holds the GPU is often not the one that listens: vLLM's API server is the parent of its
//! EngineCore, TGI's router is a sibling of its shard. Going up too far would reach shells and supervisors and what
//! else they started, so a parent belongs to the engine only if it runs the same program or is a known launcher.

use std::collections::{BTreeMap, BTreeSet};

use super::procfs::Process;

/// Generations upwards; vLLM has two (API server, EngineCore, workers).
const GENERATIONS_MAX: usize = 4;
/// Processes of one engine; a worker per GPU and some helpers.
const FAMILY_MAX: usize = 256;
/// Launchers whose program differs from the processes that they start. The kernel keeps 15 bytes of a name.
const LAUNCHERS: [&str; 4] = ["text-generation", "trtllm-serve", "mpirun", "ollama"];

/// All processes of a host.
pub(crate) struct Families<'a> {
    by_pid: BTreeMap<u32, &'a Process>,
    children: BTreeMap<u32, Vec<u32>>,
}

impl<'a> Families<'a> {
    pub(crate) fn new(processes: &'a [Process]) -> Self {
        let by_pid = processes.iter().map(|process| (process.pid, process)).collect();
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for process in processes {
            children.entry(process.parent).or_default().push(process.pid);
        }
        Self { by_pid, children }
    }

    pub(crate) fn get(&self, pid: u32) -> Option<&'a Process> {
        self.by_pid.get(&pid).copied()
    }

    /// The processes of the engine that this one belongs to, itself included, in ascending order.
    pub(crate) fn of(&self, pid: u32) -> BTreeSet<u32> {
        let mut members = BTreeSet::new();
        let mut open = vec![self.root(pid)];
        while let Some(next) = open.pop() {
            if members.len() < FAMILY_MAX && members.insert(next) {
                open.extend(self.children.get(&next).into_iter().flatten());
            }
        }
        members
    }

    fn root(&self, pid: u32) -> u32 {
        let mut root = pid;
        for _ in 0..GENERATIONS_MAX {
            let parent = self.get(root).and_then(|process| Some((process, self.get(process.parent)?)));
            match parent {
                Some((process, parent)) if belongs(process, parent) => root = parent.pid,
                _ => break,
            }
        }
        root
    }
}

fn belongs(process: &Process, parent: &Process) -> bool {
    let same = process.program.is_some() && process.program == parent.program;
    same || LAUNCHERS.iter().any(|launcher| parent.name.starts_with(launcher))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PID PARENT PROGRAM`, a process per line.
    #[track_caller]
    fn check(name: &str, host: &str, holder: u32, expect: &[u32]) {
        let process = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            Process {
                pid: words[0].parse().unwrap(),
                parent: words[1].parse().unwrap(),
                name: words[2].to_owned(),
                program: Some(format!("/bin/{}", words[2]).into()),
            }
        };
        let processes: Vec<Process> = host.lines().map(process).collect();
        let got: Vec<u32> = Families::new(&processes).of(holder).into_iter().collect();
        assert_eq!(got, expect, "{name}");
    }

    #[test]
    fn an_engine_is_its_holder_with_parents_of_the_same_program_and_all_below() {
        let vllm = "1 0 init\n10 1 bash\n20 10 python3\n21 20 python3\n22 21 python3\n23 20 resource\n30 10 nginx";
        check("the API server is found from a worker", vllm, 22, &[20, 21, 22, 23]);
        let tgi = "1 0 init\n5 1 text-generation-launcher\n6 5 text-generation-router\n7 5 python3";
        check("the router is found from the shard", tgi, 7, &[5, 6, 7]);
        check("another program is no engine", "1 0 init\n2 1 tests\n3 2 aya", 3, &[3]);
        check("in a container the engine is process 1", "1 0 python3\n9 1 python3", 9, &[1, 9]);
        check("unknown", "1 0 init", 77, &[77]);
        check("a loop ends", "5 6 a\n6 5 a", 5, &[5, 6]);
    }
}
