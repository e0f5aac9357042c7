//! Ledgers of other schedulers of the same farm: what they tell, and what of it still counts.
//!
//! Schedulers that place on the same endpoints herd unless each knows what the others have just sent. A
//! [`LedgerDigest`] is all that one tells another: the whole of its ledger, 32 bytes per busy endpoint, a few times
//! per second. How it travels is not decided here. What peers hold adds to the own ledger before a decision, and is
//! therefore noted as ours ([`crate::Event::OwnLoad`]), so that it does not count once more as foreign load.
//!
//! A digest is complete, so one that is lost is made up for by the next. A peer that falls silent is dropped after
//! [`SILENT_PERIODS`]: from then on what it has in flight is foreign load, which telemetry tells. It never makes an
//! endpoint unavailable.

use std::collections::BTreeMap;
use std::time::Duration;

use aya_domain::{BootId, EndpointId, MonoTime, OwnLoad, SchedulerId};
use aya_estimate::DecayedRate;

/// Peers whose ledgers are kept; digests of more are ignored.
pub const PEERS_MAX: usize = 64;
/// Endpoints in one digest; what exceeds them is ignored.
pub const ENTRIES_MAX: usize = 16_384;
/// Missing digests after which a peer counts no longer.
const SILENT_PERIODS: u32 = 3;
/// The least silence after which a peer counts no longer, however often it speaks.
const SILENT_LEAST: Duration = Duration::from_secs(1);

/// What one scheduler has in flight on one endpoint, as it travels: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LedgerEntry {
    /// Leases held.
    pub in_flight: u32,
    /// Requests without a first token.
    pub prefilling: u32,
    /// Those that stream.
    pub decoding: u32,
    /// Dispatched prompt tokens per second, when the ledger was read.
    pub prefill_rate: f32,
    /// Uncached prompt tokens of the requests without a first token.
    pub prefill_tokens: u64,
    /// Prompt and streamed tokens of those that stream.
    pub decode_kv_tokens: u64,
}

/// One scheduler's whole ledger at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerDigest {
    pub scheduler: SchedulerId,
    /// Grows with every start of that scheduler.
    pub boot: BootId,
    /// Counts up by one per digest of a boot; a repeated or lower number is ignored.
    pub sequence: u64,
    /// How long ago the ledger was read, by the sender's clock; two wall clocks are never compared.
    pub age: Duration,
    /// When the next one is to be expected.
    pub period: Duration,
    /// An endpoint that is not named has nothing in flight.
    pub entries: Vec<(EndpointId, LedgerEntry)>,
}

impl LedgerEntry {
    /// The part of an account that others need: how long to leave an endpoint alone is everybody's own affair.
    #[must_use]
    pub fn of(load: &OwnLoad) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more than f32 holds")]
        let prefill_rate = load.prefill_rate as f32;
        Self {
            in_flight: load.in_flight,
            prefilling: load.prefilling,
            decoding: load.decoding,
            prefill_rate,
            prefill_tokens: load.prefill_tokens,
            decode_kv_tokens: load.decode_kv_tokens,
        }
    }

    /// The account as of `now`, of a ledger that was read at `read_at`.
    fn load(&self, read_at: MonoTime, now: MonoTime) -> OwnLoad {
        let rate = f64::from(self.prefill_rate);
        let rate = if rate.is_finite() { rate.max(0.0) } else { 0.0 };
        OwnLoad {
            in_flight: self.in_flight,
            prefilling: self.prefilling,
            prefill_tokens: self.prefill_tokens,
            decoding: self.decoding,
            decode_kv_tokens: self.decode_kv_tokens,
            prefill_rate: DecayedRate::from_parts(rate, read_at).read(now),
            ..OwnLoad::default()
        }
    }
}

/// What became of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Taken,
    /// Its own words came back to a scheduler.
    FromSelf,
    /// Repeated, overtaken, or from a start before the last one.
    Old,
    /// More than [`PEERS_MAX`] peers speak, or it names more than [`ENTRIES_MAX`] endpoints.
    TooMany,
}

#[derive(Debug, Clone)]
struct Peer {
    boot: BootId,
    sequence: u64,
    read_at: MonoTime,
    until: MonoTime,
    entries: BTreeMap<EndpointId, LedgerEntry>,
}

/// The ledgers of all peers, as one scheduler knows them.
#[derive(Debug, Clone)]
pub struct PeerLedgers {
    own: SchedulerId,
    peers: BTreeMap<SchedulerId, Peer>,
}

impl PeerLedgers {
    /// Nobody has spoken yet.
    #[must_use]
    pub const fn new(own: SchedulerId) -> Self {
        Self { own, peers: BTreeMap::new() }
    }

