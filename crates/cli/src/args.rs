//! The command line. Every flag of a server is also a key of its configuration file: see [`Overlay`].

use std::path::PathBuf;

use aya_config::Flag;
use aya_trace::OutcomeStatus;
use clap::{Parser, Subcommand};

/// The GPU inference-farm scheduler.
#[derive(Debug, Parser)]
#[command(name = "aya", version, about, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the farm's one OpenAI-compatible endpoint and place each request.
    Scheduler(SchedulerArgs),
    /// Read this host's GPUs and engines and report to schedulers.
    Agent(AgentArgs),
    /// Serve a simulated inference engine.
    SimEngine(SimEngineArgs),
    /// Run a simulated farm and compare Aya with round robin on it.
    Demo(DemoArgs),
    /// Compare policies on a trace and a simulated fleet, offline.
    Simulate(crate::simulate::SimulateArgs),
    /// Show the farm: nodes, endpoints, what needs attention.
    Status(StatusArgs),
    /// List the newest decisions.
    Decisions(DecisionsArgs),
    /// List what happened to the farm: nodes, engines, GPUs, health rules, operators.
    Events(EventsArgs),
    /// Say why a request went where it went.
    Explain(ExplainArgs),
    /// Make recorded decisions again, bit for bit, or by another policy.
    Replay(crate::replay::ReplayArgs),
    /// Check a configuration file and show what is in force.
    CheckConfig(CheckConfigArgs),
    /// Print completions for a shell, to be sourced or installed.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Stop after the summary; the exit code tells whether every request was answered.
    #[arg(long)]
    pub(crate) once: bool,
    /// The API's port; the next two are for operators and agents, 0 takes free ones.
    #[arg(long, value_name = "N", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(..=65_533))]
    pub(crate) port: u16,
    /// Requests of each of the two passes.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = parse_requests)]
    pub(crate) requests: usize,
    /// Decides the requests; the same seed sends the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many times faster than hardware the engines run.
    #[arg(long, value_name = "F", default_value_t = 5.0, value_parser = parse_time_scale)]
    pub(crate) time_scale: f64,
    /// Log levels.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub(crate) log: String,
}

fn parse_requests(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=10_000).contains(n))
        .ok_or_else(|| "not a number from 1 to 10000".into())
}

fn parse_time_scale(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|f| (0.1..=100.0).contains(f))
        .ok_or_else(|| "not a number from 0.1 to 100".into())
}

/// Which scheduler is asked, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// The scheduler's admin listener.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081")]
    pub(crate) admin: aya_domain::EndpointUrl,
    /// How to show it; json is the API's own answer.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// For a person or for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Show every GPU, not only a line per node.
    #[arg(long)]
    pub(crate) gpus: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DecisionsArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// How many, newest first.
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Only requests for this model.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only requests that this endpoint answered or failed last.
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Only requests that ended so.
    #[arg(long, value_name = "STATUS", value_parser = OutcomeStatus::ALL.map(OutcomeStatus::as_str))]
    pub(crate) outcome: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// How many, newest first.
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Only events of this node.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Only events of this endpoint and of the GPUs beneath it.
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Only events of this GPU.
    #[arg(long, value_name = "UUID")]
    pub(crate) gpu: Option<String>,
    /// Only events of this kind, such as health_raised.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only events after this id, or from this time on (2026-11-21T04:24:34Z, or seconds since 1970).
    #[arg(long, value_name = "ID|TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// A decision id or a request id, as in the headers x-aya-decision-id and x-request-id.
    pub(crate) id: String,
    /// Say why it did not go to this endpoint instead.
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) why_not: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckConfigArgs {
    /// TOML file; variables AYA__SECTION__KEY are read too.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Whose configuration it is [default: the program whose keys it has].
    #[arg(long, value_enum)]
    pub(crate) program: Option<Program>,
    /// How to show what is in force.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// A program with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Program {
    Scheduler,
    Agent,
    SimEngine,
}

/// Flags as configuration keys.
pub(crate) trait Overlay {
    fn overlay(&self) -> Vec<Flag>;
}

macro_rules! overlay {
    ($self:ident, $($field:ident => $key:literal $flag:literal),+ $(,)?) => {{
        let mut flags = Vec::new();
        $(flags.extend($self.$field.iter().map(|value| Flag { key: $key, value: value.to_string(), flag: $flag }));)+
        flags
    }};
}

