//! Rules about crates: who may use whom, and that all live under the same lints.

use anyhow::{Context as _, Result, ensure};
use toml::{Table, Value};

/// A row's entry of ARCHITECTURE.md's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crate {
    /// The folder, such as `crates/domain`; the package is `aya-` and its last part.
    pub(crate) path: String,
    pub(crate) layer: u8,
}

impl Crate {
    fn package(&self) -> String {
        format!("aya-{}", self.path.rsplit('/').next().unwrap_or_default())
    }
}

/// The crates in the order of the table, bottom up.
pub(crate) fn layers(architecture: &str) -> Result<Vec<Crate>> {
    let rows = architecture.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|');
        let layer: u8 = cells.next()?.trim().parse().ok()?;
        Some((layer, cells.next()?))
    });
    let named = rows.flat_map(|(layer, cell)| {
        // Every second piece between backticks is a folder.
        cell.split('`').skip(1).step_by(2).map(move |path| Crate { path: path.to_owned(), layer })
    });
    let crates: Vec<Crate> = named.collect();
    ensure!(crates.len() > 3, "ARCHITECTURE.md has no table of crates");
    ensure!(crates.is_sorted_by_key(|c| c.layer), "ARCHITECTURE.md: the layers are not in ascending order");
    Ok(crates)
}

/// The workspace's members.
pub(crate) fn members(root_manifest: &str) -> Result<Vec<String>> {
    let manifest: Table = root_manifest.parse().context("Cargo.toml")?;
    let members = manifest.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
    let members = members.context("Cargo.toml has no workspace.members")?;
    Ok(members.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The broken rules of one crate's manifest.
pub(crate) fn check(krate: &Crate, manifest: &str, layers: &[Crate]) -> Result<Vec<String>> {
    let place = format!("{}/Cargo.toml", krate.path);
    let manifest: Table = manifest.parse().with_context(|| place.clone())?;
    let mut found = Vec::new();
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    if lints != Some(true) {
        found.push(format!("{place}: does not inherit the workspace's lints"));
    }
    let package = manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str);
    if package != Some(&krate.package()) {
        found.push(format!("{place}: the package of this folder is called {}", krate.package()));
    }
    let below: Vec<String> = layers.iter().take_while(|c| *c != krate).map(Crate::package).collect();
    let dependencies = manifest.get("dependencies").and_then(Value::as_table);
    for name in dependencies.into_iter().flat_map(Table::keys) {
        let ours = name.starts_with("aya-");
        if ours && (!below.contains(name) || are_apart(&krate.package(), name)) {
            found.push(format!("{place}: {name} does not stand below {}", krate.path));
        }
        if !ours && krate.layer <= 1 {
            found.push(format!("{place}: layers 0 and 1 use nothing from outside, and this uses {name}"));
        }
    }
    Ok(found)
}

/// Two halves of the system that only ever meet on the wire.
fn are_apart(a: &str, b: &str) -> bool {
    let halves = ["aya-agent", "aya-scheduler"];
    a != b && halves.contains(&a) && halves.contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
| layer | crate | owns |
|---|---|---|
| 0 | `crates/domain` | words |
| 1 | `crates/estimate` | cost, `b + n` |
| 3 | `crates/gpu`, `crates/engine` | reading |
| 4 | `agent` | a |
| 4 | `scheduler` | s |
";

    #[track_caller]
    fn check_manifest(path: &str, body: &str, expect: &[&str]) {
        let layers = layers(TABLE).unwrap();
        let krate = layers.iter().find(|c| c.path == path).unwrap();
        let text = format!("[package]\nname = \"{}\"\n{body}", krate.package());
        assert_eq!(check(krate, &text, &layers).unwrap(), expect);
    }

    #[test]
    fn the_table_is_read_in_order() {
        let read: Vec<_> = layers(TABLE).unwrap().into_iter().map(|c| (c.layer, c.path)).collect();
        let expect = [
            (0, "crates/domain"),
            (1, "crates/estimate"),
            (3, "crates/gpu"),
            (3, "crates/engine"),
            (4, "agent"),
            (4, "scheduler"),
        ];
        assert_eq!(read, expect.map(|(layer, path)| (layer, path.to_owned())));
        assert!(layers("no table").is_err());
    }

    #[test]
    fn a_crate_uses_what_stands_below_it_and_nothing_else() {
        let lints = "[lints]\nworkspace = true\n[dependencies]\n";
        check_manifest("agent", &format!("{lints}aya-gpu.workspace = true\nserde.workspace = true"), &[]);
        check_manifest(
            "crates/gpu",
            &format!("{lints}aya-agent.workspace = true"),
            &["crates/gpu/Cargo.toml: aya-agent does not stand below crates/gpu"],
        );
        check_manifest(
            "scheduler",
            &format!("{lints}aya-agent.workspace = true"),
            &["scheduler/Cargo.toml: aya-agent does not stand below scheduler"],
        );
        check_manifest(
            "crates/estimate",
            &format!("{lints}aya-domain.workspace = true\nserde = \"1\""),
            &["crates/estimate/Cargo.toml: layers 0 and 1 use nothing from outside, and this uses serde"],
        );
    }

    #[test]
    fn a_crate_has_the_name_of_its_folder_and_the_lints_of_all() {
        check_manifest(
            "agent",
            "[dependencies]",
            &["agent/Cargo.toml: does not inherit the workspace's lints"],
        );
        let layers = layers(TABLE).unwrap();
        let wrong = "[package]\nname = \"agent\"\n[lints]\nworkspace = true";
        let found = check(&layers[4], wrong, &layers).unwrap();
        assert_eq!(found, ["agent/Cargo.toml: the package of this folder is called aya-agent"]);
    }
}
