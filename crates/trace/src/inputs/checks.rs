//! Short digests of a decision's candidates, so that a replay can name the candidate and the field that differ
//! without every score of every decision being on disk.
//!
//! 6 bits for each candidate and 24 for each field: where a candidate's and a field's digest both differ, that value
//! differs. A difference escapes the fields' digests in one
//! of 10^7 cases; which candidate it is remains open in one of 64.

use aya_domain::{
    Action, Candidate, Cause, Decision, Freshness, Misses, Phase, Rejection, Terms, Verdict, splitmix64,
};

/// The fields of a candidate, in the order of the digests. New ones only at the end.
pub(crate) const FIELDS: [&str; 16] = [
    "verdict",
    "rejection",
    "total",
    "predicted_ttft_s",
    "predicted_tpot_s",
    "ttft_s",
    "decode_s",
    "harm_s",
    "slo_s",
    "misses",
    "uncertainty_s",
    "freshness",
    "age_ns",
    "in_flight",
    "cached_tokens",
    "missing",
];

/// Stands where there is no value.
const ABSENT: &str = "-";
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const ROW_DIGITS: usize = 1;
const COLUMN_DIGITS: usize = 4;

/// Every field as a number that differs where the field does.
pub(crate) fn field_values(candidate: &Candidate) -> [u64; FIELDS.len()] {
    // The endpoint is the candidate's position.
    let Candidate { endpoint: _, verdict, freshness, age, own_in_flight, missing, cached } = candidate;
    let (verdict, rejection, total, terms) = match verdict {
        Verdict::Rejected(rejection) => (1, rejection_value(rejection), 0.0, Terms::default()),
        Verdict::Scored { total, terms } => (2, 0, *total, *terms),
    };
    let Terms { predicted_ttft_s, predicted_tpot_s, ttft_s, decode_s, harm_s, slo_s, misses, uncertainty_s } =
        terms;
    let age = age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX).wrapping_add(1));
    [
        verdict,
        rejection,
        total.to_bits(),
        predicted_ttft_s.to_bits(),
        predicted_tpot_s.to_bits(),
        ttft_s.to_bits(),
        decode_s.to_bits(),
        harm_s.to_bits(),
        slo_s.to_bits(),
        misses_value(misses),
        uncertainty_s.to_bits(),
        match freshness {
            Freshness::Fresh => 0,
            Freshness::Stale => 1,
            Freshness::Suspect => 2,
        },
        age,
        u64::from(*own_in_flight),
        cached.map_or(0, |tokens| tokens.get().wrapping_add(1)),
        u64::from(missing.bits()),
    ]
}

fn misses_value(misses: Misses) -> u64 {
    match misses {
        Misses::Unknown => 0,
        Misses::AtLeast(seconds) => mix(1, seconds.to_bits()),
        Misses::Expected(seconds) => mix(2, seconds.to_bits()),
    }
}

fn rejection_value(rejection: &Rejection) -> u64 {
    let phase = |phase: Phase| match phase {
        Phase::Joining => 0,
        Phase::Serving => 1,
        Phase::Draining => 2,
        Phase::Gone => 3,
    };
    let parts = match *rejection {
        Rejection::ModelNotServed => [1, 0, 0, 0],
        Rejection::NotServing { phase: at } => [2, phase(at), 0, 0],
        Rejection::Unhealthy => [3, 0, 0, 0],
        Rejection::HealthUnknown => [4, 0, 0, 0],
        Rejection::AlreadyTried => [5, 0, 0, 0],
        Rejection::GpuFault { action, cause } => [12, action_value(action), cause_value(cause), 0],
        Rejection::Cooling { remaining } => {
            [6, u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX), 0, 0]
        }
        Rejection::ContextTooLong { need, limit, certain } => {
            [7, need.get(), limit.get(), u64::from(certain)]
        }
        Rejection::KvPoolTooSmall { need, limit } => [8, need.get(), limit.get(), 0],
        Rejection::VramShort { need, free } => [9, need.get(), free.get(), 0],
        Rejection::SlotsFull { in_flight, limit } => [10, u64::from(in_flight), u64::from(limit), 0],
        Rejection::Backlogged { wait_s, limit_s } => [11, wait_s.to_bits(), limit_s.to_bits(), 0],
        Rejection::Ejected { trip, remaining } => {
            [12, super::condition::trip_number(trip), super::condition::nanos(remaining), 0]
        }
        Rejection::Wedged { silent } => [13, super::condition::nanos(silent), 0, 0],
        Rejection::Thinned { share } => [15, share.get().to_bits(), 0, 0],
        Rejection::OnTrial { in_flight, limit } => [14, u64::from(in_flight), u64::from(limit), 0],
    };
    parts.into_iter().fold(0, mix)
}