#[derive(Debug, clap::Args)]
pub(crate) struct SchedulerArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where operators connect [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Where agents connect [default: 127.0.0.1:8082].
    #[arg(long, value_name = "ADDR")]
    grpc_listen: Option<String>,
    /// Threads that relay [default: cores].
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Placement policy [default: aya].
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Directory for decision records [default: memory only].
    #[arg(long, value_name = "DIR")]
    decisions_dir: Option<String>,
    /// Unix socket where the listeners are offered to a successor, and taken with --take-over [default: none].
    #[arg(long, value_name = "PATH")]
    handover_socket: Option<String>,
    /// Take the listeners of the scheduler that runs: no connection is refused, no stream is cut; it ends when its
    /// streams have.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    take_over: Option<String>,
    /// Log levels [default: info].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Overlay for SchedulerArgs {
    fn overlay(&self) -> Vec<Flag> {
        overlay!(self,
            listen => "listen" "--listen",
            admin_listen => "admin_listen" "--admin-listen",
            grpc_listen => "grpc_listen" "--grpc-listen",
            threads => "threads" "--threads",
            policy => "placement.policy" "--policy",
            decisions_dir => "decisions.dir" "--decisions-dir",
            handover_socket => "handover.socket" "--handover-socket",
            take_over => "handover.take_over" "--take-over",
            log => "log.filter" "--log",
        )
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A scheduler's agent listener, http://HOST:8082; may be repeated.
    #[arg(long, value_name = "URL")]
    scheduler: Vec<String>,
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// auto, nvml, simulated, recorded or none [default: auto].
    #[arg(long, value_name = "SOURCE")]
    gpu_source: Option<String>,
    /// NVML library, where it is not in the loader's path.
    #[arg(long, value_name = "PATH")]
    nvml_lib: Option<String>,
    /// Recording of a real machine that --gpu-source recorded plays, as `cargo xtask hardware` makes one.
    #[arg(long, value_name = "FILE")]
    recording: Option<String>,
    /// Simulated devices, such as 8*h100-8b; may be repeated.
    #[arg(long, value_name = "GPUS")]
    simulated_gpu: Vec<String>,
    /// An engine beside this agent, such as vllm=http://127.0.0.1:8000; may be repeated. Kinds: vllm, sglang,
    /// llama.cpp, tgi, trtllm, triton, ollama, simulated.
    #[arg(long, value_name = "KIND=URL")]
    engine: Vec<String>,
    /// Which engines to find that no --engine lists: off, gpu (of processes that hold a GPU) or all (of every listening
    /// process) [default: gpu].
    #[arg(long, value_name = "MODE")]
    discover: Option<String>,
    /// Host under which schedulers reach engines given on loopback [default: this host's address towards each].
    #[arg(long, value_name = "HOST")]
    advertise_host: Option<String>,
    /// Where operators connect [default: 127.0.0.1:8083].
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Log levels [default: info].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Overlay for AgentArgs {
    fn overlay(&self) -> Vec<Flag> {
        overlay!(self,
            scheduler => "schedulers" "--scheduler",
            node_id => "node_id" "--node-id",
            gpu_source => "gpu.source" "--gpu-source",
            nvml_lib => "gpu.nvml_lib" "--nvml-lib",
            recording => "gpu.recording" "--recording",
            simulated_gpu => "gpu.simulated" "--simulated-gpu",
            engine => "engine" "--engine",
            discover => "discovery.mode" "--discover",
            advertise_host => "advertise_host" "--advertise-host",
            admin_listen => "admin_listen" "--admin-listen",
            log => "log.filter" "--log",
        )
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct SimEngineArgs {
    /// TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where clients connect; port 0 takes a free one, which is printed [default: 127.0.0.1:8000].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// l4-8b, a10g-8b, a100-8b, h100-8b, a100x4-70b or h100x4-70b [default: h100-8b].
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A served model; may be repeated [default: the profile's own].
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// How many times faster than the hardware it runs [default: 1].
    #[arg(long, value_name = "FACTOR")]
    time_scale: Option<String>,
    /// Sequences per batch [default: the profile's own].
    #[arg(long, value_name = "N")]
    max_sequences: Option<String>,
    /// Prompt and answer together, in tokens [default: the profile's own].
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<String>,
    /// Mean length of an answer, in tokens [default: 200].
    #[arg(long, value_name = "TOKENS")]
    mean_output_tokens: Option<String>,
    /// Where texts and lengths begin [default: 1].
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Something that is wrong from the start, such as 503=0.3 or die-mid-stream=5; may be repeated.
    #[arg(long, value_name = "FAULT")]
    pub(crate) fault: Vec<aya_sim_engine::Fault>,
    /// Log levels [default: info].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Overlay for SimEngineArgs {
    fn overlay(&self) -> Vec<Flag> {
        overlay!(self,
            listen => "listen" "--listen",
            profile => "profile" "--profile",
            model => "models" "--model",
            time_scale => "time_scale" "--time-scale",
            max_sequences => "max_sequences" "--max-sequences",
            context_length => "context_length" "--context-length",
            mean_output_tokens => "mean_output_tokens" "--mean-output-tokens",
            seed => "seed" "--seed",
            log => "log.filter" "--log",
        )
    }
}
