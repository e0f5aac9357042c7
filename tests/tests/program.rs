#![cfg(test)]
//! The program as an operator starts and stops it: exit codes, messages, signals.

use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use aya_tests::{Client, Exit, Farm, Process, aya, chat, sim, until, within};
use serde_json::json;

/// Runs a command that is expected to end by itself.
async fn run(args: &[&str], files: &[(&str, &str)], env: &[(&str, &str)]) -> Exit {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    Process::start_with(aya!(), dir.path(), "command", &args, env).ended().await
}

#[tokio::test]
async fn a_bad_configuration_tells_every_problem_with_its_place_and_exits_with_2() {
    let toml = "listen = \"nowhere\"\nqueue.capacityy = 5\n\n[timeouts]\nheader = \"10 parsecs\"\n\n[limits]\nbody_max = \"1\"\n";
    let exit = run(&["scheduler", "--config", "bad.toml"], &[("bad.toml", toml)], &[]).await;
    assert_eq!(exit.code, Some(2), "{exit:?}");
    for place in [
        "bad.toml:1: listen",
        "bad.toml:2: queue.capacityy",
        "bad.toml:5: timeouts.header",
        "bad.toml:8: limits.body_max",
    ] {
        assert!(exit.err.contains(place), "{place} is not in {}", exit.err);
    }
    assert!(exit.out.is_empty());
}

#[tokio::test]
async fn bad_settings_are_refused_wherever_they_come_from() {
    let both = ["scheduler", "--listen", "127.0.0.1:7001", "--admin-listen", "127.0.0.1:7001"];
    let free = "127.0.0.1:0";
    let no_policy =
        ["scheduler", "--policy", "best", "--listen", free, "--admin-listen", free, "--grpc-listen", free];
    for (args, files, env, says) in [
        (&["scheduler", "--config", "no.toml"][..], &[][..], &[][..], "no.toml"),
        (&["scheduler", "--config", "bad.toml"], &[("bad.toml", "a = = b")], &[], "bad.toml:1"),
        (&["scheduler", "--listen", "here"], &[], &[], "--listen"),
        (&no_policy, &[], &[], "best"),
        (&["scheduler"], &[], &[("AYA__QUEUE__CAPACITY", "many")], "AYA__QUEUE__CAPACITY"),
        (&both, &[], &[], "admin_listen"),
        (&["agent", "--node-id", "n1"], &[], &[], "schedulers"),
        (&["agent", "--scheduler", "http://a:1", "--engine", "vlm=http://b:1"], &[], &[], "known: vllm"),
        (&["agent", "--scheduler", "ftp://a:1"], &[], &[], "ftp://a:1"),
        (&["sim-engine", "--profile", "h900"], &[], &[], "h100-8b"),
        (&["sim-engine", "--fault", "rain"], &[], &[], "rain"),
        (&["scheduler", "--no-such-flag"], &[], &[], "--no-such-flag"),
        (&["no-such-command"], &[], &[], "no-such-command"),
        (&[], &[], &[], "Usage"),
    ] {
        let exit = run(args, files, env).await;
        assert_eq!(exit.code, Some(2), "{args:?}: {exit:?}");
        assert!(exit.err.contains(says), "{args:?}: {says:?} is not in {}", exit.err);
    }
}

#[tokio::test]
async fn a_busy_port_is_named_and_the_exit_is_1() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for args in [
        ["scheduler", "--listen", &addr, "--admin-listen", free, "--grpc-listen", free],
        ["scheduler", "--listen", free, "--admin-listen", &addr, "--grpc-listen", free],
        ["scheduler", "--listen", free, "--admin-listen", free, "--grpc-listen", &addr],
        ["agent", "--scheduler", "http://127.0.0.1:1", "--gpu-source", "none", "--admin-listen", &addr],
        ["sim-engine", "--listen", &addr, "--seed", "1", "--time-scale", "1"],
    ] {
        let exit = run(&args, &[], &[]).await;
        assert_eq!(exit.code, Some(1), "{args:?}: {exit:?}");
        assert!(exit.err.contains(&addr) && exit.err.contains("in use"), "{args:?}: {}", exit.err);
    }
}

