//! Where the processes in question listen: from /proc to a list in the order in which ports are asked.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use aya_config::DiscoveryMode;

use super::family::{Family, ancestry, family, join};
use super::published::{Published, published};
use crate::procfs::{Network, Procfs, Tables, Unseen};

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
    /// Only this host reaches it.
    pub(super) loopback_only: bool,
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
    let mut host = Host::new(proc);
    let mut families = Family::new();
    match mode {
        DiscoveryMode::Off => return survey,
        DiscoveryMode::Gpu => {
            for holder in holders {
                let family = family(proc, *holder);
                survey.quiet.extend(host.quiet(*holder, &family));
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
    for (pid, above) in families.into_iter().filter(|(pid, _)| *pid != own) {
        host.look_at(pid, &above, &mut survey);
    }
    survey.quiet.dedup();
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

/// What is the same for all processes of one look, and what was found out of them.
struct Host<'a> {
    proc: &'a Procfs,
    ephemeral_from: u16,
    tables: Tables,
    listens: BTreeMap<u32, Result<Vec<SocketAddr>, Unseen>>,
    /// Read only where something listens in a container.
    published: OnceCell<Vec<Published>>,
}

impl<'a> Host<'a> {
    fn new(proc: &'a Procfs) -> Self {
        let (ephemeral_from, published) = (proc.ephemeral_from(), OnceCell::new());
        Self { proc, ephemeral_from, tables: Tables::default(), listens: BTreeMap::new(), published }
    }

    fn listeners(&mut self, pid: u32) -> &Result<Vec<SocketAddr>, Unseen> {
        self.listens.entry(pid).or_insert_with(|| self.proc.listeners(pid, &mut self.tables))
    }

    /// What keeps the addresses of a holder's engine from being known.
    fn quiet(&mut self, holder: u32, family: &Family) -> Option<Quiet> {
        let found =
            family.keys().any(|pid| self.listeners(*pid).as_ref().is_ok_and(|addrs| !addrs.is_empty()));
        let unseen = self.listeners(holder).as_ref().err().copied();
        (!found).then(|| Quiet { pid: holder, name: self.proc.name(holder), unseen })
    }

    fn look_at(&mut self, pid: u32, above: &[u32], survey: &mut Survey) {
        let Ok(addrs) = self.listeners(pid).clone() else { return };
        let Some((_, started)) = self.proc.parent(pid).filter(|_| !addrs.is_empty()) else { return };
        let (name, network) = (self.proc.name(pid), self.proc.network(pid));
        for listens in addrs {
            let reached = self.published_at(&network, listens).map_or_else(|| network.reach(listens), Ok);
            match reached {
                Ok(addr) => survey.listeners.push(Listener {
                    site: Site { pid, started, addr },
                    name: name.clone(),
                    above: above.to_vec(),
                    ephemeral: listens.port() >= self.ephemeral_from,
                    loopback_only: listens.ip().is_loopback(),
                }),
                Err(unseen) => survey.quiet.push(Quiet { pid, name: name.clone(), unseen: Some(unseen) }),
            }
        }
    }

    /// Where the host publishes a port of a container.
    fn published_at(&self, network: &Network, listens: SocketAddr) -> Option<SocketAddr> {
        let Network::Other(own) = network else { return None };
        let is_it = |published: &&Published| {
            let IpAddr::V4(ip) = published.container.ip() else { return false };
            published.container.port() == listens.port() && own.contains(&ip) && !listens.ip().is_loopback()
        };
        let all = self.published.get_or_init(|| published(self.proc));
        let found = all.iter().find(is_it)?;
        Network::Ours.reach(found.at).ok()
    }
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
        for pid in [10, 20, 30] {
            made.process(pid, 1, "python3");
        }
        made.hidden(10);
        made.listens_at(30, "0100007F", 8000);
        made.contained(30, "172.17.0.3");
        let survey = survey(&made.proc(), DiscoveryMode::Gpu, &[10, 20, 30, 99], &[], 60);
        assert_eq!(addrs(&survey), []);
        let quiet: Vec<_> = survey.quiet.iter().map(|quiet| (quiet.pid, quiet.unseen)).collect();
        let expect = [
            (10, Some(Unseen::Denied)),
            (20, None),
            (99, Some(Unseen::NoProcess)),
            (30, Some(Unseen::NoAddress)),
        ];
        assert_eq!(quiet, expect);
    }

    #[test]
    fn an_engine_in_a_container_is_reached_where_it_is_published_or_by_its_own_address() {
        let made = Made::new();
        made.process(1, 0, "init");
        for (pid, ip) in [(40, "172.17.0.4"), (50, "172.17.0.5")] {
            made.process(pid, 1, "python3");
            made.listens(pid, 8000);
            made.contained(pid, ip);
        }
        made.process(70, 1, "docker-proxy");
        let proxy = "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 9000 -container-ip 172.17.0.5 -container-port 8000";
        made.started_with(70, proxy);
        let survey = survey(&made.proc(), DiscoveryMode::Gpu, &[40, 50], &[], 60);
        assert_eq!(addrs(&survey), [one(40, "172.17.0.4:8000", &[]), one(50, "127.0.0.1:9000", &[])]);
        assert!(survey.listeners.iter().all(|listener| !listener.loopback_only));
    }
}
