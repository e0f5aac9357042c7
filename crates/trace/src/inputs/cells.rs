//! Rows of numbers, and what changed in them: the bytes behind `farm` and `loads`.
//!
//! A changed row is the distance from the last changed one, a mask of its changed columns, and those columns in order:
//! a difference as a zigzag varint, or eight bytes where a difference of bits says nothing. Columns are only ever added
//! at the end; one that an older file does not have stays 0, which must mean "absent".

use aya_domain::{Bytes, Endpoint, ForeignLoad, Freshness, MonoTime, OwnLoad, Ratio, Reading, ResponseTimes};
use aya_estimate::DecayedRate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::OwnRead;

/// How a column's change is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The wrapping difference.
    Step,
    /// The bits themselves.
    Bits,
}

/// The changing part of an endpoint; [`endpoint_cells`] gives the order.
pub(super) type EndpointCells = [u64; 14];
/// The account of an endpoint; [`load_cells`] gives the order.
pub(super) type LoadCells = [u64; 11];

/// Rows that can be written.
pub(super) trait Cells: Copy + AsRef<[u64]> + AsMut<[u64]> + Default {
    const BITS_AT: usize;
}

impl Cells for EndpointCells {
    const BITS_AT: usize = 3;
}

impl Cells for LoadCells {
    const BITS_AT: usize = 5;
}

fn column<C: Cells>(at: usize) -> Column {
    if at == C::BITS_AT { Column::Bits } else { Column::Step }
}

/// What cannot be read as changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CellsError {
    #[error("not base64")]
    Text,
    #[error("it ends within a number")]
    Short,
    #[error("a number has more than 64 bits")]
    Long,
    #[error("row {0} does not exist")]
    Row(usize),
    #[error("a column that this program does not know: it is of a newer one")]
    Column,
    #[error("{0} is no value of its field")]
    Value(&'static str),
}

/// What changed from `before` to `after`, which are of one length; empty if nothing did.
pub(super) fn changes<C: Cells>(before: &[C], after: &[C]) -> String {
    let mut bytes = Vec::new();
    let mut next = 0_usize;
    for (at, (old, new)) in before.iter().zip(after).enumerate() {
        let pairs = || old.as_ref().iter().zip(new.as_ref()).enumerate();
        let mask = pairs().filter(|(_, (old, new))| old != new).fold(0_u64, |mask, (bit, _)| mask | 1 << bit);
        if mask == 0 {
            continue;
        }
        put(&mut bytes, (at - next) as u64);
        put(&mut bytes, mask);
        next = at + 1;
        for (bit, (old, new)) in pairs().filter(|(_, (old, new))| old != new) {
            match column::<C>(bit) {
                Column::Step => put(&mut bytes, zigzag(new.wrapping_sub(*old))),
                Column::Bits => bytes.extend(new.to_le_bytes()),
            }
        }
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// Applies [`changes`]; on an error some rows may have changed already.
pub(super) fn apply<C: Cells>(rows: &mut [C], text: &str) -> Result<(), CellsError> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| CellsError::Text)?;
    let mut rest = bytes.as_slice();
    let mut next = 0_usize;
    while !rest.is_empty() {
        let gap = usize::try_from(take(&mut rest)?).map_err(|_| CellsError::Long)?;
        let at = next.saturating_add(gap);
        let mut mask = take(&mut rest)?;
        let row = rows.get_mut(at).ok_or(CellsError::Row(at))?;
        next = at + 1;
        while mask != 0 {
            let bit = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let cell = row.as_mut().get_mut(bit).ok_or(CellsError::Column)?;
            *cell = match column::<C>(bit) {
                Column::Step => cell.wrapping_add(unzigzag(take(&mut rest)?)),
                Column::Bits => {
                    let (bits, after) = rest.split_first_chunk().ok_or(CellsError::Short)?;
                    rest = after;
                    u64::from_le_bytes(*bits)
                }
            };
        }
    }
    Ok(())
}

const fn zigzag(step: u64) -> u64 {
    let signed = step.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

const fn unzigzag(coded: u64) -> u64 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

/// LEB128.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

pub(super) fn take(rest: &mut &[u8]) -> Result<u64, CellsError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(CellsError::Short)?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(CellsError::Long)
}

