//! Whether another look would find something else than the last one: a look opens some files of every process that holds
//! a GPU, and mostly nothing has changed.
//!
//! Where engines are reached follows from who holds the GPUs and from what listens in their networks. While both are the
//! same, so is the survey. What follows from neither (a child that went into a network of its own) is found by the next
//! full look.

use std::path::PathBuf;
use std::sync::Arc;

use aya_config::DiscoveryMode;

use super::survey::{Survey, survey};
use crate::procfs::{Listening, Procfs};

/// Looks that may be left out one after another: half a minute at the usual period.
const LEFT_OUT_MAX: u32 = 5;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mode: DiscoveryMode,
    /// The processes that hold the GPUs.
    pub(super) holders: Vec<u32>,
    /// Processes that were found to be engines: they may have let go of their GPU for a while.
    pub(super) kept: Vec<u32>,
}

/// The last look, if there was one.
#[derive(Debug, Default)]
pub(super) struct Vigil(Option<Last>);

#[derive(Debug)]
struct Last {
    wanted: Wanted,
    networks: Vec<(PathBuf, Listening)>,
    survey: Arc<Survey>,
    left_out: u32,
}

impl Vigil {
    /// What there is; `own` is this process.
    pub(super) fn look(&mut self, proc: &Procfs, wanted: Wanted, own: u32) -> Arc<Survey> {
        // Read before the look, so that what begins to listen while it goes on is news afterwards.
        let networks = networks(proc, &wanted, own);
        if let Some(last) = &mut self.0
            && wanted.mode == DiscoveryMode::Gpu
            && (&last.wanted, &last.networks) == (&wanted, &networks)
            && last.left_out < LEFT_OUT_MAX
        {
            last.left_out += 1;
            return Arc::clone(&last.survey);
        }
        let survey = Arc::new(survey(proc, wanted.mode, &wanted.holders, &wanted.kept, own));
        self.0 = Some(Last { wanted, networks, survey: Arc::clone(&survey), left_out: 0 });
        survey
    }
}

/// What listens in the networks of those that hold GPUs and in our own, where ports of containers are published.
fn networks(proc: &Procfs, wanted: &Wanted, own: u32) -> Vec<(PathBuf, Listening)> {
    let mut networks: Vec<(PathBuf, Listening)> = Vec::new();
    for pid in [own].iter().chain(&wanted.holders).chain(&wanted.kept) {
        let name = proc.network_name(*pid);
        if !networks.iter().any(|(known, _)| *known == name) {
            networks.push((name, proc.listening_in_network_of(*pid)));
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::made::Made;

    #[test]
    fn a_look_is_left_out_while_the_holders_and_what_listens_are_the_same() {
        let made = Made::new();
        made.process(1, 0, "init");
        for pid in [10, 20, 60] {
            made.process(pid, 1, "python3");
        }
        made.listens(10, 8000);
        made.listens(60, 8083);
        let mut vigil = Vigil::default();
        let mut look = |holders: &[u32]| {
            let wanted = Wanted { mode: DiscoveryMode::Gpu, holders: holders.to_vec(), kept: Vec::new() };
            vigil.look(&made.proc(), wanted, 60)
        };
        let ports = |survey: &Survey| -> Vec<u16> {
            survey.listeners.iter().map(|listener| listener.site.addr.port()).collect()
        };
        let first = look(&[10, 20]);
        assert_eq!(ports(&first), [8000]);
        let is_same = |survey: &Arc<Survey>, other: &Arc<Survey>| Arc::ptr_eq(survey, other);
        for _ in 0..LEFT_OUT_MAX {
            assert!(is_same(&look(&[10, 20]), &first));
        }
        let again = look(&[10, 20]);
        assert!(!is_same(&again, &first) && *again == *first, "everything is looked at now and then");
        made.listens(20, 8001);
        assert_eq!(ports(&look(&[10, 20])), [8000, 8001], "another port");
        assert_eq!(ports(&look(&[10])), [8000], "another holder");
        made.contained(10, "172.17.0.3");
        assert_eq!(look(&[10]).listeners[0].site.addr.to_string(), "172.17.0.3:8000", "another network");
    }

    #[test]
    fn where_every_process_may_be_an_engine_every_look_is_a_full_one() {
        let made = Made::new();
        made.process(1, 0, "init");
        let mut vigil = Vigil::default();
        let mut look = || {
            let wanted = Wanted { mode: DiscoveryMode::All, holders: Vec::new(), kept: Vec::new() };
            vigil.look(&made.proc(), wanted, 60)
        };
        let (first, second) = (look(), look());
        assert!(!Arc::ptr_eq(&first, &second));
    }
}
