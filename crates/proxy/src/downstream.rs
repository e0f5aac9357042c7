//! Our HTTP/1.1 towards clients: a request's head read strictly, an answer's head written.
//!
//! Why not a general server: it hides from its user what came over the wire (it merges equal lengths and drops one
//! beside a transfer coding), keeps buffers of its own per connection, and copies every streamed piece once more. Here
//! are the pure parts; who reads and writes the socket owns all deadlines. Framing of a client is used up here: nothing
//! of it reaches an engine. It must never guess: what two parsers could read differently is refused.

mod answer;
mod fields;
mod head;

pub use answer::{AnswerLength, AnswerShape, CHUNK_END, FieldLines, chunk, write_head};
pub use fields::{Fields, plain_text};
pub use head::{HEADERS_MAX, HeadBytes, HeadError, RequestHead, parse};

#[cfg(test)]
mod tests;
