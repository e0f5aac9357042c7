#![cfg(test)]
//! The scheduler's end: what a stop, an upgrade, a crash may and may not cost.

use std::time::Duration;

use aya_tests::{Farm, Live, Raw, aya, chat, sim, streamed, until, within};
use futures_util::future::join_all;
use serde_json::Value;

/// One engine, about 8 ms per token.
async fn slow_farm(toml: &str) -> Farm {
    Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow()).start().await
}

async fn begun(farm: &Farm, tokens: u32) -> Live {
    let mut stream = farm.api().begin_chat(&streamed(tokens)).await;
    assert!(stream.event().await.is_some());
    stream
}

async fn readiness_falls(farm: &Farm) {
    until("readiness to fall", async || {
        let status = farm.admin().get("/readyz").await.status;
        if status == 503 { Ok(()) } else { Err(status) }
    })
    .await;
}

/// `(status, http status, error)` of every record in this directory, sorted.
fn outcomes(dir: &std::path::Path) -> Vec<(String, Option<u64>, String)> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut ends: Vec<_> = texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].take())
        // The inputs of decisions stand between the records.
        .filter(|outcome| outcome["status"].is_string())
        .map(|o| (o["status"].to_string(), o["http_status"].as_u64(), o["error"].to_string()))
        .collect();
    ends.sort();
    ends
}

