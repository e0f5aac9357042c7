//! The agent's settings: who it is, whom it reports to, what it looks at and how often.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use aya_domain::{AbortPolicy, Bytes, EndpointId, EndpointUrl, EngineKind, GpuUuid, NodeId, Tokens};
use aya_estimate::NamedProfile;

use crate::named::{Profile, constant};
use crate::reader::{COUNT_MAX, Reader};
use crate::source::{Origin, Setting};
use crate::{Config, LogConfig, Secret};

/// Everything an agent is told.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// The host's name unless configured.
    pub node_id: NodeId,
    /// At least one, each once; the agent reports to all of them.
    pub schedulers: Vec<EndpointUrl>,
    pub admin_listen: SocketAddr,
    /// The host under which schedulers reach this node's engines, where an engine is configured on loopback.
    pub advertise_host: Option<String>,
    pub gpu: GpuConfig,
    pub polling: EnginePolling,
    pub discovery: DiscoveryConfig,
    pub engines: Vec<EngineConfig>,
    pub report: ReportConfig,
    pub log: LogConfig,
    effective: Vec<Setting>,
}

/// Where GPU readings come from.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuConfig {
    pub source: GpuChoice,
    /// NVML's library where it is not in the loader's path.
    pub nvml_lib: Option<PathBuf>,
    /// The devices of the simulated source, in the order of their indexes; empty: those that simulated engines tell of.
    pub simulated: Vec<SimulatedGpus>,
    /// What the recorded source plays; required by it.
    pub recording: Option<PathBuf>,
    /// Between two readings.
    pub period: Duration,
}

/// What is asked for; the agent says what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuChoice {
    /// NVML where there is a driver, else none.
    Auto,
    Nvml,
    Simulated,
    /// What was read on a real machine, played again.
    Recorded,
    None,
}

/// Some simulated devices of one kind, written `8*h100-8b` or `h100-8b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedGpus {
    pub count: u32,
    /// Gives the product name, memory and power.
    pub profile: &'static NamedProfile,
}

/// How engines that nobody listed are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryConfig {
    pub mode: DiscoveryMode,
    /// Between two looks; the processes that hold GPUs are looked at as soon as they change.
    pub period: Duration,
    /// For one page of a port that is not known yet.
    pub probe_timeout: Duration,
}

/// Whose listening ports the agent asks whether they are engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryMode {
    /// Nobody's: the listed engines are all there are.
    Off,
    /// Of processes that hold a GPU, and of those that belong to them.
    Gpu,
    /// Of every process of this host.
    All,
}

impl DiscoveryMode {
    /// The name used in flags, configuration and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Gpu => "gpu",
            Self::All => "all",
        }
    }
}

/// How engines are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnginePolling {
    /// Between two readings of an engine; slower by kind where an engine suffers from being read.
    pub period: Duration,
    pub probe_timeout: Duration,
    /// Bytes of one answer that are read.
    pub page_max: usize,
}

/// One engine beside the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    pub kind: EngineKind,
    /// Where the agent reads it.
    pub url: EndpointUrl,
    /// Where its metrics are, if not there: a bare Triton has them on port 8002.
    pub metrics_url: Option<EndpointUrl>,
    /// `NODE-KIND-PORT` unless configured.
    pub name: Option<EndpointId>,
    /// The cost of its steps, where the operator knows better than the GPU's name tells.
    pub profile: Option<&'static NamedProfile>,
    /// Where the KV cache is allocated on demand: decides the fit into free VRAM.
    pub kv_bytes_per_token: Option<Bytes>,
    /// The GPUs it runs on; empty: not told.
    pub gpus: Vec<GpuRef>,
    /// Sent as a bearer token when the agent reads it.
    pub api_key: Option<Secret>,
    /// Overrides what the engine tells.
    pub context_length: Option<Tokens>,
    /// Sequences per batch, for engines that do not tell (vLLM's `--max-num-seqs`); overrides what others tell.
    pub max_sequences: Option<u32>,
    /// What the scheduler does when a client leaves; else as the kind needs it.
    pub abort: Option<AbortPolicy>,
}

