#![cfg(test)]
//! A long time at 70 % load with faults all the while: nothing grows, nothing leaks, everything is accounted for.
//!
//! Only with `RUN_SLOW_TESTS=1`; `AYA_SOAK_MINUTES` says how long (60). The figures are printed.

use std::time::Duration;

use aya_tests::{Client, Farm, Metrics, aya, chat, is_slow_run, sim, streamed, until, with};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ENGINES: usize = 4;
const SEATS: u32 = 8;
/// Share of the time that is not measured: tables and rings fill.
const WARM_UP: f64 = 0.3;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Something happens to an engine or an agent this often. Each time is some events, which are kept up to a limit that
/// must not be the growth that is measured.
const EVENT_EVERY: Duration = Duration::from_secs(45);
/// What may be added per hour, and in a run that is shorter.
const GROWTH_MAX_MIB: f64 = 1.0;

#[expect(clippy::disallowed_methods, reason = "a setting of a test run, not of the program")]
fn minutes() -> Option<f64> {
    if is_slow_run() {
        return Some(std::env::var("AYA_SOAK_MINUTES").map_or(60.0, |text| text.parse().unwrap()));
    }
    eprintln!("SKIPPED: takes an hour; run with RUN_SLOW_TESTS=1");
    None
}

/// Numbers that look random; the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// One client of many kinds; each with an id and a tenant of its own.
async fn client(api: Client, at: u64, kind: u64) {
    let (id, tenant) = (format!("soak-{at}"), format!("tenant-{at}"));
    let headers = [("x-request-id", id.as_str()), ("x-aya-tenant", tenant.as_str())];
    let body = match kind {
        0..=54 => streamed(20),
        55..=97 => chat(20),
        98 => with(chat(20), &json!({"model": format!("model-{at}")})),
        _ => with(chat(20), &json!({"messages": "not a list"})),
    };
    let Ok(mut live) = api.try_open("POST", "/v1/chat/completions", &headers, body.to_string().into()).await
    else {
        return;
    };
    if kind < 5 {
        // Leaves in the middle.
        let _ = live.event().await;
        return;
    }
    // A stream may end with an error event, never with a broken connection.
    let _ = live.whole().await;
}

/// Harm of the kind that a farm sees in a year.
async fn harm(farm: &mut Farm, dice: &mut Dice) -> String {
    let at = usize::try_from(dice.roll(ENGINES as u64)).unwrap();
    let name = farm.engines[at].name.clone();
    match dice.roll(6) {
        0 => {
            farm.engines[at].kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            farm.engines[at].restart().await;
            set_shares(&farm.engines[at]).await;
            format!("{name} was killed")
        }
        1 => {
            farm.engines[at].fault(&json!({"stall": true})).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            farm.engines[at].fault(&json!({"stall": false})).await;
            format!("{name} stood still")
        }
        2 => {
            farm.engines[at].fault(&json!({"slow": 4.0})).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            farm.engines[at].fault(&json!({"slow": 1.0})).await;
            format!("{name} was slow")
        }
        3 => {
            farm.engines[at].fault(&json!({"die_mid_stream": 5, "die_next": 3})).await;
            format!("{name} broke off answers")
        }
        4 => {
            farm.engines[at].fault(&json!({"unhealthy": true})).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            farm.engines[at].fault(&json!({"unhealthy": false})).await;
            format!("{name} was not well")
        }
        _ => {
            farm.agents[at].process.kill();
            tokio::time::sleep(Duration::from_millis(500)).await;
            farm.agents[at].restart();
            format!("the agent of {name} was killed")
        }
    }
}

/// One request in a hundred fails, all the time.
async fn set_shares(engine: &aya_tests::Engine) {
    engine.fault(&json!({"503_ratio": 0.003, "500_ratio": 0.003, "error_in_stream_ratio": 0.004})).await;
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_h: f64,
    resident_mib: f64,
    files: usize,
    threads: u64,
    series: usize,
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
async fn sample(farm: &Farm, began: Instant) -> Sample {
    let process = &farm.scheduler.process;
    Sample {
        at_h: began.elapsed().as_secs_f64() / 3600.0,
        resident_mib: process.memory_bytes() as f64 / (1024.0 * 1024.0),
        files: process.open_files(),
        threads: process.threads(),
        series: farm
            .admin()
            .get("/metrics")
            .await
            .text()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count(),
    }
}

/// MiB per hour at equal load, by least squares over time and open files: the open files are the load, which a host that
/// does other things beside makes vary.
#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (time, load, memory) = (mean(|s| s.at_h), mean(|s| s.files as f64), mean(|s| s.resident_mib));
    let (mut tt, mut tl, mut ll, mut tm, mut lm) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for s in samples {
        let (t, l, m) = (s.at_h - time, s.files as f64 - load, s.resident_mib - memory);
        tt += t * t;
        tl += t * l;
        ll += l * l;
        tm += t * m;
        lm += l * m;
    }
    (tm * ll - lm * tl) / (tt * ll - tl * tl)
}

/// Requests per second that as many clients as there are places get through.
async fn capacity_per_s(farm: &Farm) -> f64 {
    let (mut clients, api, length) = (JoinSet::new(), farm.api(), Duration::from_secs(5));
    for _ in 0..ENGINES * usize::try_from(SEATS).unwrap() {
        clients.spawn(async move {
            let (began, mut done) = (Instant::now(), 0_u32);
            while began.elapsed() < length {
                let _ = api.chat(&chat(20)).await.ok();
                done += 1;
            }
            done
        });
    }
    f64::from(clients.join_all().await.iter().sum::<u32>()) / length.as_secs_f64()
}

