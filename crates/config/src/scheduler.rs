//! The scheduler's settings. Defaults are for a farm of a few dozen nodes behind one scheduler; every wait has
//! a deadline and every buffer a limit, and all of them are here.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aya_domain::{ModelId, PolicyName};
use aya_placement::Policy;

use crate::breaker::{BreakerConfig, ProbeConfig};
use crate::handover::{HandoverConfig, StateConfig};
use crate::memory::MemoryConfig;
use crate::named::constant;
use crate::policies::{self, ModelPolicyConfig};
use crate::reader::Reader;
use crate::service::{self, SloConfig, TenantConfig, TenantsConfig};
use crate::source::{Origin, Setting};
use crate::upstream::UpstreamConfig;
use crate::{Config, LogConfig};

/// Everything the scheduler is told.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// Where clients come; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where operators come; loopback unless an operator decides otherwise.
    pub admin_listen: SocketAddr,
    /// Where agents come.
    pub grpc_listen: SocketAddr,
    /// Runtimes for client requests, one thread each; 1 to 256.
    pub threads: usize,
    pub limits: Limits,
    pub memory: MemoryConfig,
    pub timeouts: Timeouts,
    pub queue: QueueConfig,
    pub slo: SloConfig,
    pub tenants: TenantsConfig,
    /// Each name and key once.
    pub tenant: Vec<TenantConfig>,
    pub retry: RetryConfig,
    pub placement: PlacementConfig,
    pub decisions: DecisionsConfig,
    pub telemetry: TelemetryConfig,
    /// What is done about GPUs that are not well.
    pub health: aya_fleet::health::Rules,
    pub breaker: BreakerConfig,
    pub probe: ProbeConfig,
    /// Names that clients may ask for besides the served ones; each name once.
    pub aliases: Vec<AliasConfig>,
    /// Policies that the operator has composed, besides the named ones; in the order of their names.
    pub policies: Vec<Policy>,
    pub model_policies: Vec<ModelPolicyConfig>,
    pub upstream: UpstreamConfig,
    pub handover: HandoverConfig,
    pub state: StateConfig,
    pub log: LogConfig,
    effective: Vec<Setting>,
}

/// What one client, request or answer may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request body; beyond it 413.
    pub body_max: usize,
    /// Bytes per second at which a body has to come after `timeouts.body_grace`; more slowly, and it is 408.
    pub body_rate_min: usize,
    /// Bytes of a request head; beyond it 431.
    pub head_max: usize,
    /// Bytes of an answer that has to be assembled for a client that does not stream.
    pub response_max: usize,
    /// Open client connections; more wait in the listen backlog. At most what the limit of open files allows.
    pub connections_max: usize,
    /// Bytes of one message of an agent.
    pub message_max: usize,
    /// Models with metrics of their own; the others are counted as `other`.
    pub models_max: usize,
}

/// How long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting a connection to its first byte.
    pub first_byte: Duration,
    /// From the first byte of a request to the end of its head.
    pub header: Duration,
    /// Between two requests of one connection.
    pub idle: Duration,
    /// Reading a request body, however fast it comes.
    pub body: Duration,
    /// How long a body may come more slowly than `limits.body_rate_min`.
    pub body_grace: Duration,
    /// Connecting to an engine.
    pub connect: Duration,
    /// From sending a request to the engine's first event.
    pub ttft: Duration,
    /// Between two events of an engine's stream.
    pub inter_token: Duration,
    /// A whole request, its time in the queue included.
    pub total: Duration,
    /// A client that does not read its answer.
    pub write_stall: Duration,
    /// At shutdown, accepting further while nobody is told any more that we are ready; a part of `drain`.
    pub accept_grace: Duration,
    /// Open requests at shutdown, from its beginning.
    pub drain: Duration,
}

/// Waiting at the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Requests that wait for one model; beyond it 429, for the newest of the lowest class or longest line.
    pub capacity: usize,
    /// How long one waits; beyond it 503.
    pub wait_max: Duration,
    /// Requests that look for room while those before them fit only full endpoints.
    pub look_ahead: usize,
    /// Placements past a head that waits for full endpoints, before nobody overtakes it any more.
    pub overtakes_max: usize,
    /// Placements of higher classes after which a class that waits has a turn; 0: never before them.
    pub turn_after: usize,
}

/// Trying another endpoint before the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// Endpoints one request is sent to, the first included.
    pub attempts_max: usize,
    /// Models whose streams go on from another engine if they break off, unless a request says otherwise; `*`: all.
    pub continue_models: Vec<String>,
}

impl RetryConfig {
    /// Whether a stream of this model goes on elsewhere if it breaks off.
    #[must_use]
    pub fn continues(&self, model: &ModelId) -> bool {
        self.continue_models.iter().any(|name| name == "*" || name == model.as_str())
    }

    fn read(r: &mut Reader<'_>) -> Self {
        Self { attempts_max: r.count("attempts_max", 3, 1..=16), continue_models: r.list("continue_models") }
    }
}

