//! The passes side by side. Every number was measured by the demo's client in this run.

use std::time::Duration;

use crate::demo::farm;
use crate::demo::load::Sample;
use crate::demo::workload::{LARGE, SMALL};
use crate::table::{Side, Table};
use crate::text::{ABSENT, Style, ms};

/// Failures that are shown in full.
const FAILURES_SHOWN: usize = 5;

/// What a careful reader has to know about the comparison.
const NOTES: [&str; 2] = [
    "rr takes turns among the endpoints that pass the same health, fit and backlog filters as aya's.",
    "It goes first, so aya has seen how long answers are; prompts differ in text, so no pass profits from a cache.",
];

/// One pass and what it is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured<'a> {
    pub(crate) name: &'static str,
    pub(crate) samples: &'a [Sample],
}

/// Both passes of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison<'a> {
    pub(crate) baseline: Measured<'a>,
    pub(crate) ours: Measured<'a>,
    /// Modelled seconds per real second.
    pub(crate) time_scale: f64,
}

/// The value at a quantile from 0 to 1 by nearest rank; `None` without values. Sorts.
pub(crate) fn percentile(values: &mut [f64], quantile: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (quantile * count(values.len())).ceil().max(1.0);
    values.iter().zip(1_u32..).find(|(_, at)| f64::from(*at) >= rank).map(|(value, _)| *value)
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

impl Measured<'_> {
    fn failures(&self) -> usize {
        self.samples.iter().filter(|sample| sample.result.is_err()).count()
    }

    fn placed_on(&self, endpoint: &str) -> usize {
        let answered = self.samples.iter().filter_map(|sample| sample.result.as_ref().ok());
        answered.filter(|streamed| streamed.endpoint == endpoint).count()
    }

    fn of<'a>(&'a self, model: Option<&'a str>) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| model.is_none_or(|model| sample.model == model))
    }
}

impl Comparison<'_> {
    /// Requests of both passes that got no complete answer.
    pub(crate) fn failures(&self) -> usize {
        self.baseline.failures() + self.ours.failures()
    }

    /// Both tables and what they come down to.
    pub(crate) fn lines(&self, style: Style) -> Vec<String> {
        let mut lines = vec![style.strong(&self.verdict()), String::new()];
        lines.push("where the answers came from (requests)".to_owned());
        lines.extend(indented(self.placements()));
        lines.extend([
            String::new(),
            format!(
                "latency in modelled time (measured at the client, wall time x {}), nearest-rank percentiles",
                self.time_scale
            ),
        ]);
        lines.extend(indented(self.latencies()));
        lines.extend(NOTES.map(|note| format!("  {note}")));
        lines.extend(self.errors());
        lines
    }

    fn placements(&self) -> Vec<String> {
        let mut table = Table::new(&[
            ("ENDPOINT", Side::Left),
            ("NODE", Side::Left),
            ("GPUS", Side::Left),
            ("MODEL", Side::Left),
            (self.baseline.name, Side::Right),
            (self.ours.name, Side::Right),
        ]);
        for (node, engine) in farm::engines() {
            let Some(hardware) = engine.hardware() else { continue };
            table.row(&[
                engine.name.to_owned(),
                node.name.to_owned(),
                format!("{} x {}", hardware.gpus_per_engine, short(hardware.gpu_name)),
                hardware.model.to_owned(),
                self.baseline.placed_on(engine.name).to_string(),
                self.ours.placed_on(engine.name).to_string(),
            ]);
        }
        table.lines()
    }

    fn latencies(&self) -> Vec<String> {
        let mut table = Table::new(&[
            ("MODEL", Side::Left),
            ("POLICY", Side::Left),
            ("REQUESTS", Side::Right),
            ("FAILED", Side::Right),
            ("TTFT p50", Side::Right),
            ("TTFT p99", Side::Right),
            ("E2E p50", Side::Right),
            ("E2E p99", Side::Right),
        ]);
        for model in [Some(SMALL), Some(LARGE), None] {
            for pass in [&self.baseline, &self.ours] {
                let at = |of, quantile| self.at(pass, model, of, quantile).map_or(ABSENT.to_owned(), ms);
                table.row(&[
                    model.unwrap_or("all").to_owned(),
                    pass.name.to_owned(),
                    pass.of(model).count().to_string(),
                    pass.of(model).filter(|sample| sample.result.is_err()).count().to_string(),
                    at(Measure::Ttft, 0.5),
                    at(Measure::Ttft, 0.99),
                    at(Measure::E2e, 0.5),
                    at(Measure::E2e, 0.99),
                ]);
            }
        }
        table.lines()
    }

    /// Modelled milliseconds at a quantile.
    fn at(&self, pass: &Measured<'_>, model: Option<&str>, of: Measure, quantile: f64) -> Option<f64> {
        let answered = pass.of(model).filter_map(|sample| sample.result.as_ref().ok());
        let pick = |streamed: &crate::demo::client::Streamed| match of {
            Measure::Ttft => streamed.ttft,
            Measure::E2e => streamed.e2e,
        };
        let mut values: Vec<f64> = answered.map(|s| modelled_ms(pick(s), self.time_scale)).collect();
        percentile(&mut values, quantile)
    }

    /// One sentence that says what was found, whichever way it went.
    fn verdict(&self) -> String {
        let both = |of| (self.at(&self.baseline, None, of, 0.99), self.at(&self.ours, None, of, 0.99));
        let part = |name: &str, of| match both(of) {
            (Some(theirs), Some(ours)) => {
                format!("{name} p99 {} instead of {} ({})", ms(ours), ms(theirs), ratio(ours, theirs))
            }
            _ => format!("{name} was not measured"),
        };
        format!(
            "With {} instead of {}: {}; {}.",
            self.ours.name,
            self.baseline.name,
            part("TTFT", Measure::Ttft),
            part("E2E", Measure::E2e)
        )
    }

    fn errors(&self) -> Vec<String> {
        let failed = |pass: &Measured<'_>| {
            let name = pass.name;
            let failed = pass.samples.iter().filter_map(|sample| sample.result.as_ref().err());
            failed.map(|error| format!("  failed ({name}): {error}")).collect::<Vec<_>>()
        };
        let all: Vec<String> = [&self.baseline, &self.ours].into_iter().flat_map(failed).collect();
        let hidden = all.len().saturating_sub(FAILURES_SHOWN);
        let more = (hidden > 0).then(|| format!("  and {hidden} more"));
        all.into_iter().take(FAILURES_SHOWN).chain(more).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Measure {
    Ttft,
    E2e,
}

