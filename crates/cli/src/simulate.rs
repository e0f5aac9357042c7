//! `aya simulate`: what policies would make of a trace on a fleet, without either.
//!
//! A policy per row. The simulation itself (`sim-farm`) knows no clock; only `decisions_per_s`, which says how fast
//! it ran here, differs from run to run.

use std::path::PathBuf;
use std::time::Duration;

use aya_observe::Clock;
use aya_placement::Policy;
use aya_sim_farm::{
    EngineSpec, Fault, Objectives, Selection, SimConfig, Summary, Telemetry, Workload, parse_fleet, simulate,
};
use serde::Serialize;

use crate::args::Output;
use crate::exit::Failure;
use crate::out;
use crate::policies;
use crate::table::{Side, Table};

mod report;

use report::Shown;

#[derive(Debug, clap::Args)]
pub(crate) struct SimulateArgs {
    /// Azure CSV, Mooncake JSON lines or our own decision records; may be gzip.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Engines by profile, such as 2*h100-8b,4*l4-8b; a profile may be a file, such as 3*lab/l40s.toml.
    #[arg(long, value_name = "FLEET")]
    fleet: String,
    /// Arrivals come this many times as fast as in the trace.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// Use so many requests [default: all].
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Begin at this second of the trace.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    from: f64,
    /// Objective for the time to the first token, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive)]
    slo_ttft: f64,
    /// Objective for the time per further token, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1, value_parser = positive)]
    slo_tpot: f64,
    /// A scheduler's configuration, whose own policies may be named.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Policies to compare.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "rr,lc,aya")]
    policy: Vec<String>,
    /// Seconds between two reports of an engine.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1, value_parser = positive)]
    report_period: f64,
    /// No report arrives after this second.
    #[arg(long, value_name = "SECONDS", value_parser = not_negative)]
    lose_reports_after: Option<f64>,
    /// Seconds from a report's sample to its arrival, of which the scheduler is not told.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = not_negative)]
    report_delay: f64,
    /// Share of the reports that get lost, 0 to 1.
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio)]
    report_loss: f64,
    /// Schedulers that share the requests at random, each with its own ledger.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    schedulers: u32,
    /// Schedulers tell each other their ledgers every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0.05", value_parser = positive)]
    share_ledgers: Option<f64>,
    /// Something goes wrong with an engine, numbered from 0: crash:3@20+10 (from second 20, for 10 seconds),
    /// slow:3x2.5@20+10, wedge:3@20+10. May be given more than once.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,
    /// Judge endpoints by what their requests tell, as the scheduler does: ejections, slow start, pace.
    #[arg(long)]
    breaker: bool,
    /// How wrong the coefficients are that placement knows of each engine: 0.2 is a factor of about 1.2 either way.
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0, value_parser = ratio)]
    model_error: f64,
    /// Requests wait at the scheduler while every endpoint is busy, for so many seconds at most
    /// [default: they wait inside the engines].
    #[arg(long, value_name = "SECONDS", value_parser = not_negative)]
    hold: Option<f64>,
    /// Reject requests that would lose about so many seconds to those before them: none below half of it, all above one
    /// and a half [default: none].
    #[arg(long, value_name = "SECONDS", value_parser = not_negative)]
    shed: Option<f64>,
    /// Reject requests while the latest ones would miss, or make others miss, about so many objectives each; short prompts
    /// like long ones: none below half of it, all above one and a half [default: none].
    #[arg(long, value_name = "RATIO", value_parser = misses)]
    shed_misses: Option<f64>,
    /// Spread requests of one timestamp over the time to the next.
    #[arg(long)]
    jitter: bool,
    /// Decides ties and everything drawn.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also write the comparison as one page with charts, which needs no network.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// For the report: goodput at these speeds too.
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', requires = "report")]
    sweep: Vec<f64>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Seconds that a [`Duration`] can hold, a week at most.
fn seconds(text: &str, least: f64) -> Result<f64, String> {
    let wrong = || format!("not a number of seconds from {least} to 604800");
    text.parse().ok().filter(|s| (least..=604_800.0).contains(s)).ok_or_else(wrong)
}

fn positive(text: &str) -> Result<f64, String> {
    seconds(text, 0.000_1)
}

fn not_negative(text: &str) -> Result<f64, String> {
    seconds(text, 0.0)
}

fn ratio(text: &str) -> Result<f64, String> {
    let fits = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    fits.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

fn misses(text: &str) -> Result<f64, String> {
    let fits = text.parse().ok().filter(|ratio| (0.001..=4.0).contains(ratio));
    fits.ok_or_else(|| "not a number from 0.001 to 4".to_owned())
}

/// One policy's row; the names are a contract. What no request gave is null.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    requests: usize,
    goodput_ratio: f64,
    ttft_p50_s: Option<f64>,
    ttft_p95_s: Option<f64>,
    ttft_p99_s: Option<f64>,
    tpot_p50_s: Option<f64>,
    tpot_p99_s: Option<f64>,
    e2e_mean_s: Option<f64>,
    rejected: usize,
    rejected_ratio: f64,
    /// The share of each quarter of the requests, from the shortest prompts to the longest.
    rejected_by_prompt_quartile: [f64; 4],
    prompt_mean_rejected_tokens: Option<f64>,
    prompt_mean_completed_tokens: Option<f64>,
    preemptions: u64,
    prefix_hit_ratio: Option<f64>,
    /// Seconds of virtual time.
    duration_s: f64,
    /// Per second of the machine's time, the whole simulation included.
    decisions_per_s: f64,
}

