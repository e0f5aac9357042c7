//! Whose the processes on the GPUs are: from the driver's list and /proc to the engines of this host.
//!
//! The process that holds a GPU is often not the one that listens: engines start helpers. So a holder belongs to the
//! engine on whose port itself, one of its ancestors or a child of its parent listens, or a process of its control group.
//! What was found out of a process stays true while it lives and the engines are the same, and is not asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya_domain::{EndpointId, GPU_PROCESSES_MAX, GpuProcess, GpuProcesses, GpuUuid, ProcessView};
use aya_gpu::{GpuHolder, GpuHolders};

use crate::local::Host;
use crate::procfs::{Network, Procfs, Tables};

/// Ancestors of a process that are looked at, and children of its parent.
const ANCESTORS_MAX: usize = 8;
const SIBLINGS_MAX: usize = 64;
/// Lists after which a holder without an engine is looked at again: its engine may have begun to listen since.
const LOOK_AGAIN_AFTER: u32 = 6;

/// Who is who on this host.
#[derive(Debug)]
pub(crate) struct Census {
    proc: Procfs,
    /// Processes of others may be hidden from us.
    blinkered: bool,
    known: BTreeMap<u32, Known>,
    engines: Vec<Located>,
}

/// An engine and what it is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) id: EndpointId,
    pub(crate) port: u16,
    pub(crate) host: Host,
    /// The process that listens where that is known: in containers many engines listen on the same port.
    pub(crate) pid: Option<u32>,
}

/// What was read for one list: the processes of a host share ancestors and siblings, and their networks.
#[derive(Default)]
struct Seen {
    tables: Tables,
    ports: BTreeMap<u32, BTreeSet<u16>>,
}

/// What was found out of one process.
#[derive(Debug, Clone)]
struct Known {
    started: u64,
    name: Option<String>,
    engine: Option<EndpointId>,
    cgroup: Option<String>,
    /// Lists since it was looked at.
    age: u32,
}

impl Census {
    pub(crate) fn new(proc: Procfs) -> Self {
        let blinkered = !proc.is_hosts_namespace();
        Self { proc, blinkered, known: BTreeMap::new(), engines: Vec::new() }
    }

    /// The processes of every GPU, the largest first; `engines` are those that are known.
    pub(crate) fn take(
        &mut self,
        lists: Vec<GpuHolders>,
        engines: Vec<Located>,
    ) -> Vec<(GpuUuid, GpuProcesses)> {
        if self.engines != engines {
            self.engines = engines;
            self.known.clear();
        }
        let pids: BTreeSet<u32> =
            lists.iter().flat_map(|list| list.holders.iter().flatten()).map(|h| h.pid).collect();
        self.known.retain(|pid, _| pids.contains(pid));
        let mut seen = Seen::default();
        for pid in pids {
            self.look_at(pid, &mut seen);
        }
        self.share_cgroups();
        lists.into_iter().map(|list| (list.gpu, self.processes(list.holders))).collect()
    }

    fn look_at(&mut self, pid: u32, seen: &mut Seen) {
        let Some((parent, started)) = self.proc.parent(pid) else {
            self.known.remove(&pid);
            return;
        };
        if let Some(known) = self.known.get_mut(&pid).filter(|known| known.started == started) {
            known.age += 1;
            if known.engine.is_some() || known.age < LOOK_AGAIN_AFTER {
                return;
            }
        }
        let engine = self.engine_of(pid, parent, seen);
        let known =
            Known { started, name: self.proc.name(pid), engine, cgroup: self.proc.cgroup(pid), age: 0 };
        self.known.insert(pid, known);
    }

    /// The engine whose port is listened on by the process, an ancestor or a child of its parent.
    fn engine_of(&self, pid: u32, parent: u32, seen: &mut Seen) -> Option<EndpointId> {
        let up = |pid: &u32| self.proc.parent(*pid).map(|(parent, _)| parent).filter(|parent| *parent > 1);
        let ancestors =
            std::iter::successors(Some(parent).filter(|parent| *parent > 1), up).take(ANCESTORS_MAX);
        let siblings =
            if parent > 1 { self.proc.children(parent) } else { Vec::new() }.into_iter().take(SIBLINGS_MAX);
        let family = std::iter::once(pid).chain(ancestors).chain(siblings.filter(|sibling| *sibling != pid));
        family.into_iter().find_map(|member| {
            let Seen { tables, ports } = &mut *seen;
            let ports = ports.entry(member).or_insert_with(|| self.proc.listens_on(member, tables));
            let is_it = |engine: &&Located| match engine.pid {
                Some(pid) => pid == member,
                None => ports.contains(&engine.port) && self.is_there(member, engine.host),
            };
            self.engines.iter().find(is_it).map(|engine| engine.id.clone())
        })
    }

    /// Whether a process can listen at this host: one in a container also under the addresses of its own.
    fn is_there(&self, pid: u32, host: Host) -> bool {
        match host {
            Host::Ours => true,
            Host::Other(None) => false,
            Host::Other(Some(address)) => match self.proc.network(pid) {
                Network::Ours => false,
                Network::Other(its) => its.into_iter().any(|ip| IpAddr::V4(ip) == address),
            },
        }
    }

