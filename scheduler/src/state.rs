//! What operators said that has to outlive the process: drains, in a small file that is replaced whole.
//!
//! A file that cannot be read costs the drains and no start: a farm that serves where it should not is better than none, and
//! the log says so.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use aya_domain::{EndpointId, NodeId};
use aya_fleet::Target;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::error;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StateJson {
    drained: DrainedJson,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct DrainedJson {
    nodes: Vec<String>,
    endpoints: Vec<String>,
}

/// The file, if there is one, and what it should hold. Bounded by the drains that the fleet accepts.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: Option<PathBuf>,
    drained: BTreeSet<Target>,
    /// As it changes; written one after the other.
    now: Mutex<BTreeSet<Target>>,
}

impl StateFile {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn open(path: Option<&Path>) -> Self {
        let read = path.map_or_else(|| Ok(BTreeSet::new()), read);
        let drained = read.unwrap_or_else(|error| {
            let shown = path.map(Path::display);
            error!(path = shown.map(tracing::field::display), %error, "the state file is passed over: ask again for the drains in it");
            BTreeSet::new()
        });
        Self { path: path.map(Path::to_owned), now: Mutex::new(drained.clone()), drained }
    }

    /// What was drained at the start.
    pub(crate) fn drained(&self) -> BTreeSet<Target> {
        self.drained.clone()
    }

    /// Keeps a drain or forgets it; on disk when it returns.
    ///
    /// # Errors
    /// The file cannot be replaced; the old one stays.
    pub(crate) async fn note(&self, target: Target, on: bool) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let mut now = self.now.lock().await;
        let changed = if on { now.insert(target) } else { now.remove(&target) };
        if !changed && path.exists() {
            return Ok(());
        }
        let drained = now.clone();
        tokio::task::spawn_blocking(move || write(&path, &drained)).await.map_err(io::Error::other)?
    }
}

fn read(path: &Path) -> io::Result<BTreeSet<Target>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let StateJson { drained } = serde_json::from_slice(&text)?;
    let nodes = drained.nodes.iter().map(|id| NodeId::parse(id).map(Target::Node));
    let endpoints = drained.endpoints.iter().map(|id| EndpointId::parse(id).map(Target::Endpoint));
    nodes.chain(endpoints).collect::<Result<_, _>>().map_err(io::Error::other)
}

/// Whole or not at all, also when the power fails.
fn write(path: &Path, drained: &BTreeSet<Target>) -> io::Result<()> {
    let mut state = StateJson::default();
    for target in drained {
        match target {
            Target::Node(id) => state.drained.nodes.push(id.to_string()),
            Target::Endpoint(id) => state.drained.endpoints.push(id.to_string()),
        }
    }
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    serde_json::to_writer_pretty(&mut file, &state)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Target {
        Target::Node(NodeId::parse(id).unwrap())
    }

    fn endpoint(id: &str) -> Target {
        Target::Endpoint(EndpointId::parse(id).unwrap())
    }

    #[tokio::test]
    async fn what_was_drained_is_known_in_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let first = StateFile::open(Some(&path));
        assert!(first.drained().is_empty());
        for (target, on) in [
            (node("n1"), true),
            (endpoint("n2/vllm"), true),
            (node("n3"), true),
            (node("n3"), false),
            (node("n9"), false),
        ] {
            first.note(target, on).await.unwrap();
        }
        let second = StateFile::open(Some(&path));
        assert_eq!(second.drained(), [node("n1"), endpoint("n2/vllm")].into());
        second.note(node("n1"), false).await.unwrap();
        assert_eq!(StateFile::open(Some(&path)).drained(), [endpoint("n2/vllm")].into());
    }

    #[tokio::test]
    async fn a_damaged_file_costs_the_drains_and_a_lost_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for text in ["", "{", "[]", "{\"drained\":{\"nodes\":[\"\"],\"endpoints\":[]}}"] {
            std::fs::write(&path, text).unwrap();
            assert!(StateFile::open(Some(&path)).drained().is_empty(), "{text:?}");
        }
        let lost = StateFile::open(Some(Path::new("/nowhere/state.json")));
        assert!(lost.note(node("n1"), true).await.is_err());
        assert!(StateFile::open(None).note(node("n1"), true).await.is_ok());
    }
}
