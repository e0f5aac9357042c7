//! Scheduler, agents and engines of one test.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::client::{Answer, Client, Live};
use crate::metrics::Metrics;
use crate::process::Process;
use crate::tap::Tap;
use crate::wait::until;

/// A farm in running.
#[derive(Debug)]
pub struct Farm {
    pub scheduler: Scheduler,
    pub agents: Vec<Agent>,
    pub engines: Vec<Engine>,
    /// Last, so that it outlives the processes that write into it.
    pub dir: TempDir,
}

/// A farm to be.
#[derive(Debug, Clone)]
pub struct FarmPlan {
    exe: String,
    scheduler: String,
    scheduler_shell: Option<String>,
    agent: String,
    nodes: Vec<Vec<EnginePlan>>,
}

/// A simulated engine to be.
#[derive(Debug, Clone)]
pub struct EnginePlan {
    name: String,
    profile: String,
    flags: Vec<String>,
}

/// An H100 that runs ten times faster than the hardware would: about 1 ms per token.
#[must_use]
pub fn sim(name: &str) -> EnginePlan {
    EnginePlan { name: name.to_owned(), profile: "h100-8b".to_owned(), flags: Vec::new() }
        .flag("--time-scale", "10")
}

impl EnginePlan {
    /// One more flag of `aya sim-engine`; the last one of a name counts.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !["--model", "--fault"].contains(&name)
            && let Some(at) = self.flags.iter().position(|flag| flag == name)
        {
            self.flags.drain(at..at + 2);
        }
        self.flags.extend([name.to_owned(), value]);
        self
    }

    #[must_use]
    pub fn profile(mut self, profile: &str) -> Self {
        profile.clone_into(&mut self.profile);
        self
    }

    /// The hardware's own speed: about 8 ms per token, so that a test can act in the middle of an answer.
    #[must_use]
    pub fn slow(self) -> Self {
        self.flag("--time-scale", "1")
    }

    #[must_use]
    pub fn max_sequences(self, count: u32) -> Self {
        self.flag("--max-sequences", count.to_string())
    }
}

impl FarmPlan {
    /// One more node with one engine; nodes are called `n1`, `n2` in order.
    #[must_use]
    pub fn engine(self, engine: EnginePlan) -> Self {
        self.node(vec![engine])
    }

    /// One more node with several engines.
    #[must_use]
    pub fn node(mut self, engines: Vec<EnginePlan>) -> Self {
        self.nodes.push(engines);
        self
    }

    /// The scheduler's configuration file.
    #[must_use]
    pub fn scheduler(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.scheduler);
        self
    }

    /// A shell command that the scheduler's process runs first, such as `ulimit -n 256`.
    #[must_use]
    pub fn scheduler_shell(mut self, command: &str) -> Self {
        self.scheduler_shell = Some(command.to_owned());
        self
    }

    /// Sections for every agent's configuration file.
    #[must_use]
    pub fn agent(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.agent);
        self
    }

    /// Starts everything and waits until every engine is ready.
    pub async fn start(self) -> Farm {
        let farm = self.start_unready().await;
        let count: usize = farm.engines.len();
        until("every endpoint to be ready", async || {
            let ready = farm.scheduler.endpoints().await.iter().filter(|e| is_ready(e)).count();
            if ready == count { Ok(()) } else { Err(format!("{ready} of {count}")) }
        })
        .await;
        farm
    }

    /// Starts everything and waits for nothing.
    pub async fn start_unready(self) -> Farm {
        let dir = tempfile::tempdir().unwrap();
        let exe = match &self.scheduler_shell {
            None => self.exe.clone(),
            Some(command) => in_shell(dir.path(), &self.exe, command),
        };
        let scheduler = Scheduler::start(&exe, dir.path(), "scheduler", &self.scheduler).await;
        let mut engines = Vec::new();
        let mut agents = Vec::new();
        for (at, node) in self.nodes.into_iter().enumerate() {
            let mut local = Vec::new();
            for plan in node {
                let engine = Engine::start(&self.exe, dir.path(), plan).await;
                local.push((engine.name.clone(), engine.url()));
                engines.push(engine);
            }
            let name = format!("n{}", at + 1);
            let urls = [format!("http://{}", scheduler.grpc)];
            agents.push(Agent::start(&self.exe, dir.path(), &name, &urls, &local, &self.agent));
        }
        Farm { scheduler, agents, engines, dir }
    }
}

