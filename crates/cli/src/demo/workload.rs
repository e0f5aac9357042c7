//! The demo's requests: a function of a seed, so that two passes and two runs get the same ones.
//!
//! Arrivals alternate between calm and burst; prompts range from a short question to a long document; answers have
//! the long tail of conversations. An answer's length is fixed by the request (`max_tokens` with `ignore_eos`), so
//! that both passes ask for the same work. Texts differ between passes: no pass finds the other's prompts in a
//! prefix cache.

use aya_domain::splitmix64;

/// The small model; most requests ask for it.
pub(crate) const SMALL: &str = "llama-3.1-8b";
/// The large model.
pub(crate) const LARGE: &str = "llama-3.1-70b";

/// Share of requests for the large model.
const LARGE_SHARE: f64 = 0.2;
/// Requests per modelled second while it is calm, and during a burst.
const CALM_RATE: f64 = 7.0;
const BURST_RATE: f64 = 28.0;
/// Modelled seconds of a calm and of a burst.
const CALM_S: f64 = 4.0;
const BURST_S: f64 = 2.0;
/// Shares of short and middling prompts; the rest is long.
const SHORT_SHARE: f64 = 0.70;
const MIDDLING_SHARE: f64 = 0.25;
/// Prompt tokens of each sort, from and to.
const SHORT: (f64, f64) = (60.0, 800.0);
const MIDDLING: (f64, f64) = (800.0, 3_000.0);
const LONG: (f64, f64) = (3_000.0, 7_000.0);
/// Mean and limits of an answer, in tokens.
const ANSWER_MEAN: f64 = 150.0;
const ANSWER_MIN: f64 = 8.0;
const ANSWER_MAX: f64 = 400.0;
/// The simulated engines count a token per four bytes.
const BYTES_PER_TOKEN: usize = 4;

/// One request to come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// Modelled seconds after the start of the pass.
    pub(crate) at_s: f64,
    pub(crate) model: &'static str,
    pub(crate) prompt_tokens: u32,
    pub(crate) answer_tokens: u32,
}

/// This many requests in order of arrival.
pub(crate) fn plan(requests: usize, seed: u64) -> Vec<Planned> {
    let mut dice = Dice(splitmix64(seed));
    let mut at_s = 0.0;
    let mut planned = Vec::with_capacity(requests);
    for _ in 0..requests {
        at_s = next_arrival(at_s, dice.exponential());
        let model = if dice.roll() < LARGE_SHARE { LARGE } else { SMALL };
        let (from, to) = match dice.roll() {
            sort if sort < SHORT_SHARE => SHORT,
            sort if sort < SHORT_SHARE + MIDDLING_SHARE => MIDDLING,
            _ => LONG,
        };
        let prompt = from * (to / from).powf(dice.roll());
        let answer = (ANSWER_MEAN * dice.exponential()).clamp(ANSWER_MIN, ANSWER_MAX);
        planned.push(Planned { at_s, model, prompt_tokens: whole(prompt), answer_tokens: whole(answer) });
    }
    planned
}

/// The body of a request: a streamed chat with a prompt of the planned length that no other request shares.
pub(crate) fn body(planned: &Planned, nonce: u64) -> serde_json::Value {
    serde_json::json!({
        "model": planned.model,
        "messages": [{"role": "user", "content": text(planned.prompt_tokens, nonce)}],
        "max_tokens": planned.answer_tokens,
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Made-up words of four bytes each; the first ones differ for every nonce.
fn text(tokens: u32, nonce: u64) -> String {
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
    let mut dice = Dice(splitmix64(nonce));
    let mut text = String::with_capacity(tokens.saturating_mul(BYTES_PER_TOKEN));
    for _ in 0..tokens {
        let bits = dice.bits().to_le_bytes();
        text.extend(bits.iter().take(BYTES_PER_TOKEN - 1).map(|byte| char::from(b'a' + byte % 26)));
        text.push(' ');
    }
    text
}

/// Lets one unit of expected arrivals pass through the alternating rates.
fn next_arrival(mut at_s: f64, mut units: f64) -> f64 {
    loop {
        let within = at_s % (CALM_S + BURST_S);
        let (rate, left_s) = if within < CALM_S {
            (CALM_RATE, CALM_S - within)
        } else {
            (BURST_RATE, CALM_S + BURST_S - within)
        };
        // A hair beyond the boundary, or rounding could stay in front of it for ever.
        let left_s = left_s.max(1e-6);
        if units <= rate * left_s {
            return at_s + units / rate;
        }
        units -= rate * left_s;
        at_s += left_s;
    }
}

/// A sequence of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        splitmix64(self.0)
    }

    /// From 0 to below 1.
    fn roll(&mut self) -> f64 {
        let top = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }

    /// With mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.roll()).ln()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "token counts, at least 8")]
fn whole(tokens: f64) -> u32 {
    tokens.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_requests_and_another_one_others() {
        assert_eq!(plan(300, 7), plan(300, 7));
        assert_ne!(plan(300, 7), plan(300, 8));
        assert_eq!(plan(0, 7), []);
    }

    #[test]
    fn arrivals_are_in_order_and_come_in_bursts() {
        let planned = plan(2_000, 1);
        assert!(planned.is_sorted_by_key(|p| p.at_s));
        let in_burst = planned.iter().filter(|p| p.at_s % (CALM_S + BURST_S) >= CALM_S).count();
        // A third of the time carries two thirds of the requests.
        assert!((1_250..1_420).contains(&in_burst), "{in_burst}");
        let end = planned.last().unwrap().at_s;
        assert!((130.0..156.0).contains(&end), "2,000 requests at a mean of 14 per second end at {end} s");
    }

    #[test]
    fn models_and_lengths_are_mixed_as_described() {
        let planned = plan(4_000, 3);
        let share = |count: usize| f64::from(u32::try_from(count).unwrap()) / 4_000.0;
        let large = share(planned.iter().filter(|p| p.model == LARGE).count());
        let long = share(planned.iter().filter(|p| p.prompt_tokens > 3_000).count());
        let answer: u32 = planned.iter().map(|p| p.answer_tokens).sum();
        assert!((0.18..0.22).contains(&large), "{large}");
        assert!((0.04..0.06).contains(&long), "{long}");
        assert!((130..150).contains(&(answer / 4_000)), "{answer}");
        assert!(planned.iter().all(|p| p.prompt_tokens >= 60 && (8..=400).contains(&p.answer_tokens)));
    }

    #[test]
    fn a_prompt_has_its_length_and_shares_no_beginning_with_another() {
        let (one, two) = (text(100, 1), text(100, 2));
        assert_eq!((one.len(), two.len()), (400, 400));
        assert_ne!(one.get(..8), two.get(..8));
        assert_eq!(one, text(100, 1));
    }
}