    /// A process without an engine belongs to the one that all others of its control group belong to. The group of
    /// everything that has no other says nothing.
    fn share_cgroups(&mut self) {
        let mut of: BTreeMap<&str, BTreeSet<&EndpointId>> = BTreeMap::new();
        for known in self.known.values() {
            if let (Some(cgroup), Some(engine)) = (&known.cgroup, &known.engine) {
                of.entry(cgroup).or_default().insert(engine);
            }
        }
        let only = |cgroup: &str| match of.get(cgroup).map(|engines| engines.iter().collect::<Vec<_>>()) {
            Some(engines) if engines.len() == 1 && is_telling(cgroup) => {
                engines.first().map(|id| (**id).clone())
            }
            _ => None,
        };
        let alone = self.known.iter().filter(|(_, known)| known.engine.is_none());
        let found: Vec<_> =
            alone.filter_map(|(pid, known)| Some((*pid, only(known.cgroup.as_deref()?)?))).collect();
        for (pid, engine) in found {
            if let Some(known) = self.known.get_mut(&pid) {
                known.engine = Some(engine);
            }
        }
    }

    fn processes(&self, holders: Option<Vec<GpuHolder>>) -> GpuProcesses {
        let Some(mut holders) = holders else {
            return GpuProcesses { view: ProcessView::Unsupported, processes: Vec::new() };
        };
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.vram), holder.pid));
        let hidden = |holder: &GpuHolder| holder.vram.is_none() || !self.known.contains_key(&holder.pid);
        let partial = self.blinkered || holders.len() > GPU_PROCESSES_MAX || holders.iter().any(hidden);
        let processes = holders.into_iter().take(GPU_PROCESSES_MAX).map(|GpuHolder { pid, vram }| {
            let known = self.known.get(&pid);
            GpuProcess {
                pid,
                name: known.and_then(|known| known.name.clone()),
                vram,
                engine: known.and_then(|known| known.engine.clone()),
            }
        });
        let view = if partial { ProcessView::Partial } else { ProcessView::Full };
        GpuProcesses { view, processes: processes.collect() }
    }
}

