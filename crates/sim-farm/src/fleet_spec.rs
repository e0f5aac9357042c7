//! Fleets in a line of text: `2*h100-8b,4*a100-8b` are two and four engines of the named profiles, and
//! `3*lab/l40s.toml` are three of a profile in a file.

use std::path::Path;
use std::sync::Arc;

use aya_domain::{EngineProfile, StepCost, Tokens};
use aya_estimate::{NamedProfile, UnknownProfile, named, relative_speed};
use serde::Deserialize;

/// Engines of one simulated farm.
const ENDPOINTS_MAX: usize = 16_384;
/// Bytes of a profile file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// An engine on its hardware.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSpec {
    pub name: Arc<str>,
    pub profile: EngineProfile,
    /// The longest request.
    pub context_length: Tokens,
    /// Relative speed set by hand, for weighted baseline policies only.
    pub weight: f64,
}

impl From<&NamedProfile> for EngineSpec {
    fn from(named: &NamedProfile) -> Self {
        Self {
            name: Arc::from(named.name),
            profile: named.profile,
            context_length: named.context_length,
            weight: named.weight,
        }
    }
}

/// Why a text is no fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("{0:?} is not PROFILE or COUNT*PROFILE")]
    Malformed(String),
    #[error("{0}, or a file whose name ends in .toml")]
    Profile(#[from] UnknownProfile),
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error("a fleet has 1 to {ENDPOINTS_MAX} engines")]
    Size,
}

/// One entry per engine, in the order of the text. Reads the profile files that it names.
///
/// # Errors
/// [`FleetError`].
pub fn parse_fleet(text: &str) -> Result<Vec<EngineSpec>, FleetError> {
    let mut engines = Vec::new();
    for part in text.split(',').map(str::trim) {
        let malformed = || FleetError::Malformed(part.to_owned());
        let (count, name) = match part.split_once('*') {
            Some((count, name)) => (count.trim().parse::<usize>().map_err(|_| malformed())?, name.trim()),
            None => (1, part),
        };
        if name.is_empty() {
            return Err(malformed());
        }
        if engines.len().saturating_add(count) > ENDPOINTS_MAX {
            return Err(FleetError::Size);
        }
        let is_file = Path::new(name).extension().is_some_and(|extension| extension == "toml");
        let spec = if is_file { read_profile(Path::new(name))? } else { EngineSpec::from(named(name)?) };
        engines.extend(std::iter::repeat_n(spec, count));
    }
    if engines.is_empty() { Err(FleetError::Size) } else { Ok(engines) }
}

/// A profile file; `fixtures/profiles` has an example. The letters are those of the cost of a step,
/// `sqrt(a^2 + (b*n)^2) + o + d*kv + e*attention`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    /// Reading the weights once (a).
    base_ms: f64,
    /// Computing one token (b).
    per_token_us: f64,
    /// Host, sampling, all-reduce (o).
    overhead_ms: f64,
    /// Reading one KV token (d).
    per_kv_token_us: f64,
    /// One query-key pair of a prefill (e).
    attention_ns: f64,
    kv_tokens: u32,
    max_batched_tokens: u32,
    max_sequences: u32,
    /// Absent: the KV pool.
    context_length: Option<u32>,
    /// Beside an L4; absent: by how fast it computes tokens.
    weight: Option<f64>,
}

fn read_profile(path: &Path) -> Result<EngineSpec, FleetError> {
    let wrong = |problem: String| FleetError::File { path: path.display().to_string(), problem };
    let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let file: ProfileFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    file.engine(&name).map_err(wrong)
}

impl ProfileFile {
    fn engine(&self, name: &str) -> Result<EngineSpec, String> {
        let cost = StepCost {
            base_s: positive("base_ms", self.base_ms)? / 1e3,
            per_token_s: positive("per_token_us", self.per_token_us)? / 1e6,
            overhead_s: not_negative("overhead_ms", self.overhead_ms)? / 1e3,
            per_kv_token_s: not_negative("per_kv_token_us", self.per_kv_token_us)? / 1e6,
            attention_s: not_negative("attention_ns", self.attention_ns)? / 1e9,
        };
        let at_least_one = |key: &str, value: u32| {
            if value == 0 { Err(format!("{key} must be at least 1")) } else { Ok(value) }
        };
        let kv_capacity = Tokens(at_least_one("kv_tokens", self.kv_tokens)?.into());
        let profile = EngineProfile {
            cost,
            kv_capacity,
            max_batched_tokens: at_least_one("max_batched_tokens", self.max_batched_tokens)?,
            max_sequences: at_least_one("max_sequences", self.max_sequences)?,
        };
        Ok(EngineSpec {
            name: Arc::from(name),
            profile,
            context_length: self.context_length.map_or(kv_capacity, |tokens| Tokens(tokens.into())),
            weight: match self.weight {
                Some(weight) => positive("weight", weight)?,
                None => relative_speed(&profile),
            },
        })
    }
}

/// Coefficients beyond this are typing errors.
const COEFFICIENT_MAX: f64 = 1e6;

fn positive(key: &str, value: f64) -> Result<f64, String> {
    if value > 0.0 {
        not_negative(key, value)
    } else {
        Err(format!("{key} must be more than 0, not {value}"))
    }
}

fn not_negative(key: &str, value: f64) -> Result<f64, String> {
    let fits = (0.0..=COEFFICIENT_MAX).contains(&value);
    if fits { Ok(value) } else { Err(format!("{key} must be from 0 to {COEFFICIENT_MAX}, not {value}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_read_in_order() {
        let names = |text| {
            let fleet = parse_fleet(text).unwrap();
            fleet.iter().map(|engine| engine.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("2*h100-8b,l4-8b"), "h100-8b h100-8b l4-8b");
        assert_eq!(names(" 1 * a10g-8b , a100x4-70b"), "a10g-8b a100x4-70b");
    }

    #[test]
    fn what_is_no_fleet_is_refused() {
        for text in ["", ",", "2*", "x*l4-8b", "-1*l4-8b", "2*h200", "0*l4-8b", "99999*l4-8b", "none.toml"] {
            assert!(parse_fleet(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_example_of_a_profile_file_is_an_engine() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/profiles/l40s-8b.toml");
        let fleet = parse_fleet(&format!("2*{},l4-8b", path.display())).unwrap();
        assert_eq!((fleet.len(), &*fleet[0].name), (3, "l40s-8b"));
        assert!((fleet[0].profile.cost.base_s - 0.023).abs() < 1e-12, "{:?}", fleet[0]);
        assert!((fleet[0].weight - 2.2).abs() < 1e-12);
    }

    #[test]
    fn a_bad_profile_file_names_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let good = "base_ms = 1.0\nper_token_us = 1.0\noverhead_ms = 0.0\nper_kv_token_us = 0.0\n\
            attention_ns = 0.0\nkv_tokens = 9000\nmax_batched_tokens = 512\nmax_sequences = 8\n";
        for (from, to, expect) in [
            ("", "", ""),
            ("base_ms = 1.0", "base_ms = -1.0", "base_ms must be more than 0"),
            ("kv_tokens = 9000", "kv_tokens = 0", "kv_tokens must be at least 1"),
            ("max_sequences = 8", "", "max_sequences"),
            ("kv_tokens", "kv_token", "kv_token"),
        ] {
            let path = folder.path().join("p.toml");
            std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
            let read = parse_fleet(path.to_str().unwrap());
            let problem = read.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(problem.contains(expect) && problem.is_empty() == expect.is_empty(), "{to}: {problem}");
        }
    }
}
