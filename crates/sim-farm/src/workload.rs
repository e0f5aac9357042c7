//! Requests with their arrival times, read from a trace file: Azure's CSV, Mooncake's JSON lines, or our own
//! decision records; each also compressed with gzip.
//!
//! Lengths are never changed; only time may be compressed, and ties spread. What cannot be read is an error that
//! names the line.

mod decisions;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use aya_domain::{WallTime, splitmix64};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use decisions::{Estimates, Record};

/// Prompt tokens that one hash of a trace stands for.
pub const PREFIX_BLOCK_TOKENS: u32 = 512;

/// Bytes of a trace, decompressed; a compressed bomb ends here.
const TRACE_BYTES_MAX: u64 = 4 << 30;
/// Bytes of one line; the longest known prompt needs 2 KiB of hashes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Requests of one simulation.
const REQUESTS_MAX: usize = 10_000_000;

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: String },
    #[error("it has no requests in the chosen part")]
    Empty,
    #[error("a speed must be a positive number, not {0}")]
    Speed(f64),
    #[error("more than {REQUESTS_MAX} requests")]
    TooMany,
}

/// One request to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Seconds from the first request.
    pub at_s: f64,
    pub prompt_tokens: u32,
    /// At least 1.
    pub output_tokens: u32,
    /// One chained hash per started block of [`PREFIX_BLOCK_TOKENS`]; empty where the trace has none.
    pub blocks: Arc<[u64]>,
}

/// Which part of a trace is used, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Arrival offsets are divided by this.
    pub speed: f64,
    /// Requests, from the first one used.
    pub limit: Option<usize>,
    /// Seconds of the trace's own time to skip.
    pub from_s: f64,
    /// Spreads requests of one timestamp over the time to the next one.
    pub jitter: bool,
    pub seed: u64,
}

impl Default for Selection {
    fn default() -> Self {
        Self { speed: 1.0, limit: None, from_s: 0.0, jitter: false, seed: 1 }
    }
}

/// Requests in order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub arrivals: Vec<Arrival>,
}

impl Workload {
    /// Reads a file; gzip and the format are recognised by content.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn read(path: &Path, selection: &Selection) -> Result<Self, WorkloadError> {
        let mut file = BufReader::new(File::open(path)?);
        if file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            Self::parse(BufReader::new(MultiGzDecoder::new(file)), selection)
        } else {
            Self::parse(file, selection)
        }
    }

    /// Reads the text of a trace.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn parse(text: impl BufRead, selection: &Selection) -> Result<Self, WorkloadError> {
        if !(selection.speed > 0.0 && selection.speed.is_finite()) {
            return Err(WorkloadError::Speed(selection.speed));
        }
        let mut arrivals = rows(text, selection)?;
        arrivals.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        if selection.jitter {
            spread_ties(&mut arrivals, selection.seed);
            arrivals.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        }
        let start = arrivals.first().ok_or(WorkloadError::Empty)?.at_s;
        for arrival in &mut arrivals {
            arrival.at_s = (arrival.at_s - start) / selection.speed;
        }
        Ok(Self { arrivals })
    }

    /// Whether the trace says which prompts share their beginning.
    #[must_use]
    pub fn has_prefixes(&self) -> bool {
        self.arrivals.iter().any(|arrival| !arrival.blocks.is_empty())
    }
}

/// The chosen rows, their times in seconds of the trace.
fn rows(text: impl BufRead, selection: &Selection) -> Result<Vec<Arrival>, WorkloadError> {
    let mut text = text.take(TRACE_BYTES_MAX);
    let mut arrivals = Vec::new();
    let (mut line, mut number, mut first) = (String::new(), 0, None);
    let mut estimates = Estimates::default();
    let limit = selection.limit.unwrap_or(usize::MAX);
    while arrivals.len() < limit {
        line.clear();
        number += 1;
        let read = text.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
        if read == 0 {
            break;
        }
        // A killed scheduler may leave a torn last line of JSON; that is no damage.
        let torn = !arrivals.is_empty() && line.starts_with('{') && !line.ends_with('\n');
        let row = match parse_row(line.trim(), &mut estimates) {
            Err(_) if torn => break,
            parsed => parsed.map_err(|problem| WorkloadError::Line { line: number, problem })?,
        };
        let Some(arrival) = row else { continue };
        let start = *first.get_or_insert(arrival.at_s);
        if arrival.at_s - start >= selection.from_s {
            arrivals.push(arrival);
        }
        if arrivals.len() > REQUESTS_MAX {
            return Err(WorkloadError::TooMany);
        }
    }
    Ok(arrivals)
}

