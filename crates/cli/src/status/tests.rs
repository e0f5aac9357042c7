//! What a tired operator reads, as golden texts.

use serde_json::json;

use super::*;

fn fleet() -> FleetJson {
    let gpu = |uuid: &str, used: u64| {
        json!({"uuid": uuid, "name": "NVIDIA H100 80GB HBM3", "health": "healthy", "vram_total_bytes": 80_u64 << 30,
            "vram_used_bytes": used << 30, "busy_ratio": 0.5, "temperature_celsius": 61, "power_milliwatts": 420_500,
            "age_ms": 900})
    };
    serde_json::from_value(json!({
        "generation": 42, "time": "2026-11-21T04:24:34.125Z",
        "nodes": [
            {"id": "gpu-01", "phase": "serving", "health": "healthy", "freshness": "fresh", "connected": true, "age_ms": 120,
                "agent_version": "0.1.0", "gpu_source": "nvml", "gpus": [gpu("GPU-a", 40), gpu("GPU-b", 20)]},
            {"id": "gpu-02", "phase": "serving", "health": "healthy", "freshness": "suspect", "connected": false,
                "age_ms": 154_000, "agent_version": "0.1.0", "gpu_source": "none", "gpus": []},
        ],
        "endpoints": [
            {"id": "gpu-01-vllm-8000", "node": "gpu-01", "engine": "vllm", "url": "http://gpu-01:8000", "models": [{"id": "llama"}],
                "phase": "serving", "health": "healthy", "freshness": "fresh", "in_flight": 3, "running": 3, "waiting": 0,
                "kv_used_ratio": 0.314, "max_sequences": 256, "age_ms": 180},
            {"id": "gpu-02-llama.cpp-8001", "node": "gpu-02", "engine": "llama.cpp", "url": "http://gpu-02:8001", "models": [],
                "phase": "serving", "health": "unhealthy", "health_reason": "connection refused", "freshness": "suspect",
                "in_flight": 0},
        ],
    }))
    .unwrap()
}

#[track_caller]
fn check(fleet: &FleetJson, gpus: bool, expect: &str) {
    let shown = render(fleet, gpus, Style { colour: false });
    assert!(shown == expect.trim_start_matches('\n'), "\n{shown}\n");
}

#[test]
fn a_reading_that_a_ready_engine_should_give_and_does_not_is_told_with_its_reason() {
    let mut fleet = fleet();
    let foreign = "the metrics page has nothing of vllm: is vllm the right kind of engine?";
    let told = |signal: &str, state: &str, reason: Option<&str>| {
        serde_json::from_value(json!({"signal": signal, "state": state, "reason": reason})).unwrap()
    };
    fleet.endpoints[0].signals = vec![
        told("running", "missing", Some(foreign)),
        told("waiting", "missing", Some(foreign)),
        told("kv_used", "stale", None),
        told("max_sequences", "not_told", None),
        told("models", "parsed", None),
    ];
    // Down: why nothing is read is said already.
    fleet.endpoints[1].signals = vec![told("running", "stale", None)];
    let shown = render(&fleet, false, Style { colour: false });
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains("does not tell")).collect();
    assert_eq!(
        lines,
        [
            "  endpoint gpu-01-vllm-8000 does not tell running, waiting: the metrics page has nothing of vllm: is vllm the \
             right kind of engine?",
            "  endpoint gpu-01-vllm-8000 does not tell kv_used: its page no longer answers in time",
        ]
    );
}

#[test]
fn one_engine_under_two_names_needs_attention() {
    let mut fleet = fleet();
    fleet.endpoints[1].same_engine_as = Some("gpu-01-vllm-8000".to_owned());
    let shown = render(&fleet, false, Style { colour: false });
    let line =
        "endpoints gpu-02-llama.cpp-8001 and gpu-01-vllm-8000 are one engine: its load is counted twice";
    assert!(shown.contains(line), "{shown}");
}

#[test]
fn who_waits_is_told_with_the_endpoints_that_could_take_it() {
    let mut fleet = fleet();
    let mut check = |model: &str, health: &str, expect: &str| {
        fleet.endpoints[0].health = health.to_owned();
        let queue = json!({"model": model, "waiting": 9, "oldest_waited_ms": 1_500});
        fleet.queues = vec![serde_json::from_value(queue).unwrap()];
        let shown = render(&fleet, false, Style { colour: false });
        let mut lines = shown.lines().skip_while(|line| *line != "needs attention");
        assert_eq!(lines.nth(1), Some(expect), "{shown}");
    };
    check("llama", "unhealthy", "  model llama: 0 of 1 endpoint ready, 9 waiting, the oldest for 1.50 s");
    check("llama", "healthy", "  model llama: 1 of 1 endpoint ready, 9 waiting, the oldest for 1.50 s");
    check("qwen", "healthy", "  model qwen: no endpoint serves it, 9 waiting, the oldest for 1.50 s");
}

