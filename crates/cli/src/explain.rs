//! Why a request went where it went: one sentence first, then everything it rests on.

use aya_placement::{Filter, Policy, is_left_out};
use aya_trace::{
    CandidateJson, PlacementJson, RecordJson, RejectionJson, TermsJson, VerdictKind, WaitedFor,
    placement_sentence, rejection_sentence,
};

use crate::table::{Side, Table};
use crate::text::{Style, ago, cost, counted, grouped, ms, or_absent, plain};

mod shed;

use shed::shed;

pub(crate) fn render(record: &RecordJson, style: Style) -> String {
    let mut blocks = vec![style.strong(&headline(record)), identity(record)];
    let scored = scored(record);
    if !scored.is_empty() {
        let title = if is_cost(record) {
            "scored (seconds; the smallest cost wins)".to_owned()
        } else {
            let policy = plain(policy(record));
            format!(
                "scored by policy {policy} (the smallest score wins; aya's cost terms are predicted, for information)"
            )
        };
        blocks.push(section(&title, costs(record, &scored)));
    }
    let (rejected, strangers) = rejected(record);
    let mut lines = if rejected.is_empty() { Vec::new() } else { rejections(&rejected) };
    if strangers > 0 {
        let verb = if strangers == 1 { "does" } else { "do" };
        lines.push(format!("{} {verb} not serve this model", counted(strangers, "endpoint")));
    }
    if !lines.is_empty() {
        blocks.push(section("rejected", lines));
    }
    if !record.attempts.is_empty() {
        blocks.push(section("attempts", attempts(record)));
    }
    blocks.push(outcome(record));
    blocks.join("\n\n")
}

