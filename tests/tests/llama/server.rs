//! Real llama.cpp servers for a farm: started through the Python that the test run was given, on a model made for it.
//!
//! `cargo xtask test` sets `AYA_TEST_PYTHON` and `AYA_TEST_GGUF`. Without them every test says loudly that it was
//! skipped. Nothing here knows what Aya does: a server's own books are its `/slots` and `/metrics`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aya_tests::{Agent, Client, Farm, Metrics, Process, Scheduler, aya, until, within};
use bytes::Bytes;
use serde_json::{Value, json};

/// The name under which every server serves its model.
pub(crate) const MODEL: &str = "tiny-random";

/// Where this suite keeps its Python programs.
pub(crate) const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

/// Programs and models of the run.
#[derive(Debug, Clone)]
pub(crate) struct Real {
    pub(crate) python: String,
    model: PathBuf,
}

impl Real {
    /// What the run was given; `None`, said aloud, where it was given nothing.
    #[expect(clippy::disallowed_methods, reason = "settings of a test run, not of the program")]
    pub(crate) fn given() -> Option<Self> {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = given("AYA_TEST_PYTHON").zip(given("AYA_TEST_GGUF"));
        if found.is_none() {
            eprintln!("SKIPPED: needs a real llama.cpp server; run `cargo xtask test`, which sets one up");
        }
        found.map(|(python, model)| Self { python, model: model.into() })
    }

    /// A model of the same words that is about ten times slower and never ends by itself: about 600 tokens per
    /// second, so that a test can act in the middle of an answer.
    pub(crate) fn slow(mut self, dir: &Path) -> Self {
        self.model = dir.join("slow.gguf");
        let made = Command::new(&self.python)
            .arg(format!("{SCRIPTS}/make_tiny_gguf.py"))
            .arg(&self.model)
            .args("--dim 256 --layers 8 --ff 512 --heads 8 --kv-heads 4 --eos-rate 0".split(' '))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self
    }

    /// Starts a server with so many slots of 2,048 tokens.
    pub(crate) async fn server(&self, dir: &Path, name: &str, slots: u32) -> Server {
        let mut server = Server {
            process: None,
            name: name.to_owned(),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            slots,
            real: self.clone(),
            dir: dir.to_owned(),
        };
        server.start().await;
        server
    }
}

/// One llama.cpp server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Process>,
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    slots: u32,
    real: Real,
    dir: PathBuf,
}

impl Server {
    /// Starts it, the second time at the address it had, and waits until it listens.
    pub(crate) async fn start(&mut self) {
        let port_file = self.dir.join(format!("{}.port", self.name));
        // From an earlier life.
        let _ = std::fs::remove_file(&port_file);
        let args = [
            format!("{SCRIPTS}/llama_serve.py"),
            self.real.model.display().to_string(),
            "--port".to_owned(),
            self.addr.port().to_string(),
            "--alias".to_owned(),
            MODEL.to_owned(),
            "--parallel".to_owned(),
            self.slots.to_string(),
            "--ctx".to_owned(),
            (self.slots * 2048).to_string(),
            "--port-file".to_owned(),
            port_file.display().to_string(),
        ];
        let mut process = Process::start(&self.real.python, &self.dir, &self.name, &args);
        self.addr = until("a llama.cpp server to listen", async || {
            assert!(process.is_running(), "it ended: {}", process.log());
            let address = std::fs::read_to_string(&port_file).unwrap_or_default();
            address.trim_start_matches("http://").parse::<SocketAddr>().map_err(|_| address)
        })
        .await;
        self.process = Some(process);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) const fn client(&self) -> Client {
        Client { addr: self.addr }
    }

    /// Slots that generate right now.
    pub(crate) async fn busy(&self) -> usize {
        let slots = self.client().get("/slots").await.ok().json();
        slots.as_array().unwrap().iter().filter(|slot| slot["is_processing"] == true).count()
    }

    pub(crate) async fn wait_busy(&self, count: usize) {
        until(&format!("{count} busy slots"), async || {
            let busy = self.busy().await;
            if busy == count { Ok(()) } else { Err(busy) }
        })
        .await;
    }

    /// Requests that wait inside the server.
    pub(crate) async fn deferred(&self) -> f64 {
        Metrics::parse(self.client().get("/metrics").await.ok().text()).sum("llamacpp:requests_deferred")
    }

    /// Whether its health page answers within a second; a server whose few threads are all taken does not.
    pub(crate) async fn answers_health(&self) -> bool {
        within(Duration::from_secs(1), "the health page", self.client().get("/health")).await.status == 200
    }
}

/// A farm of one agent beside these servers, once every one of them is ready.
pub(crate) async fn farm_of(servers: &[&Server], scheduler: &str) -> Farm {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = Scheduler::start(aya!(), dir.path(), "scheduler", scheduler).await;
    let engine = |server: &&Server| {
        format!(
            "[[engine]]\nkind = \"llama.cpp\"\nname = {:?}\nurl = \"http://{}\"\n",
            server.name, server.addr
        )
    };
    let engines: String = servers.iter().map(engine).collect();
    let schedulers = [format!("http://{}", scheduler.grpc)];
    let agent = Agent::start(aya!(), dir.path(), "n1", &schedulers, &[], &engines);
    let farm = Farm { scheduler, agents: vec![agent], engines: Vec::new(), dir };
    until("every server to be ready", async || {
        let ready = healthy(&farm).await;
        if ready == servers.len() { Ok(()) } else { Err(ready) }
    })
    .await;
    farm
}

/// Endpoints that the scheduler holds for healthy.
pub(crate) async fn healthy(farm: &Farm) -> usize {
    farm.scheduler.endpoints().await.iter().filter(|endpoint| endpoint["health"] == "healthy").count()
}

/// A chat request whose answer has exactly so many tokens.
pub(crate) fn chat(tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": format!("hello {}", aya_tests::CANARY)}],
        "max_tokens": tokens,
        "ignore_eos": true,
    })
}

/// The same, streamed, with usage.
pub(crate) fn streamed(tokens: u32) -> Value {
    aya_tests::with(chat(tokens), &json!({"stream": true, "stream_options": {"include_usage": true}}))
}

/// A request under way, to its end if the connection lasts.
pub(crate) async fn try_chat(api: Client, body: Value) -> Result<aya_tests::Answer, String> {
    let body = Bytes::from(body.to_string());
    let answer = api.try_open("POST", "/v1/chat/completions", &[], body).await?;
    Ok(answer.whole().await)
}
