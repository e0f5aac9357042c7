#![cfg(test)]
//! The decision log as an operator uses it: written under traffic, left by a killed scheduler, replayed, questioned.

use std::fs;
use std::path::Path;

use aya_tests::{Exit, Farm, Process, aya, chat, sim, streamed, until, with};
use serde_json::{Value, json};

/// Runs a command that is expected to end by itself.
async fn run(args: &[&str]) -> Exit {
    let dir = tempfile::tempdir().unwrap();
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    Process::start_with(aya!(), dir.path(), "command", &args, &[]).ended().await
}

async fn replayed(dir: &Path) -> Value {
    let exit = run(&["replay", "-o", "json", dir.to_str().unwrap()]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    serde_json::from_str(&exit.out).unwrap()
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

#[tokio::test]
async fn every_decision_of_a_killed_scheduler_is_made_again_without_a_difference() {
    let records = tempfile::tempdir().unwrap();
    let toml = format!("[decisions]\ndir = {:?}\nsegment_max = \"64KiB\"\n", records.path());
    let plan = Farm::of(aya!()).scheduler(&toml);
    let mut farm = plan
        .node(vec![sim("e1"), sim("e2").profile("l4-8b").max_sequences(2)])
        .engine(sim("e3").flag("--fault", "503=0.5"))
        .start()
        .await;
    // Many at once and one by one, retried, refused, held by full endpoints, by other policies too.
    let mut answers = Vec::new();
    for round in 0..14_u32 {
        let burst = (0..8).map(|n| {
            let api = farm.api();
            async move { api.chat(&with(streamed(20 + n), &json!({"stream": n % 2 == 0}))).await }
        });
        answers.extend(futures_util::future::join_all(burst).await);
        let refused = with(chat(1), &json!({"model": format!("stranger-{round}")}));
        let _ = farm.api().chat(&refused).await;
    }
    let last = farm.api().chat(&chat(1)).await.ok();
    let _ = farm.record_of(&last).await;
    assert!(answers.iter().filter(|answer| answer.status == 200).count() > 70);
    farm.scheduler.process.kill();
    let report = replayed(records.path()).await;
    assert!(count(&report, "decisions") >= 126 && count(&report, "records") >= 126, "{report}");
    assert!(report["files"].as_array().unwrap().len() > 1, "it was to take more than one segment: {report}");
    assert_eq!((count(&report, "differing"), &report["differences"]), (0, &json!([])));

    // A scheduler that comes after it goes on in segments of its own.
    farm.scheduler.restart().await;
    let answer = until("an answer after the restart", async || {
        let answer = farm.api().chat(&chat(1)).await;
        if answer.status == 200 { Ok(answer) } else { Err(answer.status) }
    })
    .await;
    let record = farm.record_of(&answer).await;
    let after = replayed(records.path()).await;
    assert!(count(&after, "decisions") > count(&report, "decisions"));

    // Why not elsewhere: in words, with the other endpoint's numbers.
    let (id, went) = (record["decision_id"].as_str().unwrap(), record["chosen"].as_str().unwrap());
    let admin = format!("http://{}", farm.scheduler.admin);
    let explain =
        async |endpoint: &str| run(&["explain", "--admin", &admin, "--why-not", endpoint, id]).await;
    assert!(explain(went).await.out.contains("It did go to"));
    for candidate in record["candidates"].as_array().unwrap() {
        let other = candidate["endpoint"].as_str().unwrap();
        let exit = explain(other).await;
        assert_eq!(exit.code, Some(0), "{exit:?}");
        assert!(other == went || exit.out.starts_with(&format!("Not {other}: ")), "{exit:?}");
    }
    assert_eq!(explain("nowhere").await.code, Some(4));

    // The log is a trace too.
    let first = fs::read_dir(records.path()).unwrap().map(|file| file.unwrap().path()).min().unwrap();
    let trace = ["simulate", "--trace", first.to_str().unwrap(), "--fleet", "h100-8b", "-o", "json"];
    let exit = run(&trace).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let rows: Value = serde_json::from_str(&exit.out).unwrap();
    assert!(rows[0]["requests"].as_u64().unwrap() > 0, "{rows}");

    // The API still knows every score; what another policy would have done is answered from the log.
    assert!(record["candidates"][0]["terms"]["ttft_s"].is_number(), "{record}");
    let exit = run(&["replay", "--policy", "rr", "-o", "json", records.path().to_str().unwrap()]).await;
    let what_if: Value = serde_json::from_str(&exit.out).unwrap();
    let what_if = &what_if["what_if"];
    assert!(what_if["agreement_ratio"].as_f64().unwrap() < 1.0, "{what_if}");
    assert!(what_if["regret"]["mean_s"].as_f64().unwrap() > 0.0, "{what_if}");
    assert!(what_if["placements"].as_array().unwrap().len() >= 2, "{what_if}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_changed_number_fails_the_replay_and_a_torn_line_does_not() {
    let records = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}", records.path());
    let farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).engine(sim("e2")).start().await;
    for _ in 0..4 {
        let answer = farm.api().chat(&chat(1)).await.ok();
        let _ = farm.record_of(&answer).await;
    }
    let report = until("four decisions", async || {
        let report = replayed(records.path()).await;
        if count(&report, "records") == 4 { Ok(report) } else { Err(report) }
    })
    .await;
    assert_eq!(count(&report, "decisions"), 4);
    let path = fs::read_dir(records.path()).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&path).unwrap();
    let copy = records.path().join("copy.jsonl");
    let copied = copy.to_str().unwrap();

    fs::write(&copy, text.trim_end()).unwrap();
    let exit = run(&["replay", copied]).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.out.contains("the last line was never finished"), "{exit:?}");

    let line = text.lines().find(|line| line.contains("\"line\":\"decided\"")).unwrap();
    let mut changed: Value = serde_json::from_str(line).unwrap();
    changed["outcome"]["total"] = json!(0.5);
    fs::write(&copy, text.replace(line, &changed.to_string())).unwrap();
    let exit = run(&["replay", copied]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let id = changed["decision_id"].as_str().unwrap();
    let named =
        exit.out.lines().any(|line| line.contains(id) && line.contains("total") && line.contains("0.5"));
    assert!(named && exit.err.contains("1 of 4 decisions"), "{exit:?}");

    fs::write(&copy, "TIMESTAMP,ContextTokens,GeneratedTokens\n").unwrap();
    for (args, code, said) in [
        (vec!["replay", copied], 1, "line 1: this is no decision log"),
        (vec!["replay", "/nowhere/decisions"], 4, "/nowhere/decisions"),
        (vec!["replay", "--policy", "best", copied], 2, "unknown policy \"best\""),
        (vec!["replay"], 2, "FILE|DIR"),
    ] {
        let exit = run(&args).await;
        assert_eq!(exit.code, Some(code), "{exit:?}");
        assert!(exit.err.contains(said), "{exit:?}");
    }
    farm.assert_accounted().await;
}
