#![cfg(test)]
//! Bad input: refused in OpenAI's words or closed in time, accounted for, and of no cost to anybody else.

use std::time::Duration;

use aya_tests::{Answer, CANARY, Farm, MODEL, Raw, aya, chat, raw_exchange, sim, streamed, with};
use bytes::Bytes;
use serde_json::json;

const PATH: &str = "/v1/chat/completions";

/// A stream that runs while the input is bad, and must not notice.
struct Honest(tokio::task::JoinSet<Vec<String>>);

impl Honest {
    fn beside(farm: &Farm) -> Self {
        let api = farm.api();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { api.begin_chat(&streamed(300)).await.events().await });
        Self(task)
    }

    async fn assert_unharmed(mut self) {
        let events = self.0.join_next().await.unwrap().unwrap();
        // The role, 300 tokens, the end.
        assert_eq!((events.len(), events.last().map(String::as_str)), (302, Some("[DONE]")));
    }
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn f6_bad_bodies_are_refused_with_the_reason() {
    let farm = Farm::of(aya!()).engine(sim("e1").flag("--context-length", "2000")).start().await;
    let honest = Honest::beside(&farm);
    for (name, body, expect, says) in bad_bodies() {
        let answer = farm.api().open("POST", PATH, &[], Bytes::from(body)).await.whole().await;
        assert!(answer.status == 400, "{name}: {} {}", answer.status, answer.text());
        let error = answer.error();
        assert!(error == expect || expect == "400 -", "{name}: {error} {}", answer.text());
        assert!(answer.text().contains(says), "{name}: {says:?} is not in {}", answer.text());
        assert!(answer.body.len() < 1000, "{name}: {} bytes", answer.body.len());
        assert_eq!(farm.record_of(&answer).await["outcome"]["status"], "client_error", "{name}");
    }
    honest.assert_unharmed().await;
    assert_eq!(farm.engine("e1").count("submitted").await, 1, "nothing bad came to the engine");
    farm.assert_accounted().await;
}

/// A name, a body for an engine with a context of 2000 tokens, the error (`400 -`: any code), a word of its message.
fn bad_bodies() -> Vec<(&'static str, String, &'static str, &'static str)> {
    let deep = |open: &str, close: &str| {
        format!("{{\"model\":\"{MODEL}\",\"messages\":{}{}}}", open.repeat(100_000), close.repeat(100_000))
    };
    let good = chat(1).to_string();
    let with = |fields: &str| {
        format!("{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],{fields}}}")
    };
    let prompt = |words: usize| {
        json!({"model": MODEL, "messages": [{"role": "user", "content": "word ".repeat(words)}]}).to_string()
    };
    vec![
        ("empty", String::new(), "400 -", ""),
        ("no JSON", "hello".to_owned(), "400 -", ""),
        ("no object", "[1,2]".to_owned(), "400 -", ""),
        ("cut off", good.trim_end_matches('}').to_owned(), "400 -", ""),
        ("something behind", format!("{good}x"), "400 -", ""),
        ("a byte order mark", format!("\u{feff}{good}"), "400 -", ""),
        ("NaN", with("\"temperature\":NaN"), "400 -", ""),
        ("a lone surrogate as the model", good.replace(MODEL, "\\ud800"), "400 -", ""),
        ("no model", good.replace("\"model\"", "\"modell\""), "400 model_required", "model"),
        ("no messages", format!("{{\"model\":\"{MODEL}\"}}"), "400 -", "messages"),
        ("a number as the model", good.replace(&format!("\"{MODEL}\""), "5"), "400 -", "model"),
        ("null as the model", good.replace(&format!("\"{MODEL}\""), "null"), "400 -", "model"),
        ("an empty model", good.replace(MODEL, ""), "400 -", "model"),
        (
            "a text as the messages",
            format!("{{\"model\":\"{MODEL}\",\"messages\":\"x\"}}"),
            "400 -",
            "messages",
        ),
        ("a text as the stream flag", with("\"stream\":\"true\""), "400 -", "stream"),
        ("a text as max_tokens", with("\"max_tokens\":\"5\""), "400 -", "max_tokens"),
        ("a negative max_tokens", with("\"max_tokens\":-1"), "400 -", "max_tokens"),
        ("a fraction as max_tokens", with("\"max_tokens\":1.5"), "400 -", "max_tokens"),
        ("an absurd n", with("\"n\":1000000000"), "400 -", "n"),
        ("two models", with("\"model\":\"other\""), "400 -", "model"),
        ("two models, one escaped", with("\"mod\\u0065l\":\"other\""), "400 -", "model"),
        ("two equal models", with(&format!("\"model\":\"{MODEL}\"")), "400 -", "model"),
        ("two stream flags", with("\"stream\":true,\"stream\":false"), "400 -", "stream"),
        ("deep arrays", deep("[", "]"), "400 -", ""),
        ("deep objects", deep("{\"a\":", "}"), "400 -", ""),
        ("deep and unclosed", deep("[", ""), "400 -", ""),
        (
            "a million messages",
            deep("[", "]").replace(&"[".repeat(100_000), &format!("[{}", "{},".repeat(1_000_000))),
            "400 -",
            "",
        ),
        (
            "an absurd max_tokens",
            with("\"max_tokens\":999999999"),
            "400 context_length_exceeded",
            "2000 tokens",
        ),
        (
            "more than 64 bits of max_tokens",
            with("\"max_tokens\":99999999999999999999999"),
            "400 -",
            "max_tokens",
        ),
        ("a prompt that fits nowhere", prompt(100_000), "400 context_length_exceeded", "2000 tokens"),
        // Too long by a margin that only the engine's tokenizer can see: the engine says so.
        ("a prompt that may fit", prompt(9_000), "400 -", "2000 tokens"),
    ]
}

