//! Everything known of one engine, page by page, each value with the instant it was read.

use aya_domain::{
    EngineKind, EngineProfile, MonoTime, PrefixCache, Ratio, Reading, ServedModel, Signal, Tokens,
};

use crate::finding::{Absent, Activity, Finding, Findings, LoadedModel};
use crate::plan::Page;
use crate::tells::is_told;

/// One value of an engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Field<T> {
    /// No page has spoken of it yet.
    #[default]
    Unread,
    /// The page that should tell it did not.
    Absent(Absent),
    /// Told by this page.
    Read { reading: Reading<T>, page: Page },
}

impl<T> Field<T> {
    /// The value and when it was read.
    pub const fn reading(&self) -> Option<&Reading<T>> {
        match self {
            Self::Read { reading, .. } => Some(reading),
            Self::Unread | Self::Absent(_) => None,
        }
    }

    /// The value alone.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Read { reading, .. } => Some(&reading.value),
            Self::Unread | Self::Absent(_) => None,
        }
    }

    /// Why there is none, once a page has been asked.
    pub const fn absent(&self) -> Option<Absent> {
        match self {
            Self::Absent(reason) => Some(*reason),
            Self::Unread | Self::Read { .. } => None,
        }
    }

    /// A value replaces whatever stands there. A reason replaces only what the same page had told: another
    /// page may still know it.
    fn take(&mut self, finding: Finding<T>, page: Page, at: MonoTime) {
        match finding {
            None => {}
            Some(Ok(value)) => *self = Self::Read { reading: Reading::new(value, at), page },
            Some(Err(reason)) => match self {
                Self::Read { page: teller, .. } if *teller != page => {}
                Self::Read { .. } | Self::Unread | Self::Absent(_) => *self = Self::Absent(reason),
            },
        }
    }
}

/// What is known of one engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EngineReadings {
    pub running: Field<u32>,
    pub waiting: Field<u32>,
    pub kv_used: Field<Ratio>,
    pub kv_capacity: Field<Tokens>,
    pub max_sequences: Field<u32>,
    pub prefix_cache: Field<PrefixCache>,
    pub work: Field<u64>,
    pub models: Field<Vec<ServedModel>>,
    pub loaded: Field<Vec<LoadedModel>>,
    pub context_length: Field<Tokens>,
    pub version: Field<String>,
    pub profile: Field<EngineProfile>,
    pub activity: Field<Activity>,
}

impl EngineReadings {
    /// Nothing known; what this kind of engine never tells is absent from the start, so that nobody takes silence
    /// for an idle engine.
    #[must_use]
    pub fn new(kind: EngineKind) -> Self {
        fn start<T>(kind: EngineKind, signal: Signal) -> Field<T> {
            if is_told(kind, signal) { Field::Unread } else { Field::Absent(Absent::NotRead) }
        }
        Self {
            running: start(kind, Signal::Running),
            waiting: start(kind, Signal::Waiting),
            kv_used: start(kind, Signal::KvUsed),
            kv_capacity: start(kind, Signal::KvCapacity),
            max_sequences: start(kind, Signal::MaxSequences),
            prefix_cache: start(kind, Signal::PrefixCache),
            work: start(kind, Signal::Work),
            ..Self::default()
        }
    }

    /// Takes in what a page told at this instant. A page that could not be fetched is not taken in: its
    /// values stay and grow older.
    pub fn merge(&mut self, page: Page, findings: Findings, at: MonoTime) {
        self.running.take(findings.running, page, at);
        self.waiting.take(findings.waiting, page, at);
        self.kv_used.take(findings.kv_used, page, at);
        self.kv_capacity.take(findings.kv_capacity, page, at);
        self.max_sequences.take(findings.max_sequences, page, at);
        self.prefix_cache.take(findings.prefix_cache, page, at);
        self.work.take(findings.work, page, at);
        self.models.take(findings.models, page, at);
        self.loaded.take(findings.loaded, page, at);
        self.context_length.take(findings.context_length, page, at);
        self.version.take(findings.version, page, at);
        self.profile.take(findings.profile, page, at);
        self.activity.take(findings.activity, page, at);
    }

    /// The models, with the context they are loaded with, else the engine's own, where their entry gives none.
    #[must_use]
    pub fn served_models(&self) -> Option<Reading<Vec<ServedModel>>> {
        let mut reading = self.models.reading()?.clone();
        let loaded = self.loaded.value().map(Vec::as_slice).unwrap_or_default();
        for model in &mut reading.value {
            let as_loaded = || loaded.iter().find(|l| l.id == model.id).and_then(|l| l.context_length);
            model.context_length =
                model.context_length.or_else(as_loaded).or(self.context_length.value().copied());
        }
        Some(reading)
    }

    /// Whether the last reading showed an engine without room: all sequences in use, or requests waiting.
    #[must_use]
    pub fn full(&self) -> bool {
        let running = self.running.value().copied().unwrap_or(0);
        let all_taken = self.max_sequences.value().is_some_and(|max| *max > 0 && running >= *max);
        all_taken || self.waiting.value().is_some_and(|waiting| *waiting > 0)
    }

    /// The readings that placement would like and that are absent, by name, with the reason.
    pub fn absences(&self) -> impl Iterator<Item = (&'static str, Absent)> {
        [
            ("running", self.running.absent()),
            ("waiting", self.waiting.absent()),
            ("kv_used", self.kv_used.absent()),
            ("kv_capacity", self.kv_capacity.absent()),
            ("max_sequences", self.max_sequences.absent()),
            ("prefix_cache", self.prefix_cache.absent()),
            ("work", self.work.absent()),
            ("models", self.models.absent()),
        ]
        .into_iter()
        .filter_map(|(name, absent)| absent.map(|reason| (name, reason)))
    }
}
