//! The clients' side: listener, deadlines, heads, bodies, errors.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod conn;
mod head;
pub(crate) mod respond;
mod service;

pub(crate) use service::{known_models, printable};
