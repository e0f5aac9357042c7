#![cfg(test)]
//! F10: names that clients make up become no series, whatever they put them into.

use std::fmt::Write as _;
use std::time::Duration;

use aya_tests::{Farm, MODEL, Raw, aya, chat, is_slow_run, sim};
use tokio::time::Instant;

/// Names of each kind; a slow run has a million.
fn names() -> usize {
    if is_slow_run() { 1_000_000 } else { 4_000 }
}

const BATCH: usize = 100;
/// By then everything that keeps some of what came last is full: of the records, twice.
const FULL: usize = 2_000;

#[tokio::test]
async fn f10_names_of_clients_become_no_series() {
    let toml = "decisions.ring = 1000\ntenants.header = \"x-aya-tenant\"\ntenants.tenants_max = 20\nlimits.models_max = 20";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    let _ = farm.api().chat(&chat(1)).await.ok();
    let series_before = farm.admin().get("/metrics").await.ok().text().lines().count();
    let mut raw = Raw::connect(farm.scheduler.api).await;
    let (mut sent, mut answered, mut full) = (0, 0, 0);
    while sent < names() {
        if sent == FULL {
            full = farm.scheduler.process.memory_bytes();
        }
        let mut batch = String::new();
        for at in sent..sent + BATCH {
            let body = format!("{{\"model\":\"made-up-{at}\",\"messages\":[]}}");
            let fields = format!("Host: a\r\nx-aya-tenant: tenant-{at}\r\nUser-Agent: agent-{at}\r\n");
            let length = body.len();
            write!(
                batch,
                "POST /v1/chat/completions HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            write!(batch, "GET /v1/models/path-{at} HTTP/1.1\r\n{fields}\r\n").unwrap();
        }
        raw.send(batch.as_bytes()).await;
        let answers = raw.read_answers(2 * BATCH, "HTTP/1.1 404 ").await;
        answered += answers;
        sent += BATCH;
    }
    assert_eq!(answered, 2 * sent, "every one of them is refused by name");
    let grown = farm.scheduler.process.memory_bytes().saturating_sub(full);
    println!("F10: {sent} names of each kind, {grown} bytes more than after {FULL}");
    assert!(grown < 2 * 1024 * 1024, "{grown} bytes more after {sent} names than after {FULL}");
    // Tenants are counted only once they have asked for a model that is there.
    for at in 0..60 {
        let headers = [("x-aya-tenant", &*format!("tenant-{at}"))];
        let _ = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await.ok();
    }
    drop(raw);
    let asked = Instant::now();
    let page = farm.admin().get("/metrics").await.ok();
    let took = asked.elapsed();
    assert!(page.body.len() < 1024 * 1024 && took < Duration::from_millis(500), "{took:?}");
    let text = page.text();
    for made_up in ["made-up-", "agent-", "path-"] {
        assert!(!text.contains(made_up), "{made_up} is in the metrics");
    }
    assert!(
        text.matches("tenant=\"tenant-").count() < 20 * 40 && text.contains("tenant=\"other\""),
        "{text}"
    );
    assert!(text.contains(MODEL) && text.contains("model=\"other\""), "{text}");
    let series = text.lines().count();
    assert!(series < series_before + 20 * 60, "{series_before} lines became {series}");
}
