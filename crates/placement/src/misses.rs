//! How many objectives a newcomer would break, in expectation: its prompt stalls every stream once, and each stream
//! is slower afterwards.
//!
//! A stall in mean seconds is blind to an answer of 13 tokens, which has only a second to lose. A stream breaks its
//! objective if it ends before the time it is behind has been made up, and the distribution of lengths says how
//! likely that is. What is lost already costs nothing more.

use aya_estimate::LengthDistribution;

use crate::knowledge::Insight;

/// Share of the objective that is aimed at.
const AIM: f64 = 0.97;

/// The pace of an endpoint before and after the newcomer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Seconds per token now.
    pub(crate) before_s: f64,
    /// Seconds per token with the newcomer.
    pub(crate) after_s: f64,
    /// Seconds for which its prompt stops everybody else.
    pub(crate) stall_s: f64,
    /// Seconds to compute one prompt token.
    pub(crate) per_token_s: f64,
}

/// Objectives that the newcomer breaks, its own included: 0 to the number of requests there plus 1. `like_ours`: how
/// many requests there are for each that is known.
pub(crate) fn expected(
    insight: &Insight<'_>,
    lengths: &LengthDistribution,
    pace: &Pace,
    slo_tpot_s: f64,
    like_ours: f64,
) -> f64 {
    let limit = AIM * slo_tpot_s;
    let (slack_before, slack_after) = (limit - pace.before_s, limit - pace.after_s);
    let lost = |generated: f64, behind: f64, slack: f64| {
        if slack <= 0.0 { 1.0 } else { lengths.ends_within(generated, behind / slack) }
    };
    let newly = |generated: f64, behind: f64| {
        (lost(generated, behind + pace.stall_s, slack_after) - lost(generated, behind, slack_before)).max(0.0)
    };
    let own = if slack_after <= 0.0 { 1.0 } else { 0.0 };
    if slack_before <= 0.0 {
        // Everybody there is lost already.
        return own;
    }
    let pending_tokens: f64 = insight.pending.iter().sum();
    let stall_ahead = pace.per_token_s * pending_tokens;
    let streaming = insight
        .streams
        .iter()
        .map(|stream| newly(stream.tokens, stream.since_first_s - limit * stream.tokens + stall_ahead));
    let mut behind_it = pending_tokens;
    let pending = insight.pending.iter().map(|tokens| {
        behind_it -= tokens;
        newly(1.0, pace.per_token_s * behind_it)
    });
    own + like_ours * (streaming.sum::<f64>() + pending.sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::Stream;

    const PACE: Pace = Pace { before_s: 0.02, after_s: 0.021, stall_s: 0.2, per_token_s: 1e-4 };

    fn misses(streams: &[(f64, f64)], pending: &[f64], pace: Pace) -> f64 {
        let streams: Vec<Stream> = streams
            .iter()
            .map(|(tokens, since_first_s)| Stream { tokens: *tokens, since_first_s: *since_first_s })
            .collect();
        let insight = Insight { pending, streams: &streams, ..Insight::default() };
        expected(&insight, &LengthDistribution::default(), &pace, 0.05, 1.0)
    }

    #[test]
    fn a_stream_with_slack_is_not_endangered_and_one_behind_is() {
        assert!(misses(&[], &[], PACE).abs() < 1e-12);
        assert!(misses(&[(100.0, 2.0)], &[], PACE) < 0.01, "2.8 s ahead of its objective");
        let even = misses(&[(10.0, 0.47)], &[], PACE);
        assert!((0.01..0.1).contains(&even), "{even}");
        assert!(misses(&[(10.0, 0.47)], &[], Pace { stall_s: 0.8, ..PACE }) > 2.0 * even);
    }

    #[test]
    fn what_is_lost_already_costs_nothing_but_the_newcomer_itself_counts() {
        let slow = Pace { before_s: 0.06, after_s: 0.07, ..PACE };
        assert!((misses(&[(10.0, 1.0), (5.0, 0.1)], &[], slow) - 1.0).abs() < 1e-12);
        let tipping = Pace { before_s: 0.04, after_s: 0.07, ..PACE };
        assert!((misses(&[(100.0, 2.0)], &[], tipping) - 2.0).abs() < 0.01);
    }

    #[test]
    fn pending_requests_are_stalled_by_those_behind_them() {
        let alone = misses(&[], &[3000.0], PACE);
        let followed = misses(&[], &[3000.0, 3000.0], PACE);
        assert!(alone > 0.0 && followed > alone, "{alone} {followed}");
    }
}
