//! Any bytes as a message of an agent: a typed error, or a report that says the same when it is sent again.

use aya_proto::wire::AgentMessage as Wire;
use aya_proto::{AgentMessage, Limits, agent_message, events_message, from_agent};
use prost::Message as _;

pub(crate) const WORDS: &[&str] =
    &["\n\u{3}n-1", "\u{12}", "\u{1a}", "\u{8}\u{1}", "\0", "GPU-", "http://127.0.0.1:8000", "\u{7f}"];

/// Small, so that mutations reach them.
const LIMITS: Limits =
    Limits { gpus_max: 4, engines_max: 4, models_per_engine_max: 4, text_bytes_max: 64, events_max: 4 };

pub(crate) fn check(input: &[u8]) {
    let Ok(wire) = Wire::decode(input) else { return };
    let read = match from_agent(wire, &LIMITS) {
        Ok(read) => read,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(": "), "an error without its field: {text}");
            return;
        }
    };
    let again = match &read {
        AgentMessage::Report(report) => {
            assert!(report.gpus.len() <= 4 && report.engines.len() <= 4, "beyond the limits");
            agent_message(report)
        }
        AgentMessage::GpuEvents(events) => events_message(events),
    };
    let bytes = again.encode_to_vec();
    let again = from_agent(Wire::decode(&*bytes).unwrap(), &LIMITS).expect("what we send, we take");
    // Compared as text: NaN is no number here, and the text shows the field.
    assert_eq!(format!("{again:?}"), format!("{read:?}"), "it changed on its way");
}