#[tokio::test]
async fn e1_a_stop_refuses_nobody_within_its_grace_and_cuts_no_stream() {
    let mut farm = slow_farm("").await;
    let streams = join_all((0..200).map(|_| begun(&farm, 60))).await;
    let mut kept = Raw::connect(farm.scheduler.api).await;
    farm.scheduler.process.terminate();
    readiness_falls(&farm).await;
    // Who comes now is served and told to come elsewhere; so is who was connected before.
    let late = farm.api().chat(&chat(2)).await.ok();
    assert_eq!(late.header("connection"), Some("close"));
    kept.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = kept.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    for events in join_all(streams.into_iter().map(Live::events)).await {
        // The role was read before.
        assert_eq!((events.len(), events.last().map(String::as_str)), (60 + 1, Some("[DONE]")));
    }
    let exit = within(Duration::from_secs(5), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    assert_eq!(farm.engine("e1").count("aborted").await, 0);
}

#[tokio::test]
async fn e1_what_is_not_done_after_the_drain_is_told_so() {
    let records = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}\n[timeouts]\ndrain = \"500ms\"", records.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1").slow().max_sequences(2)).start().await;
    let stream = begun(&farm, 50_000).await;
    let mut asking = tokio::task::JoinSet::new();
    for in_flight in [2, 3] {
        // One whole answer under way, then one that waits for room.
        let api = farm.api();
        asking.spawn(async move { api.chat(&chat(50_000)).await });
        until("the next to be there", async || {
            let metrics = farm.scheduler.metrics().await;
            let open = metrics.sum("aya_requests_in_flight");
            if (open - f64::from(in_flight)).abs() < 0.5 { Ok(()) } else { Err(open) }
        })
        .await;
    }
    farm.scheduler.process.terminate();
    let events = stream.events().await;
    let last: Value = serde_json::from_str(events.last().expect("a last event")).unwrap();
    assert_eq!(last["error"]["code"], "shutting_down", "{last}");
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.error(), "503 shutting_down");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let exit = within(Duration::from_secs(4), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    until("the engine to stop", async || {
        let left = farm.engine("e1").count("in_flight").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    // Their clients had not gone: the records say who cut them off, and are on disk.
    let end = |status: &str, http| (format!("\"{status}\""), Some(http), "\"shutting_down\"".to_owned());
    // Whoever waited may be sent in the very last moment, when those before it are cut off.
    let expect = |last| [end("truncated", 200), end("upstream_error", 503), end(last, 503)];
    let ends = outcomes(records.path());
    let mut refused = expect("refused");
    refused.sort();
    assert!(ends == refused || ends == expect("upstream_error"), "{ends:?}");
}

#[tokio::test]
async fn e1_without_a_grace_the_listener_closes_at_once() {
    let mut farm = slow_farm("timeouts.accept_grace = \"0s\"").await;
    let stream = begun(&farm, 80).await;
    farm.scheduler.process.terminate();
    until("the listener to close", async || {
        match farm.api().try_open("GET", "/v1/models", &[], bytes::Bytes::new()).await {
            Err(_) => Ok(()),
            Ok(live) => Err(live.status),
        }
    })
    .await;
    assert_eq!(farm.admin().get("/readyz").await.status, 503);
    assert_eq!(stream.events().await.last().map(String::as_str), Some("[DONE]"));
    let exit = within(Duration::from_secs(5), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
}

#[tokio::test]
async fn e2_a_second_signal_ends_the_scheduler_at_once() {
    let mut farm = slow_farm("").await;
    let _stream = begun(&farm, 50_000).await;
    farm.scheduler.process.terminate();
    readiness_falls(&farm).await;
    farm.scheduler.process.terminate();
    let exit = within(Duration::from_secs(2), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(130), "{}", exit.err);
}

/// Where the sockets are offered, and the records of every process of a farm.
fn offered_at(dir: &std::path::Path) -> String {
    format!("decisions.dir = {:?}\nhandover.socket = {:?}", dir.join("records"), dir.join("handover.sock"))
}

/// How many clients came, and what went wrong.
#[derive(Default)]
struct Seen {
    sent: usize,
    failures: Vec<String>,
}

/// Sends a request on a new connection every 5 ms until told to stop.
async fn newcomers(api: aya_tests::Client, stop: tokio::sync::oneshot::Receiver<()>) -> Seen {
    let mut asking = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut seen = Seen::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.as_mut() => break,
        }
        seen.sent += 1;
        asking.spawn(async move {
            let body = bytes::Bytes::from(streamed(3).to_string());
            let live = api.try_open("POST", "/v1/chat/completions", &[], body).await?;
            let status = live.status;
            let last = live.events().await.pop();
            if last.as_deref() == Some("[DONE]") { Ok(()) } else { Err(format!("{status} {last:?}")) }
        });
    }
    while let Some(asked) = asking.join_next().await {
        seen.failures.extend(asked.unwrap().err());
    }
    seen
}

/// A client that keeps its connection for as long as it may, and then opens another.
async fn regular(addr: std::net::SocketAddr, mut stop: tokio::sync::oneshot::Receiver<()>) -> (usize, usize) {
    let (mut answers, mut connections) = (0, 0);
    let mut raw = None;
    while stop.try_recv().is_err() {
        if raw.is_none() {
            connections += 1;
            raw = Some(Raw::connect(addr).await);
        }
        let open = raw.as_mut().unwrap();
        open.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let text = open.read_until("]}").await;
        assert!(text.starts_with("HTTP/1.1 200"), "after {answers} answers: {text:?}");
        answers += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if text.to_ascii_lowercase().contains("connection: close") {
            raw = None;
        }
    }
    (answers, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e3_an_upgrade_refuses_no_connection_and_cuts_no_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut farm = Farm::of(aya!())
        .scheduler(&offered_at(dir.path()))
        .engine(sim("e1").slow())
        .engine(sim("e2").slow())
        .start()
        .await;
    let streams = join_all((0..50).map(|_| begun(&farm, 300))).await;
    let ((stop, stopped), (stop_regular, regular_stopped)) =
        (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
    let (mut coming, mut staying) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    coming.spawn(newcomers(farm.api(), stopped));
    staying.spawn(regular(farm.scheduler.api, regular_stopped));
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Twice, because the successor has to offer what it took.
    let mut former = Vec::new();
    for name in ["second", "third"] {
        let successor = farm.scheduler.successor(name).await;
        former.push(std::mem::replace(&mut farm.scheduler, successor));
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    stop.send(()).unwrap();
    stop_regular.send(()).unwrap();
    let seen = coming.join_next().await.unwrap().unwrap();
    assert_eq!(seen.failures, Vec::<String>::new(), "of {}", seen.sent);
    assert!(seen.sent > 200, "{}", seen.sent);
    let (answers, connections) = staying.join_next().await.unwrap().unwrap();
    // At least one process told it to come elsewhere; how often it could ask depends on the machine.
    assert!(connections >= 2, "{answers} answers on {connections} connections");
    for events in join_all(streams.into_iter().map(Live::events)).await {
        assert_eq!((events.len(), events.last().map(String::as_str)), (300 + 1, Some("[DONE]")));
    }
    for mut scheduler in former {
        let exit = within(Duration::from_secs(10), "the former's end", scheduler.process.ended()).await;
        assert_eq!(exit.code, Some(0), "{}", exit.err);
    }
    // The last one serves, with the fleet it learned before it accepted anybody.
    let _ = farm.api().chat(&chat(1)).await.ok();
    assert!(!farm.scheduler.process.log().contains("no endpoint"), "{}", farm.scheduler.process.log());
    until("every record of every process", async || {
        let kept = outcomes(&dir.path().join("records"));
        let whole = kept.iter().filter(|(status, ..)| status == "\"completed\"").count();
        if whole == seen.sent + 50 + 1 { Ok(()) } else { Err((kept.len(), whole, seen.sent)) }
    })
    .await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn e3_a_successor_that_does_not_come_to_serve_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let toml = offered_at(dir.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1").slow()).start().await;
    let stream = begun(&farm, 150).await;
    let socket = dir.path().join("handover.sock");
    // One that says nothing decent, one that leaves with the sockets, one that leaves with the agents.
    for (words, until_heard) in
        [(&b"GET / HTTP/1.1\r\n"[..], b'x'), (b"aya take-over 1\n", b'.'), (b"aya take-over 1\nT", b't')]
    {
        let mut taker = tokio::net::UnixStream::connect(&socket).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut taker, words).await.unwrap();
        let hearing =
            async { while tokio::io::AsyncReadExt::read_u8(&mut taker).await.unwrap() != until_heard {} };
        within(Duration::from_secs(5), "the running scheduler's word", hearing).await;
    }
    // The agents come back to it, and everybody is served throughout.
    until("the agent to be back", async || {
        let log = farm.scheduler.process.log();
        let times = log.matches("agent connected").count();
        if times >= 2 { Ok(()) } else { Err(times) }
    })
    .await;
    let _ = farm.api().chat(&chat(1)).await.ok();
    assert_eq!(stream.events().await.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(farm.admin().get("/readyz").await.status, 200);
    farm.assert_accounted().await;
    // And a real one takes over afterwards.
    let successor = farm.scheduler.successor("successor").await;
    let mut former = std::mem::replace(&mut farm.scheduler, successor);
    let exit = within(Duration::from_secs(10), "the former's end", former.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    let _ = farm.api().chat(&chat(1)).await.ok();
}

#[tokio::test]
async fn e3_who_may_not_take_over_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let toml = offered_at(dir.path());
    let farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).start().await;
    let (api, free) = (farm.scheduler.api.to_string(), "127.0.0.1:0");
    let socket = dir.path().join("handover.sock").display().to_string();
    let other = "127.0.0.1:1";
    let listen =
        |api: &str| ["--listen", api, "--admin-listen", free, "--grpc-listen", free].map(str::to_owned);
    for (flags, code, says) in [
        (vec!["--take-over"], 2, "handover.socket"),
        (vec!["--handover-socket", &socket], 1, "--take-over"),
        (vec!["--handover-socket", &socket, "--take-over", "--admin-listen", other], 1, "stop it to move"),
    ] {
        let args: Vec<String> = ["scheduler".to_owned()]
            .into_iter()
            .chain(listen(&api))
            .chain(flags.iter().map(ToString::to_string))
            .collect();
        // The last flag of a name would be an error: it replaces the free one.
        let args = if flags.contains(&"--admin-listen") {
            args.iter()
                .enumerate()
                .filter(|(at, _)| ![3, 4].contains(at))
                .map(|(_, word)| word.clone())
                .collect()
        } else {
            args
        };
        let exit = aya_tests::Process::start(aya!(), dir.path(), "other", &args).ended().await;
        assert_eq!(exit.code, Some(code), "{flags:?}: {exit:?}");
        assert!(exit.err.contains(says), "{flags:?}: {}", exit.err);
    }
    let _ = farm.api().chat(&chat(1)).await.ok();
    farm.assert_accounted().await;
}

/// What a killed process left behind: each line whole, but for the last of a segment.
fn torn_lines(dir: &std::path::Path) -> usize {
    let mut torn = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for (at, line) in lines.iter().enumerate() {
            let whole = line.ends_with('\n') && serde_json::from_str::<Value>(line).is_ok();
            assert!(whole || at + 1 == lines.len(), "a broken line in the middle: {line:?}");
            torn += usize::from(!whole);
        }
    }
    torn
}

#[tokio::test]
async fn e4_a_killed_scheduler_comes_back_with_its_agents_and_no_torn_record() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}", dir.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).engine(sim("e2").slow()).start().await;
    for round in 1..=3 {
        let _streams = join_all((0..10).map(|_| begun(&farm, 50_000))).await;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let api = farm.api();
            asking.spawn(async move {
                while let Ok(live) =
                    api.try_open("POST", "/v1/chat/completions", &[], chat(1).to_string().into()).await
                {
                    // An answer may break off with the process.
                    drop(live);
                }
            });
        }
        until("records to be written", async || {
            let written = farm.scheduler.metrics().await.sum("aya_decision_records_total");
            if written > 100.0 { Ok(()) } else { Err(written) }
        })
        .await;
        farm.scheduler.process.kill();
        while asking.join_next().await.is_some() {}
        let restarted = tokio::time::Instant::now();
        farm.scheduler.restart().await;
        until("both agents to be back", async || {
            let ready = farm.scheduler.metrics().await.sum("aya_endpoint_ready");
            if ready > 1.5 { Ok(()) } else { Err(ready) }
        })
        .await;
        let took = restarted.elapsed();
        assert!(took < Duration::from_secs(5), "round {round}: the agents took {took:?}");
        // No lease of the former life, and no engine that still generates for it.
        until("the engines to be idle", async || {
            let counts =
                [farm.engine("e1").count("in_flight").await, farm.engine("e2").count("in_flight").await];
            if counts == [0, 0] { Ok(()) } else { Err(counts) }
        })
        .await;
        assert!(farm.scheduler.metrics().await.sum("aya_endpoint_inflight") < 0.5);
        let answer = farm.api().chat(&chat(2)).await.ok();
        let _ = farm.record_of(&answer).await;
    }
    let torn = torn_lines(dir.path());
    assert!(torn <= 3, "{torn}");
    farm.assert_accounted().await;
    // Whatever was left can be read, and decides as it did.
    let args = ["replay".to_owned(), dir.path().display().to_string()];
    let logs = tempfile::tempdir().unwrap();
    let exit = aya_tests::Process::start(aya!(), logs.path(), "replay", &args).ended().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

#[tokio::test]
async fn e7_a_full_disk_costs_records_and_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("records");
    let mut farm =
        Farm::of(aya!()).scheduler(&format!("decisions.dir = {records:?}")).engine(sim("e1")).start().await;
    // The kernel's own full device, in the place of the first segment.
    let segment = records.join("decisions-00000001.jsonl");
    std::os::unix::fs::symlink("/dev/full", &segment).unwrap();
    for _ in 0..20 {
        let _ = farm.api().chat(&chat(1)).await.ok();
    }
    let trouble = "decision records cannot be written to disk";
    let healthz = until("degraded health", async || {
        let answer = farm.admin().get("/healthz").await.ok().json();
        if answer["status"] == "degraded" { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert_eq!(healthz["reason"], trouble);
    assert_eq!(farm.scheduler.fleet().await["problems"], serde_json::json!([trouble]));
    let metrics = farm.scheduler.metrics().await;
    assert!(metrics.sum("aya_decision_record_write_errors_total") > 19.5);
    assert!(metrics.sum("aya_decision_log_healthy") < 0.5);
    assert_eq!(farm.admin().get("/readyz").await.status, 200);
    let status = ["status".to_owned(), "--admin".to_owned(), format!("http://{}", farm.scheduler.admin)];
    let exit = aya_tests::Process::start(aya!(), dir.path(), "status", &status).ended().await;
    assert!(exit.out.contains(trouble), "{}", exit.out);
    // As soon as there is room it writes again.
    std::fs::remove_file(&segment).unwrap();
    let _ = farm.api().chat(&chat(1)).await.ok();
    until("health", async || {
        let answer = farm.admin().get("/healthz").await.ok().json();
        if answer["status"] == "ok" { Ok(()) } else { Err(answer) }
    })
    .await;
    // The request's inputs may be on disk before its end is.
    until("the record", async || match outcomes(&records).len() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(farm.scheduler.fleet().await["problems"], serde_json::json!([]));
    farm.assert_accounted().await;
    farm.scheduler.process.kill();
}

#[tokio::test]
async fn records_of_a_former_life_are_explained_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}\ndecisions.ring = 1", dir.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).engine(sim("e2")).start().await;
    let mut first = None;
    for _ in 0..5 {
        let answer = farm.api().chat(&chat(1)).await.ok();
        let record = farm.record_of(&answer).await;
        first.get_or_insert(record);
    }
    let first = first.unwrap();
    let id = first["request_id"].as_str().unwrap().to_owned();
    // Out of the ring, and then out of the process: as it was told when it was new.
    for _ in 0..2 {
        assert_eq!(farm.record(&id).await, first);
        farm.scheduler.restart().await;
    }
    let ask = |id: &str| {
        let admin = format!("http://{}", farm.scheduler.admin);
        ["explain", id, "--admin", &admin].map(str::to_owned).to_vec()
    };
    let logs = tempfile::tempdir().unwrap();
    for (id, code) in [(id.as_str(), 0), ("nobody", 4)] {
        let exit = aya_tests::Process::start(aya!(), logs.path(), id, &ask(id)).ended().await;
        assert_eq!(exit.code, Some(code), "{exit:?}");
        assert!(exit.out.contains("e1") == (code == 0), "{exit:?}");
    }
}

#[tokio::test]
async fn a_drain_survives_the_restart_of_the_scheduler() {
    let dir = tempfile::tempdir().unwrap();
    let toml = format!("state.file = {:?}", dir.path().join("state.json"));
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).engine(sim("e2")).start().await;
    let operate = async |farm: &Farm, path: &str| {
        let _ = farm.admin().post(&format!("/api/v1/{path}"), &serde_json::json!({})).await.ok();
    };
    operate(&farm, "endpoints/e1:drain").await;
    farm.scheduler.restart().await;
    until("both endpoints to be known", async || {
        let known = farm.scheduler.endpoints().await.len();
        if known == 2 { Ok(()) } else { Err(known) }
    })
    .await;
    let phase = async |farm: &Farm| farm.scheduler.endpoint("e1").await["phase"].clone();
    assert_eq!(phase(&farm).await, "draining");
    for _ in 0..4 {
        let answer = farm.api().chat(&chat(1)).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("e2"));
    }
    operate(&farm, "endpoints/e1:undrain").await;
    farm.scheduler.restart().await;
    until("the endpoint to serve", async || {
        let all = farm.scheduler.endpoints().await;
        let serving = all.iter().filter(|endpoint| endpoint["phase"] == "serving").count();
        if serving == 2 { Ok(()) } else { Err(serving) }
    })
    .await;
}
