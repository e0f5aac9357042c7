//! Seeded damage: from a corpus and a seed always the same inputs.

/// A small generator (xorshift64*); its whole state is its seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From any seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 1 } else { self.0 };
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.next() >> 11) % bound).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes().first().copied().unwrap_or(0)
    }
}

/// Most bytes of a mutated input: large inputs are slow and find nothing that small ones do not.
const LENGTH_MAX: usize = 16 * 1024;
/// Most damages to one input.
const DAMAGES_MAX: usize = 6;

/// Damages the inputs of a corpus.
#[derive(Debug)]
pub struct Mutator<'c> {
    rng: Rng,
    corpus: &'c [Vec<u8>],
    words: &'c [&'c str],
}

impl<'c> Mutator<'c> {
    /// `words` are put in where a random byte would be read as nothing.
    #[must_use]
    pub const fn new(seed: u64, corpus: &'c [Vec<u8>], words: &'c [&'c str]) -> Self {
        Self { rng: Rng::new(seed), corpus, words }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.pick();
        for _ in 0..=self.rng.below(DAMAGES_MAX) {
            self.damage(&mut input);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn pick(&mut self) -> Vec<u8> {
        let at = self.rng.below(self.corpus.len());
        self.corpus.get(at).cloned().unwrap_or_default()
    }

    fn damage(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.below(input.len() + 1);
        let length = self.rng.below(16).min(input.len() - at);
        match self.rng.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..at + length)),
            2 => {
                let copy = input.get(at..at + length).unwrap_or_default().repeat(1 + self.rng.below(8));
                drop(input.splice(at..at, copy));
            }
            3 => {
                let other = self.pick();
                let tail = other.get(self.rng.below(other.len() + 1)..).unwrap_or_default();
                input.truncate(at);
                input.extend_from_slice(tail);
            }
            4 => {
                let byte = self.rng.byte();
                input.insert(at, byte);
            }
            5 => {
                let flip = 1 << self.rng.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= flip;
                }
            }
            _ => {
                let word = self.words.get(self.rng.below(self.words.len())).copied().unwrap_or_default();
                let over = if self.rng.below(2) == 0 { length } else { 0 };
                drop(input.splice(at..at + over, word.bytes()));
            }
        }
    }
}