/// A GPU of this node by its UUID or its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuRef {
    Index(u32),
    Uuid(GpuUuid),
}

/// How the agent reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportConfig {
    /// Between two FULL reports; DELTA reports follow the readings.
    pub full_period: Duration,
}

/// The most simulated devices of one entry; no host has more.
const SIMULATED_GPUS_MAX: u32 = 64;

impl Config for AgentConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        let config = Self {
            node_id: r.parsed("node_id", host_name()),
            schedulers: r.list("schedulers"),
            admin_listen: r.listen("admin_listen", 8083),
            advertise_host: r.text_if_set("advertise_host"),
            gpu: r.section("gpu", GpuConfig::read),
            polling: r.section("engines", |r| EnginePolling {
                period: r.duration("period", "250ms", "20ms"..="5m"),
                probe_timeout: r.duration("probe_timeout", "2s", "10ms"..="1m"),
                page_max: r.size("page_max", "4MiB", "64KiB"..="64MiB"),
            }),
            discovery: r.section("discovery", DiscoveryConfig::read),
            engines: r.sections("engine", EngineConfig::from_word, EngineConfig::read),
            report: r.section("report", |r| ReportConfig {
                full_period: r.duration("full_period", "30s", "100ms"..="10m"),
            }),
            log: r.section("log", LogConfig::read),
            effective: Vec::new(),
        };
        config.check(r);
        config
    }

    fn keep_effective(&mut self, settings: Vec<Setting>) {
        self.effective = settings;
    }
}

impl AgentConfig {
    /// Every setting as it is in force, secrets masked, in the order of the documentation.
    #[must_use]
    pub fn effective(&self) -> &[Setting] {
        &self.effective
    }

    /// What no single key can know.
    fn check(&self, r: &mut Reader<'_>) {
        if self.schedulers.is_empty() && !r.objected_to("schedulers") {
            let message = "is required: a list such as [\"http://scheduler:8082\"], or --scheduler URL";
            r.object("schedulers", message);
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.schedulers.iter().find(|url| !seen.insert(*url)) {
            r.object("schedulers", format!("{twice} is listed twice"));
        }
        let engines_tell = self.engines.iter().any(|engine| engine.kind == EngineKind::Simulated);
        if self.gpu.source == GpuChoice::Simulated && self.gpu.simulated.is_empty() && !engines_tell {
            r.object(
                "gpu.simulated",
                "is required by gpu.source = \"simulated\" without a simulated engine: a list such as [\"8*h100-8b\"]",
            );
        }
        if self.gpu.source == GpuChoice::Recorded && self.gpu.recording.is_none() {
            r.object(
                "gpu.recording",
                "is required by gpu.source = \"recorded\": a file, or --recording FILE",
            );
        }
        if self.gpu.source != GpuChoice::Recorded && r.is_set_for_this_run("gpu.recording") {
            r.object(
                "gpu.recording",
                "is played only by gpu.source = \"recorded\" (--gpu-source recorded): without it nothing reads the file",
            );
        }
        let host = self.advertise_host.as_deref();
        if host.is_some_and(|host| EndpointUrl::parse(&format!("http://{host}:1")).is_err()) {
            r.object("advertise_host", "is not a host name or address (IPv6 in brackets), without port");
        }
        let (mut urls, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (at, engine) in self.engines.iter().enumerate() {
            if !urls.insert(&engine.url) {
                r.object(&format!("engine[{at}].url"), format!("{} is listed twice", engine.url));
            }
            if let Some(name) = &engine.name
                && !names.insert(name)
            {
                r.object(&format!("engine[{at}].name"), format!("{name} is given twice"));
            }
        }
    }
}

impl GpuConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        let choices = [
            ("auto", GpuChoice::Auto),
            ("nvml", GpuChoice::Nvml),
            ("simulated", GpuChoice::Simulated),
            ("recorded", GpuChoice::Recorded),
            ("none", GpuChoice::None),
        ];
        Self {
            source: r.choice("source", GpuChoice::Auto, &choices),
            nvml_lib: r.path_if_set("nvml_lib"),
            simulated: r.list("simulated"),
            recording: r.path_if_set("recording"),
            period: r.duration("period", "1s", "50ms"..="5m"),
        }
    }
}

