//! The relay's cost: every target alone on one core, mock engines and load on the other, in interleaved rounds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::load::Found;
use super::process::{Process, free_port, helper, machine_busy_s, own_cpu_s, pause};
use super::table::{Figures, table};
use super::target::{Kind, Target, load};

const ENGINES: usize = 4;
/// A phase during which other jobs took more than this share of one core is repeated.
const FOREIGN_MAX: f64 = 0.08;
/// Repetitions of a disturbed phase; the least disturbed run counts.
const REPEATS_MAX: u32 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only these.
    #[arg(long, value_delimiter = ',', default_values = ["direct", "nginx", "haproxy", "aya"])]
    targets: Vec<Kind>,
}

/// Measures all targets and prints the table.
pub(crate) async fn run(options: Options) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ports = (0..ENGINES).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
    let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let engines = Process::start(helper(&["engines", "--ports", &list.join(",")])?, dir.path(), "engines")?;
    let mut bench = Bench { ports, engines, dir: dir.path(), figures: Figures::default() };
    let mut targets = Vec::new();
    for kind in options.targets {
        if kind.is_installed().await {
            targets.push(kind);
        } else {
            crate::progress(&format!("SKIPPED: {} is not installed", kind.as_str()));
        }
    }
    for round in 1..=options.rounds {
        for kind in &targets {
            let began = Instant::now();
            bench.measure(*kind, round).await.with_context(|| kind.as_str())?;
            crate::progress(&format!(
                "round {round} {}: {:.0} s",
                kind.as_str(),
                began.elapsed().as_secs_f64()
            ));
        }
        targets.reverse();
    }
    targets.sort_unstable();
    crate::print(&table(&bench.figures, &targets));
    bench.engines.stop().await;
    Ok(())
}

struct Bench<'d> {
    ports: Vec<u16>,
    engines: Process,
    dir: &'d Path,
    figures: Figures,
}

/// One phase: its name, what is asked of the engines, what is asked of the load generator.
struct Phase {
    name: &'static str,
    /// Chunks of a stream and milliseconds between them.
    engines: (u32, u32),
    load: &'static [&'static str],
    first_round_only: bool,
}

const fn phase(name: &'static str, engines: (u32, u32), load: &'static [&'static str]) -> Phase {
    Phase { name, engines, load, first_round_only: false }
}

const PHASES: &[Phase] = &[
    phase("warm", (100, 0), &["closed", "--connections", "64", "--seconds", "0.7"]),
    phase("one", (100, 0), &["closed", "--connections", "1", "--seconds", "1"]),
    phase("many", (100, 0), &["closed", "--connections", "64", "--seconds", "2"]),
    phase("big", (100, 0), &["closed", "--connections", "64", "--seconds", "1.5", "--body", "32768"]),
    phase("paced", (100, 10), &["hold", "--connections", "200", "--each", "2", "--ramp-ms", "200"]),
    phase("flat", (100, 0), &["closed", "--connections", "32", "--seconds", "1.5", "--stream"]),
    Phase {
        name: "open",
        engines: (5, 1000),
        load: &["hold", "--connections", "1000", "--ramp-ms", "1000"],
        first_round_only: true,
    },
];

impl Bench<'_> {
    async fn measure(&mut self, kind: Kind, round: u32) -> Result<()> {
        self.set_engines(100, 0).await?;
        let target = Target::start(kind, &self.ports, self.dir).await?;
        pause(Duration::from_millis(500)).await;
        if let Some(process) = &target.measured {
            self.figures.add(kind, "idle_rss_mib", process.rss_mib());
        }
        for phase in PHASES.iter().filter(|phase| round == 1 || !phase.first_round_only) {
            self.set_engines(phase.engines.0, phase.engines.1).await?;
            let run = self.least_disturbed(&target, phase).await?;
            self.note(kind, phase.name, &run);
        }
        target.stop().await;
        Ok(())
    }

    async fn set_engines(&self, chunks: u32, ms: u32) -> Result<()> {
        let port = *self.ports.first().context("no engines")?;
        let path = format!("/_set?n={chunks}&ms={ms}");
        super::steady::get(port, &path).await.map(|_| ())
    }

    async fn least_disturbed(&self, target: &Target, phase: &Phase) -> Result<Run> {
        let mut best: Option<Run> = None;
        for _ in 0..=REPEATS_MAX {
            let run = self.once(target, phase).await?;
            if best.as_ref().is_none_or(|best| run.foreign < best.foreign) {
                best = Some(run);
            }
            if best.as_ref().is_some_and(|best| best.foreign < FOREIGN_MAX) || phase.name == "warm" {
                break;
            }
        }
        best.context("no run")
    }

    async fn once(&self, target: &Target, phase: &Phase) -> Result<Run> {
        let cpu = || target.measured.as_ref().map_or(0.0, Process::cpu_s);
        let (began, busy, own) = (Instant::now(), machine_busy_s(), own_cpu_s());
        let (cpu_before, engines_before) = (cpu(), self.engines.cpu_s());
        let mut loading = std::pin::pin!(load(target.port, phase.load));
        let mut rss_mib = 0.0_f64;
        let found = loop {
            tokio::select! {
                found = loading.as_mut() => break found?,
                () = pause(Duration::from_millis(250)), if phase.first_round_only => {
                    rss_mib = rss_mib.max(target.measured.as_ref().map_or(0.0, Process::rss_mib));
                }
            }
        };
        let (cpu_s, engines_s) = (cpu() - cpu_before, self.engines.cpu_s() - engines_before);
        let wall = began.elapsed().as_secs_f64();
        let ours = cpu_s + engines_s + found.cpu_s + own_cpu_s() - own;
        let foreign = (machine_busy_s() - busy - ours).max(0.0) / wall;
        Ok(Run { found, cpu_s, engines_s, rss_mib, foreign })
    }

    fn note(&mut self, kind: Kind, phase: &str, run: &Run) {
        let Run { found, cpu_s, engines_s, rss_mib, foreign } = run;
        let figures = &mut self.figures;
        if let Some(error) = &found.first_error {
            crate::progress(&format!("{}/{phase}: {} errors: {error}", kind.as_str(), found.errors));
        }
        let mut add = |name: &str, value: f64| figures.add(kind, &format!("{phase}_{name}"), value);
        let requests = f64::from(found.ok.max(1));
        add("errors", f64::from(found.errors));
        add("foreign", *foreign);
        add("rps", requests / found.seconds);
        add("cpu_us", cpu_s * 1e6 / requests);
        add("side_us", (engines_s + found.cpu_s) * 1e6 / requests);
        add("chunk_us", cpu_s * 1e6 / f64::from(found.events.max(1)));
        add("p50_us", found.latency.p50_us);
        add("p99_us", found.latency.p99_us);
        add("ttfb_us", found.first_byte.p50_us);
        add("ttfb99_us", found.first_byte.p99_us);
        add("open", f64::from(found.open_max));
        add("rss_mib", *rss_mib);
    }
}

/// One run of one phase.
struct Run {
    found: Found,
    cpu_s: f64,
    engines_s: f64,
    rss_mib: f64,
    foreign: f64,
}
