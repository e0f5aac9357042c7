//! Why a request was refused for what was predicted, as a sentence.

use aya_trace::RecordJson;

use crate::text::{ms, or_absent};

/// What it was refused for, as a sentence.
pub(super) fn shed(record: &RecordJson) -> String {
    let Some(shed) = &record.admission.shed else { return String::new() };
    let seconds = |value: Option<f64>| or_absent(value, |s| ms(s * 1e3));
    let (predicted, allowed) = (seconds(shed.predicted_s), seconds(shed.allowed_s));
    let class = record.decision.request.priority.as_deref().unwrap_or("its");
    match shed.reason.as_str() {
        "queueing" => format!(
            "Refused as overload: it would have lost {predicted} to others, and {class} requests are refused around \
             {allowed} (with probability {:.2}).",
            shed.probability
        ),
        "misses" => {
            let percent = |ratio: Option<f64>| or_absent(ratio, |r| format!("{:.0}", r * 100.0));
            format!(
                "Refused as overload: {} objectives would have been missed per 100 requests, and {class} requests are \
                 refused around {} (with probability {:.2}, long prompts and short ones alike).",
                percent(shed.predicted_misses_ratio),
                percent(shed.allowed_misses_ratio),
                shed.probability
            )
        }
        _ => format!(
            "Refused as overload: a wait of {predicted} in the queue was predicted, and it may wait {allowed}."
        ),
    }
}
