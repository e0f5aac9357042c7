//! Why a request did not go to one endpoint: one sentence, then each term beside the winner's.

use aya_trace::{CandidateJson, RecordJson, TermsJson, VerdictKind, rejection_sentence};
use serde::Serialize;

use crate::exit::Failure;
use crate::explain::{draws, is_cost, left_out, policy};
use crate::table::{Side, Table};
use crate::text::{ABSENT, Style, ago, cost, ms, or_absent, plain};

/// A difference smaller than this made no difference, in seconds.
const NOTHING_S: f64 = 0.0005;

/// One term of both endpoints.
#[derive(Debug, Serialize)]
struct Row {
    term: &'static str,
    endpoint_s: Option<f64>,
    winner_s: Option<f64>,
    difference_s: f64,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct WhyNot<'a> {
    endpoint: &'a str,
    sentence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    winner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference_s: Option<f64>,
    /// Instead of `difference_s`, where the policy ranks by other numbers than seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    score_difference: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    terms: Vec<Row>,
    #[serde(skip)]
    both: Option<(&'a CandidateJson, &'a CandidateJson)>,
}

/// Compares an endpoint with the chosen one.
pub(crate) fn answer<'a>(record: &'a RecordJson, endpoint: &'a str) -> Result<WhyNot<'a>, Failure> {
    let decision = &record.decision;
    let find = |id: &str| decision.candidates.iter().find(|candidate| candidate.endpoint == id);
    let Some(candidate) = find(endpoint) else {
        let known: Vec<&str> = decision.candidates.iter().map(|c| c.endpoint.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let text = format!("{endpoint:?} was no candidate of this decision; candidates: {known}");
        return Err(Failure::NotFound(plain(&text)));
    };
    let simple = |sentence: String| WhyNot {
        endpoint,
        sentence,
        winner: decision.chosen.as_deref(),
        difference_s: None,
        score_difference: None,
        terms: Vec::new(),
        both: None,
    };
    if candidate.verdict == VerdictKind::Rejected {
        let because = candidate.rejection.as_ref();
        let because = because.map_or_else(|| "was rejected without a reason".to_owned(), rejection_sentence);
        return Ok(simple(format!("Not {endpoint}: it {because}.")));
    }
    if left_out(candidate) {
        let did = if draws(record) { "did not draw it" } else { "left it out" };
        return Ok(simple(format!("Not {endpoint}: policy {} {did}.", policy(record))));
    }
    match decision.chosen.as_deref().and_then(find) {
        None => Ok(simple(format!("{endpoint} could have taken it, but nothing was chosen."))),
        Some(winner) if winner.endpoint == endpoint => Ok(simple(format!("It did go to {endpoint}."))),
        Some(winner) => Ok(compared(record, candidate, winner)),
    }
}

fn compared<'a>(
    record: &'a RecordJson,
    candidate: &'a CandidateJson,
    winner: &'a CandidateJson,
) -> WhyNot<'a> {
    let terms = rows(candidate.terms.unwrap_or_default(), winner.terms.unwrap_or_default());
    let difference = candidate.total.zip(winner.total).map(|(loser, winner)| loser - winner);
    let in_seconds = is_cost(record);
    let (id, chosen) = (&candidate.endpoint, &winner.endpoint);
    let sentence = match difference {
        None => format!("Not {id}: its score is no number."),
        Some(difference) if difference.abs() < 1e-9 * winner.total.unwrap_or(0.0).abs().max(1e-9) => {
            format!("Not {id}: it scored the same as {chosen}, and the seed chose.")
        }
        Some(difference) if !in_seconds => {
            let (scorer, worse) = (policy(record), cost(difference));
            format!(
                "Not {id}: by policy {scorer} it scored {worse} worse than {chosen}; aya's cost terms did not decide."
            )
        }
        Some(difference) => {
            format!("Not {id}: predicted {} s worse than {chosen}, {}.", cost(difference), reasons(&terms))
        }
    };
    WhyNot {
        endpoint: id,
        sentence,
        winner: Some(chosen),
        difference_s: difference.filter(|_| in_seconds),
        score_difference: difference.filter(|_| !in_seconds),
        terms: if in_seconds { terms } else { Vec::new() },
        both: Some((candidate, winner)),
    }
}

