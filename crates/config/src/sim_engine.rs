//! The simulated engine's settings.

use std::net::SocketAddr;

use aya_domain::{ModelId, Tokens};
use aya_estimate::NamedProfile;

use crate::named::{Profile, constant};
use crate::reader::{COUNT_MAX, Reader};
use crate::source::Setting;
use crate::{Config, LogConfig};

/// Everything a simulated engine is told.
#[derive(Debug, Clone, PartialEq)]
pub struct SimEngineConfig {
    pub listen: SocketAddr,
    /// The hardware and model it behaves like.
    pub profile: &'static NamedProfile,
    /// The models it serves; empty: the profile's own.
    pub models: Vec<ModelId>,
    /// Simulated seconds per real second, 0.001 to 10000: 10 runs ten times as fast as the hardware would.
    pub time_scale: f64,
    /// Mean length of an answer that the client's limit does not end, in tokens.
    pub mean_output_tokens: f64,
    /// Requests in the engine's own queue; beyond it they get a 503.
    pub waiting_max: usize,
    /// Sequences per batch; the profile's own unless set.
    pub max_sequences: Option<usize>,
    /// Prompt and answer together; the profile's own unless set.
    pub context_length: Option<Tokens>,
    /// Where its texts and output lengths begin.
    pub seed: u64,
    pub log: LogConfig,
    effective: Vec<Setting>,
}

impl Config for SimEngineConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            listen: r.listen("listen", 8000),
            profile: r.parsed("profile", constant::<Profile>("h100-8b")).0,
            models: r.list("models"),
            time_scale: r.fraction("time_scale", 1.0, 0.001..=10_000.0),
            mean_output_tokens: r.fraction("mean_output_tokens", 200.0, 1.0..=1_000_000.0),
            waiting_max: r.count("waiting_max", 10_000, 1..=1_000_000),
            max_sequences: r
                .number_if_set("max_sequences", 1..=4096)
                .and_then(|number| usize::try_from(number).ok()),
            context_length: r.number_if_set("context_length", 1..=COUNT_MAX).map(Tokens),
            seed: r.number("seed", 1),
            log: r.section("log", LogConfig::read),
            effective: Vec::new(),
        }
    }

    fn keep_effective(&mut self, settings: Vec<Setting>) {
        self.effective = settings;
    }
}

impl SimEngineConfig {
    /// Every setting as it is in force, secrets masked, in the order of the documentation.
    #[must_use]
    pub fn effective(&self) -> &[Setting] {
        &self.effective
    }
}