/// A program that runs a shell command and then becomes `exe`.
fn in_shell(dir: &Path, exe: &str, command: &str) -> String {
    let path = dir.join("limited");
    std::fs::write(&path, format!("#!/bin/sh\n{command}\nexec {exe:?} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn is_ready(endpoint: &Value) -> bool {
    endpoint.get("phase").is_some_and(|p| p == "serving")
        && endpoint.get("health").is_some_and(|h| h == "healthy")
}

impl Farm {
    /// A farm of this program.
    #[must_use]
    pub fn of(exe: &str) -> FarmPlan {
        FarmPlan {
            exe: exe.to_owned(),
            scheduler: String::new(),
            scheduler_shell: None,
            agent: String::new(),
            nodes: Vec::new(),
        }
    }

    /// A farm of one engine, `e1`, behind a tap. Must run on a `LocalSet`, see [`crate::tapped`].
    pub async fn behind_a_tap(exe: &str, toml: &str) -> (Self, Tap) {
        let mut farm = Self::of(exe).scheduler(toml).start().await;
        let engine = Engine::start(exe, farm.dir.path(), sim("e1")).await;
        let tap = Tap::before(engine.addr).await;
        let engines = [("e1".to_owned(), format!("http://{}", tap.addr))];
        let schedulers = [format!("http://{}", farm.scheduler.grpc)];
        farm.agents.push(Agent::start(exe, farm.dir.path(), "n1", &schedulers, &engines, ""));
        farm.engines.push(engine);
        until("readiness", async || {
            let answer = farm.admin().get("/readyz").await;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })
        .await;
        (farm, tap)
    }

    /// As a client of the farm.
    #[must_use]
    pub fn api(&self) -> Client {
        Client { addr: self.scheduler.api }
    }

    /// A chat request of this id under way; aborting the task closes its connection.
    #[must_use]
    pub fn send(&self, id: &str, body: Value) -> JoinSet<Live> {
        let (api, id) = (self.api(), id.to_owned());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let headers = [("x-request-id", id.as_str())];
            api.open("POST", "/v1/chat/completions", &headers, body.to_string().into()).await
        });
        task
    }

    /// Waits until `e1` says that it has this request in this state.
    pub async fn in_state(&self, id: &str, state: &str) {
        until(&format!("{id} to be {state}"), async || {
            let seen = self.engine("e1").request_state(id).await;
            if seen.as_deref() == Some(state) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// As its operator.
    #[must_use]
    pub fn admin(&self) -> Client {
        Client { addr: self.scheduler.admin }
    }

    /// The engine of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn engine(&self, name: &str) -> &Engine {
        self.engines.iter().find(|engine| engine.name == name).expect("an engine of this name")
    }

    /// The same, to be killed or started again.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn engine_mut(&mut self, name: &str) -> &mut Engine {
        self.engines.iter_mut().find(|engine| engine.name == name).expect("an engine of this name")
    }

    /// The record of an ended request, by request or decision id; waits until it is written.
    pub async fn record(&self, id: &str) -> Value {
        until("a decision record", async || {
            let answer = self.admin().get(&format!("/api/v1/decisions/{id}")).await;
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.status) }
        })
        .await
    }

    /// The record behind an answer.
    ///
    /// # Panics
    /// If the answer has no id.
    pub async fn record_of(&self, answer: &Answer) -> Value {
        self.record(answer.header("x-request-id").expect("an answer with an id")).await
    }
}

/// `aya scheduler`.
#[derive(Debug)]
pub struct Scheduler {
    pub process: Process,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub grpc: SocketAddr,
    exe: String,
    config: std::path::PathBuf,
}

