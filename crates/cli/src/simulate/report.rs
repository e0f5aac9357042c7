//! `aya simulate --report out.html`: the comparison as one self-contained page, without a script and without the
//! network. Charts are inline SVG; colours follow the reader's light or dark setting.

use std::fmt::Write as _;

use aya_sim_farm::{Outcome, Results};

/// Columns of a heat map.
const BINS: usize = 96;
/// Rows of a heat map; of a larger fleet the first so many engines are shown.
const ROWS_MAX: usize = 64;
/// Points of a distribution's line.
const POINTS: usize = 120;
/// Colours for lines, from the CSS below; further policies begin anew, dashed.
const COLOURS: usize = 8;
/// A chart, in its own units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 12.0;

/// One policy's run.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) policy: String,
    pub(super) results: Results,
    /// Requests per second and goodput in percent, by rising rate.
    pub(super) sweep: Vec<(f64, f64)>,
}

/// The page. `engines` names the endpoints, `facts` say how it was made, `table` is the comparison in text.
pub(super) fn page(facts: &str, table: &[String], engines: &[String], runs: &[Shown]) -> String {
    let mut body = format!("<h1>aya simulate</h1><p>{}</p>", escape(facts));
    let _ = write!(body, "<pre>{}</pre>", escape(&table.join("\n")));
    body.push_str("<h2>Time to the first token</h2>");
    let lines: Vec<Line<'_>> =
        runs.iter().map(|run| Line { name: &run.policy, points: distribution(&run.results) }).collect();
    let most = lines.iter().filter_map(|line| line.points.last()).map(|(x, _)| *x).fold(0.1, f64::max);
    body.push_str(&chart(
        &lines,
        &Axis { label: "seconds to the first token (logarithmic)", from: 0.01, to: most, logarithmic: true },
        &Axis { label: "% of answered requests", from: 0.0, to: 100.0, logarithmic: false },
    ));
    if runs.iter().any(|run| !run.sweep.is_empty()) {
        body.push_str("<h2>Goodput by rate</h2>");
        let lines: Vec<Line<'_>> =
            runs.iter().map(|run| Line { name: &run.policy, points: run.sweep.clone() }).collect();
        let rates = || lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
        let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        body.push_str(&chart(
            &lines,
            &Axis { label: "requests per second", from: least, to: most, logarithmic: false },
            &Axis {
                label: "% of requests that met both objectives",
                from: 0.0,
                to: 100.0,
                logarithmic: false,
            },
        ));
    }
    body.push_str("<h2>Requests in flight on each endpoint</h2>");
    let maps: Vec<Vec<Vec<f64>>> = runs.iter().map(|run| load(&run.results, engines.len())).collect();
    let most = maps.iter().flatten().flatten().copied().fold(1.0, f64::max);
    for (run, map) in runs.iter().zip(&maps) {
        body.push_str(&heat_map(&run.policy, engines, map, run.results.duration_s, most));
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>aya simulate</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--bg:#fff;--fg:#1c1f24;--soft:#667;--grid:#e3e5ea;--heat:#c2410c;\
--c0:#2563eb;--c1:#dc2626;--c2:#059669;--c3:#9333ea;--c4:#d97706;--c5:#0891b2;--c6:#be185d;--c7:#4d7c0f}\
@media(prefers-color-scheme:dark){:root{--bg:#14161a;--fg:#e6e8ec;--soft:#9aa1ad;--grid:#2b2f37;--heat:#fb923c;\
--c0:#60a5fa;--c1:#f87171;--c2:#34d399;--c3:#c084fc;--c4:#fbbf24;--c5:#22d3ee;--c6:#f472b6;--c7:#a3e635}}\
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2em auto;padding:0 1em}\
h2{margin:2em 0 .3em;font-size:1.1em}h3{margin:1em 0 .2em;font-size:1em}pre{overflow-x:auto;font-size:12px;line-height:1.4}\
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:12px system-ui,sans-serif}\
.g{stroke:var(--grid)}.l{fill:none;stroke-width:2}.k{display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin:.2em 0 .6em;font-size:13px}\
.k i{display:inline-block;width:18px;height:0;border-top:3px solid;vertical-align:middle;margin-right:.4em}";

#[derive(Debug)]
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

#[derive(Debug)]
struct Axis {
    label: &'static str,
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Axis {
    /// 0 to 1 along the axis.
    fn share(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln().max(1e-9)
        } else {
            (value - self.from) / (self.to - self.from).max(1e-9)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values within the axis.
    fn marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let mut marks = Vec::new();
            let mut decade = self.from;
            while decade <= self.to && marks.len() < 40 {
                marks.extend([1.0, 2.0, 5.0].map(|step| decade * step).into_iter().filter(|m| *m <= self.to));
                decade *= 10.0;
            }
            return marks;
        }
        let rough = (self.to - self.from).max(1e-9) / 5.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].map(|n| n * decade).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let mut marks = Vec::new();
        let mut mark = (self.from / step).ceil() * step;
        while mark <= self.to + step * 1e-6 && marks.len() < 40 {
            marks.push(mark);
            mark += step;
        }
        marks
    }
}

/// Share of answers in percent by seconds to the first token.
fn distribution(results: &Results) -> Vec<(f64, f64)> {
    let answered = results.requests.iter().filter(|r| r.outcome == Outcome::Completed);
    let mut seconds: Vec<f64> = answered.map(|r| r.ttft_s).collect();
    seconds.sort_by(f64::total_cmp);
    let last = seconds.len().saturating_sub(1);
    let at = |point: usize| seconds.get(last * point / POINTS).map(|s| (*s, percent(point, POINTS)));
    (0..=POINTS).filter_map(at).collect()
}

/// Requests in flight, on average over each bin of time, by engine.
fn load(results: &Results, engines: usize) -> Vec<Vec<f64>> {
    let mut map = vec![vec![0.0; BINS]; engines.min(ROWS_MAX)];
    let bin_s = (results.duration_s / count(BINS)).max(1e-9);
    for request in &results.requests {
        let (Some(at), Some(sent)) = (request.endpoint, request.sent_s) else { continue };
        let ended = request.arrived_s + request.e2e_s;
        let Some(row) = map.get_mut(at) else { continue };
        for (bin, cell) in row.iter_mut().enumerate() {
            let (from, to) = (count(bin) * bin_s, count(bin + 1) * bin_s);
            *cell += (ended.min(to) - sent.max(from)).max(0.0) / bin_s;
        }
    }
    map
}

fn chart(lines: &[Line<'_>], x: &Axis, y: &Axis) -> String {
    let (wide, high) = (WIDTH - LEFT - 12.0, HEIGHT - TOP - BOTTOM);
    let (px, py) = (|v: f64| LEFT + x.share(v) * wide, |v: f64| TOP + (1.0 - y.share(v)) * high);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", x.label);
    for mark in y.marks() {
        let at = py(mark);
        let _ = write!(
            svg,
            "<line class=\"g\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + wide,
            LEFT - 6.0,
            at + 4.0,
            short(mark)
        );
    }
    for mark in x.marks() {
        let at = px(mark);
        let _ = write!(
            svg,
            "<line class=\"g\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            TOP + high,
            TOP + high + 16.0,
            short(mark)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        LEFT + wide / 2.0,
        HEIGHT - 8.0,
        x.label,
        TOP + high / 2.0,
        y.label
    );
    let mut key = "<div class=\"k\">".to_owned();
    for (at, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(vx, vy)| format!("{:.1},{:.1}", px(*vx), py(*vy))).collect();
        let dash = if at < COLOURS { "" } else { " stroke-dasharray=\"5 3\"" };
        let colour = at % COLOURS;
        let _ = write!(
            svg,
            "<polyline class=\"l\" style=\"stroke:var(--c{colour})\"{dash} points=\"{}\"><title>{}</title></polyline>",
            points.join(" "),
            escape(line.name)
        );
        let _ =
            write!(key, "<span><i style=\"border-color:var(--c{colour})\"></i>{}</span>", escape(line.name));
    }
    format!("{svg}</svg>{key}</div>")
}

fn heat_map(policy: &str, engines: &[String], map: &[Vec<f64>], duration_s: f64, most: f64) -> String {
    const ROW: f64 = 14.0;
    const NAMES: f64 = 110.0;
    let wide = (WIDTH - NAMES - 12.0) / count(BINS);
    let high = ROW * count(map.len());
    let mut svg =
        format!("<h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\">", escape(policy), high + 40.0);
    for (at, (row, name)) in map.iter().zip(engines).enumerate() {
        let top = ROW * count(at);
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 6.0,
            top + 11.0,
            escape(name)
        );
        for (bin, value) in row.iter().enumerate().filter(|(_, value)| **value > 0.005 * most) {
            let _ = write!(
                svg,
                "<rect x=\"{:.1}\" y=\"{top:.0}\" width=\"{:.1}\" height=\"13\" fill=\"var(--heat)\" fill-opacity=\"{:.2}\"/>",
                NAMES + wide * count(bin),
                wide,
                (value / most).sqrt()
            );
        }
    }
    let axis = Axis { label: "", from: 0.0, to: duration_s, logarithmic: false };
    for mark in axis.marks() {
        let at = NAMES + axis.share(mark) * wide * count(BINS);
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            high + 15.0,
            short(mark)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">seconds; the fullest colour is {most:.0} requests in flight, \
         an empty cell none</text></svg>",
        NAMES + wide * count(BINS) / 2.0,
        high + 33.0
    );
    svg
}

/// A number as an axis shows it.
fn short(value: f64) -> String {
    let text = if value.abs() < 1.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * count(part) / count(whole.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a page")]
const fn count(n: usize) -> f64 {
    n as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use aya_sim_farm::RequestRecord;

    use super::*;

    #[test]
    fn a_page_holds_every_chart_and_needs_nothing_else() {
        let record = |at: f64| RequestRecord {
            outcome: Outcome::Completed,
            arrived_s: at,
            endpoint: Some(0),
            sent_s: Some(at),
            ttft_s: 0.1 + at / 10.0,
            e2e_s: 2.0,
            prompt_tokens: 1,
            output_tokens: 2,
        };
        let results = Results {
            requests: (0..9).map(|at| record(f64::from(at))).collect(),
            duration_s: 11.0,
            decisions: 9,
            preemptions: 0,
            prefix_hits: 0,
            prefix_queries: 0,
        };
        let shown = Shown { policy: "a<b".to_owned(), results, sweep: vec![(1.0, 99.0), (2.0, 50.0)] };
        let page = page("facts", &["POLICY".to_owned()], &["0 l4".to_owned()], &[shown]);
        for part in
            ["prefers-color-scheme", "requests per second", "seconds to the first token", "0 l4", "a&lt;b"]
        {
            assert!(page.contains(part), "{part}");
        }
        for foreign in ["http", "src=", "<script", "NaN", "inf,"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn axes_are_marked_at_round_numbers() {
        let marks = |from, to, logarithmic| Axis { label: "", from, to, logarithmic }.marks();
        assert_eq!(marks(0.0, 100.0, false), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let log: Vec<String> = marks(0.01, 1.0, true).into_iter().map(short).collect();
        assert_eq!(log.join(" "), "0.01 0.02 0.05 0.1 0.2 0.5 1");
    }
}
