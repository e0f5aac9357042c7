#![cfg(test)]
//! F4, F5, A8: clients that are slow, silent, deaf or endless. Each is ended by a deadline or a limit, costs little
//! memory, and nobody honest notices.

use std::time::Duration;

use aya_tests::{CANARY, Farm, Raw, aya, chat, is_slow_run, raw_exchange, sim, streamed, until, within};
use futures_util::future::join_all;
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";
const MIB: u64 = 1024 * 1024;

fn post(fields: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// How long until the peer closed, while `piece` is sent again and again; and what it said.
async fn drip(mut raw: Raw, piece: &[u8], every: Duration, at_most: Duration) -> (String, Duration) {
    let begun = Instant::now();
    let mut said = String::new();
    while begun.elapsed() < at_most {
        raw.send(piece).await;
        let (text, closed) = raw.read_for(every).await;
        said.push_str(&text);
        if closed {
            return (said, begun.elapsed());
        }
    }
    panic!("still open after {at_most:?}: {said:?}");
}

#[tokio::test]
async fn f4_a_body_that_trickles_in_is_ended_by_its_rate_and_a_slow_honest_one_is_not() {
    let toml = "[timeouts]\nbody = \"30s\"\nbody_grace = \"500ms\"\n[limits]\nbody_rate_min = \"1KiB\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    let api = farm.scheduler.api;
    let tricks = ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"].map(async |framing| {
        let mut raw = Raw::connect(api).await;
        raw.send(post(framing).as_bytes()).await;
        let piece: &[u8] = if framing.starts_with("C") { b" " } else { b"1\r\n \r\n" };
        drip(raw, piece, Duration::from_millis(40), Duration::from_secs(5)).await
    });
    let honest = async {
        let body = aya_tests::with(chat(1), &serde_json::json!({"user": "u".repeat(4_000)})).to_string();
        let mut raw = Raw::connect(api).await;
        let fields = format!("Connection: close\r\nContent-Length: {}\r\n", body.len());
        raw.send(post(&fields).as_bytes()).await;
        for piece in body.as_bytes().chunks(100) {
            raw.send(piece).await;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        raw.read_to_end().await
    };
    let (tricks, honest) = tokio::join!(join_all(tricks), honest);
    for (said, took) in tricks {
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("body_timeout"), "{said}");
        assert!(took < Duration::from_millis(1_500), "{took:?}");
    }
    assert!(honest.starts_with("HTTP/1.1 200 "), "{honest}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f4_eight_hundred_slow_connections_are_closed_in_time_and_honest_traffic_goes_on() {
    const OF_EACH: usize = 200;
    let toml = "[timeouts]\nfirst_byte = \"1s\"\nheader = \"1s\"\nbody_grace = \"1s\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    let half_head = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nX");
    let half_body = format!("{}{{\"{CANARY}", post("Content-Length: 1000\r\n"));
    let mut slow = Vec::new();
    for begins in ["", "PRI", half_head.as_str(), half_body.as_str()] {
        for _ in 0..OF_EACH {
            let mut raw = Raw::connect(farm.scheduler.api).await;
            raw.send(begins.as_bytes()).await;
            slow.push((begins, raw, Instant::now()));
        }
    }
    let api = farm.api();
    let honest = async {
        for _ in 0..10 {
            let _ = within(Duration::from_secs(1), "an honest request", api.chat(&chat(2))).await.ok();
        }
    };
    let ended = slow.into_iter().map(async |(begins, mut raw, since)| {
        let (said, closed) = raw.read_for(Duration::from_secs(10)).await;
        (begins, said, closed, since.elapsed())
    });
    let ((), ended) = tokio::join!(honest, join_all(ended));
    for (begins, said, closed, took) in ended {
        assert!(closed && took < Duration::from_millis(2_500), "{begins:?} was open for {took:?}");
        assert!(said.is_empty() || (begins == half_body && said.starts_with("HTTP/1.1 408 ")), "{said}");
    }
    until("every connection to be forgotten", async || {
        let open = farm.scheduler.metrics().await.sum("aya_client_connections");
        if open < 0.5 { Ok(()) } else { Err(open) }
    })
    .await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a8_slow_readers_hold_little_memory_and_are_cut_off_while_others_stream_on() {
    let count: u64 = if is_slow_run() { 500 } else { 6 };
    let farm = Farm::of(aya!())
        .scheduler("[timeouts]\nwrite_stall = \"1s\"")
        .engine(sim("e1").flag("--time-scale", "1000").max_sequences(512))
        .start()
        .await;
    let _ = farm.api().chat(&chat(2)).await.ok();
    let before = farm.scheduler.process.peak_memory_bytes();
    let body = streamed(100_000).to_string();
    let request = format!("{}{body}", post(&format!("Content-Length: {}\r\n", body.len())));
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut raw = Raw::connect_with_receive_buffer(farm.scheduler.api, 4096).await;
        raw.send(request.as_bytes()).await;
        readers.push(raw);
    }
    // A byte now and then is no reading.
    let reading =
        join_all(readers.iter_mut().map(async |raw| raw.read_slowly(Duration::from_millis(100)).await));
    let api = farm.api();
    let others = async {
        for _ in 0..5 {
            let events = api.begin_chat(&streamed(50)).await.events().await;
            assert_eq!((events.len(), events.last().map(String::as_str)), (52, Some("[DONE]")));
        }
    };
    let cut = async {
        for some in 1..=count {
            until("the engine to be told to stop", async || {
                let aborted = farm.engine("e1").count("aborted").await;
                if aborted >= some { Ok(()) } else { Err(aborted) }
            })
            .await;
        }
    };
    tokio::select! {
        _ = reading => {}
        ((), ()) = async { tokio::join!(others, cut) } => {}
    }
    cut_off(&farm, count).await;
    let grown = farm.scheduler.process.peak_memory_bytes() - before;
    assert!(grown < count * MIB / 4 + 4 * MIB, "{grown} bytes for {count} readers");
    drop(readers);
    farm.assert_accounted().await;
}

