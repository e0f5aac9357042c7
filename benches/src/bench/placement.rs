//! The acceptance rows of placement over the simulated farm, as one table: what `benches/PLACEMENT.md` holds.
//!
//! Reads two public traces from the directory given, and nothing else. The numbers are of virtual time, the same on
//! every machine; only how long it takes differs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya_placement::Policy;
use aya_sim_farm::{Objectives, Selection, SimConfig, Summary, Telemetry, Workload, parse_fleet, simulate};

use crate::print;

const AZURE: &str = "AzureLLMInferenceTrace_conv.csv.gz";
const MOONCAKE: &str = "mooncake_conversation_trace.jsonl.gz";
/// Bisections of a rate: to about a hundredth.
const HALVINGS: u32 = 9;
const SUSTAINED: f64 = 0.9;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the Azure conversation trace and the Mooncake conversation trace are, gzipped, under their own names.
    #[arg(long, value_name = "DIR")]
    traces: PathBuf,
    /// Every row is run with each of these.
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Also the rates sustained at 90 % goodput, by bisection (seed 1).
    #[arg(long)]
    rates: bool,
}

/// A trace at a speed on a fleet, with what was promised.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    trace: &'static str,
    fleet: &'static str,
    speed: f64,
    from_s: f64,
    limit: usize,
    objectives: Objectives,
}

const S1B: Scenario = Scenario {
    name: "S1b",
    trace: AZURE,
    fleet: "16*a100-8b",
    speed: 16.0,
    from_s: 0.0,
    limit: 8_000,
    objectives: Objectives { ttft_s: 1.0, tpot_s: 0.05 },
};
const S3B: Scenario = Scenario {
    name: "S3b",
    fleet: "2*h100-8b,4*a100-8b,4*a10g-8b,4*l4-8b",
    speed: 11.0,
    objectives: Objectives { ttft_s: 2.0, tpot_s: 0.1 },
    ..S1B
};
const S4B: Scenario = Scenario {
    name: "S4b",
    trace: MOONCAKE,
    speed: 2.0,
    objectives: Objectives { ttft_s: 5.0, tpot_s: 0.1 },
    ..S1B
};
const OVERLOAD: Scenario = Scenario { name: "overload", speed: 20.0, from_s: 1_200.0, ..S1B };

/// A row: what differs from the best conditions.
type Change = fn(&mut SimConfig);

const ROWS: &[(&str, &str, &[Scenario], Change)] = &[
    ("rr", "rr", &[S1B, S3B, S4B, OVERLOAD], |_| {}),
    ("lc", "lc", &[S1B, S3B, S4B, OVERLOAD], |_| {}),
    ("aya", "aya", &[S1B, S3B, S4B, OVERLOAD], |_| {}),
    ("requests wait at the scheduler", "aya", &[S1B, S3B, S4B, OVERLOAD], |config| {
        config.hold_at_most = Some(Duration::from_secs(60));
    }),
    ("refused for misses (1)", "aya", &[S1B, S3B, S4B, OVERLOAD], |config| {
        config.shed_misses_ratio = Some(1.0);
    }),
    ("reports every second", "aya", &[S1B, S3B, S4B], |config| {
        config.telemetry.period = Duration::from_secs(1);
    }),
    ("reports a second late", "aya", &[S1B, S3B, S4B], |config| {
        config.telemetry.delay = Duration::from_secs(1);
    }),
    ("all reports lost", "aya", &[S1B, S3B, S4B], |config| {
        config.telemetry = Telemetry { until: Some(Duration::ZERO), ..config.telemetry };
    }),
    ("two schedulers, shared ledgers", "aya", &[S1B, S3B, S4B], |config| {
        config.schedulers = 2;
        config.share_ledgers = Some(Duration::from_millis(50));
    }),
    ("two schedulers, nothing shared", "aya", &[S1B, S3B, S4B], |config| config.schedulers = 2),
    ("coefficients wrong by 0.2", "aya", &[S1B, S3B, S4B], |config| config.model_error = 0.2),
    ("coefficients wrong by 0.4", "aya", &[S1B, S3B, S4B], |config| config.model_error = 0.4),
];

