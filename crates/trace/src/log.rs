//! The decision log: decisions with their inputs as they are made, records as requests end, in segments that can each
//! be replayed alone.

use std::fmt;
use std::path::Path;

use crate::inputs::{Decided, Encoder, FORMAT, HeadJson};
use crate::json::RecordJson;
use crate::segments::{Directory, SegmentError, SegmentWriter, Storage};

/// Writes one scheduler's log.
pub struct DecisionLog<S: Storage = Directory> {
    segments: SegmentWriter<S>,
    encoder: Encoder,
    lines: Vec<u8>,
}

impl<S: Storage> fmt::Debug for DecisionLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog").finish_non_exhaustive()
    }
}

impl DecisionLog {
    /// A log in this directory, which is made if need be. Its segments are its own: others may write there too.
    ///
    /// # Errors
    /// [`SegmentError::Directory`] if the directory cannot be made or listed.
    pub fn open(dir: &Path, segment_max: usize, segments_max: usize) -> Result<Self, SegmentError> {
        SegmentWriter::open(dir, segment_max, segments_max).map(Self::on)
    }
}

impl<S: Storage> DecisionLog<S> {
    /// A log in these segments.
    pub fn on(segments: SegmentWriter<S>) -> Self {
        Self { segments, encoder: Encoder::default(), lines: Vec::new() }
    }

    /// Writes a decision with its inputs.
    ///
    /// # Errors
    /// It is not on disk, except for [`SegmentError::Delete`]; the next one is written in full.
    pub fn decided(&mut self, decided: &Decided<'_>) -> Result<(), SegmentError> {
        self.lines.clear();
        self.encoder.line(decided, &mut self.lines)?;
        if self.segments.begins_with(self.lines.len()) {
            self.head()?;
            self.encoder.line(decided, &mut self.lines)?;
        }
        let written = self.segments.append(&self.lines);
        if written.as_ref().is_err_and(|error| !matches!(error, SegmentError::Delete { .. })) {
            self.encoder.reset();
        }
        written
    }

    /// Writes the record of a request that has ended.
    ///
    /// # Errors
    /// It is not on disk, except for [`SegmentError::Delete`].
    pub fn record(&mut self, record: &RecordJson) -> Result<(), SegmentError> {
        self.lines.clear();
        serde_json::to_writer(&mut self.lines, record)?;
        self.lines.push(b'\n');
        if self.segments.begins_with(self.lines.len()) {
            self.head()?;
            serde_json::to_writer(&mut self.lines, record)?;
            self.lines.push(b'\n');
        }
        self.segments.append(&self.lines)
    }

    /// Hands the medium everything; for the end of the process.
    ///
    /// # Errors
    /// [`SegmentError::Write`] if it does not take it.
    pub fn flush(&mut self) -> Result<(), SegmentError> {
        self.segments.flush()
    }

    /// The beginning of a segment, behind which the first decision is written in full.
    fn head(&mut self) -> Result<(), SegmentError> {
        self.encoder.reset();
        self.lines.clear();
        let head = HeadJson {
            line: "segment".to_owned(),
            format: FORMAT,
            aya: env!("CARGO_PKG_VERSION").to_owned(),
        };
        serde_json::to_writer(&mut self.lines, &head)?;
        self.lines.push(b'\n');
        Ok(())
    }
}