impl Scheduler {
    /// Starts on free ports and waits until it listens.
    pub async fn start(exe: &str, dir: &Path, name: &str, toml: &str) -> Self {
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, toml).unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::listen(exe, &config, name, [free; 3], &[]).await
    }

    async fn listen(
        exe: &str,
        config: &Path,
        name: &str,
        [api, admin, grpc]: [SocketAddr; 3],
        flags: &[&str],
    ) -> Self {
        let dir = config.parent().unwrap();
        let args = [
            ("--config", config.display().to_string()),
            ("--listen", api.to_string()),
            ("--admin-listen", admin.to_string()),
            ("--grpc-listen", grpc.to_string()),
            ("--log", "info".to_owned()),
        ];
        let args: Vec<String> = std::iter::once("scheduler".to_owned())
            .chain(args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]))
            .chain(flags.iter().map(ToString::to_string))
            .collect();
        let marks = |log: &str| log.matches("scheduler listens").count();
        let before = std::fs::read_to_string(dir.join(format!("{name}.err"))).map_or(0, |log| marks(&log));
        let mut process = Process::start(exe, dir, name, &args);
        let line = until("the scheduler to listen", async || {
            assert!(process.is_running(), "the scheduler ended: {}", process.log());
            let log = process.log();
            let line = log.lines().rfind(|line| line.contains("scheduler listens")).map(str::to_owned);
            line.filter(|_| marks(&log) > before).ok_or("no line")
        })
        .await;
        let address = |key: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            word.unwrap_or_else(|| panic!("no {key} in {line:?}")).parse().unwrap()
        };
        let (api, admin, grpc) = (address("api="), address("admin="), address("grpc="));
        Self { process, api, admin, grpc, exe: exe.to_owned(), config: config.to_owned() }
    }

    /// Starts it again, with the same addresses and configuration, after it was killed.
    pub async fn restart(&mut self) {
        self.process.kill();
        let name = self.config.file_stem().unwrap().to_str().unwrap().to_owned();
        let addresses = [self.api, self.admin, self.grpc];
        *self = Self::listen(&self.exe, &self.config, &name, addresses, &[]).await;
    }

    /// Another process of the same configuration that takes over while this one runs; `name` is for its log.
    pub async fn successor(&self, name: &str) -> Self {
        let addresses = [self.api, self.admin, self.grpc];
        Self::listen(&self.exe, &self.config, name, addresses, &["--take-over"]).await
    }

    pub(crate) fn admin_client(&self) -> Client {
        Client { addr: self.admin }
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(self.admin_client().get("/metrics").await.ok().text())
    }

    pub async fn fleet(&self) -> Value {
        self.admin_client().get("/api/v1/fleet").await.ok().json()
    }

    pub async fn endpoints(&self) -> Vec<Value> {
        let fleet = self.fleet().await;
        fleet.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// One endpoint of the fleet as it is now.
    ///
    /// # Panics
    /// If there is none of this name.
    pub async fn endpoint(&self, id: &str) -> Value {
        let all = self.endpoints().await;
        all.into_iter().find(|e| e.get("id").is_some_and(|i| i == id)).expect("an endpoint of this id")
    }

    /// The newest kept records, at most 1,000.
    pub async fn decisions(&self) -> Vec<Value> {
        let page = self.admin_client().get("/api/v1/decisions?limit=1000").await.ok().json();
        page.get("decisions").and_then(Value::as_array).cloned().unwrap_or_default()
    }
}

/// `aya agent`.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    pub name: String,
    exe: String,
    dir: std::path::PathBuf,
}

impl Agent {
    /// Starts an agent beside these engines, each a name and a URL.
    #[must_use]
    pub fn start(
        exe: &str,
        dir: &Path,
        node: &str,
        schedulers: &[String],
        engines: &[(String, String)],
        more: &str,
    ) -> Self {
        let mut toml = format!(
            "node_id = {node:?}\nschedulers = {schedulers:?}\nadmin_listen = \"127.0.0.1:0\"\n\
             gpu.source = \"simulated\"\ngpu.simulated = [\"{}*h100-8b\"]\n",
            engines.len().max(1)
        );
        for (name, url) in engines {
            write!(toml, "[[engine]]\nkind = \"simulated\"\nname = {name:?}\nurl = {url:?}\n").unwrap();
        }
        std::fs::write(dir.join(format!("{node}.toml")), toml + more).unwrap();
        let process = Self::spawn(exe, dir, node);
        Self { process, name: node.to_owned(), exe: exe.to_owned(), dir: dir.to_owned() }
    }

