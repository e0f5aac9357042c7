//! `aya replay`: recorded decisions made again, bit for bit, or by another policy.

use std::path::{Path, PathBuf};

use aya_domain::Tokens;
use aya_observe::Clock;
use aya_trace::{
    Difference, ReplayError, Seen, Spread, WhatIf, WhatIfReport, differences, segments_in, visit,
};
use serde::Serialize;

use crate::args::Output;
use crate::exit::Failure;
use crate::out;
use crate::policies;
use crate::table::{Side, Table};
use crate::text::{ABSENT, cost, counted, ms, or_absent};

/// Differences that are kept and shown; beyond it they are counted.
const DIFFERENCES_MAX: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// Decision logs, plain or .gz, or directories of them (a scheduler's decisions.dir).
    #[arg(value_name = "FILE|DIR", required = true)]
    paths: Vec<PathBuf>,
    /// Compare with what this policy would have decided.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// A scheduler's configuration, whose own policies may be named.
    #[arg(long, value_name = "FILE", requires = "policy")]
    config: Option<PathBuf>,
    /// How to show the result.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    decisions: u64,
    records: u64,
    differing: u64,
    seconds: f64,
    decisions_per_s: f64,
    files: Vec<FileJson>,
    differences: Vec<DifferenceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what_if: Option<WhatIfReport>,
}

#[derive(Debug, Serialize)]
struct FileJson {
    file: String,
    decisions: u64,
    records: u64,
    /// Of a last line that was never finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    torn_bytes: Option<usize>,
}

#[derive(Debug, Serialize)]
struct DifferenceJson {
    file: String,
    line: usize,
    decision_id: String,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<String>,
    field: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<String>,
    replayed: String,
}

/// Replays and says what came of it.
pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let named: Vec<String> = args.policy.iter().cloned().collect();
    let mut what_if = policies::find(&named, args.config.as_deref())?.pop().map(WhatIf::new);
    let files = files(&args.paths)?;
    let clock = Clock::start();
    let begun = clock.now();
    let mut report = Report::default();
    for file in &files {
        let seen = one_file(file, &mut report, what_if.as_mut())?;
        report.decisions += seen.decisions;
        report.records += seen.records;
        report.files.push(FileJson {
            file: file.display().to_string(),
            decisions: seen.decisions,
            records: seen.records,
            torn_bytes: seen.torn_bytes,
        });
    }
    report.seconds = clock.now().since(begun).as_secs_f64();
    report.decisions_per_s = Tokens(report.decisions).as_f64() / report.seconds.max(1e-9);
    report.what_if = what_if.map(WhatIf::report);
    match args.output {
        Output::Json => out::say(&serde_json::to_string_pretty(&report)?),
        Output::Table => out::say(&table(&report).join("\n")),
    }
    verdict(&report)
}

fn verdict(report: &Report) -> Result<(), Failure> {
    if report.decisions == 0 {
        let hint = "a scheduler writes them with decisions.dir set, from this version on";
        let records = counted(usize::try_from(report.records).unwrap_or(usize::MAX), "record");
        return Err(Failure::Failed(anyhow::anyhow!(
            "no decision with its inputs in {records}: nothing was replayed; {hint}"
        )));
    }
    if report.differing > 0 {
        let (differing, all) = (report.differing, report.decisions);
        return Err(Failure::Failed(anyhow::anyhow!("{differing} of {all} decisions came out otherwise")));
    }
    Ok(())
}

fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |error: std::io::Error| {
            let said = format!("{}: {error}", path.display());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            if missing { Failure::NotFound(said) } else { Failure::Failed(anyhow::anyhow!(said)) }
        };
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            let segments = segments_in(path).map_err(failed)?;
            if segments.is_empty() {
                let what = "no decisions-*.jsonl or .jsonl.gz in it";
                return Err(Failure::NotFound(format!("{}: {what}", path.display())));
            }
            files.extend(segments);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn one_file(file: &Path, report: &mut Report, mut what_if: Option<&mut WhatIf>) -> Result<Seen, ReplayError> {
    visit(file, |place, case| {
        let found = differences(case);
        report.differing += u64::from(!found.is_empty());
        let room = DIFFERENCES_MAX.saturating_sub(report.differences.len());
        for difference in found.into_iter().take(room) {
            let Difference { decision_id, attempt, candidate, field, recorded, replayed } = difference;
            report.differences.push(DifferenceJson {
                file: place.file.display().to_string(),
                line: place.line,
                decision_id,
                attempt,
                candidate,
                field,
                recorded,
                replayed,
            });
        }
        if let Some(what_if) = &mut what_if {
            what_if.take(case);
        }
    })
}