/// Absent is 0, a number is itself plus 1: so a row of zeros is an endpoint that nobody has read.
const fn some(value: Option<u64>) -> u64 {
    match value {
        None => 0,
        Some(value) => value.wrapping_add(1),
    }
}

const fn option(cell: u64) -> Option<u64> {
    cell.checked_sub(1)
}

/// A row of zeros is an endpoint at its full speed.
const FULL_SPEED: u64 = 1.0_f64.to_bits();

/// The part of an endpoint that reports change. Readings are mostly of the instant of the sample, so their time is
/// kept as the difference from it.
pub(super) fn endpoint_cells(endpoint: &Endpoint) -> EndpointCells {
    // `info`, `phase`, `health` and `conditions` are JSON.
    let Endpoint {
        info: _,
        phase: _,
        health: _,
        freshness,
        sampled_at,
        running,
        waiting,
        kv_used,
        foreign: ForeignLoad { waiting: foreign_waiting, running: foreign_running, kv_tokens },
        // No decision looks at these two.
        prefix_cache: _,
        signals: _,
        vram_free,
        conditions: _,
        speed,
    } = endpoint;
    let sampled = sampled_at.map_or(0, MonoTime::as_nanos);
    let before = |at: Option<MonoTime>| at.map_or(0, |at| sampled.wrapping_sub(at.as_nanos()));
    [
        some(sampled_at.map(MonoTime::as_nanos)),
        some(running.map(|r| u64::from(r.value))),
        some(waiting.map(|r| u64::from(r.value))),
        some(kv_used.map(|r| r.value.get().to_bits())),
        some(vram_free.map(|r| r.sampled_at.as_nanos())),
        some(vram_free.map(|r| r.value.get())),
        *kv_tokens,
        u64::from(*foreign_running),
        u64::from(*foreign_waiting),
        match freshness {
            Freshness::Fresh => 0,
            Freshness::Stale => 1,
            Freshness::Suspect => 2,
        },
        before(running.map(|r| r.sampled_at)),
        before(waiting.map(|r| r.sampled_at)),
        before(kv_used.map(|r| r.sampled_at)),
        speed.get().to_bits() ^ FULL_SPEED,
    ]
}

/// The inverse of [`endpoint_cells`], onto an endpoint whose other fields are known.
pub(super) fn fill_endpoint(endpoint: &mut Endpoint, cells: &EndpointCells) -> Result<(), CellsError> {
    let [
        sampled,
        running,
        waiting,
        kv_used,
        vram_at,
        vram_free,
        kv_tokens,
        foreign_running,
        foreign_waiting,
        freshness,
        running_before,
        waiting_before,
        kv_before,
        speed,
    ] = *cells;
    let sampled_ns = option(sampled).unwrap_or(0);
    let at = |before: u64| MonoTime::from_nanos(sampled_ns.wrapping_sub(before));
    endpoint.sampled_at = option(sampled).map(MonoTime::from_nanos);
    endpoint.running = whole(running, "running")?.map(|value| Reading::new(value, at(running_before)));
    endpoint.waiting = whole(waiting, "waiting")?.map(|value| Reading::new(value, at(waiting_before)));
    let ratio = |bits| Ratio::new(f64::from_bits(bits)).map_err(|_| CellsError::Value("kv_used"));
    endpoint.kv_used =
        option(kv_used).map(ratio).transpose()?.map(|value| Reading::new(value, at(kv_before)));
    endpoint.vram_free = option(vram_free)
        .map(|bytes| Reading::new(Bytes(bytes), MonoTime::from_nanos(option(vram_at).unwrap_or(0))));
    endpoint.foreign = ForeignLoad {
        waiting: small(foreign_waiting, "foreign waiting")?,
        running: small(foreign_running, "foreign running")?,
        kv_tokens,
    };
    endpoint.speed =
        Ratio::new(f64::from_bits(speed ^ FULL_SPEED)).map_err(|_| CellsError::Value("speed"))?;
    endpoint.freshness = match freshness {
        0 => Freshness::Fresh,
        1 => Freshness::Stale,
        2 => Freshness::Suspect,
        _ => return Err(CellsError::Value("freshness")),
    };
    Ok(())
}