    /// Takes what a peer tells.
    pub fn hear(&mut self, digest: &LedgerDigest, received_at: MonoTime) -> Heard {
        if digest.scheduler == self.own {
            return Heard::FromSelf;
        }
        self.forget_silent(received_at);
        match self.peers.get(&digest.scheduler) {
            Some(known) if (digest.boot.0, digest.sequence) <= (known.boot.0, known.sequence) => {
                return Heard::Old;
            }
            None if self.peers.len() >= PEERS_MAX => return Heard::TooMany,
            Some(_) | None => {}
        }
        if digest.entries.len() > ENTRIES_MAX {
            return Heard::TooMany;
        }
        let silence = digest.period.saturating_mul(SILENT_PERIODS).max(SILENT_LEAST);
        let peer = Peer {
            boot: digest.boot,
            sequence: digest.sequence,
            read_at: received_at.before(digest.age),
            until: received_at.after(silence),
            entries: digest.entries.iter().cloned().collect(),
        };
        self.peers.insert(digest.scheduler.clone(), peer);
        Heard::Taken
    }

    /// What all peers that still speak have in flight on an endpoint.
    #[must_use]
    pub fn load(&self, endpoint: &EndpointId, now: MonoTime) -> OwnLoad {
        let told =
            self.speaking(now).filter_map(|peer| Some(peer.entries.get(endpoint)?.load(peer.read_at, now)));
        told.fold(OwnLoad::default(), |sum, load| sum.with(&load))
    }

    /// How many peers still speak.
    #[must_use]
    pub fn count(&self, now: MonoTime) -> usize {
        self.speaking(now).count()
    }

    /// Age of the oldest ledger that counts; `None` if nobody speaks.
    #[must_use]
    pub fn age(&self, now: MonoTime) -> Option<Duration> {
        self.speaking(now).map(|peer| now.since(peer.read_at)).max()
    }

    fn speaking(&self, now: MonoTime) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(move |peer| peer.until >= now)
    }

    fn forget_silent(&mut self, now: MonoTime) {
        self.peers.retain(|_, peer| peer.until >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_millis(ms)
    }

    fn id(text: &str) -> SchedulerId {
        SchedulerId::parse(text).unwrap()
    }

    fn endpoint() -> EndpointId {
        EndpointId::parse("e").unwrap()
    }

    fn digest(from: &str, boot: u64, sequence: u64, in_flight: u32) -> LedgerDigest {
        let entry =
            LedgerEntry { in_flight, prefilling: in_flight, prefill_rate: 100.0, ..LedgerEntry::default() };
        LedgerDigest {
            scheduler: id(from),
            boot: BootId(boot),
            sequence,
            age: Duration::from_millis(20),
            period: Duration::from_millis(100),
            entries: vec![(endpoint(), entry)],
        }
    }

    #[test]
    fn peers_add_up_and_the_last_word_of_each_counts() {
        let mut peers = PeerLedgers::new(id("a"));
        for (from, boot, sequence, in_flight, heard, sum) in [
            ("b", 1, 1, 3, Heard::Taken, 3),
            ("c", 1, 1, 4, Heard::Taken, 7),
            ("b", 1, 2, 1, Heard::Taken, 5),
            ("b", 1, 2, 9, Heard::Old, 5),
            ("b", 2, 1, 2, Heard::Taken, 6),
            ("b", 1, 9, 9, Heard::Old, 6),
            ("a", 1, 1, 9, Heard::FromSelf, 6),
        ] {
            assert_eq!(
                peers.hear(&digest(from, boot, sequence, in_flight), at(1_000)),
                heard,
                "{from} {sequence}"
            );
            assert_eq!(peers.load(&endpoint(), at(1_000)).in_flight, sum, "{from} {boot} {sequence}");
        }
        assert_eq!(peers.age(at(1_030)), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_silent_peer_counts_no_longer_and_a_rate_decays_meanwhile() {
        let mut peers = PeerLedgers::new(id("a"));
        peers.hear(&digest("b", 1, 1, 3), at(1_000));
        let later = peers.load(&endpoint(), at(1_980));
        assert_eq!(later.in_flight, 3);
        assert!((later.prefill_rate - 100.0 / 0.25_f64.exp()).abs() < 1e-9, "{later:?}");
        assert_eq!(peers.load(&endpoint(), at(2_001)), OwnLoad::default());
        assert_eq!((peers.count(at(2_001)), peers.age(at(2_001))), (0, None));
    }

    #[test]
    fn only_so_many_are_kept() {
        let mut peers = PeerLedgers::new(id("a"));
        for peer in 0..PEERS_MAX {
            assert_eq!(peers.hear(&digest(&format!("p{peer}"), 1, 1, 1), at(0)), Heard::Taken);
        }
        assert_eq!(peers.hear(&digest("late", 1, 1, 1), at(0)), Heard::TooMany);
        assert_eq!(peers.hear(&digest("late", 1, 2, 1), at(5_000)), Heard::Taken, "the others fell silent");
    }

    #[test]
    fn an_entry_is_as_small_as_promised() {
        assert_eq!(size_of::<LedgerEntry>(), 32);
    }
}