fn table(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for file in report.files.iter().filter(|file| file.torn_bytes.is_some()) {
        let bytes = file.torn_bytes.unwrap_or(0);
        lines.push(format!("{}: the last line was never finished; {bytes} bytes passed over", file.file));
    }
    lines.push(format!(
        "{} decisions of {} made again in {:.2} s ({:.0} per second), {} records read: {}",
        report.decisions,
        counted(report.files.len(), "segment"),
        report.seconds,
        report.decisions_per_s,
        report.records,
        if report.differing == 0 {
            "no difference".to_owned()
        } else {
            format!("{} differ", report.differing)
        },
    ));
    if !report.differences.is_empty() {
        lines.push(String::new());
        lines.extend(difference_lines(&report.differences));
    }
    if let Some(what_if) = &report.what_if {
        lines.push(String::new());
        lines.extend(what_if_lines(what_if));
    }
    lines
}

fn difference_lines(differences: &[DifferenceJson]) -> Vec<String> {
    let mut table = Table::new(&[
        ("DECISION", Side::Left),
        ("ATTEMPT", Side::Right),
        ("CANDIDATE", Side::Left),
        ("FIELD", Side::Left),
        ("RECORDED", Side::Left),
        ("REPLAYED", Side::Left),
        ("LINE", Side::Left),
    ]);
    for difference in differences {
        table.row(&[
            difference.decision_id.clone(),
            difference.attempt.to_string(),
            difference.candidate.clone().unwrap_or_else(|| ABSENT.to_owned()),
            difference.field.to_owned(),
            difference.recorded.clone().unwrap_or_else(|| "another value".to_owned()),
            difference.replayed.clone(),
            format!("{}:{}", difference.file, difference.line),
        ]);
    }
    table.lines()
}

fn what_if_lines(report: &WhatIfReport) -> Vec<String> {
    let name = &report.policy;
    let seconds = |spread: &Spread| {
        let show = |value: Option<f64>| or_absent(value, |s| format!("{} s", cost(s)));
        format!("mean {}, p50 {}, p99 {}", show(spread.mean_s), show(spread.p50_s), show(spread.p99_s))
    };
    let ttft = |spread: &Spread| {
        let show = |value: Option<f64>| or_absent(value, |s| ms(s * 1e3));
        format!("p50 {}, p99 {}", show(spread.p50_s), show(spread.p99_s))
    };
    let agreement = or_absent(report.agreement_ratio, |ratio| format!("{:.1} %", ratio * 100.0));
    let mut lines = vec![
        format!("what {name} would have decided, each time on the farm as it was:"),
        format!("  same endpoint    {agreement} of {} that both placed", report.both_placed),
        format!(
            "  only one placed  {} recorded, {} {name}",
            report.only_recorded_placed, report.only_other_placed
        ),
        format!(
            "  regret           {} (predicted cost; positive: the recorded choice was better)",
            seconds(&report.regret)
        ),
        format!(
            "  predicted TTFT   recorded {}; {name} {}",
            ttft(&report.recorded_ttft),
            ttft(&report.other_ttft)
        ),
        String::new(),
    ];
    let mut table =
        Table::new(&[("ENDPOINT", Side::Left), ("RECORDED", Side::Right), ("OTHER", Side::Right)]);
    for placed in &report.placements {
        table.row(&[placed.endpoint.clone(), placed.recorded.to_string(), placed.other.to_string()]);
    }
    lines.extend(table.lines().into_iter().map(|line| format!("  {line}")));
    lines
}
