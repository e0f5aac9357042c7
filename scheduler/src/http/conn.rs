//! The client connection as an answer knows it.

use std::sync::Arc;

/// Names the connection that an answer belongs to.
#[derive(Debug)]
pub(crate) struct ConnState;

impl ConnState {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}
