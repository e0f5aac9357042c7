//! Where the processes in question listen: from /proc to a list in the order in which ports are asked.

use std::net::SocketAddr;

use aya_config::DiscoveryMode;

use super::family::{Family, ancestry, family, join};
use crate::procfs::{Network, Procfs, Unseen};

/// Listening addresses that are considered, of all processes together; the rest is counted and not asked.
pub(super) const LISTENERS_MAX: usize = 256;

/// One address of one process that is alive: another process there is another site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    pub(super) pid: u32,
    /// When the process began: a PID comes again.
    pub(super) started: u64,
    /// As it is reached from here.
    pub(super) addr: SocketAddr,
}

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) site: Site,
    pub(super) name: Option<String>,
    /// Processes above it that belong to the same engine.
    pub(super) above: Vec<u32>,
    /// The port is of those that the system chooses.
    pub(super) ephemeral: bool,
}

/// A process about whose addresses nothing can be said, or that has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quiet {
    pub(super) pid: u32,
    pub(super) name: Option<String>,
    /// `None`: neither it nor what belongs to it listens.
    pub(super) unseen: Option<Unseen>,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Those that are asked first come first.
    pub(super) listeners: Vec<Listener>,
    pub(super) quiet: Vec<Quiet>,
    /// Addresses beyond [`LISTENERS_MAX`].
    pub(super) beyond: usize,
}

/// Looks at the holders and what belongs to them, or in the mode for it at every process but this one (`own`).
/// `kept` are processes that were found to be engines: they may have let go of their GPU for a while.
pub(super) fn survey(proc: &Procfs, mode: DiscoveryMode, holders: &[u32], kept: &[u32], own: u32) -> Survey {
    let mut survey = Survey::default();
    let mut families = Family::new();
    match mode {
        DiscoveryMode::Off => return survey,
        DiscoveryMode::Gpu => {
            for holder in holders {
                let family = family(proc, *holder);
                if let Some(quiet) = quiet(proc, *holder, &family) {
                    survey.quiet.push(quiet);
                }
                join(&mut families, family);
            }
            for pid in kept {
                families.entry(*pid).or_insert_with(|| above(proc, *pid));
            }
        }
        DiscoveryMode::All => {
            for pid in proc.pids() {
                families.insert(pid, above(proc, pid));
            }
        }
    }
    let ephemeral_from = proc.ephemeral_from();
    for (pid, above) in families.into_iter().filter(|(pid, _)| *pid != own) {
        look_at(proc, pid, &above, ephemeral_from, &mut survey);
    }
    let rank = |l: &Listener| (l.above.len(), l.ephemeral, l.site.addr.port(), l.site);
    survey.listeners.sort_by_key(rank);
    survey.beyond = survey.listeners.len().saturating_sub(LISTENERS_MAX);
    survey.listeners.truncate(LISTENERS_MAX);
    survey
}

/// Those above a process that belong to the same engine.
fn above(proc: &Procfs, pid: u32) -> Vec<u32> {
    let mut chain = ancestry(proc, pid);
    chain.pop();
    // The process that started everything is above nothing in particular.
    chain.retain(|pid| *pid != 1);
    chain
}

/// What keeps the addresses of a holder's engine from being known.
fn quiet(proc: &Procfs, holder: u32, family: &Family) -> Option<Quiet> {
    let listens = |pid: &u32| proc.listeners(*pid).is_ok_and(|addrs| !addrs.is_empty());
    let unseen = proc.listeners(holder).err();
    let found = family.keys().any(listens);
    (!found).then(|| Quiet { pid: holder, name: proc.name(holder), unseen })
}

fn look_at(proc: &Procfs, pid: u32, above: &[u32], ephemeral_from: u16, survey: &mut Survey) {
    let Ok(addrs) = proc.listeners(pid) else { return };
    let Some((_, started)) = proc.parent(pid).filter(|_| !addrs.is_empty()) else { return };
    let (name, network): (_, Network) = (proc.name(pid), proc.network(pid));
    for addr in addrs {
        match network.reach(addr) {
            Ok(addr) => survey.listeners.push(Listener {
                site: Site { pid, started, addr },
                name: name.clone(),
                above: above.to_vec(),
                ephemeral: addr.port() >= ephemeral_from,
            }),
            Err(unseen) => survey.quiet.push(Quiet { pid, name: name.clone(), unseen: Some(unseen) }),
        }
    }
    survey.quiet.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::made::Made;

    fn addrs(survey: &Survey) -> Vec<(u32, String, Vec<u32>)> {
        let told = |l: &Listener| (l.site.pid, l.site.addr.to_string(), l.above.clone());
        survey.listeners.iter().map(told).collect()
    }

    fn one(pid: u32, addr: &str, above: &[u32]) -> (u32, String, Vec<u32>) {
        (pid, addr.to_owned(), above.to_vec())
    }

    #[test]
    fn only_processes_that_belong_to_a_holder_are_looked_at_unless_all_are_wanted() {
        let made = Made::new();
        made.process(1, 0, "init");
        made.process(10, 1, "python3");
        made.process(11, 10, "python3");
        made.process(50, 1, "postgres");
        made.process(60, 1, "aya");
        for (pid, port) in [(1, 111), (10, 8000), (11, 40_000), (11, 29_500), (50, 5432), (60, 8083)] {
            made.listens(pid, port);
        }
        let look = |mode, holders: &[u32], kept: &[u32]| survey(&made.proc(), mode, holders, kept, 60);
        let engine = [
            one(10, "127.0.0.1:8000", &[]),
            one(11, "127.0.0.1:29500", &[10]),
            one(11, "127.0.0.1:40000", &[10]),
        ];
        assert_eq!(
            addrs(&look(DiscoveryMode::Gpu, &[11], &[])),
            engine,
            "the port of the system's choice last"
        );
        assert_eq!(addrs(&look(DiscoveryMode::Gpu, &[], &[10])), engine[..1], "it let go of its GPU");
        assert_eq!(addrs(&look(DiscoveryMode::Gpu, &[], &[])), []);
        assert_eq!(addrs(&look(DiscoveryMode::Off, &[11], &[])), []);
        let [server, worker, chosen] = engine;
        let (init, postgres) = (one(1, "127.0.0.1:111", &[]), one(50, "127.0.0.1:5432", &[]));
        assert_eq!(addrs(&look(DiscoveryMode::All, &[], &[])), [init, postgres, server, worker, chosen]);
    }

    #[test]
    fn a_holder_whose_address_is_not_known_is_named_with_the_reason() {
        let made = Made::new();
        made.process(1, 0, "init");
        for pid in [10, 20, 30, 40] {
            made.process(pid, 1, "python3");
        }
        made.hidden(10);
        made.listens_at(30, "0100007F", 8000);
        made.contained(30, "172.17.0.3");
        made.listens(40, 8000);
        made.contained(40, "172.17.0.4");
        let survey = survey(&made.proc(), DiscoveryMode::Gpu, &[10, 20, 30, 40, 99], &[], 60);
        assert_eq!(
            addrs(&survey),
            [one(40, "172.17.0.4:8000", &[])],
            "a container's is reached by its address"
        );
        let quiet: Vec<_> = survey.quiet.iter().map(|quiet| (quiet.pid, quiet.unseen)).collect();
        let expect = [
            (10, Some(Unseen::Denied)),
            (20, None),
            (99, Some(Unseen::NoProcess)),
            (30, Some(Unseen::NoAddress)),
        ];
        assert_eq!(quiet, expect);
    }
}
