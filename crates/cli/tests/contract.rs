#![cfg(test)]
//! The binary's contract with shells and scripts: exit codes, what goes to stdout and what to stderr.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn aya(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aya"));
    command.args(args).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    aya(args).output().unwrap()
}

/// The exit code, and what must be on stdout and stderr.
#[track_caller]
fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = run(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    assert!(out.contains(stdout), "{args:?}: stdout\n{out}");
    assert!(err.contains(stderr), "{args:?}: stderr\n{err}");
    assert_eq!(stdout.is_empty(), out.is_empty(), "{args:?}: stdout\n{out}");
    assert_eq!(stderr.is_empty(), err.is_empty(), "{args:?}: stderr\n{err}");
}

/// Where a scheduler can always start.
const FREE_PORTS: [&str; 8] = [
    "--listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
    "--grpc-listen",
    "127.0.0.1:0",
    "--log",
    "error",
];

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn help_and_version_are_answers_and_bad_usage_is_exit_code_2() {
    check(&["--help"], 0, "Usage: aya", "");
    check(&["scheduler", "--help"], 0, "--grpc-listen", "");
    check(&["--version"], 0, concat!("aya ", env!("CARGO_PKG_VERSION")), "");
    check(&[], 2, "", "Usage: aya");
    check(&["scheduler", "--lisen", "127.0.0.1:0"], 2, "", "--listen");
    check(&["decisions", "--outcome", "lost"], 2, "", "client_cancelled");
    check(&["sim-engine", "--fault", "flood"], 2, "", "is not a fault");
}

#[test]
fn a_bad_configuration_tells_all_problems_on_stderr_and_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, "listen = 1\n[queue]\ncapcity = 5\n").unwrap();
    let file = file.to_str().unwrap();
    let first = "bad.toml:1: listen: must be a text in quotes, not a number";
    let second = "bad.toml:3: queue.capcity: unknown key; did you mean capacity?";
    for args in [vec!["check-config", file], vec!["scheduler", "--config", file]] {
        check(&args, 2, "", first);
        check(&args, 2, "", second);
    }
    check(
        &["scheduler", "--listen", "nowhere", "--threads", "0"],
        2,
        "",
        "--threads: threads: 0 is out of range",
    );
    check(&[&["scheduler", "--policy", "best"], &FREE_PORTS[..]].concat(), 2, "", "placement.policy: ");
    check(&["agent"], 2, "", "schedulers: is required");
    check(&["agent", "--scheduler", "http://s:1", "--engine", "vllm"], 2, "", "KIND=URL");
    check(&["check-config", "/nowhere.toml"], 2, "", "/nowhere.toml:1: cannot be opened");
}

#[test]
fn a_good_configuration_is_shown_as_it_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("good.toml");
    std::fs::write(&file, "[queue]\ncapacity = 5\n").unwrap();
    let file = file.to_str().unwrap();
    check(&["check-config", file], 0, "good.toml: ok for aya scheduler", "");
    check(&["check-config", file, "-o", "json"], 0, "\"program\": \"scheduler\"", "");
    let output = aya(&["check-config", file]).env("AYA__QUEUE__CAPACITY", "7").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let line = shown.lines().find(|line| line.starts_with("queue.capacity ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["queue.capacity", "7", "AYA__QUEUE__CAPACITY"]);
}

#[test]
fn a_scheduler_that_is_not_there_is_exit_code_3() {
    let url = format!("http://127.0.0.1:{}", free_port());
    for args in [vec!["status"], vec!["decisions"], vec!["explain", "x"]] {
        check(&[args, vec!["--admin", &url]].concat(), 3, "", "is it running?");
    }
}

#[test]
fn a_port_that_is_taken_is_exit_code_1_and_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(&["sim-engine", "--listen", &address], 1, "", &address);
    let args = ["scheduler", "--listen", &address];
    check(&[&args, &FREE_PORTS[2..]].concat(), 1, "", &address);
}

#[test]
fn a_reader_that_goes_early_is_no_panic() {
    let mut child =
        aya(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(complaint, "");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        check(&["completions", shell], 0, "check-config", "");
    }
}

#[test]
fn what_is_not_on_a_terminal_has_no_colour() {
    let output =
        run(&["check-config", concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/config/agent.toml")]);
    assert!(output.status.success());
    assert!(!output.stdout.contains(&0x1b));
}
