//! Parsers that are private otherwise, for the tests that try them with hostile bytes. No other code uses this.

use crate::downstream::FieldLines;
use crate::framing::Framing;
use crate::upstream::{UpstreamError, parse_response};

/// What was read of the head of an engine's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    /// Bytes before the body, informational heads included.
    pub length: usize,
    pub framing: Framing,
    /// What may go on to the client.
    pub forward: FieldLines,
    /// In seconds.
    pub retry_after_s: Option<u32>,
}

/// Reads the head of an engine's answer; `None` while it is incomplete.
///
/// # Errors
/// [`UpstreamError`], as the relay would meet it.
pub fn response_head(input: &[u8]) -> Result<Option<AnswerHead>, UpstreamError> {
    let parsed = parse_response(input)?;
    Ok(parsed.map(|parsed| AnswerHead {
        length: parsed.length,
        framing: parsed.framing,
        forward: parsed.head.forward,
        retry_after_s: parsed.head.retry_after_s,
    }))
}
