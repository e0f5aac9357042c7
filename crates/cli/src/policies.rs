//! Policies by name: those that are built in, and an operator's own of a configuration file.

use std::path::Path;

use aya_config::{SchedulerConfig, load};
use aya_placement::{Policy, UnknownPolicy};

use crate::exit::Failure;

/// The policies of these names, in their order. `config`: a scheduler's configuration, whose `[policies.NAME]` may be
/// named too.
///
/// # Errors
/// What is wrong with the file, or a name that is neither built in nor in the file.
pub(crate) fn find(names: &[String], config: Option<&Path>) -> Result<Vec<Policy>, Failure> {
    let composed = config.map(own).transpose()?.unwrap_or_default();
    let one = |name: &String| {
        let name = name.trim();
        let own = composed.iter().find(|policy| policy.name.as_str() == name);
        own.cloned().map_or_else(|| Policy::named(name).map_err(|error| unknown(&error, &composed)), Ok)
    };
    names.iter().map(one).collect()
}

/// A file is read alone: what the environment adds to a running scheduler is not part of the comparison.
fn own(path: &Path) -> Result<Vec<Policy>, Failure> {
    let config: SchedulerConfig = load(Some(path), [], &[]).map_err(|p| Failure::Usage(p.to_string()))?;
    Ok(config.policies)
}

fn unknown(error: &UnknownPolicy, composed: &[Policy]) -> Failure {
    let own: Vec<&str> = composed.iter().map(|policy| policy.name.as_str()).collect();
    let own = if own.is_empty() { String::new() } else { format!("; in --config: {}", own.join(", ")) };
    Failure::Usage(format!("error: --policy: {error}{own}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(wanted: &[&str], config: Option<&Path>) -> Result<Vec<f64>, String> {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let found = find(&wanted, config).map_err(|failure| {
            let Failure::Usage(said) = failure else { panic!("{failure:?}") };
            said
        });
        Ok(found?.iter().map(|policy| policy.weights.harm).collect())
    }

    #[test]
    fn built_in_and_own_policies_are_found_by_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[policies.calm]\nweights.harm = 0.9").unwrap();
        assert_eq!(names(&["calm", " lc"], Some(file.path())), Ok(vec![0.9, 0.3]));
        assert!(names(&["calm"], None).unwrap_err().contains("unknown policy \"calm\""));
        let said = names(&["clam"], Some(file.path())).unwrap_err();
        assert!(said.contains("unknown policy \"clam\"") && said.ends_with("in --config: calm"), "{said}");
        writeln!(file, "weights.harms = 1").unwrap();
        assert!(names(&["lc"], Some(file.path())).unwrap_err().contains("harms"));
    }
}
