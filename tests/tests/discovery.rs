#![cfg(test)]
//! Engines that nobody listed: found by the processes that hold the GPUs, served, and let go of when they end.

use std::net::TcpListener;

use aya_tests::{Engine, Farm, GpuHost, aya, chat, sim, until};
use serde_json::{Value, json};

const OFTEN: &str = "discovery.period = \"200ms\"\n";

/// Two GPUs, the first of them held by these processes.
fn held_by(pids: &[u32]) -> Value {
    let processes: Vec<_> = pids.iter().map(|pid| json!({"pid": pid, "mib": 40_000})).collect();
    json!({"gpus": [{"processes": processes}, {}]})
}

fn found(engine: &Engine) -> String {
    format!("n1-simulated-{}", engine.addr.port())
}

/// Waits until exactly these endpoints are there and ready.
async fn until_endpoints(farm: &Farm, what: &str, expect: &[String]) {
    until(what, async || {
        let all = farm.scheduler.endpoints().await;
        let here = all.iter().filter(|e| e["phase"] == "serving" && e["health"] == "healthy");
        let ids: Vec<String> = here.map(|e| e["id"].as_str().unwrap().to_owned()).collect();
        if ids == expect { Ok(()) } else { Err(all) }
    })
    .await;
}

/// Waits until what discovery states is so.
async fn until_stated(host: &GpuHost, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let admin = host.admin().await;
    until(what, async || {
        let stated = admin.get("/api/v1/discovery").await.ok().json();
        if is_so(&stated) { Ok(stated) } else { Err(stated) }
    })
    .await
}

fn connections(bystander: &TcpListener) -> usize {
    bystander.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| bystander.accept().ok()).count()
}

#[tokio::test]
async fn an_engine_that_holds_a_gpu_is_found_served_and_let_go_of_and_nothing_else_is_touched() {
    let farm = Farm::of(aya!()).start().await;
    // Neither holds a GPU: a listener of the engines' own parent, and an engine.
    let bystander = TcpListener::bind("127.0.0.1:0").unwrap();
    let idle = Engine::start(aya!(), farm.dir.path(), sim("idle")).await;
    let mut engine = Engine::start(aya!(), farm.dir.path(), sim("e1")).await;
    let host = GpuHost::start_bare(aya!(), &farm, OFTEN, &held_by(&[]));
    let stated = until_stated(&host, "a driver that names nobody", |s| s["gpu_holders"] == json!([])).await;
    assert_eq!(
        (&stated["mode"], &stated["engines"], &stated["left"]),
        (&json!("gpu"), &json!([]), &json!([]))
    );

    host.play(&held_by(&[engine.process.id()]));
    until_endpoints(&farm, "the engine that holds the GPU", &[found(&engine)]).await;
    let answer = farm.api().post("/v1/chat/completions", &chat(5)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-aya-endpoint"), Some(found(&engine).as_str()));
    let stated =
        until_stated(&host, "what was found", |s| s["engines"][0]["endpoint"] == found(&engine)).await;
    let told = &stated["engines"][0];
    assert_eq!((&told["source"], &told["kind"]), (&json!("discovered"), &json!("simulated")));
    assert_eq!((&told["pid"], &stated["left"]), (&json!(engine.process.id()), &json!([])), "{stated}");

    engine.kill();
    until_stated(&host, "an empty host", |s| s["engines"] == json!([])).await;
    until_endpoints(&farm, "the engine's leave", &[]).await;
    engine.restart().await;
    host.play(&held_by(&[engine.process.id(), 4_000_000]));
    until_endpoints(&farm, "its return", &[found(&engine)]).await;
    let stated = until_stated(&host, "the stranger", |s| s["left"] != json!([])).await;
    assert_eq!(
        (&stated["left"][0]["pid"], &stated["left"][0]["reason"]),
        (&json!(4_000_000), &json!("no_process"))
    );

    assert_eq!(connections(&bystander), 0, "its process holds no GPU");
    assert!(!farm.scheduler.fleet().await.to_string().contains(&found(&idle)));
    drop(host.agent);
}

#[tokio::test]
async fn a_listed_engine_is_not_found_again_and_discovery_can_be_off() {
    let farm = Farm::of(aya!()).start().await;
    let listed = Engine::start(aya!(), farm.dir.path(), sim("e1")).await;
    let other = Engine::start(aya!(), farm.dir.path(), sim("e2")).await;
    let entry = format!("[[engine]]\nkind = \"simulated\"\nname = \"e1\"\nurl = {:?}\n", listed.url());
    let scenario = held_by(&[listed.process.id(), other.process.id()]);
    let host = GpuHost::start_bare(aya!(), &farm, &format!("{OFTEN}{entry}"), &scenario);
    until_endpoints(&farm, "the listed and the found engine", &["e1".to_owned(), found(&other)]).await;
    let stated =
        until_stated(&host, "both", |s| s["engines"].as_array().is_some_and(|all| all.len() == 2)).await;
    let mut sources: Vec<_> =
        stated["engines"].as_array().unwrap().iter().map(|e| e["source"].clone()).collect();
    sources.sort_by_key(ToString::to_string);
    assert_eq!(sources, ["discovered", "listed"]);
    drop(host.agent);

    let farm = Farm::of(aya!()).start().await;
    let off = GpuHost::start_bare(aya!(), &farm, &format!("discovery.mode = \"off\"\n{entry}"), &scenario);
    until_endpoints(&farm, "only what is listed", &["e1".to_owned()]).await;
    assert_eq!(until_stated(&off, "off", |s| s["mode"] == "off").await["looks"], 0);
}