impl DiscoveryConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        let modes = [DiscoveryMode::Off, DiscoveryMode::Gpu, DiscoveryMode::All];
        Self {
            mode: r.choice("mode", DiscoveryMode::Gpu, &modes.map(|mode| (mode.as_str(), mode))),
            period: r.duration("period", "5s", "100ms"..="10m"),
            probe_timeout: r.duration("probe_timeout", "1s", "10ms"..="10s"),
        }
    }
}

impl EngineConfig {
    /// An engine of which nothing is configured.
    #[must_use]
    pub const fn found(kind: EngineKind, url: EndpointUrl) -> Self {
        Self {
            kind,
            url,
            metrics_url: None,
            name: None,
            profile: None,
            kv_bytes_per_token: None,
            gpus: Vec::new(),
            api_key: None,
            context_length: None,
            max_sequences: None,
            abort: None,
        }
    }

    /// `KIND=URL`
    fn from_word(word: &str) -> Result<Vec<(&'static str, String)>, String> {
        let (kind, url) =
            word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form KIND=URL"))?;
        Ok(vec![("kind", kind.to_owned()), ("url", url.to_owned())])
    }

    fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let (kind, url) = (r.required("kind", origin), r.required("url", origin));
        let metrics_url = r.parsed_if_set("metrics_url");
        let name = r.parsed_if_set("name");
        let profile = r.parsed_if_set("profile").map(|Profile(profile)| profile);
        let kv_bytes_per_token = r.size_if_set("kv_bytes_per_token").map(Bytes);
        let gpus = r.list("gpus");
        let api_key = r.secret("api_key", "api_key_file");
        let context_length = r.number_if_set("context_length", 1..=COUNT_MAX).map(Tokens);
        let max_sequences =
            r.number_if_set("max_sequences", 1..=65_536).and_then(|number| u32::try_from(number).ok());
        let abort = r.parsed_if_set("abort");
        Some(Self {
            kind: kind?,
            url: url?,
            metrics_url,
            name,
            profile,
            kv_bytes_per_token,
            gpus,
            api_key,
            context_length,
            max_sequences,
            abort,
        })
    }
}

/// What the kernel calls this host; `localhost` where it does not say.
fn host_name() -> NodeId {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    NodeId::parse(name.trim()).unwrap_or_else(|_| constant("localhost"))
}

impl FromStr for SimulatedGpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, name) = text.split_once('*').unwrap_or(("1", text));
        let count = count.trim().parse().ok().filter(|n| (1..=SIMULATED_GPUS_MAX).contains(n));
        let count =
            count.ok_or_else(|| format!("the count is not a number from 1 to {SIMULATED_GPUS_MAX}"))?;
        let profile = aya_estimate::named(name.trim()).map_err(|e| e.to_string())?;
        Ok(Self { count, profile })
    }
}

impl fmt::Display for SimulatedGpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.count, self.profile.name)
    }
}

impl FromStr for GpuRef {
    type Err = aya_domain::IdError;

    fn from_str(text: &str) -> Result<Self, aya_domain::IdError> {
        text.parse().map(Self::Index).or_else(|_| GpuUuid::parse(text).map(Self::Uuid))
    }
}

impl fmt::Display for GpuRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Uuid(uuid) => write!(f, "{uuid}"),
        }
    }
}