#[tokio::test]
async fn f6_an_invalid_byte_is_refused_wherever_it_stands() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    for body in [
        b"{\"model\":\"llama-3.1-8b\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}".to_vec(),
        b"{\"model\":\"llama\xc3-8b\",\"messages\":[]}".to_vec(),
        b"{\"model\":\"llama-3.1-8b\",\"messages\":[],\"a\xed\xa0\x80\":1}".to_vec(),
        b"\x00\x00\x00\x00".to_vec(),
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0],
    ] {
        let answer = farm.api().open("POST", PATH, &[], body.into()).await.whole().await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f8_an_unknown_model_is_named_beside_the_known_ones() {
    let farm =
        Farm::of(aya!()).engine(sim("e1").flag("--model", "org/one").flag("--model", "two")).start().await;
    for (model, printed) in [
        ("three", "three"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("a\r\nx-injected: yes", ""),
        ("\u{1b}[31mred", ""),
    ] {
        let answer = farm.api().chat(&json!({"model": model, "messages": []})).await;
        let named = message(&answer);
        if printed.is_empty() {
            assert!([400, 404].contains(&answer.status), "{named}");
        } else {
            assert_eq!(answer.error(), "404 model_not_found");
            assert_eq!(answer.json()["error"]["param"], "model");
            assert_eq!(answer.header("x-should-retry"), Some("false"));
            assert!(named.contains(printed) && named.contains("org/one, two"), "{named}");
        }
        assert!(answer.header("x-injected").is_none() && !answer.text().contains('\u{1b}'));
    }
    let endless = farm.api().chat(&json!({"model": "m".repeat(10_000), "messages": []})).await;
    assert!([400, 404].contains(&endless.status) && endless.body.len() < 1000);
    let page = farm.admin().get("/metrics").await.ok();
    assert!(!page.text().contains("three") && !page.text().contains("passwd"), "a client made a series");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f7_paths_and_methods_that_are_not_served_are_refused() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1//chat/completions", 404),
        ("POST", "/v1/../v1/chat/completions", 404),
        ("POST", "/v1/%63hat/completions", 404),
        ("GET", "/metrics", 404),
        ("GET", "/sim/state", 404),
        ("POST", "/sim/faults", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/sleep", 404),
        ("GET", "/api/v1/fleet", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/v1/embeddings", 405),
        ("TRACE", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 405),
    ] {
        let answer = farm.api().open(method, path, &[], Bytes::new()).await.whole().await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(answer.error().starts_with(&status.to_string()));
        let allow = answer.header("allow");
        assert_eq!(allow.is_some(), status == 405 && method != "TRACE", "{method} {path}: {allow:?}");
    }
    assert_eq!(farm.engine("e1").count("submitted").await, 0);
    farm.assert_accounted().await;
}

/// A request of this body with a head written by hand.
fn written(head: &str, body: &str) -> Vec<u8> {
    format!("POST {PATH} HTTP/1.1\r\n{head}\r\n{body}").into_bytes()
}

/// The client sends all of it before it reads: what is dropped unread would reset the connection, and the answer with it.
#[tokio::test]
async fn f5_whoever_is_refused_by_the_head_is_told_so_behind_a_body_of_any_allowed_size() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    for (mib, path, status) in [(1, "/nothing", 404), (16, "/nothing", 404), (33, PATH, 413)] {
        let body = "x".repeat(mib << 20);
        let asked =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut client = Raw::connect(farm.scheduler.api).await;
        client.send_all(asked.as_bytes()).await;
        let answer = client.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{mib} MiB: {answer}");
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f5_too_much_is_refused_at_the_limit() {
    let farm = Farm::of(aya!()).scheduler("[limits]\nbody_max = \"64KiB\"").engine(sim("e1")).start().await;
    let honest = Honest::beside(&farm);
    let announced =
        raw_exchange(farm.scheduler.api, &written("Host: a\r\nContent-Length: 70000\r\n", "{")).await;
    assert!(announced.starts_with("HTTP/1.1 413 ") && announced.contains("body_too_large"), "{announced}");
    let huge = written("Host: a\r\nContent-Length: 99999999999999\r\n", "{");
    assert!(raw_exchange(farm.scheduler.api, &huge).await.starts_with("HTTP/1.1 413 "));
    let before = farm.scheduler.process.peak_memory_bytes();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let endless = written("Host: a\r\nTransfer-Encoding: chunked\r\n", &chunk.repeat(2_000));
    let answer = raw_exchange(farm.scheduler.api, &endless).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") || answer.is_empty(), "{answer}");
    let grown = farm.scheduler.process.peak_memory_bytes() - before;
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes were kept of a body of 32 MB");
    for (name, head, status) in [
        (
            "many headers",
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(150)),
            "431",
        ),
        (
            "a long header",
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "b".repeat(100_000)),
            "431",
        ),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "b".repeat(70_000)), "4"),
    ] {
        let answer = raw_exchange(farm.scheduler.api, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
    let largest = json!({"model": MODEL, "messages": [{"role": "user", "content": "x".repeat(60_000)}], "max_tokens": 1});
    let _ = farm.api().chat(&largest).await.ok();
    honest.assert_unharmed().await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f4_whoever_is_slow_or_silent_is_closed_by_a_deadline() {
    let toml = "[timeouts]\nfirst_byte = \"300ms\"\nheader = \"300ms\"\nbody = \"300ms\"\nidle = \"300ms\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    let honest = Honest::beside(&farm);
    let body = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{\"{CANARY}");
    let models = "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n";
    let cases = [
        ("silent", String::new(), ""),
        ("half a head", "GET /v1/models HTTP/1.1\r\nHo".to_owned(), ""),
        ("half a preface", "PRI".to_owned(), ""),
        ("half a body", body, "HTTP/1.1 408 "),
        ("an idle connection", models.to_owned(), "HTTP/1.1 200 "),
    ];
    let mut slow = Vec::new();
    for (name, bytes, expect) in cases {
        let mut raw = Raw::connect(farm.scheduler.api).await;
        raw.send(bytes.as_bytes()).await;
        slow.push((name, raw, expect));
    }
    // A byte now and then does not move the deadline of the head.
    let mut dripping = Raw::connect(farm.scheduler.api).await;
    for byte in b"GET /v1/models HTTP/1.1\r\n" {
        dripping.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    slow.push(("dripping", dripping, ""));
    for (name, mut raw, expect) in slow {
        let (answer, closed) = raw.read_for(Duration::from_millis(1300)).await;
        assert!(closed, "{name} stayed open after {answer:?}");
        assert!(answer.starts_with(expect) && (answer.is_empty() == expect.is_empty()), "{name}: {answer}");
    }
    honest.assert_unharmed().await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn bad_requests_to_the_operators_listener_are_refused_too() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    for (method, path, body, status) in [
        ("POST", "/metrics", "", 405),
        ("GET", "/nothing", "", 404),
        ("GET", "/api/v1/decisions?limit=x", "", 400),
        ("GET", "/api/v1/decisions?limit=-1", "", 400),
        ("GET", "/api/v1/decisions/%00%ff", "", 400),
        ("POST", "/api/v1/placements:explain", "{", 400),
        ("POST", "/api/v1/placements:explain", "{\"model\":\"a\",\"model\":\"b\",\"messages\":[]}", 400),
        ("POST", "/api/v1/nodes/../n1:drain", "", 404),
    ] {
        let answer = farm.admin().open(method, path, &[], body.into()).await.whole().await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    assert_eq!(farm.scheduler.endpoint("e1").await["phase"], "serving");
    let answer = farm.admin().open("POST", "/metrics", &[], Bytes::new()).await.whole().await;
    assert_eq!((answer.error().as_str(), answer.header("allow")), ("405 wrong_method", Some("GET,HEAD")));
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_dry_run_takes_the_bodies_that_clients_may_send_and_no_larger_ones() {
    let farm = Farm::of(aya!()).scheduler("limits.body_max = \"4MiB\"").engine(sim("e1")).start().await;
    let explained = async |bytes: usize| {
        let body = with(chat(1), &json!({"messages": [{"role": "user", "content": "x".repeat(bytes)}]}));
        farm.admin().post("/api/v1/placements:explain", &body).await
    };
    assert_eq!(explained(3 * 1024 * 1024).await.ok().json()["request"]["prompt_bytes"], 3 * 1024 * 1024);
    assert_eq!(explained(5 * 1024 * 1024).await.error(), "413 bad_body");
    farm.assert_accounted().await;
}
