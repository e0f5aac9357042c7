//! Reading segments line by line, plain or compressed, whatever state they are in.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::inputs::{DecidedJson, HeadJson};
use crate::json::RecordJson;

/// The longest line that is read: a farm of 10,000 endpoints in full stays below a half of it.
pub(crate) const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One line.
#[derive(Debug)]
pub(crate) enum Line {
    Head(HeadJson),
    Decided(Box<DecidedJson>),
    Record(Box<RecordJson>),
}

/// Opens a segment; gzip is recognised by content.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        Ok(Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))))
    } else {
        Ok(Box::new(file))
    }
}

/// Finished lines in order, each with its number from 1.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    bytes: Vec<u8>,
    pub(crate) number: usize,
    /// Bytes of a last line that was never finished; it is dropped.
    pub(crate) torn_bytes: Option<usize>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) const fn new(from: R) -> Self {
        Self { from, bytes: Vec::new(), number: 0, torn_bytes: None }
    }

    /// The next line's bytes; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.bytes.clear();
        self.number += 1;
        let mut bounded = io::Read::take(&mut self.from, LINE_BYTES_MAX);
        let bytes = bounded.read_until(b'\n', &mut self.bytes)?;
        if bytes == 0 {
            return Ok(None);
        }
        if self.bytes.last() != Some(&b'\n') {
            if u64::try_from(bytes).is_ok_and(|b| b == LINE_BYTES_MAX) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
            }
            self.torn_bytes = Some(bytes);
            return Ok(None);
        }
        Ok(Some(&self.bytes))
    }
}

/// What a line is.
pub(crate) fn parse(bytes: &[u8]) -> Result<Line, serde_json::Error> {
    #[derive(Deserialize)]
    struct Kind {
        line: Option<String>,
    }
    match serde_json::from_slice::<Kind>(bytes)?.line.as_deref() {
        Some("segment") => serde_json::from_slice(bytes).map(Line::Head),
        Some("decided") => serde_json::from_slice(bytes).map(|line| Line::Decided(Box::new(line))),
        Some(_) | None => serde_json::from_slice(bytes).map(|record| Line::Record(Box::new(record))),
    }
}

/// The records of a segment.
#[derive(Debug, Default)]
pub struct Contents {
    pub records: Vec<RecordJson>,
    /// Bytes of a last line that was never finished; it is dropped.
    pub torn_bytes: Option<usize>,
    /// Finished lines, from 1, that are nothing known; they are skipped.
    pub bad_lines: Vec<usize>,
}

/// Reads a segment's records to its end.
///
/// # Errors
/// The medium cannot be read, or a line is longer than 16 MiB.
pub fn read(segment: impl BufRead) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut lines = Lines::new(segment);
    loop {
        let number = lines.number + 1;
        let Some(bytes) = lines.next()? else { break };
        match parse(bytes) {
            Ok(Line::Record(record)) => contents.records.push(*record),
            Ok(Line::Head(_) | Line::Decided(_)) => {}
            Err(_) => contents.bad_lines.push(number),
        }
    }
    contents.torn_bytes = lines.torn_bytes;
    Ok(contents)
}