/// How decisions are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementConfig {
    /// The policy of requests that ask for none.
    pub policy: PolicyName,
    /// Where the tie-break begins; the same seed and inputs give the same decisions.
    pub seed: u64,
    /// The time to first token that scores aim to stay under.
    pub slo_ttft: Duration,
    /// The time per further token that was promised: who is already there must not miss it for a newcomer.
    pub slo_tpot: Duration,
    /// Blocks of 256 prompt bytes remembered per endpoint, to find out who holds the beginning of a prompt: at most
    /// what its KV cache can hold; 16 bytes each. 0: caches are not looked at.
    pub prefix_blocks_max: usize,
    /// The predicted backlog beyond which an endpoint gets no further request.
    pub hold_backlog: Duration,
    /// Whether a client may choose a policy with `x-aya-policy`.
    pub allow_policy_header: bool,
    /// How long after its first report an engine that has told no models counts as starting: a model that nobody serves
    /// may be its own.
    pub starting_grace: Duration,
}

/// What is kept of decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionsConfig {
    /// Records in memory, for the API.
    pub ring: usize,
    /// Bytes of them: a record holds every endpoint it was decided among, so a large farm's are large.
    pub ring_max: usize,
    /// Records on their way to the ring and the disk; beyond it they are dropped and counted.
    pub queue: usize,
    /// Where segments are written; `None`: memory only.
    pub dir: Option<PathBuf>,
    /// Bytes of one segment.
    pub segment_max: usize,
    /// Segments that are kept; the oldest is deleted.
    pub segments_max: usize,
}

/// When an agent's silence means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Reports that are missing when a node is stale.
    pub stale_after_reports: usize,
    /// Silence after which only the ledger counts.
    pub suspect_after: Duration,
    /// Silence after which a node and its endpoints are forgotten.
    pub forget_after: Duration,
    /// Nodes that are known at once; reports of more are refused.
    pub nodes_max: usize,
}

/// One more name for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasConfig {
    /// What clients ask for.
    pub name: ModelId,
    /// What engines serve.
    pub model: ModelId,
}

const BEYOND_THIS_MACHINE: usize = 256;

impl Config for SchedulerConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let config = Self {
            listen: r.listen("listen", 8080),
            admin_listen: r.listen("admin_listen", 8081),
            grpc_listen: r.listen("grpc_listen", 8082),
            threads: r.count("threads", cores.min(BEYOND_THIS_MACHINE), 1..=BEYOND_THIS_MACHINE),
            limits: r.section("limits", Limits::read),
            memory: r.section("memory", MemoryConfig::read),
            timeouts: r.section("timeouts", Timeouts::read),
            queue: r.section("queue", QueueConfig::read),
            slo: r.section("slo", SloConfig::read),
            tenants: r.section("tenants", TenantsConfig::read),
            tenant: r.sections("tenant", TenantConfig::from_word, TenantConfig::read),
            retry: r.section("retry", RetryConfig::read),
            placement: r.section("placement", PlacementConfig::read),
            decisions: r.section("decisions", DecisionsConfig::read),
            telemetry: r.section("telemetry", TelemetryConfig::read),
            health: r.section("health", crate::health::read),
            breaker: r.section("breaker", BreakerConfig::read),
            probe: r.section("probe", ProbeConfig::read),
            aliases: r.sections("alias", AliasConfig::from_word, AliasConfig::read),
            policies: r.named_sections("policies", |r, name, _| policies::read(r, name)),
            model_policies: r.sections("model_policy", ModelPolicyConfig::from_word, ModelPolicyConfig::read),
            upstream: r.section("upstream", UpstreamConfig::read),
            handover: r.section("handover", HandoverConfig::read),
            state: r.section("state", StateConfig::read),
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

impl SchedulerConfig {
    /// Every setting as it is in force, secrets masked, in the order of the documentation.
    #[must_use]
    pub fn effective(&self) -> &[Setting] {
        &self.effective
    }

