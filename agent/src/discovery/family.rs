//! Which processes belong to an engine, given one that holds a GPU.
//!
//! The process that holds the GPU is often not the one that listens: vLLM's API server is the parent of its
//! EngineCore, TGI's router is a sibling of its shard. Going up without looking would reach shells and supervisors
//! and what else they started, so an ancestor belongs to the engine only if it runs the same program or is a known
//! launcher, and only a launcher's other children do too.

use std::collections::BTreeMap;

use crate::procfs::Procfs;

/// Generations upwards; vLLM has two (API server, EngineCore, workers).
const GENERATIONS_MAX: usize = 6;
/// Processes of one engine; a worker per GPU and some helpers.
const FAMILY_MAX: usize = 128;
/// Programs that start the parts of an engine and are no engine themselves, by the beginnings of their names: TGI's,
/// TensorRT-LLM's, MPI's, Ollama's. The kernel keeps 15 bytes of a name.
const LAUNCHERS: [&str; 7] =
    ["text-generation", "trtllm-serve", "mpirun", "orted", "prte", "hydra_pmi", "ollama"];

/// The processes of an engine, each with those above it that belong to it too, the topmost first.
pub(super) type Family = BTreeMap<u32, Vec<u32>>;

/// The processes of the engine that the holder of a GPU belongs to, itself included.
pub(super) fn family(proc: &Procfs, holder: u32) -> Family {
    let mut family = Family::new();
    let chain = ancestry(proc, holder);
    for (at, pid) in chain.iter().enumerate() {
        let above = chain.get(..at).unwrap_or_default().to_vec();
        if *pid == holder || is_launcher(proc, *pid) {
            add_below(proc, *pid, above, &mut family);
        } else {
            add(&mut family, *pid, above);
        }
    }
    family
}

/// Takes another family in; who is in both keeps the longer line.
pub(super) fn join(family: &mut Family, other: Family) {
    for (pid, above) in other {
        add(family, pid, above);
    }
}

/// The holder with those above it that belong to the same engine, the topmost first.
pub(super) fn ancestry(proc: &Procfs, holder: u32) -> Vec<u32> {
    let mut chain = vec![holder];
    let mut last = holder;
    while chain.len() <= GENERATIONS_MAX {
        let Some((parent, _)) = proc.parent(last) else { break };
        if parent == 0 || chain.contains(&parent) || !belongs(proc, last, parent) {
            break;
        }
        chain.push(parent);
        last = parent;
    }
    chain.reverse();
    chain
}

fn belongs(proc: &Procfs, pid: u32, parent: u32) -> bool {
    let program = proc.program(parent);
    (program.is_some() && program == proc.program(pid)) || is_launcher(proc, parent)
}

fn is_launcher(proc: &Procfs, pid: u32) -> bool {
    proc.name(pid).is_some_and(|name| LAUNCHERS.iter().any(|launcher| name.starts_with(launcher)))
}

/// Adds a process and all that it started.
fn add_below(proc: &Procfs, pid: u32, above: Vec<u32>, family: &mut Family) {
    let mut open = vec![(pid, above)];
    while let Some((pid, above)) = open.pop() {
        // A process that is above itself: the tree changed while it was read.
        if family.len() >= FAMILY_MAX || above.contains(&pid) {
            continue;
        }
        let below: Vec<u32> = above.iter().copied().chain([pid]).collect();
        open.extend(proc.children(pid).into_iter().map(|child| (child, below.clone())));
        add(family, pid, above);
    }
}

fn add(family: &mut Family, pid: u32, above: Vec<u32>) {
    let known = family.entry(pid).or_default();
    if above.len() > known.len() {
        *known = above;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::made::Made;

    /// `PID PARENT PROGRAM`, a process per line.
    #[track_caller]
    fn check(name: &str, host: &str, holder: u32, expect: &[(u32, &[u32])]) {
        let made = Made::new();
        for line in host.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            made.process(words[0].parse().unwrap(), words[1].parse().unwrap(), words[2]);
        }
        let got: Vec<_> = family(&made.proc(), holder).into_iter().collect();
        let expect: Vec<_> = expect.iter().map(|(pid, above)| (*pid, above.to_vec())).collect();
        assert_eq!(got, expect, "{name}");
    }

    #[test]
    fn an_engine_is_its_holder_with_parents_of_the_same_program_and_all_below_it() {
        let vllm = "1 0 init\n10 1 bash\n20 10 python3\n21 20 python3\n22 21 python3\n24 22 sh\n23 20 python3\n30 10 nginx";
        check(
            "the API server is found from a worker, its other children are not",
            vllm,
            22,
            &[(20, &[]), (21, &[20]), (22, &[20, 21]), (24, &[20, 21, 22])],
        );
        let tgi = "1 0 init\n5 1 text-generation-launcher\n6 5 text-generation-router\n7 5 python3";
        check("the router is found from the shard", tgi, 7, &[(5, &[]), (6, &[5]), (7, &[5])]);
        check("another program is no engine", "1 0 init\n2 1 tests\n3 2 aya\n4 2 aya", 3, &[(3, &[])]);
        check(
            "in a container the engine is process 1",
            "1 0 python3\n9 1 python3",
            9,
            &[(1, &[]), (9, &[1])],
        );
        check("unknown", "1 0 init", 77, &[(77, &[])]);
        check("a loop ends", "5 6 a\n6 5 a", 5, &[(5, &[6]), (6, &[])]);
    }

    #[test]
    fn who_is_in_two_families_keeps_the_longer_line() {
        let mut family = Family::from([(5, vec![1, 2]), (6, vec![])]);
        join(&mut family, Family::from([(5, vec![]), (6, vec![1]), (7, vec![])]));
        assert_eq!(family, Family::from([(5, vec![1, 2]), (6, vec![1]), (7, vec![])]));
    }
}
