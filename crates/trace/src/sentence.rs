//! Reasons as a person would say them.

use crate::json::{PlacementJson, RejectionJson};

/// Why an endpoint cannot take a request, as half a sentence: `the engine is full: 4 of 4 slots`.
#[must_use]
pub fn rejection_sentence(rejection: &RejectionJson) -> String {
    match rejection {
        RejectionJson::ModelNotServed => "does not serve this model".to_owned(),
        RejectionJson::NotServing { phase } => match phase.as_str() {
            "draining" => "is being drained by an operator".to_owned(),
            "joining" => "has not reported completely yet".to_owned(),
            "gone" => "is no longer reported by its agent".to_owned(),
            other => format!("is {other}, not serving"),
        },
        RejectionJson::Unhealthy => "is unhealthy by its own health check or its node's".to_owned(),
        RejectionJson::HealthUnknown => "nobody has said yet that it works".to_owned(),
        RejectionJson::GpuFault { action, cause, gpu, .. } => {
            let gpu = gpu.as_ref().map(|gpu| format!(" on GPU {gpu}")).unwrap_or_default();
            format!("{} for {cause}{gpu}", done(action))
        }
        RejectionJson::Ejected { cause, remaining_ms } => {
            format!("is ejected for another {}: {cause}", span(remaining_ms / 1e3))
        }
        RejectionJson::Wedged { silent_ms } => {
            format!("is wedged: it held requests for {} and gave no tokens", span(silent_ms / 1e3))
        }
        RejectionJson::OnTrial { limit: 0, .. } => {
            "waits for a synthetic generation to succeed after its ejection".to_owned()
        }
        RejectionJson::Thinned { share_ratio } => {
            format!("is given {:.0} % of its share, and was not drawn this time", share_ratio * 100.0)
        }
        RejectionJson::OnTrial { in_flight, limit } => {
            format!("is on trial after an ejection: {in_flight} of {limit} requests there")
        }
        RejectionJson::AlreadyTried => "has already failed this request".to_owned(),
        RejectionJson::Cooling { remaining_ms } => {
            format!("failed a moment ago; pauses for another {}", span(remaining_ms / 1e3))
        }
        RejectionJson::ContextTooLong { need_tokens, limit_tokens, certain } => {
            let about = if *certain { "at least" } else { "about" };
            format!("context too short: {about} {need_tokens} tokens needed, {limit_tokens} allowed")
        }
        RejectionJson::KvPoolTooSmall { need_tokens, limit_tokens } => {
            format!("KV cache too small: {need_tokens} tokens needed, {limit_tokens} in all")
        }
        RejectionJson::VramShort { need_bytes, free_bytes } => {
            format!("not enough free VRAM: {} needed, {} free", gib(*need_bytes), gib(*free_bytes))
        }
        RejectionJson::SlotsFull { in_flight, limit } => {
            format!("is full: {in_flight} of {limit} slots taken")
        }
        RejectionJson::Backlogged { wait_s, limit_s } => {
            let wait = wait_s.map_or_else(|| "an unbounded time".to_owned(), span);
            let limit = limit_s.map_or_else(|| "the limit".to_owned(), span);
            format!("backlog too long: {wait} of work ahead, at most {limit} accepted")
        }
        RejectionJson::Unknown => "rejected for a reason this version does not know".to_owned(),
    }
}

/// What a rule did to an endpoint, as a participle.
fn done(action: &str) -> String {
    match action {
        "drain" => "is drained".to_owned(),
        "cordon" => "is cordoned".to_owned(),
        "fail" => "has failed".to_owned(),
        other => format!("is under {other}"),
    }
}

/// What was decided, as a sentence without the names.
#[must_use]
pub fn placement_sentence(placement: &PlacementJson) -> String {
    match placement {
        PlacementJson::Placed => "placed".to_owned(),
        PlacementJson::HeldAllFull => "not placed: every endpoint that fits is full".to_owned(),
        PlacementJson::HeldNoneReady => "not placed: no endpoint of the model is ready".to_owned(),
        PlacementJson::RefusedUnknownModel => "refused: no endpoint serves this model".to_owned(),
        PlacementJson::RefusedTooLong { need_tokens, largest_tokens } => {
            format!("refused: {need_tokens} tokens needed, the largest context is {largest_tokens}")
        }
        PlacementJson::Unknown => "a result this version does not know".to_owned(),
    }
}

/// Seconds with three digits that matter, in the unit a person would take.
fn span(seconds: impl std::borrow::Borrow<f64>) -> String {
    let seconds = *seconds.borrow();
    if seconds < 0.9995 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_as_words_with_its_numbers() {
        for (rejection, expect) in [
            (RejectionJson::ModelNotServed, "does not serve this model"),
            (RejectionJson::NotServing { phase: "draining".into() }, "is being drained by an operator"),
            (RejectionJson::NotServing { phase: "asleep".into() }, "is asleep, not serving"),
            (
                RejectionJson::Cooling { remaining_ms: 740.0 },
                "failed a moment ago; pauses for another 740 ms",
            ),
            (
                RejectionJson::ContextTooLong { need_tokens: 9000, limit_tokens: 8192, certain: false },
                "context too short: about 9000 tokens needed, 8192 allowed",
            ),
            (
                RejectionJson::VramShort { need_bytes: 3 << 30, free_bytes: 1 << 29 },
                "not enough free VRAM: 3.0 GiB needed, 0.5 GiB free",
            ),
            (
                RejectionJson::GpuFault {
                    action: "cordon".into(),
                    rule: "xid".into(),
                    cause: "XID 48".into(),
                    gpu: Some("GPU-1".into()),
                },
                "is cordoned for XID 48 on GPU GPU-1",
            ),
            (RejectionJson::SlotsFull { in_flight: 4, limit: 4 }, "is full: 4 of 4 slots taken"),
            (
                RejectionJson::Backlogged { wait_s: Some(1.25), limit_s: Some(0.5) },
                "backlog too long: 1.2 s of work ahead, at most 500 ms accepted",
            ),
            (
                RejectionJson::Backlogged { wait_s: None, limit_s: Some(0.5) },
                "backlog too long: an unbounded time of work ahead, at most 500 ms accepted",
            ),
        ] {
            assert_eq!(rejection_sentence(&rejection), expect);
        }
    }
}
