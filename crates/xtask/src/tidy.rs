//! The rules of the house that neither compiler nor clippy can hold.
//!
//! The direction of dependencies is read from ARCHITECTURE.md's table, so the document and the rule cannot differ: a
//! crate may use the crates above it in the table, and nothing below.

mod catalogue;
mod manifest;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Everything that breaks a rule, one line each, with its place.
pub(crate) fn violations(root: &Path) -> Result<Vec<String>> {
    let layers = manifest::layers(&read(&root.join("ARCHITECTURE.md"))?)?;
    let mut found = Vec::new();
    let mut named = catalogue::Named::default();
    for krate in &layers {
        let folder = root.join(&krate.path);
        let manifest = read(&folder.join("Cargo.toml"))?;
        found.extend(manifest::check(krate, &manifest, &layers)?);
        let mut files = Vec::new();
        rust_files(&folder, &mut files)?;
        ensure!(!files.is_empty(), "{}: no source files", krate.path);
        for file in files {
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let text = read(&file)?;
            named.add(&shown, &text);
            found.extend(source::check(&shown, &text, krate.layer));
        }
    }
    found.extend(catalogue::check(&read(&root.join("tests/HOSTILE.md"))?, &named));
    let members = manifest::members(&read(&root.join("Cargo.toml"))?)?;
    for member in members.iter().filter(|member| layers.iter().all(|krate| krate.path != **member)) {
        found.push(format!("ARCHITECTURE.md: the table does not name {member}"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every Rust file of a crate, sorted, so that the report is the same everywhere.
fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
