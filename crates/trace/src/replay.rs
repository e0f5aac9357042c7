//! Making recorded decisions again: the same inputs must give the same bytes.
//!
//! A difference means that the program has changed, or the file. Floats are compared by their bits; a logarithm or an
//! exponential may differ by one between two C libraries, so a log is replayed most strictly where it was written.

use std::fmt;
use std::path::{Path, PathBuf};

use aya_domain::EndpointIndex;

use crate::inputs::{
    Case, Decoder, FIELDS, FORMAT, OutcomeJson, column_digests, differing_columns, differing_rows,
    row_digests, show_field,
};
use crate::lines::{Line, Lines, open, parse};

/// Why a file cannot be replayed to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), AtLine(*line))]
pub struct ReplayError {
    pub file: PathBuf,
    pub line: Option<usize>,
    pub problem: String,
}

struct AtLine(Option<usize>);

impl fmt::Display for AtLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// Where a decision stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub file: &'a Path,
    pub line: usize,
}

/// What a file held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Decisions with their inputs.
    pub decisions: u64,
    /// Records of requests that ended.
    pub records: u64,
    /// Bytes of a last line that was never finished; it is passed over.
    pub torn_bytes: Option<usize>,
}

/// Reads one segment and shows each of its decisions.
///
/// # Errors
/// [`ReplayError`]: the file cannot be read, is none of ours or of a newer program, or a line of it is damaged.
pub fn visit(file: &Path, mut each: impl FnMut(Place<'_>, &Case<'_>)) -> Result<Seen, ReplayError> {
    let at = |line: Option<usize>, problem: String| ReplayError { file: file.to_owned(), line, problem };
    let mut lines = Lines::new(open(file).map_err(|error| at(None, error.to_string()))?);
    let (mut seen, mut decoder) = (Seen::default(), Decoder::default());
    loop {
        let number = lines.number + 1;
        let failed = |problem: String| at(Some(number), problem);
        let Some(bytes) = lines.next().map_err(|error| failed(error.to_string()))? else { break };
        let parsed = parse(bytes).map_err(|error| {
            let hint = if number == 1 { "this is no decision log of aya: " } else { "" };
            failed(format!("{hint}{error}"))
        })?;
        match parsed {
            Line::Head(head) if head.format > FORMAT => {
                return Err(failed(format!(
                    "it was written by aya {} in format {}; this program reads up to format {FORMAT}",
                    head.aya, head.format
                )));
            }
            // Two segments may have been put together.
            Line::Head(_) => decoder = Decoder::default(),
            Line::Record(_) => seen.records += 1,
            Line::Decided(line) => {
                let case = decoder.take(*line).map_err(|error| failed(error.to_string()))?;
                seen.decisions += 1;
                each(Place { file, line: number }, &case);
            }
        }
    }
    seen.torn_bytes = lines.torn_bytes;
    Ok(seen)
}

/// One value that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub decision_id: String,
    pub attempt: u32,
    /// `None`: it is of the decision as a whole.
    pub candidate: Option<String>,
    pub field: &'static str,
    /// `None`: only a digest of it was recorded.
    pub recorded: Option<String>,
    pub replayed: String,
}

/// Makes a decision again and compares.
#[must_use]
pub fn differences(case: &Case<'_>) -> Vec<Difference> {
    let (recorded, decision) = (&case.recorded, case.decide());
    let found = |candidate, field, before: Option<String>, after: String| Difference {
        decision_id: recorded.decision_id.clone(),
        attempt: recorded.attempt,
        candidate,
        field,
        recorded: before,
        replayed: after,
    };
    let replayed = OutcomeJson::from(&decision);
    let mut all = Vec::new();
    if replayed != recorded.outcome {
        for ((name, before), (_, after)) in recorded.outcome.parts().into_iter().zip(replayed.parts()) {
            if before != after {
                all.push(found(None, name, Some(before), after));
            }
        }
    }
    let rows = differing_rows(&recorded.rows, &row_digests(&decision));
    let columns = differing_columns(&recorded.columns, &column_digests(&decision));
    for column in &columns {
        let field = FIELDS.get(*column).copied().unwrap_or("unknown field");
        let before = all.len();
        for row in &rows {
            let Some(candidate) = decision.candidates.get(*row) else { continue };
            let id = crate::json::endpoint_name(&decision, candidate.endpoint);
            all.push(found(Some(id), field, None, show_field(&decision, candidate, *column)));
        }
        if all.len() == before {
            all.push(found(None, field, None, "of some candidate".to_owned()));
        }
    }
    // A damaged digest of a candidate, or more of them than there are candidates.
    for row in rows.iter().filter(|_| columns.is_empty()) {
        let id = u32::try_from(*row)
            .map_or_else(|_| row.to_string(), |at| crate::json::endpoint_name(&decision, EndpointIndex(at)));
        all.push(found(Some(id), "digest", None, "as its fields, which agree".to_owned()));
    }
    all
}

#[cfg(test)]
mod tests;
