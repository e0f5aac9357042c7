//! The pieces of the clients' side: deadlines, heads, bodies, answers. Nothing here knows what a request is for.

pub(crate) mod body;
pub(crate) mod conn;
pub(crate) mod head;
pub(crate) mod respond;
pub(crate) mod serve;
mod wire;
