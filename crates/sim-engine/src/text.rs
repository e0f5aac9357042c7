//! What the simulated model says: pseudo-words and answer lengths, both functions of a seed.

use aya_domain::splitmix64;

const ONSETS: [&str; 16] =
    ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "st", "br", "pl"];
const NUCLEI: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "ea", "ou"];
const CODAS: [&str; 8] = ["", "", "", "n", "r", "l", "s", "m"];

/// Appends the `ordinal`-th token of an answer, from 1: one word, with a space before every word but the first.
pub(crate) fn push_word(out: &mut String, seed: u64, ordinal: u32) {
    if ordinal > 1 {
        out.push(' ');
    }
    let mut bits = splitmix64(seed ^ u64::from(ordinal).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let syllables = 1 + draw(&mut bits, 3);
    for _ in 0..syllables {
        out.push_str(pick(&ONSETS, &mut bits));
        out.push_str(pick(&NUCLEI, &mut bits));
    }
    out.push_str(pick(&CODAS, &mut bits));
}

/// The first `tokens` tokens of an answer.
pub(crate) fn words(seed: u64, tokens: u32) -> String {
    let mut out = String::new();
    (1..=tokens).for_each(|ordinal| push_word(&mut out, seed, ordinal));
    out
}

/// The length of an answer: geometric with this mean, at least one token.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(crate) fn answer_length(seed: u64, mean: f64) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let failures = uniform(seed).ln() / (-1.0 / mean).ln_1p();
    (failures.floor() as u32).saturating_add(1)
}

/// Uniform in (0, 1], a function of the seed.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
pub(crate) fn uniform(seed: u64) -> f64 {
    ((splitmix64(seed) >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

fn draw(bits: &mut u64, choices: u64) -> u64 {
    let drawn = *bits % choices;
    *bits /= choices;
    drawn
}

fn pick<const N: usize>(from: &[&'static str; N], bits: &mut u64) -> &'static str {
    let at = usize::try_from(draw(bits, N as u64)).unwrap_or(0);
    from.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_says_the_same_and_another_does_not() {
        assert_eq!(words(7, 40), words(7, 40));
        assert_ne!(words(7, 40), words(8, 40));
        assert_eq!(words(7, 40).split(' ').count(), 40);
        assert!(words(7, 40).chars().all(|c| c == ' ' || c.is_ascii_lowercase()));
    }

    #[test]
    fn lengths_have_the_mean_that_was_asked_for() {
        let lengths: Vec<_> = (0..20_000).map(|seed| answer_length(seed, 200.0)).collect();
        let mean = lengths.iter().map(|l| f64::from(*l)).sum::<f64>() / 20_000.0;
        assert!((mean - 200.0).abs() < 6.0, "{mean}");
        assert!(lengths.iter().all(|l| *l >= 1));
        assert_eq!(answer_length(3, 0.5), 1);
    }
}
