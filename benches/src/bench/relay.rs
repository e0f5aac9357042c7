//! The relay's cost: every target alone on one core, mock engines and load on the other, in interleaved rounds.
//! With the peers' programs at hand the same is the table of all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::load::Found;
use super::process::{Process, free_ports, helper, machine_busy_s, own_cpu_s, pause};
use super::steady::{answers, get};
use super::table::{Figures, table};
use super::target::{Kind, Peers, Target, load};

/// Every target has the first four; one row of Aya has all.
const ENGINES: usize = 64;
/// Streams of the phase that asks what an open one holds.
const OPEN: f64 = 5_000.0;
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
    /// A virtual environment of Python with the peers that come as packages of it.
    #[arg(long)]
    peers: Option<PathBuf>,
}

/// Measures all targets and prints the table.
pub(crate) async fn run(options: Options) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ports = free_ports(ENGINES)?;
    let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let engines = Process::start(helper(&["engines", "--ports", &list.join(",")])?, dir.path(), "engines")?;
    let peers = Peers::new(options.peers);
    let mut bench = Bench { ports, engines, dir: dir.path(), peers, figures: Figures::default() };
    answers(bench.engine()?, "/health").await?;
    let mut targets = Vec::new();
    for kind in options.targets {
        if bench.peers.has(kind).await {
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
    peers: Peers,
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
    // First, while nothing but idling has filled its memory.
    Phase {
        name: "open",
        engines: (5, 1000),
        load: &["hold", "--connections", "5000", "--ramp-ms", "2500"],
        first_round_only: true,
    },
    phase("warm", (100, 0), &["closed", "--connections", "64", "--seconds", "0.7"]),
    phase("one", (100, 0), &["closed", "--connections", "1", "--seconds", "1"]),
    phase("many", (100, 0), &["closed", "--connections", "64", "--seconds", "2"]),
    phase("big", (100, 0), &["closed", "--connections", "64", "--seconds", "1.5", "--body", "32768"]),
    phase("huge", (100, 0), &["closed", "--connections", "8", "--seconds", "1.5", "--body", "400000"]),
    phase("rate", (100, 0), &["rate", "--connections", "16", "--seconds", "3", "--per-second", "500"]),
    phase("paced", (100, 10), &["hold", "--connections", "200", "--each", "2", "--ramp-ms", "200"]),
    phase(
        "twenty",
        (100, 10),
        &["hold", "--connections", "20", "--each", "2", "--ramp-ms", "1000", "--body", "400000"],
    ),
    phase(
        "crowd",
        (100, 10),
        &["hold", "--connections", "150", "--each", "2", "--ramp-ms", "1000", "--body", "400000"],
    ),
    phase("flat", (100, 0), &["closed", "--connections", "32", "--seconds", "1.5", "--stream"]),
];

impl Bench<'_> {
    async fn measure(&mut self, kind: Kind, round: u32) -> Result<()> {
        self.set_engines(100, 0).await?;
        let target = Target::start(kind, &self.ports, self.dir, &self.peers).await?;
        self.figures.add(kind, "start_ms", target.started_in.as_secs_f64() * 1e3);
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
        let path = format!("/_set?n={chunks}&ms={ms}");
        get(self.engine()?, &path).await.map(|_| ())
    }

    fn engine(&self) -> Result<u16> {
        self.ports.first().copied().context("no engines")
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
        let rss = || target.measured.as_ref().map_or(0.0, Process::rss_mib);
        let rss_before = rss();
        let mut loading = std::pin::pin!(load(target.port, phase.load));
        let mut rss_mib = 0.0_f64;
        let found = loop {
            tokio::select! {
                found = loading.as_mut() => break found?,
                () = pause(Duration::from_millis(250)), if phase.first_round_only => {
                    rss_mib = rss_mib.max(rss());
                }
            }
        };
        let (cpu_s, engines_s) = (cpu() - cpu_before, self.engines.cpu_s() - engines_before);
        let wall = began.elapsed().as_secs_f64();
        let ours = cpu_s + engines_s + found.cpu_s + own_cpu_s() - own;
        let foreign = (machine_busy_s() - busy - ours).max(0.0) / wall;
        Ok(Run { found, cpu_s, engines_s, rss_mib, rss_before, foreign })
    }

    fn note(&mut self, kind: Kind, phase: &str, run: &Run) {
        let Run { found, cpu_s, engines_s, rss_mib, rss_before, foreign } = run;
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
        add("gap99_us", found.gap.p99_us);
        add("ttfb_ms", found.first_byte.p50_us / 1e3);
        add("open", f64::from(found.open_max));
        add("rss_mib", *rss_mib);
        add("stream_kib", (rss_mib - rss_before).max(0.0) * 1024.0 / OPEN);
    }
}

/// One run of one phase.
struct Run {
    found: Found,
    cpu_s: f64,
    engines_s: f64,
    /// The most while it lasted, and before it began.
    rss_mib: f64,
    rss_before: f64,
    foreign: f64,
}
