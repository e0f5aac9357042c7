//! What a decision asked for beyond snapshot and ledger: who holds how much of the prompt, the requests on the few
//! endpoints that were looked at, and how long answers are.

use std::sync::Arc;

use aya_domain::{EndpointIndex, Tokens};
use aya_estimate::LengthDistribution;
use aya_placement::{Consulted, Knowledge, LookedAt, Stream};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::cells::{put, take};

/// Distributions that one segment numbers; beyond it the oldest is given up and written in full again.
const LENGTHS_MAX: usize = 64;

/// Knowledge as a decision read it.
#[derive(Debug, Clone, Default)]
pub struct KnowledgeRead {
    pub consulted: Consulted,
    /// `None` where nothing was foreseen.
    pub lengths: Option<Arc<LengthDistribution>>,
    pub affinity: Option<u64>,
}

impl KnowledgeRead {
    /// To decide with again.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge<'_> {
        Knowledge {
            endpoints: Some(&self.consulted),
            lengths: self.lengths.as_deref(),
            affinity: self.affinity,
        }
    }
}

/// The same as a line holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KnowledgeJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity: Option<u64>,
    /// Position and tokens of those that hold some of the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cached: Vec<(u32, u64)>,
    /// Position and prompt tokens in flight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    prompts: Vec<(u32, u64)>,
    /// Base64 of LEB128 numbers, for each endpoint that was looked at: its position, how many are pending, their
    /// tokens, how many stream, and of each the tokens and the milliseconds since the first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    looked_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lengths: Option<LengthsRef>,
}

/// A distribution, in full where it is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum LengthsRef {
    Known(u32),
    New { number: u32, width: u32, counts: Vec<u32> },
}

/// The distributions that a segment has been given.
#[derive(Debug, Default)]
pub(super) struct LengthsWritten {
    known: Vec<(u32, Arc<LengthDistribution>)>,
    seen: u32,
}

impl LengthsWritten {
    fn reference(&mut self, lengths: &Arc<LengthDistribution>) -> LengthsRef {
        if let Some((number, _)) = self.known.iter().find(|(_, known)| Arc::ptr_eq(known, lengths)) {
            return LengthsRef::Known(*number);
        }
        if self.known.len() == LENGTHS_MAX {
            self.known.remove(0);
        }
        let number = self.seen;
        self.seen = number.wrapping_add(1);
        self.known.push((number, Arc::clone(lengths)));
        let (width, counts) = lengths.histogram();
        LengthsRef::New { number, width, counts: counts.to_vec() }
    }
}

/// The distributions that a segment has told.
#[derive(Debug, Default)]
pub(super) struct LengthsRead(Vec<(u32, Arc<LengthDistribution>)>);

impl LengthsRead {
    fn get(&mut self, reference: LengthsRef) -> Result<Arc<LengthDistribution>, String> {
        match reference {
            LengthsRef::Known(number) => {
                let found = self.0.iter().find(|(known, _)| *known == number);
                let missing = || format!("length distribution {number} was not given before it");
                found.map(|(_, lengths)| Arc::clone(lengths)).ok_or_else(missing)
            }
            LengthsRef::New { number, width, counts } => {
                let lengths = Arc::new(LengthDistribution::from_histogram(width, counts));
                if self.0.len() == LENGTHS_MAX {
                    self.0.remove(0);
                }
                self.0.push((number, Arc::clone(&lengths)));
                Ok(lengths)
            }
        }
    }
}

impl KnowledgeJson {
    pub(super) fn new(read: &KnowledgeRead, written: &mut LengthsWritten) -> Self {
        let KnowledgeRead { consulted, lengths, affinity } = read;
        let Consulted { cached, prompts, looked_at, pending, streams } = consulted;
        let pair = |(index, tokens): &(EndpointIndex, Tokens)| (index.0, tokens.get());
        Self {
            affinity: *affinity,
            cached: cached.iter().map(pair).collect(),
            prompts: prompts.iter().map(pair).collect(),
            looked_at: residents(looked_at, pending, streams),
            lengths: lengths.as_ref().map(|lengths| written.reference(lengths)),
        }
    }

    pub(super) fn read(self, told: &mut LengthsRead) -> Result<KnowledgeRead, String> {
        let pair = |(index, tokens): (u32, u64)| (EndpointIndex(index), Tokens(tokens));
        let mut consulted = Consulted {
            cached: self.cached.into_iter().map(pair).collect(),
            prompts: self.prompts.into_iter().map(pair).collect(),
            ..Consulted::default()
        };
        for (list, name) in [(&consulted.cached, "cached"), (&consulted.prompts, "prompts")] {
            if !list.is_sorted_by(|(a, _), (b, _)| a < b) {
                return Err(format!("knowledge: {name} is not in ascending order"));
            }
        }
        let bytes = STANDARD_NO_PAD.decode(&self.looked_at);
        let bytes = bytes.map_err(|error| format!("knowledge: looked_at: {error}"))?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            look(&mut rest, &mut consulted)?;
        }
        let lengths = self.lengths.map(|reference| told.get(reference)).transpose()?;
        Ok(KnowledgeRead { consulted, lengths, affinity: self.affinity })
    }
}