fn section(title: &str, lines: Vec<String>) -> String {
    let lines = lines.into_iter().map(|line| format!("  {line}"));
    std::iter::once(title.to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

/// Scored candidates, the best first.
fn scored(record: &RecordJson) -> Vec<&CandidateJson> {
    let candidates = record.decision.candidates.iter();
    let mut scored: Vec<_> = candidates.filter(|c| c.verdict == VerdictKind::Scored).collect();
    let total = |c: &CandidateJson| c.total.unwrap_or(f64::INFINITY);
    scored.sort_by(|a, b| total(a).total_cmp(&total(b)).then_with(|| a.endpoint.cmp(&b.endpoint)));
    scored
}

/// Whether totals are costs in seconds, the sums of their terms. Other policies rank by numbers of their own.
pub(crate) fn is_cost(record: &RecordJson) -> bool {
    scored(record).into_iter().filter(|candidate| !left_out(candidate)).all(|candidate| {
        let terms = candidate.terms.unwrap_or_default();
        let missed = terms.miss_s.or(terms.miss_at_least_s);
        let parts = [terms.ttft_s, terms.decode_s, terms.harm_s, terms.slo_s, missed, terms.uncertainty_s];
        let sum: f64 = parts.into_iter().flatten().sum();
        candidate.total.is_none_or(|total| (total - sum).abs() <= 1e-6 * total.abs().max(1.0))
    })
}

/// Whether a filter of the policy left a candidate out, so that its total is no score.
pub(crate) fn left_out(candidate: &CandidateJson) -> bool {
    // Older records hold the number that only kept the order.
    candidate.left_out || candidate.total.is_some_and(is_left_out)
}

pub(crate) fn policy(record: &RecordJson) -> &str {
    record.decision.policy.as_deref().unwrap_or("unknown")
}

/// Whether the policy draws those that it considers, and leaves nobody out for another reason.
pub(crate) fn draws(record: &RecordJson) -> bool {
    let filters = Policy::named(policy(record)).map(|policy| policy.filters).unwrap_or_default();
    !filters.is_empty() && filters.iter().all(|filter| matches!(filter, Filter::Sample(_)))
}

/// Endpoints of the model that were rejected, and how many there are of other models: those are no news.
fn rejected(record: &RecordJson) -> (Vec<&CandidateJson>, usize) {
    let candidates = record.decision.candidates.iter();
    let rejected = candidates.filter(|c| c.verdict == VerdictKind::Rejected);
    let (strangers, own): (Vec<_>, Vec<_>) =
        rejected.partition(|c| c.rejection == Some(RejectionJson::ModelNotServed));
    (own, strangers.len())
}

fn headline(record: &RecordJson) -> String {
    let failed = failed(record);
    let last = if failed.is_empty() || record.attempts.len() < 2 { "Went to" } else { "Last went to" };
    if let Some(refused) = queue_refusal(record) {
        return plain(&format!("{failed}{refused}{}", waited(record)));
    }
    let decision = &record.decision;
    let text = match (&decision.placement, &decision.chosen) {
        _ if record.admission.shed.is_some() => shed(record),
        _ if record.outcome.error.as_deref() == Some("deadline_exceeded") => late(record),
        (Some(PlacementJson::Placed), Some(chosen)) => {
            let told = (cached(record, chosen), missing(record), waited(record));
            format!("{last} {chosen}: {}.{}{}{}", reason(record), told.0, told.1, told.2)
        }
        (Some(placement), _) if record.queue_ms > 0.0 => {
            format!("{}.{}", capital(&placement_sentence(placement)), waited(record))
        }
        (Some(placement), _) => format!("{}.", capital(&placement_sentence(placement))),
        (None, _) => match &record.outcome.error {
            Some(error) => format!("Refused before any endpoint was considered: {error}."),
            None => format!("Ended before any endpoint was considered.{}", waited(record)),
        },
    };
    plain(&format!("{failed}{text}"))
}

/// How the attempts failed, as a sentence, if every one did.
fn failed(record: &RecordJson) -> String {
    if record.attempts.is_empty() || record.attempts.iter().any(|attempt| attempt.result != "failed") {
        return String::new();
    }
    let mut endpoints: Vec<&str> = record.attempts.iter().map(|attempt| attempt.endpoint.as_str()).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let mut reasons: Vec<&str> = record.attempts.iter().filter_map(|a| a.reason.as_deref()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    format!("Failed on {}{why}. ", counted(endpoints.len(), "endpoint"))
}

/// Why it lost its place in the queue or got none, as a sentence.
fn queue_refusal(record: &RecordJson) -> Option<&'static str> {
    match record.outcome.error.as_deref()? {
        "displaced" => Some(
            "Not placed: displaced in the full queue by a more urgent request, or one of a tenant with fewer waiting.",
        ),
        "queue_full" => Some("Refused: it would have had to wait, and the queue was full at its limit."),
        _ => None,
    }
}

/// How the client's deadline passed before it was sent, as a sentence.
fn late(record: &RecordJson) -> String {
    let deadline = or_absent(record.decision.request.deadline_ms, ms);
    let held = match &record.decision.placement {
        Some(PlacementJson::Placed) | None => String::new(),
        Some(held) => format!(" ({})", placement_sentence(held)),
    };
    format!("Not sent: its client's deadline of {deadline} passed{held}.{}", waited(record))
}

/// How it waited, as a sentence.
fn waited(record: &RecordJson) -> String {
    let Some(position) = record.admission.queue_position else { return String::new() };
    let what = match record.admission.waited_for {
        Some(WaitedFor::Room) => ": every endpoint that fits was full",
        Some(WaitedFor::ReadyEndpoint) => ": no endpoint of the model was ready",
        Some(WaitedFor::Turn) => ": others waited before it",
        Some(WaitedFor::Unknown) | None => "",
    };
    let class = record.decision.request.priority.as_ref().map(|c| format!(" as {c}")).unwrap_or_default();
    format!(" It waited {}{class}, {position} ahead of it when it came{what}.", ms(record.queue_ms))
}

/// What the policy goes by and was not told, as a sentence.
fn missing(record: &RecordJson) -> String {
    let scored = scored(record);
    let lacking: Vec<_> = scored.iter().filter(|candidate| !candidate.missing.is_empty()).collect();
    let mut facts: Vec<&str> = lacking.iter().flat_map(|c| c.missing.iter().map(String::as_str)).collect();
    facts.sort_unstable();
    facts.dedup();
    if facts.is_empty() {
        return String::new();
    }
    let facts = facts.join(", ").replace('_', " ");
    format!(" The policy did not know {facts} of {} of {}.", lacking.len(), counted(scored.len(), "endpoint"))
}

/// What of the prompt the chosen endpoint need not compute, as a sentence.
fn cached(record: &RecordJson, chosen: &str) -> String {
    let there = record.decision.candidates.iter().find(|candidate| candidate.endpoint == chosen);
    match (there.and_then(|c| c.cached_tokens), record.decision.request.prompt_tokens_estimate) {
        (Some(cached), Some(prompt)) if cached > 0 => {
            format!(" About {} of {} prompt tokens cached there.", grouped(cached), grouped(prompt))
        }
        _ => String::new(),
    }
}

/// What the choice came down to.
fn reason(record: &RecordJson) -> String {
    let decision = &record.decision;
    let rejected = rejected(record).0.len();
    let scored = scored(record);
    let field = scored.iter().filter(|candidate| !left_out(candidate)).count();
    let others = if rejected > 0 { format!(", {rejected} rejected") } else { String::new() };
    let (by, what, unit) = if is_cost(record) {
        (String::new(), "cost", " s")
    } else {
        (format!("by policy {}: ", policy(record)), "score", "")
    };
    // Of how many they were drawn, where not all were considered.
    let of = if field < scored.len() {
        let word = if draws(record) { "drawn" } else { "kept" };
        format!("{word} of {} that could take it", scored.len())
    } else {
        "that could take it".to_owned()
    };
    match (&decision.runner_up, decision.margin_s, decision.ties) {
        (_, _, Some(ties)) => {
            format!(
                "{by}{} had the same lowest {what}, the seed chose among them{others}",
                counted(to_usize(ties), "endpoint")
            )
        }
        (Some(second), Some(margin), None) if field > 1 => {
            let (field, margin) = (counted(field, "endpoint"), cost(margin));
            format!("{by}lowest {what} of {field} {of}, {margin}{unit} ahead of {second}{others}")
        }
        _ if field < scored.len() => format!("{by}the only endpoint {of}{others}"),
        _ => format!("the only endpoint {of}{others}"),
    }
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn identity(record: &RecordJson) -> String {
    let (decision, request) = (&record.decision, &record.decision.request);
    let class = request.priority.as_ref().map(|class| format!("{class} ")).unwrap_or_default();
    let mut ask = vec![format!("{class}{}", request.kind)];
    ask.extend(request.tenant.as_ref().map(|tenant| format!("of tenant {tenant}")));
    ask.extend(decision.model.as_ref().map(|model| format!("for {model}")));
    ask.extend(request.stream.map(|stream| if stream { "streaming" } else { "not streaming" }.to_owned()));
    ask.extend(request.prompt_tokens_estimate.map(|n| format!("about {n} prompt tokens")));
    ask.extend(request.max_tokens.map(|n| format!("at most {n} new tokens")));
    ask.extend(request.expected_output_tokens.map(|n| format!("{n:.0} expected")));
    let mut ids =
        vec![format!("decision {}", decision.decision_id), format!("request {}", decision.request_id)];
    ids.extend(decision.policy.as_ref().map(|policy| format!("policy {policy}")));
    ids.extend(decision.snapshot_generation.map(|generation| format!("snapshot {generation}")));
    let lines = [ask.join(", "), ids.join(", "), format!("arrived {}", decision.time)];
    lines.map(|line| plain(&line)).join("\n")
}

fn costs(record: &RecordJson, scored: &[&CandidateJson]) -> Vec<String> {
    let is_cost = is_cost(record);
    // Terms that do not add up to the score stand without the signs of a sum.
    let head = |head: &'static str| if is_cost { head } else { head.trim_start_matches(['=', '+', ' ']) };
    let terms_of = |candidate: &CandidateJson| candidate.terms.unwrap_or_default();
    // Columns that only a scheduler fills that keeps account of streams and caches.
    let misses = scored.iter().any(|c| misses(&terms_of(c)).is_some());
    let caches = scored.iter().any(|c| c.cached_tokens.is_some());
    let columns = [
        (" ", Side::Left, true),
        ("ENDPOINT", Side::Left, true),
        (if is_cost { "COST" } else { "SCORE" }, Side::Right, true),
        ("= TTFT", Side::Right, true),
        ("+ ANSWER", Side::Right, true),
        ("+ HARM", Side::Right, true),
        ("+ SLO", Side::Right, true),
        ("+ MISSES", Side::Right, misses),
        ("+ STALE", Side::Right, true),
        ("PREDICTED TTFT", Side::Right, true),
        ("PER TOKEN", Side::Right, true),
        ("CACHED", Side::Right, caches),
        ("IN FLIGHT", Side::Right, true),
        ("DATA", Side::Left, true),
    ];
    let heads: Vec<_> =
        columns.iter().filter(|(.., shown)| *shown).map(|(name, side, _)| (head(name), *side)).collect();
    let mut table = Table::new(&heads);
    let unscored = if draws(record) { "not drawn" } else { "left out" };
    for candidate in scored {
        let terms = terms_of(candidate);
        let seconds = |value: Option<f64>| or_absent(value, cost);
        let chosen = record.decision.chosen.as_ref() == Some(&candidate.endpoint);
        let cells = [
            if chosen { ">" } else { " " }.to_owned(),
            candidate.endpoint.clone(),
            if left_out(candidate) { unscored.to_owned() } else { seconds(candidate.total) },
            seconds(terms.ttft_s),
            seconds(terms.decode_s),
            seconds(terms.harm_s),
            seconds(terms.slo_s),
            or_absent(self::misses(&terms), |shown| shown),
            seconds(terms.uncertainty_s),
            or_absent(terms.predicted_ttft_s, |s| ms(s * 1e3)),
            or_absent(terms.predicted_tpot_s, |s| ms(s * 1e3)),
            or_absent(candidate.cached_tokens, grouped),
            candidate.in_flight.to_string(),
            data_age(candidate),
        ];
        let shown = cells.into_iter().zip(&columns).filter(|(_, (.., shown))| *shown);
        table.row(&shown.map(|(cell, _)| cell).collect::<Vec<_>>());
    }
    let mut lines = table.lines();
    lines.extend(scored.iter().filter_map(|candidate| slowed(candidate)).map(|line| plain(&line)));
    lines
}

/// Why a candidate was predicted slower than it could be.
fn slowed(candidate: &CandidateJson) -> Option<String> {
    let speed = candidate.speed_ratio?;
    let because = candidate.conditions.iter().filter(|c| c.action == "derate").map(|c| {
        let gpu = c.gpu.as_ref().map(|gpu| format!(" on GPU {gpu}")).unwrap_or_default();
        let state = if c.recovering { "recovering: " } else { "" };
        let braked = if c.braked.is_some() { " (the brake keeps it in)" } else { "" };
        format!("{state}{}{gpu}{braked}", c.cause)
    });
    let because: Vec<String> = because.collect();
    Some(format!(
        "{} counts as {:.0} % of its speed: {}",
        candidate.endpoint,
        speed * 100.0,
        because.join("; ")
    ))
}

/// The seconds that expected misses add; where the streams were not looked at, how much it is at least.
fn misses(terms: &TermsJson) -> Option<String> {
    let at_least = || terms.miss_at_least_s.map(|seconds| format!(">= {}", cost(seconds)));
    terms.miss_s.map(cost).or_else(at_least)
}

fn data_age(candidate: &CandidateJson) -> String {
    let age = candidate.age_ms.map_or_else(|| "never read".to_owned(), ago);
    if candidate.freshness == "fresh" { age } else { format!("{age}, {}", candidate.freshness) }
}

fn rejections(rejected: &[&CandidateJson]) -> Vec<String> {
    let mut table = Table::new(&[("ENDPOINT", Side::Left), ("BECAUSE IT", Side::Left), ("DATA", Side::Left)]);
    for candidate in rejected {
        let because = candidate.rejection.as_ref();
        let because = because.map_or_else(|| "was rejected without a reason".to_owned(), rejection_sentence);
        table.row(&[candidate.endpoint.clone(), because, data_age(candidate)]);
    }
    table.lines()
}

fn attempts(record: &RecordJson) -> Vec<String> {
    let mut table =
        Table::new(&[("ENDPOINT", Side::Left), ("SENT AFTER", Side::Right), ("RESULT", Side::Left)]);
    for attempt in &record.attempts {
        let result = match &attempt.reason {
            Some(reason) => format!("{}: {reason}", attempt.result),
            None => attempt.result.clone(),
        };
        let result = match attempt.continues_after_tokens {
            Some(tokens) => format!("{result}; it went on after {tokens} tokens"),
            None => result,
        };
        table.row(&[attempt.endpoint.clone(), ms(attempt.started_ms), result]);
    }
    table.lines()
}

fn outcome(record: &RecordJson) -> String {
    let outcome = &record.outcome;
    let mut facts = vec![crate::decisions::words(outcome.status).to_owned()];
    facts.extend(outcome.error.clone());
    facts.extend(outcome.http_status.map(|status| format!("HTTP {status}")));
    if record.queue_ms > 0.0 {
        facts.push(format!("{} in the queue", ms(record.queue_ms)));
    }
    facts.extend(outcome.ttft_ms.map(|ttft| format!("first token after {}", ms(ttft))));
    facts.extend(outcome.itl_mean_ms.map(|itl| format!("{} between tokens", ms(itl))));
    facts.push(format!("{} in all", ms(outcome.e2e_ms)));
    facts.extend(outcome.prompt_tokens.map(|n| format!("{n} prompt tokens")));
    facts.extend(outcome.completion_tokens.map(|n| format!("{n} new tokens")));
    facts.extend(outcome.finish_reason.as_ref().map(|reason| format!("finish: {reason}")));
    format!("outcome\n  {}", plain(&facts.join(", ")))
}

#[cfg(test)]
pub(crate) mod tests;
