//! One request's record out of a directory of segments, newest first.
//!
//! Segments have no index: a record is asked for rarely, and bytes are searched at the speed of the disk. What is searched
//! has a limit, so that a question costs a second and not an hour.

use std::io::{self, BufRead};
use std::path::Path;

use aya_domain::{DecisionId, RequestId, RequestKind, WallTime};
use memchr::memmem::Finder;

use crate::inputs::Case;
use crate::json::{RecordJson, decision_json};
use crate::lines::{Line, Lines, open, parse};
use crate::replay::visit;
use crate::segments::segments_in;

/// What a search came to.
#[derive(Debug)]
pub enum Found {
    Record(Box<RecordJson>),
    /// No segment has it.
    Absent,
    /// The limit was reached before the oldest segment.
    GaveUp,
}

/// The newest record of a decision or request id, with its last decision made again from its inputs. Reads at most
/// `bytes_max` bytes of lines, the newest segments first, and for the decision at most two segments once more.
///
/// # Errors
/// The directory or a segment cannot be read.
pub fn find(dir: &Path, id: &str, bytes_max: u64) -> io::Result<Found> {
    let segments = segments_in(dir)?;
    let mut left = bytes_max;
    let finder = Finder::new(id.as_bytes());
    for (at, path) in segments.iter().enumerate().rev() {
        let record = match open(path) {
            Ok(lines) => record_in(lines, id, &finder, &mut left)?,
            // The oldest are deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(mut record) = record {
            // A decision stands before its record; mostly in the same segment.
            let before = at.checked_sub(1).and_then(|at| segments.get(at));
            let mut places = std::iter::once(path).chain(before);
            let _ = places.any(|segment| complete(&mut record, segment));
            return Ok(Found::Record(record));
        }
        if left == 0 {
            return Ok(Found::GaveUp);
        }
    }
    Ok(Found::Absent)
}

fn record_in(
    segment: impl BufRead,
    id: &str,
    finder: &Finder<'_>,
    left: &mut u64,
) -> io::Result<Option<Box<RecordJson>>> {
    let mut lines = Lines::new(segment);
    let mut newest = None;
    while *left > 0
        && let Some(bytes) = lines.next()?
    {
        *left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        // A damaged line is nobody's.
        if finder.find(bytes).is_some()
            && let Ok(Line::Record(record)) = parse(bytes)
            && (record.decision.decision_id == id || record.decision.request_id == id)
        {
            newest = Some(record);
        }
    }
    Ok(newest)
}

/// Fills in what can be computed from a decision's inputs, if they are in this segment.
fn complete(record: &mut RecordJson, segment: &Path) -> bool {
    let mut made = None;
    let wanted = record.decision.decision_id.clone();
    // Whatever comes after a damaged line is not needed if the decision was found before it.
    let _ = visit(segment, |_, case: &Case<'_>| {
        if case.recorded.decision_id == wanted {
            made = Some((case.recorded.request.clone(), case.decide()));
        }
    });
    let Some((request, decision)) = made else { return false };
    let (Ok(decision_id), Ok(request_id)) =
        (DecisionId::parse(&wanted), RequestId::parse(&record.decision.request_id))
    else {
        return false;
    };
    let kind: RequestKind = request.kind;
    let epoch = WallTime::from_unix_ms(0);
    let full = decision_json((&decision_id, &request_id), epoch, kind, Some(&request), Some(&decision));
    let known = std::mem::replace(&mut record.decision, full);
    record.decision.time = known.time;
    record.decision.time_unix_s = known.time_unix_s;
    record.decision.version = known.version;
    true
}

#[cfg(test)]
mod tests;
