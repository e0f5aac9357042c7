//! Records on disk: JSON lines in numbered segments, a bounded number of them.
//!
//! One line is one write, so that a crash can tear at most the last line; a failed write is cut off again, so that a full
//! disk never leaves a broken line in the middle. Lines are not synced one by one: a power failure may cost the last
//! seconds, a crash of the process costs nothing that was appended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

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

// Two schedulers may write into one directory, as in a rolling restart: each has segments of its own.

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

    /// A new, empty segment with the first number from this one on that nobody else uses.
    ///
    /// # Errors
    /// As the medium says.
    fn create(&mut self, from: u64) -> io::Result<(u64, Self::Segment)>;

    /// Deletes a segment.
    ///
    /// # Errors
    /// As the medium says; `WouldBlock`: another process writes into it.
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

/// The same, of one that somebody compressed.
fn number_of_any(path: &Path) -> Option<u64> {
    if path.extension()? == "gz" { number_of(&path.with_extension("")) } else { number_of(path) }
}

impl Storage for Directory {
    type Segment = File;

    fn numbers(&self) -> io::Result<Vec<u64>> {
        Ok(segments_in(&self.0)?.iter().filter_map(|path| number_of(path)).collect())
    }

    /// A segment belongs to the process that holds its lock, until it ends, however it ends. One without a byte was
    /// left by a full disk, and may be taken over.
    fn create(&mut self, from: u64) -> io::Result<(u64, File)> {
        let mut number = from;
        loop {
            let file = OpenOptions::new().append(true).create(true).open(self.path(number))?;
            match lock(&file) {
                Ok(()) if file.metadata()?.len() == 0 => return Ok((number, file)),
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            number = number.checked_add(1).ok_or_else(|| io::Error::other("no segment number is left"))?;
        }
    }

    fn delete(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        lock(&File::open(&path)?)?;
        std::fs::remove_file(path)
    }
}

fn lock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
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
        })
    }

    /// Whether so many further bytes begin a new segment, or go into one without a byte.
    #[must_use]
    pub fn begins_with(&self, bytes: usize) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.current
            .as_ref()
            .is_none_or(|current| current.len == 0 || current.len.saturating_add(bytes) > self.segment_max)
    }

    /// Writes whole lines in one piece; never a part of them.
    ///
    /// # Errors
    /// The lines are not on disk, except for [`SegmentError::Delete`]. The next call tries again.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), SegmentError> {
        let bytes = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let full = |current: &Current<S::Segment>| {
            current.len > 0 && current.len.saturating_add(bytes) > self.segment_max
        };
        if self.current.as_ref().is_some_and(full) {
            self.current = None;
        }
        let mut current = match self.current.take() {
            Some(current) => current,
            None => self.begin()?,
        };
        if let Err(source) = current.segment.write_all(lines) {
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
        let failed = |source| SegmentError::Write { number: self.next, source };
        let (number, segment) = self.storage.create(self.next).map_err(failed)?;
        Ok(Current { number, segment, len: 0 })
    }

    fn prune(&mut self) -> Result<(), SegmentError> {
        let current = self.current.as_ref().map(|current| current.number);
        let mut at = 0;
        while self.kept.len() > self.segments_max {
            let Some(number) = self.kept.get(at).copied().filter(|number| Some(*number) != current) else {
                break;
            };
            match self.storage.delete(number) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Another scheduler of this directory still writes into it; a younger one of ours goes instead.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    at += 1;
                    continue;
                }
                Err(source) => return Err(SegmentError::Delete { number, source }),
            }
            self.kept.remove(at);
        }
        Ok(())
    }
}

/// The segments of a directory, oldest first; those compressed with gzip too.
///
/// # Errors
/// The directory cannot be listed.
pub fn segments_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(number) = number_of_any(&path) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests;
