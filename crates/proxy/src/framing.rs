//! Where a body ends: content-length, chunked, or the close of the connection.
//!
//! Shared by both sides of the relay. A pure state machine over whatever pieces the network gives. Strict on purpose, because two readers that disagree
//! about an end are how answers are split: sizes are plain hexadecimal without overflow, every line ends with CRLF,
//! extensions and trailers are bounded and dropped.

/// Longest chunk extension, in bytes.
const EXTENSION_MAX: u32 = 256;
/// All trailers together, in bytes.
const TRAILERS_MAX: u32 = 8 * 1024;
/// Digits of the largest chunk size that is accepted: 2^60.
const SIZE_DIGITS_MAX: u32 = 15;

/// Why the bytes after a head are no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("{what}")]
    Malformed { what: &'static str },
    #[error("it ends early")]
    Truncated,
}

/// How the head says that the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    Size {
        digits: u32,
        size: u64,
    },
    Extension {
        bytes: u32,
        size: u64,
    },
    SizeLineFeed {
        size: u64,
    },
    Chunk {
        left: u64,
    },
    ChunkReturn,
    ChunkLineFeed,
    /// `is_empty`: no byte of this trailer line yet.
    Trailer {
        bytes: u32,
        is_empty: bool,
    },
    TrailerLineFeed {
        bytes: u32,
        is_empty: bool,
    },
}

/// Takes the bytes after a head and gives the body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

impl Decoder {
    /// A decoder at the first byte after the head.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The connection was closed: whether that is the end of the body.
    ///
    /// # Errors
    /// [`FramingError::Truncated`] if it is not.
    pub fn end(&mut self) -> Result<(), FramingError> {
        if matches!(self.state, State::UntilClose | State::Done) {
            self.state = State::Done;
            Ok(())
        } else {
            Err(FramingError::Truncated)
        }
    }

    /// Appends the data among `input` to `out`; returns how many bytes of `input` belong to this body.
    ///
    /// # Errors
    /// [`FramingError::Malformed`].
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FramingError> {
        let mut used = 0;
        while !self.is_done() {
            let rest = input.get(used..).unwrap_or_default();
            let Some(first) = rest.first() else { break };
            used += match self.state {
                State::Length(left) => self.copy(rest, left, out),
                State::Chunk { left } => self.copy(rest, left, out),
                State::UntilClose => {
                    out.extend_from_slice(rest);
                    rest.len()
                }
                State::Done => 0,
                State::Size { .. }
                | State::Extension { .. }
                | State::SizeLineFeed { .. }
                | State::ChunkReturn
                | State::ChunkLineFeed
                | State::Trailer { .. }
                | State::TrailerLineFeed { .. } => {
                    self.state = self.line(*first)?;
                    1
                }
            };
        }
        Ok(used)
    }

    fn copy(&mut self, rest: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
        let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        out.extend_from_slice(rest.get(..take).unwrap_or_default());
        let left = left - take as u64;
        self.state = match (self.state, left) {
            (State::Chunk { .. }, 0) => State::ChunkReturn,
            (State::Chunk { .. }, left) => State::Chunk { left },
            (_, 0) => State::Done,
            (_, left) => State::Length(left),
        };
        take
    }

    /// One byte of chunk framing.
    fn line(&self, byte: u8) -> Result<State, FramingError> {
        let bad = |what| Err(FramingError::Malformed { what });
        match (self.state, byte) {
            (State::Size { digits: 0, .. }, b'\r' | b';') => bad("a chunk without size"),
            (State::Size { size, .. }, b'\r') => Ok(State::SizeLineFeed { size }),
            (State::Size { size, .. }, b';') => Ok(State::Extension { bytes: 0, size }),
            (State::Size { digits, size }, _) => match char::from(byte).to_digit(16) {
                None => bad("a chunk size that is not hexadecimal"),
                Some(_) if digits == SIZE_DIGITS_MAX => bad("a chunk size that overflows"),
                Some(digit) => Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }),
            },
            (State::Extension { size, .. }, b'\r') => Ok(State::SizeLineFeed { size }),
            (State::Extension { bytes, .. }, _) if bytes == EXTENSION_MAX => {
                bad("a chunk extension too long")
            }
            (State::Extension { .. }, 0..0x20) if byte != b'\t' => {
                bad("a control character in a chunk extension")
            }
            (State::Extension { bytes, size }, _) => Ok(State::Extension { bytes: bytes + 1, size }),
            (State::SizeLineFeed { size: 0 }, b'\n') => Ok(State::Trailer { bytes: 0, is_empty: true }),
            (State::SizeLineFeed { size }, b'\n') => Ok(State::Chunk { left: size }),
            (State::ChunkReturn, b'\r') => Ok(State::ChunkLineFeed),
            (State::ChunkLineFeed, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::Trailer { bytes, is_empty }, b'\r') => Ok(State::TrailerLineFeed { bytes, is_empty }),
            (State::Trailer { bytes, .. }, _) if bytes == TRAILERS_MAX => bad("trailers too long"),
            (State::Trailer { .. }, b'\n') => bad("a trailer line that does not end with CRLF"),
            (State::Trailer { bytes, .. }, _) => Ok(State::Trailer { bytes: bytes + 1, is_empty: false }),
            (State::TrailerLineFeed { is_empty: true, .. }, b'\n') => Ok(State::Done),
            (State::TrailerLineFeed { bytes, .. }, b'\n') => Ok(State::Trailer { bytes, is_empty: true }),
            _ => bad("a line that does not end with CRLF"),
        }
    }
}

#[cfg(test)]
mod tests;
