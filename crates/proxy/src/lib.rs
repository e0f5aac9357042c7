//! The HTTP toolbox of the relay: request bodies, event streams, and our own pooled HTTP/1.1 client for engines.
//!
//! - [`scan`](mod@scan) reads a request body once, [`splice`](mod@splice) changes a few keys of it without re-serialising;
//! - [`upstream`] sends it to an engine over a pooled socket that the request's own task polls;
//! - [`sse`] watches the answer's event stream as it passes, [`assemble`] makes one JSON answer of it;
//! - [`downstream`] is the other side: a client's request read strictly, and our answer written;
//! - [`headers`] and [`openai_error`] hold what may cross between the two sides.
//!
//! It knows nothing of placement, leases or retries: it says what happened and who was at fault, the caller decides.
//! It must never build a tree of a prompt, copy a body, hold a lock, or let framing of one side reach the other.

pub mod assemble;
pub mod continued;
pub mod downstream;
mod framing;
#[doc(hidden)]
pub mod fuzzing;
pub mod headers;
pub mod openai_error;
pub mod prefix;
pub mod scan;
mod scratch;
pub mod splice;
pub mod sse;
mod timer;
pub mod upstream;

pub use assemble::{AnswerKind, AssembleError, Assembler};
pub use framing::{Decoder, Framing, FramingError};
pub use openai_error::ApiError;
pub use prefix::{PrefixKey, prompt_prefix};
pub use scan::{BodyView, ScanError, ScanLimits, scan};
pub use scratch::poll_read;
pub use splice::{Edits, SplicedBody, splice};
pub use sse::{SseError, SseScanner, StreamFacts};
pub use timer::PhaseTimer;
pub use upstream::{
    RequestHead, Response, ResponseBody, ResponseHead, UpstreamConfig, UpstreamError, exchange,
};
