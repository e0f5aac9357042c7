//! What operators may say about health rules, and what they are told about mistakes.

use super::*;
use crate::{Problems, SchedulerConfig, parse};

fn scheduler(text: &str) -> Result<SchedulerConfig, Problems> {
    parse("file.toml", text, [], &[])
}

#[track_caller]
fn refused(text: &str, expect: &str) {
    let problems = scheduler(text).unwrap_err();
    let told: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|line| line.contains(expect)), "{expect:?} is not in {told:?}");
}

#[test]
fn nothing_said_is_the_built_in_table() {
    assert_eq!(scheduler("").unwrap().health, Rules::by_default());
}

#[test]
fn rules_are_turned_off_and_changed_and_xids_are_added() {
    let text = "\
[health]
brake_share = 0.5
probation = \"5s\"

[[health.rule]]
name = \"thermal_margin\"
action = \"off\"

[[health.rule]]
name = \"hw_thermal\"
after = \"5s\"

[[health.rule]]
name = \"sw_thermal\"
action = \"derate\"
speed = 0.6

[[health.xid]]
code = 31
action = \"cordon\"
repeats = 2
";
    let rules = scheduler(text).unwrap().health;
    assert_eq!((rules.brake_share, rules.probation), (Ratio::clamped(0.5), Duration::from_secs(5)));
    assert_eq!(rules.of(Rule::ThermalMargin).action, None);
    let hot = rules.of(Rule::HwThermal);
    assert_eq!((hot.action, hot.after), (Some(Action::Drain), Duration::from_secs(5)));
    assert_eq!(rules.of(Rule::SwThermal).action, Some(Action::Derate(Ratio::clamped(0.6))));
    assert_eq!(rules.of_xid(31), XidRule { action: Action::Cordon, repeats: 2, several_gpus_only: false });
    assert_eq!(rules.of_xid(79), Rules::by_default().of_xid(79));
}

#[test]
fn mistakes_name_their_key() {
    refused(
        "[[health.rule]]\nname = \"hot\"",
        "health.rule[0].name: \"hot\": it is no health rule; known: xid, ecc_",
    );
    refused("[[health.rule]]\naction = \"off\"", "health.rule[0].name: is required");
    refused(
        "[[health.rule]]\nname = \"xid\"\naction = \"shoot\"",
        "health.rule[0].action: \"shoot\" is not one of",
    );
    refused(
        "[[health.xid]]\ncode = 31\naction = \"off\"",
        "health.xid[0].action: \"off\" is not one of note",
    );
    refused("[health]\nbrake_share = 2.0", "health.brake_share: 2 is out of range");
    refused("[[health.xid]]\naction = \"note\"", "health.xid[0].code: is required");
    let twice = "[[health.xid]]\ncode = 31\n[[health.xid]]\ncode = 31";
    refused(twice, "health.xid[1].code: 31 is set already");
    refused("[health]\nbrake = 1", "health.brake: unknown key");
}