fn rows(loser: TermsJson, winner: TermsJson) -> Vec<Row> {
    let missed = |terms: &TermsJson| terms.miss_s.or(terms.miss_at_least_s);
    [
        ("time to first token", loser.ttft_s, winner.ttft_s),
        ("its own answer", loser.decode_s, winner.decode_s),
        ("harm to those there", loser.harm_s, winner.harm_s),
        ("near the TTFT objective", loser.slo_s, winner.slo_s),
        ("objectives missed", missed(&loser), missed(&winner)),
        ("stale data", loser.uncertainty_s, winner.uncertainty_s),
    ]
    .into_iter()
    .map(|(term, endpoint_s, winner_s)| Row {
        term,
        endpoint_s,
        winner_s,
        difference_s: endpoint_s.unwrap_or(0.0) - winner_s.unwrap_or(0.0),
    })
    .collect()
}

/// The terms that made the difference, the largest first, and what spoke against it.
fn reasons(terms: &[Row]) -> String {
    let mut sorted: Vec<&Row> = terms.iter().filter(|row| row.difference_s.abs() >= NOTHING_S).collect();
    sorted.sort_by(|a, b| b.difference_s.total_cmp(&a.difference_s));
    let signed = |row: &&Row| format!("{} {:+.3} s", row.term, row.difference_s);
    let (worse, better): (Vec<&Row>, Vec<&Row>) = sorted.into_iter().partition(|row| row.difference_s > 0.0);
    let worse: Vec<String> = worse.iter().map(signed).collect();
    let better: Vec<String> = better.iter().map(signed).collect();
    match (worse.is_empty(), better.is_empty()) {
        (true, _) => "by less than a millisecond in every term".to_owned(),
        (false, true) => format!("because of {}", worse.join(", ")),
        (false, false) => format!("because of {}; better in {}", worse.join(", "), better.join(", ")),
    }
}

