//! The requests of ours on one endpoint, one by one: how far each has come, as foreseeing misses needs it.
//!
//! A table of words, one per request, that its lease writes and every decision may read at any time: nobody waits for
//! anybody. What does not fit ([`RESIDENTS_MAX`]) is still counted by the ledger, and taken to be like those that do.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aya_domain::MonoTime;
use aya_placement::Stream;

/// Requests of one endpoint that are known one by one; 2 KiB per endpoint once it has had a request.
const RESIDENTS_MAX: usize = 256;
const PER_WORD: usize = 64;

/// A word is `streams? | milliseconds | tokens`: 1, 39 and 24 bits. Milliseconds count from the clock's start, 17 years
/// of them; tokens beyond 16 million stay there.
const TOKEN_BITS: u32 = 24;
const TOKENS_MAX: u64 = (1 << TOKEN_BITS) - 1;
const MILLIS_MAX: u64 = (1 << 39) - 1;
const STREAMS: u64 = 1 << 63;

/// The residents of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Residents {
    table: OnceLock<Box<Table>>,
}

#[derive(Debug)]
struct Table {
    /// One bit per entry that is taken.
    taken: [AtomicU64; RESIDENTS_MAX / PER_WORD],
    entries: [AtomicU64; RESIDENTS_MAX],
}

/// A request's entry, given back by [`Residents::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(usize);

impl Residents {
    /// A request with this many uncached prompt tokens was dispatched; `None`: the table is full.
    pub(crate) fn enter(&self, now: MonoTime, uncached: u64) -> Option<Entry> {
        let table = self.table.get_or_init(|| {
            Box::new(Table {
                taken: std::array::from_fn(|_| AtomicU64::new(0)),
                entries: std::array::from_fn(|_| AtomicU64::new(0)),
            })
        });
        for (at, word) in table.taken.iter().enumerate() {
            let take = |taken: u64| (taken != u64::MAX).then(|| taken | (taken + 1));
            if let Ok(before) = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take) {
                let entry = Entry(at * PER_WORD + before.trailing_ones() as usize);
                self.set(entry, pack(now, uncached));
                return Some(entry);
            }
        }
        None
    }

    /// Its first token came at this time.
    pub(crate) fn first_token(&self, entry: Entry, at: MonoTime) {
        self.set(entry, STREAMS | pack(at, 0));
    }

    /// This many more tokens came.
    pub(crate) fn tokens(&self, entry: Entry, count: u64) {
        let Some(word) = self.entry(entry) else { return };
        // Only its own lease writes an entry.
        let before = word.load(Ordering::Relaxed);
        let tokens = (before & TOKENS_MAX).saturating_add(count).min(TOKENS_MAX);
        word.store(before & !TOKENS_MAX | tokens, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self, entry: Entry) {
        let Some(table) = self.table.get() else { return };
        self.set(entry, 0);
        if let Some(word) = table.taken.get(entry.0 / PER_WORD) {
            word.fetch_and(!(1 << (entry.0 % PER_WORD)), Ordering::AcqRel);
        }
    }

    /// Appends what is known at `now`: the uncached tokens of those without a first token, in order of dispatch, and
    /// the streams. `scratch` is overwritten.
    pub(crate) fn read(
        &self,
        now: MonoTime,
        pending: &mut Vec<u32>,
        streams: &mut Vec<Stream>,
        scratch: &mut Vec<u64>,
    ) {
        let Some(table) = self.table.get() else { return };
        scratch.clear();
        for (word, entries) in table.taken.iter().zip(table.entries.chunks(PER_WORD)) {
            let mut left = word.load(Ordering::Acquire);
            while left != 0 {
                let at = left.trailing_zeros() as usize;
                left &= left - 1;
                let entry = entries.get(at).map_or(0, |entry| entry.load(Ordering::Relaxed));
                if entry & STREAMS != 0 {
                    let since_first = millis(now).saturating_sub(entry >> TOKEN_BITS & MILLIS_MAX);
                    streams.push(Stream { tokens: tokens(entry), since_first_ms: narrow(since_first) });
                } else if entry != 0 {
                    scratch.push(entry);
                }
            }
        }
        // By time of dispatch, which is above the tokens.
        scratch.sort_unstable();
        pending.extend(scratch.iter().map(|entry| tokens(*entry)));
    }

    fn set(&self, entry: Entry, content: u64) {
        if let Some(word) = self.entry(entry) {
            word.store(content, Ordering::Relaxed);
        }
    }

    fn entry(&self, entry: Entry) -> Option<&AtomicU64> {
        self.table.get()?.entries.get(entry.0)
    }
}

fn millis(at: MonoTime) -> u64 {
    (at.as_nanos() / 1_000_000).min(MILLIS_MAX)
}

fn pack(at: MonoTime, tokens: u64) -> u64 {
    millis(at) << TOKEN_BITS | tokens.min(TOKENS_MAX)
}

fn tokens(entry: u64) -> u32 {
    narrow(entry & TOKENS_MAX)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_millis(ms)
    }

    fn read(residents: &Residents, ms: u64) -> (Vec<u32>, Vec<Stream>) {
        let (mut pending, mut streams) = (Vec::new(), Vec::new());
        residents.read(at(ms), &mut pending, &mut streams, &mut Vec::new());
        (pending, streams)
    }

    #[test]
    fn a_request_is_pending_in_order_then_streams_then_is_gone() {
        let residents = Residents::default();
        assert_eq!(read(&residents, 0), (vec![], vec![]));
        let first = residents.enter(at(1_000), 500).unwrap();
        let second = residents.enter(at(900), 70).unwrap();
        assert_eq!(read(&residents, 1_100).0, [70, 500]);
        residents.first_token(first, at(1_200));
        residents.tokens(first, 3);
        residents.tokens(first, 4);
        let stream = Stream { tokens: 7, since_first_ms: 250 };
        assert_eq!(read(&residents, 1_450), (vec![70], vec![stream]));
        residents.leave(first);
        residents.leave(second);
        assert_eq!(read(&residents, 2_000), (vec![], vec![]));
        assert_eq!(residents.enter(at(1), 1), Some(first), "an entry is used again");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_what_is_too_large_is_cut() {
        let residents = Residents::default();
        let entries: Vec<_> = (0..RESIDENTS_MAX).map(|_| residents.enter(at(5), u64::MAX).unwrap()).collect();
        assert_eq!(residents.enter(at(5), 1), None);
        let (pending, streams) = read(&residents, 5);
        assert_eq!((pending.len(), streams.len()), (RESIDENTS_MAX, 0));
        assert!(pending.iter().all(|tokens| *tokens == 16_777_215));
        residents.leave(entries[70]);
        assert_eq!(residents.enter(at(6), 1), Some(entries[70]));
    }

    #[test]
    fn many_threads_never_share_an_entry() {
        let residents = Residents::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let residents = &residents;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let Some(entry) = residents.enter(at(1), 9) else { panic!("{thread} {round}") };
                        residents.first_token(entry, at(2));
                        residents.tokens(entry, round);
                        let word = residents.entry(entry).unwrap().load(Ordering::Relaxed);
                        assert_eq!(u64::from(tokens(word)), round);
                        residents.leave(entry);
                    }
                });
            }
        });
        assert_eq!(read(&residents, 3), (vec![], vec![]));
    }
}
