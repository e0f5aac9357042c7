//! What a decision was made from, held only until the journal has written it: a snapshot must not live as long as a
//! request does.

use std::sync::Arc;

use aya_domain::{Decision, DecisionId, MonoTime, Request};
use aya_placement::Policy;
use aya_trace::{KnowledgeRead, OwnRead};

use crate::view::FarmView;

/// The arguments of one call of `decide`.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) view: Arc<FarmView>,
    pub(crate) loads: Vec<OwnRead>,
    pub(crate) knowledge: KnowledgeRead,
    pub(crate) request: Request,
    pub(crate) policy: Policy,
    pub(crate) now: MonoTime,
    pub(crate) seed: u64,
}

/// A decision and, where they are recorded, its inputs.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) decision: Arc<Decision>,
    pub(crate) inputs: Option<Box<Inputs>>,
}

/// One decision on its way to the disk.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) decision_id: DecisionId,
    pub(crate) attempt: u32,
    pub(crate) decision: Arc<Decision>,
    pub(crate) inputs: Box<Inputs>,
}

impl Captured {
    /// As the decision log takes it.
    pub(crate) fn as_decided(&self) -> aya_trace::Decided<'_> {
        let inputs = &self.inputs;
        aya_trace::Decided {
            decision_id: &self.decision_id,
            attempt: self.attempt,
            inputs: aya_trace::Inputs {
                snapshot: &inputs.view.snapshot,
                loads: &inputs.loads,
                knowledge: Some(&inputs.knowledge),
                request: &inputs.request,
                policy: &inputs.policy,
                now: inputs.now,
                seed: inputs.seed,
            },
            decision: &self.decision,
        }
    }
}
