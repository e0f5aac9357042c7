//! Any text as a configuration of every program: taken whole, or refused with the place of every problem.

use std::fmt::Debug;

use aya_config::{AgentConfig, Config, SchedulerConfig, Setting, SimEngineConfig, parse};

pub(crate) const WORDS: &[&str] = &[
    "listen = ",
    "\"127.0.0.1:0\"",
    "[limits]\n",
    "[timeouts]\n",
    "total = \"1s\"\n",
    "ttft = \"-1s\"\n",
    "= 1e999\n",
    "\"99999999999999999999d\"",
    "\"1EiB\"",
    "[[tenant]]\n",
    "[[health.rule]]\n",
    "[[engine]]\n",
    "name = \"\\u0000\"\n",
    "threads = 0\n",
    "[policies.x]\n",
    "base = \"x\"\n",
    "a.b.c = 1\n",
    "#",
    "'''",
    "\"\"\"",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "true",
    "nan",
    "inf",
    "1979-05-27",
    "\u{feff}",
    "weight = -1\n",
];

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Keys name files that would be read: a fuzzer must not open what it made up.
    if text.contains("_file") {
        return;
    }
    read(text, |config: &SchedulerConfig| config.effective().to_vec());
    read(text, |config: &AgentConfig| config.effective().to_vec());
    read(text, |config: &SimEngineConfig| config.effective().to_vec());
}

fn read<C: Config + Debug>(text: &str, effective: impl Fn(&C) -> Vec<Setting>) {
    let none = std::iter::empty::<(String, String)>;
    match parse::<C>("it.toml", text, none(), &[]) {
        Ok(config) => {
            let settings = effective(&config);
            assert!(!settings.is_empty(), "a configuration without a setting");
            let again = parse::<C>("it.toml", text, none(), &[]).unwrap();
            assert_eq!(effective(&again), settings, "the same text, read otherwise");
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason");
            for problem in &problems.0 {
                assert!(!problem.message.is_empty() && !problem.to_string().contains('\0'), "{problem:?}");
            }
        }
    }
}