/// Whether processes of one control group belong together: the root, and what a login or a whole slice holds, do not.
fn is_telling(cgroup: &str) -> bool {
    let last = cgroup.rsplit('/').next().unwrap_or_default();
    !last.is_empty() && !last.ends_with(".slice") && !cgroup.contains("/user.slice/")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use aya_domain::Bytes;

    use super::*;

    /// A process of a made-up host.
    struct Made {
        pid: u32,
        parent: u32,
        cgroup: &'static str,
        port: Option<u16>,
    }

    fn make(root: &Path, all: &[Made]) {
        fs::create_dir_all(root.join("self/ns")).unwrap();
        symlink("pid:[4026531836]", root.join("self/ns/pid")).unwrap();
        for Made { pid, parent, cgroup, port } in all {
            let at = root.join(pid.to_string());
            fs::create_dir_all(at.join("fd")).unwrap();
            fs::create_dir_all(at.join("net")).unwrap();
            fs::create_dir_all(at.join(format!("task/{pid}"))).unwrap();
            fs::write(at.join("comm"), format!("p{pid}\n")).unwrap();
            fs::write(at.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            let stat = format!("{pid} (p{pid}) S {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid} 0 0");
            fs::write(at.join("stat"), stat).unwrap();
            let children: Vec<_> =
                all.iter().filter(|p| p.parent == *pid).map(|p| p.pid.to_string()).collect();
            fs::write(at.join(format!("task/{pid}/children")), children.join(" ")).unwrap();
            if let Some(port) = port {
                symlink(format!("socket:[{pid}]"), at.join("fd/3")).unwrap();
                let line = format!("  0: 00000000:{port:04X} 00000000:0000 0A 0:0 0:0 0 0 0 {pid} 1");
                fs::write(at.join("net/tcp"), format!("header\n{line}\n")).unwrap();
            }
        }
    }

    fn made(pid: u32, parent: u32, cgroup: &'static str, port: Option<u16>) -> Made {
        Made { pid, parent, cgroup, port }
    }

    fn engine(name: &str, port: u16) -> Located {
        Located { id: EndpointId::parse(name).unwrap(), port, host: Host::Ours, pid: None }
    }

    #[test]
    fn engines_on_the_same_port_of_their_containers_are_told_apart_by_their_processes() {
        let root = tempfile::tempdir().unwrap();
        let server = |pid| made(pid, 1, "/docker", Some(8000));
        make(
            root.path(),
            &[server(10), made(11, 10, "/docker", None), server(20), made(21, 20, "/docker", None)],
        );
        let found = |name, pid| Located { pid: Some(pid), ..engine(name, 8000) };
        let mut census = Census::new(Procfs::new(root.path()));
        let processes = census.take(held(&[11, 21]), vec![found("a", 10), found("b", 20)]).remove(0).1;
        assert_eq!(engines_of(&processes), [(21, Some("b")), (11, Some("a"))]);
    }

    fn held(pids: &[u32]) -> Vec<GpuHolders> {
        let holders = pids.iter().map(|pid| GpuHolder { pid: *pid, vram: Some(Bytes(u64::from(*pid))) });
        vec![GpuHolders { gpu: GpuUuid::parse("GPU-1").unwrap(), holders: Some(holders.collect()) }]
    }

    fn engines_of(processes: &GpuProcesses) -> Vec<(u32, Option<&str>)> {
        processes.processes.iter().map(|p| (p.pid, p.engine.as_ref().map(EndpointId::as_str))).collect()
    }

    #[test]
    fn a_holder_belongs_to_the_engine_that_listens_in_its_family_or_its_control_group() {
        let root = tempfile::tempdir().unwrap();
        make(
            root.path(),
            &[
                // One process that listens and holds.
                made(10, 1, "/system.slice/llama.service", Some(8001)),
                // A server with a helper of a helper.
                made(20, 1, "/user.slice/a", Some(8002)),
                made(21, 20, "/user.slice/a", None),
                made(22, 21, "/user.slice/a", None),
                // A launcher with a router and a shard.
                made(30, 1, "/docker/x", None),
                made(31, 30, "/docker/x", Some(8003)),
                made(32, 30, "/docker/x", None),
                // Of the same container, and started by another way.
                made(40, 1, "/docker/x", None),
                // Somebody else's.
                made(50, 1, "/user.slice/a", Some(9999)),
            ],
        );
        let engines = vec![engine("llama", 8001), engine("vllm", 8002), engine("tgi", 8003)];
        let mut census = Census::new(Procfs::new(root.path()));
        let processes = census.take(held(&[10, 22, 32, 40, 50]), engines.clone()).remove(0).1;
        assert_eq!(processes.view, ProcessView::Full);
        assert_eq!(
            engines_of(&processes),
            [(50, None), (40, Some("tgi")), (32, Some("tgi")), (22, Some("vllm")), (10, Some("llama"))]
        );
        assert_eq!(processes.processes[0].name.as_deref(), Some("p50"));
        fs::remove_dir_all(root.path().join("22/fd")).unwrap();
        fs::remove_dir_all(root.path().join("20/fd")).unwrap();
        let again = census.take(held(&[22]), engines).remove(0).1;
        assert_eq!(engines_of(&again), [(22, Some("vllm"))], "what is known is not asked again");
    }

    #[test]
    fn the_port_of_an_engine_elsewhere_is_nobodys_here() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &[made(10, 1, "/a", Some(8001)), made(20, 1, "/docker/x", Some(8001))]);
        for (pid, network) in [("self", 1), ("10", 1), ("20", 2)] {
            fs::create_dir_all(root.path().join(pid).join("ns")).unwrap();
            symlink(format!("net:[{network}]"), root.path().join(pid).join("ns/net")).unwrap();
        }
        let routes = "Main:\n  |-- 172.17.0.2\n     /32 host LOCAL\n";
        fs::write(root.path().join("20/net/fib_trie"), routes).unwrap();
        let at = |address: &str| Host::Other(address.parse().ok());
        for (host, expect) in [
            (Host::Ours, [Some("e"), Some("e")]),
            (at("172.17.0.2"), [Some("e"), None]),
            (at("192.0.2.7"), [None, None]),
            (Host::Other(None), [None, None]),
        ] {
            let mut census = Census::new(Procfs::new(root.path()));
            let engines = vec![Located { host, ..engine("e", 8001) }];
            let list = census.take(held(&[10, 20]), engines).remove(0).1;
            assert_eq!(engines_of(&list), [(20, expect[0]), (10, expect[1])], "{host:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_makes_the_view_partial_and_what_is_not_told_unsupported() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), &[made(10, 1, "/a", None)]);
        let mut census = Census::new(Procfs::new(root.path()));
        let mut view = |lists: Vec<GpuHolders>| census.take(lists, Vec::new()).remove(0).1;
        let gpu = || GpuUuid::parse("GPU-1").unwrap();
        assert_eq!(view(held(&[10])).view, ProcessView::Full);
        assert_eq!(view(held(&[])).view, ProcessView::Full);
        assert_eq!(view(held(&[10, 11])).view, ProcessView::Partial, "11 is not ours to see");
        let untold = Some(vec![GpuHolder { pid: 10, vram: None }]);
        assert_eq!(view(vec![GpuHolders { gpu: gpu(), holders: untold }]).view, ProcessView::Partial);
        let unsupported = view(vec![GpuHolders { gpu: gpu(), holders: None }]);
        assert_eq!((unsupported.view, unsupported.processes.len()), (ProcessView::Unsupported, 0));
        let many: Vec<u32> = (100..300).collect();
        assert_eq!(view(held(&many)).processes.len(), GPU_PROCESSES_MAX);
        let mut contained = Census::new(Procfs::new("/nonexistent"));
        let list = contained.take(held(&[]), Vec::new());
        assert_eq!(list[0].1.view, ProcessView::Partial, "in a container an empty list may be everybody's");
    }
}