#[tokio::test]
async fn a_second_scheduler_does_not_take_half_of_the_clients() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let api = farm.scheduler.api.to_string();
    let free = "127.0.0.1:0";
    let args = ["scheduler", "--listen", &api, "--admin-listen", free, "--grpc-listen", free];
    let exit = run(&args, &[], &[]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.err.contains(&api), "{}", exit.err);
    let _ = farm.api().chat(&chat(1)).await.ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_unreachable_scheduler_is_exit_3_and_an_unknown_id_exit_4() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    for command in [&["status"][..], &["decisions"], &["explain", "x"]] {
        let exit = run(&[command, &["--admin", &nobody]].concat(), &[], &[]).await;
        assert_eq!(exit.code, Some(3), "{command:?}: {exit:?}");
        assert!(exit.err.contains(nobody.trim_start_matches("http://")), "{command:?}: {}", exit.err);
    }
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let answer = farm.api().chat(&chat(1)).await.ok();
    let id = farm.record_of(&answer).await["request_id"].as_str().unwrap().to_owned();
    let admin = format!("http://{}", farm.scheduler.admin);
    for (command, code, says) in [
        (&["status"][..], 0, "e1"),
        (&["status", "-o", "json"], 0, "\"generation\""),
        (&["decisions"], 0, "e1"),
        (&["explain", &id], 0, "e1"),
        (&["explain", "nobody"], 4, ""),
    ] {
        let exit = run(&[command, &["--admin", &admin]].concat(), &[], &[]).await;
        assert_eq!(exit.code, Some(code), "{command:?}: {exit:?}");
        assert!(exit.out.contains(says), "{command:?}: {exit:?}");
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_configuration_is_checked_without_starting_anything() {
    let check = ["check-config", "--program", "scheduler", "c.toml"];
    let good = run(&check, &[("c.toml", "queue.capacity = 7")], &[]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(good.out.contains("queue.capacity") && good.out.contains('7'), "{}", good.out);
    let bad = run(&check, &[("c.toml", "queue.capacity = 7\nqueue.size = 7")], &[]).await;
    assert_eq!(bad.code, Some(2), "{bad:?}");
    assert!(bad.err.contains("c.toml:2: queue.size"), "{}", bad.err);
}

#[tokio::test]
async fn the_demo_runs_once_on_free_ports_and_exits_with_0() {
    let args = ["demo", "--once", "--port", "0", "--requests", "40", "--time-scale", "20"];
    let exit = run(&args, &[], &[]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for word in ["rr", "aya", "TTFT p99", "hopper-8b", "Went to"] {
        assert!(exit.out.contains(word), "{word} is not in {}", exit.out);
    }
}

#[tokio::test]
async fn agents_and_engines_stop_when_they_are_told() {
    let mut farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    farm.agents[0].process.terminate();
    let exit = within(Duration::from_secs(5), "the agent's end", farm.agents[0].process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    let engine = farm.engine_mut("e1");
    engine.process.terminate();
    let exit = within(Duration::from_secs(5), "the engine's end", engine.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    engine.dead = true;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn decision_records_on_disk_survive_a_kill() {
    let records = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}", records.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).start().await;
    for _ in 0..5 {
        let answer = farm.api().chat(&chat(1)).await.ok();
        let _ = farm.record_of(&answer).await;
    }
    let lines = || {
        let files = std::fs::read_dir(records.path()).unwrap();
        let texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let records = |text: String| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("{\"line\":")).map(str::to_owned).collect()
        };
        texts.flat_map(records).collect::<Vec<_>>()
    };
    until("five lines", async || {
        let found = lines().len();
        if found == 5 { Ok(()) } else { Err(found) }
    })
    .await;
    farm.scheduler.restart().await;
    let answer = farm.api().chat(&chat(1)).await.ok();
    let _ = farm.record_of(&answer).await;
    until("six whole lines", async || {
        let found = lines();
        let whole = found.iter().filter(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|v| v["outcome"]["status"] == json!("completed"))
        });
        if whole.count() == 6 { Ok(()) } else { Err(found) }
    })
    .await;
    farm.assert_accounted().await;
}

/// The listener as a descriptor that children inherit.
fn inherited(listener: &TcpListener) -> OwnedFd {
    let passed = rustix::io::fcntl_dupfd_cloexec(listener, 10).unwrap();
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::empty()).unwrap();
    passed
}

#[tokio::test]
async fn sockets_that_the_starter_had_bound_serve_whoever_came_before_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let passed = sockets.each_ref().map(inherited);
    let [api, grpc] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let start = |names: &str| {
        let script = format!(
            "exec 3<&{} 4<&{}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec \"$@\"",
            passed[0].as_raw_fd(),
            passed[1].as_raw_fd()
        );
        let free =
            ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
        let args = ["-c", &script, "bash", aya!(), "scheduler"].into_iter().chain(free);
        Process::start("bash", dir.path(), "scheduler", &args.map(str::to_owned).collect::<Vec<_>>())
    };
    for _ in 0..2 {
        // Before anybody accepts.
        let client = Client { addr: api };
        let mut process = None;
        let (early, ()) = tokio::join!(client.get("/v1/models"), async {
            process = Some(start("api:grpc"));
        });
        assert_eq!(early.status, 200);
        let mut process = process.unwrap();
        until("the agents' socket in its log", async || {
            let log = process.log();
            if log.contains(&grpc.to_string()) { Ok(()) } else { Err(log) }
        })
        .await;
        process.terminate();
        assert_eq!(process.ended().await.code, Some(0));
    }
    let exit = start("api:door").ended().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.err.contains("descriptor 4") && exit.err.contains("\"door\""), "{}", exit.err);
}