fn residents(looked_at: &[LookedAt], pending: &[u32], streams: &[Stream]) -> String {
    let (mut pending, mut streams) = (pending.iter(), streams.iter());
    let mut bytes = Vec::new();
    for look in looked_at {
        put(&mut bytes, u64::from(look.endpoint.0));
        put(&mut bytes, u64::from(look.pending));
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        pending.by_ref().take(count(look.pending)).for_each(|tokens| put(&mut bytes, u64::from(*tokens)));
        put(&mut bytes, u64::from(look.streams));
        for Stream { tokens, since_first_ms } in streams.by_ref().take(count(look.streams)) {
            put(&mut bytes, u64::from(*tokens));
            put(&mut bytes, u64::from(*since_first_ms));
        }
    }
    STANDARD_NO_PAD.encode(bytes)
}

/// Reads the residents of one endpoint. A count that the rest cannot hold ends in its error, not in an allocation.
fn look(rest: &mut &[u8], consulted: &mut Consulted) -> Result<(), String> {
    let mut number = || {
        let value = take(rest).map_err(|error| format!("knowledge: looked_at: {error}"))?;
        u32::try_from(value).map_err(|_| format!("knowledge: looked_at: {value} is too large"))
    };
    let endpoint = EndpointIndex(number()?);
    let pending = number()?;
    for _ in 0..pending {
        consulted.pending.push(number()?);
    }
    let streams = number()?;
    for _ in 0..streams {
        consulted.streams.push(Stream { tokens: number()?, since_first_ms: number()? });
    }
    consulted.looked_at.push(LookedAt { endpoint, pending, streams });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KnowledgeRead {
        let stream = |tokens| Stream { tokens, since_first_ms: tokens * 31 };
        let mut lengths = LengthDistribution::default();
        (0..50).for_each(|tokens| {
            lengths.observe(tokens);
        });
        KnowledgeRead {
            consulted: Consulted {
                cached: vec![(EndpointIndex(3), Tokens(1_834)), (EndpointIndex(900), Tokens(64))],
                prompts: vec![(EndpointIndex(0), Tokens(5))],
                looked_at: vec![
                    LookedAt { endpoint: EndpointIndex(900), pending: 2, streams: 1 },
                    LookedAt { endpoint: EndpointIndex(3), pending: 0, streams: 2 },
                ],
                pending: vec![7, 70_000],
                streams: vec![stream(1), stream(400), stream(90_000)],
            },
            lengths: Some(Arc::new(lengths)),
            affinity: Some(u64::MAX),
        }
    }

    #[test]
    fn knowledge_is_read_back_and_a_distribution_is_written_once() {
        let (mut written, mut told) = (LengthsWritten::default(), LengthsRead::default());
        let knowledge = sample();
        for round in 0..2 {
            let json = serde_json::to_string(&KnowledgeJson::new(&knowledge, &mut written)).unwrap();
            assert_eq!(json.contains("counts"), round == 0, "{json}");
            let back = serde_json::from_str::<KnowledgeJson>(&json).unwrap().read(&mut told).unwrap();
            assert_eq!(back.consulted, knowledge.consulted);
            assert_eq!(back.affinity, knowledge.affinity);
            let histogram = |read: &KnowledgeRead| {
                let (width, counts) = read.lengths.as_ref().unwrap().histogram();
                (width, counts.to_vec())
            };
            assert_eq!(histogram(&back), histogram(&knowledge));
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = KnowledgeJson::new(&sample(), &mut LengthsWritten::default());
        let refused = |json: KnowledgeJson| json.read(&mut LengthsRead::default()).is_err();
        assert!(!refused(whole.clone()));
        for upto in 1..whole.looked_at.len() {
            let looked_at = whole.looked_at.chars().take(upto).collect();
            let damaged = KnowledgeJson { looked_at, ..whole.clone() };
            // A cut between two endpoints is no damage that can be seen here; the decision's digests show it.
            assert!(refused(damaged) || upto == 14, "{upto}");
        }
        assert!(refused(KnowledgeJson { lengths: Some(LengthsRef::Known(5)), ..whole.clone() }));
        assert!(refused(KnowledgeJson { cached: vec![(3, 1), (3, 2)], ..whole }));
    }
}
