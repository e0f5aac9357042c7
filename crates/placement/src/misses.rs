//! How many objectives a newcomer would break, in expectation: its prompt stalls every stream once, and each stream
//! is slower afterwards.
//!
//! A stall in mean seconds is blind to an answer of 13 tokens, which has only a second to lose. A stream breaks its
//! objective if it ends before the time it is behind has been made up, and the distribution of lengths says how
//! likely that is. What is lost already costs nothing more.

use aya_estimate::LengthDistribution;

use crate::knowledge::Stream;

/// Share of the objective that is aimed at.
pub(crate) const AIM: f64 = 0.97;

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

impl Pace {
    /// Whether the newcomer's own objective is lost for certain, because the pace will be beyond it. The least that
    /// misses can be, whoever is there.
    pub(crate) fn breaks(&self, slo_tpot_s: f64) -> bool {
        self.after_s >= AIM * slo_tpot_s
    }

    /// Objectives of those there that the newcomer breaks: 0 to their number. `pending`: uncached prompt tokens of those
    /// without a first token, in order.
    pub(crate) fn newly(
        &self,
        pending: &[u32],
        streams: &[Stream],
        lengths: &LengthDistribution,
        slo_tpot_s: f64,
    ) -> f64 {
        let limit = AIM * slo_tpot_s;
        let (slack_before, slack_after) = (limit - self.before_s, limit - self.after_s);
        if slack_before <= 0.0 {
            // Everybody there is lost already.
            return 0.0;
        }
        let newly = |generated: f64, behind: f64| {
            let after = behind + self.stall_s;
            // Most streams are ahead of their objective by more than the stall.
            if after <= 0.0 && slack_after > 0.0 {
                return 0.0;
            }
            let lost_after =
                if slack_after <= 0.0 { 1.0 } else { lengths.ends_within(generated, after / slack_after) };
            let lost_before = lengths.ends_within(generated, behind / slack_before);
            (lost_after - lost_before).max(0.0)
        };
        let pending_tokens: f64 = pending.iter().map(|tokens| f64::from(*tokens)).sum();
        let stall_ahead = self.per_token_s * pending_tokens;
        let streaming = streams.iter().map(|stream| {
            let generated = f64::from(stream.tokens);
            let since_first_s = f64::from(stream.since_first_ms) * 1e-3;
            newly(generated, since_first_s - limit * generated + stall_ahead)
        });
        let mut behind_it = pending_tokens;
        let waiting = pending.iter().map(|tokens| {
            behind_it -= f64::from(*tokens);
            newly(1.0, self.per_token_s * behind_it)
        });
        streaming.sum::<f64>() + waiting.sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { before_s: 0.02, after_s: 0.021, stall_s: 0.2, per_token_s: 1e-4 };

    /// `streams`: tokens so far, milliseconds since the first.
    fn misses(streams: &[(u32, u32)], pending: &[u32], pace: Pace) -> f64 {
        let stream = |(tokens, since_first_ms): &(u32, u32)| Stream {
            tokens: *tokens,
            since_first_ms: *since_first_ms,
        };
        let streams: Vec<Stream> = streams.iter().map(stream).collect();
        f64::from(u8::from(pace.breaks(0.05)))
            + pace.newly(pending, &streams, &LengthDistribution::default(), 0.05)
    }

    #[test]
    fn a_stream_with_slack_is_not_endangered_and_one_behind_is() {
        assert!(misses(&[], &[], PACE).abs() < 1e-12);
        assert!(misses(&[(100, 2_000)], &[], PACE) < 0.01, "2.8 s ahead of its objective");
        let even = misses(&[(10, 470)], &[], PACE);
        assert!((0.01..0.1).contains(&even), "{even}");
        assert!(misses(&[(10, 470)], &[], Pace { stall_s: 0.8, ..PACE }) > 2.0 * even);
    }

    #[test]
    fn what_is_lost_already_costs_nothing_but_the_newcomer_itself_counts() {
        let slow = Pace { before_s: 0.06, after_s: 0.07, ..PACE };
        assert!((misses(&[(10, 1_000), (5, 100)], &[], slow) - 1.0).abs() < 1e-12);
        let tipping = Pace { before_s: 0.04, after_s: 0.07, ..PACE };
        assert!((misses(&[(100, 2_000)], &[], tipping) - 2.0).abs() < 0.01);
        assert!(tipping.breaks(0.05) && !PACE.breaks(0.05));
    }

    #[test]
    fn pending_requests_are_stalled_by_those_behind_them() {
        let alone = misses(&[], &[3000], PACE);
        let followed = misses(&[], &[3000, 3000], PACE);
        assert!(alone > 0.0 && followed > alone, "{alone} {followed}");
    }
}
