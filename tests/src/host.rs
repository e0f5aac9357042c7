//! A GPU host of a test: an agent that reads the fake NVML, and the scenario that plays there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::Client;
use crate::farm::{Engine, Farm};
use crate::process::Process;
use crate::wait::until;

/// A GPU host: the agent, the library that it reads, and the scenario beside it.
#[derive(Debug)]
pub struct GpuHost {
    pub agent: Process,
    scenario: PathBuf,
}

impl GpuHost {
    /// Starts `n1` beside these engines.
    ///
    /// # Panics
    /// If the fake library was not built beside the test.
    #[must_use]
    pub fn start(exe: &str, farm: &Farm, engines: &[&Engine], scenario: &Value) -> Self {
        let engines: Vec<_> = engines.iter().map(|engine| (*engine, None)).collect();
        Self::start_with(exe, farm, &engines, "", scenario)
    }

    /// A host whose agent is told of no engine; `more` goes into its configuration.
    ///
    /// # Panics
    /// If the fake library was not built beside the test.
    #[must_use]
    pub fn start_bare(exe: &str, farm: &Farm, more: &str, scenario: &Value) -> Self {
        Self::start_with(exe, farm, &[], more, scenario)
    }

    /// The same with the GPU that each engine runs on, by its place.
    ///
    /// # Panics
    /// If the fake library was not built beside the test.
    #[must_use]
    pub fn start_on(exe: &str, farm: &Farm, engines: &[(&Engine, u32)], scenario: &Value) -> Self {
        let engines: Vec<_> = engines.iter().map(|(engine, gpu)| (*engine, Some(*gpu))).collect();
        Self::start_with(exe, farm, &engines, "", scenario)
    }

    fn start_with(
        exe: &str,
        farm: &Farm,
        engines: &[(&Engine, Option<u32>)],
        more: &str,
        scenario: &Value,
    ) -> Self {
        let dir = farm.dir.path();
        let built = std::env::current_exe().unwrap().with_file_name("libaya_fake_nvml.so");
        let library = dir.join("libnvidia-ml.so.1");
        std::fs::copy(built, &library).unwrap();
        let host_scenario = dir.join("libnvidia-ml.so.1.json");
        put(&host_scenario, scenario);
        let mut toml = format!(
            "node_id = \"n1\"\nschedulers = [\"http://{}\"]\nadmin_listen = \"127.0.0.1:0\"\n\
             gpu.source = \"nvml\"\ngpu.nvml_lib = {library:?}\n",
            farm.scheduler.grpc
        );
        for (engine, gpu) in engines {
            let (name, url) = (&engine.name, engine.url());
            write!(toml, "[[engine]]\nkind = \"simulated\"\nname = {name:?}\nurl = {url:?}\n").unwrap();
            if let Some(gpu) = gpu {
                writeln!(toml, "gpus = [\"{gpu}\"]").unwrap();
            }
        }
        toml.push_str(more);
        let config = dir.join("n1.toml");
        std::fs::write(&config, toml).unwrap();
        let args = ["agent", "--config", config.to_str().unwrap(), "--log", "info"].map(str::to_owned);
        Self { agent: Process::start(exe, dir, "n1", &args), scenario: host_scenario }
    }

    /// As an operator of the agent; waits until it listens.
    pub async fn admin(&self) -> Client {
        let addr = until("the agent's admin listener", async || {
            let log = self.agent.log();
            let word = log.split_whitespace().find_map(|word| word.strip_prefix("admin="));
            word.and_then(|addr| addr.parse().ok()).ok_or("no address")
        });
        Client { addr: addr.await }
    }

    /// The driver is as this says from its next call on.
    pub fn play(&self, scenario: &Value) {
        put(&self.scenario, scenario);
    }
}

fn put(path: &Path, scenario: &Value) {
    // Put in place whole: the library may read it at any moment.
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(scenario).unwrap()).unwrap();
    std::fs::rename(beside, path).unwrap();
}