/// `5.2 x shorter` or `1.3 x longer`.
fn ratio(ours: f64, theirs: f64) -> String {
    if ours <= 0.0 || theirs <= 0.0 {
        return "no ratio".to_owned();
    }
    let (factor, word) = if ours <= theirs { (theirs / ours, "shorter") } else { (ours / theirs, "longer") };
    if factor < 1.05 { "about the same".to_owned() } else { format!("{factor:.1} x {word}") }
}

fn modelled_ms(real: Duration, time_scale: f64) -> f64 {
    real.as_secs_f64() * time_scale * 1e3
}

/// A GPU's name without what every one of them has.
pub(crate) fn short(gpu_name: &str) -> &str {
    gpu_name.strip_prefix("NVIDIA ").unwrap_or(gpu_name)
}

fn indented(lines: Vec<String>) -> impl Iterator<Item = String> {
    lines.into_iter().map(|line| format!("  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client::Streamed;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (values, quantile, expect) in [
            (vec![], 0.5, None),
            (vec![7.0], 0.99, Some(7.0)),
            (vec![3.0, 1.0, 2.0], 0.5, Some(2.0)),
            (vec![2.0, 1.0], 0.5, Some(1.0)),
            (hundred.clone(), 0.99, Some(99.0)),
            (hundred.clone(), 1.0, Some(100.0)),
            (hundred, 0.0, Some(1.0)),
        ] {
            assert_eq!(percentile(&mut values.clone(), quantile), expect, "{values:?} at {quantile}");
        }
    }

    #[test]
    fn a_ratio_says_which_way_it_went() {
        for (ours, theirs, expect) in [
            (1.0, 5.0, "5.0 x shorter"),
            (3.0, 2.0, "1.5 x longer"),
            (1.0, 1.01, "about the same"),
            (0.0, 1.0, "no ratio"),
        ] {
            assert_eq!(ratio(ours, theirs), expect);
        }
    }

    fn answered(model: &'static str, endpoint: &str, ms: u64) -> Sample {
        let streamed = Streamed {
            endpoint: endpoint.to_owned(),
            ttft: Duration::from_millis(ms),
            e2e: Duration::from_millis(10 * ms),
        };
        Sample { model, result: Ok(streamed) }
    }

    #[test]
    fn the_summary_counts_places_scales_time_and_names_failures() {
        let rr =
            [answered(SMALL, "edge-l4-a", 100), Sample { model: LARGE, result: Err("it broke".to_owned()) }];
        let aya = [answered(SMALL, "hopper-8b", 20), answered(LARGE, "hopper-70b", 25)];
        let comparison = Comparison {
            baseline: Measured { name: "rr", samples: &rr },
            ours: Measured { name: "aya", samples: &aya },
            time_scale: 4.0,
        };
        let text = comparison.lines(Style { colour: false }).join("\n");
        for line in [
            "  edge-l4-a   edge    1 x L4              llama-3.1-8b    1    0",
            "  hopper-70b  hopper  4 x H100 80GB HBM3  llama-3.1-70b   0    1",
            "  llama-3.1-8b   rr             1       0    400 ms    400 ms   4.00 s   4.00 s",
            "  llama-3.1-70b  rr             1       1         -         -        -        -",
            "TTFT p99 100 ms instead of 400 ms (4.0 x shorter)",
            "  failed (rr): it broke",
            "wall time x 4)",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert_eq!(comparison.failures(), 1);
    }
}
