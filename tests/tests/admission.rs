#![cfg(test)]
//! Who waits, in which order, for how long, and who is told to come back later. Tests named `b1`, `b2`, ... are those of
//! the catalogue of overload.

#![expect(clippy::disallowed_methods, reason = "what is measured here is the time that passes for a client")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya_tests::{Answer, Farm, aya, chat, sim, streamed, until, within};
use serde_json::Value;
use tokio::task::JoinSet;

const PATH: &str = "/v1/chat/completions";

/// One endpoint with room for so many requests at a time, about 8 ms per token. One thread, so that the order of arrival
/// is known.
async fn farm(seats: u32, toml: &str) -> Farm {
    let toml = format!("threads = 1\n{toml}");
    Farm::of(aya!()).scheduler(&toml).engine(sim("e1").slow().max_sequences(seats)).start().await
}

/// A request that holds a place until it is dropped.
async fn occupy(farm: &Farm) -> aya_tests::Live {
    let mut stream = farm.api().begin_chat(&streamed(10_000)).await;
    assert!(stream.event().await.is_some());
    stream
}

/// Requests that wait, in the order of their arrival.
#[derive(Default)]
struct Waiting {
    answers: JoinSet<Answer>,
}

impl Waiting {
    /// One more, and back when it stands in the queue.
    async fn enter(&mut self, farm: &Farm, id: &str, headers: &[(&str, &str)], body: Value) {
        let before = waiting(farm).await.len();
        self.send(farm, id, headers, body);
        until("one more to wait", async || {
            let now = waiting(farm).await.len();
            if now == before + 1 { Ok(()) } else { Err(now) }
        })
        .await;
    }

    fn send(&mut self, farm: &Farm, id: &str, headers: &[(&str, &str)], body: Value) {
        let api = farm.api();
        let mut owned = vec![("x-request-id".to_owned(), id.to_owned())];
        owned.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.answers.spawn(async move {
            let headers: Vec<(&str, &str)> = owned.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            api.post_with(PATH, &headers, &body).await
        });
    }

    async fn all(self) -> Vec<Answer> {
        self.answers.join_all().await
    }
}

/// The front of the only queue, as operators see it.
async fn waiting(farm: &Farm) -> Vec<Value> {
    let answer = farm.admin().get("/api/v1/queues").await.ok().json();
    let queues = answer["queues"].as_array().unwrap();
    queues.first().map(|queue| queue["front"].as_array().unwrap().clone()).unwrap_or_default()
}

