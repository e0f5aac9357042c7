//! What an account knows of a wait for room: since when, what for, and what was decided meanwhile, in case the client does
//! not wait to be told.

use aya_admission::Shed;
use aya_domain::{HoldReason, MonoTime};
use aya_trace::WaitedFor;

use super::Account;
use crate::pipeline::inputs::Decided;

impl Account {
    /// The request began to wait for room.
    pub(crate) fn queued(&mut self, now: MonoTime, position: usize, what: WaitedFor) {
        if let Some(open) = &mut self.open {
            open.queued_at = Some(now);
            open.admission.position = open.admission.position.or(Some(position));
            open.admission.waited_for = open.admission.waited_for.or(Some(what));
        }
    }

    /// What was decided while it waits; if its client leaves now, that is its decision.
    pub(crate) fn hold(&mut self, reason: HoldReason, decided: Decided) {
        if let Some(open) = &mut self.open {
            open.held = Some((reason, decided));
        }
    }

    pub(crate) fn held(&self) -> Option<&(HoldReason, Decided)> {
        self.open.as_ref()?.held.as_ref()
    }

    /// It waits no longer, or is told why.
    pub(crate) fn take_held(&mut self) -> Option<(HoldReason, Decided)> {
        self.open.as_mut()?.held.take()
    }

    /// It was refused for what was predicted.
    pub(crate) fn shed(&mut self, shed: Shed) {
        self.shared.metrics.admission.shed(&shed, self.open.as_ref().and_then(|open| open.request.as_ref()));
        if let Some(open) = &mut self.open {
            open.admission.shed = Some(shed);
        }
    }
}