/// The account of one endpoint.
pub(super) fn load_cells(own: &OwnRead) -> LoadCells {
    let OwnRead { load, rate } = own;
    // The decayed rate follows from `rate` and the instant of the decision.
    let OwnLoad {
        in_flight,
        prefilling,
        prefill_tokens,
        decoding,
        decode_kv_tokens,
        prefill_rate: _,
        cooling_until,
        response,
    } = load;
    let (per_second, at) = rate.parts();
    [
        *decode_kv_tokens,
        u64::from(*in_flight),
        u64::from(*decoding),
        u64::from(*prefilling),
        *prefill_tokens,
        per_second.to_bits(),
        at.as_nanos(),
        some(cooling_until.map(MonoTime::as_nanos)),
        response.map_or(0, |times| times.mean_s.to_bits()),
        response.map_or(0, |times| times.peak_s.to_bits()),
        some(response.map(|times| times.at.as_nanos())),
    ]
}

/// The account as it read at `now`.
pub(super) fn load_of(cells: &LoadCells, now: MonoTime) -> Result<OwnLoad, CellsError> {
    let [
        decode_kv_tokens,
        in_flight,
        decoding,
        prefilling,
        prefill_tokens,
        rate,
        rate_at,
        cooling,
        mean,
        peak,
        answered,
    ] = *cells;
    let rate = DecayedRate::from_parts(f64::from_bits(rate), MonoTime::from_nanos(rate_at));
    Ok(OwnLoad {
        in_flight: small(in_flight, "in_flight")?,
        prefilling: small(prefilling, "prefilling")?,
        prefill_tokens,
        decoding: small(decoding, "decoding")?,
        decode_kv_tokens,
        prefill_rate: rate.read(now),
        cooling_until: option(cooling).map(MonoTime::from_nanos),
        response: option(answered).map(|at| ResponseTimes {
            mean_s: f64::from_bits(mean),
            peak_s: f64::from_bits(peak),
            at: MonoTime::from_nanos(at),
        }),
    })
}

fn whole(cell: u64, name: &'static str) -> Result<Option<u32>, CellsError> {
    option(cell).map(|value| small(value, name)).transpose()
}

fn small(value: u64, name: &'static str) -> Result<u32, CellsError> {
    u32::try_from(value).map_err(|_| CellsError::Value(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &[LoadCells], after: &[LoadCells]) -> usize {
        let text = changes(before, after);
        let mut rows = before.to_vec();
        apply(&mut rows, &text).unwrap();
        assert_eq!(rows, after);
        text.len()
    }

    #[test]
    fn what_changed_is_read_back_and_nothing_else_is_written() {
        let zero = [0; 11];
        assert_eq!(check(&[zero; 9], &[zero; 9]), 0);
        let mut after = [zero; 9];
        after[4] = [12, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(check(&[zero; 9], &after) <= 8);
        after[8] = [u64::MAX, 1, 0, 9, u64::MAX - 1, f64::NAN.to_bits(), 1 << 63, 1, 0, u64::MAX, 3];
        check(&[zero; 9], &after);
        check(&after, &[zero; 9]);
    }

    #[test]
    fn what_is_damaged_is_refused_and_never_panics() {
        let after: [LoadCells; 3] = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]; 3];
        let text = changes(&[[0; 11]; 3], &after);
        for cut in 0..text.len() {
            let _ = apply(&mut [[0; 11]; 3], text.get(..cut).unwrap());
        }
        assert_eq!(apply(&mut [[0; 11]; 2], &text), Err(CellsError::Row(2)));
        assert_eq!(apply(&mut [[0; 11]; 3], "!"), Err(CellsError::Text));
        let newer = STANDARD_NO_PAD.encode([0, 0x80, 0x10, 1]);
        assert_eq!(apply(&mut [[0_u64; 11]; 3], &newer), Err(CellsError::Column));
    }
}