/// The ids that the engine saw, in order; without the one that held the place.
async fn served(farm: &Farm) -> Vec<String> {
    let state = farm.engine("e1").state().await;
    let ids = state["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned());
    ids.skip(1).collect()
}

fn retry_after(answer: &Answer) -> u32 {
    answer.header("retry-after").expect("Retry-After").parse().unwrap()
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[tokio::test]
async fn a_higher_class_is_always_served_first() {
    let farm = farm(1, "[queue]\nturn_after = 0").await;
    let (occupied, mut load) = (occupy(&farm).await, Waiting::default());
    for (at, class) in ["batch", "standard", "critical", "batch", "standard", "critical"].iter().enumerate() {
        load.enter(&farm, &format!("{class}-{at}"), &[("x-aya-priority", class)], chat(1)).await;
    }
    let front: Vec<Value> = waiting(&farm).await.iter().map(|w| w["priority"].clone()).collect();
    assert_eq!(front, ["critical", "critical", "standard", "standard", "batch", "batch"]);
    drop(occupied);
    let _ = load.all().await;
    let expect = ["critical-2", "critical-5", "standard-1", "standard-4", "batch-0", "batch-3"];
    assert_eq!(served(&farm).await, expect);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_lower_class_has_its_turn_after_so_many_placements_of_higher_ones() {
    let farm = farm(1, "[queue]\nturn_after = 3").await;
    let (occupied, mut load) = (occupy(&farm).await, Waiting::default());
    load.enter(&farm, "batch", &[("x-aya-priority", "batch")], chat(1)).await;
    for at in 0..6 {
        load.enter(&farm, &format!("critical-{at}"), &[("x-aya-priority", "critical")], chat(1)).await;
    }
    drop(occupied);
    let _ = load.all().await;
    let at = served(&farm).await.iter().position(|id| id == "batch");
    assert_eq!(at, Some(3), "{:?}", served(&farm).await);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn tenants_share_a_full_endpoint_by_their_weights() {
    let toml = "[tenants]\nheader = \"x-team\"\n[[tenant]]\nname = \"heavy\"\nweight = 3\n";
    let farm = farm(1, toml).await;
    let (occupied, mut load) = (occupy(&farm).await, Waiting::default());
    // The light one floods the queue before the heavy one comes.
    for tenant in ["light", "heavy"] {
        for at in 0..9 {
            load.enter(&farm, &format!("{tenant}-{at}"), &[("x-team", tenant)], chat(1)).await;
        }
    }
    drop(occupied);
    let _ = load.all().await;
    let order = served(&farm).await;
    let heavy = order.iter().take(8).filter(|id| id.starts_with("heavy")).count();
    assert!((5..=7).contains(&heavy), "6 of the first 8 belong to the heavy one: {order:?}");
    farm.assert_accounted().await;
    let metrics = farm.scheduler.metrics().await;
    for tenant in ["light", "heavy"] {
        let ended = metrics.with("aya_tenant_requests_total", &format!("tenant=\"{tenant}\""));
        assert!((ended - 9.0).abs() < 0.5, "{ended} of {tenant}");
    }
    let waited = metrics.with("aya_queue_wait_seconds_count", "priority=\"standard\"");
    assert!((waited - 18.0).abs() < 0.5, "{waited} waited");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_queue_at_once_and_reaches_no_engine() {
    let farm = farm(1, "[tenants]\nheader = \"x-team\"").await;
    let (occupied, mut goes, mut stays) = (occupy(&farm).await, Waiting::default(), Waiting::default());
    goes.enter(&farm, "goes", &[("x-team", "a"), ("x-aya-priority", "critical")], chat(1)).await;
    stays.enter(&farm, "stays", &[("x-team", "b")], chat(1)).await;
    let tenants = |front: &[Value]| front.iter().map(|w| w["tenant"].clone()).collect::<Vec<_>>();
    assert_eq!(tenants(&waiting(&farm).await), ["a", "b"]);
    let gone = Instant::now();
    drop(goes);
    until("the queue without it", async || {
        let front = tenants(&waiting(&farm).await);
        if front == ["b"] { Ok(()) } else { Err(front) }
    })
    .await;
    assert!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    drop(occupied);
    let _ = stays.all().await;
    assert_eq!(served(&farm).await, ["stays"]);
    let record = farm.record("goes").await;
    assert_eq!(record["outcome"]["status"], "client_cancelled");
    assert_eq!((&record["queue_position"], &record["request"]["tenant"]), (&0.into(), &"a".into()));
    assert_eq!(record["waited_for"], "room");
    // It came while another one waited, and had to await its turn before it looked at all.
    assert_eq!(farm.record("stays").await["waited_for"], "turn");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn who_cannot_be_sent_in_time_is_refused_at_once_and_told_the_predicted_wait() {
    let farm = farm(1, "[queue]\ncapacity = 20").await;
    let mut load = Waiting::default();
    for at in 0..24 {
        load.send(&farm, &format!("load-{at}"), &[], chat(25));
        if at < 2 {
            until("the first ones to be there", async || {
                let depth = waiting(&farm).await.len();
                if depth >= at { Ok(()) } else { Err(depth) }
            })
            .await;
        }
    }
    until("the pace to be known", async || {
        let done = farm.engine("e1").count("submitted").await;
        if done >= 5 { Ok(()) } else { Err(done) }
    })
    .await;
    let asked = Instant::now();
    let refused = farm.api().post_with(PATH, &[("x-aya-deadline-ms", "50")], &chat(1)).await;
    let took = asked.elapsed();
    assert_eq!(refused.error(), "429 overloaded");
    let shed = farm.record_of(&refused).await["shed"].clone();
    assert_eq!(shed["reason"], "deadline", "{shed}");
    let predicted = seconds(&shed["predicted_s"]);
    // A dozen or more wait, each for 25 tokens of 8 ms.
    assert!((0.5..30.0).contains(&predicted) && seconds(&shed["allowed_s"]) <= 0.05, "{shed}");
    let told = f64::from(retry_after(&refused));
    assert!(told >= predicted && told < predicted + 1.0, "told {told} s, predicted {predicted} s");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let answers = load.all().await;
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 20);
    farm.assert_accounted().await;
}

/// Sends requests at a steady rate, whatever comes back: the answers in the order of asking, with their times.
async fn open_loop(
    farm: &Farm,
    gap: Duration,
    count: usize,
    ask: impl Fn(usize) -> (Vec<(&'static str, &'static str)>, Value),
) -> Vec<(Answer, Duration)> {
    let (mut load, mut tick) = (JoinSet::new(), tokio::time::interval(gap));
    for at in 0..count {
        tick.tick().await;
        let (api, (headers, body)) = (farm.api(), ask(at));
        load.spawn(async move {
            let asked = Instant::now();
            let answer = api.post_with(PATH, &headers, &body).await;
            (at, answer, asked.elapsed())
        });
    }
    let mut all = load.join_all().await;
    all.sort_by_key(|(at, ..)| *at);
    all.into_iter().map(|(_, answer, took)| (answer, took)).collect()
}

/// The value below which so many percent of them lie.
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(at).copied().expect("at least one value")
}

fn with_status(all: &[(Answer, Duration)], status: u16) -> impl Iterator<Item = &(Answer, Duration)> {
    all.iter().filter(move |(answer, _)| answer.status == status)
}

#[expect(clippy::cast_precision_loss, reason = "below a thousand")]
const fn number(count: usize) -> f64 {
    count as f64
}

/// Places and the time one request needs there: capacity, measured by as many clients as there are places.
async fn capacity_per_s(farm: &Farm, seats: usize, each: usize, body: &Value) -> f64 {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..seats {
        let (api, body) = (farm.api(), body.clone());
        clients.spawn(async move {
            for _ in 0..each {
                let _ = api.chat(&body).await.ok();
            }
        });
    }
    clients.join_all().await;
    number(seats * each) / began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn b1_at_ten_times_the_capacity_the_excess_is_refused_at_once_and_the_rest_served() {
    const SEATS: usize = 4;
    const QUEUE: usize = 12;
    let farm = farm(4, &format!("[queue]\ncapacity = {QUEUE}")).await;
    let body = chat(30);
    let capacity = capacity_per_s(&farm, SEATS, 4, &body).await;
    let gap = Duration::from_secs_f64(0.1 / capacity);
    let (count, began) = (600, Instant::now());
    let load = open_loop(&farm, gap, count, |_| (Vec::new(), body.clone()));
    let longest = async {
        let mut most = 0.0_f64;
        while began.elapsed() < gap * u32::try_from(count).unwrap() {
            most = most.max(farm.scheduler.metrics().await.sum("aya_queue_depth"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        most
    };
    let (all, longest) = tokio::join!(load, longest);
    let elapsed = began.elapsed().as_secs_f64();
    let served = with_status(&all, 200).count();
    let refused: Vec<_> = with_status(&all, 429).collect();
    assert_eq!(served + refused.len(), count, "served or told to come back, nothing else");
    for (answer, _) in &refused {
        assert!(["429 queue_full", "429 overloaded"].contains(&answer.error().as_str()));
        assert!((1..=120).contains(&retry_after(answer)));
    }
    let millis: Vec<f64> = refused.iter().map(|(_, took)| took.as_secs_f64() * 1e3).collect();
    let (half, most) = (percentile(millis.clone(), 50), percentile(millis, 99));
    let goodput = number(served) / elapsed;
    println!(
        "B1: capacity {capacity:.1}/s, offered {:.1}/s, served {goodput:.1}/s; refused {} within {half:.1} ms (p50), \
         {most:.1} ms (p99)",
        number(count) / elapsed,
        refused.len(),
    );
    assert!(longest <= number(QUEUE), "{longest} waited");
    assert!(goodput >= 0.9 * capacity, "{goodput} of {capacity} per second");
    assert!(half < 200.0, "half of the refusals took {half} ms");
    // When it is over, nothing is left of it.
    let after = within(Duration::from_secs(10), "an answer after it", farm.api().chat(&chat(1))).await.ok();
    assert_eq!(after.header("x-aya-queue-ms"), Some("0"));
    farm.assert_accounted().await;
}

#[tokio::test]
async fn b2_at_three_times_the_capacity_the_low_class_gives_way_and_does_not_starve() {
    let toml = "[queue]\ncapacity = 8\nwait_max = \"5s\"\nturn_after = 8\n[slo.critical]\nttft = \"1s\"\n\
                [slo.batch]\nshed_above = \"500ms\"";
    let farm = farm(4, toml).await;
    let body = streamed(20);
    let capacity = capacity_per_s(&farm, 4, 4, &body).await;
    let class = |at: usize| if at.is_multiple_of(5) { "critical" } else { "batch" };
    let ask = |at: usize| (vec![("x-aya-priority", class(at))], body.clone());
    let all = open_loop(&farm, Duration::from_secs_f64(1.0 / (3.0 * capacity)), 250, ask).await;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut first_tokens, mut low_waits) = (Vec::new(), Vec::new());
    // The sixteen that measured the capacity had no class of their own.
    for record in farm.scheduler.decisions().await {
        let priority = record["request"]["priority"].as_str().unwrap().to_owned();
        let status = record["outcome"]["status"].as_str().unwrap();
        *outcomes.entry(format!("{priority} {status}")).or_default() += 1;
        if status == "completed" && priority == "critical" {
            first_tokens.push(seconds(&record["outcome"]["ttft_ms"]));
        } else if status == "completed" && priority == "batch" {
            low_waits.push(seconds(&record["queue_ms"]));
        }
    }
    println!("B2: {outcomes:?}");
    assert_eq!(outcomes.get("critical completed"), Some(&50), "{outcomes:?}");
    let ttft = percentile(first_tokens, 95);
    assert!(ttft < 1_000.0, "first token of the high class after {ttft} ms (p95)");
    assert!(with_status(&all, 429).count() >= 50, "the low class is shed: {outcomes:?}");
    assert!(low_waits.len() >= 20, "the low class is served too: {outcomes:?}");
    let longest = percentile(low_waits, 100);
    assert!(longest <= 5_000.0, "who was let in was sent within the longest wait: {longest} ms");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn b3_nothing_is_sent_after_its_deadline_and_who_waited_in_vain_hears_so_then() {
    let farm = farm(2, "").await;
    let deadlines = ["60", "120", "250", "500", "1000"];
    let ask = |at: usize| (vec![("x-aya-deadline-ms", deadlines[at % 5])], chat(20));
    let all = open_loop(&farm, Duration::from_millis(15), 120, ask).await;
    let (mut sent, mut expired) = (0, 0);
    for (at, (answer, _)) in all.iter().enumerate() {
        let (record, deadline) = (farm.record_of(answer).await, deadlines[at % 5].parse::<f64>().unwrap());
        let attempts = record["attempts"].as_array().unwrap();
        match answer.status {
            200 => {
                assert!(seconds(&attempts[0]["started_ms"]) < deadline, "{deadline} ms: {record}");
                sent += 1;
            }
            503 => {
                assert_eq!((answer.error().as_str(), attempts.len()), ("503 deadline_exceeded", 0));
                let told = seconds(&record["outcome"]["e2e_ms"]);
                // Late by no more than a busy machine makes it.
                assert!((deadline..deadline + 500.0).contains(&told), "{deadline} ms: {record}");
                expired += 1;
            }
            _ => assert_eq!((answer.error().as_str(), attempts.len()), ("429 overloaded", 0)),
        }
    }
    assert!(sent >= 10 && expired >= 3, "{sent} sent, {expired} expired");
    assert_eq!(farm.engine("e1").count("submitted").await, sent);
    farm.assert_accounted().await;
}