#[tokio::test]
async fn l1_nothing_grows_at_seventy_percent_with_faults_all_the_while() {
    let Some(minutes) = minutes() else { return };
    let toml = "decisions.ring = 500\ntenants.header = \"x-aya-tenant\"\nlimits.models_max = 50\n[queue]\nwait_max = \"5s\"\n\
                [breaker]\nejection = \"1s\"\n[timeouts]\ninter_token = \"5s\"\nttft = \"5s\"";
    let mut plan = Farm::of(aya!()).scheduler(toml);
    for at in 1..=ENGINES {
        plan = plan.engine(sim(&format!("e{at}")).slow().max_sequences(SEATS));
    }
    let mut farm = plan.start().await;
    let capacity = capacity_per_s(&farm).await;
    for engine in &farm.engines {
        set_shares(engine).await;
    }
    let (began, length) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let (api, gap) = (farm.api(), Duration::from_secs_f64(1.0 / (0.7 * capacity)));
    let mut load = JoinSet::new();
    load.spawn(async move {
        let (mut asking, mut ticks, mut dice) = (JoinSet::new(), tokio::time::interval(gap), Dice(7));
        let mut at = 0;
        while began.elapsed() < length {
            ticks.tick().await;
            at += 1;
            asking.spawn(client(api, at, dice.roll(100)));
            while asking.try_join_next().is_some() {}
        }
        while asking.join_next().await.is_some() {}
        at
    });
    let (mut samples, mut dice, mut events) = (Vec::new(), Dice(11), 0);
    let (mut next_sample, mut next_event) = (Instant::now(), Instant::now() + EVENT_EVERY);
    while began.elapsed() < length {
        tokio::time::sleep_until(next_sample.min(next_event)).await;
        if Instant::now() >= next_event {
            let what = harm(&mut farm, &mut dice).await;
            events += 1;
            next_event = Instant::now() + EVENT_EVERY;
            println!("{:>6.0} s: {what}", began.elapsed().as_secs_f64());
        }
        if Instant::now() >= next_sample {
            samples.push(sample(&farm, began).await);
            next_sample += SAMPLE_EVERY;
            println!("{:>6.0} s: {:?}", began.elapsed().as_secs_f64(), samples.last().unwrap());
        }
    }
    let sent = load.join_next().await.unwrap().unwrap();
    report(&farm, &samples, sent, events, capacity).await;
}

async fn report(farm: &Farm, samples: &[Sample], sent: u64, events: u32, capacity: f64) {
    let end = samples.last().unwrap().at_h;
    let measured: Vec<Sample> = samples.iter().copied().filter(|s| s.at_h >= WARM_UP * end).collect();
    let (first, last) = (measured.first().unwrap(), measured.last().unwrap());
    let (slope, hours) = (slope(&measured), last.at_h - first.at_h);
    // Everything comes to rest: no request, lease, ticket or connection is left.
    let metrics: Metrics = until("every request to end", async || {
        let metrics = farm.scheduler.metrics().await;
        let open: Vec<f64> =
            ["aya_requests_in_flight", "aya_endpoint_inflight", "aya_queue_depth", "aya_client_connections"]
                .iter()
                .map(|name| metrics.sum(name))
                .collect();
        let all = metrics.sum("aya_requests_accepted_total");
        let (ended, recorded) =
            (metrics.sum("aya_requests_total"), metrics.sum("aya_decision_records_total"));
        let is_over =
            open.iter().all(|left| *left < 0.5) && (all - ended).abs() < 0.5 && (all - recorded).abs() < 0.5;
        if is_over { Ok(metrics) } else { Err((open, all, ended, recorded)) }
    })
    .await;
    let rest = sample(farm, Instant::now()).await;
    let outcomes: Vec<String> =
        ["completed", "client_error", "upstream_error", "truncated", "client_cancelled"]
            .iter()
            .map(|outcome| {
                format!("{outcome} {}", metrics.with("aya_requests_total", &format!("outcome=\"{outcome}\"")))
            })
            .collect();
    println!(
        "L1: {sent} requests in {:.1} min at 70 % of {capacity:.0}/s, {events} events: {}; resident {:.1} -> {:.1} MiB, \
         {slope:+.2} MiB/h at equal load; files {} -> {} (at rest {}), threads {} -> {}, series {} -> {}",
        end * 60.0,
        outcomes.join(", "),
        first.resident_mib,
        last.resident_mib,
        first.files,
        last.files,
        rest.files,
        first.threads,
        last.threads,
        first.series,
        last.series,
    );
    assert!(slope * hours < GROWTH_MAX_MIB * hours.max(1.0), "{slope} MiB/h for {hours} h");
    assert!(last.threads <= first.threads + 2, "{} threads after {}", last.threads, first.threads);
    assert!(last.series <= first.series + 20, "{} series after {}", last.series, first.series);
    let busy = measured.iter().map(|s| s.files).max().unwrap();
    assert!(rest.files <= busy, "{} files at rest, {busy} under load", rest.files);
    let log = farm.scheduler.process.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(metrics.sum("aya_decision_records_dropped_total") < 0.5);
}
