//! Cuts a byte stream into server-sent events, as the HTML standard has it.
//!
//! Lines end with LF, CRLF or CR, a first byte order mark is skipped, several `data` lines are joined with LF, an
//! event without its closing empty line does not count. Must never copy an event that lies whole within a chunk.

use memchr::memchr2;

use super::SseError;

/// A part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// The data of one event, never empty.
    Data(&'a [u8]),
    /// A comment line, the keep-alive of event streams.
    Comment,
}

enum Line<'a> {
    Blank,
    Comment,
    Data(&'a [u8]),
    Other,
}

#[derive(Debug)]
pub(crate) struct Splitter {
    limit: usize,
    /// Bytes of the current event's lines that have ended.
    event: usize,
    /// All bytes since the last empty line, as they came: no whole event ends in them.
    pending: usize,
    /// The beginning of a line that a chunk cut.
    line: Vec<u8>,
    /// Data lines of the current event that could not be looked at in place.
    data: Vec<u8>,
    has_data: bool,
    /// The last chunk ended with CR: a LF that comes next belongs to it.
    skip_line_feed: bool,
    is_first_line: bool,
}

impl Splitter {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            event: 0,
            pending: 0,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            skip_line_feed: false,
            is_first_line: true,
        }
    }

    /// Calls `sink` for everything that ends in this chunk.
    pub(crate) fn feed(&mut self, chunk: &[u8], mut sink: impl FnMut(Item<'_>)) -> Result<(), SseError> {
        let mut rest = chunk;
        if self.skip_line_feed && !rest.is_empty() {
            self.skip_line_feed = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        self.pending += rest.len();
        // Data of the current event that lies in this chunk.
        let mut held: Option<&[u8]> = None;
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let (piece, tail) = rest.split_at(end);
            rest = self.after_line_end(tail);
            let line_bytes = self.line.len() + piece.len();
            self.count_line(line_bytes, rest.len())?;
            if self.line.is_empty() {
                let line = self.classify(piece);
                self.take_in_place(&line, &mut held, &mut sink);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(piece);
                let line = self.classify(&whole);
                self.keep(held.take());
                self.take_cut(&line, &mut sink);
                whole.clear();
                self.line = whole;
            }
        }
        let begun = self.line.len() + rest.len();
        if begun > 0 {
            // Between two lines there is nothing to bound: the next one may be the empty one that ends the event.
            self.check(self.event + begun)?;
        }
        self.line.extend_from_slice(rest);
        self.keep(held);
        Ok(())
    }

    /// Bytes at the end of what was fed that belong to an event that is not whole yet.
    pub(crate) const fn pending(&self) -> usize {
        self.pending
    }

    /// Bounds an event by all of its lines, those that are ignored too, so that nobody has to hold more of it.
    fn count_line(&mut self, line_bytes: usize, rest: usize) -> Result<(), SseError> {
        if line_bytes == 0 {
            self.event = 0;
            self.pending = rest;
            return Ok(());
        }
        self.check(self.event + line_bytes)?;
        self.event += line_bytes + 1;
        Ok(())
    }

    /// The bytes behind the line end that `tail` begins with.
    fn after_line_end<'c>(&mut self, tail: &'c [u8]) -> &'c [u8] {
        match tail {
            [b'\r', b'\n', rest @ ..] => rest,
            [b'\r'] => {
                self.skip_line_feed = true;
                &[]
            }
            [_, rest @ ..] => rest,
            [] => &[],
        }
    }

    fn check(&self, bytes: usize) -> Result<(), SseError> {
        if bytes > self.limit { Err(SseError::EventTooLong { limit: self.limit }) } else { Ok(()) }
    }

    fn classify<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        let line = if std::mem::take(&mut self.is_first_line) {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        } else {
            line
        };
        match line {
            [] => Line::Blank,
            [b':', ..] => Line::Comment,
            b"data" => Line::Data(&[]),
            [b'd', b'a', b't', b'a', b':', b' ', value @ ..] | [b'd', b'a', b't', b'a', b':', value @ ..] => {
                Line::Data(value)
            }
            _ => Line::Other,
        }
    }

    fn take_in_place<'c>(
        &mut self,
        line: &Line<'c>,
        held: &mut Option<&'c [u8]>,
        sink: &mut impl FnMut(Item<'_>),
    ) {
        match (line, *held) {
            (Line::Data(value), None) if !self.has_data => *held = Some(value),
            (Line::Blank, Some(data)) => {
                *held = None;
                if !data.is_empty() {
                    sink(Item::Data(data));
                }
            }
            (Line::Data(_), _) => {
                self.keep(held.take());
                self.take_cut(line, sink);
            }
            (Line::Blank | Line::Comment | Line::Other, _) => self.take_cut(line, sink),
        }
    }

    /// Takes a line whose event has no data that is still in place.
    fn take_cut(&mut self, line: &Line<'_>, sink: &mut impl FnMut(Item<'_>)) {
        match line {
            Line::Data(value) => self.keep(Some(value)),
            Line::Comment => sink(Item::Comment),
            Line::Blank => {
                if !self.data.is_empty() {
                    sink(Item::Data(&self.data));
                }
                self.data.clear();
                self.has_data = false;
            }
            Line::Other => {}
        }
    }

    fn keep(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
    }
}