    fn spawn(exe: &str, dir: &Path, node: &str) -> Process {
        let config = dir.join(format!("{node}.toml")).display().to_string();
        let args = ["agent", "--config", &config, "--log", "info"].map(str::to_owned);
        Process::start(exe, dir, node, &args)
    }

    /// Starts it again after it was killed.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = Self::spawn(&self.exe, &self.dir, &self.name);
    }
}

/// `aya sim-engine`.
#[derive(Debug)]
pub struct Engine {
    pub process: Process,
    pub name: String,
    pub addr: SocketAddr,
    /// Killed by the test: its books are lost.
    pub dead: bool,
    exe: String,
    dir: std::path::PathBuf,
    plan: EnginePlan,
}

impl Engine {
    /// Starts on a free port.
    pub async fn start(exe: &str, dir: &Path, plan: EnginePlan) -> Self {
        Self::start_at(exe, dir, plan, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts at this address.
    pub async fn start_at(exe: &str, dir: &Path, plan: EnginePlan, addr: SocketAddr) -> Self {
        let (process, addr) = Self::spawn(exe, dir, &plan, addr).await;
        let name = plan.name.clone();
        Self { process, name, addr, dead: false, exe: exe.to_owned(), dir: dir.to_owned(), plan }
    }

    async fn spawn(exe: &str, dir: &Path, plan: &EnginePlan, listen: SocketAddr) -> (Process, SocketAddr) {
        let listen = listen.to_string();
        let mut args: Vec<String> =
            ["sim-engine", "--listen", &listen, "--profile", &plan.profile].map(str::to_owned).into();
        args.extend(plan.flags.iter().cloned());
        let before = std::fs::read_to_string(dir.join(format!("{}.out", plan.name)))
            .map_or(0, |out| out.lines().count());
        let mut process = Process::start(exe, dir, &plan.name, &args);
        let addr = until("an engine to listen", async || {
            assert!(process.is_running(), "the engine ended: {}", process.log());
            let out = process.out();
            let line = out.lines().nth(before).map(|line| line.trim_start_matches("http://").to_owned());
            line.filter(|_| out.ends_with('\n')).and_then(|addr| addr.parse().ok()).ok_or("no address")
        })
        .await;
        (process, addr)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
        self.dead = true;
    }

    /// Starts it again at the same address.
    pub async fn restart(&mut self) {
        self.process.kill();
        (self.process, _) = Self::spawn(&self.exe, &self.dir, &self.plan, self.addr).await;
        self.dead = false;
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    #[must_use]
    pub const fn client(&self) -> Client {
        Client { addr: self.addr }
    }

    /// Its own books, true whatever it claims elsewhere.
    pub async fn state(&self) -> Value {
        self.client().get("/sim/state").await.ok().json()
    }

    /// One number of its books.
    ///
    /// # Panics
    /// If there is no such number.
    pub async fn count(&self, field: &str) -> u64 {
        self.state().await.get(field).and_then(Value::as_u64).expect("a number of the books")
    }

    /// How one request stands in its books: `live`, `finished`, `aborted`, `refused`; `None`: never seen.
    pub async fn request_state(&self, id: &str) -> Option<String> {
        let state = self.state().await;
        let all = state.get("requests")?.as_array()?;
        let found = all.iter().find(|request| request.get("id").is_some_and(|i| i == id))?;
        Some(found.get("state")?.as_str()?.to_owned())
    }

    /// Changes its faults.
    pub async fn fault(&self, faults: &Value) {
        let _ = self.client().post("/sim/faults", faults).await.ok();
    }
}