/// Simulates every policy and prints the comparison.
pub(crate) fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let fleet = parse_fleet(&args.fleet).map_err(|error| usage("--fleet", &error))?;
    let policies = policies::find(&args.policy, args.config.as_deref())?;
    if let Some(fault) = args.fault.iter().find(|fault| fault.engine >= fleet.len()) {
        let problem = format!("there is no engine {}; the fleet has 0 to {}", fault.engine, fleet.len() - 1);
        return Err(usage("--fault", &problem));
    }
    let workload = args.workload(args.speed)?;
    let objectives = Objectives { ttft_s: args.slo_ttft, tpot_s: args.slo_tpot };
    let clock = Clock::start();
    let mut rows = Vec::with_capacity(policies.len());
    let mut shown = Vec::new();
    for policy in policies {
        let name = policy.name.to_string();
        let config = args.config(fleet.clone(), policy);
        let begun = clock.now();
        let results = simulate(&config, &workload)?;
        let took = clock.now().since(begun).as_secs_f64();
        let decisions = aya_domain::Tokens(results.decisions).as_f64();
        rows.push(row(name.clone(), &results.summary(&objectives), decisions / took.max(1e-9)));
        if args.report.is_some() {
            let sweep = args.sweep(&config, &objectives)?;
            shown.push(Shown { policy: name, results, sweep });
        }
    }
    if let Some(path) = &args.report {
        let engines: Vec<String> =
            fleet.iter().enumerate().map(|(at, engine)| format!("{at} {}", engine.name)).collect();
        let page = report::page(&args.facts(), &table(&rows).lines(), &engines, &shown);
        std::fs::write(path, page)
            .map_err(|error| usage("--report", &format!("{}: {error}", path.display())))?;
    }
    match args.output {
        Output::Table => table(&rows).lines().iter().for_each(|line| out::say(line)),
        Output::Json => out::say(&serde_json::to_string_pretty(&rows)?),
    }
    Ok(())
}

fn usage(flag: &str, problem: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("error: {flag}: {problem}"))
}

impl SimulateArgs {
    fn workload(&self, speed: f64) -> Result<Workload, Failure> {
        let selection =
            Selection { speed, limit: self.limit, from_s: self.from, jitter: self.jitter, seed: self.seed };
        let wrong = |error| usage("--trace", &format!("{}: {error}", self.trace.display()));
        Workload::read(&self.trace, &selection).map_err(wrong)
    }

    /// What was simulated, as a sentence.
    fn facts(&self) -> String {
        let trace =
            self.trace.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let limit = self.limit.map_or_else(|| "all".to_owned(), |limit| format!("the first {limit}"));
        format!(
            "{limit} requests of {trace} from second {}, {} times as fast, on {}; objectives {} s to the first token \
             and {} s per further token; {} scheduler(s), reports every {} s, seed {}.",
            self.from,
            self.speed,
            self.fleet,
            self.slo_ttft,
            self.slo_tpot,
            self.schedulers,
            self.report_period,
            self.seed
        )
    }

    /// Requests per second and goodput in percent at every speed of the sweep.
    fn sweep(&self, config: &SimConfig, objectives: &Objectives) -> Result<Vec<(f64, f64)>, Failure> {
        let mut speeds = self.sweep.clone();
        speeds.sort_by(f64::total_cmp);
        let mut points = Vec::with_capacity(speeds.len());
        for speed in speeds {
            let workload = self.workload(speed)?;
            let lasts = workload.arrivals.last().map_or(0.0, |last| last.at_s).max(1e-9);
            let goodput = simulate(config, &workload)?.summary(objectives).goodput_ratio;
            let requests = aya_domain::Tokens(workload.arrivals.len() as u64).as_f64();
            points.push((requests / lasts, goodput * 100.0));
        }
        Ok(points)
    }

    fn config(&self, fleet: Vec<EngineSpec>, policy: Policy) -> SimConfig {
        let time = Duration::from_secs_f64;
        SimConfig {
            telemetry: Telemetry {
                period: time(self.report_period),
                delay: time(self.report_delay),
                loss_ratio: self.report_loss,
                until: self.lose_reports_after.map(time),
            },
            schedulers: self.schedulers,
            share_ledgers: self.share_ledgers.map(time),
            hold_at_most: self.hold.map(time),
            shed_above_s: self.shed,
            shed_misses_ratio: self.shed_misses,
            model_error: self.model_error,
            faults: self.fault.clone(),
            breaker: self.breaker,
            seed: self.seed,
            ..SimConfig::new(fleet, Policy { slo_ttft_s: self.slo_ttft, slo_tpot_s: self.slo_tpot, ..policy })
        }
    }
}