    /// What no single key can know.
    fn check(&self, r: &mut Reader<'_>) {
        let clash = |a: SocketAddr, b: SocketAddr| a == b && a.port() != 0;
        let listeners =
            [("listen", self.listen), ("admin_listen", self.admin_listen), ("grpc_listen", self.grpc_listen)];
        for (at, (name, address)) in listeners.iter().enumerate() {
            for (other, taken) in listeners.iter().take(at).filter(|(_, taken)| clash(*address, *taken)) {
                r.object_to_one_of(
                    &[name, other],
                    format!("{name} and {other} are the same address, {taken}"),
                );
            }
        }
        let times = &self.timeouts;
        for (name, time, limit_name, limit) in [
            ("timeouts.ttft", times.ttft, "timeouts.total", times.total),
            ("queue.wait_max", self.queue.wait_max, "timeouts.total", times.total),
            (
                "telemetry.suspect_after",
                self.telemetry.suspect_after,
                "telemetry.forget_after",
                self.telemetry.forget_after,
            ),
        ] {
            if time > limit {
                r.object_to_one_of(&[name, limit_name], format!("{name} is longer than {limit_name}"));
            }
        }
        self.handover.check(r);
        self.memory.check(r);
        service::check(r, &self.tenant, &self.tenants);
        policies::check(r, &self.policies, &self.model_policies);
        let names: BTreeSet<&ModelId> = self.aliases.iter().map(|alias| &alias.name).collect();
        let mut seen = BTreeSet::new();
        for (at, alias) in self.aliases.iter().enumerate() {
            if !seen.insert(&alias.name) {
                r.object(&format!("alias[{at}].name"), format!("{} is an alias already", alias.name));
            }
            if names.contains(&alias.model) {
                let message = format!("{} is itself an alias; name the served model", alias.model);
                r.object(&format!("alias[{at}].model"), message);
            }
        }
    }
}

impl Limits {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            body_max: r.size("body_max", "32MiB", "1KiB"..="1GiB"),
            body_rate_min: r.size("body_rate_min", "1KiB", "1B"..="1GiB"),
            head_max: r.size("head_max", "32KiB", "8KiB"..="1MiB"),
            response_max: r.size("response_max", "16MiB", "4KiB"..="1GiB"),
            connections_max: r.count("connections_max", 16_384, 1..=1_000_000),
            message_max: r.size("message_max", "4MiB", "64KiB"..="256MiB"),
            models_max: r.count("models_max", 1_000, 1..=100_000),
        }
    }
}

impl Timeouts {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            first_byte: r.duration("first_byte", "10s", "10ms"..="1h"),
            header: r.duration("header", "10s", "10ms"..="1h"),
            idle: r.duration("idle", "75s", "10ms"..="1d"),
            body: r.duration("body", "60s", "10ms"..="1h"),
            body_grace: r.duration("body_grace", "10s", "10ms"..="1h"),
            connect: r.duration("connect", "2s", "1ms"..="5m"),
            ttft: r.duration("ttft", "300s", "10ms"..="1d"),
            inter_token: r.duration("inter_token", "60s", "10ms"..="1d"),
            total: r.duration("total", "3600s", "10ms"..="7d"),
            write_stall: r.duration("write_stall", "60s", "10ms"..="1d"),
            accept_grace: r.duration("accept_grace", "2s", "0s"..="1h"),
            drain: r.duration("drain", "30s", "0s"..="1h"),
        }
    }
}

impl QueueConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            capacity: r.count("capacity", 1_024, 0..=1_000_000),
            wait_max: r.duration("wait_max", "30s", "0s"..="1h"),
            look_ahead: r.count("look_ahead", 8, 1..=256),
            overtakes_max: r.count("overtakes_max", 64, 0..=1_000_000),
            turn_after: r.count("turn_after", 16, 0..=1_000_000),
        }
    }
}

impl PlacementConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            policy: r.parsed("policy", constant("aya")),
            seed: r.number("seed", 1),
            slo_ttft: r.duration("slo_ttft", "2s", "1ms"..="1h"),
            slo_tpot: r.duration("slo_tpot", "100ms", "1ms"..="1m"),
            prefix_blocks_max: r.count("prefix_blocks_max", 16_384, 0..=1_000_000),
            hold_backlog: r.duration("hold_backlog", "500ms", "1ms"..="1h"),
            allow_policy_header: r.switch("allow_policy_header", true),
            starting_grace: r.duration("starting_grace", "10m", "0s"..="1d"),
        }
    }
}

impl DecisionsConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            ring: r.count("ring", 10_000, 1..=1_000_000),
            ring_max: r.size("ring_max", "64MiB", "64KiB"..="64GiB"),
            queue: r.count("queue", 8_192, 1..=1_000_000),
            dir: r.path_if_set("dir"),
            segment_max: r.size("segment_max", "64MiB", "64KiB"..="4GiB"),
            segments_max: r.count("segments_max", 16, 2..=100_000),
        }
    }
}

impl TelemetryConfig {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            stale_after_reports: r.count("stale_after_reports", 3, 1..=100),
            suspect_after: r.duration("suspect_after", "10s", "100ms"..="1h"),
            forget_after: r.duration("forget_after", "10m", "1s"..="7d"),
            nodes_max: r.count("nodes_max", 4_096, 1..=100_000),
        }
    }
}

impl AliasConfig {
    /// `name=model`
    fn from_word(word: &str) -> Result<Vec<(&'static str, String)>, String> {
        let (name, model) =
            word.split_once('=').ok_or_else(|| format!("{word:?} is not of the form NAME=MODEL"))?;
        Ok(vec![("name", name.to_owned()), ("model", model.to_owned())])
    }

    fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let (name, model) = (r.required("name", origin), r.required("model", origin));
        Some(Self { name: name?, model: model? })
    }
}
