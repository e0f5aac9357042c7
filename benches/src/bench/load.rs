//! A load generator for OpenAI-compatible endpoints. One line of JSON on stdout.
//!
//! `closed`: so many connections, each asking again as soon as it is answered. `rate`: the same connections ask in turn,
//! so many times a second whether or not they are answered. `hold`: so many connections, opened over a ramp, each doing
//! a fixed number of streams.

mod connection;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use aya_domain::MonoTime;
use aya_observe::Clock;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

use self::connection::Connection;
use super::engines::MODEL;
use super::process::{own_cpu_s, pause};

/// Latencies kept for the quantiles; more are counted but not timed.
const SAMPLES_MAX: usize = 1 << 20;
/// A request that takes longer has failed.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Bytes of a prompt that only asks whether somebody answers.
const SMALL: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Closed,
    Rate,
    Hold,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    mode: Mode,
    #[arg(long)]
    port: u16,
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// How long `closed` and `rate` last.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Requests per second of `rate`, of all connections together.
    #[arg(long, default_value_t = 500)]
    per_second: u32,
    /// Streams of each connection of `hold`.
    #[arg(long, default_value_t = 1)]
    each: u32,
    /// Over how long `hold` opens its connections.
    #[arg(long, default_value_t = 0)]
    ramp_ms: u64,
    /// Bytes of prompt.
    #[arg(long, default_value_t = 1024)]
    body: usize,
    #[arg(long)]
    stream: bool,
}

impl Options {
    /// When a connection's next request is due after the start, if it has a time at all.
    fn due(&self, connection: u32, done: u32) -> Option<Duration> {
        let turn = f64::from(connection) + f64::from(done) * f64::from(self.connections);
        let after = turn / f64::from(self.per_second.max(1));
        (self.mode == Mode::Rate).then(|| Duration::from_secs_f64(after))
    }
}

/// What a run found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) seconds: f64,
    /// Answers with status 200.
    pub(crate) ok: u32,
    pub(crate) errors: u32,
    pub(crate) first_error: Option<String>,
    /// Events of all streams.
    pub(crate) events: u32,
    pub(crate) open_max: u32,
    /// CPU of the load generator itself.
    pub(crate) cpu_s: f64,
    /// From the request's first byte to the answer's last.
    pub(crate) latency: Quantiles,
    /// From the request's first byte to the answer's first.
    pub(crate) first_byte: Quantiles,
    /// Between two reads of one stream that brought events.
    pub(crate) gap: Quantiles,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

#[derive(Debug, Default)]
struct Tally {
    found: Found,
    open: u32,
    latency: Vec<Duration>,
    first_byte: Vec<Duration>,
    gaps: Vec<Duration>,
}

/// Loads the endpoint and prints what was found.
pub(crate) async fn run(options: Options) -> Result<()> {
    let streaming = options.stream || options.mode == Mode::Hold;
    let plan = Rc::new(Plan {
        request: message(options.port, options.body, streaming),
        streaming,
        clock: Clock::start(),
        start: Instant::now(),
        tally: RefCell::new(Tally::default()),
        options,
    });
    let local = LocalSet::new();
    let mut workers = JoinSet::new();
    for nth in 0..plan.options.connections {
        workers.spawn_local_on(worker(Rc::clone(&plan), nth), &local);
    }
    local.run_until(async { while workers.join_next().await.is_some() {} }).await;
    let mut tally = plan.tally.take();
    let found = Found {
        seconds: plan.start.elapsed().as_secs_f64(),
        cpu_s: own_cpu_s(),
        latency: quantiles(&mut tally.latency),
        first_byte: quantiles(&mut tally.first_byte),
        gap: quantiles(&mut tally.gaps),
        ..tally.found
    };
    crate::print(&serde_json::to_string(&found)?);
    Ok(())
}

fn quantiles(samples: &mut [Duration]) -> Quantiles {
    samples.sort_unstable();
    let at = |percent: usize| {
        let sample = samples.get(samples.len().saturating_sub(1) * percent / 100);
        sample.map_or(0.0, |sample| sample.as_secs_f64() * 1e6)
    };
    Quantiles { p50_us: at(50), p99_us: at(99) }
}