fn row(policy: String, summary: &Summary, decisions_per_s: f64) -> Row {
    Row {
        policy,
        requests: summary.requests,
        goodput_ratio: summary.goodput_ratio,
        ttft_p50_s: summary.ttft_p50_s,
        ttft_p95_s: summary.ttft_p95_s,
        ttft_p99_s: summary.ttft_p99_s,
        tpot_p50_s: summary.tpot_p50_s,
        tpot_p99_s: summary.tpot_p99_s,
        e2e_mean_s: summary.e2e_mean_s,
        rejected: summary.rejected,
        rejected_ratio: summary.rejected_ratio(),
        rejected_by_prompt_quartile: summary.rejected_by_prompt.quartiles,
        prompt_mean_rejected_tokens: summary.rejected_by_prompt.mean_rejected,
        prompt_mean_completed_tokens: summary.rejected_by_prompt.mean_completed,
        preemptions: summary.preemptions,
        prefix_hit_ratio: summary.prefix_hit_ratio,
        duration_s: summary.duration_s,
        decisions_per_s,
    }
}

/// Shares of four quarters, the shortest prompts first: `9/11/11/13 %`.
fn quartiles(shares: [f64; 4]) -> String {
    format!("{} %", shares.map(|share| format!("{:.0}", share * 100.0)).join("/"))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("POLICY", Side::Left),
        ("GOODPUT", Side::Right),
        ("TTFT P50", Side::Right),
        ("P95", Side::Right),
        ("P99", Side::Right),
        ("TPOT P50", Side::Right),
        ("P99", Side::Right),
        ("E2E MEAN", Side::Right),
        ("REJECTED", Side::Right),
        ("BY PROMPT LENGTH", Side::Right),
        ("PREEMPTED", Side::Right),
        ("PREFIX HITS", Side::Right),
    ]);
    let ms = |s: Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{:.0} ms", s * 1e3));
    for row in rows {
        table.row(&[
            row.policy.clone(),
            format!("{:.1} %", row.goodput_ratio * 100.0),
            ms(row.ttft_p50_s),
            ms(row.ttft_p95_s),
            ms(row.ttft_p99_s),
            ms(row.tpot_p50_s),
            ms(row.tpot_p99_s),
            row.e2e_mean_s.map_or_else(|| "-".to_owned(), |s| format!("{s:.2} s")),
            if row.rejected == 0 { "0".to_owned() } else { format!("{:.1} %", row.rejected_ratio * 100.0) },
            if row.rejected == 0 { "-".to_owned() } else { quartiles(row.rejected_by_prompt_quartile) },
            row.preemptions.to_string(),
            row.prefix_hit_ratio.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use aya_sim_farm::RejectedByPrompt;

    use super::*;

    fn results() -> Summary {
        Summary {
            requests: 4,
            goodput_ratio: 0.75,
            ttft_p50_s: Some(0.1),
            ttft_p95_s: Some(0.2),
            ttft_p99_s: Some(0.3),
            tpot_p50_s: None,
            tpot_p99_s: None,
            e2e_mean_s: Some(6.5),
            rejected: 1,
            rejected_by_prompt: RejectedByPrompt {
                quartiles: [0.0, 0.0, 0.25, 1.0],
                mean_rejected: Some(900.0),
                mean_completed: Some(90.0),
            },
            preemptions: 0,
            prefix_hit_ratio: None,
            duration_s: 9.0,
        }
    }

    #[test]
    fn the_json_has_the_names_of_the_contract_and_null_for_unknown() {
        let json = serde_json::to_value(row("aya".to_owned(), &results(), 10.0)).unwrap();
        let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut expect: Vec<&str> =
            "policy requests goodput_ratio ttft_p50_s ttft_p95_s ttft_p99_s tpot_p50_s \
            tpot_p99_s e2e_mean_s rejected rejected_ratio rejected_by_prompt_quartile \
            prompt_mean_rejected_tokens prompt_mean_completed_tokens preemptions prefix_hit_ratio duration_s decisions_per_s"
                .split_whitespace()
                .collect();
        expect.sort_unstable();
        assert_eq!(names, expect);
        assert!(json["tpot_p99_s"].is_null() && json["prefix_hit_ratio"].is_null());
    }

    #[test]
    fn the_table_shows_percent_and_milliseconds() {
        let lines = table(&[row("aya".to_owned(), &results(), 10.0)]).lines();
        assert!(
            lines[1].starts_with("aya")
                && lines[1].contains("75.0 %")
                && lines[1].contains("300 ms")
                && lines[1].contains("25.0 %      0/0/25/100 %"),
            "{lines:?}"
        );
    }

    #[test]
    fn seconds_are_bounded() {
        for (text, ok) in
            [("0.1", true), ("0", false), ("-1", false), ("nan", false), ("inf", false), ("1e9", false)]
        {
            assert_eq!(positive(text).is_ok(), ok, "{text}");
        }
        assert!(not_negative("0").is_ok());
    }
}
