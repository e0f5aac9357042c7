//! What must be left of a run: nothing in flight anywhere, and one outcome per request.

use aya_sim_engine::invariants;

use crate::run::Farm;

/// Which law a run has broken. It is a defect of the simulation or of the crates it runs, never of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("engine {at}: {violation}")]
    Engine { at: usize, violation: invariants::Violation },
    #[error("engine {at} still has work")]
    EngineBusy { at: usize },
    #[error("the ledger of scheduler {scheduler} still counts something on endpoint {at}")]
    Ledger { scheduler: usize, at: usize },
    #[error("{waiting} requests still wait at scheduler {scheduler}")]
    Queue { scheduler: usize, waiting: usize },
    #[error("request {request} has {outcomes} outcomes")]
    Outcomes { request: usize, outcomes: u32 },
    #[error("a name of the simulation is none")]
    Names,
}

/// The laws at the end of a run.
pub(crate) fn check(farm: &Farm<'_>) -> Result<(), Violation> {
    for (at, site) in farm.sites.iter().enumerate() {
        invariants::full(&site.engine).map_err(|violation| Violation::Engine { at, violation })?;
        if !site.engine.is_idle() {
            return Err(Violation::EngineBusy { at });
        }
    }
    for (scheduler, state) in farm.schedulers.iter().enumerate() {
        if let Some(at) = state.cells.iter().position(|cell| !cell.is_empty()) {
            return Err(Violation::Ledger { scheduler, at });
        }
        let waiting = state.held.len();
        if waiting > 0 {
            return Err(Violation::Queue { scheduler, waiting });
        }
    }
    let odd = farm.requests.iter().enumerate().find(|(_, request)| request.outcomes != 1);
    odd.map_or(Ok(()), |(request, state)| Err(Violation::Outcomes { request, outcomes: state.outcomes }))
}