#[test]
fn the_farm_on_one_screen_begins_with_what_needs_attention() {
    check(
        &fleet(),
        false,
        "
2 nodes, 2 GPUs, 1 of 2 endpoints ready, 3 in flight (2026-11-21T04:24:34.125Z, snapshot 42)

needs attention
  node gpu-02 last reported 2 m 34 s ago, disconnected
  endpoint gpu-02-llama.cpp-8001 is unhealthy: connection refused

ENDPOINT               NODE    ENGINE     STATE               IN FLIGHT  RUNNING  WAITING  KV USED        READ  MODELS
gpu-01-vllm-8000       gpu-01  vllm       ready                       3    3/256        0     31 %  180 ms ago  llama
gpu-02-llama.cpp-8001  gpu-02  llama.cpp  unhealthy, suspect          0        -        -        -       never

NODE    STATE                 REPORTED  GPUS                              VRAM USED  BUSY  HOTTEST  POWER  AGENT
gpu-01  healthy             120 ms ago  2x NVIDIA H100 80GB HBM3  60.0 of 160.0 GiB  50 %     61 C  841 W  0.1.0 (nvml)
gpu-02  healthy, suspect  2 m 34 s ago  none                                      -     -        -      -  0.1.0 (none)",
    );
}

#[test]
fn every_gpu_is_a_line_on_demand() {
    let shown = render(&fleet(), true, Style { colour: false });
    let expect = "\
NODE    GPU    NAME                   HEALTH          VRAM USED  BUSY  TEMP  POWER        READ
gpu-01  GPU-a  NVIDIA H100 80GB HBM3  healthy  40.0 of 80.0 GiB  50 %  61 C  420 W  900 ms ago
gpu-01  GPU-b  NVIDIA H100 80GB HBM3  healthy  20.0 of 80.0 GiB  50 %  61 C  420 W  900 ms ago";
    assert!(shown.ends_with(expect), "\n{shown}\n");
}

#[test]
fn an_unread_value_is_a_dash_and_never_a_zero() {
    let mut fleet = fleet();
    fleet.nodes[0].gpus[1].vram_used_bytes = None;
    fleet.nodes[0].gpus[1].busy_ratio = None;
    fleet.nodes[0].gpus[1].power_milliwatts = None;
    let shown = render(&fleet, false, Style { colour: false });
    let row = shown.lines().find(|line| line.contains("2x NVIDIA")).unwrap();
    let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[4..7], ["-", "-", "61 C"], "a sum over some GPUs would read as one over all");
}

#[test]
fn an_empty_farm_says_what_to_do() {
    let empty = FleetJson {
        generation: 0,
        time: "t".to_owned(),
        nodes: vec![],
        endpoints: vec![],
        queues: vec![],
        problems: vec![],
    };
    let shown = render(&empty, false, Style { colour: false });
    assert!(shown.contains("aya agent --scheduler http://HOST:8082"), "{shown}");
}

#[test]
fn a_state_names_first_what_keeps_requests_away() {
    let state = |phase: &str, health: &str, cooling: Option<f64>, freshness: &str| {
        let mut endpoint = fleet().endpoints.remove(0);
        (endpoint.phase, endpoint.health) = (phase.to_owned(), health.to_owned());
        (endpoint.cooling_ms, endpoint.freshness) = (cooling, freshness.to_owned());
        endpoint_state(&endpoint)
    };
    assert_eq!(state("serving", "healthy", None, "fresh"), "ready");
    assert_eq!(state("serving", "healthy", None, "stale"), "ready, stale");
    assert_eq!(state("draining", "unhealthy", None, "fresh"), "draining");
    assert_eq!(state("serving", "unhealthy", Some(10.0), "fresh"), "unhealthy");
    assert_eq!(state("serving", "healthy", Some(740.0), "fresh"), "pauses 740 ms");
    assert_eq!(state("serving", "healthy", Some(0.0), "fresh"), "ready");
}

#[test]
fn a_farm_without_gpus_says_so_where_they_are_asked_for() {
    let mut fleet = fleet();
    fleet.nodes.iter_mut().for_each(|node| node.gpus.clear());
    let shown = render(&fleet, true, Style { colour: false });
    assert!(
        shown.ends_with("No node tells of a GPU; see AGENT in `aya status` and the agents' logs."),
        "{shown}"
    );
}