/// So many requests have ended because their clients did not read.
async fn cut_off(farm: &Farm, count: u64) {
    until("the records of those who were cut off", async || {
        let metrics = farm.scheduler.metrics().await;
        let cancelled = metrics.with("aya_requests_total", "outcome=\"client_cancelled\"");
        if cancelled.round().to_string() == count.to_string() { Ok(()) } else { Err(cancelled) }
    })
    .await;
}

#[tokio::test]
async fn a8_a_client_that_does_not_read_is_cut_off_and_its_engine_stopped() {
    let farm = Farm::of(aya!())
        .scheduler("[timeouts]\nwrite_stall = \"500ms\"")
        .engine(sim("e1").flag("--time-scale", "1000"))
        .start()
        .await;
    let body = streamed(120_000).to_string();
    let before = farm.scheduler.process.peak_memory_bytes();
    let mut raw = Raw::connect(farm.scheduler.api).await;
    let head = post(&format!("x-request-id: deaf\r\nContent-Length: {}\r\n", body.len()));
    raw.send(format!("{head}{body}").as_bytes()).await;
    let record = farm.record("deaf").await;
    assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
    let grown = farm.scheduler.process.peak_memory_bytes() - before;
    assert!(grown < 4 * MIB, "{grown} bytes were kept of what it did not read");
    drop(raw);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f5_endless_bodies_are_refused_at_the_limit_and_cost_no_memory() {
    let farm = Farm::of(aya!()).scheduler("[limits]\nbody_max = \"1MiB\"").engine(sim("e1")).start().await;
    let api = farm.scheduler.api;
    let _ = farm.api().chat(&chat(2)).await.ok();
    let before = farm.scheduler.process.peak_memory_bytes();
    for announced in ["1073741824", "1048577", "99999999999999"] {
        let request = format!("{}{{", post(&format!("Content-Length: {announced}\r\n")));
        let answer = raw_exchange(api, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"),
            "{announced}: {answer}"
        );
    }
    // Nobody says how long these are; each would be 64 MiB.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
    let spaces = format!("{}{}", post("Transfer-Encoding: chunked\r\n"), chunk.repeat(1024));
    let crumbs = format!("{}{}", post("Transfer-Encoding: chunked\r\n"), "1;x\r\n \r\n".repeat(1_200_000));
    let answers =
        join_all([&spaces, &spaces, &spaces, &crumbs].map(|bytes| raw_exchange(api, bytes.as_bytes())));
    for answer in answers.await {
        // The answer may be lost in the reset of a client that goes on sending.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let gzip = [0x1f_u8, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3].repeat(1_000);
    let mut bomb =
        post(&format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", gzip.len())).into_bytes();
    bomb.extend_from_slice(&gzip);
    assert!(
        raw_exchange(api, &bomb).await.starts_with("HTTP/1.1 415 "),
        "a compressed body is not looked into"
    );
    let grown = farm.scheduler.process.peak_memory_bytes() - before;
    assert!(grown < 12 * MIB, "{grown} bytes for four endless bodies of at most 1 MiB each");
    let refused = farm.scheduler.metrics().await.with("aya_requests_total", "outcome=\"client_error\"");
    assert!(refused > 6.5, "{refused} were counted");
    farm.assert_accounted().await;
}
