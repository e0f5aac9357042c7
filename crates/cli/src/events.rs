//! The newest events of the farm, a line each.

use aya_trace::EventJson;

use crate::table::{Side, Table};
use crate::text::{Style, plain, time_of_day};

pub(crate) fn render(events: &[EventJson], style: Style) -> String {
    if events.is_empty() {
        return "No event matches.".to_owned();
    }
    let mut table = Table::new(&[
        ("ID", Side::Right),
        ("TIME (UTC)", Side::Left),
        ("SEVERITY", Side::Left),
        ("KIND", Side::Left),
        ("WHAT", Side::Left),
    ]);
    for event in events {
        table.row(&[
            event.id.to_string(),
            time_of_day(&event.time).to_owned(),
            event.severity.clone(),
            event.kind.clone(),
            plain(&event.message),
        ]);
    }
    let mut lines = table.lines();
    for (line, event) in lines.iter_mut().skip(1).zip(events) {
        if event.severity != "info" {
            *line = style.bad(line);
        }
    }
    if let Some(head) = lines.first_mut() {
        *head = style.strong(head);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time_and_sentence() {
        let event: EventJson = serde_json::from_value(serde_json::json!({
            "id": 7, "time": "2026-11-21T04:24:34.125Z", "time_unix_s": 1.0, "severity": "error",
            "kind": "health_raised", "message": "gpu G1 of node n: fail, because of xid: XID 79"
        }))
        .unwrap();
        let text = render(&[event], Style { colour: false });
        let line = text.lines().nth(1).unwrap();
        for word in ["7", "04:24:34.125", "error", "health_raised", "XID 79"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        assert_eq!(render(&[], Style { colour: false }), "No event matches.");
    }
}
