//! What discovery found and why it left the rest, for operators: as JSON, and in the log when it changes.

use std::sync::Arc;

use aya_config::DiscoveryMode;
use aya_domain::{EndpointId, EngineKind, MonoTime};
use aya_observe::Clock;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, info};

use super::lookout::{Listed, Standing};
use super::survey::{Listener, Quiet, Survey};
use super::{Discovery, FOUND_MAX, Holders, Memory};

/// The outcome of one look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statement {
    mode: &'static str,
    looks: u64,
    at: Option<MonoTime>,
    holders: Holders,
    engines: Vec<Told>,
    left: Vec<Left>,
    beyond: usize,
}

/// An engine that is known.
#[derive(Debug, Clone)]
struct Told {
    endpoint: EndpointId,
    /// `None`: listed, so its kind is in the configuration.
    kind: Option<EngineKind>,
    addr: String,
    pid: u32,
    name: Option<String>,
    since: Option<MonoTime>,
    loopback_only: bool,
}

/// What was left, and why.
#[derive(Debug, Clone)]
struct Left {
    pid: u32,
    name: Option<String>,
    addr: Option<String>,
    reason: &'static str,
    detail: String,
    /// When it is asked again; `None`: not before something changes.
    again_at: Option<MonoTime>,
}

impl Left {
    fn is_same(&self, other: &Self) -> bool {
        (self.pid, &self.addr, self.reason) == (other.pid, &other.addr, other.reason)
    }
}

impl Statement {
    /// Before the first look.
    pub(crate) fn of(mode: &'static str) -> Self {
        Self { mode, ..Self::default() }
    }

    fn json(&self, now: MonoTime) -> Value {
        let age_ms = |at: MonoTime| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let wait_ms = |at: MonoTime| u64::try_from(at.since(now).as_millis()).unwrap_or(u64::MAX);
        let engine = |told: &Told| {
            json!({
                "endpoint": told.endpoint.as_str(),
                "source": if told.kind.is_some() { "discovered" } else { "listed" },
                "kind": told.kind.map(EngineKind::as_str),
                "address": told.addr, "pid": told.pid, "name": told.name, "loopback_only": told.loopback_only,
                "discovered_ms_ago": told.since.map(age_ms),
            })
        };
        let left = |left: &Left| {
            json!({
                "pid": left.pid, "name": left.name, "address": left.addr,
                "reason": left.reason, "detail": left.detail,
                "asked_again_in_ms": left.again_at.map(wait_ms),
            })
        };
        json!({
            "mode": self.mode, "looks": self.looks, "age_ms": self.at.map(age_ms),
            "gpu_holders": self.holders,
            "engines": self.engines.iter().map(engine).collect::<Vec<_>>(),
            "left": self.left.iter().map(left).collect::<Vec<_>>(),
            "addresses_beyond_limit": self.beyond,
        })
    }
}

/// Where the latest statement stands.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    pub(crate) clock: Clock,
    pub(crate) statements: watch::Receiver<Arc<Statement>>,
}

impl Board {
    pub(crate) fn json(&self) -> Value {
        self.statements.borrow().json(self.clock.now())
    }
}

impl Discovery {
    /// States what is known after a look, and logs what is new of what was left.
    pub(super) fn state(&self, memory: &Memory, holders: Holders, survey: &Survey, listed: &[Listed]) {
        let mut statement = Statement {
            looks: memory.looks,
            at: Some(self.clock.now()),
            holders,
            left: survey.quiet.iter().map(quiet).collect(),
            beyond: survey.beyond,
            ..Statement::of(self.config.discovery.mode.as_str())
        };
        for listener in &survey.listeners {
            self.place(memory, listener, memory.lookout.standing(listener, survey, listed), &mut statement);
        }
        let before = self.board.borrow().clone();
        if before.holders.is_none() && statement.holders.is_none() && before.looks == 0 {
            info!(mode = statement.mode, "no driver has told yet which processes hold the GPUs");
        }
        let first_told =
            statement.holders.is_some() && (before.holders.is_none() || !before.engines.is_empty());
        if statement.engines.is_empty() && self.config.discovery.mode == DiscoveryMode::Gpu && first_told {
            info!(
                "no engine was found among the processes that hold a GPU; one without a loaded model, such as an idle \
                 Ollama, holds none: it is found with --discover all, or listed with --engine"
            );
        }
        for left in statement.left.iter().filter(|left| !before.left.iter().any(|known| left.is_same(known)))
        {
            let (addr, name) = (left.addr.as_deref().unwrap_or("-"), left.name.as_deref().unwrap_or("-"));
            if left.reason == "part_of" {
                debug!(pid = left.pid, name, addr, "left alone: {}", left.detail);
            } else {
                info!(pid = left.pid, name, addr, reason = left.reason, "left alone: {}", left.detail);
            }
        }
        self.board.send_replace(Arc::new(statement));
    }

    fn place(&self, memory: &Memory, listener: &Listener, standing: Standing, statement: &mut Statement) {
        let (site, name) = (listener.site, listener.name.clone());
        let (addr, loopback_only) = (site.addr.to_string(), listener.loopback_only);
        let told =
            |endpoint, kind, since| Told { endpoint, kind, addr, pid: site.pid, name, since, loopback_only };
        let (reason, detail) = match standing {
            Standing::Listed(endpoint) => {
                statement.engines.push(told(endpoint, None, None));
                return;
            }
            Standing::Engine(kind) => match memory.found.get(&site) {
                Some(found) => {
                    statement.engines.push(told(found.id.clone(), Some(found.kind), Some(found.since)));
                    return;
                }
                None => (
                    "not_taken",
                    format!(
                        "an engine of kind {kind}; no name is free for it, or {FOUND_MAX} others were found before: list it"
                    ),
                ),
            },
            Standing::PartOf(addr) => ("part_of", format!("belongs to the engine at {addr}")),
            Standing::Waits(addr) => {
                ("waits", format!("not asked before {addr}, which is above it, has answered"))
            }
            Standing::Left(why) => (why.as_str(), why.to_string()),
            Standing::New => ("not_asked", "not asked yet: too many ports at once".to_owned()),
        };
        let again_at = memory.lookout.again_at(&site);
        let (addr, name) = (Some(site.addr.to_string()), listener.name.clone());
        statement.left.push(Left { pid: site.pid, name, addr, reason, detail, again_at });
    }
}

fn quiet(quiet: &Quiet) -> Left {
    let (reason, detail) = match quiet.unseen {
        Some(unseen) => (unseen.as_str(), unseen.to_string()),
        None => ("not_listening", "it holds a GPU; neither it nor what belongs to it listens".to_owned()),
    };
    let Quiet { pid, ref name, .. } = *quiet;
    Left { pid, name: name.clone(), addr: None, reason, detail, again_at: None }
}
