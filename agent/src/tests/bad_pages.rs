//! What an engine's metrics page may be, and what becomes of it: never a number, always a state with its reason.

use aya_domain::{Signal, SignalState};

use super::*;

struct Case {
    name: &'static str,
    reply: Reply,
    /// Of `running`.
    state: SignalState,
    reason: &'static str,
}

fn missing(name: &'static str, reply: Reply, reason: &'static str) -> Case {
    Case { name, reply, state: SignalState::Missing, reason }
}

fn cases() -> Vec<Case> {
    const HUNDRED_MB: usize = 100 << 20;
    let running = |value: &str| page(&format!("vllm:num_requests_running {value}\nvllm:other 1\n"));
    vec![
        missing("100 MB", Reply::Huge(HUNDRED_MB), "the page is larger than the limit"),
        missing("endless", Reply::Endless, "the page is larger than the limit"),
        missing("HTML", page("<html>hello"), "the page is HTML: is this the right kind of engine?"),
        missing("JSON", page("{\"running\": 3}\n"), "the page has no metrics in it"),
        missing("empty", page(""), "the page has no metrics in it"),
        missing(
            "half a line",
            page("vllm:other 1\nvllm:num_requests_running 1"),
            "the page does not have it",
        ),
        missing("NaN", running("NaN"), "not a finite number"),
        missing("negative", running("-3"), "negative"),
        missing("u64::MAX", running("18446744073709551615"), "impossibly large"),
        missing("a text", running("many"), "malformed"),
        missing("a fraction", running("1.5"), "malformed"),
        missing(
            "another engine",
            page("llamacpp:requests_processing 2\n"),
            "the metrics page has nothing of vllm: is vllm the right kind of engine?",
        ),
        missing(
            "no such page",
            Reply::Page(404, Vec::new()),
            "the page answers 404: is vllm the right kind of engine?",
        ),
        missing("a key", Reply::Page(401, Vec::new()), "the page wants an API key (401 or 403)"),
    ]
}

fn state(report: &Report, signal: Signal) -> Option<(SignalState, Option<&str>)> {
    let told = report.engines.first()?.signals.iter().find(|told| told.signal == signal)?;
    Some((told.state, told.reason.as_deref()))
}

#[tokio::test]
async fn a_bad_metrics_page_costs_its_readings_and_is_told_with_its_reason() {
    let (mut scheduler, engine) = (FakeScheduler::start().await, vllm().await);
    let agent = Running::start(&[&scheduler], &[("vllm", &engine)], "").await;
    let parsed = Some((SignalState::Parsed, None));
    for case in cases() {
        engine.set("/metrics", case.reply);
        let expect = Some((case.state, Some(case.reason)));
        let report = scheduler.until(case.name, |report| state(report, Signal::Running) == expect).await;
        assert!(is_ready(&report), "{}: the engine itself is well", case.name);
        assert_eq!(report.engines[0].running, None, "{}: never a number", case.name);
        assert_eq!(state(&report, Signal::Models), parsed, "{}: other pages are read", case.name);
        engine.set("/metrics", page(include_str!("../../../fixtures/engines/vllm/metrics_under_20.txt")));
        scheduler.until("read again", |report| state(report, Signal::Running) == parsed).await;
    }
    let metrics = agent.admin("GET /metrics").await;
    let series = format!(
        "aya_agent_engine_signal{{endpoint=\"n1-vllm-{}\",signal=\"running\",state=\"parsed\"}} 1",
        engine.addr.port()
    );
    assert!(metrics.contains(&series), "{metrics}");
    agent.stop().await;
}
