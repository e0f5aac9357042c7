//! Figures by target and name, and the table made of them: medians, minima, ratios to HAProxy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::target::Kind;

/// Every measured value.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(Kind, String), Vec<f64>>);

impl Figures {
    pub(crate) fn add(&mut self, kind: Kind, name: &str, value: f64) {
        self.0.entry((kind, name.to_owned())).or_default().push(value);
    }

    fn sorted(&self, kind: Kind, name: &str) -> Vec<f64> {
        let mut values = self.0.get(&(kind, name.to_owned())).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, kind: Kind, name: &str) -> Option<f64> {
        let values = self.sorted(kind, name);
        // The mean of both middle ones where their number is even.
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    fn least(&self, kind: Kind, name: &str) -> Option<f64> {
        self.sorted(kind, name).first().copied()
    }

    fn all(&self, suffix: &str) -> Vec<f64> {
        let fits = |name: &str| name.ends_with(suffix) && !name.starts_with("warm");
        let mut values: Vec<_> = self
            .0
            .iter()
            .filter(|((_, name), _)| fits(name))
            .flat_map(|(_, values)| values)
            .copied()
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// How a column is made.
enum Column {
    /// Median and minimum over the rounds; of the proxy, so nothing for a direct connection.
    Cost(&'static str),
    /// Median.
    Value(&'static str),
    /// Median, less the one of the direct connection.
    Added(&'static str),
}

const COLUMNS: &[(&str, Column)] = &[
    ("requests/s", Column::Value("many_rps")),
    ("CPU us/request 1 KB", Column::Cost("many_cpu_us")),
    ("CPU us/request 32 KB", Column::Cost("big_cpu_us")),
    ("CPU us/request 400 KB", Column::Cost("huge_cpu_us")),
    ("CPU us/request C=1", Column::Cost("one_cpu_us")),
    ("added p50 us C=1", Column::Added("one_p50_us")),
    ("added p99 us C=1", Column::Added("one_p99_us")),
    ("added p50 us at 500/s", Column::Added("rate_p50_us")),
    ("added p99 us at 500/s", Column::Added("rate_p99_us")),
    ("CPU us/chunk 200 x 10 ms", Column::Cost("paced_chunk_us")),
    ("added TTFB p50 us", Column::Added("paced_ttfb_us")),
    ("added TTFB p99 us", Column::Added("paced_ttfb99_us")),
    ("chunk gap p99 us", Column::Value("paced_gap99_us")),
    ("TTFB p50 ms, 20 prompts of 400 KB", Column::Value("twenty_ttfb_ms")),
    ("TTFB p50 ms, 150 prompts of 400 KB", Column::Value("crowd_ttfb_ms")),
    ("CPU us/chunk flat out", Column::Cost("flat_chunk_us")),
    ("RSS MiB idle", Column::Value("idle_rss_mib")),
    ("RSS MiB 5,000 streams", Column::Value("open_rss_mib")),
    ("KiB per open stream", Column::Value("open_stream_kib")),
    ("ms from start to first answer", Column::Value("start_ms")),
    ("other core us/request", Column::Cost("many_side_us")),
];

/// One row per target, then one of ratios.
pub(crate) fn table(figures: &Figures, targets: &[Kind]) -> String {
    let mut text = String::from("| target |");
    for (name, _) in COLUMNS {
        let _ = write!(text, " {name} |");
    }
    let _ = write!(text, " errors |\n|---|{}", "---|".repeat(COLUMNS.len() + 1));
    for kind in targets {
        let _ = write!(text, "\n| {} |", kind.as_str());
        for (_, column) in COLUMNS {
            let _ = write!(text, " {} |", cell(figures, *kind, column));
        }
        let errors: f64 =
            PHASES.iter().flat_map(|phase| figures.sorted(*kind, &format!("{phase}_errors"))).sum();
        let _ = write!(text, " {errors:.0} |");
    }
    for other in [Kind::Haproxy, Kind::Nginx, Kind::Envoy].into_iter().filter(|other| targets.contains(other))
    {
        let _ = write!(text, "\n| aya / {} |", other.as_str());
        for (_, column) in COLUMNS {
            let _ = write!(text, " {} |", ratio(figures, other, column).unwrap_or_default());
        }
        text.push_str(" |");
    }
    let foreign = figures.all("_foreign");
    let median = foreign.get(foreign.len() / 2).copied().unwrap_or(0.0);
    let most = foreign.last().copied().unwrap_or(0.0);
    let _ = write!(
        text,
        "\n\nCosts are median (minimum) over the rounds. Other jobs took {median:.2} of a core in the median phase, {most:.2} in the worst."
    );
    text
}

const PHASES: [&str; 10] = ["one", "many", "big", "huge", "rate", "paced", "twenty", "crowd", "flat", "open"];

fn cell(figures: &Figures, kind: Kind, column: &Column) -> String {
    let text = match column {
        Column::Cost(name) if kind == Kind::Direct && !name.contains("side") => None,
        Column::Cost(name) => figures
            .median(kind, name)
            .zip(figures.least(kind, name))
            .map(|(median, least)| format!("{} ({})", short(median), short(least))),
        Column::Value(name) => figures.median(kind, name).filter(|value| *value > 0.0).map(short),
        Column::Added(name) => added(figures, kind, name).map(short),
    };
    text.unwrap_or_else(|| "-".to_owned())
}

fn added(figures: &Figures, kind: Kind, name: &str) -> Option<f64> {
    Some(figures.median(kind, name)? - figures.median(Kind::Direct, name)?)
}

/// Only of costs: a ratio of two small differences says nothing.
fn ratio(figures: &Figures, other: Kind, column: &Column) -> Option<String> {
    match column {
        Column::Cost(name) | Column::Value(name) => {
            Some(format!("{:.2}", figures.median(Kind::Aya, name)? / figures.median(other, name)?))
        }
        Column::Added(_) => None,
    }
}

fn short(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