/// What all connections of a run share.
struct Plan {
    options: Options,
    request: Vec<u8>,
    streaming: bool,
    clock: Clock,
    start: Instant,
    tally: RefCell<Tally>,
}

impl Plan {
    /// Events came, after those of `last`.
    fn came(&self, events: u32, last: &mut Option<MonoTime>) {
        let now = self.clock.now();
        let tally = &mut *self.tally.borrow_mut();
        tally.found.events += events;
        if let Some(before) = last.replace(now)
            && tally.gaps.len() < SAMPLES_MAX
        {
            tally.gaps.push(now.since(before));
        }
    }
}

/// A request with a prompt of so many bytes.
fn message(port: u16, prompt: usize, streaming: bool) -> Vec<u8> {
    let sentence = "The quick brown fox jumps over the lazy dog. ";
    let prompt: String = sentence.chars().cycle().take(prompt.max(1)).collect();
    let stream = if streaming { r#""stream":true,"# } else { "" };
    let body = format!(
        r#"{{"model":"{MODEL}",{stream}"max_tokens":128,"temperature":0.7,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nAccept: */*\r\nUser-Agent: aya-bench\r\nContent-Length: {}\r\n\r\n",
        port,
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// One small request on a connection of its own, answered with status 200.
pub(crate) async fn ask_once(port: u16) -> Result<()> {
    let mut connection = Connection::open(port).await?;
    connection.send(&message(port, SMALL, false)).await?;
    let head = timeout(REQUEST_MAX, connection.head()).await??;
    ensure!(head.status == 200, "status {}", head.status);
    connection.body(head.framing, |_| ()).await
}

async fn worker(plan: Rc<Plan>, nth: u32) {
    let options = &plan.options;
    if options.ramp_ms > 0 {
        let share = u64::from(nth) * 1_000 * options.ramp_ms / u64::from(options.connections.max(1));
        sleep_until(plan.start + Duration::from_micros(share)).await;
    }
    let end = plan.start + Duration::from_secs_f64(options.seconds);
    let mut connection = None;
    let mut done = 0;
    loop {
        let due = options.due(nth, done).map(|after| plan.start + after);
        let goes_on = match options.mode {
            Mode::Closed => Instant::now() < end,
            Mode::Rate => due.is_some_and(|due| due < end),
            Mode::Hold => done < options.each,
        };
        if !goes_on {
            return;
        }
        if let Some(due) = due {
            sleep_until(due).await;
        }
        done += 1;
        let result = timeout(REQUEST_MAX, one(&plan, &mut connection)).await;
        let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {REQUEST_MAX:?}")));
        if let Err(error) = result {
            connection = None;
            let found = &mut plan.tally.borrow_mut().found;
            found.errors += 1;
            found.first_error.get_or_insert(format!("{error:#}"));
        }
        if connection.is_none() {
            // A server that refuses is not asked in a tight loop.
            pause(Duration::from_millis(5)).await;
        }
    }
}

/// One request on the kept connection, or on a new one.
async fn one(plan: &Plan, kept: &mut Option<Connection>) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(plan.options.port).await?,
    };
    let sent = plan.clock.now();
    connection.send(&plan.request).await?;
    let head = connection.head().await?;
    ensure!(head.status == 200, "status {}", head.status);
    let first = plan.clock.now();
    let opened = plan.streaming.then(|| Opened::new(plan));
    let mut last = None;
    connection.body(head.framing, |events| plan.came(events, &mut last)).await?;
    drop(opened);
    let end = plan.clock.now();
    let tally = &mut *plan.tally.borrow_mut();
    tally.found.ok += 1;
    if tally.latency.len() < SAMPLES_MAX {
        tally.latency.push(end.since(sent));
        tally.first_byte.push(first.since(sent));
    }
    if head.keep {
        *kept = Some(connection);
    }
    Ok(())
}

/// Counts a stream as open.
struct Opened<'p>(&'p Plan);

impl<'p> Opened<'p> {
    fn new(plan: &'p Plan) -> Self {
        let tally = &mut *plan.tally.borrow_mut();
        tally.open += 1;
        tally.found.open_max = tally.found.open_max.max(tally.open);
        Self(plan)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.tally.borrow_mut().open -= 1;
    }
}