/// The sentence and the table.
pub(crate) fn render(answer: &WhyNot<'_>, style: Style) -> String {
    let sentence = style.strong(&plain(&answer.sentence));
    let Some((candidate, winner)) = answer.both else { return sentence };
    let mut table = Table::new(&[
        (if answer.terms.is_empty() { "FACT" } else { "TERM" }, Side::Left),
        ("THIS ONE", Side::Right),
        ("CHOSEN", Side::Right),
        ("DIFFERENCE", Side::Right),
    ]);
    let seconds = |value: Option<f64>| or_absent(value, |s| format!("{} s", cost(s)));
    for row in &answer.terms {
        let cells = [row.term.to_owned(), seconds(row.endpoint_s), seconds(row.winner_s)];
        let [term, this, chosen] = cells;
        table.row(&[term, this, chosen, format!("{:+.3} s", row.difference_s)]);
    }
    let difference = or_absent(answer.difference_s.or(answer.score_difference), |s| format!("{s:+.3}"));
    let name = if answer.terms.is_empty() { "score" } else { "total" };
    let total = |candidate: &CandidateJson| or_absent(candidate.total, cost);
    table.row(&[name.to_owned(), total(candidate), total(winner), difference]);
    let mut fact = |name: &str, show: &dyn Fn(&CandidateJson) -> String| {
        table.row(&[name.to_owned(), show(candidate), show(winner), ABSENT.to_owned()]);
    };
    let terms = |candidate: &CandidateJson| candidate.terms.unwrap_or_default();
    fact("predicted TTFT", &|c| or_absent(terms(c).predicted_ttft_s, |s| ms(s * 1e3)));
    fact("predicted per token", &|c| or_absent(terms(c).predicted_tpot_s, |s| ms(s * 1e3)));
    fact("cached tokens", &|c| or_absent(c.cached_tokens, |tokens| tokens.to_string()));
    fact("in flight", &|c| c.in_flight.to_string());
    fact("data", &|c| c.age_ms.map_or_else(|| "never read".to_owned(), ago));
    format!("{sentence}\n\n{}", table.lines().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::tests::sample;

    fn sentence(endpoint: &str) -> String {
        answer(&sample(), endpoint).unwrap().sentence
    }

    #[test]
    fn the_terms_that_made_the_difference_are_named_largest_first() {
        assert_eq!(
            sentence("gpu-2"),
            "Not gpu-2: predicted 0.550 s worse than gpu-3, because of its own answer +0.320 s, time to first token +0.230 s."
        );
        let mut record = sample();
        let terms = record.decision.candidates[1].terms.as_mut().unwrap();
        (terms.ttft_s, terms.decode_s) = (Some(0.01), Some(2.62));
        let said = answer(&record, "gpu-2").unwrap().sentence;
        assert!(
            said.ends_with("because of its own answer +0.620 s; better in time to first token -0.070 s."),
            "{said}"
        );
    }

    #[test]
    fn a_rejection_the_winner_a_tie_and_a_stranger_are_told_as_such() {
        assert_eq!(sentence("gpu-3"), "It did go to gpu-3.");
        assert!(sentence("gpu-4").starts_with("Not gpu-4: it "), "{}", sentence("gpu-4"));
        let record = sample();
        let Err(Failure::NotFound(said)) = answer(&record, "gpu-9") else { panic!("gpu-9 is unknown") };
        assert!(said.contains("candidates: gpu-1, gpu-2"), "{said}");
        let mut tied = sample();
        tied.decision.candidates[1] =
            CandidateJson { endpoint: "gpu-2".to_owned(), ..tied.decision.candidates[2].clone() };
        assert!(answer(&tied, "gpu-2").unwrap().sentence.contains("the seed chose"));
    }

    #[test]
    fn a_policy_that_ranks_by_other_numbers_is_not_explained_by_seconds() {
        let mut record = sample();
        record.decision.policy = Some("lc".to_owned());
        record.decision.candidates[1].total = Some(4.0);
        record.decision.candidates[2].total = Some(1.0);
        assert_eq!(
            answer(&record, "gpu-2").unwrap().sentence,
            "Not gpu-2: by policy lc it scored 3.000 worse than gpu-3; aya's cost terms did not decide."
        );
        let shown = render(&answer(&record, "gpu-2").unwrap(), Style { colour: false });
        let score = shown.lines().find(|line| line.starts_with("score")).unwrap();
        assert_eq!(score.split_whitespace().collect::<Vec<_>>(), ["score", "4.000", "1.000", "+3.000"]);
        assert!(!shown.contains("harm"), "{shown}");
        let json = serde_json::to_value(answer(&record, "gpu-2").unwrap()).unwrap();
        assert_eq!((json.get("difference_s"), json.get("terms")), (None, None));
        for (policy, expect) in [
            ("p2c", "Not gpu-2: policy p2c did not draw it."),
            ("chbl", "Not gpu-2: policy chbl left it out."),
        ] {
            record.decision.policy = Some(policy.to_owned());
            record.decision.candidates[1].total = Some(1e12);
            assert_eq!(answer(&record, "gpu-2").unwrap().sentence, expect);
        }
    }

    #[test]
    fn the_table_holds_both_sides() {
        let record = sample();
        let shown = render(&answer(&record, "gpu-2").unwrap(), Style { colour: false });
        let line = shown.lines().find(|line| line.starts_with("its own answer")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>().join(" "),
            "its own answer 2.320 s 2.000 s +0.320 s"
        );
        assert!(shown.contains("predicted TTFT"), "{shown}");
    }
}
