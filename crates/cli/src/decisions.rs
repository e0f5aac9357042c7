//! The newest decisions, a line each.

use aya_trace::{OutcomeStatus, RecordJson};

use crate::table::{Side, Table};
use crate::text::{ABSENT, Style, ms, or_absent, time_of_day};

pub(crate) fn render(records: &[RecordJson], style: Style) -> String {
    if records.is_empty() {
        return "No decision matches.".to_owned();
    }
    let mut table = Table::new(&[
        ("TIME (UTC)", Side::Left),
        ("MODEL", Side::Left),
        ("ENDPOINT", Side::Left),
        ("OUTCOME", Side::Left),
        ("QUEUED", Side::Right),
        ("TTFT", Side::Right),
        ("TOTAL", Side::Right),
        ("TOKENS IN", Side::Right),
        ("OUT", Side::Right),
        ("TRIES", Side::Right),
        ("DECISION", Side::Left),
    ]);
    for record in records {
        table.row(&cells(record));
    }
    let mut lines = table.lines();
    let failed = |record: &RecordJson| {
        matches!(
            record.outcome.status,
            OutcomeStatus::UpstreamError | OutcomeStatus::Truncated | OutcomeStatus::Refused
        )
    };
    for (line, record) in lines.iter_mut().skip(1).zip(records) {
        if failed(record) {
            *line = style.bad(line);
        }
    }
    if let Some(head) = lines.first_mut() {
        *head = style.strong(head);
    }
    lines.join("\n")
}

fn cells(record: &RecordJson) -> [String; 11] {
    let (decision, outcome) = (&record.decision, &record.outcome);
    let endpoint = record.attempts.last().map(|attempt| attempt.endpoint.clone());
    let result = match &outcome.error {
        Some(error) => format!("{}: {error}", words(outcome.status)),
        None => words(outcome.status).to_owned(),
    };
    [
        time_of_day(&decision.time).to_owned(),
        or_absent(decision.model.clone(), |model| model),
        or_absent(endpoint, |id| id),
        result,
        if record.queue_ms > 0.0 { ms(record.queue_ms) } else { ABSENT.to_owned() },
        or_absent(outcome.ttft_ms, ms),
        ms(outcome.e2e_ms),
        or_absent(outcome.prompt_tokens, |n| n.to_string()),
        or_absent(outcome.completion_tokens, |n| n.to_string()),
        record.attempts.len().to_string(),
        decision.decision_id.clone(),
    ]
}

/// A status without its underscore.
pub(crate) const fn words(status: OutcomeStatus) -> &'static str {
    match status {
        OutcomeStatus::Completed => "completed",
        OutcomeStatus::ClientError => "client error",
        OutcomeStatus::UpstreamError => "upstream error",
        OutcomeStatus::Truncated => "truncated",
        OutcomeStatus::ClientCancelled => "client gone",
        OutcomeStatus::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::tests::sample;

    #[test]
    fn a_decision_is_one_line_and_a_failed_one_is_coloured() {
        let mut failed = sample();
        failed.outcome.status = OutcomeStatus::Truncated;
        failed.outcome.error = Some("stream_truncated".to_owned());
        failed.outcome.ttft_ms = None;
        failed.queue_ms = 0.0;
        let expect = "\
TIME (UTC)    MODEL  ENDPOINT  OUTCOME                      QUEUED   TTFT   TOTAL  TOKENS IN  OUT  TRIES  DECISION
04:24:34.125  llama  gpu-3     completed                    1.5 ms  81 ms  900 ms         98   40      2  d1
04:24:34.125  llama  gpu-3     truncated: stream_truncated       -      -  900 ms         98   40      2  d1";
        let records = [sample(), failed];
        assert_eq!(render(&records, Style { colour: false }), expect);
        let coloured = render(&records, Style { colour: true });
        assert_eq!(coloured.matches("\u{1b}[31m").count(), 1);
        assert_eq!(render(&[], Style { colour: true }), "No decision matches.");
    }
}
