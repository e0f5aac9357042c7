//! The clients' side: the socket with its deadlines, connections, bodies, answers. Nothing here knows what a request is for.

pub(crate) mod answer;
pub(crate) mod attention;
pub(crate) mod body;
mod h2;
pub(crate) mod head;
pub(crate) mod respond;
pub(crate) mod serve;
mod wire;