fn action_value(action: Action) -> u64 {
    let speed = match action {
        Action::Derate(speed) => speed.get(),
        Action::Limit(most) => f64::from(most),
        Action::Note | Action::Drain | Action::Cordon | Action::Fail => 0.0,
    };
    mix(u64::from(action.severity()), speed.to_bits())
}

fn cause_value(cause: Cause) -> u64 {
    let (name, a, b) = super::condition::parts(cause);
    name.bytes().map(u64::from).chain([a, b]).fold(0, mix)
}

const fn mix(digest: u64, value: u64) -> u64 {
    splitmix64(digest ^ value)
}

fn push_digits(text: &mut String, mut digest: u64, count: usize) {
    for _ in 0..count {
        let digit = usize::try_from(digest % 64).ok().and_then(|at| DIGITS.get(at));
        text.push(char::from(*digit.unwrap_or(&b'A')));
        digest /= 64;
    }
}

/// One digit for each candidate, in order.
pub(crate) fn row_digests(decision: &Decision) -> String {
    let mut text = String::with_capacity(decision.candidates.len() * ROW_DIGITS);
    for candidate in &decision.candidates {
        push_digits(&mut text, field_values(candidate).into_iter().fold(1, mix), ROW_DIGITS);
    }
    text
}

/// Four digits for each of [`FIELDS`], over all candidates.
pub(crate) fn column_digests(decision: &Decision) -> String {
    let mut digests = [1; FIELDS.len()];
    for candidate in &decision.candidates {
        for (digest, value) in digests.iter_mut().zip(field_values(candidate)) {
            *digest = mix(*digest, value);
        }
    }
    let mut text = String::with_capacity(FIELDS.len() * COLUMN_DIGITS);
    for digest in digests {
        push_digits(&mut text, digest, COLUMN_DIGITS);
    }
    text
}

/// The positions at which two texts of digests differ. Of different lengths, everything beyond the shorter differs.
pub(crate) fn differing(recorded: &str, replayed: &str, digits: usize) -> Vec<usize> {
    let (recorded, replayed) = (recorded.as_bytes(), replayed.as_bytes());
    let count = recorded.len().max(replayed.len()).div_ceil(digits.max(1));
    let part = |bytes: &[u8], at: usize| {
        let end = bytes.len().min((at + 1) * digits);
        bytes.get(at * digits..end).map(<[u8]>::to_vec)
    };
    (0..count).filter(|at| part(recorded, *at) != part(replayed, *at)).collect()
}

/// Candidates whose digests differ.
pub(crate) fn differing_rows(recorded: &str, replayed: &str) -> Vec<usize> {
    differing(recorded, replayed, ROW_DIGITS)
}

/// Fields whose digests differ.
pub(crate) fn differing_columns(recorded: &str, replayed: &str) -> Vec<usize> {
    differing(recorded, replayed, COLUMN_DIGITS)
}

/// A field's value for people.
pub(crate) fn show_field(decision: &Decision, candidate: &Candidate, field: usize) -> String {
    let value = field_values(candidate).get(field).copied().unwrap_or_default();
    match (field, &candidate.verdict) {
        (0 | 1, Verdict::Rejected(rejection)) => {
            format!(
                "rejected: {}",
                crate::rejection_sentence(&crate::json::rejection_json(
                    rejection,
                    decision.conditions_of(candidate.endpoint)
                ))
            )
        }
        (0 | 1, Verdict::Scored { .. }) => "scored".to_owned(),
        (9, Verdict::Scored { terms, .. }) => match terms.misses {
            Misses::Unknown => ABSENT.to_owned(),
            Misses::AtLeast(seconds) => format!("at least {seconds}"),
            Misses::Expected(seconds) => seconds.to_string(),
        },
        (2..=10, _) => f64::from_bits(value).to_string(),
        (11, _) => candidate.freshness.as_str().to_owned(),
        (12, _) => candidate.age.map_or_else(|| "never read".to_owned(), |age| age.as_nanos().to_string()),
        (14, _) => candidate.cached.map_or_else(|| ABSENT.to_owned(), |tokens| tokens.get().to_string()),
        _ => value.to_string(),
    }
}
