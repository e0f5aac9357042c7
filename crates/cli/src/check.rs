//! `aya check-config`: every problem at once, or what is in force.

use std::fmt::Display;
use std::path::Path;

use aya_config::{
    AgentConfig, LogConfig, Origin, Problem, Problems, SchedulerConfig, Setting, SimEngineConfig, load,
    process_env,
};
use aya_observe::logging;
use serde_json::json;

use crate::args::{CheckConfigArgs, Output, Program};
use crate::exit::Failure;
use crate::out;
use crate::table::{Side, Table};
use crate::text::Style;

pub(crate) fn config(args: &CheckConfigArgs) -> Result<(), Failure> {
    let (program, checked) = match args.program {
        Some(program) => (program, check(program, &args.file)),
        None => guess(&args.file),
    };
    let settings = checked.map_err(|problems| {
        let stranger = args.program.is_none() && problems.0.iter().any(Problem::is_unknown_key);
        let hint = format!("\n(checked for aya {}; --program names another)", name(program));
        Failure::Usage(format!("{problems}{}", if stranger { hint.as_str() } else { "" }))
    })?;
    out::say(&match args.output {
        Output::Table => table(&args.file, program, &settings, Style { colour: out::colour() }),
        Output::Json => serde_json::to_string_pretty(&listed(program, &settings))?,
    });
    Ok(())
}

type Checked = Result<Vec<Setting>, Problems>;

/// The file belongs to the program that knows most of its keys and has the least to object to; a scheduler's, if
/// several are content.
fn guess(file: &Path) -> (Program, Checked) {
    let objections = |checked: &Checked| {
        let problems = checked.as_ref().map_or_else(|problems| problems.0.as_slice(), |_| &[]);
        (problems.iter().filter(|problem| problem.is_unknown_key()).count(), problems.len())
    };
    let all = [Program::Agent, Program::SimEngine].map(|program| (program, check(program, file)));
    let first = (Program::Scheduler, check(Program::Scheduler, file));
    all.into_iter()
        .fold(first, |best, next| if objections(&next.1) < objections(&best.1) { next } else { best })
}

fn check(program: Program, file: &Path) -> Checked {
    match program {
        Program::Scheduler => {
            let config: SchedulerConfig = load(Some(file), process_env(), &[])?;
            let policy = aya_placement::Policy::named(config.placement.policy.as_str());
            told(config.effective(), "placement.policy", policy)?;
            with_log(config.effective(), &config.log)
        }
        Program::Agent => {
            let config: AgentConfig = load(Some(file), process_env(), &[])?;
            with_log(config.effective(), &config.log)
        }
        Program::SimEngine => {
            let config: SimEngineConfig = load(Some(file), process_env(), &[])?;
            with_log(config.effective(), &config.log)
        }
    }
}

/// Only the log itself knows what a filter may be.
fn with_log(settings: &[Setting], log: &LogConfig) -> Checked {
    told(settings, "log.filter", logging::check_filter(&log.filter))?;
    Ok(settings.to_vec())
}

/// What another crate thinks of a setting, as a problem with its place.
fn told<T, E: Display>(settings: &[Setting], key: &str, checked: Result<T, E>) -> Result<T, Problems> {
    checked.map_err(|error| {
        let origin = settings.iter().find(|s| s.key == key).map_or(Origin::Default, |s| s.origin.clone());
        Problems(vec![Problem { origin, key: key.to_owned(), message: error.to_string() }])
    })
}

const fn name(program: Program) -> &'static str {
    match program {
        Program::Scheduler => "scheduler",
        Program::Agent => "agent",
        Program::SimEngine => "sim-engine",
    }
}

fn table(file: &Path, program: Program, settings: &[Setting], style: Style) -> String {
    let mut table = Table::new(&[("KEY", Side::Left), ("VALUE", Side::Left), ("FROM", Side::Left)]);
    for setting in settings {
        table.row(&[setting.key.clone(), setting.value.clone(), setting.origin.to_string()]);
    }
    let head = style.strong(&format!("{}: ok for aya {}", file.display(), name(program)));
    format!("{head}\n\n{}", table.lines().join("\n"))
}

fn listed(program: Program, settings: &[Setting]) -> serde_json::Value {
    let settings: Vec<_> = settings
        .iter()
        .map(|s| json!({"key": s.key, "value": s.value, "source": s.origin.to_string()}))
        .collect();
    json!({"program": name(program), "settings": settings})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(text: &str) -> (Program, Result<usize, String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let (program, checked) = guess(&path);
        let cut = |p: Problems| p.to_string().replace(&format!("{}/", dir.path().display()), "");
        (program, checked.map(|settings| settings.len()).map_err(cut))
    }

    #[test]
    fn the_keys_of_a_file_tell_whose_it_is() {
        for (text, program) in [
            ("", Program::Scheduler),
            ("[queue]\ncapacity = 1", Program::Scheduler),
            ("schedulers = [\"http://s:8082\"]", Program::Agent),
            ("schedulers = [\"http://s:8082\"]\n[gpu]\nsuorce = 1", Program::Agent),
            ("profile = \"l4-8b\"\ntime_scale = 2", Program::SimEngine),
            (
                "schedulers = [\"s\", \"t\"]\n[[engine]]\nkind = \"vlm\"\n[[engine]]\nkind = \"vllm\"",
                Program::Agent,
            ),
        ] {
            assert_eq!(check_file(text).0, program, "{text}");
        }
    }

    #[test]
    fn a_policy_that_does_not_exist_is_a_problem_of_the_file() {
        let problem = check_file("[placement]\npolicy = \"best\"").1.unwrap_err();
        assert!(problem.starts_with("c.toml:2: placement.policy: "), "{problem}");
    }

    #[test]
    fn a_filter_that_the_log_refuses_is_a_problem_of_the_file() {
        let problem = check_file("[log]\nfilter = \"aya=loud\"").1.unwrap_err();
        assert!(problem.starts_with("c.toml:2: log.filter: bad log filter: "), "{problem}");
    }
}
