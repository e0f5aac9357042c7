//! Which page of which kind of engine tells which reading: one table, for the parsers' failures, for the states of
//! the signals and for what is never expected of a kind.

use aya_domain::{EngineKind, Signal};

use crate::finding::{Absent, Findings};
use crate::plan::{Page, plan};

const LOAD: &[Signal] = &[
    Signal::Running,
    Signal::Waiting,
    Signal::KvUsed,
    Signal::KvCapacity,
    Signal::PrefixCache,
    Signal::Work,
];
const LOAD_AND_LIMIT: &[Signal] = &[
    Signal::Running,
    Signal::Waiting,
    Signal::KvUsed,
    Signal::KvCapacity,
    Signal::PrefixCache,
    Signal::Work,
    Signal::MaxSequences,
];

/// The readings that a page of this kind of engine gives when all is well.
#[must_use]
pub(crate) const fn tells(kind: EngineKind, page: Page) -> &'static [Signal] {
    match (page, kind) {
        (Page::Health | Page::Version | Page::Loaded, _) => &[],
        (Page::Models, _) => &[Signal::Models],
        (Page::Metrics, EngineKind::LlamaCpp) => {
            &[Signal::Running, Signal::Waiting, Signal::PrefixCache, Signal::Work]
        }
        // How many sequences vLLM batches, only its command line knows; SGLang's is on its page of loads.
        (Page::Metrics, EngineKind::Vllm | EngineKind::Sglang | EngineKind::Tgi) => LOAD,
        (Page::Metrics, EngineKind::Simulated) => LOAD_AND_LIMIT,
        // No counter of TensorRT-LLM is known to move before a request ends.
        (Page::Metrics, EngineKind::TrtLlm) => &[
            Signal::Running,
            Signal::Waiting,
            Signal::KvUsed,
            Signal::KvCapacity,
            Signal::PrefixCache,
            Signal::MaxSequences,
        ],
        (Page::Metrics, EngineKind::Triton) => &[
            Signal::Running,
            Signal::Waiting,
            Signal::KvUsed,
            Signal::KvCapacity,
            Signal::MaxSequences,
            Signal::Work,
        ],
        (Page::Metrics, EngineKind::Ollama) => &[],
        (Page::Slots, _) => &[Signal::Running, Signal::KvUsed, Signal::KvCapacity, Signal::MaxSequences],
        (Page::Loads, _) => {
            &[Signal::Running, Signal::Waiting, Signal::KvUsed, Signal::KvCapacity, Signal::MaxSequences]
        }
        (Page::Props | Page::Info, _) => &[Signal::MaxSequences],
    }
}

/// Whether any page of this kind of engine gives the reading.
#[must_use]
pub(crate) fn is_told(kind: EngineKind, signal: Signal) -> bool {
    plan(kind).pages.iter().any(|page| tells(kind, page.page).contains(&signal))
}

/// What a page would have told, all of it absent for one reason.
#[must_use]
pub fn absent(kind: EngineKind, page: Page, reason: Absent) -> Findings {
    let mut findings = Findings::default();
    for signal in tells(kind, page) {
        match signal {
            Signal::Running => findings.running = Some(Err(reason)),
            Signal::Waiting => findings.waiting = Some(Err(reason)),
            Signal::KvUsed => findings.kv_used = Some(Err(reason)),
            Signal::KvCapacity => findings.kv_capacity = Some(Err(reason)),
            Signal::MaxSequences => findings.max_sequences = Some(Err(reason)),
            Signal::PrefixCache => findings.prefix_cache = Some(Err(reason)),
            Signal::Models => findings.models = Some(Err(reason)),
            Signal::Work => findings.work = Some(Err(reason)),
        }
    }
    match (page, kind) {
        (Page::Metrics, EngineKind::Simulated) => {
            findings.profile = Some(Err(reason));
            findings.activity = Some(Err(reason));
        }
        (Page::Props | Page::Info, _) => {
            findings.context_length = Some(Err(reason));
            findings.version = Some(Err(reason));
        }
        (Page::Version, _) => findings.version = Some(Err(reason)),
        (Page::Loaded, _) => findings.loaded = Some(Err(reason)),
        (Page::Health | Page::Metrics | Page::Slots | Page::Loads | Page::Models, _) => {}
    }
    findings
}
