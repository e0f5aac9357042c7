//! The demo as a whole, small and fast: a real farm in this process.

use std::cell::RefCell;

use super::*;

fn args(requests: usize) -> DemoArgs {
    DemoArgs { once: true, port: 0, requests, seed: 1, time_scale: 50.0, log: "off".to_owned() }
}

async fn perform_with(args: &DemoArgs, shutdown: CancellationToken) -> (anyhow::Result<()>, String) {
    let said = RefCell::new(String::new());
    let say = |text: &str| {
        let mut said = said.borrow_mut();
        said.push_str(text);
        said.push('\n');
    };
    let result = perform(args, Style { colour: false }, say, |_| {}, shutdown).await;
    (result, said.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_serves_both_passes_explains_one_decision_and_ends_well() {
    let (result, said) = perform_with(&args(12), CancellationToken::new()).await;
    result.expect(&said);
    for part in [
        "3 nodes, 13 simulated GPUs, 7 simulated engines at 50 x",
        "hopper-70b",
        "TTFT p99",
        "wall time x 50",
        "request demo-aya-000",
        "policy aya",
        "Went to ",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let row = |policy: &str| {
        let all = format!("all {policy}");
        said.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row[..].join(" ").starts_with(&all))
    };
    for policy in ["rr", "aya"] {
        assert_eq!(row(policy).map(|row| row[2..4].join(" ")).as_deref(), Some("12 0"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_stops_the_farm_before_the_summary() {
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let (result, said) = perform_with(&args(12), shutdown).await;
    assert_eq!(result.unwrap_err().to_string(), "interrupted before the summary");
    assert!(!said.contains("TTFT"), "{said}");
}
