//! Records on disk: JSON lines in numbered segments, a bounded number of them.
//!
//! One line is one write, so that a crash can tear at most the last line; a failed write is cut off again, so that a full
//! disk never leaves a broken line in the middle. Lines are not synced one by one: a power failure may cost the last
//! seconds, a crash of the process costs nothing that was appended.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use crate::json::RecordJson;

/// The longest line that is read: a record of 1,000 candidates stays below a tenth of it.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a record is not on disk.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The directory cannot be made or listed.
    #[error("decision directory: {0}")]
    Directory(#[source] io::Error),
    /// The line could not be written whole; nothing of it remains.
    #[error("decision segment {number}: {source}")]
    Write { number: u64, source: io::Error },
    /// The record is on disk, but an old segment could not be deleted.
    #[error("old decision segment {number} cannot be deleted: {source}")]
    Delete { number: u64, source: io::Error },
    /// The record cannot be expressed as JSON.
    #[error("decision record: {0}")]
    Json(#[from] serde_json::Error),
}

/// One open segment.
pub trait Segment: Write {
    /// Shortens the segment to this many bytes; the next write goes there.
    ///
    /// # Errors
    /// As the medium says.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Segment for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Where segments are; a directory, or a test's stand-in with a full disk.
pub trait Storage {
    type Segment: Segment;

    /// The numbers of all segments, in any order.
    ///
    /// # Errors
    /// As the medium says.
    fn numbers(&self) -> io::Result<Vec<u64>>;

    /// A new, empty segment; one of the same number is emptied.
    ///
    /// # Errors
    /// As the medium says.
    fn create(&mut self, number: u64) -> io::Result<Self::Segment>;

    /// Deletes a segment.
    ///
    /// # Errors
    /// As the medium says.
    fn delete(&mut self, number: u64) -> io::Result<()>;
}

/// Segments as files `decisions-00000001.jsonl` of one directory.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    fn path(&self, number: u64) -> PathBuf {
        self.0.join(format!("decisions-{number:08}.jsonl"))
    }
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("decisions-")?.strip_suffix(".jsonl")?.parse().ok()
}

impl Storage for Directory {
    type Segment = File;

    fn numbers(&self) -> io::Result<Vec<u64>> {
        Ok(segments_in(&self.0)?.iter().filter_map(|path| number_of(path)).collect())
    }

    fn create(&mut self, number: u64) -> io::Result<File> {
        let path = self.path(number);
        File::create(&path)?;
        OpenOptions::new().append(true).open(path)
    }

    fn delete(&mut self, number: u64) -> io::Result<()> {
        std::fs::remove_file(self.path(number))
    }
}

/// Appends records, begins a new segment when one is full, deletes the oldest beyond the limit.
#[derive(Debug)]
pub struct SegmentWriter<S: Storage = Directory> {
    storage: S,
    segment_max: u64,
    segments_max: usize,
    /// Kept segments that hold records, oldest first, the current one included.
    kept: Vec<u64>,
    next: u64,
    current: Option<Current<S::Segment>>,
    line: Vec<u8>,
}

#[derive(Debug)]
struct Current<W> {
    number: u64,
    segment: W,
    len: u64,
}

impl SegmentWriter {
    /// A writer into this directory, which is made if need be. It begins a segment of its own: what an earlier
    /// process left may end in a torn line.
    ///
    /// # Errors
    /// [`SegmentError::Directory`] if the directory cannot be made or listed.
    pub fn open(dir: &Path, segment_max: usize, segments_max: usize) -> Result<Self, SegmentError> {
        std::fs::create_dir_all(dir).map_err(SegmentError::Directory)?;
        Self::on(Directory(dir.to_owned()), segment_max, segments_max)
    }
}

impl<S: Storage> SegmentWriter<S> {
    /// A writer onto any medium.
    ///
    /// # Errors
    /// [`SegmentError::Directory`] if the medium cannot list its segments.
    pub fn on(storage: S, segment_max: usize, segments_max: usize) -> Result<Self, SegmentError> {
        let mut kept = storage.numbers().map_err(SegmentError::Directory)?;
        kept.sort_unstable();
        Ok(Self {
            storage,
            segment_max: u64::try_from(segment_max).unwrap_or(u64::MAX),
            segments_max: segments_max.max(1),
            next: kept.last().map_or(1, |last| last.saturating_add(1)),
            kept,
            current: None,
            line: Vec::new(),
        })
    }

    /// Writes one record as one line.
    ///
    /// # Errors
    /// The record is not on disk, except for [`SegmentError::Delete`]. The next call tries again.
    pub fn append(&mut self, record: &RecordJson) -> Result<(), SegmentError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        let bytes = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        let full = |current: &Current<S::Segment>| current.len > 0 && current.len + bytes > self.segment_max;
        if self.current.as_ref().is_some_and(full) {
            self.current = None;
        }
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.begin()?,
        };
        if let Err(source) = current.segment.write_all(&self.line) {
            let number = current.number;
            // If not even cutting works, the torn line stays the last one of its segment.
            if current.segment.cut(current.len).is_ok() {
                self.current = Some(current);
            }
            return Err(SegmentError::Write { number, source });
        }
        if current.len == 0 {
            self.kept.push(current.number);
            self.next = current.number.saturating_add(1);
        }
        current.len += bytes;
        self.current = Some(current);
        self.prune()
    }

    /// Hands the medium everything; for the end of the process.
    ///
    /// # Errors
    /// [`SegmentError::Write`] if it does not take it.
    pub fn flush(&mut self) -> Result<(), SegmentError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let number = current.number;
        current.segment.flush().map_err(|source| SegmentError::Write { number, source })
    }

    /// The number is used up only by the first record: a full disk must not make empty segments that push out
    /// full ones.
    fn begin(&mut self) -> Result<Current<S::Segment>, SegmentError> {
        let number = self.next;
        let segment = self.storage.create(number).map_err(|source| SegmentError::Write { number, source })?;
        Ok(Current { number, segment, len: 0 })
    }

    fn prune(&mut self) -> Result<(), SegmentError> {
        while self.kept.len() > self.segments_max {
            let Some(number) = self.kept.first().copied() else { break };
            match self.storage.delete(number) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(SegmentError::Delete { number, source }),
            }
            self.kept.remove(0);
        }
        Ok(())
    }
}

/// What a segment holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub records: Vec<RecordJson>,
    /// Bytes of a last line that was never finished; it is dropped.
    pub torn_bytes: Option<usize>,
    /// Finished lines, from 1, that are not records; they are skipped.
    pub bad_lines: Vec<usize>,
}

/// Reads a segment to its end.
///
/// # Errors
/// The medium cannot be read, or a line is longer than 8 MiB.
pub fn read(mut segment: impl BufRead) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut bounded = io::Read::take(&mut segment, LINE_BYTES_MAX);
        let bytes = bounded.read_until(b'\n', &mut line)?;
        if bytes == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            if u64::try_from(bytes).is_ok_and(|b| b == LINE_BYTES_MAX) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {number} is too long")));
            }
            contents.torn_bytes = Some(bytes);
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => contents.records.push(record),
            Err(_) => contents.bad_lines.push(number),
        }
    }
    Ok(contents)
}

/// The segments of a directory, oldest first.
///
/// # Errors
/// The directory cannot be listed.
pub fn segments_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(number) = number_of(&path) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests;
