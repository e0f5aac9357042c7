//! What is accepted, what is refused, and what a person is told about it.

use std::time::Duration;

use super::*;

const NO_ENV: [(String, String); 0] = [];

fn scheduler(text: &str) -> Result<SchedulerConfig, Problems> {
    parse("file.toml", text, NO_ENV, &[])
}

fn agent(text: &str) -> Result<AgentConfig, Problems> {
    parse("file.toml", text, NO_ENV, &[])
}

fn lines<C: Config>(result: Result<C, Problems>) -> Vec<String> {
    result.err().map(|problems| problems.0.iter().map(Problem::to_string).collect()).unwrap_or_default()
}

#[track_caller]
fn check(text: &str, expect: &[&str]) {
    assert_eq!(lines(scheduler(text)), expect);
}

#[track_caller]
fn check_agent(text: &str, expect: &[&str]) {
    assert_eq!(lines(agent(&format!("schedulers = [\"http://s:8082\"]\n{text}"))), expect);
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn flag(flag: &'static str, key: &'static str, value: &str) -> Flag {
    Flag { key, value: value.to_owned(), flag }
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = scheduler("").unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:8082");
    assert_eq!(config.limits.body_max, 32 << 20);
    assert_eq!(config.timeouts.ttft, Duration::from_secs(300));
    assert_eq!((config.queue.capacity, config.queue.wait_max), (1024, Duration::from_secs(30)));
    assert_eq!((config.queue.look_ahead, config.queue.overtakes_max, config.queue.turn_after), (8, 64, 16));
    assert_eq!((config.tenants.header, config.tenant.len(), config.slo.batch.shed_above), (None, 0, None));
    assert_eq!(config.placement.policy.as_str(), "aya");
    assert_eq!(config.decisions.dir, None);
    assert_eq!(config.telemetry.forget_after, Duration::from_secs(600));
    assert!((1..=256).contains(&config.threads));
}

#[test]
fn the_full_example_reads_and_sets_every_key() {
    let text = include_str!("../../../fixtures/config/scheduler.toml");
    let set: SchedulerConfig = parse("scheduler.toml", text, NO_ENV, &[]).unwrap();
    let unset = set.effective().iter().filter(|s| s.origin == Origin::Default).map(|s| &s.key);
    assert_eq!(unset.collect::<Vec<_>>(), Vec::<&String>::new(), "these keys are missing in the example");
    let text = include_str!("../../../fixtures/config/agent.toml");
    let set: AgentConfig = parse("agent.toml", text, NO_ENV, &[]).unwrap();
    let unset = set.effective().iter().filter(|s| s.origin == Origin::Default).map(|s| &s.key);
    assert_eq!(unset.collect::<Vec<_>>(), Vec::<&String>::new(), "these keys are missing in the example");
    let text = include_str!("../../../fixtures/config/sim-engine.toml");
    let set: SimEngineConfig = parse("sim-engine.toml", text, NO_ENV, &[]).unwrap();
    assert_eq!(set.effective().iter().filter(|s| s.origin == Origin::Default).count(), 0);
}

#[test]
fn a_recording_that_nothing_plays_is_a_mistake_unless_it_only_lies_in_the_file() {
    let ignored = "is played only by gpu.source = \"recorded\" (--gpu-source recorded): without it nothing reads the file";
    let file = "schedulers = [\"http://s:8082\"]\n[gpu]\nrecording = \"a.json\"";
    let told = |env: &[(String, String)], flags: &[Flag]| {
        lines(parse::<AgentConfig>("file.toml", file, env.to_vec(), flags))
    };
    assert_eq!(told(&[], &[]), Vec::<String>::new());
    let recording = || flag("--recording", "gpu.recording", "b.json");
    assert_eq!(told(&[], &[recording()]), [format!("--recording: gpu.recording: {ignored}")]);
    let variable = env(&[("AYA__GPU__RECORDING", "b.json")]);
    assert_eq!(told(&variable, &[]), [format!("AYA__GPU__RECORDING: gpu.recording: {ignored}")]);
    let source = flag("--gpu-source", "gpu.source", "recorded");
    assert_eq!(told(&[], &[recording(), source]), Vec::<String>::new());
}

#[test]
fn a_header_of_tenants_is_the_name_of_one() {
    let bad = "file.toml:2: tenants.header: is not the name of a header, such as \"x-team\"";
    for (header, expect) in
        [("x-team", None), ("X_Team!", None), ("", Some(bad)), ("x team", Some(bad)), ("x:", Some(bad))]
    {
        check(&format!("[tenants]\nheader = \"{header}\""), expect.as_slice());
    }
}

#[test]
fn every_problem_names_file_line_and_key() {
    check(
        "[queue]\ncapacity = 5\nwait_max = 3",
        &["file.toml:3: queue.wait_max: must be a text in quotes, not a number"],
    );
    check(
        "listen = \"8080\"",
        &["file.toml:1: listen: \"8080\" is not an IP address with a port, such as 127.0.0.1:8080"],
    );
    check("\n\nlisten = true", &["file.toml:3: listen: must be a text in quotes, not true or false"]);
    check("limits = 3", &["file.toml:1: limits: is a section, written as [limits]"]);
    check("threads = -1", &["file.toml:1: threads: must not be negative"]);
    check("threads = 1.5", &["file.toml:1: threads: must be a whole number, not a number"]);
    check("threads = 1979-05-27", &["file.toml:1: threads: must be a whole number, not a date"]);
    check("[log]\nformat = \"xml\"", &["file.toml:2: log.format: \"xml\" is not one of text, json"]);
    check(
        "[placement]\npolicy = \"a b\"",
        &["file.toml:2: placement.policy: \"a b\": the character at byte 1 is not allowed"],
    );
}

#[test]
fn a_value_out_of_range_is_told_the_range() {
    check("threads = 0", &["file.toml:1: threads: 0 is out of range: from 1 to 256"]);
    check(
        "[limits]\nbody_max = \"2GiB\"",
        &["file.toml:2: limits.body_max: 2GiB is out of range: from 1KiB to 1GiB"],
    );
    check(
        "[timeouts]\nconnect = \"10m\"",
        &["file.toml:2: timeouts.connect: 10m is out of range: from 1ms to 5m"],
    );
}

#[test]
fn an_unknown_key_is_an_error_and_a_near_one_is_suggested() {
    check("[queue]\ncapcity = 5", &["file.toml:2: queue.capcity: unknown key; did you mean capacity?"]);
    check("[queues]\ncapacity = 5", &["file.toml:1: queues: unknown key; did you mean queue?"]);
    check("colour = 1", &["file.toml:1: colour: unknown key"]);
    check("queue.depth.max = 1", &["file.toml:1: queue.depth: unknown key"]);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    check(
        "threads = 0\nbogus = 1\n[queue]\nwait_max = \"soon\"\n[limits]\nhead_max = 1",
        &[
            "file.toml:1: threads: 0 is out of range: from 1 to 256",
            "file.toml:2: bogus: unknown key",
            "file.toml:4: queue.wait_max: \"soon\" is not a duration such as \"250ms\", \"10s\" or \"5m\"",
            "file.toml:6: limits.head_max: must be a text in quotes, not a number",
        ],
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    let problems = lines(scheduler("threads = 1\nlisten =\n"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("file.toml:2: "), "{problems:?}");
    let problems = lines(scheduler("threads = 1\nthreads = 2\n"));
    assert!(problems[0].starts_with("file.toml:2: ") && problems[0].contains("duplicate"), "{problems:?}");
}

#[test]
fn keys_that_contradict_each_other_are_found() {
    check(
        "admin_listen = \"127.0.0.1:8080\"",
        &["file.toml:1: admin_listen: admin_listen and listen are the same address, 127.0.0.1:8080"],
    );
    check(
        "listen = \"127.0.0.1:8082\"",
        &["file.toml:1: listen: grpc_listen and listen are the same address, 127.0.0.1:8082"],
    );
    check("listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"", &[]);
    check(
        "[timeouts]\ntotal = \"1m\"",
        &["file.toml:2: timeouts.total: timeouts.ttft is longer than timeouts.total"],
    );
    check(
        "[timeouts]\nttft = \"5s\"\ntotal = \"10s\"",
        &["file.toml:3: timeouts.total: queue.wait_max is longer than timeouts.total"],
    );
    check(
        "[telemetry]\nforget_after = \"9s\"\nsuspect_after = \"10s\"",
        &[
            "file.toml:3: telemetry.suspect_after: telemetry.suspect_after is longer than telemetry.forget_after",
        ],
    );
    check(
        "[[alias]]\nname = \"gpt\"\nmodel = \"gpt-2\"\n[[alias]]\nname = \"gpt\"\nmodel = \"gpt\"",
        &[
            "file.toml:5: alias[1].name: gpt is an alias already",
            "file.toml:6: alias[1].model: gpt is itself an alias; name the served model",
        ],
    );
}

#[test]
fn a_section_of_a_list_must_be_complete() {
    check("[[alias]]\nname = \"gpt\"", &["file.toml:1: alias[0].model: is required"]);
    check("[alias]\nname = \"gpt\"", &["file.toml:1: alias: is a list of sections, written as [[alias]]"]);
    check("alias = [3]", &["file.toml:1: alias[0]: must be a section, not a number"]);
    check_agent(
        "[[engine]]\nkind = \"vLLM\"\nurl = \"https://a:1\"",
        &[
            "file.toml:3: engine[0].kind: \"vLLM\": unknown engine kind \"vLLM\"; known: vllm, sglang, llama.cpp, tgi, trtllm, triton, ollama, simulated",
            "file.toml:4: engine[0].url: \"https://a:1\": it is not of the form http://HOST[:PORT]",
        ],
    );
}

#[test]
fn a_variable_overlays_the_file_and_a_flag_overlays_both() {
    let text = "threads = 2\n[queue]\ncapacity = 5\nwait_max = \"1s\"";
    let variables =
        env(&[("AYA__QUEUE__CAPACITY", "6"), ("AYA__THREADS", "3"), ("PATH", "/bin"), ("AYA_DEMO", "1")]);
    let flags = [flag("--threads", "threads", "4")];
    let config: SchedulerConfig = parse("file.toml", text, variables, &flags).unwrap();
    assert_eq!((config.threads, config.queue.capacity), (4, 6));
    assert_eq!(config.queue.wait_max, Duration::from_secs(1));
    let origin = |key: &str| config.effective().iter().find(|s| s.key == key).unwrap().origin.to_string();
    assert_eq!(origin("threads"), "--threads");
    assert_eq!(origin("queue.capacity"), "AYA__QUEUE__CAPACITY");
    assert_eq!(origin("queue.wait_max"), "file.toml:4");
    assert_eq!(origin("retry.attempts_max"), "default");
}

#[test]
fn a_bad_variable_or_flag_is_told_by_its_name() {
    let variables =
        env(&[("AYA__QUEUE__CAPACITY", "many"), ("AYA__QUEUE__CAPCITY", "1"), ("AYA__LISTEN__PORT", "1")]);
    let flags = [flag("--listen", "listen", "nowhere")];
    let result: Result<SchedulerConfig, _> =
        parse("file.toml", "listen = \"127.0.0.1:1\"", variables, &flags);
    assert_eq!(
        lines(result),
        [
            "AYA__LISTEN__PORT: listen.port: listen is not a section",
            "AYA__QUEUE__CAPACITY: queue.capacity: \"many\" is not a whole number",
            "AYA__QUEUE__CAPCITY: queue.capcity: unknown key; did you mean capacity?",
            "--listen: listen: \"nowhere\" is not an IP address with a port, such as 127.0.0.1:8080",
        ]
    );
}

#[test]
fn an_agent_needs_a_scheduler_and_nothing_else() {
    assert_eq!(
        lines(agent("")),
        ["schedulers: is required: a list such as [\"http://scheduler:8082\"], or --scheduler URL"]
    );
    assert_eq!(
        lines(agent("schedulers = [\"s:8082\"]")),
        ["file.toml:1: schedulers: \"s:8082\": it is not of the form http://HOST[:PORT]"]
    );
    let config = agent("schedulers = [\"http://a:8082\", \"http://b\"]").unwrap();
    assert_eq!(
        config.schedulers.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
        ["http://a:8082", "http://b:80"]
    );
    assert!(!config.node_id.as_str().is_empty());
    assert_eq!(config.gpu.source, GpuChoice::Auto);
    assert_eq!(config.polling.period, Duration::from_millis(250));
    assert_eq!(config.report.full_period, Duration::from_secs(30));
}

#[test]
fn an_agent_is_told_what_contradicts_itself() {
    check_agent(
        "[gpu]\nsource = \"simulated\"",
        &[
            "gpu.simulated: is required by gpu.source = \"simulated\" without a simulated engine: a list such as [\"8*h100-8b\"]",
        ],
    );
    check_agent(
        "[gpu]\nsource = \"recorded\"",
        &["gpu.recording: is required by gpu.source = \"recorded\": a file, or --recording FILE"],
    );
    check_agent(
        "[gpu]\nsimulated = [\"0*h100-8b\"]",
        &["file.toml:3: gpu.simulated: \"0*h100-8b\": the count is not a number from 1 to 64"],
    );
    check_agent(
        "advertise_host = \"a:1\"",
        &["file.toml:2: advertise_host: is not a host name or address (IPv6 in brackets), without port"],
    );
    let engine = "[[engine]]\nkind = \"vllm\"\nurl = \"http://a:1\"\nname = \"n\"\n";
    check_agent(
        &format!("{engine}{engine}"),
        &[
            "file.toml:8: engine[1].url: http://a:1 is listed twice",
            "file.toml:9: engine[1].name: n is given twice",
        ],
    );
}

#[test]
fn engines_come_from_flags_in_short_form_and_replace_the_files() {
    let text = "schedulers = [\"http://s:8082\"]\n[[engine]]\nkind = \"tgi\"\nurl = \"http://old:1\"";
    let flags = [
        flag("--engine", "engine", "vllm=http://127.0.0.1:8000"),
        flag("--engine", "engine", "llama.cpp=http://127.0.0.1:8001"),
        flag("--gpu-simulated", "gpu.simulated", "8*h100-8b,2*l4-8b"),
        flag("--gpu-source", "gpu.source", "simulated"),
    ];
    let config: AgentConfig = parse("file.toml", text, NO_ENV, &flags).unwrap();
    let engines: Vec<_> = config.engines.iter().map(|e| (e.kind.as_str(), e.url.as_str())).collect();
    assert_eq!(engines, [("vllm", "http://127.0.0.1:8000"), ("llama.cpp", "http://127.0.0.1:8001")]);
    let gpus: Vec<_> = config.gpu.simulated.iter().map(|g| (g.count, g.profile.name)).collect();
    assert_eq!(gpus, [(8, "h100-8b"), (2, "l4-8b")]);
    let one: AgentConfig = parse(
        "",
        "",
        env(&[("AYA__SCHEDULERS", "http://s:1"), ("AYA__ENGINE", "vllm=http://a:1, tgi=http://a:2")]),
        &[],
    )
    .unwrap();
    assert_eq!(one.engines.len(), 2);
    let bad: Result<AgentConfig, _> = parse("", text, NO_ENV, &[flag("--engine", "engine", "vllm")]);
    assert_eq!(lines(bad), ["--engine: engine[0]: \"vllm\" is not of the form KIND=URL"]);
}

#[test]
fn a_secret_comes_from_a_variable_or_a_file_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "sk-from-file\n").unwrap();
    let text = format!("[upstream]\napi_key_file = {:?}", path.display().to_string());
    let from_file = scheduler(&text).unwrap();
    assert_eq!(from_file.upstream.api_key.as_ref().map(Secret::expose), Some("sk-from-file"));
    let from_env: SchedulerConfig =
        parse("", "", env(&[("AYA__UPSTREAM__API_KEY", "sk-from-env")]), &[]).unwrap();
    assert_eq!(from_env.upstream.api_key.as_ref().map(Secret::expose), Some("sk-from-env"));
    for config in [from_file, from_env] {
        let shown = format!("{config:?} {:?}", config.effective());
        assert!(!shown.contains("sk-from"), "{shown}");
    }
}

#[test]
fn a_secret_in_the_file_or_a_bad_one_is_refused_without_repeating_it() {
    check(
        "[upstream]\napi_key = \"sk-oops\"",
        &["file.toml:2: upstream.api_key: a secret is not written here; use api_key_file or a variable"],
    );
    check(
        "[upstream]\napi_key_file = \"/nowhere/key\"",
        &[
            "file.toml:2: upstream.api_key_file: /nowhere/key cannot be opened: No such file or directory (os error 2)",
        ],
    );
    let bad: Result<SchedulerConfig, _> =
        parse("", "", env(&[("AYA__UPSTREAM__API_KEY", "sk two words")]), &[]);
    assert_eq!(
        lines(bad),
        ["AYA__UPSTREAM__API_KEY: upstream.api_key: the secret has characters other than visible ASCII"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let problem = |path: &Path| lines(load::<SchedulerConfig>(Some(path), NO_ENV, &[])).join("; ");
    assert!(problem(&dir.path().join("none.toml")).contains("none.toml:1: cannot be opened: No such file"));
    let large = dir.path().join("large.toml");
    std::fs::write(&large, "#".repeat(1024 * 1024 + 1)).unwrap();
    assert!(problem(&large).ends_with("large.toml:1: is larger than 1MiB"));
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(problem(&binary).ends_with("is not UTF-8 text"));
}

#[test]
fn a_gpu_is_named_by_index_or_uuid() {
    let text = "[[engine]]\nkind = \"ollama\"\nurl = \"http://a:1\"\ngpus = [\"0\", \"GPU-1\"]\nkv_bytes_per_token = \"128KiB\"\nprofile = \"l4-8b\"";
    let config = agent(&format!("schedulers = [\"http://s:8082\"]\n{text}")).unwrap();
    assert_eq!(config.engines[0].gpus[0], GpuRef::Index(0));
    assert!(matches!(&config.engines[0].gpus[1], GpuRef::Uuid(uuid) if uuid.as_str() == "GPU-1"));
    assert_eq!(config.engines[0].kv_bytes_per_token.map(|b| b.get()), Some(131_072));
    assert_eq!(config.engines[0].profile.map(|p| p.name), Some("l4-8b"));
}

proptest::proptest! {
    #[test]
    fn no_text_and_no_variable_breaks_the_reader(text in "(?s).{0,200}", value in "(?s).{0,40}") {
        let _ = scheduler(&text);
        let variables = ["THREADS", "QUEUE__WAIT_MAX", "LIMITS__BODY_MAX", "ALIAS", "ALIAS__NAME", "", "__", "LISTEN"];
        let variables = variables.map(|name| (format!("AYA__{name}"), value.clone()));
        let _ = parse::<SchedulerConfig>("", "", variables, &[]);
        let _ = (parse_duration(&value), parse_size(&value));
    }

    #[test]
    fn a_duration_and_a_size_survive_the_trip(nanos: u64) {
        let duration = Duration::from_nanos(nanos);
        proptest::prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        proptest::prop_assert_eq!(parse_size(&format_size(nanos)), Ok(nanos));
    }
}
