//! The real engine, client and model of the end-to-end tests, set up once under target/.
//!
//! Nothing is downloaded but Python packages, and nothing outside target/ is touched: llama.cpp's server comes as a wheel,
//! the model is generated. A stamp holds the list of what was set up, so that an unchanged list costs nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Step, repository};

/// What the tests are told by `AYA_TEST_PYTHON` and `AYA_TEST_GGUF`.
#[derive(Debug)]
pub(crate) struct Engines {
    pub(crate) python: PathBuf,
    pub(crate) model: PathBuf,
}

/// Sets up what is missing.
pub(crate) fn set_up() -> Result<Engines> {
    let root = repository();
    let home = root.join("target/xtask");
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let python = environment(&home, &root.join("tests/python"))?;
    let model = model(&home, &root.join("tests/python/make_tiny_gguf.py"), &python)?;
    Ok(Engines { python, model })
}

fn environment(home: &Path, scripts: &Path) -> Result<PathBuf> {
    let (clients, engine) = (scripts.join("requirements.txt"), scripts.join("requirements-engine.txt"));
    let wanted = read(&clients)? + &read(&engine)?;
    let (venv, stamp) = (home.join("venv"), home.join("venv.stamp"));
    let python = venv.join("bin/python");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    crate::say("setting up the real engine and client under target/xtask (once)");
    Step::new("python3").args(&["-m", "venv", "--clear"]).args(&[&venv]).run_quietly()?;
    let pip = || Step::new(&python).args(&["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip().args(&["-r"]).args(&[&clients]).run_quietly()?;
    let pinned = pip().args(&["--no-deps", "-r"]).args(&[&engine]).run_quietly();
    if let Err(error) = pinned {
        crate::say(&format!("{error:#}; taking the newest xllamacpp instead"));
        pip().args(&["--no-deps", "xllamacpp"]).run_quietly()?;
    }
    fs::write(&stamp, wanted).context("cannot write the stamp")?;
    Ok(python)
}

fn model(home: &Path, script: &Path, python: &Path) -> Result<PathBuf> {
    let wanted = read(script)?;
    let (model, stamp) = (home.join("tiny.gguf"), home.join("tiny.stamp"));
    if !model.exists() || fs::read_to_string(&stamp).is_ok_and(|have| have != wanted) || !stamp.exists() {
        Step::new(python).args(&[script, &model]).run_quietly()?;
        fs::write(&stamp, wanted).context("cannot write the stamp")?;
    }
    Ok(model)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