/// One line of any known format; `None` for a header, an empty line or a record without lengths.
fn parse_row(line: &str, estimates: &mut Estimates) -> Result<Option<Arrival>, String> {
    if line.is_empty() || line.starts_with("TIMESTAMP") {
        return Ok(None);
    }
    if line.starts_with("{\"line\":") {
        estimates.note(line)?;
        return Ok(None);
    }
    if !line.starts_with('{') {
        return azure_row(line).map(Some);
    }
    match serde_json::from_str(line).map_err(|error| error.to_string())? {
        JsonRow::Mooncake { timestamp, input_length, output_length, hash_ids } => {
            Ok(Some(arrival(timestamp / 1e3, input_length, output_length, hash_ids.into())))
        }
        JsonRow::Decision(record) => {
            let Some((prompt, output)) = record.lengths(estimates) else { return Ok(None) };
            let ms = record.time.parse::<WallTime>().map_err(|error| error.to_string())?.as_unix_ms();
            Ok(Some(arrival(seconds(ms), prompt, output, Arc::from([]))))
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonRow {
    Mooncake { timestamp: f64, input_length: u32, output_length: u32, hash_ids: Vec<u64> },
    Decision(Record),
}

/// `2023-11-16 18:15:46.6805900,374,44`.
fn azure_row(line: &str) -> Result<Arrival, String> {
    let mut cells = line.split(',').map(str::trim);
    let mut cell = |name: &str| cells.next().ok_or_else(|| format!("no {name}"));
    let time = cell("TIMESTAMP")?;
    let prompt = cell("ContextTokens")?;
    let output = cell("GeneratedTokens")?;
    let bad = |what: &str| format!("{what:?} is not what it should be");
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let whole = format!("{}.000Z", whole.replace(' ', "T"));
    let whole: WallTime = whole.parse().map_err(|_| bad(time))?;
    let fraction: f64 = format!("0.{fraction}").parse().map_err(|_| bad(time))?;
    let prompt = prompt.parse().map_err(|_| bad(prompt))?;
    let output = output.parse().map_err(|_| bad(output))?;
    Ok(arrival(seconds(whole.as_unix_ms()) + fraction, prompt, output, Arc::from([])))
}

fn arrival(at_s: f64, prompt: u32, output: u32, blocks: Arc<[u64]>) -> Arrival {
    Arrival { at_s, prompt_tokens: prompt.max(1), output_tokens: output.max(1), blocks }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// Spreads every group of requests with one timestamp evenly at random up to the next timestamp, the last one over
/// the gap before it. A timestamp of its own keeps its time only where timestamps are exact, that is, where most
/// are alone.
fn spread_ties(arrivals: &mut [Arrival], seed: u64) {
    let mut times: Vec<f64> = arrivals.iter().map(|a| a.at_s).collect();
    times.dedup_by(|a, b| a.total_cmp(b).is_eq());
    let exact = times.len() * 2 > arrivals.len();
    let gap_after = |at: usize| match (times.get(at), times.get(at + 1)) {
        (Some(this), Some(next)) => next - this,
        _ => at.checked_sub(1).and_then(|b| Some(times.get(at)? - times.get(b)?)).unwrap_or(0.0),
    };
    let mut drawn = seed;
    let groups = arrivals.chunk_by_mut(|a, b| a.at_s.total_cmp(&b.at_s).is_eq());
    for (at, group) in groups.enumerate() {
        if exact && group.len() == 1 {
            continue;
        }
        let gap = gap_after(at);
        for arrival in group {
            drawn = splitmix64(drawn);
            arrival.at_s += gap * unit(drawn);
        }
    }
}

/// A number from 0 to 1 from 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