/// Runs every row and prints it.
pub(crate) fn run(options: &Options) -> Result<()> {
    print("| row | scenario | goodput % | TTFT p99 ms | rejected % | rejected by quarter of the prompts % |");
    print("|---|---|---|---|---|---|");
    for (row, policy, scenarios, change) in ROWS {
        for scenario in *scenarios {
            let one = |seed: &u64| scenario.run(&options.traces, policy, *change, *seed, scenario.speed);
            let summaries: Result<Vec<Summary>> = options.seeds.iter().map(one).collect();
            print(&line(row, scenario.name, &summaries?));
        }
    }
    if options.rates {
        rates(&options.traces)?;
    }
    Ok(())
}

impl Scenario {
    fn workload(&self, traces: &Path, seed: u64, speed: f64) -> Result<Workload> {
        let path = traces.join(self.trace);
        let (limit, jitter) = (Some(self.limit), self.trace == MOONCAKE);
        let selection = Selection { speed, limit, from_s: self.from_s, jitter, seed };
        Workload::read(&path, &selection).with_context(|| path.display().to_string())
    }

    fn run(&self, traces: &Path, policy: &str, change: Change, seed: u64, speed: f64) -> Result<Summary> {
        let Objectives { ttft_s, tpot_s } = self.objectives;
        let policy = Policy { slo_ttft_s: ttft_s, slo_tpot_s: tpot_s, ..Policy::named(policy)? };
        let mut config = SimConfig { seed, ..SimConfig::new(parse_fleet(self.fleet)?, policy) };
        change(&mut config);
        let workload = self.workload(traces, seed, speed)?;
        Ok(simulate(&config, &workload)?.summary(&self.objectives))
    }

    /// The highest rate with 90 % goodput, in requests per second.
    fn sustained(&self, traces: &Path, policy: &str) -> Result<f64> {
        let (mut low, mut high) = (self.speed / 16.0, self.speed * 4.0);
        for _ in 0..HALVINGS {
            let middle = f64::sqrt(low * high);
            let met = self.run(traces, policy, |_| {}, 1, middle)?.goodput_ratio >= SUSTAINED;
            if met { low = middle } else { high = middle }
        }
        let workload = self.workload(traces, 1, low)?;
        let lasts_s = workload.arrivals.last().map_or(1.0, |last| last.at_s).max(1e-9);
        Ok(aya_domain::Tokens(workload.arrivals.len() as u64).as_f64() / lasts_s)
    }
}

fn line(row: &str, scenario: &str, summaries: &[Summary]) -> String {
    let each = |value: &dyn Fn(&Summary) -> String| summaries.iter().map(value).collect::<Vec<_>>().join(" ");
    let goodput = each(&|s| format!("{:.1}", s.goodput_ratio * 100.0));
    let ttft = each(&|s| s.ttft_p99_s.map_or_else(|| "-".to_owned(), |s| format!("{:.0}", s * 1e3)));
    let rejected = each(&|s| format!("{:.1}", s.rejected_ratio() * 100.0));
    let quarters =
        each(&|s| s.rejected_by_prompt.quartiles.map(|share| format!("{:.1}", share * 100.0)).join("/"));
    format!("| {row} | {scenario} | {goodput} | {ttft} | {rejected} | {quarters} |")
}

fn rates(traces: &Path) -> Result<()> {
    print("\n| requests/s at 90 % goodput | S1b | S3b | S4b, 6,000 requests |");
    print("|---|---|---|---|");
    let scenarios = [S1B, S3B, Scenario { limit: 6_000, ..S4B }];
    let mut first = None;
    for policy in ["rr", "lc", "aya"] {
        let sustained: Result<Vec<f64>> = scenarios.iter().map(|s| s.sustained(traces, policy)).collect();
        let sustained = sustained?;
        let base = first.get_or_insert_with(|| sustained.clone());
        let cell = |(rate, base): (&f64, &f64)| format!("{rate:.1} ({:.2} x)", rate / base);
        let cells: Vec<String> = sustained.iter().zip(base.iter()).map(cell).collect();
        print(&format!("| {policy} | {} |", cells.join(" | ")));
    }
    Ok(())
}
