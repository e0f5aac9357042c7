//! The parts of `aya-bench`: three measurements, and the processes on the other side of what is measured.

pub(crate) mod agents;
pub(crate) mod engines;
pub(crate) mod hang;
pub(crate) mod load;
pub(crate) mod placement;
mod process;
pub(crate) mod relay;
pub(crate) mod steady;
mod table;
mod target;
