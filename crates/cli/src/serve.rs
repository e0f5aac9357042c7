//! The commands that run until they are told to stop.

use std::future::Future;

use aya_config::{AgentConfig, Config, LogConfig, LogFormat, SchedulerConfig, SimEngineConfig, process_env};
use aya_observe::{Clock, logging};
use aya_scheduler::{Scheduler, SchedulerError};
use aya_sim_engine::{Faults, SimConfig, SimEngine};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{AgentArgs, Overlay, SchedulerArgs, SimEngineArgs};
use crate::exit::Failure;
use crate::out;

/// Exit status of a process that a second signal ends at once.
const INTERRUPTED: i32 = 130;

pub(crate) fn scheduler(args: &SchedulerArgs) -> Result<(), Failure> {
    let config: SchedulerConfig = load(args.config.as_deref(), args)?;
    start_log(&config.log)?;
    let clock = Clock::start();
    // Two workers are enough beside the cores: telemetry, admin, agents' streams.
    runtime(2)?.block_on(async {
        let scheduler = Scheduler::start(config, clock).await.map_err(not_started)?;
        until_signal(|shutdown| scheduler.run(shutdown)).await
    })
}

/// A policy is a setting, although only the scheduler knows which there are.
fn not_started(error: SchedulerError) -> Failure {
    if let SchedulerError::Policy(unknown) = &error {
        return Failure::Usage(format!("placement.policy: {unknown}"));
    }
    Failure::from(error)
}

pub(crate) fn agent(args: &AgentArgs) -> Result<(), Failure> {
    let config: AgentConfig = load(args.config.as_deref(), args)?;
    start_log(&config.log)?;
    let clock = Clock::start();
    single()?.block_on(async {
        let agent = aya_agent::Agent::bind(config, clock).await?;
        until_signal(|shutdown| agent.run(shutdown)).await
    })
}

pub(crate) fn sim_engine(args: &SimEngineArgs) -> Result<(), Failure> {
    let config: SimEngineConfig = load(args.config.as_deref(), args)?;
    start_log(&config.log)?;
    let mut faults = Faults::default();
    args.fault.iter().for_each(|fault| faults.add(*fault));
    single()?.block_on(async {
        let engine = SimEngine::bind(sim_config(&config, faults)).await?;
        out::say(&format!("http://{}", engine.addr()));
        until_signal(|shutdown| engine.run(shutdown)).await
    })
}

fn sim_config(config: &SimEngineConfig, faults: Faults) -> SimConfig {
    SimConfig {
        listen: config.listen,
        model: config.models.iter().map(ToString::to_string).collect(),
        context_length: config.context_length.map(aya_domain::Tokens::get),
        time_scale: config.time_scale,
        seed: config.seed,
        mean_output_tokens: config.mean_output_tokens,
        waiting_max: u32::try_from(config.waiting_max).unwrap_or(u32::MAX),
        max_sequences: config.max_sequences.and_then(|n| u32::try_from(n).ok()),
        may_abort_process: true,
        faults,
        ..SimConfig::local(config.profile.name)
    }
}

fn load<C: Config>(file: Option<&std::path::Path>, args: &impl Overlay) -> Result<C, Failure> {
    aya_config::load(file, process_env(), &args.overlay())
        .map_err(|problems| Failure::Usage(problems.to_string()))
}

/// Logs go to stderr, coloured only for a person.
fn start_log(config: &LogConfig) -> Result<(), Failure> {
    let colour = out::colour_of_log();
    let format = match config.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(&config.filter, format, colour)
        .map_err(|error| Failure::Usage(format!("log.filter: {error}")))
}

fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

fn single() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs until SIGINT or SIGTERM asks for an orderly end; a second one ends the process at once.
pub(crate) async fn until_signal<E, F>(serve: impl FnOnce(CancellationToken) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    E: Into<anyhow::Error>,
{
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut serving = std::pin::pin!(serve(shutdown.clone()));
    loop {
        tokio::select! {
            ended = serving.as_mut() => return ended.map_err(|error| Failure::Failed(error.into())),
            _ = interrupt.recv() => stop(&shutdown),
            _ = terminate.recv() => stop(&shutdown),
        }
    }
}

fn stop(shutdown: &CancellationToken) {
    if shutdown.is_cancelled() {
        #[expect(clippy::exit, clippy::disallowed_methods, reason = "a second signal means: now")]
        std::process::exit(INTERRUPTED);
    }
    shutdown.cancel();
}
